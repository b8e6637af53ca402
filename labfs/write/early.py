"""Parts that go up while their file is still written, so that its close waits for the tail alone.

For new files of systems that take parts, once more than `START` bytes were written without a gap. A part is sent when
the writing has gone past it by another one; what is written there afterwards makes the part void, and the commit sends
it again. The commit takes the upload over (`taken`); whatever else ends the writing withdraws it (`end`). Nothing of it
is visible before the commit completes it, no error of it reaches the program, and the note names the upload, so that
also a crash leaves none behind.

Tests: core/test_early.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Protocol

import trio

from labfs.backend import Backend, Multipart, Receipt, Target, Upload
from labfs.errors import LabfsError, Unavailable, ungrouped
from labfs.write.journal import Begun
from labfs.write.ranges import Ranges
from labfs.write.spool import SpoolFile

log = logging.getLogger(__name__)

START = 16 * 1024 * 1024  # bytes: of a smaller file the close does not take long
AT_ONCE = 8  # parts, at most
ABORT_S = 8.0  # timeout for withdrawing an upload


def parts_at_once(backend: Backend) -> int:
    """Return how many parts are sent at the same time: half of what the site allows is left to others."""
    return max(min(AT_ONCE, backend.capabilities.connections // 2), 1)


class Place(Protocol):
    """Where a file that is being written will be saved, as things stand."""

    @property
    def backend(self) -> Backend: ...

    @property
    def nursery(self) -> trio.Nursery: ...

    def target(self) -> Target | None:
        """Return the target of a save, without any check; None where the name is not the last one."""
        ...


class Early:
    """The early parts of one file; `written` are the ranges of it that are in `spool`."""

    def __init__(self, place: Place, spool: SpoolFile, written: Ranges) -> None:
        self._place = place
        self._spool = spool
        self._written = written
        self._target: Target | None = None
        self._upload: Upload | None = None
        self._step = 0  # the size of a part in bytes
        self._next = 1  # the number of the part to be sent next
        self._sending: set[int] = set()  # parts under way of which nothing was written since
        self._receipts: dict[int, Receipt] = {}
        self._news = trio.Event()
        self._closing = False
        self._scope = trio.CancelScope()
        self._ended: trio.Event | None = None  # once begun

    @property
    def begun(self) -> bool:
        return self._ended is not None

    def wrote(self, start: int, stop: int) -> None:
        """Record a write: begin if enough is there, send what is whole, void what is overwritten."""
        if self._ended is not None:
            self._void(start, stop)  # also when no further part is sent, since the commit takes those that were
        if self._closing:
            return
        if self._ended is not None:
            news, self._news = self._news, trio.Event()
            news.set()
        elif stop > START and self._reach() > START:
            self._begin()

    def _reach(self) -> int:
        """Return how many bytes from the beginning are written without a gap."""
        first = next(iter(self._written), (0, 0))
        return first[1] if first[0] == 0 else 0

    def _void(self, start: int, stop: int) -> None:
        for number in range(start // self._step + 1, min(-(-stop // self._step), self._next - 1) + 1):
            self._receipts.pop(number, None)
            self._sending.discard(number)

    def _begin(self) -> None:
        backend, target = self._place.backend, self._place.target()
        multipart = backend.multipart
        if multipart is None or target is None or target.parent.takes.whole is not None:
            self._closing = True  # for good: it goes up at its close
            return
        if self._reach() > backend.capabilities.whole:
            self._target, self._step, self._ended = target, multipart.rules.preferred, trio.Event()
            self._place.nursery.start_soon(self._run, multipart, target, self._ended)

    # -- sending ---------------------------------------------------------------------------------------

    async def _run(self, multipart: Multipart, target: Target, ended: trio.Event) -> None:
        try:
            with self._scope:
                self._upload = await multipart.begin(target, None)
                self._spool.describe(upload=Begun(self._upload.token, self._step))
                async with trio.open_nursery() as nursery:
                    for _ in range(parts_at_once(self._place.backend)):
                        nursery.start_soon(self._send, self._upload)
        except Exception as failure:  # the commit sends what is lacking, or says why not
            error = ungrouped(failure) if isinstance(failure, BaseExceptionGroup) else failure
            expected = isinstance(error, LabfsError | OSError)
            log.log(logging.INFO if expected else logging.ERROR, "“%s” is sent when closed: %r", target.name, error)
        finally:
            self._closing = True
            ended.set()

    async def _send(self, upload: Upload) -> None:
        while not self._closing:
            stop = self._next * self._step
            if stop + self._step > self._reach() or self._next > self._most():
                await self._news.wait()
                continue
            number, self._next = self._next, self._next + 1
            self._sending.add(number)
            receipt = await upload.put_part(number, self._spool.source(stop - self._step, stop))
            if number in self._sending:
                self._sending.remove(number)
                self._receipts[number] = receipt

    def _most(self) -> int:
        multipart = self._place.backend.multipart
        return 0 if multipart is None else multipart.rules.count

    # -- the end -----------------------------------------------------------------------------------------

    async def _stop(self, *, at_once: bool) -> None:
        """Send no further part, and wait for those that are under way unless they are to end at once."""
        self._closing = True
        self._news.set()
        if at_once:
            self._scope.cancel()
        if self._ended is not None:
            await self._ended.wait()

    async def taken(self, target: Target, size: int, step: int) -> tuple[Upload, Begun] | None:
        """Return the upload with its good parts, to be gone on with; None if it does not fit, and is withdrawn."""
        await self._stop(at_once=False)
        if self._upload is None:
            return None
        same = self._target is not None and _of(target) == _of(self._target)
        if not same or step != self._step or size <= (self._next - 1) * step:
            await self.end()
            return None
        upload, self._upload = self._upload, None
        receipts = tuple(self._receipts[number] for number in sorted(self._receipts))
        return upload, Begun(upload.token, step, receipts)

    async def end(self) -> None:
        """Withdraw the upload, if one was begun and not taken."""
        await self._stop(at_once=True)
        upload, self._upload = self._upload, None
        if upload is None:
            return
        with trio.move_on_after(ABORT_S, shield=True):
            try:
                await upload.abort()
            except LabfsError as error:
                log.warning("An upload that was not needed could not be withdrawn: %s", error)
                return
        with suppress(OSError):
            if self._spool.path.exists():
                self._spool.describe(upload=None)


async def withdraw(backend: Backend, target: Target, token: str) -> None:
    """Withdraw an upload that was begun earlier. Raises Unavailable where the site cannot be asked."""
    try:
        if backend.multipart is not None:
            await (await backend.multipart.resume(target, token)).abort()
    except Unavailable:
        raise
    except (LabfsError, KeyError, TypeError) as error:
        log.info("An upload is gone, or cannot be withdrawn: %r", error)


def _of(target: Target) -> tuple[str, tuple[str, ...], str]:
    return target.parent.id, target.folders, target.name
