"""The life of a save: what comes too late, goes back, or is opened anew meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from memory import MemoryBackend, mounted
from steps import a_while, disk_full, states, waiting

Clock = trio.testing.MockClock


async def test_going_back_to_what_an_older_version_held_is_a_save(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"a")
    backend.put("f", b"b")
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"a")
        await a_while()
        assert backend.newest() == {"f": b"a"}
        assert states(tmp_path) == []


async def test_opening_a_file_anew_while_its_save_ends_is_no_error(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(latency_s=1.0)
    async with mounted(tmp_path, backend) as (vfs, box):
        first = await vfs.files.create(box, "f")
        await vfs.files.write(first, 0, b"first")
        writer = first.node.writer
        assert writer is not None
        separate, go_on = writer._separate, trio.Event()

        async def slowly() -> None:
            await go_on.wait()
            await separate()

        async def close() -> None:
            await vfs.files.flush(first, shared=False)
            await vfs.files.release(first)
            go_on.set()

        writer._separate = slowly  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            await trio.sleep(0.5)
            second = await vfs.files.open(first.node, read=False, write=True, truncate=True)
        await vfs.files.write(second, 0, b"2")
        await vfs.files.flush(second, shared=False)
        await vfs.files.release(second)
        assert backend.newest() == {"f": b"2"}
        assert states(tmp_path) == []


async def test_a_full_disk_after_the_server_has_it_is_no_failure(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        await vfs.listing(box)
        await waiting(vfs, box, backend, "f", b"first")
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"second")
        disk_full(monkeypatch, until=lambda: not backend.files)
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"second"}
        assert [node.name for node in await vfs.listing(box)] == ["f"]


async def test_an_end_that_comes_too_late_still_writes_down_what_waits(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"mine")
        await vfs.saves.finish(-0.5)
        assert states(tmp_path) == ["failed"]
