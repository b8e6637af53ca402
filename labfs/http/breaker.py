"""The circuit breaker of one origin: while the origin is silent, requests fail at once instead of timing out.

And the pulse of a site: how long its answers take, and whether it refused the credentials last.

Tests: unit/test_client.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from labfs.errors import LabfsError, Mute, Unavailable

T = TypeVar("T")


class Breaker:
    """Fails requests at once to an origin that was silent `THRESHOLD` times in a row, and probes the origin later."""

    THRESHOLD = 4  # silences in a row
    FIRST_REST, LONGEST_REST = 0.25, 2.5  # in multiples of the longest silence

    def __init__(self, site: str, timeout_s: float) -> None:
        self._site = site
        self._timeout_s = timeout_s
        self._silences = 0
        self._since = 0.0
        self._rest_until = 0.0
        self._who = site  # the site or proxy that was silent last

    async def guard(self, once: Callable[[], Awaitable[T]]) -> T:
        """Run one attempt, or raise Unavailable at once while the breaker is open; any answer closes the breaker."""
        if reason := self.reason():
            rest_s = max(self._rest_until - trio.current_time(), 0.1)
            # The reason tells what labfs does.
            raise Unavailable(reason, retry_after_s=rest_s, silent=True).advised("")
        try:
            result = await once()
        except Mute:
            raise  # no evidence either way
        except LabfsError as error:
            if isinstance(error, Unavailable) and error.silent:
                self._who = error.who or self._site
                self._silent()
            else:
                self._answered()
            raise
        self._answered()
        return result

    def reason(self) -> str | None:
        if trio.current_time() >= self._rest_until:
            return None
        since = time.strftime("%H:%M:%S", time.localtime(self._since))
        return f"{self._who} has not answered since {since}; labfs tries again every few seconds."

    def _silent(self) -> None:
        if not self._silences:
            self._since = time.time()
        self._silences += 1
        excess = self._silences - self.THRESHOLD
        if excess >= 0:
            rest = min(self.FIRST_REST * 2.0 ** min(excess, 10), self.LONGEST_REST)
            self._rest_until = trio.current_time() + rest * self._timeout_s

    def _answered(self) -> None:
        self._silences = 0
        self._rest_until = 0.0


class Pulse:
    """What the last answers of a site tell of it. Used by the threads of downloads, too."""

    WEIGHT = 0.2  # of the newest answer in the latency

    def __init__(self) -> None:
        self.latency_s: float | None = None
        self.refusal: str | None = None
        self.well_s = float("-inf")  # when it last answered as it should, on the monotonic clock

    def answered(self, took_s: float | None = None) -> None:
        """Record an answer to a request with the credentials, and how long a small one took."""
        self.refusal, self.well_s = None, time.monotonic()
        if took_s is not None:
            last = took_s if self.latency_s is None else self.latency_s
            self.latency_s = last + self.WEIGHT * (took_s - last)

    def refused(self, error: LabfsError) -> None:
        """Record that the credentials were refused."""
        self.refusal = str(error)
