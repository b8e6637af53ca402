"""What one process shares: a store, and the turns, blocks, listings and leases in it.

Tests: mount/test_shared.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from labfs.shared import keys
from labfs.shared.blocks import AT_ONCE, Blocks
from labfs.shared.leases import Book, Leases
from labfs.shared.listings import Listings
from labfs.shared.tier import Lost, Tier
from labfs.shared.turns import Lane
from labfs.shared.where import Where

Task = Callable[[], Awaitable[None]]


class Gate:
    """The turns of one server, in lanes. The lanes' tasks begin with the first turn."""

    def __init__(self, share: Share, prefix: str) -> None:
        self._share = share
        self._prefix = prefix
        self._lanes: dict[str, Lane] = {}

    def turn(self, lane: str, count: int, rest_s: float) -> AbstractAsyncContextManager[None]:
        """Hold one of `count` turns of a lane, each of which is free again `rest_s` after its end."""
        known = self._lanes.get(lane)
        if known is None:
            known = self._lanes[lane] = Lane(self._share.tier, f"{self._prefix}{lane}", count, rest_s)
            self._share.start(known.run)
        return known.turn()


class Member:
    """What one account of one server shares, and the leases, which are all accounts'."""

    def __init__(self, tier: Tier, account: keys.Account, transfers: Lane, leases: Leases) -> None:
        self.blocks = Blocks(tier, account, transfers)
        self.leases = leases
        self.listings = Listings(tier, account)


class Share:
    """The store at `where`; `run` has to run meanwhile. Raises ConfigError where its library is missing."""

    salt = keys.SALT

    def __init__(self, where: Where) -> None:
        self.tier = Tier(where)
        self._book = Book(self.tier)
        self._transfers = Lane(self.tier, f"{keys.PREFIX}transfers", AT_ONCE, 0.0)
        self._members: list[Member] = []
        self._gates: dict[str, Gate] = {}
        self._tasks, self._started = trio.open_memory_channel[Task](math.inf)

    def gate(self, kind: str, url: str) -> Gate:
        """Return the turns of the server of a site."""
        prefix = keys.server(kind, url)
        return self._gates.setdefault(prefix, Gate(self, prefix))

    def member(self, kind: str, url: str, digest: str) -> Member:
        """Return what is shared by those who have an account of a server, by its slow digest with `salt`."""
        leases = Leases(self._book, keys.server(kind, url))
        self._members.append(Member(self.tier, keys.Account(digest), self._transfers, leases))
        return self._members[-1]

    def report(self) -> dict[str, Any]:
        """Return how the store is, as plain data; `blocks` came from other machines since the mount."""
        return {
            "store": self.tier.where.shown,
            "trouble": self.tier.trouble,
            "since": self.tier.since_s,
            "blocks": sum(member.blocks.taken for member in self._members),
        }

    async def tried(self) -> tuple[float, str | None]:
        """Return how long the store takes to answer, in seconds, and what is wrong with it; without `run`."""
        try:
            await self.tier.write()  # the first call connects
            return await self.tier.write(), None
        except Lost:
            return 0.0, self.tier.trouble
        finally:
            self.tier.close()

    def start(self, task: Task) -> None:
        """Have a task run as long as `run` does."""
        self._tasks.send_nowait(task)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.tier.run)
            nursery.start_soon(self._book.run)
            nursery.start_soon(self._transfers.run)
            async for task in self._started:
                nursery.start_soon(task)
