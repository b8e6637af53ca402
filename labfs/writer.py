"""One file being written: clean → dirty → committing → clean, or failed.

All writes go to the spool. What was not written yet comes from the version that was opened, which is
read when it is needed: for a reader at once, for the commit in one go. Parts of a large file go up while
it is still being written; a part that is written over goes up again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from labfs.backend import Backend, Buffer, Entry, Parts, Receipt, Source, Target, Upload
from labfs.errors import Busy, LabfsError, TooLarge, Unavailable
from labfs.reader import Reader
from labfs.spool import Ranges, SpoolFile

log = logging.getLogger(__name__)

PARTS_AT_ONCE = 4
PART_TRIES = 4
ABORT_S = 8.0  # for telling the server to forget an upload
WAIT_S = 15.0  # for a write that meets a commit; below the kernel's patience
EARLY_PARTS = 2  # whole parts that must lie in the spool before they go up ahead of the commit


class Writer:
    """The bytes of one file on their way to the server."""

    def __init__(self, spool: SpoolFile, base: Reader | None) -> None:
        self.spool = spool
        self.dirty = base is None
        self.committing = False
        self.sent = 0  # bytes of the commit under way that the server has
        self.error: LabfsError | OSError | None = None  # why the last commit failed
        self.size = base.size if base else 0
        self.modified_ns = time.time_ns()
        self._base = base
        self._base_stop = self.size  # what lies beyond is not the opened version's any more
        self._written = Ranges()
        self._lock = trio.Lock()

    # -- bytes ---------------------------------------------------------------------------------------

    async def read(self, start: int, size: int) -> Buffer:
        """Return the bytes `[start, start + size)`, fewer only at the end."""
        stop = min(start + size, self.size)
        if start >= stop:
            return b""
        if self._base is None:
            return self.spool.read(start, stop)
        data = bytearray(self.spool.read(start, stop))
        for low, high in list(self._written.gaps(start, min(stop, self._base_stop))):
            data[low - start : high - start] = await self._base.read(low, high - low)
        return data

    async def write(self, offset: int | None, data: bytes) -> int:
        """Write at `offset`, or at the end where it is None. Raises OSError when the disk is full."""
        async with self._unlocked():
            offset = self.size if offset is None else offset
            self.spool.write(offset, data)
            self._written.add(offset, offset + len(data))
            self.size = max(self.size, offset + len(data))
            self._changed()
        return len(data)

    async def truncate(self, size: int) -> None:
        async with self._unlocked():
            if size == self.size and not (size == 0 and self._base):
                return
            self.spool.truncate(size)
            self._written.cut(size)
            self._base_stop = min(self._base_stop, size)
            self.size = size
            self._changed()

    def _changed(self) -> None:
        self.dirty, self.error = True, None
        self.modified_ns = time.time_ns()

    async def sync(self) -> None:
        """Make what was written so far survive a power cut on this machine."""
        await trio.to_thread.run_sync(self.spool.sync)

    def _unlocked(self) -> _Held:
        return _Held(self._lock)

    # -- commit --------------------------------------------------------------------------------------

    async def commit(self, backend: Backend, target: Target) -> Entry | None:
        """Bring the whole file to the server; None if there was nothing to do.

        Returns when the server holds every byte and confirmed what it can confirm. On any other way
        out nothing of it stays visible there and the bytes stay in the spool.
        """
        async with self._lock:
            if not self.dirty:
                return None
            self.committing, self.sent, self.error = True, 0, None
            try:
                await self._fill()
                entry = await self._send(backend, target)
            except (LabfsError, OSError) as error:
                self.error = error
                raise
            finally:
                self.committing = False
            self.dirty = False
            return entry

    async def _fill(self) -> None:
        """Copy what the opened version still lends into the spool."""
        if self._base is None:
            return
        for low, high in list(self._written.gaps(0, self._base_stop)):
            while low < high:
                data = await self._base.read(low, min(high - low, 1024 * 1024))
                self.spool.write(low, bytes(data))
                low += len(data)
            self._written.add(0, high)
        self.spool.truncate(self.size)
        self._base = None

    async def _send(self, backend: Backend, target: Target) -> Entry:
        rules = backend.capabilities.parts
        if self.size <= backend.capabilities.whole:
            return await backend.upload(target, self.spool.source(0, self.size))
        if rules is None or self.size > rules.greatest * rules.count:
            limit = backend.capabilities.whole if rules is None else rules.greatest * rules.count
            raise TooLarge(f"“{target.name}” has {self.size} bytes; this system takes at most {limit}.")
        upload = await backend.begin_upload(target, self.size)
        try:
            receipts = await self._send_parts(upload, rules)
            return await upload.complete(receipts, self.size)
        except BaseException:
            with trio.move_on_after(ABORT_S, shield=True):
                await _abort(upload)
            raise

    async def _send_parts(self, upload: Upload, rules: Parts) -> list[Receipt]:
        """Send all parts, a few at a time; the first one that fails for good stops the others."""
        step = part_size(self.size, rules)
        waiting = iter(enumerate(range(0, self.size, step), 1))
        receipts: list[Receipt] = []

        async def work() -> None:
            for number, start in waiting:
                source = self.spool.source(start, min(start + step, self.size))
                receipts.append(await _put(upload, number, source))
                self.sent += source.size

        with _first_error():
            async with trio.open_nursery() as nursery:
                for _ in range(PARTS_AT_ONCE):
                    nursery.start_soon(work)
        return sorted(receipts, key=lambda receipt: receipt.number)


def part_size(size: int, rules: Parts) -> int:
    """Return a legal part size in bytes for a file of `size` bytes: the preferred one, or larger."""
    needed = -(-size // rules.count)
    if needed <= rules.preferred:
        return rules.preferred
    mib = 1024 * 1024  # whole ones, from which a reader can guess the part size
    return min(-(-needed // mib) * mib, rules.greatest)


async def _put(upload: Upload, number: int, source: Source) -> Receipt:
    for attempt in range(1, PART_TRIES + 1):
        try:
            return await upload.put_part(number, source)
        except Unavailable as error:
            if attempt == PART_TRIES:
                raise
            log.info("Part %d again: %s", number, error)
    raise AssertionError("unreachable")


async def _abort(upload: Upload) -> None:
    try:
        await upload.abort()
    except LabfsError as error:
        log.warning("An upload that failed could not be withdrawn: %s", error)


@contextmanager
def _first_error() -> Iterator[None]:
    """Let the error of one of several tasks out as itself, not as a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        ours = group.subgroup((LabfsError, OSError))
        raise _leaf(ours or group) from None


def _leaf(error: BaseException) -> BaseException:
    return _leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


class _Held:
    """The writer's lock, waited for no longer than a FUSE write may take."""

    def __init__(self, lock: trio.Lock) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        with trio.move_on_after(WAIT_S) as scope:
            await self._lock.acquire()
        if scope.cancelled_caught:
            raise Busy("The file is being uploaded; it can be written to again afterwards.")

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
