"""What is fetched is on this machine's disk, also after a remount and among much else that is read, if it is pinned."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from memory import SYSTEMS, MemoryBackend, mounted
from trio.testing import MockClock as Clock

from labfs.errors import Unavailable
from labfs.read.below import shelf
from labfs.read.window import BLOCK
from labfs.tree.node import Node
from labfs.vfs import Vfs
from labfs.vfs.remote.fetching import Fetched, fetch


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written to the disk but what is waited for."""
    monkeypatch.setattr(shelf.Processors, "have_time", lambda self: False)


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def fetched(vfs: Vfs, node: Node, *, pin: bool = False) -> list[Fetched]:
    return [step async for step in fetch(vfs.tree, vfs.files.sources, node, pin=pin) if step.done]


async def contents(vfs: Vfs, path: str) -> bytes:
    handle = await vfs.files.open(await vfs.resolve(path), read=True, write=False)
    try:
        return bytes(await vfs.files.read(handle, 0, 1 << 30))
    finally:
        await vfs.files.release(handle)


async def test_what_was_fetched_is_read_from_the_disk(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, data = MemoryBackend(), [noise(3 * BLOCK + 7, 1), noise(10, 2)]
    backend.put("large", data[0])
    backend.put("small", data[1])
    backend.put("empty", b"")
    async with mounted(tmp_path, backend, memory=1 << 27) as (vfs, box):
        done = await fetched(vfs, box)
        assert sorted((step.path, step.bytes, step.error) for step in done) == [
            ("/memory/box/empty", 0, None), ("/memory/box/large", len(data[0]), None), ("/memory/box/small", 10, None),
        ]  # fmt: skip
        sent = backend.sent
        assert sent == len(data[0]) + 10
        await fetched(vfs, box)
        assert backend.sent == sent, "nothing is fetched twice"
    async with mounted(tmp_path, backend, memory=1 << 27) as (vfs, _):
        assert [await contents(vfs, f"/memory/box/{name}") for name in ("large", "small")] == data
    assert backend.sent == sent


async def test_whole_files_are_fetched_as_copies(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=SYSTEMS["whole"])
    backend.put("f", noise(2_000_000, 1))
    async with mounted(tmp_path, backend, memory=1 << 27) as (vfs, box):
        assert [step.error for step in await fetched(vfs, box)] == [None]
        poured = backend.calls["pour"]
        assert await contents(vfs, "/memory/box/f") == noise(2_000_000, 1)
        assert backend.calls["pour"] == poured == 1
        (step,) = await fetched(vfs, box, pin=True)
        assert "unpinned" in str(step.error)


async def test_what_is_pinned_outlives_much_else(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    for number in range(6):
        backend.put(f"f{number}", noise(2 * BLOCK, number))
    room = 7 * (BLOCK + 16)
    async with mounted(tmp_path, backend, capacity=room) as (vfs, box):
        assert [step.error for step in await fetched(vfs, await vfs.lookup(box, "f0"), pin=True)] == [None]  # type: ignore[arg-type]
        for number in range(1, 6):
            await fetched(vfs, await vfs.lookup(box, f"f{number}"))  # type: ignore[arg-type]
        assert vfs.store.shelf.size <= room
    async with mounted(tmp_path, backend, capacity=room) as (vfs, box):
        sent = backend.sent
        assert await contents(vfs, "/memory/box/f0") == noise(2 * BLOCK, 0)
        assert backend.sent == sent, "it is still there"
        await fetched(vfs, await vfs.lookup(box, "f1"), pin=True)  # type: ignore[arg-type]
        await fetched(vfs, await vfs.lookup(box, "f2"), pin=True)  # type: ignore[arg-type]
        (step,) = await fetched(vfs, await vfs.lookup(box, "f3"), pin=True)  # type: ignore[arg-type]
        assert "pinned" in str(step.error), "there is no room for more"
        assert [vfs.store.shelf.unpin(path) for path in ("/memory/box/f", "/memory/box/f0", "/memory/box/f0")] == [
            0,
            1,
            0,
        ]
        (step,) = await fetched(vfs, await vfs.lookup(box, "f4"), pin=False)  # type: ignore[arg-type]
        assert step.error is None
        assert vfs.store.shelf.size <= room


async def test_a_newer_version_is_pinned_in_place_of_the_older(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    for seed in (1, 2):
        backend.put("f", noise(2 * BLOCK, seed))
        async with mounted(tmp_path, backend, memory=1 << 27, capacity=3 * (BLOCK + 16)) as (vfs, box):
            assert [step.error for step in await fetched(vfs, box, pin=True)] == [None], "the older one makes room"
    async with mounted(tmp_path, backend, memory=1 << 27) as (vfs, _):
        sent = backend.sent
        assert await contents(vfs, "/memory/box/f") == noise(2 * BLOCK, 2)
        assert backend.sent == sent
        assert vfs.store.shelf.unpin("/memory") == 1, "of the older version nothing is pinned"


async def test_a_file_that_fails_stops_no_other(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    for number in range(3):
        backend.put(f"f{number}", noise(1000, number))
    async with mounted(tmp_path, backend, memory=1 << 27) as (vfs, box):
        await vfs.listing(box)  # type: ignore[arg-type]
        backend.faults["read"] = [Unavailable("away")]
        done = await fetched(vfs, box)
        assert [step.error is None for step in done] == [False, True, True]
        assert [step.error for step in await fetched(vfs, box)] == [None] * 3
