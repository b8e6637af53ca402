"""Connections kept for later requests, and their health.

A VPN, a Wi-Fi or a suspended machine drops connections silently: a request is sent, and no answer comes. So a kept
connection has a shorter timeout than a new one, its silence is not counted against the site, and after one failure
all connections of its lot are retired.

Tests: mount/test_connections.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")

KEPT_S = 30.0  # for which an idle connection is kept
SHARE = 0.25  # of the site's timeout: the shortest timeout of a kept connection
LEAST_S = 0.5  # … or this: a shorter silence may be a busy machine's rather than a dead connection's
FORGETS = 0.98  # factor by which the grant decays with each answer
ASLEEP_S = 2.0  # of sleep, after which kept connections may be dead
PROBES = 3


def asleep_s() -> float:
    """Return how long this machine has been suspended since its boot, in seconds; 0 if unknown."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


def socket_options(timeout_s: float) -> list[tuple[int, int, int]]:
    """Return socket options by which the kernel detects a dead connection: keepalive and TCP_USER_TIMEOUT."""
    probe_s = max(round(timeout_s / 2), 1)
    found = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    values = {"TCP_KEEPIDLE": probe_s, "TCP_KEEPINTVL": probe_s, "TCP_KEEPCNT": PROBES}
    for name, value in {**values, "TCP_USER_TIMEOUT": round(timeout_s * 1000)}.items():
        if hasattr(socket, name):
            found.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return found


class Grant:
    """The timeout of a kept connection for the first byte of an answer: twice the site's recent response time."""

    def __init__(self, timeout_s: float) -> None:
        self._least_s, self._most_s = min(max(SHARE * timeout_s, LEAST_S), timeout_s), timeout_s
        self.now_s = self._least_s

    def learn(self, took_s: float) -> None:
        self.now_s = min(max(2 * took_s, FORGETS * self.now_s, self._least_s), self._most_s)


class Lot(Generic[T]):
    """The connections of one client; `used` once one of them has answered, and may be kept."""

    def __init__(self, client: T) -> None:
        self.client = client
        self.used = False
        self.users = 0
        self.slept_s = asleep_s()


class Pool(Generic[T]):
    """A client that keeps connections, replaced when these may be dead. May be used from several threads."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._now = Lot(make())
        self._old: list[Lot[T]] = []
        self._lock = threading.Lock()

    @contextmanager
    def lent(self) -> Iterator[Lot[T]]:
        if asleep_s() - self._now.slept_s > ASLEEP_S:
            self.retire(self._now)
        with self._lock:
            lot = self._now
            lot.users += 1
        try:
            yield lot
        finally:
            with self._lock:
                lot.users -= 1

    @property
    def used(self) -> bool:
        """Whether there may be a kept connection."""
        return self._now.used

    def retire(self, lot: Lot[T]) -> None:
        """Use no connection of a lot for new requests any more."""
        with self._lock:
            if lot is self._now:
                self._old.append(lot)
                self._now = Lot(self._make())

    def spent(self, *, all_of_them: bool = False) -> list[T]:
        """Return, once each, the clients to be closed: retired ones that no request uses any more."""
        if not (self._old or all_of_them):
            return []
        with self._lock:
            ended = [lot for lot in self._old if all_of_them or not lot.users]
            self._old = [lot for lot in self._old if lot not in ended]
            return [lot.client for lot in ended] + ([self._now.client] if all_of_them else [])


class Trial:
    """One request on a connection that may be dead: it is either answered or given up, never both.

    `lot` is the lot of its connection, once the request is sent; `fresh` makes it use a connection of its own.
    """

    def __init__(self, *, fresh: bool) -> None:
        self.fresh = fresh
        self.lot: Lot[Any] | None = None
        self.took_s = 0.0  # to its answer
        self._sent = time.monotonic()
        self._lock = threading.Lock()
        self._ended = False

    def set_out(self, lot: Lot[Any]) -> None:
        self.lot, self._sent = lot, time.monotonic()

    def answered(self) -> bool:
        """Record an answer; return whether the request was not given up before."""
        wanted = self.claim()
        if wanted and self.lot is not None:
            self.lot.used, self.took_s = True, time.monotonic() - self._sent
        return wanted

    def claim(self) -> bool:
        """Claim the outcome, answered or given up; return whether this call was the first."""
        with self._lock:
            first, self._ended = not self._ended, True
            return first


class Watch:
    """A trace callback of httpx: whether a request's connection is new, and when its body has been sent.

    `postpone` is called with the seconds that are left for the first byte of an answer.
    """

    def __init__(self, postpone: Callable[[float], None], *, granted_s: float | None) -> None:
        self.fresh = False
        self._postpone = postpone
        self._granted_s = granted_s

    async def __call__(self, event: str, info: object) -> None:
        if "connect_tcp.started" in event:
            self.fresh = True
            self._postpone(math.inf)
        elif "send_request_body.complete" in event and not self.fresh and self._granted_s is not None:
            self._postpone(self._granted_s)
