"""One open file being read: offsets → blocks, read-ahead, and the proof that the bytes are right.

Decisions: one block is one ranged GET, so there is nothing to coalesce; read-ahead is the same request
made early; a reader is bound to the version that was opened and never sees another. Every fetched block is
compared with its known digest before it enters the cache, so that the cache holds no damaged block.

Tests: unit/test_reader, core/test_proof.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Hashable
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakValueDictionary

import trio
from cachetools import LRUCache

from labfs.backend import Backend, Buffer, Content, Entry, Sink
from labfs.errors import LabfsError, Unranged
from labfs.read.blocks import Blocks, Fetch
from labfs.read.digests import PROVED, digest
from labfs.read.proof import HOLD_S, Damaged, Proof, Tags
from labfs.read.refetch import exactly, recounted, whole
from labfs.read.whole import Copies, Copy, Version

log = logging.getLogger(__name__)

# 1 MiB: a random read on a 100 Mbit/s line costs 80 ms more than its round trip, and 16 of them in
# flight fill 400 Mbit/s × 40 ms eightfold. On loopback larger blocks are no faster.
BLOCK = 1024 * 1024
WINDOW = 24  # blocks ahead, at most
SLOW_S = 1.5  # a block that takes longer means that the line is saturated: reduce the read-ahead


@dataclass(eq=False, slots=True, weakref_slot=True)
class Shared:
    """The state that the readers of one version share: the source of its bytes, and their proof."""

    content: RangedOrWhole | Copy
    proof: Proof


class Reader:
    """Reads one version for one handle. `key` names the version in the cache."""

    def __init__(self, blocks: Blocks, shared: Shared, key: Hashable, size: int) -> None:
        self._blocks = blocks
        self._shared = shared
        self._content = shared.content
        self._proof = shared.proof
        self._key = key
        self._failures = shared.proof.failures
        self._handed_out = False
        self._damaged = False  # for good, also when the fault has passed: wrong bytes were returned
        self._next = 0  # block that a sequential reader will touch next
        self._window = 0  # blocks ahead, now
        self._end = max(size - 1, 0) // BLOCK  # index of the last block
        self.size = size

    @property
    def _is_copied(self) -> bool:
        return isinstance(self._content, Copy) or self._content.is_copied

    @property
    def unproved(self) -> bool:
        """Whether no whole read has proved the version yet."""
        return not self._proof.proven

    async def prepare(self) -> None:
        if self.size:
            await self._content.prepare()

    async def read(self, start: int, size: int) -> Buffer:
        """Return the bytes `[start, start + size)`, fewer only at the end of the file.

        Raises Damaged when they do not match the server's checksum, or an earlier fetch.
        """
        stop = min(start + size, self.size)
        if start >= stop:
            return b""
        first, last = start // BLOCK, (stop - 1) // BLOCK
        if not self._damaged:
            self._look_ahead(first, last)
        pieces = []
        for index in range(first, last + 1):
            block = await self._block(index)
            begin = index * BLOCK
            pieces.append(memoryview(block)[max(start - begin, 0) : stop - begin])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _block(self, index: int) -> Buffer:
        failures = self._failures
        if not self._damaged:
            block = await self._blocks.get((self._key, index), self._fetch(index))
            await self._prove(index, block)
            if failures == self._proof.failures:
                self._handed_out = True
                return block
            self._damaged = self._handed_out
            self._failures = self._proof.failures
            if self._end == 0 and self._proof.proven and not self._damaged:
                return await self._block(index)  # a second download was the right one
        raise Damaged("The bytes that arrived do not match the server's checksum of the file, or what arrived before.")

    async def _prove(self, index: int, block: Buffer) -> None:
        """Offer a block and the cached ones that follow it to the proof; near the file's end wait for its outcome."""
        if self._proof.wants(index):
            await self._proof.offer(index, block)
            while (early := self._blocks.peek((self._key, self._proof.next))) is not None:
                await self._proof.offer(self._proof.next, early)
        until = trio.current_time() + HOLD_S
        if self._proof.leads(index):
            await self._finish_proof(index, until)
        await self._proof.tested(index, until)

    async def _finish_proof(self, index: int, until: float) -> None:
        """Fetch and offer all blocks after this one; an error is raised only by the reads of these blocks."""
        for later in range(index + 1, self._end + 1):
            self._blocks.start((self._key, later), self._fetch(later))
        with trio.CancelScope(deadline=until), suppress(LabfsError):
            while self._proof.leads(index):
                following = self._proof.next
                block = await self._blocks.get((self._key, following), self._fetch(following))
                await self._proof.offer(following, block)

    async def _stored(self, index: int) -> Buffer | None:
        """Return a block that is on disk, unless it is another than what was fetched: that is a server's to say."""
        block = None if self._is_copied else await self._blocks.stored((self._key, index))
        if block is None:
            return None
        digests, value = self._proof.digests, digest(block)
        if not digests.known(index):
            digests.add(index, value)  # once: reading it from the disk again says no more
        return block if digests.value(index) == value else None

    def _fetch(self, index: int) -> Fetch:
        async def fetch() -> Buffer:
            stored = await self._stored(index)
            if stored is not None:
                return stored
            began = trio.current_time()
            start, stop = index * BLOCK, min((index + 1) * BLOCK, self.size)
            block = await exactly(self._content, start, stop)
            if trio.current_time() - began > SLOW_S:
                self._window //= 2
            if not self._proof.digests.add(index, digest(block)):
                block = await self._recount(index, start, stop, block)
            if not self._is_copied:
                self._blocks.store((self._key, index), block)
            return block

        return fetch

    async def _recount(self, index: int, start: int, stop: int, first: Buffer) -> Buffer:
        """Fetch a block again that differs from its first fetch; if the first was wrong, its readers fail."""
        digests = self._proof.digests
        block = await recounted(self._content, start, stop, index, digests, first)
        if not digests.add(index, digest(block)):
            if digests.known(index) == PROVED:  # since just now
                raise Damaged("The server does not send the same bytes of this file twice: read it again later.")
            self._proof.revise(index, digest(block))
        return block

    def _look_ahead(self, first: int, last: int) -> None:
        """Start to fetch the requested blocks and, while reads are sequential, a growing number of blocks ahead."""
        if self._next - 2 <= first <= self._next + 1:
            if last >= self._next and last > 0:
                self._window = min(max(2 * self._window, 2), WINDOW)
        else:
            self._window = 0
        self._next = max(last + 1, self._next if self._window else 0)
        for index in range(first, min(last + self._window, self._end) + 1):
            self._blocks.start((self._key, index), self._fetch(index))


class RangedOrWhole:
    """A content read in ranges as long as the server supports them, else from a whole copy."""

    def __init__(
        self, content: Content, copies: Copies, version: Version | None, size: int, *, ranged: bool = True
    ) -> None:
        self._content = content
        self._size = size
        self._copies = copies
        self._version = version
        self._ranged = ranged
        self._copy: Copy | None = None

    async def prepare(self) -> None:
        await (self._content if self._ranged else self._whole()).prepare()

    async def read(self, start: int, stop: int) -> Buffer:
        if self._ranged:
            try:
                return await self._content.read(start, stop)
            except Unranged as error:
                log.info("%s It is fetched whole.", error)
                self._ranged = False
        return await self._whole().read(start, stop)

    @property
    def is_copied(self) -> bool:
        """Whether the bytes come from a copy on this machine's disk."""
        return not self._ranged

    def _whole(self) -> Copy:
        self._copy = self._copy or self._copies.open(self._version, self._content, self._size)
        return self._copy

    def renew(self) -> None:
        """Drop a copy whose bytes turned out to be of several versions; the next read begins a new copy."""
        if self._copy is not None and self._copy.spoiled:
            self._copy = None

    def discard(self) -> None:
        """Remove a copy that does not match the server's checksum."""
        if self._copy is not None:
            self._copy.discard()

    async def pour(self, sink: Sink) -> None:
        raise Unranged("A copy is not copied.")


class Readers:
    """Opens readers; caches the shared state of the readers of a version, and the `Tags` of each site."""

    KEPT = 4096  # versions, a large one counted for each GiB: 64 MiB of digests at most

    def __init__(self, nursery: trio.Nursery, blocks: Blocks, copies: Copies) -> None:
        self._nursery = nursery
        self._blocks = blocks
        self._copies = copies
        self._shared: LRUCache[Version, tuple[Shared, int]] = LRUCache(self.KEPT, getsizeof=lambda kept: kept[1])
        self._live: WeakValueDictionary[Version, Shared] = WeakValueDictionary()  # also those that readers hold
        self._tags: dict[str, Tags] = {}  # by site

    def open(self, site: str, backend: Backend, entry: Entry) -> Reader:
        """Return a reader of the entry's version, whose size is known; without a version nothing is shared."""
        assert entry.size is not None
        if entry.version is None:
            key = object()
            return Reader(self._blocks, self._made(site, backend, entry, None, key), key, entry.size)
        version = (site, entry.id, entry.version)
        shared = self._live.get(version) or self._made(site, backend, entry, version, version)
        if isinstance(shared.content, RangedOrWhole):
            shared.content.renew()
        self._live[version] = shared
        self._shared[version] = shared, min(1 + entry.size // (1024 * BLOCK), self.KEPT)
        return Reader(self._blocks, shared, version, entry.size)

    def _made(self, site: str, backend: Backend, entry: Entry, version: Version | None, key: Hashable) -> Shared:
        size, ranged = entry.size or 0, backend.capabilities.ranged
        content = RangedOrWhole(backend.content(entry), self._copies, version, size, ranged=ranged)
        tags = self._tags.setdefault(site, _tags(backend))
        return Shared(content, self._proof(tags, backend, entry, size, content, key))

    def _proof(
        self, tags: Tags, backend: Backend, entry: Entry, size: int, content: RangedOrWhole | Copy, key: Hashable
    ) -> Proof:
        def again() -> AsyncGenerator[Buffer, None]:
            """Download the file a second time, bypassing the caches."""
            ranged = backend.capabilities.ranged
            return whole(RangedOrWhole(backend.content(entry), self._copies, None, size, ranged=ranged), size, BLOCK)

        def damaged() -> None:
            self._blocks.drop(key)
            content.discard()

        return Proof(self._nursery, entry.checksum, size, BLOCK, tags=tags, again=again, damaged=damaged)

    async def snapshot(self, backend: Backend, entry: Entry) -> tuple[Reader, int]:
        """Return a reader of the present bytes of an entry without version and ranges, and their size."""
        content = self._copies.open(None, backend.content(entry))
        size, key = await content.whole(), object()
        return Reader(
            self._blocks, Shared(content, self._proof(_tags(backend), backend, entry, size, content, key)), key, size
        ), size

    async def size(self, site: str, backend: Backend, entry: Entry, *, surely: bool) -> tuple[int | None, int]:
        """Return the size in bytes of a file that was listed without one, or None, and a lower bound.

        About `GLANCE` bytes are fetched at most, unless the size must be known `surely`.
        """
        version = None if entry.version is None else (site, entry.id, entry.version)
        copy = self._copies.open(version, backend.content(entry))
        size = await copy.whole() if surely else await copy.glance()
        return size, copy.least


def _tags(backend: Backend) -> Tags:
    return Tags(lambda: backend.capabilities.checksums_prove)
