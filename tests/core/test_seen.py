"""Equal names, equal dates and ids that do not grow: a path that was seen stays with what it was seen as."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from memory import RULES, SYSTEMS, MemoryBackend, mounted, opened
from steps import save
from test_windows import shown

from labfs.backend import Entry, Page
from labfs.tree.remembered.seen import Seen

Clock = trio.testing.MockClock

BY_DELETE = SYSTEMS["by delete"]


def entry(number: int, age: int = 0, name: str = "f", *, is_dir: bool = False) -> Entry:
    return Entry(id=f"files/{number}", name=name, is_dir=is_dir, age=age, label=str(number), version="1", size=1)


def test_what_is_seen_together_is_told_apart_by_date_and_then_by_number() -> None:
    seen = Seen()
    things = [entry(9, 5), entry(10, 5), entry(11, 4), entry(8, 6)]
    seen.add("site", things)
    assert [e.label for e in seen.of("site").twins(things)] == ["11", "9", "10", "8"]
    assert [e.label for e in seen.of("site").versions(things)] == ["11", "9", "10", "8"]


def test_what_was_seen_first_keeps_its_place_also_in_the_next_mount(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "seen")
    seen.add("site", [entry(50, 7)])
    seen.add("site", [entry(50, 7), entry(3, 7), entry(4, 1)])
    seen.close()
    again = Seen(tmp_path / "seen")
    assert [e.label for e in again.of("site").twins([entry(3, 7), entry(4, 1), entry(50, 7)])] == ["50", "4", "3"]
    assert [e.label for e in again.of("other").twins([entry(50, 7), entry(3, 7)])] == ["3", "50"], "by site"


def test_a_version_that_was_saved_here_is_newer_than_what_it_was_saved_over(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "seen")
    old, new = entry(50, 8), entry(3, 7)  # their clocks differ
    seen.add("site", [old])
    seen.saved("site", new, old)
    assert seen.of("site").versions([new, old]) == [old, new]
    assert seen.of("site").twins([old, new]) == [new, old], "and it has the place of that"


def test_a_broken_table_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "seen").write_bytes(b"no database" * 1000)
    seen = Seen(tmp_path / "seen")
    seen.add("site", [entry(1)])
    assert seen.of("site").twins([entry(2), entry(1)]) == [entry(1), entry(2)]
    seen._db.close()
    with pytest.raises(sqlite3.Error):
        seen._db.execute("SELECT 1")
    assert seen.of("site").twins([entry(2), entry(1)]) == [entry(1), entry(2)]


async def test_what_another_client_put_there_unseen_gets_a_name_of_its_own(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(capabilities=BY_DELETE)
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.listing(box)
        theirs = backend.put("dup.txt", b"theirs")
        await save(vfs, box, "dup.txt", b"ours")
        expected = {"dup.txt": b"ours", f"dup [{theirs.label}].txt": b"theirs"}
        assert await shown(vfs, box) == expected
        await trio.sleep(100)
        assert await shown(vfs, box) == expected
        ids = [node.entry.id for node in await vfs.listing(box) if node.entry]
        assert len(set(ids)) == 2
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        assert await shown(vfs, box) == expected
        await vfs.unlink(box, f"dup [{theirs.label}].txt")
        assert await shown(vfs, box) == {"dup.txt": b"ours"}


async def test_two_mounts_that_save_over_the_same_name_lose_neither(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=BY_DELETE)
    backend.put("f", b"old")
    async with (
        mounted(tmp_path / "one", backend, may_delete=True) as (one, box_one),
        mounted(tmp_path / "two", backend, may_delete=True) as (two, box_two),
    ):
        await one.listing(box_one)
        await two.listing(box_two)
        await save(one, box_one, "f", b"one")
        await save(two, box_two, "f", b"two")
        for vfs, box in ((one, box_one), (two, box_two)):
            found = await shown(vfs, box)
            assert sorted(found.values()) == [b"one", b"two"]
            assert len({node.entry.id for node in await vfs.listing(box) if node.entry}) == 2
        assert (await shown(two, box_two))["f"] == b"two"


class Lagging(MemoryBackend):
    """A system whose list shows a new file later."""

    unlisted: frozenset[str] = frozenset()

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        page = await super().page(parent, cursor)
        return replace(page, entries=tuple(entry for entry in page.entries if entry.id not in self.unlisted))


async def test_a_save_outlives_a_listing_that_does_not_show_it_yet(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = Lagging(capabilities=BY_DELETE)
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await save(vfs, box, "f", b"ours")
        backend.unlisted = frozenset(entry.id for entry, _ in backend.files.values())
        backend.put("f", b"theirs")
        assert await shown(vfs, box) == {"f": b"ours", "f [102]": b"theirs"}
        backend.unlisted = frozenset()
        assert await shown(vfs, box) == {"f": b"ours", "f [102]": b"theirs"}


@pytest.mark.parametrize("change", ["removed", "renamed"])
async def test_what_was_saved_here_and_is_gone_is_not_shown(change: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=BY_DELETE)
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await save(vfs, box, "f", b"ours")
        ((number, (made, data)),) = backend.files.items()
        backend.files = {} if change == "removed" else {number: (replace(made, name="g"), data)}
        assert await shown(vfs, box) == ({} if change == "removed" else {"g": b"ours"})


async def test_swapped_ids_and_equal_seconds_show_the_last_save(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=RULES)
    async with mounted(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f", b"v1")
        await save(vfs, box, "f", b"v2")
        low, high = sorted(backend.files)
        first, second = backend.files[low], backend.files[high]
        swapped = {
            90: (replace(second[0], id="files/90", label="90", age=7), second[1]),
            95: (replace(first[0], id="files/95", label="95", age=7), first[1]),
        }
        node = await vfs.resolve("/memory/box/f")
        vfs.tree.saved(node, swapped[95][0], None)
        vfs.tree.saved(node, swapped[90][0], swapped[95][0])
        backend.files = swapped
        assert await shown(vfs, box) == {"f": b"v2"}
    async with mounted(tmp_path, backend) as (vfs, box):
        assert await shown(vfs, box) == {"f": b"v2"}


async def test_a_record_keeps_its_path_when_one_of_its_name_and_a_lower_id_turns_up(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(capabilities=RULES)
    backend.more = [entry(50, 7, "Run", is_dir=True)]
    async with opened(tmp_path, backend) as (vfs, box):
        assert (await vfs.lookup(box, "Run")).entry == backend.more[0]
    backend.more.append(entry(40, 7, "Run", is_dir=True))
    async with opened(tmp_path, backend) as (vfs, box):
        assert (await vfs.lookup(box, "Run")).entry == backend.more[0]
        assert (await vfs.lookup(box, "Run [40]")).entry == backend.more[1]


async def test_a_directory_made_here_keeps_its_path(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=RULES)
    async with opened(tmp_path, backend) as (vfs, _):
        site = await vfs.resolve("/memory")
        made = await vfs.mkdir(site, "Run")
        assert made.entry is not None
        assert vfs.tree._seen.rank("memory", made.entry).number < float("inf")
