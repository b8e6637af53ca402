"""Proof that the bytes of a file are the ones the server's checksum was made of.

Nothing checks a single range, but whoever reads a file from its first byte to its last hands out exactly
what the checksum covers. So the blocks are hashed as they pass, in order; when the last one does not
complete the right digest it is not handed out: the read fails with EIO, never with wrong bytes at its end
and success at its close. A file of one block is proved before its first byte leaves.

A multipart tag (`md5-of-parts`) does not tell the part size. All whole-MiB sizes that give the number of
parts are tried; where none fits, the part size was an odd one and the tag proves nothing either way. Then
a second download that comes out the same counts as proof.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Protocol

import trio

from labfs.backend import Buffer
from labfs.errors import Unavailable

log = logging.getLogger(__name__)

MIB = 1024 * 1024
IDLE_S = 5.0  # a proof that nobody fed for so long may be begun anew
COMMON = (5, 8, 10, 15, 16, 20, 24, 25, 32, 50, 64, 100, 128)  # MiB that uploaders use
CANDIDATES = 8  # part sizes to try at most: each costs one MD5 over the file


class _Digest(Protocol):
    def update(self, data: Buffer, /) -> None: ...
    def matches(self) -> bool: ...


class Proof:
    """The running proof of one version of one file of `size` bytes, cut into blocks of `block` bytes.

    Shared by all readers of the version, who share the blocks too: whoever comes to the next block in
    order feeds it. `failures` counts the whole reads that proved wrong, so that a reader who handed out
    some of those blocks without feeding them can tell.
    """

    def __init__(self, checksum: str | None, size: int, block: int) -> None:
        self._checksum = checksum
        self._size = size
        self._last = max(size - 1, 0) // block
        self._lock = trio.Lock()
        self._fed_at = 0.0
        self.found: bytes | None = None  # MD5 of the last whole read that proved nothing
        self.proven = checksum is None
        self.failures = 0
        self._begin()

    @property
    def odd_parts(self) -> bool:
        """Whether a mismatch may only mean that the parts had a size nobody would guess."""
        return bool(self._checksum and self._checksum.startswith("md5-of-parts:"))

    def _begin(self) -> None:
        self._next = 0
        self._plain = hashlib.md5(usedforsecurity=False)
        self._digests = _digests(self._checksum, self._size)

    def wants(self, index: int) -> bool:
        """Tell whether this block continues the proof, or begins it anew after a reader gave up."""
        if self.proven:
            return False
        return index == self._next or (index == 0 and trio.current_time() - self._fed_at > IDLE_S)

    async def feed(self, index: int, block: Buffer) -> None:
        """Hash a block. Raises Damaged where the last one shows that the bytes were not right."""
        async with self._lock:
            if not self.wants(index):
                return
            if index == 0:
                self._begin()
            self._fed_at = trio.current_time()
            await trio.to_thread.run_sync(self._update, block)
            self._next = index + 1
            if index == self._last:
                self._settle()

    def _update(self, block: Buffer) -> None:
        self._plain.update(block)
        for digest in self._digests:
            digest.update(block)

    def _settle(self) -> None:
        found = self._plain.digest()
        twice_the_same = self.odd_parts and found == self.found
        self.proven = twice_the_same or any(digest.matches() for digest in self._digests)
        before, self.found = self.found, found
        if self.proven:
            self.failures -= twice_the_same  # then it was none
            self._digests = []
            return
        self.failures += 1
        self._begin()
        log.warning("A whole read did not match the checksum (digest %s, before %s).", found.hex(), before)
        raise Damaged("The bytes that arrived do not match the server's checksum of the file.")


class Damaged(Unavailable):
    """The whole file arrived and is not what the server's checksum says."""


class _Whole:
    def __init__(self, expected: str) -> None:
        self._expected = expected
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, data: Buffer, /) -> None:
        self._md5.update(data)

    def matches(self) -> bool:
        return self._md5.hexdigest() == self._expected


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

    def matches(self) -> bool:
        outer = self._outer.copy()
        if self._room < self._part:
            outer.update(self._md5.digest())
        return outer.hexdigest() == self._expected


def _digests(checksum: str | None, size: int) -> list[_Digest]:
    kind, _, value = (checksum or "").partition(":")
    if kind == "md5":
        return [_Whole(value)]
    if kind == "md5-of-parts":
        expected, _, count = value.partition("-")
        return [_OfParts(expected, part) for part in part_sizes(size, int(count))]
    return []


def part_sizes(size: int, count: int) -> list[int]:
    """Return the whole-MiB part sizes, in bytes, that cut `size` bytes into `count` parts."""
    if count < 1 or size < 1:
        return []
    least = -(-size // count)
    greatest = size if count == 1 else (size - 1) // (count - 1)
    sizes = range(-(-least // MIB) * MIB, greatest + 1, MIB) if count > 1 else [max(size, MIB)]
    return sorted(sizes, key=lambda part: (part // MIB not in COMMON, part))[:CANDIDATES]
