"""One file being written: clean → dirty → committing → clean, or failed.

Tests: core/test_saves, core/test_windows.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Protocol

import trio

from labfs.backend import Entry, Target
from labfs.errors import Conflict, LabfsError, Withdrawn
from labfs.read.reader import Reader
from labfs.write.draft import Draft
from labfs.write.early import Early, Place
from labfs.write.journal import State
from labfs.write.spool import SpoolFile
from labfs.write.upload import Transfer

COMPLETE_S = 5.0  # for which a conflict waits for the rest of the version that the save was begun on


class Destination(Place, Protocol):
    """Where a file is uploaded to: implemented by the code that saves it; the upload's tasks run in `nursery`."""

    async def aim(self) -> Target:
        """Return the target of the upload, after a check that it destroys no newer version. Raises Conflict."""
        ...

    def arrived(self, entry: Entry) -> None:
        """Record that the server has the whole file; called before any other task can look at the tree."""
        ...


class Writer(Draft):
    """The bytes of one file and their upload. `opened` is the server's version when the writing began."""

    def __init__(self, spool: SpoolFile, base: Reader | None, opened: Entry | None, destination: Destination) -> None:
        super().__init__(spool, base)
        self.opened = opened
        self._destination = destination
        self.committing = False
        self._transfer: Transfer | None = None
        self._commit = trio.Lock()
        self._early = None if base else Early(destination, spool, self._written)
        self._cancelled = trio.CancelScope()

    @classmethod
    def adopted(cls, spool: SpoolFile, base: Reader | None, opened: Entry | None, destination: Destination) -> Writer:
        """Return a writer of an earlier save; `base` reads the bytes that the spool lacks. Raises Malformed."""
        writer = cls(spool, base, opened, destination)
        writer.go_on()
        return writer

    @property
    def _sends_early(self) -> bool:
        return self._early is not None and self._early.begun

    async def write(self, offset: int | None, data: bytes) -> int:
        size = await super().write(offset, data)
        if self._early is not None:  # also while a commit looks at its target: the write is part of it then
            start = self.size - size if offset is None else offset
            self._early.wrote(start, start + size)
        return size

    async def truncate(self, size: int) -> None:
        if size < self.size:
            await self.end_early()
        await super().truncate(size)

    async def end_early(self) -> None:
        """Withdraw what was sent of the file while it was written."""
        early, self._early = self._early, None
        if early is not None:
            await early.end()

    @property
    def sent(self) -> int:
        """How many bytes of the commit under way have left this machine."""
        return 0 if self._transfer is None else self._transfer.sent

    @property
    def rate(self) -> float:
        """How many bytes a second leave this machine, of late."""
        return 0.0 if self._transfer is None else self._transfer.rate

    def cancel(self) -> bool:
        """Cancel the commit under way, which raises Withdrawn then; false if there is none."""
        if self.committing:
            self._cancelled.cancel()
        return self.committing

    async def committed(self) -> None:
        """Wait for the commit under way, if there is one."""
        async with self._commit:
            pass

    async def commit(self) -> Entry | None:
        """Upload the whole file to its destination and return its entry; None if the file was clean.

        Returns when the server holds every byte and has confirmed what it can confirm; the destination is told
        before the journal says SAVED. On an exception nothing of the upload stays visible on the server, and the
        bytes stay in the spool. Bytes written meanwhile are not part of the commit, and leave the file dirty.
        """
        async with self._commit:
            if not self.dirty:
                return None
            self.committing, self._transfer, self.error = True, None, None
            self._cancelled = trio.CancelScope()
            self._commits += 1
            sending: SpoolFile | None = None
            early: Early | None = None
            try:
                self._check_whole()
                with self._cancelled:
                    target = await self._destination.aim()
                    await self.fill()
                    sending = self._sending = self.spool
                    changes = self._changes
                    sending.describe(state=State.SENDING, size=self.size, missing=(), begun=time.time())
                    early, self._early = self._early, None
                    self._transfer = Transfer(self._destination.backend, target, sending, self.size, early)
                    entry = await self._transfer.run()
                    self._destination.arrived(entry)
                if self._cancelled.cancelled_caught:
                    await self._withdraw(sending)
            except Exception as error:
                self.error = error
                if isinstance(error, Conflict):
                    await self._complete()
                await self.end_early()
                if early is not None:
                    await early.end()  # unless the transfer took the parts over
                raise
            finally:
                self.committing, self._sending = False, None
                if sending is not None and sending is not self.spool:
                    sending.discard()
            self._saved = changes
            self.opened = entry
            if not self.dirty:
                with suppress(OSError):  # a full disk: after a crash the outbox finds out that the server has the file
                    self.spool.describe(state=State.SAVED)
            return entry

    async def _complete(self) -> None:
        """Copy what a save that conflicts lacks of the version that it was begun on, if that is still to be had."""
        with trio.move_on_after(COMPLETE_S), suppress(LabfsError, OSError):
            await self.fill()

    async def _withdraw(self, sending: SpoolFile | None) -> None:
        """Abort a cancelled commit on the server. Raises Withdrawn."""
        if self._transfer is not None:
            await self._transfer.withdraw()
        if sending is not None:
            sending.describe(died=True)  # its last request may still be carried out
        raise Withdrawn("Its upload was cancelled; its bytes are kept in the outbox.")
