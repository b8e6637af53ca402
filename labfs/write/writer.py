"""One file being written: clean → dirty → committing → clean, or failed.

All writes go to the spool, and none ever waits for the network. What was not written yet comes from the
version that was opened, which is read when it is needed: for a reader at once, for the commit in one go.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import trio

from labfs.backend import Backend, Buffer, Entry, Parts, Receipt, Source, Target, Upload
from labfs.errors import (
    Garbled,
    LabfsError,
    Malformed,
    NotFound,
    TimedOut,
    TooLarge,
    Unavailable,
    Unsupported,
    ungrouped,
)
from labfs.read.reader import Reader
from labfs.write.spool import CHANGED, Ranges, SpoolFile

log = logging.getLogger(__name__)

PARTS_AT_ONCE = 4
PART_TRIES = 4
FILLED = 1024 * 1024  # bytes of the opened version that are copied at a time
PROVED_ALONG = 64 * 1024 * 1024  # bytes that are read for their proof alone, at most, where more is not needed
ABORT_S = 8.0  # for telling the server to forget an upload
ENDED = ("draft", "saved", "sending", "waiting")  # states in which a spool holds what was closed


class Writer:
    """The bytes of one file on their way to the server.

    `opened` is what the server had when the writing began, and `base` reads it; None where there was
    nothing, or nothing of it is wanted.
    """

    def __init__(self, spool: SpoolFile, base: Reader | None, opened: Entry | None = None) -> None:
        self.spool = spool
        self.opened = opened
        self.committing = False
        self.sent = 0  # bytes of the commit under way that the server has
        self.error: Exception | None = None  # why the last commit failed
        self.size = base.size if base else 0
        self.modified_ns = time.time_ns()
        self._lost: list[tuple[int, int]] = []  # ranges of writes that failed and were not made good since
        self._refused = False  # a length that was not made good since
        self._why_lost: Exception | None = None
        self._changes = 0 if base else 1  # a new file is one, also while it is empty
        self._saved = 0  # the change up to which the server has the file
        self._base = base
        self._base_stop = self.size  # what lies beyond is not the opened version's any more
        self._written = Ranges()
        self._commits = 0  # begun
        self._sending: SpoolFile | None = None  # must not change while it is read by a commit
        self._commit = trio.Lock()
        self._copy = trio.Lock()

    @classmethod
    def adopted(cls, spool: SpoolFile, base: Reader | None, opened: Entry | None) -> Writer:
        """Go on with what an earlier save left; `base` reads the bytes that the spool lacks."""
        writer = cls(spool, base, opened)
        missing = [(start, stop) for start, stop in spool.note.get("missing", [])]
        size, there = spool.note.get("size"), os.stat(spool.path).st_size
        if missing and size is None:
            raise Malformed("Nobody knows which bytes of the file it changed; what was written is kept.")
        writer.size = needed = there if size is None else int(size)
        for start, stop in sorted(missing, reverse=True):
            needed = start if start < needed <= stop else needed
        if there < needed:
            raise Malformed("Some of its bytes did not reach the disk before the machine stopped.")
        position = 0
        for start, stop in sorted(missing):
            writer._written.add(position, start)
            position = stop
        writer._written.add(position, writer.size)
        writer._base_stop = max((stop for _, stop in missing), default=0)
        writer._changes += 1
        return writer

    # -- bytes ---------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether there is something that the server does not have."""
        return self._changes != self._saved

    @property
    def whole(self) -> bool:
        """Whether all that was written is here."""
        return not self._lost and not self._refused

    def touch(self) -> None:
        """Count a change, so that the file is saved although no byte of it is new."""
        self._changes += 1
        note = self.spool.note
        told = note["state"] in ENDED or (note["state"] == "failed" and note.get("size") is not None)
        if self._sending is not self.spool and (told or note.get("synced") or note.get("upload")):
            # What was closed or synced is no whole file any more, and parts that a server has are not of this one.
            state = "writing" if note["state"] in ENDED else note["state"]
            missing = [[0, self._base_stop]] if self._base else []
            self.spool.describe(state=state, missing=missing, **CHANGED)
        self.error = None
        self.modified_ns = time.time_ns()

    def void(self) -> None:
        """Give up all changes: something else has taken the file's place."""
        self._saved = self._changes

    async def read(self, start: int, size: int) -> Buffer:
        """Return the bytes `[start, start + size)`, fewer only at the end."""
        stop = min(start + size, self.size)
        if start >= stop:
            return b""
        base, data = self._base, self.spool.read(start, stop)
        gaps = list(self._written.gaps(start, min(stop, self._base_stop)))
        if base is None or not gaps:
            return data
        whole = bytearray(data)
        for low, high in gaps:
            whole[low - start : high - start] = await base.read(low, high - low)
        return whole

    async def write(self, offset: int | None, data: bytes) -> int:
        """Write at `offset`, or at the end where it is None. Raises OSError when the disk is full."""
        await self._separate()
        offset = self.size if offset is None else offset
        self.spool.write(offset, data)
        self._written.add(offset, offset + len(data))
        self.size = max(self.size, offset + len(data))
        self._make_good(offset, offset + len(data))
        self.touch()
        return len(data)

    def lose(self, offset: int, size: int, error: BaseException) -> None:
        """Take note that a write failed: what lacks its bytes is not the file, and not saved as if it were."""
        late = TimedOut("Some of what was written came too late, and is missing.")
        self._lost.append((offset, offset + size))
        self._why_lost = error if isinstance(error, Exception) else late
        if self._sending is not self.spool:
            self.spool.cut(self.size)
        self.touch()

    def refuse(self, error: Exception) -> None:
        """Take note that a length was refused: whoever only closes now does not know that; whoever goes on does."""
        self._refused, self._why_lost = True, error
        self.touch()

    def _make_good(self, start: int, stop: int | None = None) -> None:
        """Take note that what was lost in a range has been written, or cut off, after all."""
        end = float("inf") if stop is None else stop
        left = [(low, min(high, start)) for low, high in self._lost if low < start]
        self._lost = left + [(int(max(low, end)), high) for low, high in self._lost if high > end]
        self._refused = False

    async def truncate(self, size: int) -> None:
        await self._separate()
        self._make_good(size)
        if size == self.size and not (size == 0 and self._base):
            return
        self.spool.truncate(size)
        self._written.cut(size)
        self._base_stop = min(self._base_stop, size)
        self.size = size
        self.touch()

    async def _separate(self) -> None:
        """Leave the bytes that a commit is sending alone: change a copy of them instead."""
        if self._sending is not self.spool:
            return
        async with self._copy:
            while self._sending is self.spool:
                commit, twin = self._commits, await trio.to_thread.run_sync(self.spool.copy)
                if self._sending is self.spool and self._commits == commit:
                    self.spool = twin
                else:  # the commit ended meanwhile, and what it sent is nobody else's any more
                    twin.discard()

    def _check_whole(self) -> None:
        """Raises what made a write fail."""
        if not self.whole and self._why_lost is not None:
            raise self._why_lost

    async def sync(self) -> None:
        """Make what was written so far survive a power cut on this machine. Raises what made a write fail."""
        self._check_whole()
        changes = self._changes
        await trio.to_thread.run_sync(partial(self.keep, synced=True))
        if self._changes != changes:  # written to meanwhile, which the note does not tell
            self.spool.describe(synced=False)

    def describe(self, **news: Any) -> None:
        """Write the note with what the spool still lacks of the file."""
        missing = list(self._written.gaps(0, self._base_stop)) if self._base else []
        self.spool.describe(missing=missing, size=self.size, **news)

    def keep(self, **news: Any) -> None:
        """Write the note, and all of the file to the disk. Blocks."""
        self.describe(**news)
        self.spool.sync()

    # -- commit --------------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Wait for the commit under way, if there is one."""
        async with self._commit:
            pass

    async def commit(
        self, backend: Backend, aim: Callable[[], Awaitable[Target]], arrived: Callable[[Entry], None]
    ) -> Entry | None:
        """Bring the whole file to where `aim` says; None if there was nothing to do.

        Returns when the server holds every byte and confirmed what it can confirm, and `arrived` was told so,
        before the journal calls it saved. On any other way out nothing of it stays visible there and the bytes
        stay in the spool. What is written meanwhile is not part of it, and leaves the file dirty.
        """
        async with self._commit:
            if not self.dirty:
                return None
            self.committing, self.sent, self.error = True, 0, None
            self._commits += 1
            sending: SpoolFile | None = None
            try:
                self._check_whole()
                target = await aim()
                await self.fill()
                sending = self._sending = self.spool
                changes = self._changes
                sending.describe(state="sending", size=self.size, missing=[], begun=time.time())
                entry = await self._send(backend, target, sending, self.size)
                arrived(entry)
            except Exception as error:
                self.error = error
                raise
            finally:
                self.committing, self._sending = False, None
                if sending is not None and sending is not self.spool:
                    sending.discard()
            self._saved = changes
            self.opened = entry
            if not self.dirty:
                with suppress(OSError):  # a full disk: after a crash it is found out
                    self.spool.describe(state="saved")
            return entry

    async def fill(self) -> None:
        """Copy what the opened version still lends into the spool, but over nothing that was written.

        What is copied counts as written once all of it is there: a version that proves to be damaged in the end
        has lent nothing. So it is read as a whole where that can prove it and little of it was overwritten.
        """
        base = self._base
        if base is None:
            return
        for low, high in self._borrowed(base):
            data = memoryview(await base.read(low, high - low))
            for start, stop in list(self._written.gaps(low, min(high, self._base_stop))):
                self.spool.write(start, data[start - low : stop - low])
        self.spool.truncate(self.size)
        self._written.add(0, self._base_stop)
        self._base = None

    def _borrowed(self, base: Reader) -> Iterator[tuple[int, int]]:
        """Yield, in order, the ranges of the opened version that are to be read for a whole file."""
        gaps = list(self._written.gaps(0, self._base_stop))
        lent = sum(stop - start for start, stop in gaps)
        if lent and base.unproved and base.size - lent <= max(lent, PROVED_ALONG):
            gaps = [(0, base.size)]
        for start, stop in gaps:
            for low in range(start, stop, FILLED):
                yield low, min(low + FILLED, stop)

    async def _send(self, backend: Backend, target: Target, spool: SpoolFile, size: int) -> Entry:
        can, rules = backend.capabilities, backend.capabilities.parts
        if size <= can.whole:
            return await backend.upload(target, spool.source(0, size))
        if rules is None or size > can.largest:
            raise TooLarge(f"“{target.name}” has {size:,} bytes; this system takes {can.largest:,} at most.")
        upload, step, sent = await _begin(backend, target, rules, spool, size)
        try:
            receipts = await self._send_parts(upload, step, sent, spool, size)
            return await upload.complete(receipts, size)
        except Unavailable:
            raise  # to go on with later: the server keeps what it has
        except BaseException as error:
            if not isinstance(error, trio.Cancelled):
                spool.describe(upload=None)
                with trio.move_on_after(ABORT_S, shield=True):
                    await _abort(upload)
            raise

    async def _send_parts(
        self, upload: Upload, step: int, sent: list[Receipt], spool: SpoolFile, size: int
    ) -> list[Receipt]:
        """Send all parts but those `sent` earlier, a few at a time; the first one that fails stops the others."""
        receipts = {receipt.number: receipt for receipt in sent}
        self.sent = sum(receipt.size for receipt in sent)
        waiting = iter([(n, start) for n, start in enumerate(range(0, size, step), 1) if n not in receipts])

        async def work() -> None:
            for number, start in waiting:
                source = spool.source(start, min(start + step, size))
                receipts[number] = await _put(upload, number, source)
                self.sent += source.size
                _note_progress(spool, upload, step, receipts.values())

        with _first_error():
            async with trio.open_nursery() as nursery:
                for _ in range(PARTS_AT_ONCE):
                    nursery.start_soon(work)
        return [receipts[number] for number in sorted(receipts)]


async def _begin(
    backend: Backend, target: Target, rules: Parts, spool: SpoolFile, size: int
) -> tuple[Upload, int, list[Receipt]]:
    """Start an upload, or go on with one that an earlier try left; return it, its part size and its receipts."""
    earlier = spool.note.get("upload")
    if earlier is not None:
        try:
            upload = await backend.resume_upload(target, earlier["token"])
            receipts = [Receipt(*receipt) for receipt in earlier["receipts"]]
            log.info("Going on with an upload: %d parts are there.", len(receipts))
        except (NotFound, Unsupported, KeyError, TypeError):
            spool.describe(upload=None)
        else:
            return upload, int(earlier["step"]), receipts
    upload, step = await backend.begin_upload(target, size), part_size(size, rules)
    _note_progress(spool, upload, step, ())
    return upload, step, []


def _note_progress(spool: SpoolFile, upload: Upload, step: int, receipts: Iterable[Receipt]) -> None:
    kept = [[receipt.number, receipt.tag, receipt.size] for receipt in receipts]
    spool.describe(upload={"token": upload.token, "step": step, "receipts": kept})


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
        except Garbled as error:  # anything else the client has tried again already
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
        raise ungrouped(group) from None
