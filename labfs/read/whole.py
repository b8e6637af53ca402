"""Whole files on disk, from systems that send a file in one piece or not at all.

A copy grows while it is read, and lends what has arrived. Its last bytes leave only when the whole of it
was confirmed to be of one version. Complete copies of a version are kept, least recently used out first;
a copy of something without versions lives as long as somebody has it open, and so does one that was broken
off. A file gets its final name when all of it is on the disk, so what a crash leaves is either whole or
removed at the next start.

What lies on a disk is not believed as it lies there. A digest a block is made as the bytes arrive, kept at the
end of the copy (digests.py says how), and compared whenever bytes are lent. A copy that is damaged, cut, or of
another labfs is removed and fetched again; nobody hears of it but the log.

Tests: core/test_copies, core/test_whole_files.
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
from labfs.errors import FULL, Enough, LabfsError, NoSpace, NotFound, Stale, Unranged, WrongLength, again
from labfs.read.digests import SPAN, Running, intact, sealed, unseal

log = logging.getLogger(__name__)

Version = tuple[str, str, str]  # site, entry and version
GLANCE = 256 * 1024  # bytes that are fetched for the size alone, where nothing announces it
DAMAGES = 3  # times that one piece is fetched again because the disk spoiled it
UNWANTED_S = 30.0  # after which a download that nobody reads is broken off
PARTIAL = ".part"
UNUSABLE = "A copy on disk cannot be used (%s); the file is fetched again."


class Copies:
    """A private directory of at most about `capacity` bytes; downloads run in `nursery`."""

    def __init__(self, nursery: trio.Nursery, directory: Path, capacity: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        self.nursery = nursery
        self.directory = directory
        self.capacity = capacity
        self._sizes: OrderedDict[str, int] = OrderedDict()  # file name → bytes, longest unused first
        self.size = 0  # bytes on disk now, those under way included
        self._live: WeakValueDictionary[Version, Copy] = WeakValueDictionary()
        self._find()

    def _find(self) -> None:
        """Adopt the files of an earlier process, and remove partial ones."""
        found = []
        for path in self.directory.iterdir():
            if path.suffix == PARTIAL:
                path.unlink(missing_ok=True)
            else:
                state = path.stat()
                found.append((state.st_mtime_ns, path.name, state.st_size))
        for _, name, size in sorted(found):
            self.count(name, size)
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
        if not self._sizes:
            return False
        self.drop(next(iter(self._sizes)))
        return True

    def drop(self, name: str) -> None:
        """Remove a complete copy, if it is there."""
        self.size -= self._sizes.pop(name, 0)
        remove(self.directory / name)

    def held(self, name: str) -> bool:
        """Return whether a complete copy exists, and mark it as used."""
        if name not in self._sizes:
            return False
        try:
            os.utime(self.directory / name)
        except OSError:
            self.size -= self._sizes.pop(name)
            return False
        self._sizes.move_to_end(name)
        return True

    def count(self, name: str, size: int) -> None:
        """Count a complete copy of so many bytes on the disk."""
        self.size += size - self._sizes.pop(name, 0)
        self._sizes[name] = size

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
        self._passes = 0  # downloads begun
        self._made = Running()  # the digests of what this process wrote
        self._digests: Buffer = b""  # of what can be lent
        self._promised: bytes | None = None  # of all of something without versions: what comes again must be that
        self.received = 0  # bytes of the file on disk
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
        damages = 0
        while damages < DAMAGES:
            self._want()
            if not (self._there() or self._lendable(stop)):
                await self._step()
                continue
            passes = self._passes
            try:
                return await trio.to_thread.run_sync(self._lend, start, stop)
            except (OSError, ValueError) as error:
                damages += not isinstance(error, FileNotFoundError)  # that was removed just now, to make room
                log.warning(UNUSABLE, error)
                await self._renew(passes)
        raise LabfsError("The disk of labfs's cache does not keep what is written to it; see LABFS_CACHE_DIR.")

    def _lendable(self, stop: int) -> bool:
        """Whether bytes up to `stop` can be checked already; the last one waits for the confirmation of all."""
        return stop <= self._made.covered and stop < self.received

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
            held = self._copies.held(self._name)
            self.complete = held and (self.complete or self._take_over(self._name))
            self.received = self.received if self.complete else 0
        return self.complete

    def _take_over(self, name: str) -> bool:
        """Read what a copy says of itself; one that cannot be checked is removed."""
        try:
            with open(self._copies.directory / name, "rb", buffering=0) as file:
                self.received, self._digests = unseal(file.fileno(), name)
        except (OSError, ValueError) as error:
            log.warning(UNUSABLE, error)
            self._copies.drop(name)
            return False
        return True

    async def _renew(self, passes: int) -> None:
        """Give up what is on disk, unless that was begun anew since `passes` were counted.

        What has no version must come again as it was, since somebody has read some of it.
        """
        while self._running and self._passes == passes:
            await self._step()
        if self._passes != passes:
            return
        promised = bytes(self._digests) if self._name is None else None
        self.discard()
        self._promised = promised

    def discard(self) -> None:
        """Remove what is on disk, unless a download is under way: the next read fetches it again."""
        if not self._running:
            self._close()
            if self._name is not None:
                self._copies.drop(self._name)
            self.complete, self._promised = False, None

    async def _step(self) -> None:
        """Wait for news of the download, which is begun if none is under way. Raises what ended it."""
        if not self._running and not self.spoiled:
            self._running, self._error, self._passes = True, None, self._passes + 1
            self.complete, self.received = False, self.received if self._fd >= 0 else 0
            self._copies.nursery.start_soon(self._run)
        if self._running:
            await self._news.wait()
        if self._error is not None:
            raise again(self._error)

    def _lend(self, start: int, stop: int) -> Buffer:
        """Return some bytes, checked in whole blocks. Raises ValueError where they are not what was written."""
        low, high = start // SPAN * SPAN, min(-(-stop // SPAN) * SPAN, self.received)
        data, digests = self._on_disk(low, high), self._digests
        if len(data) != high - low or not intact(digests, low, data):
            raise ValueError("some of its bytes have changed")
        if self._promised is not None and not intact(self._promised, low, data):
            raise Stale("The file changed after it was opened, and its copy on disk was damaged.")
        return data if (low, high) == (start, stop) else memoryview(data)[start - low : stop - low]

    def _on_disk(self, start: int, stop: int) -> bytes:
        with self._lending:
            if self._fd >= 0:
                return os.pread(self._fd, stop - start, start)
        if self._name is None:
            raise FileNotFoundError(errno.ENOENT, "The copy was given up.")
        with open(self._copies.directory / self._name, "rb", buffering=0) as file:
            return os.pread(file.fileno(), stop - start, start)

    # -- the download ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            if self._fd < 0:
                self._copies.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                self._made = Running()
                self._digests = self._made.values
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
            self._notify()

    def _check_size(self, size: int | None) -> None:
        if None not in (size, self.expected) and size != self.expected:
            raise WrongLength(f"{size} bytes came of a file that has {self.expected}: that is something else.")

    def _finish(self) -> None:
        """Seal a confirmed copy and rename it into the cache, where the next mount finds it."""
        if self._offset != self.received:
            raise Stale("The file became shorter while it was fetched.")
        self._check_size(self._offset)
        self._made.finish()
        if self._name is None:
            self.complete = True
            return
        seal = sealed(self._name, self.received, self._digests)
        self._put(memoryview(seal), self.received)
        os.fsync(self._fd)
        self._path.rename(self._copies.directory / self._name)
        trio.from_thread.run_sync(self._stored, self.received + len(seal))

    def _stored(self, size: int) -> None:
        assert self._name is not None
        self.complete = True
        self._copies.grow(-self.received)
        self._copies.count(self._name, size)
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

    def _notify(self) -> None:
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
        new = memoryview(data)[max(again, 0) :]
        self._put(new, self._offset + max(again, 0))
        self._made.update(new)
        self._offset += len(data)
        trio.from_thread.run_sync(self._arrived)

    def _put(self, view: memoryview, offset: int) -> None:
        while view:
            try:
                written = os.pwrite(self._fd, view, offset)
            except OSError as error:  # the disk may hold less than the capacity: older copies make room
                if not (error.errno in FULL and trio.from_thread.run_sync(self._copies.give_way)):
                    raise
                continue
            view, offset = view[written:], offset + written

    def _announce(self, size: int | None) -> None:
        self._check_size(size)
        if size is not None and self.announced not in (None, size):
            raise Stale("The file changed its size while it was fetched.")
        self.announced = size
        if size is not None:
            self._copies.make_room(size - self.received)
        self._notify()

    def _arrived(self) -> None:
        if self._offset > self.received:
            self._copies.grow(self._offset - self.received)
            self.received = self._offset
            self.least = max(self.least, self.received)
        self._notify()
        if self.received >= GLANCE and trio.current_time() - self._wanted_at > UNWANTED_S:
            raise Enough("Nobody reads this any more.")


def remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("A copy cannot be removed: %s", error)


def _of_the_disk(error: OSError) -> LabfsError:
    if error.errno in FULL:
        return NoSpace("The disk of labfs's cache is full; make room on it, or set LABFS_CACHE_DIR.")
    return LabfsError(f"The disk of labfs's cache failed: {error.strerror}.")
