"""Whole files on disk, from systems that send a file in one piece or not at all.

A copy grows while it is read, and lends what has arrived. Its last bytes leave only when the whole of it
was confirmed to be of one version. Complete copies of a version are kept, least recently used out first;
a copy of something without versions lives as long as somebody has it open, and so does one that was broken
off. A file gets its final name when all of it is on the disk, so what a crash leaves is either whole or
removed at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import secrets
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

import trio

from labfs.backend import Buffer, Content, Sink
from labfs.errors import FULL, Enough, LabfsError, NoSpace, NotFound, Stale, Unranged, WrongLength

log = logging.getLogger(__name__)

Version = tuple[str, str, str]  # site, entry and version
GLANCE = 256 * 1024  # bytes that are fetched for the size alone, where nothing announces it
UNWANTED_S = 30.0  # after which a download that nobody reads is broken off
PARTIAL = ".part"


class Copies:
    """A private directory of at most about `capacity` bytes; downloads run in `nursery`."""

    def __init__(self, nursery: trio.Nursery, directory: Path, capacity: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self.nursery = nursery
        self.directory = directory
        self.capacity = capacity
        self._kept: OrderedDict[str, int] = OrderedDict()  # file name → bytes, longest unused first
        self.size = 0  # bytes on disk now, those under way included
        self._live: WeakValueDictionary[Version, Copy] = WeakValueDictionary()
        self._find()

    def _find(self) -> None:
        """Take over what an earlier process kept, and remove what it did not finish."""
        found = []
        for path in self.directory.iterdir():
            if path.suffix == PARTIAL:
                path.unlink(missing_ok=True)
            else:
                state = path.stat()
                found.append((state.st_mtime_ns, path.name, state.st_size))
        for _, name, size in sorted(found):
            self.keep(name, size)
        self.make_room(0)

    def open(self, version: Version | None, content: Content, size: int | None = None) -> Copy:
        """Return the copy of a version, or a fresh one of whatever is there where there is no version.

        What turns out to have other than `size` bytes, if they are known, is not the file.
        """
        if version is None:
            return Copy(self, content, None, size)
        copy = self._live.get(version)
        if copy is None or copy.spoiled:
            name = hashlib.sha256(repr(version).encode()).hexdigest()
            copy = self._live[version] = Copy(self, content, name, size)
        copy.expected = size if copy.expected is None else copy.expected
        return copy

    def make_room(self, size: int) -> None:
        """Remove what was not used for longest, so that `size` more bytes fit into the capacity."""
        while self.size + size > self.capacity and self.give_way():
            pass

    def give_way(self) -> bool:
        """Remove the copy that was not used for longest; False if there is none."""
        if not self._kept:
            return False
        name, held = self._kept.popitem(last=False)
        self.size -= held
        remove(self.directory / name)
        return True

    def held(self, name: str) -> int | None:
        """Return the size of a complete copy, which counts as used now; None if it is not there."""
        if name not in self._kept:
            return None
        try:
            os.utime(self.directory / name)
        except OSError:
            self.size -= self._kept.pop(name)
            return None
        self._kept.move_to_end(name)
        return self._kept[name]

    def keep(self, name: str, size: int) -> None:
        """Count a complete copy."""
        self.size += size - self._kept.pop(name, 0)
        self._kept[name] = size

    def grow(self, size: int) -> None:
        """Count bytes of copies under way, or discount them with a negative number."""
        self.make_room(max(size, 0))
        self.size += size


class Copy:
    """One version of one file, on disk as far as it has come. A `Content` for readers, a `Sink` for a backend."""

    def __init__(self, copies: Copies, content: Content, name: str | None, size: int | None) -> None:
        self.expected = size  # bytes, where a listing told it
        self._copies = copies
        self._content = content
        self._name = name  # in the directory, once it is complete; None: it is never kept
        self._path = copies.directory / f"{name or 'open'}.{secrets.token_hex(8)}{PARTIAL}"
        self._fd = -1
        self._lending = Lock()  # the number of a descriptor may be another file's as soon as it is closed
        self._wanted_at = float("-inf")
        self._running = False
        self._error: Exception | None = None
        self._news = trio.Event()
        self._offset = 0  # of the pass under way
        self.received = 0  # bytes on disk
        self.least = 0  # bytes that the file has at least
        self.announced: int | None = None  # the size, as the server told it before the bytes
        self.complete = False
        self.spoiled = False  # it is not of one version, and never will be

    def __del__(self) -> None:
        self._close()

    # -- for readers -----------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Begin the download, and raise now what would make every read fail."""
        self._want()
        while not self._there() and self.announced is None and not self.received:
            await self._step()

    async def read(self, start: int, stop: int) -> Buffer:
        """Return the bytes `[start, stop)`, waiting until they have arrived."""
        while True:
            self._want()
            if self._there() or stop < self.received:  # the last byte waits for the confirmation of all
                with contextlib.suppress(FileNotFoundError):  # removed just now, to make room
                    return await trio.to_thread.run_sync(self._lend, start, stop)
            await self._step()

    async def whole(self) -> int:
        """Return the size in bytes, for which everything may have to arrive."""
        self._want()
        while not self._there():
            if self.announced is not None:
                return self.announced
            await self._step()
            self._want()
        return self.received

    async def glance(self) -> int | None:
        """Return the size as far as it can be told without fetching much; None if it cannot."""
        while not self._there():
            if self.announced is not None:
                return self.announced
            if self.least >= GLANCE and not self._running:
                return None
            await self._step()
        return self.received

    async def pour(self, sink: Sink) -> None:
        raise Unranged("A copy is not copied.")

    def _want(self) -> None:
        self._wanted_at = trio.current_time()

    def _there(self) -> bool:
        """Whether all of it is on disk, perhaps since an earlier mount."""
        if self._name is not None and not self._running:
            size = self._copies.held(self._name)
            self.complete, self.received = size is not None, size or 0
        return self.complete

    async def _step(self) -> None:
        """Wait for news of the download, which is begun if none is under way. Raises what ended it."""
        if not self._running and not self.spoiled:
            self._running, self._error = True, None
            self.complete, self.received = False, self.received if self._fd >= 0 else 0
            self._copies.nursery.start_soon(self._run)
        if self._running:
            await self._news.wait()
        if isinstance(self._error, LabfsError):
            raise type(self._error)(str(self._error)) from self._error  # one for each waiter
        if self._error is not None:
            raise self._error

    def _lend(self, start: int, stop: int) -> bytes:
        with self._lending:
            if self._fd >= 0:
                return os.pread(self._fd, stop - start, start)
        if self._name is None:
            raise FileNotFoundError(errno.ENOENT, "The copy was given up.")
        path = self._copies.directory / self._name
        with open(path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), stop - start, start)
        if len(data) < stop - start:
            path.unlink(missing_ok=True)
            raise FileNotFoundError(errno.ENOENT, "The copy lacks bytes.")
        return data

    # -- the download ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            if self._fd < 0:
                self._copies.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            await self._content.pour(self)
            await trio.to_thread.run_sync(self._finish)
        except Enough:
            log.debug("Nobody wants the rest of a download of %s bytes.", self.announced)
        except Exception as error:
            self.spoiled = isinstance(error, Stale | NotFound | WrongLength)
            self._error = _of_the_disk(error) if isinstance(error, OSError) else error
        finally:
            self._running = False
            if self.spoiled or (self._name is not None and not self.complete):
                self._close()  # of a version, the next pass will be of the same version: that is confirmed at its end
            self._tell()

    def _check_size(self, size: int | None) -> None:
        if None not in (size, self.expected) and size != self.expected:
            raise WrongLength(f"{size} bytes came of a file that has {self.expected}: that is something else.")

    def _finish(self) -> None:
        """Put a confirmed copy where the next mount will find it."""
        if self._offset != self.received:
            raise Stale("The file became shorter while it was fetched.")
        self._check_size(self._offset)
        if self._name is None:
            self.complete = True
            return
        os.fsync(self._fd)
        self._path.rename(self._copies.directory / self._name)
        trio.from_thread.run_sync(self._kept)

    def _kept(self) -> None:
        assert self._name is not None
        self.complete = True
        self._copies.grow(-self.received)
        self._copies.keep(self._name, self.received)
        self._close_file()

    def _close(self) -> None:
        if self._fd >= 0:
            self._close_file()
            remove(self._path)
            self._copies.grow(-self.received)
            self.received = 0

    def _close_file(self) -> None:
        with self._lending, contextlib.suppress(OSError):
            number, self._fd = self._fd, -1
            os.close(number)

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    # -- for a backend, in a thread ----------------------------------------------------------------------

    def begin(self, size: int | None) -> None:
        self._offset = 0
        trio.from_thread.run_sync(self._announce, size)

    def write(self, data: Buffer) -> None:
        again = min(len(data), self.received - self._offset)
        if again > 0 and os.pread(self._fd, again, self._offset) != bytes(data[:again]):
            raise Stale("The file changed while it was fetched.")
        view, offset = memoryview(data)[max(again, 0) :], self._offset + max(again, 0)
        while view:
            try:
                written = os.pwrite(self._fd, view, offset)
            except OSError as error:  # the disk may hold less than the capacity: older copies make room
                if not (error.errno in FULL and trio.from_thread.run_sync(self._copies.give_way)):
                    raise
                continue
            view, offset = view[written:], offset + written
        self._offset += len(data)
        trio.from_thread.run_sync(self._arrived)

    def _announce(self, size: int | None) -> None:
        self._check_size(size)
        if size is not None and self.announced not in (None, size):
            raise Stale("The file changed its size while it was fetched.")
        self.announced = size
        if size is not None:
            self._copies.make_room(size - self.received)
        self._tell()

    def _arrived(self) -> None:
        if self._offset > self.received:
            self._copies.grow(self._offset - self.received)
            self.received = self._offset
            self.least = max(self.least, self.received)
        self._tell()
        if self.received >= GLANCE and trio.current_time() - self._wanted_at > UNWANTED_S:
            raise Enough("Nobody reads this any more.")


class Wherever:
    """A content in ranges as long as the system grants them, and from a copy once it does not."""

    def __init__(self, content: Content, copies: Copies, version: Version | None, size: int) -> None:
        self._content = content
        self._size = size
        self._copies = copies
        self._version = version
        self._copy: Copy | None = None

    async def prepare(self) -> None:
        await self._content.prepare()

    async def read(self, start: int, stop: int) -> Buffer:
        if self._copy is None:
            try:
                return await self._content.read(start, stop)
            except Unranged as error:
                log.info("%s It is fetched whole.", error)
                self._copy = self._copy or self._copies.open(self._version, self._content, self._size)
        return await self._copy.read(start, stop)

    async def pour(self, sink: Sink) -> None:
        raise Unranged("A copy is not copied.")


def remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("A copy cannot be removed: %s", error)


def _of_the_disk(error: OSError) -> LabfsError:
    if error.errno in FULL:
        return NoSpace("The disk of labfs's cache is full; make room on it, or set LABFS_CACHE_DIR.")
    return LabfsError(f"The disk of labfs's cache failed: {error.strerror}.")
