"""How far ahead of a sequential reader blocks are fetched, and how many of them with one request.

Measured on two cores: one request costs this process half a millisecond whatever it brings, so that a near server is
read fastest in few long requests (8 MiB against 4, paired: 1.27 times as fast). A far server limits each connection, so
that its bytes come fastest over many (at 40 ms and 400 Mbit/s a connection, 16 give 1.7 times what 8 do). What is in
flight follows from both: some requests to keep the processors busy, and a multiple of the bandwidth-delay product.

All readers together share one budget, less than the cache holds: what is fetched ahead is read before it is evicted.

Tests: unit/test_window.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import trio

BLOCK = 1024 * 1024  # bytes: a random read on a 100 Mbit/s line costs 80 ms more than its round trip
HEAD = 64 * 1024  # bytes from its beginning that tell what kind of file it is
STRETCH = 8  # blocks that one request to a near server fetches, at most
FAR_STRETCH = 4  # … to a far one, or one of which nothing is known: there the number of connections counts
NEAR_S = 0.005  # delay of the answers of a near server, at most
LEAST = 32  # blocks ahead, where nothing is known of the line
AT_ONCE = 24  # stretches of a site that are fetched; more wait, so that each connection has work when one ends
EAGER = 512 * 1024  # bytes from its beginning: a program that reads as much of a file in order reads on
GROWTH = 4  # factor by which a window grows with each read that goes on in order
SHARE = 0.75  # of the cache: what may be in it unread, or on its way
ACTIVE_S = 1.0  # for which a reader that does not read keeps its share
SLOW_S = 1.5  # a block that takes longer means that the line is saturated: the window shrinks
FAR_S = 0.02  # a delay for which twice as much is in flight as for none, while the bandwidth is not known
PRODUCTS = 4  # times the bandwidth-delay product in flight: the bandwidth is one that more requests may raise
PERIOD_S = 0.05  # in which arrived bytes are counted
FADES = 0.9  # factor by which an old rate counts in each later period
STALE = 1.02  # factor by which a shortest delay grows with each answer, so that another route is noticed


class Turns:
    """At most `count` at a time, in the order in which they asked: tasks that start together run in any order."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: OrderedDict[trio.Event, None] = OrderedDict()

    def ask(self) -> trio.Event:
        """Return an event that is set when it is one's turn; to be given to `taken`."""
        turn = trio.Event()
        if self._free:
            self._free -= 1
            turn.set()
        else:
            self._waiting[turn] = None
        return turn

    @asynccontextmanager
    async def taken(self, turn: trio.Event) -> AsyncIterator[None]:
        """Wait for a turn, and end it."""
        try:
            await turn.wait()
            yield
        finally:
            if not turn.is_set():
                del self._waiting[turn]
            elif self._waiting:
                self._waiting.popitem(last=False)[0].set()
            else:
                self._free += 1


class Line:
    """What is known of the way to one site: the delay of its answers in seconds, and its bytes in a second."""

    def __init__(self) -> None:
        self.turns = Turns(AT_ONCE)
        self._delay_s = math.inf
        self._rate = 0.0
        self._since: float | None = None
        self._bytes = 0

    def answered(self, delay_s: float) -> None:
        self._delay_s = min(delay_s, self._delay_s * STALE)

    def arrived(self, size: int) -> None:
        """Count bytes; a period begins with the first of them."""
        now = trio.current_time()
        if self._since is None:
            self._since, self._bytes = now, 0
        elif now - self._since >= PERIOD_S:
            self._rate = max(self._bytes / (now - self._since), FADES * self._rate)
            self._since, self._bytes = now, 0
        self._bytes += size

    @property
    def stretch(self) -> int:
        """How many blocks one request fetches, at most."""
        return STRETCH if self._delay_s <= NEAR_S else FAR_STRETCH

    @property
    def blocks(self) -> int:
        """How many blocks may be in flight, or unread."""
        if math.isinf(self._delay_s):
            return LEAST
        if not self._rate:
            return LEAST + math.ceil(LEAST * self._delay_s / FAR_S)
        return LEAST + math.ceil(PRODUCTS * self._rate * self._delay_s / BLOCK)


class Budget:
    """The blocks that all readers together may have ahead of them."""

    def __init__(self, capacity: int) -> None:
        """`capacity` is that of the cache, in bytes."""
        self._blocks = max(int(SHARE * capacity / BLOCK), 1)
        self._active: WeakKeyDictionary[Window, float] = WeakKeyDictionary()

    def share(self, window: Window) -> int:
        """Return how many blocks a reader may have ahead, now that it goes on."""
        now = trio.current_time()
        self._active[window] = now
        active = sum(now - at <= ACTIVE_S for at in self._active.values())
        return self._blocks // active


class Window:
    """The blocks ahead of one reader; `last` is the index of the file's last block."""

    def __init__(self, budget: Budget, line: Line, last: int) -> None:
        self._budget = budget
        self._line = line
        self._last = last
        self._next = 0  # block that a sequential reader will touch next
        self._size = 0  # blocks ahead, now
        self._until = 0  # blocks before this one were started

    @property
    def sequential(self) -> bool:
        """Whether blocks are read in order."""
        return self._size > 0

    def slow(self) -> None:
        """Shrink, since the line is saturated."""
        self._size //= 2

    def moved(self, start: int, stop: int) -> Iterator[range]:
        """Yield the blocks to be fetched for a read of `[start, stop)`, in bytes, each range with one request."""
        first, last = start // BLOCK, (stop - 1) // BLOCK
        if self._next - 2 <= first <= self._next + 1:
            if stop > EAGER and (last >= self._next or not self._size):
                grown = min(max(GROWTH * self._size, 2), self._line.blocks)
                self._size = max(min(grown, self._budget.share(self)), 1)
        else:
            self._size = 0
        self._next = max(last + 1, self._next if self._size else 0)
        yield range(first, last + 1)
        yield from self._ahead()

    def _ahead(self) -> Iterator[range]:
        self._until = max(self._until, self._next) if self._size else self._next
        target = min(self._next + self._size, self._last + 1)
        step = min(max(self._size // GROWTH, 1), self._line.stretch)
        while self._until < target and (target - self._until >= step or target > self._last):
            start, self._until = self._until, min(self._until + step, target)
            yield range(start, self._until)
