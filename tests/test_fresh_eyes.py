"""Faults that a second reading found: each test is one of them."""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from memory import SYSTEMS, MemoryBackend
from test_outbox import IN_PLACE, a_while, mounted, save, states
from test_review import waiting

from labfs import holders
from labfs.errors import Busy, Denied, LabfsError

Clock = trio.testing.MockClock


async def test_an_end_that_comes_too_late_still_writes_down_what_waits(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"mine")
        await vfs.files.finish(-0.5)
        assert states(tmp_path) == ["failed"]


def test_a_program_whose_name_was_cut_within_a_letter_may_make_files() -> None:
    names: list[str] = []

    def look() -> None:
        ctypes.CDLL(None).prctl(15, "vierzehn Byte ü".encode()[:15], 0, 0, 0)
        names.append(holders.program(threading.get_native_id()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert names == [holders.program(os.getpid())] != [""]


async def _hold(lock: trio.Lock) -> None:
    async with lock:
        await trio.sleep(60)


async def test_a_write_that_came_too_late_is_not_missing_from_what_is_saved(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"____")
        writer = handle.node.writer
        assert writer is not None
        writer._sending = writer.spool
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hold, writer._copy)  # a copy of a large file takes its time
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.TooSlowError), trio.fail_after(17):
                await vfs.files.write(handle, 0, b"mine")
        writer._sending = None
        with pytest.raises(LabfsError):
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {}
        assert states(tmp_path) == ["failed"]


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


async def test_a_save_is_never_sent_to_the_place_of_a_directory(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(IN_PLACE)
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"mine")
        backend.more = [replace(backend.box, id="box f", name="f", label="101")]
        await a_while()
        [note] = vfs.files.spool.leftovers()
        vfs.outbox.retry(Path(note["file"]).stem)
        uploads = backend.calls["upload"]
        await a_while()
        assert backend.calls["upload"] == uploads
        assert "directory" in vfs.files.spool.leftovers()[0]["error"]


async def test_a_save_that_waits_deletes_nothing_where_deleting_is_off(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(SYSTEMS["by delete"])
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"mine")
        backend.put("f", b"theirs")
        await a_while()
        [note] = vfs.files.spool.leftovers()
        vfs.outbox.retry(Path(note["file"]).stem)
        await a_while()
        assert b"theirs" in [data for _, data in backend.files.values()]
        assert "Deleting" in str(vfs.files.spool.leftovers()) or "delete" in str(vfs.files.spool.leftovers())


async def test_sending_again_takes_no_bytes_from_a_file_that_is_still_there(
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
        assert vfs.outbox.retry(None) == 0
        [note] = vfs.files.spool.leftovers()
        with pytest.raises(Busy, match="AAAAAA"):
            vfs.outbox.retry(Path(note["file"]).stem)
        await a_while()
        node = box.children.get(".goutputstream-AAAAAA")
        assert node is not None
        again = await vfs.files.open(node, read=True, write=False)
        assert await vfs.files.read(again, 0, 10) == b"mine"
        await vfs.files.release(again)
        await vfs.unlink(box, node.name)
        assert vfs.outbox.retry(None) == 1
        await a_while()
        assert backend.newest() == {"f": b"mine"}


async def test_what_a_newer_save_overtook_is_only_sent_by_name(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(SYSTEMS["in place"], versionless=True)
    backend.put("f", b"____")
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"mine")
        await save(vfs, box, "f", b"newr")
        assert states(tmp_path) == ["failed"]
        assert vfs.outbox.retry(None) == 0
        await a_while()
        assert backend.newest() == {"f": b"newr"}
        [note] = vfs.files.spool.leftovers()
        assert vfs.outbox.retry(Path(note["file"]).stem) == 1
        await a_while()
        assert backend.newest() == {"f": b"mine"}
