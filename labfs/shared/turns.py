"""Turns of a server that all machines share: how many requests in a second, or how many at a time.

A lane is a sorted set of turns, each with the time at which it is free again: a turn that is held with the end of its
lease, one that must rest with the end of that. Beside it stand those who wait, first come first served, and are told
how long: nobody asks again before a turn can be free for him. All times are the store's own.

A turn that must not rest stays with this process for a moment, for its next request, unless somebody waits for it:
one question to the store pays for many requests.

Tests: mount/test_shared.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex

import trio

from labfs.shared.tier import Argument, Lost, Post, Script, Tier

LEASE_S = 10.0  # a turn of a process that died is free after that
RENEWAL_S = 0.5  # of the leases of turns that are held, if they are held that long
GAP_S = 0.1  # between two questions for a turn that is free whenever somebody ends
LONGEST_S = 10.0  # to wait before the next question
MISSED_S = 5.0  # after which one who did not ask again is not waited for
JITTER = 0.05

# KEYS: turns, those who wait in their order, until when each is believed to wait
# ARGV: who asks, how many turns, the lease, the longest time for which a held turn can last at least; in ms
TAKE = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local me, count, lease, gap = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local longest, missed = tonumber(ARGV[5]), tonumber(ARGV[6])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
    redis.call('ZREM', KEYS[2], gone)
    redis.call('ZREM', KEYS[3], gone)
end
redis.call('ZADD', KEYS[2], 'NX', time[1] * 1000000 + time[2], me)
local before = redis.call('ZRANK', KEYS[2], me)
local taken = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local free = count - #taken / 2
if before < free then
    redis.call('ZREM', KEYS[2], me)
    redis.call('ZREM', KEYS[3], me)
    redis.call('ZADD', KEYS[1], now + lease, me)
    redis.call('PEXPIRE', KEYS[1], 3 * lease)
    return 0
end
local place = before - math.max(free, 0)
local nth = place % count
local wait = gap
if taken[2 * nth + 2] then wait = math.min(tonumber(taken[2 * nth + 2]) - now, gap) end
wait = math.max(math.min(wait + math.floor(place / count) * gap, longest), 1)
redis.call('ZADD', KEYS[3], now + wait + missed, me)
redis.call('PEXPIRE', KEYS[2], longest + 2 * missed)
redis.call('PEXPIRE', KEYS[3], longest + 2 * missed)
return wait
""")

# KEYS as above; ARGV: the rest in ms, and who ends
END = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rest = tonumber(ARGV[1])
for index = 2, #ARGV do
    redis.call('ZREM', KEYS[2], ARGV[index])
    redis.call('ZREM', KEYS[3], ARGV[index])
    if rest == 0 then
        redis.call('ZREM', KEYS[1], ARGV[index])
    else
        redis.call('ZADD', KEYS[1], 'XX', now + rest, ARGV[index])
    end
end
""")

# KEYS as above; ARGV: the lease in ms, and who goes on. Returns how many wait.
RENEW = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for index = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[index]) end
redis.call('PEXPIRE', KEYS[1], 3 * ARGV[1])
return redis.call('ZCARD', KEYS[2])
""")


class Lane:
    """At most `count` turns in all processes, each free again `rest_s` after its end. `run` has to run meanwhile."""

    def __init__(self, tier: Tier, key: str, count: int, rest_s: float) -> None:
        self._tier = tier
        self._keys = [key, f"{key}:waiting", f"{key}:until"]
        self._count = count
        self._rest_s = rest_s
        self._held: set[str] = set()
        self._kept: deque[tuple[str, float]] = deque()  # ended here, and not there yet; and when, the first one first
        self._wanted = False  # somebody waits
        self._busy = trio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it; without a store there is nothing to wait for."""
        name = self._kept.pop()[0] if self._kept else await self._taken()
        if name is None:
            yield
            return
        self._held.add(name)
        self._busy.set()
        try:
            yield
        finally:
            self._held.discard(name)
            if self._rest_s or self._wanted:
                self._end(name)
            else:
                self._kept.append((name, trio.current_time()))

    async def _taken(self) -> str | None:
        """Return a turn of this process's; None if the store is lost."""
        name = token_hex(8)
        times_ms = (round(1000 * s) for s in (LEASE_S, self._rest_s or GAP_S, LONGEST_S, MISSED_S))
        asked: list[Argument] = [name, self._count, *times_ms]
        try:
            while wait_ms := int(await self._tier.call(TAKE, self._keys, asked)):  # noqa: ASYNC110
                await trio.sleep(wait_ms / 1000 * random.uniform(1.0, 1.0 + JITTER))
        except Lost:
            return None
        except trio.Cancelled:
            self._end(name, at_once=True)  # also one that was given just now
            raise
        return name

    def _end(self, *names: str, at_once: bool = False) -> None:
        rest_ms = 0 if at_once else round(1000 * self._rest_s)
        self._tier.later(Post(END, self._keys, lambda: [rest_ms, *names]))

    async def run(self) -> None:
        """Renew the leases of turns that last, and give back those that nobody here has used for a while."""
        while True:
            await self._busy.wait()
            await trio.sleep(RENEWAL_S)
            if not (self._held or self._kept):
                self._busy, self._wanted = trio.Event(), False
                continue
            await self._renew()
            limit = trio.current_time() - (0.0 if self._wanted else RENEWAL_S)
            old = []
            while self._kept and self._kept[0][1] <= limit:
                old.append(self._kept.popleft()[0])
            if old:
                self._end(*old)

    async def _renew(self) -> None:
        names = [*self._held, *(name for name, _ in self._kept)]
        try:
            waiting = await self._tier.call(RENEW, self._keys, [round(1000 * LEASE_S), *names])
            self._wanted = waiting > 0
        except Lost:
            self._kept.clear()
            self._wanted = False
