"""Proof that the bytes of a file match the server's checksum.

No checksum covers a single range, but a reader that reads a file from its first byte to its last returns exactly
the bytes that the checksum covers. So the blocks are hashed in order as they are read; if the checksum does not
match after the last block, that block is not returned: the read fails with EIO, never with wrong bytes at its end
and success at its close. A file of one block is proved before its first byte is returned.

Of each hashed block a digest is stored. Once the whole file has matched, every block that is fetched again is
compared with these digests, for any reader (reader.py). Before that, a block is compared with its first fetch; if
they differ, fetching it again in other ranges decides (refetch.py). If that overturns a block that had been
returned, every reader of the version fails once more, and the running proof starts anew.

A multipart tag (`md5-of-parts`) does not tell the part size. The sizes that uploaders use and that give the
number of parts are tried, else all whole MiB; where none fits, the part size may have been an odd one.

A checksum proves only where checksums were seen to be such. Some stores tag files with what looks like one and
is none, and only a header or an upload of one's own shows this. When a whole read does not match:

* The site is known not to give checksums (`checksums_prove` is false, perhaps since this very download): no proof
  is tried any more. The file is trusted as those of a system without checksums are: by the length and the
  version that the server confirmed with each range, and by the digests of its blocks, of which those that came
  twice are overturned by three others only. A second download is not made for it: it would double what a read
  costs on such a site for good, and each range already came under the version's own tag.
* No checksum of this site matched since the mount began, or the tag is of parts that may be odd: a second
  download, in other ranges, decides. If it is equal, the file is proved and the log says so; if it matches the
  checksum, the first one was damaged. It takes longer than a read may; so the rest of a large file is hashed
  before the last `HELD` blocks leave, and then each read of these waits for the second download, up to `HOLD_S`.
  A file that is downloaded in three minutes is so read without an error, slowly at its end. What takes longer fails
  with EIO once; the download goes on, for `OPINION_S` at most, and whoever reads the file after its end finds it
  proved. If it ended without an answer, the next whole read is the second download.
* Checksums of this site have matched and nothing says otherwise: the file is damaged, also when two downloads
  agree, as they do when it is the store that lost bytes. EIO.

Tests: core/test_proof.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

import trio

from labfs.backend import Buffer
from labfs.errors import Unavailable
from labfs.read.digests import TWICE, Digests, digest

log = logging.getLogger(__name__)

MIB = 1024 * 1024
WAITING = 64  # blocks that wait to be hashed, at most: their memory is not counted in the cache's
IDLE_S = 5.0  # a proof that got no block for so long may be begun anew
COMMON = (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128)  # MiB that uploaders use
CANDIDATES = 4  # part sizes to try at most: each costs one MD5 over the file
HELD = 24  # blocks before the end that wait for a second download: as many as are read ahead
HOLD_S = 8.0  # for which each waits, at most; the kernel repeats a failed read once, and a read may take 17 s
OPINION_S = 600.0  # timeout of a second download, for which no reader may be waiting any more


class Tags:
    """The state of one site's checksums; `prove` is the backend's `checksums_prove`."""

    def __init__(self, prove: Callable[[], bool] = lambda: True) -> None:
        self._prove = prove
        self.matched = False  # whether a checksum of the site has matched its file

    @property
    def prove(self) -> bool:
        return self._prove()


class _Hash(Protocol):
    def update(self, data: Buffer, /) -> None: ...
    def matches(self) -> bool: ...


class Damaged(Unavailable):
    """Fetched bytes do not match the server's checksum, or the bytes fetched before."""

    remedy = "Try again; if it goes on, the file is damaged on its server, or by something on the way."


class Proof:
    """The running proof of one version of one file of `size` bytes, cut into blocks of `block` bytes.

    Shared by all readers of the version, who share the blocks too: whoever comes to the next block in
    order offers it, and a task in `nursery` hashes it while the reading goes on. `failures` counts how often
    something turned out to be wrong: a reader that was there must not hand out the end of the file. `damaged`
    is called then, to forget what was fetched; `again` downloads the file a second time.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        checksum: str | None,
        size: int,
        block: int,
        *,
        tags: Tags | None = None,
        again: Callable[[], AsyncGenerator[Buffer, None]] | None = None,
        damaged: Callable[[], None] = lambda: None,
    ) -> None:
        self._nursery = nursery
        self._checksum = checksum
        self._size = size
        self._last = max(size - 1, 0) // block
        self._tags = tags or Tags()
        self._again = again
        self._damaged = damaged
        self._queue: deque[Buffer] = deque()
        self._idle = trio.Event()
        self._idle.set()
        self._offered_at = 0.0
        self._doubt: trio.Event | None = None  # set at the end of the second download under way
        self._answered = False  # whether the second download has
        self._found = b""  # the digests of the last whole read that did not match
        self.digests = Digests()
        self.proven = checksum is None
        self.failures = 0
        self._begin()

    @property
    def open(self) -> bool:
        """Whether a whole read can still prove something."""
        return not self.proven and self._tags.prove

    @property
    def _agreement_counts(self) -> bool:
        """Whether two equal downloads outweigh a checksum that does not match."""
        return (self._checksum or "").startswith("md5-of-parts:") or not self._tags.matched

    def _begin(self) -> None:
        self._next = self._hashed = 0
        self._hashes = hashes(self._checksum, self._size)
        self._learnt = bytearray()
        self._queue.clear()

    @property
    def next(self) -> int:
        """The index of the next block that the proof needs."""
        return self._next

    def wants(self, index: int) -> bool:
        """Whether this block continues the proof, or begins it anew after a reader gave up."""
        if self._doubt is not None or not self.open:
            return False
        abandoned = self._idle.is_set() and trio.current_time() - self._offered_at > IDLE_S
        return index == self._next or (index == 0 and abandoned)

    async def offer(self, index: int, block: Buffer) -> None:
        """Queue a block for hashing if it is the next one; waits only while more than `WAITING` are queued."""
        if self.wants(index):
            if index == 0:
                self._begin()
            await self._take(block)

    def passes(self, index: int, block: Buffer) -> bool:
        """Offer a block, not the first, whose return depends on nothing that is waited for; else do nothing."""
        if self.open:
            if index >= self._last - HELD or self._next > self._last or len(self._queue) >= WAITING:
                return False
            if self.wants(index):
                self._queue_up(block)
        return self._doubt is None

    async def _take(self, block: Buffer) -> None:
        self._queue_up(block)
        if len(self._queue) > WAITING:
            await self._idle.wait()

    def _queue_up(self, block: Buffer) -> None:
        self._next += 1
        self._offered_at = trio.current_time()
        self._queue.append(block)
        if self._idle.is_set():
            self._idle = trio.Event()
            self._nursery.start_soon(self._hash)

    async def hashed(self) -> None:
        """Wait until all queued blocks are hashed."""
        await self._idle.wait()

    def leads(self, index: int) -> bool:
        """Whether the rest of a large file is to be hashed before this block is returned: see `HELD`."""
        near = max(self._last - HELD, HELD) < index < self._next <= self._last
        return near and self.open and self._doubt is None and self._agreement_counts

    async def tested(self, index: int, until: float) -> None:
        """Wait for the proof, as far as the block of that index depends on it.

        Waits for a second download `until` then. Raises Damaged if the last block would be returned before its end.
        """
        if self._next > self._last:
            await self._idle.wait()
        doubt = self._doubt
        if doubt is None or index <= self._last - HELD:
            return
        with trio.CancelScope(deadline=until):
            await doubt.wait()
        if index == self._last and not doubt.is_set():
            raise Damaged(
                "The bytes do not match the server's checksum. A second download, which tells which of them is "
                "wrong, is still under way: read the file again in a while."
            )

    def revise(self, index: int, value: bytes) -> None:
        """Replace the digest of a block that may have been returned wrong; readers of the version then fail."""
        log.warning("Block %d was wrong the first time; what was read of the file until now may be.", index)
        self.digests.put(index, value, TWICE)
        self.failures += 1
        if self._doubt is None:
            self._begin()

    # -- hashing -------------------------------------------------------------------------------------

    async def _hash(self) -> None:
        try:
            while self._queue:
                blocks, hashes = list(self._queue), self._hashes
                self._queue.clear()
                learnt = await trio.to_thread.run_sync(_update, hashes, blocks)
                if hashes is not self._hashes:
                    continue  # begun anew meanwhile
                self._learnt += learnt
                self._hashed += len(blocks)
                if self._hashed > self._last:
                    self._conclude(bytes(self._learnt))
        finally:
            self._idle.set()

    def _conclude(self, learnt: bytes) -> None:
        if any(each.matches() for each in self._hashes):
            self._tags.matched = True
            self._prove(learnt)
        elif learnt == self._found and self._agreement_counts and self._tags.prove:
            log.warning("Two downloads are equal and do not match %s: that is held for no checksum.", self._checksum)
            self._prove(learnt)
        elif self._tags.prove:
            self._mismatch(learnt)

    def _prove(self, learnt: bytes) -> None:
        self.proven = self._answered = True
        self._found, self._hashes, self._learnt = b"", [], bytearray()
        if not self.digests.prove(learnt):  # a block fetched before was wrong
            self.failures += 1
            self._damaged()

    def _mismatch(self, learnt: bytes) -> None:
        log.warning("A whole read did not match the checksum.")
        self._found = learnt
        self._begin()
        if self._doubt is None and self._again is not None and (self._last == 0 or self._agreement_counts):
            self._doubt = trio.Event()
            self._nursery.start_soon(self._second_opinion, self._again, self._doubt)
        else:
            self._fail()

    def _fail(self) -> None:
        self._answered = True
        self.failures += 1
        self.digests.forget()
        self._damaged()

    async def _second_opinion(self, again: Callable[[], AsyncGenerator[Buffer, None]], doubt: trio.Event) -> None:
        """Download the file a second time, which decides a mismatch of the first download."""
        self._answered = False
        try:
            with trio.move_on_after(OPINION_S):
                async with aclosing(again()) as blocks:
                    async for block in blocks:
                        await self._take(block)
        except Exception as error:
            log.warning("A second download ended without an answer: %s", error)
        await self._idle.wait()
        if self.open and not self._answered:
            self._begin()
            self._fail()
        self._doubt = None
        doubt.set()


def _update(hashes: list[_Hash], blocks: list[Buffer]) -> bytes:
    """Add blocks to the hashes; return the digests of the blocks."""
    for block in blocks:
        for each in hashes:
            each.update(block)
    return b"".join(map(digest, blocks))


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


def hashes(checksum: str | None, size: int) -> list[_Hash]:
    """Return hashes of which one matches if the bytes have the checksum; none where there is no checksum."""
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
