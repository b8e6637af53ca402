"""A folder that is read in order is fetched ahead: in virtual time, on a server 40 ms away."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from memory import MIB, RULES, MemoryBackend, MemoryContent, mounted
from trio.testing import MockClock

from labfs.backend import Buffer, Entry, is_dispensable
from labfs.errors import Unavailable
from labfs.read.window import BLOCK, HEAD
from labfs.tree.node import Folder
from labfs.vfs import Vfs
from labfs.vfs.remote import ahead
from labfs.vfs.remote.ahead import AT_ONCE, FILES, GLANCES

FAR_S = 0.04
COUNT = 200
ALONE_S = 2 * FAR_S  # of a file that nothing was fetched of: its address, its bytes


def noise(number: int, size: int = 3000) -> bytes:
    return random.Random(number).randbytes(size)


class Located(MemoryBackend):
    """Files behind addresses, each of which is asked for once; those of `broken` names cannot be read."""

    broken: frozenset[str] = frozenset()
    hasty = False  # whether a read was asked for as something that can be done without

    def content(self, entry: Entry) -> MemoryContent:
        return LocatedContent(self, entry)


class LocatedContent(MemoryContent):
    def __init__(self, backend: MemoryBackend, entry: Entry) -> None:
        super().__init__(backend, entry)
        self._lock, self._located = trio.Lock(), False

    async def prepare(self) -> None:
        async with self._lock:
            if not self._located:
                await super().prepare()
                self._located = True

    async def read(self, start: int, stop: int) -> Buffer:
        self.backend.hasty |= is_dispensable()  # type: ignore[attr-defined]
        if self.entry.name in self.backend.broken:  # type: ignore[attr-defined]
            raise Unavailable("This is away.")
        return await super().read(start, stop)


@asynccontextmanager
async def folder_of(
    path: Path, count: int = COUNT, size: int = 3000, latency_s: float = FAR_S
) -> AsyncIterator[tuple[Located, Vfs, Folder]]:
    backend = Located(page_size=10_000, latency_s=latency_s)
    numbers = list(range(count))
    random.Random(1).shuffle(numbers)  # it is listed in another order than by name
    for number in numbers:
        backend.put(f"{number:04}", noise(number, size))
    async with mounted(path, backend, memory=1 << 27) as (vfs, box):
        assert isinstance(box, Folder)
        await vfs.listing(box)
        backend.calls.clear()
        yield backend, vfs, box


async def read(vfs: Vfs, box: Folder, name: str, until: int = 1 << 40) -> bytes:
    """Read a file as a program does that is alone with it, or only its beginning."""
    handle = await vfs.files.open(box.children[name], read=True, write=False)
    try:
        return bytes(await vfs.files.read(handle, 0, min(until, box.children[name].entry.size or 0)))
    finally:
        await vfs.files.release(handle)


async def read_all(vfs: Vfs, box: Folder, names: Iterable[str]) -> float:
    """Read files one after the other, each whole and right; return how long that took, in seconds."""
    began = trio.current_time()
    for name in names:
        assert await read(vfs, box, name) == noise(int(name), box.children[name].entry.size or 0)
    return trio.current_time() - began


@pytest.mark.parametrize("by_name", [True, False])
async def test_a_folder_read_in_order_costs_each_file_once_and_little_waiting(
    by_name: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with folder_of(tmp_path) as (backend, vfs, box):
        took_s = await read_all(vfs, box, sorted(box.children) if by_name else list(box.children))
        assert took_s < COUNT * ALONE_S / 10
        assert backend.calls == {"prepare": COUNT, "read": COUNT}
        assert backend.most_at_once <= AT_ONCE + 1
        assert not backend.hasty, "whoever opens a file meanwhile waits for this: it may not give up early"


async def test_every_other_file_in_order_is_in_order_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with folder_of(tmp_path) as (_, vfs, box):
        names = sorted(box.children)[::2]
        assert await read_all(vfs, box, names) < len(names) * ALONE_S / 5


@pytest.mark.parametrize("seed", range(5))
async def test_files_out_of_order_fetch_nothing_else(seed: int, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with folder_of(tmp_path) as (backend, vfs, box):
        names = sorted(box.children)[::7]
        random.Random(seed).shuffle(names)
        await read_all(vfs, box, names)
        assert backend.calls["read"] <= len(names) + 8, "of which three may lie in order by chance"


async def test_an_end_of_the_order_ends_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with folder_of(tmp_path) as (backend, vfs, box):
        names = sorted(box.children)
        await read_all(vfs, box, names[:5])
        await trio.sleep(10)
        assert backend.calls["read"] == 5 + FILES, "32 ahead of the fifth"
        backend.calls.clear()
        await read_all(vfs, box, [names[150], names[100]])
        await trio.sleep(10)
        assert backend.calls["read"] == 2


async def test_who_reads_only_beginnings_has_nothing_fetched(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A file manager's previews, an indexer, `file`: 64 KiB of each of many large files."""
    async with folder_of(tmp_path, 30, 2 * MIB, 0.01) as (backend, vfs, box):
        for name in sorted(box.children):
            await read(vfs, box, name, 65536)
        await trio.sleep(10)
        assert backend.calls["read"] == 30


async def test_beginnings_alone_cost_no_file_that_nobody_opened(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with folder_of(tmp_path, 30, 2 * MIB, 0.01) as (backend, vfs, box):
        for name in sorted(box.children)[:5]:
            await read(vfs, box, name, 65536)
        await trio.sleep(10)
        assert backend.calls["read"] == 5


async def test_files_that_a_newer_listing_shows_are_fetched_ahead_as_well(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with folder_of(tmp_path, 10) as (backend, vfs, box):
        await read_all(vfs, box, sorted(box.children))
        for number in range(10, COUNT):
            backend.put(f"{number:04}", noise(number))
        vfs.refresh(box)
        await vfs.listing(box)
        names = sorted(box.children)[10:]
        assert await read_all(vfs, box, names) < len(names) * ALONE_S / 5


async def test_large_files_have_a_first_block_fetched_within_a_budget(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with folder_of(tmp_path, 30, 2 * MIB, 0.01) as (backend, vfs, box):
        await read_all(vfs, box, sorted(box.children)[:3])
        await trio.sleep(10)
        assert backend.calls["read"] == 3 + 8, "few at first"
        await read_all(vfs, box, sorted(box.children)[3:7])
        await trio.sleep(10)
        assert backend.calls["read"] == 3 + 4 * 2 + 16, "and 16 MiB at most"


async def test_a_failure_ahead_is_told_to_nobody_and_tried_again_by_who_opens_the_file(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with folder_of(tmp_path) as (backend, vfs, box):
        names = sorted(box.children)
        await read_all(vfs, box, names[:2])
        backend.broken = frozenset(names[3:40])
        await read(vfs, box, names[2])
        await trio.sleep(10)
        backend.broken = frozenset()
        await read_all(vfs, box, names[3:40])
        assert vfs.reasons.of(f"/memory/box/{names[4]}") is None


async def test_a_file_that_changed_since_it_was_fetched_ahead_is_shown_as_it_is(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with folder_of(tmp_path) as (backend, vfs, box):
        names = sorted(box.children)
        await read_all(vfs, box, names[:3])
        await trio.sleep(10)
        number = next(number for number, (entry, _) in backend.files.items() if entry.name == names[5])
        del backend.files[number]
        backend.put(names[5], b"newer")
        vfs.refresh(box)
        await vfs.listing(box)
        assert await read(vfs, box, names[5]) == b"newer"


async def test_a_folder_that_is_too_large_to_be_put_in_order_is_left_alone(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "LARGEST", 99)
    async with folder_of(tmp_path, 100) as (backend, vfs, box):
        await read_all(vfs, box, sorted(box.children)[:5])
        await trio.sleep(10)
        assert backend.calls["read"] == 5


async def test_systems_without_ranges_are_left_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    backend = MemoryBackend(capabilities=replace(RULES, ranged=False), page_size=10_000)
    for number in range(20):
        backend.put(f"{number:04}", noise(number))
    async with mounted(tmp_path, backend) as (vfs, box):
        assert isinstance(box, Folder)
        await vfs.listing(box)
        await read_all(vfs, box, [f"{number:04}" for number in range(5)])
        await trio.sleep(10)
        assert backend.calls["pour"] == 5


async def test_a_program_that_looks_at_beginnings_gets_no_more_than_these(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """As file managers, indexers and `file` do."""
    count, size = 20, 3 * MIB
    async with folder_of(tmp_path, count, size, 0.01) as (backend, vfs, box):
        for name in sorted(box.children):
            handle = await vfs.files.open(box.children[name], read=True, write=False)
            for start in range(0, 16384, 4096):
                data = bytes(await vfs.files.read(handle, start, 4096))
                assert data == noise(int(name), size)[start : start + 4096]
            await vfs.files.release(handle)
        await trio.sleep(10)
        assert backend.sent <= (GLANCES + 1) * BLOCK + (count - GLANCES - 1) * HEAD
        name = max(box.children)
        assert await read(vfs, box, name) == noise(int(name), size), "who reads on gets all"
        fetched = backend.sent
        await read(vfs, box, name)
        assert backend.sent == fetched


async def test_a_file_of_one_block_is_proved_also_at_a_glance(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with folder_of(tmp_path, 10, 200_000, 0.01) as (backend, vfs, box):
        for name in sorted(box.children):
            assert await read(vfs, box, name, 4096) == noise(int(name), 200_000)[:4096]
        assert backend.sent == 10 * 200_000
