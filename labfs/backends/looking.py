"""After a lost answer: what a change made is looked for before it is sent again, and made once in the end.

A service may go on with a request for as long as its workers live, 90 s at the Portal, after whatever stands before
it gave up waiting. So looks go on for that long where no answer of the service itself came, and briefly where it
said that it failed. What is sent a second time may end as two: the surplus is taken away where that is possible.

A look that fails tells nothing: nothing is sent again before one has told that nothing is there.

Tests: unit/test_looking, backends/test_lost_answers.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import trio

from labfs.backend import Buffer, Content, Source
from labfs.errors import LabfsError, Malformed, NotFound, Unanswered, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

USUAL_S = 8.0  # silence that a site is granted, for which the pauses are
LONG_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)
BRIEF_S = (0.0, 1.0)
TRIES = 3
DOUBTS = 1000  # changes whose fate is not known, kept at most
WITHDRAW_S = 8.0  # for taking away a surplus

Doubtful = (Unanswered, Malformed)  # what leaves the fate of a change open: a page or a torn answer is no answer


async def nothing_to_withdraw(made: Any) -> None:
    """Leave a surplus where it is: the system cannot delete."""


class Looking:
    """Looks after the changes of one site; `timeout_s` is the silence that it is granted, in seconds.

    What is still open when a change is given up, or cancelled, is remembered: the next try begins with a look.
    """

    def __init__(self, timeout_s: float = USUAL_S) -> None:
        scale = min(timeout_s / USUAL_S, 1.0)
        self.long_s = tuple(pause_s * scale for pause_s in LONG_S)
        self.brief_s = tuple(pause_s * scale for pause_s in BRIEF_S)
        self._doubts: dict[str, tuple[Change[Any], float]] = {}  # by key, with the time when one was lost

    async def once(self, change: Change[T]) -> T:
        """Carry a change out; return what it made. Raises what its last try raised."""
        earlier, sent_at = self._doubts.get(change.key, (None, 0.0))
        again = earlier is not None and earlier.mark == change.mark
        if earlier is not None and again:
            change.began = earlier.began
            if found := await self._seen_since(change, sent_at):
                return await self._only(change, found[0])
        for attempt in range(1, TRIES + 1):
            try:
                made = await self._sent(change)
            except Doubtful as error:
                found = await self.seen(change.ours, error)
                if found:
                    return await self._only(change, found[0], look=attempt > 1)
                if attempt == TRIES:
                    raise
                log.info("%s Nothing of it arrived; sending it again.", error)
            else:
                return await self._only(change, made, look=attempt > 1 or again)
        raise AssertionError("unreachable")

    async def _sent(self, change: Change[T]) -> T:
        """Send a change; note a doubt unless the service refused it. One that is cancelled may arrive as well."""
        try:
            return await change.send()
        except BaseException as error:
            if not isinstance(error, LabfsError) or isinstance(error, (Unavailable, Malformed)):
                lost = not isinstance(error, Unavailable) or (isinstance(error, Unanswered) and error.lost)
                self._doubt(change, trio.current_time() if lost else -math.inf)
            raise

    def _doubt(self, change: Change[Any], sent_at: float) -> None:
        self._doubts.pop(change.key, None)
        self._doubts[change.key] = change, sent_at
        if len(self._doubts) > DOUBTS:
            del self._doubts[next(iter(self._doubts))]

    @contextmanager
    def confirming(self, change: Change[Any]) -> Iterator[None]:
        """Hold that a change is in doubt if it cannot be confirmed now: the next try looks before it sends."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, LabfsError) or isinstance(error, Unavailable):
                self._doubt(change, -math.inf)
            raise

    async def _seen_since(self, change: Change[T], sent_at: float) -> Sequence[T]:
        """Look for what an earlier try sent, for the rest of the time that it may take."""
        found = await change.ours()
        over = sent_at + sum(self.long_s)
        for pause_s in self.long_s:
            if found or trio.current_time() + pause_s > over:
                break
            await trio.sleep(pause_s)
            found = await change.ours()
        return found

    async def _only(self, change: Change[T], made: T, *, look: bool = True) -> T:
        """Keep what was made and take away what else of ours arrived, which only a change sent twice can have."""
        self._doubts.pop(change.key, None)
        if look:
            with trio.move_on_after(WITHDRAW_S):
                try:
                    for other in await change.ours():
                        if change.name(other) != change.name(made):
                            log.info("“%s” arrived twice; one of the two is taken away.", change.key)
                            await change.withdraw(other)
                except LabfsError as error:
                    log.warning("Whether “%s” arrived twice is not known: %s", change.key, error)
        return made

    async def seen(self, look: Callable[[], Awaitable[Sequence[T]]], error: LabfsError) -> Sequence[T]:
        """Look for what an unanswered change made until something is there. Raises `error` where no look succeeds."""
        failed: LabfsError | None = None
        for pause_s in self.pauses_s(error):
            await trio.sleep(pause_s)
            try:
                found = await look()
            except (Unavailable, Malformed, NotFound) as failure:
                failed = failure
                continue
            failed = None
            if found:
                return found
        if failed is not None:
            raise error from failed
        return ()

    def pauses_s(self, error: LabfsError) -> tuple[float, ...]:
        """Return the pauses before each look, in seconds."""
        definite = isinstance(error, Unanswered) and not error.lost
        return self.brief_s if definite else self.long_s


class Digest:
    """A sink that keeps the size and the MD5 of what it was sent, and nothing else."""

    def __init__(self) -> None:
        self.received = 0
        self.begin(None)

    def begin(self, size: int | None) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def write(self, data: Buffer) -> None:
        self._md5.update(data)
        self.size += len(data)
        self.received = max(self.received, self.size)

    def digest(self) -> bytes:
        return self._md5.digest()


async def holds(content: Content, source: Source) -> bool:
    """Tell whether a file there has exactly the bytes of `source`, by reading it."""
    digest = Digest()
    await content.pour(digest)
    return digest.size == source.size and digest.digest() == await trio.to_thread.run_sync(source.md5)


class Change(Generic[T]):
    """One change that must not be made twice.

    `key` names what it is about and `mark` tells other bytes for the same; `began` is what was known of the system
    before. `ours(began)` lists what is there and provably of this change; `name` tells two of these apart.
    """

    def __init__(
        self,
        key: str,
        began: Any,
        send: Callable[[], Awaitable[T]],
        ours: Callable[[Any], Awaitable[Sequence[T]]],
        *,
        mark: Any = None,
        name: Callable[[T], Any] = lambda made: made,
        withdraw: Callable[[T], Awaitable[None]] = nothing_to_withdraw,
    ) -> None:
        self.key = key
        self.mark = mark
        self.began = began
        self.send = send
        self._ours = ours
        self.name = name
        self.withdraw = withdraw

    async def ours(self) -> Sequence[T]:
        return await self._ours(self.began)
