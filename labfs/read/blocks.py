"""An LRU cache of blocks of file contents in memory: bounded in bytes, one fetch for each block.

What is not in memory may be on disk still (`shelf`): whoever fetches looks there first, and compares what is there.

A key names the file's version, so bytes of two versions can never mix: a changed file has other keys.
However many tasks ask for a missing block, it is fetched once; the fetch runs in a task of the cache, so
that the first caller may be cancelled without harm to the others.

Tests: unit/test_units.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable

import trio
from cachetools import LRUCache

from labfs.backend import Buffer
from labfs.read.flight import Flight
from labfs.read.shelf import Key, Shelf

Fetch = Callable[[], Awaitable[Buffer]]


class _Fetch(Flight):
    """A fetch under way, and afterwards the block."""

    block: Buffer = b""


class Blocks:
    """A cache of at most `capacity` bytes, above a `shelf` if there is one; fetches run in `nursery`."""

    def __init__(self, nursery: trio.Nursery, capacity: int, shelf: Shelf | None = None) -> None:
        self._shelf = shelf
        self._nursery = nursery
        self._cache: LRUCache[Key, Buffer] = LRUCache(maxsize=capacity, getsizeof=len)
        self._flights: dict[Key, _Fetch] = {}

    @property
    def capacity(self) -> int:
        return int(self._cache.maxsize)

    @property
    def size(self) -> int:
        """The bytes cached now."""
        return int(self._cache.currsize)

    async def get(self, key: Key, fetch: Fetch) -> Buffer:
        """Return the block, fetched unless it is cached or a fetch is under way. Raises the error of the fetch."""
        block = self._cache.get(key)
        if block is not None:
            return block
        flight = self._start(key, fetch)
        await flight.wait()
        return flight.block

    def peek(self, key: Key) -> Buffer | None:
        """Return a block if it is cached, else None."""
        return self._cache.get(key)

    def start(self, key: Key, fetch: Fetch) -> None:
        """Begin to fetch a block ahead of its use, unless it is cached or a fetch is under way."""
        if key not in self._cache:
            self._start(key, fetch)

    def drop(self, content: Hashable) -> None:
        """Drop all cached blocks of one version of one file."""
        for key in [key for key in self._cache if key[0] == content]:
            del self._cache[key]
        if self._shelf is not None:
            self._shelf.drop(content)

    def _start(self, key: Key, fetch: Fetch) -> _Fetch:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Fetch()
            self._nursery.start_soon(self._fly, key, fetch, flight)
        return flight

    async def _fly(self, key: Key, fetch: Fetch, flight: _Fetch) -> None:
        with flight.outcome():
            try:
                flight.block = await fetch()
                self._cache[key] = flight.block
            finally:
                del self._flights[key]

    async def stored(self, key: Key) -> Buffer | None:
        """Return a block that is on disk still."""
        return None if self._shelf is None else await self._shelf.get(key)

    def store(self, key: Key, block: Buffer) -> None:
        """Queue a fetched block for the disk cache, unless the queue is full."""
        if self._shelf is not None:
            self._shelf.put(key, block)
