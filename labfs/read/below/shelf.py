"""Blocks of file contents on disk: kept over a remount, checked whenever they are read, bounded in bytes.

A block lies in a file of its own, `VERSION/INDEX` below a private directory, with a digest of its bytes and its name
behind them; one rename puts it there, so that a process that is killed leaves a block or none. What is on the disk is
known in memory: asking for a block that is not there costs nothing. Writing is never waited for: one task writes, while
the processors have time, and blocks that come faster than that are not kept: they come faster than from a disk. Nothing
is kept of files without a version.

Tests: core/test_shelf.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import trio

from labfs.backend import Buffer
from labfs.read.digests import WIDTH, digest

log = logging.getLogger(__name__)

WAITING = 16  # blocks that wait to be written, at most
SPARED = 1024 * 1024 * 1024  # bytes of the disk that are left to others, above all to what users write
PATIENCE_S, LOOK_S = 2.0, 0.1  # for which a write waits for processors with time, and how often it looks
LEAST = 64 * 1024  # bytes that a block counts for at least, so that small ones are not there by the million
PARTIAL = ".part"
PIN = "pin"  # a file of that name, with a path in it, keeps the blocks beside it from being evicted
TICKS = 5  # of a processor's clock, a hundredth of a second each, in which its time is looked at
SPARE = 0.3  # of all processors' time, which must have been idle before something is written

Key = tuple[Hashable, int]  # (one version of one file, index of the block)


class Stored(NamedTuple):
    """A block from the disk, and its digest."""

    block: Buffer
    value: bytes


class Shelf:
    """At most about `room()` bytes below `directory`; writes run in `nursery`."""

    def __init__(self, nursery: trio.Nursery, directory: Path, room: Callable[[], int]) -> None:
        self._directory = directory
        self._room = room
        self._held: OrderedDict[str, int] = OrderedDict()  # name below the directory → bytes counted, oldest use first
        self._later, later = trio.open_memory_channel[tuple[str, Buffer]](WAITING)
        self._pinned: dict[str, str] = {}  # directory of a version whose blocks stay → the path it is pinned for
        self._wanted: set[str] = set()  # that wait to be written, or are, and were not dropped since
        self._processors = Processors()
        self.size = 0  # bytes counted, `LEAST` for a smaller block
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            self._find()
        except OSError as error:
            log.warning("No blocks are kept on disk: %s", error)
        nursery.start_soon(self._write_all, later)

    def _find(self) -> None:
        """Adopt the files of an earlier process, and remove partial ones."""
        found = []
        for path in self._directory.glob("*/*"):
            if path.suffix == PARTIAL:
                path.unlink(missing_ok=True)
            elif path.name == PIN:
                self._pinned[path.parent.name] = path.read_text(errors="surrogateescape")
            else:
                there = path.stat()
                found.append((there.st_mtime_ns, f"{path.parent.name}/{path.name}", there.st_size))
        for _, name, size in sorted(found):
            self._hold(name, size)
        self._make_room()

    def holds(self, key: Key) -> bool:
        """Whether a block is there, as far as is known."""
        return bool(self._held) and _name(key) in self._held

    async def get(self, *keys: Key) -> dict[Key, Stored]:
        """Return those blocks that are there and as they were written."""
        names = {key: name for key in keys if (name := _name(key)) in self._held and name is not None}
        read = await trio.to_thread.run_sync(_read_all, self._directory, list(names.values())) if names else []
        found = {}
        for (key, name), stored in zip(names.items(), read, strict=True):
            if stored is None:
                log.warning("A block on disk is damaged or gone; it is fetched again.")
                self._let_go(name)
                continue
            found[key] = stored
            if name in self._held:
                self._held.move_to_end(name)
        return found

    def put(self, key: Key, block: Buffer) -> None:
        """Keep a block, if the disk is ready for it."""
        name = _name(key)
        if name is not None and name not in self._held and name not in self._wanted:
            with suppress(trio.WouldBlock):
                self._later.send_nowait((name, block))
                self._wanted.add(name)

    async def keep(self, key: Key, block: Buffer) -> None:
        """Write a block and wait for it, however busy the machine is. Raises OSError where there is no room for it."""
        name = _name(key)
        if name is None or name in self._held:
            return
        pinned = sum(size for held, size in self._held.items() if self._is_pinned(held)) if self._pinned else 0
        if pinned + len(block) + WIDTH > self._room():
            raise OSError(errno.ENOSPC, "its room is used up by what is pinned (disk_mib)")
        await trio.to_thread.run_sync(_write, self._directory / name, name, block)
        if name not in self._held:
            self._hold(name, len(block) + WIDTH)
        self._make_room()

    def pin(self, content: Hashable, path: str) -> None:
        """Keep the blocks of a version from being evicted, also over a remount, in place of another of that path.

        Raises OSError.
        """
        if (name := _name((content, 0))) is not None:
            directory = name.partition("/")[0]
            self._unpin(*(other for other, its in self._pinned.items() if its == path and other != directory))
            (self._directory / directory).mkdir(mode=0o700, exist_ok=True)
            (self._directory / directory / PIN).write_text(path, errors="surrogateescape")
            self._pinned[directory] = path

    def unpin(self, path: str) -> int:
        """Let what is pinned for a path, or for one below it, be evicted again; return how many files that are."""
        below = path.rstrip("/") + "/"
        found = [directory for directory, its in self._pinned.items() if its == path or its.startswith(below)]
        self._unpin(*found)
        return len(found)

    def _unpin(self, *directories: str) -> None:
        for directory in directories:
            del self._pinned[directory]
            with suppress(OSError):
                (self._directory / directory / PIN).unlink(missing_ok=True)
                (self._directory / directory).rmdir()
        self._make_room()

    def _is_pinned(self, name: str) -> bool:
        return bool(self._pinned) and name.partition("/")[0] in self._pinned

    def drop(self, content: Hashable) -> None:
        """Forget all blocks of one version of one file."""
        name = _name((content, 0))
        if name is not None:
            version = name.removesuffix("0")
            self._wanted = {wanted for wanted in self._wanted if not wanted.startswith(version)}
            for held in [held for held in self._held if held.startswith(version)]:
                self._let_go(held)

    async def _write_all(self, later: trio.MemoryReceiveChannel[tuple[str, Buffer]]) -> None:
        async for name, block in later:
            with trio.move_on_after(PATIENCE_S):
                while not self._processors.have_time():  # nothing tells when they do  # noqa: ASYNC110
                    await trio.sleep(LOOK_S)
            if name in self._wanted and len(block) + WIDTH <= self._room():
                await self._write(name, block)
            self._wanted.discard(name)

    async def _write(self, name: str, block: Buffer) -> None:
        try:
            await trio.to_thread.run_sync(_write, self._directory / name, name, block)
        except OSError as error:
            log.info("A block is not kept on disk: %s", error)
            return
        self._hold(name, len(block) + WIDTH)
        if name not in self._wanted:  # dropped while it was written
            self._let_go(name)
        self._make_room()

    def _hold(self, name: str, size: int) -> None:
        self._held[name] = max(size, LEAST)
        self.size += self._held[name]

    def _make_room(self) -> None:
        room = self._room()
        while self.size > room and (name := self._oldest()) is not None:
            self._let_go(name)

    def _oldest(self) -> str | None:
        """Return the block that is to be evicted first; None if all are pinned."""
        return next((name for name in self._held if not self._is_pinned(name)), None)

    def _let_go(self, name: str) -> None:
        self.size -= self._held.pop(name, 0)
        path = self._directory / name
        with suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()  # where that was its last block


class Processors:
    """The processors of this machine since the last look: what can wait gives way to what is waited for.

    Source: proc(5), the first line of /proc/stat. Where there is none there is always time.
    """

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._before = (0, 0)
        self._idle = False  # as it was seen last
        self._least = TICKS * (os.cpu_count() or 1)

    def have_time(self) -> bool:
        """Whether at least `SPARE` of their time was idle lately; within `TICKS` of a look as that one saw it."""
        try:
            times = [int(word) for word in self._stat.read_text().partition("\n")[0].split()[1:9]]
            idle, total = times[3] + times[4], sum(times)
        except (OSError, ValueError, IndexError):
            return True
        idle_before, total_before = self._before
        if total - total_before >= self._least:
            self._idle = total_before > 0 and idle - idle_before >= SPARE * (total - total_before)
            self._before = idle, total
        return self._idle


def _name(key: Key) -> str | None:
    content, index = key
    return f"{_version(content)}/{index}" if isinstance(content, tuple) else None


@lru_cache(maxsize=256)
def _version(content: Hashable) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _seal(name: str, value: bytes) -> bytes:
    return digest(name.encode() + value)


def _read_all(directory: Path, names: list[str]) -> list[Stored | None]:
    return [_read(directory / name, name) for name in names]


def _read(path: Path, name: str) -> Stored | None:
    try:
        with open(path, "rb", buffering=0) as file:
            block = file.read(os.fstat(file.fileno()).st_size - WIDTH) or b""
            seal = file.read(WIDTH)
            os.utime(file.fileno())
    except (OSError, ValueError):
        return None
    value = digest(block)
    return Stored(block, value) if _seal(name, value) == seal else None


def _write(path: Path, name: str, block: Buffer) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if shutil.disk_usage(path.parent).free < SPARED + len(block):
        raise OSError("the disk has little room left, which is for what is written")
    partial = path.with_suffix(PARTIAL)
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(block)
            file.write(_seal(name, digest(block)))
        partial.rename(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
