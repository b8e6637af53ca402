"""When requests are sent: at the rate that a site allows, and retried for as long as their patience lasts.

Some services ban an address that sends too many requests, and only an administrator lifts the ban. So a
request waits for its turn here: in no second more requests reach the server than it allows.

Tests: unit/test_client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from enum import Enum

import trio

SECOND_S = 1.0
_CURIOUS: ContextVar[bool] = ContextVar("curious", default=False)


class Pace:
    """A rate limit of `per_second` requests in any second, first come first served; None means no limit.

    A turn is free again a second after its request was answered. The request arrived before its answer, and
    the next one is sent after that second: however long either travels, a second lies between.
    """

    def __init__(self, per_second: int | None) -> None:
        self._free, self._next = trio.open_memory_channel[float](per_second or 0)
        self._limited = per_second is not None
        for _ in range(per_second or 0):
            self._free.send_nowait(float("-inf"))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Hold a turn for one request; yields how long the request waited for it, in seconds."""
        if not self._limited:
            yield 0.0
            return
        began = trio.current_time()
        free_at = await self._next.receive()
        try:
            await trio.sleep_until(max(free_at, trio.current_time()))
            free_at = float("inf")
            yield trio.current_time() - began
        finally:
            self._free.send_nowait(min(free_at, trio.current_time() + SECOND_S))


class Patience(float, Enum):
    """How long one request is retried, in multiples of the site's timeout.

    With the usual 8 s, PROMPT stays below the 20 s that the kernel's freezer gives a process.
    """

    BRIEF = 0.25  # a dispensable request, for a size in a listing: one retry, a second later
    PROMPT = 1.5  # a program waits for a listing or a read
    PERSISTENT = (
        10.0  # an upload: close() may take as long as its bytes need; no longer than PROMPT while nobody is there
    )


@contextmanager
def curious() -> Iterator[None]:
    """Mark what is asked in here as asked to learn whether a server is there: where none is, two tries tell that."""
    before = _CURIOUS.set(True)
    try:
        yield
    finally:
        _CURIOUS.reset(before)


def is_curious() -> bool:
    """Whether a request made now is to find out whether its server is there."""
    return _CURIOUS.get()
