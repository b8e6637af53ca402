"""A cache of blocks of file contents in memory: bounded in bytes, one fetch for each block.

What is not in memory may be on disk still (`below`): whoever fetches looks there first, and compares what is there.

A key names the file's version, so bytes of two versions can never mix: a changed file has other keys.
However many tasks ask for a missing block, it is fetched once; the fetch runs in a task of the cache, so
that the first caller may be cancelled without harm to the others. Blocks on their way count as cached: what they need
is freed before they arrive.

Evicted first are blocks of files that are read in order, once they were read: they are not read again soon, and those
fetched ahead must outlive them. After these goes what was used least recently.

Tests: unit/test_units.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence

import trio

from labfs.backend import Buffer
from labfs.errors import Malformed
from labfs.read.below.shelf import Key, Shelf, Stored
from labfs.read.flight import Flight

Fetch = Callable[[], Awaitable[Buffer]]
Landed = Callable[[Key, Buffer], None]
FetchRun = Callable[[Landed], Awaitable[None]]


class _Fetch(Flight):
    """A fetch under way, and afterwards the block."""

    block: Buffer = b""


class Blocks:
    """A cache of at most `capacity` bytes, above a `shelf` if there is one; fetches run in `nursery`.

    A block that is on its way counts `flying` bytes.
    """

    def __init__(self, nursery: trio.Nursery, capacity: int, shelf: Shelf | None = None, flying: int = 0) -> None:
        self._shelf = shelf
        self._nursery = nursery
        self.capacity = capacity
        self.size = 0  # bytes cached now
        self._spent: OrderedDict[Key, Buffer] = OrderedDict()  # read in order, first read first
        self._others: OrderedDict[Key, Buffer] = OrderedDict()  # longest unused first
        self._flying = flying
        self._flights: dict[Key, _Fetch] = {}
        self.fetched = 0  # bytes that came from servers since the mount

    async def get(self, key: Key, fetch: Fetch, *, in_order: bool = False) -> Buffer:
        """Return the block, fetched unless it is cached or a fetch is under way. Raises the error of the fetch.

        `in_order` tells that its file is read so.
        """
        block = self.peek(key)
        if block is None:
            flight = self._start(key, fetch)
            await flight.wait()
            block = flight.block
        self.used(key, in_order=in_order)
        return block

    def used(self, key: Key, *, in_order: bool) -> None:
        """Record that a block was handed out: as one of a file that is read in order, or not."""
        block = self._others.pop(key, None) or self._spent.pop(key, None)
        if block is not None:
            (self._spent if in_order else self._others)[key] = block

    def peek(self, key: Key) -> Buffer | None:
        """Return a block if it is cached, else None."""
        return self._others.get(key) or self._spent.get(key)

    def is_missing(self, key: Key) -> bool:
        """Whether a block is neither cached nor on its way."""
        return not (key in self._others or key in self._spent or key in self._flights)

    def start(self, key: Key, fetch: Fetch) -> None:
        """Begin to fetch a block ahead of its use, unless it is cached or a fetch is under way."""
        if self.is_missing(key):
            self._start(key, fetch)

    def start_run(self, keys: Sequence[Key], fetch: FetchRun) -> None:
        """Begin to fetch missing blocks together; `fetch` is given a function that takes each when it arrived."""
        flights = {key: _Fetch() for key in keys}
        self._flights.update(flights)
        self._make_room()
        self._nursery.start_soon(self._fly_run, flights, fetch)

    def drop(self, content: Hashable) -> None:
        """Drop all cached blocks of one version of one file."""
        for held in (self._spent, self._others):
            for key in [key for key in held if key[0] == content]:
                self.size -= len(held.pop(key))
        if self._shelf is not None:
            self._shelf.drop(content)

    def _start(self, key: Key, fetch: Fetch) -> _Fetch:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Fetch()
            self._make_room()
            self._nursery.start_soon(self._fly, key, fetch, flight)
        return flight

    def _make_room(self) -> None:
        while self.size + self._flying * len(self._flights) > self.capacity and (held := self._spent or self._others):
            _, block = held.popitem(last=False)
            self.size -= len(block)

    def _keep(self, key: Key, block: Buffer) -> None:
        self._others[key] = block
        self.size += len(block)
        self._make_room()

    async def _fly(self, key: Key, fetch: Fetch, flight: _Fetch) -> None:
        with flight.outcome():
            try:
                flight.block = await fetch()
            finally:
                del self._flights[key]
            self._keep(key, flight.block)

    async def _fly_run(self, flights: dict[Key, _Fetch], fetch: FetchRun) -> None:
        def landed(key: Key, block: Buffer) -> None:
            flight = flights.pop(key)
            del self._flights[key]
            flight.block = block
            self._keep(key, block)
            flight.landed.set()

        error: Exception = Malformed("Fewer blocks came than were asked for.")
        try:
            await fetch(landed)
        except Exception as failure:
            error = failure
        finally:
            for key, flight in flights.items():
                del self._flights[key]
                flight.error = error
                flight.landed.set()

    def is_stored(self, key: Key) -> bool:
        """Whether a block is on disk, as far as is known."""
        return self._shelf is not None and self._shelf.holds(key)

    async def stored(self, *keys: Key) -> dict[Key, Stored]:
        """Return those blocks that are on disk still."""
        return {} if self._shelf is None else await self._shelf.get(*keys)

    def store(self, key: Key, block: Buffer) -> None:
        """Queue a block for the disk cache, unless the queue is full."""
        if self._shelf is not None:
            self._shelf.put(key, block)

    async def keep(self, key: Key, block: Buffer) -> None:
        """Write a block to the disk cache, and wait for it. Raises OSError."""
        if self._shelf is not None:
            await self._shelf.keep(key, block)

    def pin(self, content: Hashable, path: str) -> None:
        """Keep the blocks of a version on disk for a path. Raises OSError."""
        if self._shelf is not None:
            self._shelf.pin(content, path)
