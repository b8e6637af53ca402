"""A name is found in either Unicode form, and in another case where that is wanted, if exactly one file fits."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import SYSTEMS, MemoryBackend, mounted
from steps import contents, save

from labfs.errors import Exists, NotFound
from labfs.tree.names import other_spelling

Clock = trio.testing.MockClock
ONE, TWO = (unicodedata.normalize(form, "Pr\u00fcfung \u00e9.txt") for form in ("NFC", "NFD"))


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend(capabilities=SYSTEMS["in place"])


@pytest.mark.parametrize(("there", "typed"), [(ONE, TWO), (TWO, ONE)])
async def test_a_file_is_the_same_in_either_form(
    there: str, typed: str, tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend
) -> None:
    backend.put(there, b"old")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        assert await contents(vfs, f"/memory/box/{typed}") == b"old"
        assert [node.name for node in await vfs.listing(box)] == [there], "as the server spells it"  # type: ignore[arg-type]
        await save(vfs, box, typed, b"new")
        assert backend.newest() == {there: b"new"}, "not a second one that looks the same"
        with pytest.raises(Exists):
            await vfs.mkdir(box, typed)  # type: ignore[arg-type]
        await save(vfs, box, "draft", b"newer")
        await vfs.rename(box, "draft", box, typed)  # type: ignore[arg-type]
        assert backend.newest() == {there: b"newer"}
        await vfs.rename(box, typed, box, "other")  # type: ignore[arg-type]
        assert backend.newest() == {"other": b"newer"}
        await vfs.rename(box, "other", box, there)  # type: ignore[arg-type]
        await vfs.unlink(box, typed)  # type: ignore[arg-type]
        assert backend.newest() == {}
        with pytest.raises(NotFound):
            await vfs.lookup(box, typed)


async def test_a_file_can_be_given_the_other_form(
    tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend
) -> None:
    backend.put(ONE, b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        await vfs.rename(box, ONE, box, TWO)  # type: ignore[arg-type]
    assert list(backend.newest()) == [TWO]


async def test_two_files_of_one_name_are_told_apart(
    tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend
) -> None:
    backend.put(ONE, b"one")
    backend.put(TWO, b"two")
    async with mounted(tmp_path, backend) as (vfs, _):
        assert await contents(vfs, f"/memory/box/{ONE}") == b"one"
        assert await contents(vfs, f"/memory/box/{TWO}") == b"two"


@pytest.mark.parametrize("any_case", [True, False])
async def test_another_case_is_found_where_that_is_wanted(
    any_case: bool, tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend
) -> None:
    backend.put("Stra\u00dfe.TXT", b"street")
    backend.put("a", b"small")
    backend.put("A", b"large")
    async with mounted(tmp_path, backend, any_case=any_case) as (vfs, _):
        assert await contents(vfs, "/memory/box/a") == b"small"
        if any_case:
            assert await contents(vfs, "/memory/box/STRASSE.txt") == b"street"
        else:
            with pytest.raises(NotFound):
                await vfs.resolve("/memory/box/stra\u00dfe.txt")


@pytest.mark.parametrize(
    ("name", "others", "any_case", "found"),
    [
        ("a", ["A"], False, None),
        ("a", ["A"], True, "A"),
        ("a", ["A", "a\u0301"], True, "A"),
        ("\u00c9", ["e\u0301"], True, "e\u0301"),
        ("\u00c9", ["e\u0301"], False, None),
        ("\u00e9", ["e\u0301", "\u00e9\u0301"], False, "e\u0301"),
        ("ab", ["AB", "aB"], True, None),
        ("\ufb01", ["fi"], False, None),
    ],
)
def test_only_one_may_fit(name: str, others: list[Any], any_case: bool, found: str | None) -> None:
    assert other_spelling(name, others, any_case=any_case) == found
