"""The upload of a file to its server: as one body, or in parts that a retry, or a later mount, can resume.

Tests: core/test_spool, core/test_vfs.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from labfs.backend import Backend, Entry, Multipart, Parts, Receipt, Source, Target, Upload, largest
from labfs.errors import Garbled, LabfsError, NotFound, TooLarge, Unavailable, Unsupported, ungrouped
from labfs.write.early import ABORT_S, Early, parts_at_once
from labfs.write.journal import Begun
from labfs.write.spool import SpoolFile

log = logging.getLogger(__name__)

PART_TRIES = 4


class Transfer:
    """One attempt to upload the first `size` bytes of a spool file."""

    def __init__(
        self, backend: Backend, target: Target, spool: SpoolFile, size: int, early: Early | None = None
    ) -> None:
        self._done = 0  # bytes of the parts that the server has
        self._early = early  # parts that were sent while the file was written
        self._flying: list[_Counted] = []
        self._upload: Upload | None = None
        self._speed = Speed(lambda: self.sent)
        self._backend = backend
        self._target = target
        self._spool = spool
        self._size = size

    @property
    def sent(self) -> int:
        """How many bytes have left this machine: of a request that is repeated, those of the last attempt."""
        return self._done + sum(body.given for body in self._flying)

    @property
    def rate(self) -> float:
        """How many bytes a second leave this machine, of late."""
        return self._speed.rate

    async def withdraw(self) -> None:
        """Abort what the server has of a cancelled multipart upload."""
        if self._early is not None:
            await self._early.end()
        if self._upload is not None:
            self._spool.describe(upload=None)
            with trio.move_on_after(ABORT_S, shield=True):
                await _abort(self._upload)

    async def run(self) -> Entry:
        """Upload the file and return its entry on the server. An error other than Unavailable aborts the upload."""
        place = self._target.parent.takes
        multipart, most = self._backend.multipart, largest(self._backend, place)
        if self._early is not None and self._size <= self._backend.capabilities.whole:
            await self._early.end()
        if self._size <= (self._backend.capabilities.whole if place.whole is None else most):
            return await self._backend.upload(self._target, self._counted(0, self._size))
        if multipart is None or self._size > most:
            what = f"“{self._target.name}” has {self._size:,} bytes"
            raise TooLarge(f"{what}; this system takes {most:,} at most.")
        upload, begun = await self._begin(multipart)
        self._upload = upload
        try:
            receipts = await self._send_parts(upload, begun)
            return await upload.complete(receipts, self._size)
        except Unavailable:
            raise  # to be resumed later: the server keeps the parts that it has
        except BaseException as error:
            if not isinstance(error, trio.Cancelled):
                self._spool.describe(upload=None)
                with trio.move_on_after(ABORT_S, shield=True):
                    await _abort(upload)
            raise

    async def _begin(self, multipart: Multipart) -> tuple[Upload, Begun]:
        """Begin a multipart upload, or resume one that an earlier attempt left."""
        if self._early is not None:
            taken = await self._early.taken(self._target, self._size, part_size(self._size, multipart.rules))
            if taken is not None:
                self._spool.describe(upload=taken[1])
                return taken
        earlier = self._spool.note.upload
        if earlier is not None:
            try:
                upload = await multipart.resume(self._target, earlier.token)
                log.info("Going on with an upload: %d parts are there.", len(earlier.receipts))
            except (NotFound, Unsupported, KeyError, TypeError):
                self._spool.describe(upload=None)
            else:
                return upload, earlier
        upload = await multipart.begin(self._target, self._size)
        begun = Begun(upload.token, part_size(self._size, multipart.rules))
        self._spool.describe(upload=begun)
        return upload, begun

    async def _send_parts(self, upload: Upload, begun: Begun) -> list[Receipt]:
        """Send all parts but those sent earlier, several at a time; the first error cancels the others."""
        receipts = {receipt.number: receipt for receipt in begun.receipts}
        self._done = sum(receipt.size for receipt in begun.receipts)
        starts = enumerate(range(0, self._size, begun.step), 1)
        waiting = iter([(number, start) for number, start in starts if number not in receipts])

        async def work() -> None:
            for number, start in waiting:
                source = self._counted(start, min(start + begun.step, self._size))
                receipts[number] = await _put(upload, number, source)
                self._flying.remove(source)
                self._done += source.size
                self._spool.describe(upload=Begun(upload.token, begun.step, tuple(receipts.values())))

        with _first_error():
            async with trio.open_nursery() as nursery:
                for _ in range(parts_at_once(self._backend)):
                    nursery.start_soon(work)
        return [receipts[number] for number in sorted(receipts)]

    def _counted(self, start: int, stop: int) -> _Counted:
        body = _Counted(self._spool.source(start, stop), self._speed)
        self._flying.append(body)
        return body


class _Counted:
    """A body that counts the bytes taken of it, in whatever thread they are taken."""

    def __init__(self, source: Source, speed: Speed) -> None:
        self._source = source
        self._speed = speed
        self.given = 0

    @property
    def size(self) -> int:
        return self._source.size

    def chunks(self) -> Iterator[bytes]:
        self.given = 0
        for chunk in self._source.chunks():
            yield chunk
            self.given += len(chunk)
            self._speed.note()

    def md5(self) -> bytes:
        return self._source.md5()


class Speed:
    """The rate at which a count of bytes grows, over the last `WINDOW_S`."""

    WINDOW_S, STEP_S = 10.0, 0.25

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._samples = deque([(time.monotonic(), count())], maxlen=int(self.WINDOW_S / self.STEP_S))

    def note(self) -> None:
        """Take a sample, if it is time for one."""
        now = time.monotonic()
        if now - self._samples[-1][0] >= self.STEP_S:
            self._samples.append((now, self._count()))

    @property
    def rate(self) -> float:
        """Bytes a second."""
        now = time.monotonic()
        since, count = next((s for s in list(self._samples) if now - s[0] <= self.WINDOW_S), (now, 0))
        return max(self._count() - count, 0) / (now - since) if now > since else 0.0


def part_size(size: int, rules: Parts) -> int:
    """Return a legal part size in bytes for a file of `size` bytes: the preferred one, or larger."""
    needed = -(-size // rules.count)
    if needed <= rules.preferred:
        return rules.preferred
    mib = 1024 * 1024  # part sizes in whole MiB, which a reader can guess
    return min(-(-needed // mib) * mib, rules.greatest)


async def _put(upload: Upload, number: int, source: Source) -> Receipt:
    for _ in range(PART_TRIES - 1):
        try:
            return await upload.put_part(number, source)
        except Garbled as error:  # after other errors the client itself has retried already
            log.info("Part %d again: %s", number, error)
    return await upload.put_part(number, source)


async def _abort(upload: Upload) -> None:
    try:
        await upload.abort()
    except LabfsError as error:
        log.warning("An upload that failed could not be withdrawn: %s", error)


@contextmanager
def _first_error() -> Iterator[None]:
    """Raise the error of one of several tasks itself instead of an exception group."""
    try:
        yield
    except BaseExceptionGroup as group:
        raise ungrouped(group) from None
