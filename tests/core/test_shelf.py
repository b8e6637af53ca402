"""Blocks on disk: kept over a remount, by version, checked, bounded; and never a reason why a read fails."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from memory import MemoryBackend, evict, opened
from steps import contents

from labfs.read.below import shelf as shelves
from labfs.read.below.shelf import Processors, Shelf

Clock = trio.testing.MockClock
DATA = bytes(range(256)) * 20
FILE = "/memory/box/f"


@pytest.fixture(autouse=True)
def no_room_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelves, "SPARED", 0)
    monkeypatch.setattr(shelves, "LEAST", 0)


async def read(path: Path, backend: MemoryBackend, **more: int) -> bytes:
    async with opened(path, backend, **more) as (vfs, _):
        found = await contents(vfs, FILE)
        await written(vfs.store.shelf)
        return found


async def written(shelf: Shelf) -> None:
    while shelf._later.statistics().current_buffer_used or shelf._wanted:  # noqa: ASYNC110
        await trio.sleep(0.01)
    await trio.testing.wait_all_tasks_blocked(0.01)


def kept(path: Path) -> list[Path]:
    return sorted((path / "blocks").glob("*/*"))


async def test_a_block_is_not_fetched_again_after_a_remount(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", DATA)
    for _ in range(3):
        assert await read(tmp_path, backend) == DATA
    assert backend.calls["read"] == 1
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "blocks", *kept(tmp_path))] == [0o700, 0o600]


@pytest.mark.parametrize("harm", ["flipped", "cut", "empty", "gone", "directory", "another's"])
async def test_a_block_that_is_not_what_was_written_is_fetched_again(
    harm: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    backend.put("f", DATA)
    assert await read(tmp_path, backend) == DATA
    (block,) = kept(tmp_path)
    whole = block.read_bytes()
    match harm:
        case "flipped":
            block.write_bytes(whole[:100] + b"\xff\xfe" + whole[102:])
        case "cut":
            block.write_bytes(whole[:-1])
        case "empty":
            block.write_bytes(b"")
        case "gone":
            shutil.rmtree(block.parent)
        case "directory":
            block.unlink()
            block.mkdir()
        case "another's":
            backend.put("f", DATA[::-1])
            assert await read(tmp_path, backend) == DATA[::-1]
            (other,) = [path for path in kept(tmp_path) if path != block]
            other.write_bytes(whole)
            backend.calls.clear()
            assert await read(tmp_path, backend) == DATA[::-1]
            assert backend.calls["read"] == 1
            return
    assert await read(tmp_path, backend) == DATA
    assert backend.calls["read"] == 2


async def test_a_whole_block_that_is_another_than_was_fetched_is_not_believed(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """Sealed and of the right name, but not what the server sent: the server tells, whoever wrote that."""
    backend = MemoryBackend()
    backend.put("f", DATA)
    async with opened(tmp_path, backend) as (vfs, _):
        assert await contents(vfs, FILE) == DATA
        await written(vfs.store.shelf)
        (block,) = kept(tmp_path)
        name = f"{block.parent.name}/{block.name}"
        shelves._write(block, name, DATA[::-1])
        evict(vfs.store.blocks)
        assert await contents(vfs, FILE) == DATA
    assert backend.calls["read"] == 2


async def test_a_new_version_is_another_file(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"old" * 100)
    assert await read(tmp_path, backend) == b"old" * 100
    backend.put("f", b"new" * 100)
    assert await read(tmp_path, backend) == b"new" * 100


async def test_nothing_is_kept_of_a_file_without_a_version(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    entry = backend.put("f", DATA)
    backend.files[int(entry.label)] = (replace(entry, version=None, checksum=None), DATA)
    assert await read(tmp_path, backend) == DATA
    assert kept(tmp_path) == []


async def test_the_oldest_go_first(tmp_path: Path, autojump_clock: Clock) -> None:
    room = 3 * (1000 + 16)
    async with trio.open_nursery() as nursery:
        shelf = Shelf(nursery, tmp_path / "blocks", lambda: room)
        for index in range(3):
            shelf.put((("site", "f", "1"), index), bytes([index]) * 1000)
            await written(shelf)
        assert [each.block for each in (await shelf.get((("site", "f", "1"), 0))).values()] == [b"\0" * 1000], (
            "used again"
        )
        shelf.put((("site", "f", "1"), 3), b"\3" * 1000)
        await written(shelf)
        assert [path.name for path in kept(tmp_path)] == ["0", "2", "3"]
        assert shelf.size == room
        shelf.put((("site", "g", "1"), 0), b"x" * 4000)
        await written(shelf)
        assert len(kept(tmp_path)) == 3, "what is larger than all room is not kept"
        shelf.drop(("site", "f", "1"))
        assert (kept(tmp_path), shelf.size) == ([], 0)
        nursery.cancel_scope.cancel()


async def test_what_is_dropped_while_it_is_written_does_not_come_back(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, dropping = shelves._write, trio.Event()

    def slow(*arguments: object) -> None:
        trio.from_thread.run_sync(dropping.set)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shelves, "_write", slow)
    async with trio.open_nursery() as nursery:
        shelf = Shelf(nursery, tmp_path / "blocks", lambda: 1 << 20)
        for index in range(3):
            shelf.put((("site", "f", "1"), index), b"x" * 1000)
        await dropping.wait()
        shelf.drop(("site", "f", "1"))
        await written(shelf)
        assert (kept(tmp_path), shelf.size, await shelf.get((("site", "f", "1"), 0))) == ([], 0, {})
        nursery.cancel_scope.cancel()


async def test_what_a_kill_left_half_is_removed(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", DATA)
    assert await read(tmp_path, backend) == DATA
    (block,) = kept(tmp_path)
    block.rename(block.with_suffix(".part"))
    assert await read(tmp_path, backend) == DATA
    assert (backend.calls["read"], kept(tmp_path)) == (2, [block])


@pytest.mark.parametrize("harm", ["file", "full"])
async def test_a_disk_that_takes_no_blocks_fails_no_read(
    harm: str, tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    backend.put("f", DATA)
    if harm == "file":
        (tmp_path / "blocks").write_bytes(b"")
    else:
        monkeypatch.setattr(shelves, "SPARED", 1 << 60)
    for _ in range(2):
        assert await read(tmp_path, backend) == DATA
    assert (backend.calls["read"], kept(tmp_path)) == (2, [])


async def test_a_checksum_that_proves_a_kept_block_wrong_has_it_fetched_again(
    tmp_path: Path,
) -> None:  # by a real clock: a deadline around a hash in a thread is a toss of a coin by a virtual one
    backend = MemoryBackend()
    entry = backend.put("f", DATA)
    wrong = b"?" + DATA[1:]
    backend.files[int(entry.label)] = (replace(entry, checksum=None), wrong)  # as nothing tells yet
    assert await read(tmp_path, backend) == wrong
    backend.files[int(entry.label)] = (entry, DATA)
    assert await read(tmp_path, backend) == DATA


async def test_small_blocks_are_bounded_in_number(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(shelves, "LEAST", 1000)
    shelf = Shelf(nursery, tmp_path / "blocks", lambda: 10_000)
    for index in range(40):
        shelf.put((("a version",), index), b"x")
        await written(shelf)
    assert (len(kept(tmp_path)), shelf.size) == (10, 10_000)
    assert Shelf(nursery, tmp_path / "blocks", lambda: 5_000).size == 5_000, "also what an earlier mount kept"


# -- what can wait ---------------------------------------------------------------------------------------------


def test_processors_have_time_by_what_was_idle_since_the_last_look(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    processors = Processors(stat)
    assert processors.have_time(), "nobody tells"
    found, processors._least = [], 10
    for line in (
        "cpu 0 0 0 0 0 0 0 0",
        "cpu 90 0 0 10 0 0 0 0",  # since the machine was started: that is no news
        "cpu 150 0 0 40 10 0 0 0",
        "cpu x",
        "cpu 155 0 0 40 10 0 0 0",  # too soon to tell
        "cpu 150 0 10 40 10 0 0 0",
    ):
        stat.write_text(line + "\ncpu0 1\n")
        found.append(processors.have_time())
    assert found == [False, False, True, True, True, False]


async def test_a_busy_machine_writes_a_block_now_and_then(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    monkeypatch.setattr(Processors, "have_time", lambda self: False)
    shelf = Shelf(nursery, tmp_path / "blocks", lambda: 1 << 30)
    for index in range(100):
        shelf.put((("a version",), index), bytes(100))
    await trio.sleep(shelves.PATIENCE_S + 1)
    assert len(kept(tmp_path)) == 1
    await trio.sleep(shelves.PATIENCE_S * 100)
    assert len(kept(tmp_path)) <= shelves.WAITING + 1, "what came faster is not kept"
