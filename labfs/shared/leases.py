"""Leases: one process at a time writes to a path of a server, and the others are told who.

A lease ends by itself when its process dies. While the store is lost nobody asks for leases, and two processes that
write to one path meet in the check before each save, as they do without a store; a lease that somebody else has taken
meanwhile is then refused.

Tests: mount/test_shared.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
from collections import Counter, defaultdict
from secrets import token_hex

import trio

from labfs.errors import Held
from labfs.shared.keys import digest
from labfs.shared.tier import Lost, Post, Script, Tier

log = logging.getLogger(__name__)

LEASE_S = 15.0
RENEWAL_S = 4.0

# KEYS: leases. ARGV: whose, and for how long in ms. Returns the last holder that is another, or nothing.
TAKE = Script("""
local other
for _, lease in ipairs(KEYS) do
    local there = redis.call('GET', lease)
    if there and there ~= ARGV[1] then other = there else redis.call('SET', lease, ARGV[1], 'PX', ARGV[2]) end
end
return other
""")

# KEYS: leases. ARGV: whose.
END = Script("""
for _, lease in ipairs(KEYS) do
    if redis.call('GET', lease) == ARGV[1] then redis.call('DEL', lease) end
end
""")


class Book:
    """All leases of this process; `run` has to run meanwhile."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._me = f"{_user()}@{socket.gethostname()} (process {os.getpid()}) {token_hex(8)}"
        self._held: defaultdict[object, set[str]] = defaultdict(set)  # by who wants them
        self._uses: Counter[str] = Counter()
        self._news = trio.Event()

    async def take(self, owner: object, key: str, name: str) -> None:
        """Hold a lease for an owner, until the owner's are ended; those of one process share it. Raises Held."""
        new = key not in self._held.get(owner, ())
        if new:
            self._held[owner].add(key)
            self._uses[key] += 1
            self._news.set()
        try:
            holder = await self._tier.call(TAKE, [key], [self._me, round(1000 * LEASE_S)])
        except Lost:
            return
        except trio.Cancelled:
            if new:
                self._forget(owner, key)
            raise
        if holder is not None:
            self._forget(owner, key)
            who = holder.decode(errors="replace").rpartition(" ")[0]
            raise Held(f"“{name}” is being written by {who}; try again when that is done.")

    def end(self, owner: object) -> None:
        """End the leases of an owner that nobody else here holds."""
        for key in list(self._held.get(owner, ())):
            self._forget(owner, key)

    def _forget(self, owner: object, key: str) -> None:
        self._held[owner].discard(key)
        if not self._held[owner]:
            del self._held[owner]
        self._uses[key] -= 1
        if self._uses[key] <= 0:
            del self._uses[key]
            # It may be held again by the time of the call.
            self._tier.later(Post(END, [key], lambda: ["" if key in self._uses else self._me]))

    async def run(self) -> None:
        """Renew the leases."""
        while True:
            await self._news.wait()
            await trio.sleep(RENEWAL_S)
            keys = sorted(self._uses)
            if not keys:
                self._news = trio.Event()
                continue
            try:
                holder = await self._tier.call(TAKE, keys, [self._me, round(1000 * LEASE_S)])
            except Lost:
                continue
            if holder is not None:
                log.warning("Somebody else writes to a path, too, since the shared tier was lost for a while.")


class Leases:
    """The leases of one server's paths."""

    def __init__(self, book: Book, prefix: str) -> None:
        self._book = book
        self._prefix = prefix

    async def take(self, owner: object, *place: str) -> None:
        """Hold the lease of a place, which ends with its name, for an owner. Raises Held."""
        await self._book.take(owner, f"{self._prefix}lease:{digest(repr(place))}", place[-1])

    def end(self, owner: object) -> None:
        """End the leases of an owner."""
        self._book.end(owner)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        return str(os.getuid())
