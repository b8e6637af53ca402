"""Blocks of files in the store: claimed before they are fetched, sealed, and bounded in bytes by use.

Beside a block that somebody fetches stands his claim, which ends by itself after some seconds. One index has all
blocks of all accounts by their last use, and a counter their bytes: both are kept by the scripts below, each of which
the store runs as one step.

Tests: mount/test_shared.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

from labfs.backend import Buffer
from labfs.shared.keys import PREFIX, Account
from labfs.shared.tier import Argument, Command, Lost, Post, Script, Tier
from labfs.shared.turns import Lane

log = logging.getLogger(__name__)

LEASE_S = 5.0  # of a claim: of a process that died, others take it over after that
KEPT_S = 24 * 3600.0  # after the last use
WAITING = 32  # blocks that wait to be stored, at most: more are not stored
REMOVED = 256  # blocks that are removed with one call
AT_ONCE = 16  # transfers of all machines: a store that thousands ask at a time would answer none of them in time
EXTRA = 256  # bytes that a block counts for beside its own: its key, twice

INDEX, BYTES = f"{PREFIX}blocks", f"{PREFIX}bytes"

# KEYS: the blocks, their claims, INDEX. ARGV: who asks, the lease and the time for which a block is kept, in ms.
# Returns for each block 1 if it is there or the asker's to fetch, or 0.
ASK = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count, found = (#KEYS - 1) / 2, {}
for n = 1, count do
    local length = redis.call('STRLEN', KEYS[n])
    if length > 0 then
        redis.call('ZADD', KEYS[#KEYS], 'XX', now, KEYS[n] .. ' ' .. length)
        redis.call('PEXPIRE', KEYS[n], ARGV[3])
        found[n] = 1
    elseif redis.call('SET', KEYS[count + n], ARGV[1], 'NX', 'PX', ARGV[2]) then
        found[n] = 1
    else
        found[n] = redis.call('GET', KEYS[count + n]) == ARGV[1] and 1 or 0
    end
end
return found
""")

# After a block was stored. KEYS: the block, its claim, INDEX, BYTES. ARGV: whose claim, the bound in bytes, how long a
# block is kept in ms, what a block counts for beside its bytes.
PUT = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local room, kept, extra = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local length = redis.call('STRLEN', KEYS[1])
local function weight(member) return tonumber(string.match(member, ' (%d+)$')) + extra end
local bytes = tonumber(redis.call('GET', KEYS[4]))
if not bytes or redis.call('EXISTS', KEYS[3]) == 0 then
    bytes = 0
    for _, member in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do bytes = bytes + weight(member) end
end
if redis.call('ZADD', KEYS[3], now, KEYS[1] .. ' ' .. length) == 1 then bytes = bytes + length + extra end
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - kept)) do
    redis.call('ZREM', KEYS[3], member)
    bytes = bytes - weight(member)
end
while bytes > room do
    local oldest = redis.call('ZPOPMIN', KEYS[3])
    if not oldest[1] then break end
    redis.call('UNLINK', (string.gsub(oldest[1], ' %d+$', '')))
    bytes = bytes - weight(oldest[1])
end
redis.call('SET', KEYS[4], bytes, 'PX', 2 * kept)
redis.call('PEXPIRE', KEYS[3], 2 * kept)
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
""")

# KEYS: claims. ARGV: whose.
LEAVE = Script("""
for _, claim in ipairs(KEYS) do
    if redis.call('GET', claim) == ARGV[1] then redis.call('DEL', claim) end
end
""")

# KEYS: INDEX, BYTES, blocks. ARGV: what a block counts for beside its bytes.
DROP = Script("""
for n = 3, #KEYS do
    local length = redis.call('STRLEN', KEYS[n])
    redis.call('UNLINK', KEYS[n])
    if redis.call('ZREM', KEYS[1], KEYS[n] .. ' ' .. length) == 1 then
        redis.call('DECRBY', KEYS[2], length + ARGV[1])
    end
end
""")


class Blocks:
    """The blocks of one account's files."""

    def __init__(self, tier: Tier, account: Account, lane: Lane) -> None:
        self._tier = tier
        self._account = account
        self._lane = lane
        self._me = token_hex(8)
        self._waiting = 0
        self.taken = 0  # blocks that others had fetched, since the mount

    async def ask(self, content: object, indexes: Sequence[int]) -> list[Buffer | bool]:
        """Return the blocks that are there and undamaged; else whether it is ours to fetch one, or another's."""
        keys = self._keys(content, indexes)
        times = (round(1000 * seconds) for seconds in (LEASE_S, KEPT_S))

        def read(answers: list[Any]) -> list[Buffer | bool | None]:
            stored, claims = answers
            return [
                self._account.opened(key, block) if block else claim == 1
                for key, block, claim in zip(keys, stored, claims, strict=True)
            ]

        try:
            asked, stored = [*keys, *map(_claim, keys), INDEX], ["MGET", *keys]
            async with self._lane.turn():
                answers = await self._tier.call(ASK, asked, [self._me, *times], lambda: [stored], read)
        except Lost:
            return [True] * len(keys)
        self.taken += sum(not isinstance(answer, bool | None) for answer in answers)
        damaged = [index for index, answer in zip(indexes, answers, strict=True) if answer is None]
        if damaged:
            log.warning("%d block(s) in the shared tier are damaged; they are fetched from their server.", len(damaged))
            self.drop(content, damaged)
        return [True if answer is None else answer for answer in answers]

    def put(self, content: object, index: int, block: Buffer) -> None:
        """Have a fetched block stored in the background, unless many wait already; both end our claim."""
        (key,) = self._keys(content, [index])
        if self._waiting >= WAITING:
            self.leave(content, [index])
            return

        def sealed() -> list[Command]:
            return [["SET", key, self._account.sealed(key, block), "PX", kept_ms]]

        def done(made: bool) -> None:
            self._waiting -= 1

        kept_ms = round(1000 * KEPT_S)
        arguments: list[Argument] = [self._me, self._tier.where.room, kept_ms, EXTRA]
        if self._tier.later(
            Post(PUT, [key, _claim(key), INDEX, BYTES], lambda: arguments, sealed, self._lane.turn, done)
        ):
            self._waiting += 1

    def leave(self, content: object, indexes: Sequence[int]) -> None:
        """End our claims of blocks that were not fetched."""
        self._tier.later(Post(LEAVE, list(map(_claim, self._keys(content, indexes))), lambda: [self._me]))

    def drop(self, content: object, indexes: Sequence[int]) -> None:
        """Have blocks removed that are not what the server holds."""
        for begin in range(0, len(indexes), REMOVED):
            keys = self._keys(content, indexes[begin : begin + REMOVED])
            self._tier.later(Post(DROP, [INDEX, BYTES, *keys], lambda: [EXTRA]))

    def _keys(self, content: object, indexes: Sequence[int]) -> list[str]:
        return [f"{self._account.key('block', content)}:{index}" for index in indexes]


def _claim(key: str) -> str:
    return f"{key}:claim"
