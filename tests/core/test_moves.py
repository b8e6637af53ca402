"""Removing and renaming while saves are under way: one name, one file, and nothing lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from memory import SYSTEMS, MemoryBackend, mounted
from steps import IN_PLACE, Renaming, a_while, states

from labfs.errors import Denied, LabfsError

Clock = trio.testing.MockClock


async def test_a_file_that_is_renamed_while_it_is_written_is_saved_under_its_new_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = Renaming(capabilities=replace(IN_PLACE, renames=True))
    backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f", truncate=True)
        await vfs.files.write(handle, 0, b"new")
        await vfs.rename(box, "f", box, "g")
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"g": b"new"}
        assert [node.name for node in await vfs.listing(box)] == ["g"]


async def test_a_new_file_that_is_renamed_while_its_save_begins_has_one_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    for turns in range(6):
        backend = MemoryBackend()
        async with mounted(tmp_path / str(turns), backend) as (vfs, box):
            handle = await vfs.files.create(box, "f")
            await vfs.files.write(handle, 0, b"new")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda h=handle: vfs.files.flush(h, shared=False))
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                try:
                    await vfs.rename(box, "f", box, "g")
                except LabfsError:
                    name = "f"
                else:
                    name = "g"
            await vfs.files.release(handle)
            assert backend.newest() == {name: b"new"}


async def test_a_crash_while_a_temporary_file_replaces_another_loses_nothing(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    backend.put("f.txt", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, ".f.txt.swp")
        assert handle.node.stays_here
        await vfs.files.write(handle, 0, b"new")
        await vfs.files.release(handle)
        backend.latency_s = 1.0
        with trio.move_on_after(0.5):
            monkey = vfs.saves.relabel
            # A crash writes no more notes.
            vfs.saves.relabel = lambda node, **news: None if news else monkey(node)  # type: ignore[method-assign]
            await vfs.rename(box, ".f.txt.swp", box, "f.txt")
    backend.latency_s = 0.01
    assert backend.newest() == {"f.txt": b"old"}
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {"f.txt": b"new"}
    assert states(tmp_path) == []


async def test_a_file_whose_save_begins_while_it_is_renamed_gets_its_new_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(SYSTEMS["in place"], latency_s=1.0)
    backend.more = [replace(backend.box, id="box 2", name="other")]
    async with mounted(tmp_path, backend) as (vfs, box):
        other = await vfs.lookup(box, "other")
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"mine")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.rename, box, "f", other, "g")
            await trio.sleep(0.5)
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert set(backend.newest()) == {"g"}


async def test_a_temporary_file_that_grew_after_its_rename_failed_is_kept_whole(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, ".goutputstream-AAAAAA")
        await vfs.files.write(handle, 0, b"mine")
        await vfs.files.release(handle)
        backend.faults["upload"] = [Denied("no")]
        with pytest.raises(Denied):
            await vfs.rename(box, ".goutputstream-AAAAAA", box, "f")
        handle = await vfs.files.open(box.children[".goutputstream-AAAAAA"], read=True, write=True)
        await vfs.files.write(handle, 4, b" and more")
        await vfs.files.release(handle)
    async with mounted(tmp_path, backend) as (vfs, box):
        assert vfs.outbox.retry(None) == 1
        await a_while()
        assert backend.newest() == {"f": b"mine and more"}
