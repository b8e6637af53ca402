"""One open file being read: offsets → blocks, read-ahead, and the proof that the bytes are right.

Decisions: one block is one ranged GET, so there is nothing to coalesce; read-ahead is the same request
made early; a reader is bound to the version that was opened and never sees another.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable
from contextlib import aclosing
from itertools import pairwise

import trio
from cachetools import LRUCache

from labfs.backend import Backend, Buffer, Content, Entry
from labfs.blocks import Blocks, Fetch
from labfs.copies import Copies, Copy, Version, Wherever
from labfs.errors import LabfsError, Malformed
from labfs.proof import Damaged, Proof

# 1 MiB: a random read on a 100 Mbit/s line costs 80 ms more than its round trip, and 16 of them in
# flight fill 400 Mbit/s × 40 ms eightfold. On loopback larger blocks are no faster.
BLOCK = 1024 * 1024
WINDOW = 24  # blocks ahead, at most
AGAIN_AT_ONCE = 8  # blocks of a second download
OPINION_S = 10.0  # a FUSE read may not take longer than the kernel's patience
SLOW_S = 1.5  # a block that takes longer means that the line is full: look less far ahead


class Reader:
    """Reads of one handle. `key` names the version; `proof` is shared by all readers of that version."""

    def __init__(self, blocks: Blocks, content: Content, proof: Proof, key: Hashable, size: int) -> None:
        self._blocks = blocks
        self._content = content
        self._key = key
        self._proof = proof
        self._failures = proof.failures
        self._damaged = False
        self._next = 0  # block that a sequential reader will touch next
        self._window = 0  # blocks ahead, now
        self._end = max(size - 1, 0) // BLOCK  # index of the last block
        self.size = size

    @property
    def unproved(self) -> bool:
        """Whether reading it once more, whole and in order, would prove what nothing has proved yet."""
        return not self._proof.proven

    async def prepare(self) -> None:
        if self.size:
            await self._content.prepare()

    async def read(self, start: int, size: int) -> Buffer:
        """Return the bytes `[start, start + size)`, fewer only at the end of the file."""
        stop = min(start + size, self.size)
        if start >= stop:
            return b""
        first, last = start // BLOCK, (stop - 1) // BLOCK
        self._look_ahead(first, last)
        pieces = []
        for index in range(first, last + 1):
            block = await self._block(index)
            begin = index * BLOCK
            pieces.append(memoryview(block)[max(start - begin, 0) : stop - begin])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _block(self, index: int) -> Buffer:
        block = await self._blocks.get((self._key, index), self._fetch(index))
        last = await self._prove(index, block)
        if self._failures == self._proof.failures:
            return block
        self._blocks.drop(self._key)
        if last and not self._damaged and (again := await self._second_opinion(index)) is not None:
            return again
        # For good, also when the fault has passed: this reader has handed out some of the wrong bytes.
        self._damaged = True
        raise Damaged("The bytes that arrived do not match the server's checksum of the file.")

    async def _prove(self, index: int, block: Buffer) -> bool:
        """Offer a block, and those behind it that came first; true for the one that makes the proof whole."""
        if not self._proof.wants(index):
            return False
        await self._proof.offer(index, block)
        while (early := self._blocks.peek((self._key, self._proof.next))) is not None:
            await self._proof.offer(self._proof.next, early)
        if not self._proof.complete:
            return False
        await self._proof.settled()
        return True

    async def _second_opinion(self, index: int) -> Buffer | None:
        """Download once more; return the block of that index if nothing wrong was handed out before."""
        found, wanted = self._proof.found, None
        if self._end > 0 and not self._proof.odd_parts:
            return None
        with trio.move_on_after(OPINION_S):
            async with aclosing(self._again()) as blocks:
                async for number, block in blocks:
                    await self._proof.offer(number, block)
                    wanted = block if number == index else wanted
            await self._proof.settled()
        if self._proof.proven and (self._end == 0 or self._proof.found == found):
            self._failures = self._proof.failures
            return wanted
        return None

    async def _again(self) -> AsyncGenerator[tuple[int, Buffer], None]:
        """Yield every block, fetched in other ranges: what spoils each answer spoils other bytes this time."""
        cuts = [0, *range(BLOCK // 2 if self.size > BLOCK else self.size // 2, self.size, BLOCK), self.size]
        waiting, index = bytearray(), 0
        for first in range(0, len(cuts) - 1, AGAIN_AT_ONCE):
            pairs = list(pairwise(cuts))[first : first + AGAIN_AT_ONCE]
            pieces = await self._pieces(pairs)
            for start in sorted(pieces):
                waiting += pieces[start]
            while len(waiting) >= BLOCK or (pairs[-1][1] == self.size and waiting):
                yield index, bytes(waiting[:BLOCK])
                del waiting[:BLOCK]
                index += 1

    async def _pieces(self, ranges: list[tuple[int, int]]) -> dict[int, Buffer]:
        """Fetch some ranges at the same time; return them by where they start."""
        pieces: dict[int, Buffer] = {}
        errors: list[LabfsError] = []

        async def fetch(start: int, stop: int) -> None:
            try:
                pieces[start] = await self._content.read(start, stop)
            except LabfsError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for start, stop in ranges:
                if start < stop:
                    nursery.start_soon(fetch, start, stop)
        if errors:
            raise errors[0]
        return pieces

    def _fetch(self, index: int) -> Fetch:
        async def fetch() -> Buffer:
            began = trio.current_time()
            start, stop = index * BLOCK, min((index + 1) * BLOCK, self.size)
            block = await self._content.read(start, stop)
            if len(block) != stop - start:
                raise Malformed(f"{len(block)} bytes came where {stop - start} were asked for.")
            if trio.current_time() - began > SLOW_S:
                self._window //= 2
            return block

        return fetch

    def _look_ahead(self, first: int, last: int) -> None:
        """Start what is asked for and, while the reading is sequential, an ever longer stretch after it."""
        if self._next - 2 <= first <= self._next + 1:
            if last >= self._next and last > 0:
                self._window = min(max(2 * self._window, 2), WINDOW)
        else:
            self._window = 0
        self._next = max(last + 1, self._next if self._window else 0)
        for index in range(first, min(last + self._window, self._end) + 1):
            self._blocks.start((self._key, index), self._fetch(index))


class Readers:
    """Opens readers; keeps what is worth sharing between those of one version: address and proof."""

    KEPT = 4096  # versions

    def __init__(self, nursery: trio.Nursery, blocks: Blocks, copies: Copies) -> None:
        self._nursery = nursery
        self._blocks = blocks
        self._copies = copies
        self._shared: LRUCache[Version, tuple[Content, Proof]] = LRUCache(maxsize=self.KEPT)

    def open(self, site: str, backend: Backend, entry: Entry) -> Reader:
        """Return a reader of the entry's version, whose size is known; without a version nothing is shared."""
        assert entry.size is not None
        if entry.version is None:
            return Reader(self._blocks, *self._made(backend, entry, None), object(), entry.size)
        version = (site, entry.id, entry.version)
        content, proof = self._shared.get(version) or self._made(backend, entry, version)
        if isinstance(content, Copy) and content.spoiled:
            content = self._copies.open(version, backend.content(entry), entry.size)
        self._shared[version] = (content, proof)
        return Reader(self._blocks, content, proof, version, entry.size)

    def _made(self, backend: Backend, entry: Entry, version: Version | None) -> tuple[Content, Proof]:
        content, whole = backend.content(entry), not backend.capabilities.ranged
        size = entry.size or 0
        found = self._copies.open(version, content, size) if whole else Wherever(content, self._copies, version, size)
        return found, Proof(self._nursery, entry.checksum, entry.size or 0, BLOCK)

    async def snapshot(self, backend: Backend, entry: Entry) -> tuple[Reader, int]:
        """Return a reader, and its size, of what is behind an entry now that has no version and no ranges."""
        content = self._copies.open(None, backend.content(entry))
        size = await content.whole()
        proof = Proof(self._nursery, entry.checksum, size, BLOCK)
        return Reader(self._blocks, content, proof, object(), size), size

    async def size(self, site: str, backend: Backend, entry: Entry, *, surely: bool) -> tuple[int | None, int]:
        """Return the size in bytes of a file that was listed without one, and how many it has at least.

        At most `GLANCE` bytes are fetched for it, unless it must be known `surely`.
        """
        version = None if entry.version is None else (site, entry.id, entry.version)
        copy = self._copies.open(version, backend.content(entry))
        size = await copy.whole() if surely else await copy.glance()
        return size, copy.least
