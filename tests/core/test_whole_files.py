"""Files that a system only sends whole: one download, whatever is read of it, and sizes that are true."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import RULES, MemoryBackend, opened

from labfs.backend import Replace, Sink, Stretch
from labfs.errors import NotFound, Stale, Unavailable, Unranged, WrongLength
from labfs.read.whole import GLANCE, UNWANTED_S, Copies
from labfs.tree.lister import LISTING_S
from labfs.vfs.vfs import Vfs

Clock = trio.testing.MockClock
WHOLE = replace(RULES, ranged=False, measured=False, replace=Replace.IN_PLACE)
SMALL, LARGE = b"a small file", os.urandom(3_000_000)


def system(**more: Any) -> MemoryBackend:
    return MemoryBackend(capabilities=WHOLE, sizeless=True, **more)


async def slurp(vfs: Vfs, path: str, step: int = 128 * 1024) -> bytes:
    """Read a file as the kernel does: by its size, a piece at a time."""
    node = await vfs.resolve(path)
    handle = await vfs.files.open(node, read=True, write=False)
    try:
        data = bytearray()
        await vfs.measure(node)
        for start in range(0, vfs.attributes(node).size, step):
            data += await vfs.files.read(handle, start, step)
        return bytes(data)
    finally:
        await vfs.files.release(handle)


@pytest.mark.parametrize("announces", [True, False])
@pytest.mark.parametrize("data", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
async def test_a_file_is_downloaded_once_and_kept_for_the_next_mount(
    data: bytes, announces: bool, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(announces=announces)
    backend.put("f", data)
    async with opened(tmp_path, backend) as (vfs, _):
        assert await slurp(vfs, "/memory/box/f") == data
        assert await slurp(vfs, "/memory/box/f") == data
        assert (await vfs.resolve("/memory/box/f")).entry.size == len(data)  # type: ignore[union-attr]
    assert backend.calls["pour"] == 1
    async with opened(tmp_path, backend) as (vfs, _):
        assert await slurp(vfs, "/memory/box/f") == data
    assert backend.calls["pour"] == 1


async def test_a_listing_asks_for_no_size_and_a_look_fetches_little(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system(announces=False, piece=GLANCE // 4)
    for index in range(20):
        backend.put(f"f{index}", LARGE)
    async with opened(tmp_path, backend) as (vfs, box):
        nodes = await vfs.listing(box)
        assert backend.calls["pour"] == 0
        await vfs.measure(nodes[0])
        found = vfs.attributes(nodes[0])
        assert not found.certain
        assert GLANCE <= found.size < GLANCE * 2, "as many bytes as were seen, and never none"
        assert backend.calls["pour"] == 1


async def test_an_announced_size_is_known_at_once_and_remembered(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system(latency_s=1.0, piece=1000)
    backend.put("f", LARGE)
    async with opened(tmp_path, backend) as (vfs, _):
        node = await vfs.resolve("/memory/box/f")
        began = trio.current_time()
        await vfs.measure(node)
        assert trio.current_time() - began < 3
        assert vfs.attributes(node).size == len(LARGE)
    async with opened(tmp_path, backend) as (vfs, _):
        assert vfs.attributes(await vfs.resolve("/memory/box/f")).size == len(LARGE)
    assert backend.calls["pour"] == 1


async def test_the_beginning_is_read_while_the_rest_arrives_and_the_end_when_it_was_confirmed(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(latency_s=1.0)
    entry = backend.put("f", LARGE)
    async with opened(tmp_path, backend) as (vfs, _):
        node = await vfs.resolve("/memory/box/f")
        handle = await vfs.files.open(node, read=True, write=False)
        began = trio.current_time()
        assert bytes(await vfs.files.read(handle, 0, 1000)) == LARGE[:1000]
        assert trio.current_time() - began < 8, "twelve pieces come, a second each"
        backend.files[int(entry.label)] = (replace(entry, version="another"), LARGE)
        with pytest.raises(Stale):
            await vfs.files.read(handle, len(LARGE) - 10, 10)


async def test_what_nobody_reads_is_broken_off_and_begun_again_for_the_next(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(latency_s=10.0, piece=GLANCE)
    backend.put("f", LARGE)
    async with opened(tmp_path, backend) as (vfs, _):
        node = await vfs.resolve("/memory/box/f")
        handle = await vfs.files.open(node, read=True, write=False)
        await vfs.files.release(handle)
        await trio.sleep(UNWANTED_S)
        for _ in range(100):  # threads write the pieces, and virtual time does not wait for them
            await trio.sleep(10)
            await trio.to_thread.run_sync(time.sleep, 0.002)
        assert list((tmp_path / "copies").iterdir()) == [], "nothing half is left"
        backend.latency_s = 0.01
        assert await slurp(vfs, "/memory/box/f") == LARGE
        assert backend.calls["pour"] == 2


class Broken:
    """A content whose first connection breaks half-way; `second` is what the next one brings."""

    def __init__(self, second: bytes) -> None:
        self._second = second

    async def prepare(self) -> None:
        """Nothing to do."""

    async def stream(self, stretch: Stretch) -> None:
        raise AssertionError("it has no ranges")

    async def pour(self, sink: Sink) -> None:
        for data in (LARGE[:1_000_000], self._second):
            await trio.to_thread.run_sync(sink.begin, len(LARGE))
            for start in range(0, len(data), 70_000):
                await trio.to_thread.run_sync(sink.write, data[start : start + 70_000])


@pytest.mark.parametrize("version", [("site", "f", "1"), None])
async def test_a_download_that_breaks_is_begun_anew_and_never_mixed(
    version: tuple[str, str, str] | None, tmp_path: Path, autojump_clock: Clock
) -> None:
    async with trio.open_nursery() as nursery:
        copies = Copies(nursery, tmp_path / "copies", 1 << 30)
        assert await copies.open(version, Broken(LARGE)).read(0, len(LARGE)) == LARGE
        copies = Copies(nursery, tmp_path / "others", 1 << 30)
        with pytest.raises(Stale, match="changed while"):
            await copies.open(version, Broken(LARGE[:999_999] + b"?" * 2_000_001)).read(0, len(LARGE))
        with pytest.raises(Stale, match="shorter"):
            await copies.open(version, Broken(LARGE[:999_999])).read(0, len(LARGE))
        assert copies.size == 0


async def test_an_error_is_handed_to_whoever_waits_and_the_next_try_is_a_new_one(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system()
    backend.put("f", SMALL)
    backend.faults["pour"] = [Unavailable("The site is away.")]
    async with opened(tmp_path, backend) as (vfs, _):
        node = await vfs.resolve("/memory/box/f")
        await vfs.measure(node)
        assert isinstance(node.trouble, Unavailable), "it is shown all the same"
        assert await slurp(vfs, "/memory/box/f") == SMALL


async def test_without_a_version_each_open_is_a_snapshot(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system(versionless=True)
    entry = backend.put("f", b"one")
    async with opened(tmp_path, backend) as (vfs, _):
        node = await vfs.resolve("/memory/box/f")
        first = await vfs.files.open(node, read=True, write=False)
        assert bytes(await vfs.files.read(first, 0, 100)) == b"one"
        generation = node.generation
        backend.files[int(entry.label)] = (entry, b"two and longer")
        second = await vfs.files.open(node, read=True, write=False)
        assert node.generation != generation, "the kernel must not answer from what it kept"
        assert bytes(await vfs.files.read(second, 0, 100)) == b"two and longer"
        assert bytes(await vfs.files.read(first, 0, 100)) == b"one"
        assert vfs.attributes(node).size == 14
        for handle in (first, second):
            await vfs.files.release(handle)
        del first, second, handle
    assert list((tmp_path / "copies").glob("*")) == []


async def test_the_disk_is_bounded_and_what_was_not_used_for_longest_goes_first(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system()
    for index in range(4):
        backend.put(f"f{index}", os.urandom(1_000_000))
    async with opened(tmp_path, backend, capacity=3_500_000) as (vfs, _):
        for name in ("f0", "f1", "f2", "f0", "f3", "f0"):
            await slurp(vfs, f"/memory/box/{name}")
        assert backend.calls["pour"] == 4, "f0 was used last and stayed"
        assert sum(path.stat().st_size for path in (tmp_path / "copies").iterdir()) <= 3_500_000
        await slurp(vfs, "/memory/box/f1")
        assert backend.calls["pour"] == 5


async def test_a_start_removes_what_a_crash_left_half(tmp_path: Path, autojump_clock: Clock) -> None:
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / f"x.{'0' * 16}.part").write_bytes(b"half")
    async with opened(tmp_path, system()):
        assert list((tmp_path / "copies").iterdir()) == []


async def test_a_save_over_such_a_file_starts_from_its_bytes(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system()
    backend.put("f", b"0123456789")
    async with opened(tmp_path, backend) as (vfs, _):
        node = await vfs.resolve("/memory/box/f")
        handle = await vfs.files.open(node, read=True, write=True)
        await vfs.files.write(handle, 3, b"xxx")
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"012xxx6789"}
        await trio.sleep(LISTING_S + 1)
        assert await slurp(vfs, "/memory/box/f") == b"012xxx6789"


async def test_ranges_that_turn_out_not_to_be_had_are_made_up_for(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", LARGE)
    backend.faults["read"] = [None, *[Unranged("whole files only")] * 50]
    async with opened(tmp_path, backend) as (vfs, _):
        assert await slurp(vfs, "/memory/box/f") == LARGE
        assert backend.calls["pour"] == 1


async def test_a_file_that_cannot_be_had_hides_no_sibling(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system()
    backend.put("bad", b"x")
    backend.put("good", SMALL)
    lost = NotFound("The file store has lost its bytes.")
    backend.faults["pour"] = [lost, None, lost]
    async with opened(tmp_path, backend) as (vfs, box):
        bad, good = await vfs.listing(box)
        await vfs.measure(bad)
        await vfs.measure(good)
        assert vfs.attributes(good).size == len(SMALL)
        with pytest.raises(NotFound, match="lost its bytes"):
            await vfs.files.open(bad, read=True, write=False)


class Page:
    """A content whose site answers, for a while, with a web page to whatever it is asked."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    async def prepare(self) -> None:
        """Nothing to do."""

    async def stream(self, stretch: Stretch) -> None:
        raise Unranged("It sends files whole.")

    async def pour(self, sink: Sink) -> None:
        await self._backend._call("pour")
        await trio.to_thread.run_sync(sink.begin, 20)
        await trio.to_thread.run_sync(sink.write, b"<h1>Maintenance</h1>")


async def test_a_page_that_comes_instead_of_a_file_is_not_the_file(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    backend.put("f", LARGE)
    async with opened(tmp_path, backend) as (vfs, _):
        node = await vfs.resolve("/memory/box/f")
        monkeypatch.setattr(backend, "content", lambda entry: Page(backend))
        handle = await vfs.files.open(node, read=True, write=False)
        with pytest.raises(WrongLength, match="something else"):
            await vfs.files.read(handle, 2_000_000, 1000)
        assert backend.calls["pour"] <= 3, "and nobody asks for ever"
        assert list((tmp_path / "copies").iterdir()) == []
