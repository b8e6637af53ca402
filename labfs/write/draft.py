"""The bytes of one file while it is written: those in the spool, over those of the version that was opened.

All writes go to the spool, and none ever waits for the network. Bytes that were not written come from the opened
version, which is read on demand: by a reader for the range it asks for, by the commit as far as it is needed.

Tests: core/test_spool.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Unpack

import trio

from labfs.backend import Buffer
from labfs.errors import Malformed, TimedOut
from labfs.read.reader import Reader
from labfs.write.journal import Changes, State
from labfs.write.ranges import Ranges
from labfs.write.spool import SpoolFile

FILLED = 1024 * 1024  # bytes of the opened version that are copied at a time
PROVED_ALONG = 64 * 1024 * 1024  # bytes at most that are read only to check the version, where fewer are needed
ENDED = (State.DRAFT, State.SAVED, State.SENDING, State.WAITING)  # states in which a spool file was closed


class Draft:
    """The bytes written to a file, over those that `base` reads; `base` is None for a new or truncated file."""

    def __init__(self, spool: SpoolFile, base: Reader | None) -> None:
        self.spool = spool
        self.error: Exception | None = None  # why the last commit failed
        self.size = base.size if base else 0
        self.modified_ns = time.time_ns()
        self._lost: list[tuple[int, int]] = []  # ranges of failed writes that were not overwritten or cut off since
        self._refused = False  # whether a length was refused, and no write or truncation has succeeded since
        self._why_lost: Exception | None = None
        self._changes = 0 if base else 1  # a new file counts as a change, also while it is empty
        self._saved = 0  # the change up to which the server has the file
        self._base = base
        self._base_stop = self.size  # bytes from this offset on are not read from the opened version
        self._written = Ranges()
        self._commits = 0  # commits begun
        self._sending: SpoolFile | None = None  # must not change while a commit reads it
        self._copy = trio.Lock()

    def go_on(self) -> None:
        """Take over the spool file of an earlier save; `base` reads the bytes that it lacks. Raises Malformed."""
        note, there = self.spool.note, os.stat(self.spool.path).st_size
        missing = sorted(note.missing)
        if missing and note.size is None:
            raise Malformed("Nobody knows which bytes of the file it changed; what was written is kept.")
        self.size = needed = there if note.size is None else note.size
        for start, stop in reversed(missing):
            needed = start if start < needed <= stop else needed
        if there < needed:
            raise Malformed("Some of its bytes did not reach the disk before the machine stopped.")
        position = 0
        for start, stop in missing:
            self._written.add(position, start)
            position = stop
        self._written.add(position, self.size)
        self._base_stop = max((stop for _, stop in missing), default=0)
        self._changes += 1

    @property
    def dirty(self) -> bool:
        """Whether there are changes that the server does not have."""
        return self._changes != self._saved

    @property
    def whole(self) -> bool:
        """Whether no write or length was lost."""
        return not self._lost and not self._refused

    @property
    def _sends_early(self) -> bool:
        """Whether the upload in the note is one that follows the changes."""
        return False

    def touch(self) -> None:
        """Count a change, so that the next commit saves the file, even if no byte of it is new."""
        self._changes += 1
        note = self.spool.note
        told = note.state in ENDED or (note.state is State.FAILED and note.size is not None)
        if self._sending is not self.spool and (told or note.synced or (note.upload and not self._sends_early)):
            # The note must no longer call the file closed or synced, nor continue an upload of the earlier bytes.
            upload = note.upload if self._sends_early else None
            self.spool.reopen(((0, self._base_stop),) if self._base else (), upload)
        self.error = None
        self.modified_ns = time.time_ns()

    def void(self) -> None:
        """Drop all changes: another file has replaced this one."""
        self._saved = self._changes

    async def read(self, start: int, size: int) -> Buffer:
        """Return the bytes `[start, start + size)`, fewer only at the end of the file."""
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
        """Write at `offset`, or at the end if `offset` is None. Raises OSError, e.g. when the disk is full."""
        await self._separate()
        offset = self.size if offset is None else offset
        self.spool.write(offset, data)
        self._written.add(offset, offset + len(data))
        self.size = max(self.size, offset + len(data))
        self._make_good(offset, offset + len(data))
        self.touch()
        return len(data)

    def lose(self, offset: int, size: int, error: BaseException) -> None:
        """Record the range of a failed write: without its bytes the file is incomplete, and a commit raises `error`."""
        late = TimedOut("Some of what was written came too late, and is missing.")
        self._lost.append((offset, offset + size))
        self._why_lost = error if isinstance(error, Exception) else late
        if self._sending is not self.spool:
            self.spool.cut(self.size)
        self.touch()

    def refuse(self, error: Exception) -> None:
        """Record that a length was refused, so that a commit raises `error` unless the program writes again."""
        self._refused, self._why_lost = True, error
        self.touch()

    def _make_good(self, start: int, stop: int | None = None) -> None:
        """Remove a range that was written or cut off after all from the ranges of failed writes."""
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
        """Switch to a copy of the spool file while a commit is sending that file (copy on write)."""
        if self._sending is not self.spool:
            return
        async with self._copy:
            while self._sending is self.spool:
                commit, twin = self._commits, await trio.to_thread.run_sync(self.spool.copy)
                if self._sending is self.spool and self._commits == commit:
                    self.spool = twin
                else:  # the commit ended meanwhile, so that its file may be changed
                    twin.discard()

    def _check_whole(self) -> None:
        """Raises the error of a write or length that was lost."""
        if not self.whole and self._why_lost is not None:
            raise self._why_lost

    async def sync(self) -> None:
        """Sync to disk what was written so far, so that it survives a power cut. Raises the error of a lost write."""
        self._check_whole()
        changes = self._changes
        await trio.to_thread.run_sync(partial(self.persist, synced=True))
        if self._changes != changes:  # written to meanwhile: the note must not claim that all is synced
            self.spool.describe(synced=False)

    def describe(self, **news: Unpack[Changes]) -> None:
        """Write the note, with the file's size and the ranges that the spool still lacks."""
        news["missing"] = tuple(self._written.gaps(0, self._base_stop)) if self._base else ()
        news["size"] = self.size
        self.spool.describe(**news)

    def persist(self, **news: Unpack[Changes]) -> None:
        """Write the note, and sync the spool file to disk. Blocks."""
        self.describe(**news)
        self.spool.sync()

    async def fill(self) -> None:
        """Copy the ranges that were not written from the opened version into the spool.

        The copy counts as written once it is complete: if the version proves damaged at its end, nothing of it is
        used. So the version is read as a whole where that can prove it and little of it was overwritten.
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
        """Yield, in order, the ranges of the opened version that are to be read to complete the file."""
        gaps = list(self._written.gaps(0, self._base_stop))
        lent = sum(stop - start for start, stop in gaps)
        if lent and base.unproved and base.size - lent <= max(lent, PROVED_ALONG):
            gaps = [(0, base.size)]
        for start, stop in gaps:
            for low in range(start, stop, FILLED):
                yield low, min(low + FILLED, stop)
