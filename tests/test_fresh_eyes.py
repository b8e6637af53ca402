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
