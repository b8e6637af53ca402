"""Directories whose contents come with their parent's listing, with room for so many files; names that move."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import RULES, MemoryBackend, opened

from labfs.backend import (
    Accept,
    Capabilities,
    Entry,
    Replace,
    Takes,
    takes,
)
from labfs.errors import CrossDevice, Exists, NameTooLong, NotPermitted, ReadOnly, TooLarge
from labfs.tree.layout import DEEPEST, fold
from labfs.tree.node import Node
from labfs.tree.remembered.seen import Seen
from labfs.vfs.vfs import Vfs

Clock = trio.testing.MockClock
IN_PLACE = replace(RULES, replace=Replace.IN_PLACE)
FILES = takes(Accept.FILE)


def drawer(name: str, inside: str | None = None, **more: Any) -> Entry:
    return Entry(id=f"drawers/{name}", name=name, is_dir=True, inside=inside, complete=True, label=name, **more)


async def save(vfs: Vfs, parent: Node, name: str, data: bytes) -> None:
    handle = await vfs.files.create(parent, name, truncate=True)
    try:
        await vfs.files.write(handle, 0, data)
        await vfs.files.flush(handle, shared=False)
    finally:
        await vfs.files.release(handle)


async def names(vfs: Vfs, path: str) -> list[str]:
    return sorted(node.name for node in await vfs.listing(await vfs.resolve(path)))


async def test_one_listing_fills_every_directory_below(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(page_size=1000)
    backend.more = [drawer("slot", "drawers/record", takes=FILES), drawer("record"), drawer("empty")]
    backend.put("top", b"1")
    backend.put("f", b"2", inside="drawers/slot")
    backend.put("g", b"3", ("a", "b"), inside="drawers/slot")
    async with opened(tmp_path, backend) as (vfs, _):
        assert await names(vfs, "/memory/box") == ["empty", "record", "top"]
        assert await names(vfs, "/memory/box/record") == ["slot"]
        assert await names(vfs, "/memory/box/record/slot") == ["a", "f"]
        assert await names(vfs, "/memory/box/record/slot/a/b") == ["g"]
        assert await names(vfs, "/memory/box/empty") == []
        assert backend.calls["page"] == 2, "the site, and the box with all that is in it"
        vfs.refresh(await vfs.resolve("/memory/box/record/slot"))
        assert await names(vfs, "/memory/box/empty") == []
        assert backend.calls["page"] == 3, "what is listed along is renewed with its listing"


async def test_a_save_goes_to_the_directory_that_the_server_knows(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(page_size=1000)
    backend.more = [drawer("record"), drawer("slot", "drawers/record", takes=FILES)]
    async with opened(tmp_path, backend) as (vfs, _):
        slot = await vfs.resolve("/memory/box/record/slot")
        await save(vfs, slot, "f", b"mine")
        assert [entry.inside for entry, _ in backend.files.values()] == ["drawers/slot"]
        await trio.sleep(100)
        assert await names(vfs, "/memory/box/record/slot") == ["f"]
        with pytest.raises(ReadOnly):
            await save(vfs, await vfs.resolve("/memory/box/record"), "f", b"x")


async def test_a_place_for_one_file_takes_one_and_can_be_saved_over(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=IN_PLACE, page_size=1000)
    backend.more = [drawer("slot", takes=Takes(FILES.kinds, room=1))]
    async with opened(tmp_path, backend) as (vfs, _):
        slot = await vfs.resolve("/memory/box/slot")
        await save(vfs, slot, "f", b"one")
        with pytest.raises(Exists, match="“f” is there"):
            await save(vfs, slot, "g", b"two")
        await save(vfs, slot, "f", b"three")
        # An editor writes beside it and renames.
        await save(vfs, slot, ".f.swp", b"swap")
        await save(vfs, slot, "f~", b"four")
        await vfs.rename(slot, "f~", slot, "f")
        assert backend.newest() == {"f": b"four"}
        assert len(backend.files) == 1


def test_nothing_that_claims_an_impossible_place_is_lost_or_hangs() -> None:
    loop = [drawer("a", "drawers/b"), drawer("b", "drawers/a"), drawer("self", "drawers/self")]
    orphan = Entry(id="files/1", name="orphan", is_dir=False, inside="drawers/nowhere")
    chain = [drawer(f"d{index}", f"drawers/d{index - 1}" if index else None) for index in range(3 * DEEPEST)]
    layout = fold([*loop, orphan, *chain], Seen().of("site"), keeps_versions=False)
    assert "orphan" in layout.entries
    assert "d0" in layout.entries
    depth = 0
    while layout.complete:
        (inner,) = [layout.complete[name] for name in layout.complete if name.startswith("d")]
        layout, depth = inner, depth + 1
    assert DEEPEST <= depth <= DEEPEST + 2


def test_twins_among_directories_keep_their_own_files() -> None:
    twins = [replace(drawer("x"), name="Same", age=1), replace(drawer("y"), name="Same", age=2)]
    files = [Entry(id=f"f{n}", name="f", is_dir=False, inside=f"drawers/{n}") for n in "xy"]
    layout = fold([*files, *twins], Seen().of("site"), keeps_versions=True)
    assert set(layout.entries) == {"Same", "Same [y]"}
    assert layout.complete["Same"].entries["f"].id == "fx"
    assert layout.complete["Same [y]"].entries["f"].id == "fy"


async def test_a_rename_is_one_where_the_system_has_it(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=replace(IN_PLACE, renames=True, deletable=True))
    backend.put("f", b"1")
    backend.put("g", b"2")
    async with opened(tmp_path, backend) as (vfs, box):
        await vfs.rename(box, "f", box, "h")
        assert backend.newest() == {"h": b"1", "g": b"2"}
        with pytest.raises(NotPermitted, match="Deleting is off"):
            await vfs.rename(box, "h", box, "g")
        assert backend.newest() == {"h": b"1", "g": b"2"}
    async with opened(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.rename(box, "h", box, "g")
        assert backend.newest() == {"g": b"1"}
        assert await names(vfs, "/memory/box") == ["g"]
        backend.faults["rename"] = [CrossDevice("There is no moving here.")]
        with pytest.raises(CrossDevice):
            await vfs.rename(box, "g", box, "x")
        assert await names(vfs, "/memory/box") == ["g"]


async def test_too_much_is_refused_before_a_byte_is_sent_and_half_of_it_is_never_saved(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(capabilities=replace(RULES, whole=100, parts=None, longest_name=20))
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"x" * 100)
        with pytest.raises(TooLarge, match="100 bytes at most"):
            await vfs.files.write(handle, 100, b"y")
        with pytest.raises(TooLarge):
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.calls["upload"] == 0
        assert len(list((tmp_path / "spool").glob("*.data"))) == 1, "what was written is kept"
        with pytest.raises(NameTooLong):
            await vfs.files.create(box, "x" * 21)
        handle = await vfs.files.create(box, "g")
        await vfs.files.write(handle, 0, b"abc")
        with pytest.raises(TooLarge):
            await vfs.files.write(handle, 98, b"yyyy")
        await vfs.files.truncate(handle.node, 3)  # the program gave it up, and knows it
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"g": b"abc"}


async def test_a_file_that_may_not_be_changed_is_refused_among_those_that_may(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(capabilities=replace(IN_PLACE, deletable=True))
    entry = backend.put("signed", b"1")
    backend.files[int(entry.label)] = (replace(entry, read_only="It is signed."), b"1")
    backend.put("plain", b"2")
    async with opened(tmp_path, backend, may_delete=True) as (vfs, box):
        signed = await vfs.resolve("/memory/box/signed")
        assert not vfs.attributes(signed).writable
        with pytest.raises(ReadOnly, match="signed"):
            await vfs.files.open(signed, read=True, write=True)
        with pytest.raises(NotPermitted, match="signed"):
            await vfs.unlink(box, "signed")
        await vfs.unlink(box, "plain")
        assert backend.newest() == {"signed": b"1"}


async def test_a_length_that_is_refused_does_not_leave_the_file_empty(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=replace(IN_PLACE, whole=100, parts=None))
    backend.put("f", b"precious")
    async with opened(tmp_path, backend) as (vfs, _):
        handle = await vfs.files.open(await vfs.resolve("/memory/box/f"), read=False, write=True, truncate=True)
        with pytest.raises(TooLarge):
            await vfs.files.resize(handle.node, 1000)  # as `cp` of a sparse file does
        with pytest.raises(TooLarge):
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"precious"}


@pytest.mark.parametrize("system", [IN_PLACE, RULES])
async def test_a_length_that_is_refused_by_name_is_told_once_and_leaves_nothing(
    system: Capabilities, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(capabilities=replace(system, whole=100, parts=None))
    backend.put("f", b"precious")
    async with opened(tmp_path, backend) as (vfs, _):
        node = await vfs.resolve("/memory/box/f")
        with pytest.raises(TooLarge):
            await vfs.files.truncate(node, 1000)
        assert not list((tmp_path / "spool").glob("*.data")), "nothing was written that could wait to be saved"
        await vfs.files.truncate(node, 3)
        assert backend.newest() == {"f": b"pre"}


@pytest.mark.parametrize("rule", list(Replace))
async def test_a_backup_and_a_new_file_are_one_save(rule: Replace, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=replace(RULES, replace=rule, deletable=True))
    backend.put("f", b"old")
    async with opened(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.rename(box, "f", box, "f~")  # as vim does
        if rule is Replace.NEVER:
            with pytest.raises(NotPermitted):
                await save(vfs, box, "f", b"new")
            await vfs.rename(box, "f~", box, "f")
            assert backend.newest() == {"f": b"old"}
            return
        await save(vfs, box, "f", b"new")
        assert backend.newest() == {"f": b"new"}
        assert len(backend.files) == (2 if rule is Replace.NEWER else 1), "the older version, or nothing else"
        backup = await vfs.files.open(await vfs.resolve("/memory/box/f~"), read=True, write=False)
        assert bytes(await vfs.files.read(backup, 0, 100)) == b"old", "a backup is what it says"
        await vfs.files.release(backup)
        await vfs.unlink(box, "f~")
        await trio.sleep(100)
        assert await names(vfs, "/memory/box") == ["f"]
        assert backend.calls["upload"] == 1
