"""Whole files on disk, from systems without ranged reads.

A copy can be read while it is downloaded. Its last bytes are returned only when the whole copy was confirmed to be of
one version. Complete copies of a version are cached, least recently used out first; a copy of a file without versions
lives as long as it is open, and so does one whose download was interrupted. A copy gets its final name when all of it
is on the disk, so that a crash leaves it either whole, or to be removed at the next start.

The bytes on a disk are not trusted. The digest of each block is computed as the bytes arrive, stored at the end of the
copy (digests.py) and compared at each read. A damaged or truncated copy is fetched again; only the log reports it.

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

from labfs.backend import Buffer, Content, Sink, Stretch
from labfs.errors import FULL, Enough, LabfsError, NoSpace, NotFound, Stale, Unranged, WrongLength, again
from labfs.read.digests import SPAN, Running, intact, sealed, unseal

log = logging.getLogger(__name__)

Version = tuple[str, str, str]  # site, entry and version
GLANCE = 256 * 1024  # bytes that are fetched for the size alone, where nothing announces it
DAMAGES = 3  # times that one range is fetched again because the disk damaged it
UNWANTED_S = 30.0  # after which a download without a reader is stopped
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
        self.size = self.fetched = 0  # bytes on disk now, with those of downloads under way; and all that ever came
        self._live: WeakValueDictionary[Version, Copy] = WeakValueDictionary()
        self._find()

    def _find(self) -> None:
        """Take over the copies of an earlier process, and remove its unfinished ones."""
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
        """Return the copy of a version, or a new one; it raises WrongLength for another size than `size`, if known."""
        if version is None:
            return Copy(self, content, None, size)
        copy = self._live.get(version)
        if copy is None or copy.spoiled:
            name = hashlib.sha256(repr(version).encode()).hexdigest()
            copy = self._live[version] = Copy(self, content, name, size)
        copy.expected = size if copy.expected is None else copy.expected
        return copy

    def make_room(self, size: int) -> None:
        """Remove the least recently used copies, so that `size` more bytes fit into the capacity."""
        while self.size + size > self.capacity and self.give_way():
            pass

    def give_way(self) -> bool:
        """Remove the least recently used copy; False if there is none."""
        if not self._sizes:
            return False
        self.drop(next(iter(self._sizes)))
        return True

    def drop(self, name: str) -> None:
        """Remove a complete copy, if it is there."""
        self.size -= self._sizes.pop(name, 0)
        remove(self.directory / name)

    def held(self, name: str) -> bool:
        """Whether a complete copy is there, which counts as used now."""
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
        self.fetched += max(size, 0)
        self.make_room(max(size, 0))
        self.size += size


class Copy:
    """One version of one file, on disk as far as downloaded. A `Content` for readers, a `Sink` for a backend."""

    def __init__(self, copies: Copies, content: Content, name: str | None, size: int | None) -> None:
        self.expected = size  # in bytes, from the listing, if known
        self._copies = copies
        self._content = content
        self._name = name  # in the directory, once it is complete; None: it is not cached
        self._path = copies.directory / f"{name or 'open'}.{secrets.token_hex(8)}{PARTIAL}"
        self._fd = -1
        self._lending = Lock()  # once a descriptor is closed its number may be another file's
        self._wanted_at = float("-inf")
        self._running = False
        self._error: Exception | None = None
        self._news = trio.Event()
        self._offset = 0  # of the pass under way
        self._passes = 0  # downloads begun
        self._made = Running()  # the digests of the bytes that this process wrote
        self._digests: Buffer = b""  # of the bytes that can be read
        self._promised: bytes | None = None  # of a whole file without versions: a new download must match these
        self.received = 0  # bytes of the file on disk
        self.least = 0  # a lower bound of the file's size in bytes
        self.announced: int | None = None  # the size in bytes that the server sent before the bytes
        self.complete = False
        self.spoiled = False  # its bytes are not of one version, for good

    def __del__(self) -> None:
        self._close()

    # -- for readers -----------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Begin the download. Raises an error that would make every read fail."""
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
                return await trio.to_thread.run_sync(self._lend, start, stop, self.received, self._digests)
            except (OSError, ValueError) as error:
                if self._passes == passes:  # else it is being fetched again already
                    damages += not isinstance(error, FileNotFoundError)  # which means: removed just now, to make room
                    log.warning(UNUSABLE, error)
                    await self._renew(passes)
        raise LabfsError("The disk of labfs's cache does not keep what is written to it; see LABFS_CACHE_DIR.")

    def _lendable(self, stop: int) -> bool:
        """Whether bytes up to `stop` can be checked already; the last byte waits for the confirmation of the whole."""
        return stop <= self._made.covered and stop < self.received

    async def whole(self) -> int:
        """Return the size in bytes, for which the whole file may have to be downloaded."""
        self._want()
        while not self._there():
            if self.announced is not None:
                return self.announced
            await self._step()
            self._want()
        return self.received

    async def glance(self) -> int | None:
        """Return the size in bytes; None if more than `GLANCE` bytes would have to be fetched for it."""
        while not self._there():
            if self.announced is not None:
                return self.announced
            if self.least >= GLANCE and not self._running:
                return None
            await self._step()
        return self.received

    async def stream(self, stretch: Stretch) -> None:
        while size := stretch.piece:
            stretch.arrived(await self.read(stretch.next, stretch.next + size))

    async def pour(self, sink: Sink) -> None:
        raise Unranged("A copy is not copied.")

    def _want(self) -> None:
        self._wanted_at = trio.current_time()

    def _there(self) -> bool:
        """Whether the whole file is on disk, perhaps since an earlier mount."""
        if self._name is not None and not self._running:
            held = self._copies.held(self._name)
            self.complete = held and (self.complete or self._take_over(self._name))
            self.received = self.received if self.complete else 0
        return self.complete

    def _take_over(self, name: str) -> bool:
        """Read the seal of a copy; false, and the copy is removed, if the seal is not valid."""
        try:
            with open(self._copies.directory / name, "rb", buffering=0) as file:
                self.received, self._digests = unseal(file.fileno(), name)
        except (OSError, ValueError) as error:
            log.warning(UNUSABLE, error)
            self._copies.drop(name)
            return False
        return True

    async def _renew(self, passes: int) -> None:
        """Discard the copy on disk, unless a new download has begun since `passes` were counted.

        The new download of a file without version must match the old one, since some of it was read.
        """
        while self._running and self._passes == passes:
            await self._step()
        if self._passes != passes:
            return
        promised = bytes(self._digests) if self._name is None else None
        self.discard()
        self._promised = promised

    def discard(self) -> None:
        """Remove the copy from disk, unless a download is under way: the next read fetches it again."""
        if not self._running:
            self._close()
            if self._name is not None:
                self._copies.drop(self._name)
            self.complete, self._promised = False, None

    async def _step(self) -> None:
        """Wait for progress of the download; begin one if none is under way. Raises the download's error."""
        if not self._running and not self.spoiled:
            self._running, self._error, self._passes = True, None, self._passes + 1
            self.complete, self.received = False, self.received if self._fd >= 0 else 0
            self._copies.nursery.start_soon(self._run)
        if self._running:
            await self._news.wait()
        if self._error is not None:
            raise again(self._error)

    def _lend(self, start: int, stop: int, received: int, digests: Buffer) -> Buffer:  # in a thread: it may be renewed
        """Return bytes of the copy, checked in whole blocks. Raises ValueError for damaged blocks, and Stale."""
        low, high = start // SPAN * SPAN, min(-(-stop // SPAN) * SPAN, received)
        data = self._on_disk(low, high)
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
        """Seal a confirmed copy, sync it and give it its final name. Raises Stale or WrongLength."""
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
        self._news, news = trio.Event(), self._news
        news.set()

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
