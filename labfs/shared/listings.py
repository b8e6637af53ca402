"""Listings in the store: of a moment ago, for the first look of another process at a directory.

A listing that began before something was changed in its directory is not stored after that: each change counts up a
stamp, and a listing is stored only with the stamp that stood when it began.

Tests: mount/test_shared.
"""

from __future__ import annotations

import trio

from labfs.shared.keys import Account
from labfs.shared.tier import Lost, Post, Script, Tier

CHANGED_S = 3600.0  # for which a change is remembered: longer than any listing takes
LARGEST = 8 * 1024 * 1024  # bytes of a listing, packed

# KEYS: the listing, its stamp. Returns the listing, for how many ms it is fresh still, and the stamp.
LOOK = Script("return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[2]) or '0'}")

# KEYS as above. ARGV: the stamp of when it began, the listing, for how many ms it is fresh still.
PUT = Script("""
if (redis.call('GET', KEYS[2]) or '0') == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
""")

# KEYS as above. ARGV: for how many ms the change is remembered.
DROP = Script("""
redis.call('DEL', KEYS[1])
redis.call('INCR', KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
""")


class Listings:
    """The listings of one account."""

    def __init__(self, tier: Tier, account: Account) -> None:
        self._tier = tier
        self._account = account
        self._dropping = 0
        self._dropped = trio.Event()

    async def look(self, number: str) -> tuple[bytes | None, float, str]:
        """Return the listing of a directory, if there is one; for how many seconds it is fresh; and its stamp."""
        keys = self._keys(number)
        try:
            stored, fresh_ms, stamp = await self._tier.call(LOOK, keys)
        except Lost:
            return None, 0.0, ""
        listing = None if stored is None else self._account.opened(keys[0], stored)
        return None if listing is None else bytes(listing), fresh_ms / 1000, stamp.decode()

    def put(self, number: str, stamp: str, listing: bytes, fresh_s: float) -> None:
        """Have a listing stored in the background, unless something has changed since it got its stamp."""
        keys = self._keys(number)
        if stamp and len(listing) <= LARGEST and fresh_s > 0:
            sealed = self._account.sealed(keys[0], listing)
            self._tier.later(Post(PUT, keys, lambda: [stamp, sealed, round(1000 * fresh_s)]))

    def drop(self, number: str) -> None:
        """Have the listing of a directory removed in which something was changed."""

        def done(made: bool) -> None:
            self._dropping -= 1
            if not self._dropping:
                self._dropped.set()

        if self._tier.later(Post(DROP, self._keys(number), lambda: [round(1000 * CHANGED_S)], done=done)):
            self._dropped = self._dropped if self._dropping else trio.Event()
            self._dropping += 1

    async def settled(self) -> None:
        """Wait until what was dropped so far is gone from the store, or the store is lost."""
        if self._dropping:
            await self._dropped.wait()

    def _keys(self, number: str) -> list[str]:
        key = self._account.key("listing", number)
        return [key, f"{key}:stamp"]
