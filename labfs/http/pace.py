"""When requests are sent: at the rate that a site allows, and retried for as long as their patience lasts.

Some services ban an address that sends too many requests, and only an administrator lifts the ban. So a
request waits for its turn here: in no second more requests reach the server than it allows.

Tests: unit/test_client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Protocol

import trio

SECOND_S = 1.0
_CURIOUS: ContextVar[bool] = ContextVar("curious", default=False)


class Gate(Protocol):
    """The turns of a server that this machine shares with others."""

    def turn(self, lane: str, count: int, rest_s: float) -> AbstractAsyncContextManager[None]:
        """Hold one of `count` turns of a lane, each of which is free again `rest_s` seconds after its end."""
        ...


class Lane(Enum):
    """Requests that are counted together, where no rate but their number at a time is limited."""

    CALLS = "calls"
    DOWNLOADS = "downloads"
    ELSEWHERE = "elsewhere"  # at another origin, such as a file store, that the site's limit is not about


class Pace:
    """A rate limit of `per_second` requests in any second, first come first served; None means no limit.

    A turn is free again a second after its request was answered. The request arrived before its answer, and
    the next one is sent after that second: however long either travels, a second lies between.

    With a `gate` the turn is taken there, too. Where there is no rate, it is one of `at_once` turns of the lane: where
    there is one, no more requests than that are ever under way.
    """

    def __init__(self, per_second: int | None, gate: Gate | None = None, at_once: Mapping[Lane, int] = {}) -> None:
        self._free, self._next = trio.open_memory_channel[float](per_second or 0)
        self._per_second = per_second
        self._gate = gate
        self._at_once = at_once
        for _ in range(per_second or 0):
            self._free.send_nowait(float("-inf"))

    @asynccontextmanager
    async def turn(self, lane: Lane = Lane.ELSEWHERE) -> AsyncIterator[float]:
        """Hold a turn for one request; yields how long the request waited for it, in seconds."""
        if self._per_second is None:
            async with self._shared(lane) as waited_s:
                yield waited_s
            return
        began = trio.current_time()
        free_at = await self._next.receive()
        try:
            await trio.sleep_until(max(free_at, trio.current_time()))
            async with self._shared(lane):
                free_at = float("inf")
                yield trio.current_time() - began
        finally:
            self._free.send_nowait(min(free_at, trio.current_time() + SECOND_S))

    @asynccontextmanager
    async def _shared(self, lane: Lane) -> AsyncIterator[float]:
        """Hold the turn that other machines know of."""
        began = trio.current_time()
        if self._gate is not None and self._per_second is not None:
            turn = self._gate.turn("pace", self._per_second, SECOND_S)
        elif self._gate is not None and lane in self._at_once:
            turn = self._gate.turn(lane.value, self._at_once[lane], 0.0)
        else:
            yield 0.0
            return
        async with turn:
            yield trio.current_time() - began


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
