"""The pace that a site sets for requests: no window of time holds more than it allows.

Some services ban an address that asks too often, and only an administrator lifts the ban. So a request
waits for its turn here rather than for a refusal there.
"""

from __future__ import annotations

from collections import deque

import trio

WINDOW_S = 1.1  # a second, and what the network may press together of it


class Pace:
    """At most `per_second` turns in any second, in the order they were asked for; no limit where it is None."""

    def __init__(self, per_second: int | None) -> None:
        self._taken: deque[float] = deque(maxlen=per_second)
        self._limited = per_second is not None
        self._next = trio.Lock()

    async def turn(self) -> None:
        """Wait until one more request may be made."""
        if not self._limited:
            return
        async with self._next:
            if len(self._taken) == self._taken.maxlen:
                await trio.sleep_until(self._taken[0] + WINDOW_S)
            self._taken.append(trio.current_time())
