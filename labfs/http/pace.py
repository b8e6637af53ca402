"""When requests are sent: at the pace that a site sets, and again for as long as somebody has patience.

Some services ban an address that asks too often, and only an administrator lifts the ban. So a request
waits for its turn here rather than for a refusal there: no second at the server holds more than it allows.

Tests: unit/test_client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import Enum

import trio

SECOND_S = 1.0


class Pace:
    """At most `per_second` requests in any second, in the order they were asked for; no limit where it is None.

    A turn is free again a second after its request was answered. The request arrived before that, and the
    next one in its place sets out after it: however late either is on its way, a second lies between.
    """

    def __init__(self, per_second: int | None) -> None:
        self._free, self._next = trio.open_memory_channel[float](per_second or 0)
        self._limited = per_second is not None
        for _ in range(per_second or 0):
            self._free.send_nowait(float("-inf"))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """Hold a turn for one request; yields the seconds spent waiting for the turn."""
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
    """How long one request is tried again, in multiples of the longest silence that a site is granted.

    With the usual 8 s, PROMPT stays below the 20 s that the kernel's freezer gives a process.
    """

    BRIEF = 0.25  # what can be done without, a size in a listing: once more, a second later
    PROMPT = 1.5  # somebody waits for a listing or a read
    PERSISTENT = (
        10.0  # an upload: close() may take as long as its bytes need; no longer than PROMPT while nobody is there
    )
