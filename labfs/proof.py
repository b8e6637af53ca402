"""Proof that the bytes of a file are the ones the server's checksum was made of.

Nothing checks a single range, but whoever reads a file from its first byte to its last hands out exactly
what the checksum covers. So the blocks are hashed as they pass, in order; when the last one does not
complete the right digest it is not handed out: the read fails with EIO, never with wrong bytes at its end
and success at its close. A file of one block is proved before its first byte leaves.

A multipart tag (`md5-of-parts`) does not tell the part size. The sizes that uploaders use and that give the
number of parts are tried, else all whole MiB; where none fits, the part size was an odd one and the tag
proves nothing either way. Then a second download that comes out the same counts as proof.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from typing import Protocol

import trio

from labfs.backend import Buffer
from labfs.errors import Unavailable

log = logging.getLogger(__name__)

MIB = 1024 * 1024
WAITING = 64  # blocks that wait to be hashed, at most: their memory is not the cache's
IDLE_S = 5.0  # a proof that nobody fed for so long may be begun anew
COMMON = (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128)  # MiB that uploaders use
CANDIDATES = 4  # part sizes to try at most: each costs one MD5 over the file


class _Digest(Protocol):
    def update(self, data: Buffer, /) -> None: ...
    def value(self) -> str: ...
    def matches(self) -> bool: ...


class Proof:
    """The running proof of one version of one file of `size` bytes, cut into blocks of `block` bytes.

    Shared by all readers of the version, who share the blocks too: whoever comes to the next block in
    order offers it, and a task in `nursery` hashes it while the reading goes on. `failures` counts the
    whole reads that proved wrong: a reader that was there must not hand out the end of the file.
    """

    def __init__(self, nursery: trio.Nursery, checksum: str | None, size: int, block: int) -> None:
        self._nursery = nursery
        self._checksum = checksum
        self._size = size
        self._last = max(size - 1, 0) // block
        self._queue: deque[Buffer] = deque()
        self._idle = trio.Event()
        self._idle.set()
        self._offered_at = 0.0
        self.found: str | None = None  # what the last whole read that proved nothing came to
        self.proven = checksum is None
        self.failures = 0
        self._begin()

    @property
    def odd_parts(self) -> bool:
        """Whether a mismatch may only mean that the parts had a size nobody would guess."""
        return bool(self._checksum and self._checksum.startswith("md5-of-parts:"))

    def _begin(self) -> None:
        self._next = self._hashed = 0
        self._digests = _digests(self._checksum, self._size)

    @property
    def next(self) -> int:
        """The block that the proof goes on with."""
        return self._next

    @property
    def complete(self) -> bool:
        """Whether every block has been offered, so that the outcome only has to be waited for."""
        return self.proven or self._next > self._last

    def wants(self, index: int) -> bool:
        """Tell whether this block continues the proof, or begins it anew after a reader gave up."""
        if self.proven:
            return False
        abandoned = self._idle.is_set() and trio.current_time() - self._offered_at > IDLE_S
        return index == self._next or (index == 0 and abandoned)

    async def offer(self, index: int, block: Buffer) -> None:
        """Have a block hashed if it is the next one; waits only while very many are waiting already."""
        if not self.wants(index):
            return
        if index == 0:
            self._begin()
        self._next = index + 1
        self._offered_at = trio.current_time()
        self._queue.append(block)
        if self._idle.is_set():
            self._idle = trio.Event()
            self._nursery.start_soon(self._hash)
        if len(self._queue) > WAITING:
            await self._idle.wait()

    async def settled(self) -> None:
        """Wait until everything that was offered is hashed."""
        await self._idle.wait()

    async def _hash(self) -> None:
        try:
            while self._queue:
                blocks = list(self._queue)
                self._queue.clear()
                await trio.to_thread.run_sync(self._update, blocks)
                self._hashed += len(blocks)
                if self._hashed > self._last:
                    self._settle()
        finally:
            self._idle.set()

    def _update(self, blocks: list[Buffer]) -> None:
        for block in blocks:
            for digest in self._digests:
                digest.update(block)

    def _settle(self) -> None:
        found = self._digests[0].value()
        twice_the_same = self.odd_parts and found == self.found
        self.proven = twice_the_same or any(digest.matches() for digest in self._digests)
        before, self.found = self.found, found
        if self.proven:
            self.failures -= twice_the_same  # then it was none
            self._digests = []
            return
        self.failures += 1
        self._begin()
        log.warning("A whole read did not match the checksum (%s, before %s).", found, before)


class Damaged(Unavailable):
    """The whole file arrived and is not what the server's checksum says."""


class _Whole:
    def __init__(self, expected: str) -> None:
        self._expected = expected
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: Buffer, /) -> None:
        self._md5.update(data)

    def value(self) -> str:
        return self._md5.hexdigest()

    def matches(self) -> bool:
        return self.value() == self._expected


class _OfParts:
    """MD5 over the MD5s of parts of one size, as object stores tag a multipart upload."""

    def __init__(self, expected: str, part: int) -> None:
        self._expected = expected
        self._part = part
        self._room = part
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._outer = hashlib.md5(usedforsecurity=False)

    def update(self, data: Buffer, /) -> None:
        view = memoryview(data)
        while len(view) >= self._room:
            self._md5.update(view[: self._room])
            view = view[self._room :]
            self._close_part()
        self._md5.update(view)
        self._room -= len(view)

    def _close_part(self) -> None:
        self._outer.update(self._md5.digest())
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._room = self._part

    def value(self) -> str:
        outer = self._outer.copy()
        if self._room < self._part:
            outer.update(self._md5.digest())
        return outer.hexdigest()

    def matches(self) -> bool:
        return self.value() == self._expected


def _digests(checksum: str | None, size: int) -> list[_Digest]:
    kind, _, value = (checksum or "").partition(":")
    if kind == "md5":
        return [_Whole(value)]
    if kind == "md5-of-parts":
        expected, _, count = value.partition("-")
        return [_OfParts(expected, part) for part in part_sizes(size, int(count))] or [_Whole(expected)]
    return []


def part_sizes(size: int, count: int) -> list[int]:
    """Return the whole-MiB part sizes, in bytes, that cut `size` bytes into `count` parts."""
    if count < 1 or size < 1:
        return []
    least = -(-size // count)
    greatest = size if count == 1 else (size - 1) // (count - 1)
    sizes = range(-(-least // MIB) * MIB, greatest + 1, MIB) if count > 1 else [max(size, MIB)]
    common = [part for part in sizes if part // MIB in COMMON]
    return (common or list(sizes))[:CANDIDATES]
