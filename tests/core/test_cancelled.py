"""An upload that a person cancels: the program is told, the bytes stay, and a retry looks for what had arrived."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from memory import MemoryBackend
from memory import mounted as in_memory
from steps import a_while, save, states, waiting

from labfs.errors import NotFound, Withdrawn

Clock = trio.testing.MockClock


async def test_a_cancelled_upload_stays_in_the_outbox_until_it_is_asked_for(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(latency_s=30.0)
    async with in_memory(tmp_path, backend) as (vfs, box):
        with pytest.raises(NotFound, match="No upload of"):
            vfs.saves.cancel("/memory/box/f")
        failed = []

        async def write() -> None:
            try:
                await save(vfs, box, "f", b"mine")
            except Withdrawn as error:
                failed.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while not backend.calls["upload"]:  # noqa: ASYNC110
                await trio.sleep(1)
            assert vfs.saves.cancel("/memory/box/f") == "/memory/box/f"
        assert len(failed) == 1
        await a_while()
        assert (backend.newest(), states(tmp_path)) == ({}, ["failed"])
        assert "cancelled" in (vfs.reasons.of("/memory/box/f") or "")
        (kept,) = vfs.saves.waiting.leftovers()
        assert kept.note.died, "what was sent of it may still be carried out"
        vfs.outbox.retry(kept.file.stem)
        await a_while()
        assert (backend.newest(), states(tmp_path)) == ({"f": b"mine"}, [])


async def test_a_save_that_waits_is_held_by_its_path_or_name(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with in_memory(tmp_path, backend) as (vfs, box):
        for name in ("f", "g"):
            await waiting(vfs, box, backend, name, b"mine")
        (kept,) = [left for left in vfs.saves.waiting.leftovers() if left.note.path.endswith("/g")]
        assert vfs.saves.cancel("/memory/box/f") == "/memory/box/f"
        assert vfs.saves.cancel(kept.file.stem) == "/memory/box/g"
        await a_while()
        assert (backend.newest(), states(tmp_path)) == ({}, ["failed", "failed"])
