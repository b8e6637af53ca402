"""One file being written: clean → dirty → committing → clean, or failed.

Tests: core/test_saves, core/test_windows.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Protocol

import trio

from labfs.backend import Backend, Entry, Target
from labfs.read.reader import Reader
from labfs.write.draft import Draft
from labfs.write.journal import State
from labfs.write.spool import SpoolFile
from labfs.write.upload import Transfer


class Destination(Protocol):
    """Where the bytes of a file go, as whoever has it saved knows; tasks that send them run in `nursery`."""

    @property
    def nursery(self) -> trio.Nursery: ...

    @property
    def backend(self) -> Backend: ...

    async def aim(self) -> Target:
        """Return the place, once saving there was found to destroy nothing. Raises Conflict."""
        ...

    def arrived(self, entry: Entry) -> None:
        """Record that the server has the whole file, before anybody can look."""
        ...


class Writer(Draft):
    """The bytes of one file on their way to the server. `opened` is what that had when the writing began."""

    def __init__(self, spool: SpoolFile, base: Reader | None, opened: Entry | None, destination: Destination) -> None:
        super().__init__(spool, base)
        self.opened = opened
        self._destination = destination
        self.committing = False
        self._transfer: Transfer | None = None
        self._commit = trio.Lock()

    @classmethod
    def adopted(cls, spool: SpoolFile, base: Reader | None, opened: Entry | None, destination: Destination) -> Writer:
        """Adopt an earlier save; `base` reads the bytes that the spool lacks. Raises Malformed."""
        writer = cls(spool, base, opened, destination)
        writer.go_on()
        return writer

    @property
    def sent(self) -> int:
        """Bytes of the commit under way that the server has."""
        return 0 if self._transfer is None else self._transfer.sent

    async def committed(self) -> None:
        """Wait for the commit under way, if there is one."""
        async with self._commit:
            pass

    async def commit(self) -> Entry | None:
        """Bring the whole file to its destination; None if there was nothing to do.

        Returns when the server holds every byte and confirmed what it can confirm, and the destination was told so,
        before the journal calls it saved. On any other way out nothing of it stays visible there and the bytes
        stay in the spool. What is written meanwhile is not part of it, and leaves the file dirty.
        """
        async with self._commit:
            if not self.dirty:
                return None
            self.committing, self._transfer, self.error = True, None, None
            self._commits += 1
            sending: SpoolFile | None = None
            try:
                self._check_whole()
                target = await self._destination.aim()
                await self.fill()
                sending = self._sending = self.spool
                changes = self._changes
                sending.describe(state=State.SENDING, size=self.size, missing=(), begun=time.time())
                self._transfer = Transfer(self._destination.backend, target, sending, self.size)
                entry = await self._transfer.run()
                self._destination.arrived(entry)
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
                    self.spool.describe(state=State.SAVED)
            return entry
