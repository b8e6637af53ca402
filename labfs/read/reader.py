"""One open file being read: offsets → blocks, read-ahead, and the proof that the bytes are right.

Decisions: neighbouring blocks that are missing come with one ranged GET, each usable when it has arrived; a reader is
bound to the version that was opened and never sees another. Every fetched block is compared with its known digest
before it enters the cache, so that the cache holds no damaged block.

Tests: unit/test_reader, core/test_proof.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakValueDictionary

import trio
from cachetools import LRUCache

from labfs.backend import Backend, Buffer, Entry, Stretch
from labfs.errors import LabfsError, Malformed, Unsupported
from labfs.read.below.common import Common, Others
from labfs.read.blocks import Blocks, Fetch, FetchRun, Landed
from labfs.read.digests import PROVED, digest
from labfs.read.flight import caught_up
from labfs.read.proof import HOLD_S, Damaged, Proof, Tags
from labfs.read.ranged import RangedOrWhole
from labfs.read.refetch import exactly, recounted, whole
from labfs.read.whole import Copies, Copy, Version
from labfs.read.window import BLOCK, HEAD, SLOW_S, Budget, Line, Window

log = logging.getLogger(__name__)

HEAD_INDEX = -1  # of the head, beside the blocks in the cache


@dataclass(eq=False, slots=True, weakref_slot=True)
class Shared:
    """The state that the readers of one version share: the source of its bytes, and their proof."""

    content: RangedOrWhole | Copy
    proof: Proof
    line: Line
    common: Common | None = None  # of what other machines have


class Reader:
    """Reads one version for one handle. `key` names the version in the cache, `budget` is what all readers share."""

    def __init__(self, blocks: Blocks, budget: Budget, shared: Shared, key: Hashable, size: int) -> None:
        self._blocks = blocks
        self._shared = shared
        self._content = shared.content
        self._proof = shared.proof
        self._key = key
        self._failures = shared.proof.failures
        self._handed_out = False
        self._hand: tuple[int, Buffer] = (-1, b"")  # the block handed out last: its index and its bytes
        self._head: Buffer = b""  # handed out at a glance, until its block comes and is compared with it
        self._damaged = False  # for good, also when the fault has passed: wrong bytes were returned
        self._end = max(size - 1, 0) // BLOCK  # index of the last block
        self._window = Window(budget, shared.line, self._end)
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
            for wanted in self._window.moved(start, stop):
                self._start(wanted)
        pieces = []
        for index in range(first, last + 1):
            block = await self._block(index)
            begin = index * BLOCK
            pieces.append(memoryview(block)[max(start - begin, 0) : stop - begin])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def glance(self, start: int, size: int) -> Buffer:
        """Return bytes within `HEAD` as `read` does, of which no more than the head is fetched for a larger file."""
        known = self._proof.digests.known(0) or self._end == 0 or start + size > HEAD
        if known or not self._is_remote(0):
            return await self.read(start, size)
        self._head = await self._blocks.get((self._key, HEAD_INDEX), self._fetch_head)
        return memoryview(self._head)[start : start + size]

    async def _fetch_head(self) -> Buffer:
        head = await exactly(self._content, 0, HEAD)
        self._blocks.fetched += len(head)
        return head

    async def fetch(self, index: int) -> None:
        """Fetch a block into the cache, and no other."""
        await self._block(index)

    async def kept(self, pin: str | None) -> AsyncGenerator[int, None]:
        """Bring the file onto this machine's disk, pinned for a path if one is given; yield how many bytes are there.

        Raises OSError, and Unsupported if a whole copy is to be pinned.
        """
        if pin is not None and self._is_copied:
            raise Unsupported("It comes as a whole file: that stays on disk as long as there is room, unpinned.")
        if pin is not None:
            self._blocks.pin(self._key, pin)
        for index in range(self._end + 1 if self.size else 0):
            stop = min((index + 1) * BLOCK, self.size)
            if not self._blocks.is_stored((self._key, index)):
                block = await self.read(index * BLOCK, BLOCK)
                if not self._is_copied:
                    await self._blocks.keep((self._key, index), block)
            yield stop
        if not self.size:
            yield 0

    def at_hand(self, start: int, size: int) -> Buffer | None:
        """Return the bytes `[start, start + size)` if they lie in the block handed out last, and it is still right."""
        index, block = self._hand
        begin = start - index * BLOCK
        if not 0 <= begin < begin + size <= len(block) or self._damaged or self._failures != self._proof.failures:
            return None
        return memoryview(block)[begin : begin + size]

    async def _block(self, index: int) -> Buffer:
        failures = self._failures
        if not self._damaged:
            block = await self._blocks.get((self._key, index), self._fetch(index), in_order=self._window.sequential)
            await self._prove(index, block)
            self._compare_head(index, block)
            if failures == self._proof.failures:
                self._handed_out, self._hand = True, (index, block)
                return block
            self._damaged = self._handed_out
            self._failures = self._proof.failures
            if self._end == 0 and self._proof.proven and not self._damaged:
                return await self._block(index)  # a second download was the right one
        raise Damaged("The bytes that arrived do not match the server's checksum of the file, or what arrived before.")

    def _compare_head(self, index: int, block: Buffer) -> None:
        """Raise Damaged, for good, if the first block is another than the head that was handed out."""
        if index == 0 and self._head:
            self._damaged = bytes(self._head) != bytes(memoryview(block)[:HEAD])
            self._head = b""
            if self._damaged:
                raise Damaged("The beginning of the file came otherwise than before: read it again.")

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
        return block if block is not None and self._is_known(index, block) else None

    def _is_known(self, index: int, block: Buffer) -> bool:
        """Whether a block that no server has sent now is what was fetched before; the first one is taken for that."""
        digests, value = self._proof.digests, digest(block)
        if not digests.known(index):
            digests.add(index, value)  # once: taking it from where it lies again says no more
        return digests.value(index) == value

    def _start(self, wanted: range) -> None:
        """Begin to fetch the blocks of a range that are missing; neighbours together, unless they are on this disk."""
        run: list[int] = []
        for index in [*wanted, None]:
            if index is not None and self._is_remote(index):
                run.append(index)
                continue
            if len(run) == 1:
                self._blocks.start((self._key, run[0]), self._fetch(run[0]))
            elif run:
                self._blocks.start_run([(self._key, each) for each in run], self._fetch_run(range(run[0], run[-1] + 1)))
            run = []
            if index is not None:
                self._blocks.start((self._key, index), self._fetch(index))

    def _is_remote(self, index: int) -> bool:
        """Whether a block has to come from the server."""
        key = (self._key, index)
        return self._blocks.is_missing(key) and not (self._is_copied or self._blocks.is_stored(key))

    def _fetch(self, index: int) -> Fetch:
        """Return a fetch of one block, from this machine's disk or from the server."""

        async def fetch() -> Buffer:
            block = await self._stored(index)
            if block is None:
                await self._stream(range(index, index + 1), lambda key, arrived: found.append(arrived))
            return found[0] if block is None else block

        found: list[Buffer] = []
        return fetch

    def _fetch_run(self, run: range) -> FetchRun:
        """Return a fetch of neighbouring blocks from the server, with one request."""

        turns = self._shared.line.turns
        turn = turns.ask()

        async def fetch(landed: Landed) -> None:
            async with turns.taken(turn):
                await self._stream(run, landed)

        return fetch

    async def _stream(self, run: range, landed: Landed) -> None:
        """Bring blocks, from other machines or from the server, and hand over each with its right digest."""
        common = self._shared.common
        if common is None or self._is_copied:
            return await self._fetched(run, landed)

        def take(index: int, block: Buffer) -> bool:
            if len(block) != self._length(index) or not self._is_known(index, block):
                return False
            self._land(index, block, landed)
            return True

        return await common.bring(run, take, lambda part: self._fetched(part, landed, common))

    def _length(self, index: int) -> int:
        return min(BLOCK, self.size - index * BLOCK)

    async def _fetched(self, run: range, landed: Landed, common: Common | None = None) -> None:
        """Fetch blocks from the server, also for other machines. Raises Malformed for another count of bytes."""
        line, began, token = self._shared.line, trio.current_time(), trio.lowlevel.current_trio_token()
        doubtful: dict[int, Buffer] = {}

        def arrived(index: int, block: Buffer, value: bytes) -> None:
            if index == run.start and trio.current_time() - began > SLOW_S:
                self._window.slow()
            line.arrived(len(block))
            self._blocks.fetched += 0 if self._is_copied else len(block)
            if self._proof.digests.add(index, value):
                self._land(index, block, landed, common)
            else:
                doubtful[index] = block

        def take(offset: int, piece: Buffer) -> None:
            if len(piece) != (length := self._length(offset // BLOCK)):
                raise Malformed(f"{len(piece)} bytes came where {length} were asked for.")
            token.run_sync_soon(arrived, offset // BLOCK, piece, digest(piece))

        def delayed(seconds: float) -> None:
            token.run_sync_soon(line.answered, seconds)

        stretch = Stretch(run.start * BLOCK, min(run.stop * BLOCK, self.size), BLOCK, take, delayed)
        try:
            await self._content.stream(stretch)
        finally:
            await caught_up(token)
        if stretch.piece:
            start = run.start * BLOCK
            raise Malformed(f"{stretch.next - start} bytes came where {stretch.stop - start} were asked for.")
        for index, block in doubtful.items():
            right = await self._recount(index, index * BLOCK, index * BLOCK + self._length(index), block)
            self._land(index, right, landed, common)

    def _land(self, index: int, block: Buffer, landed: Landed, common: Common | None = None) -> None:
        landed((self._key, index), block)
        if not self._is_copied:
            self._blocks.store((self._key, index), block)
        if common is not None:
            common.put(index, block)

    async def _recount(self, index: int, start: int, stop: int, first: Buffer) -> Buffer:
        """Fetch a block again that differs from its first fetch; if the first was wrong, its readers fail."""
        digests = self._proof.digests
        block = await recounted(self._content, start, stop, index, digests, first)
        if not digests.add(index, digest(block)):
            if digests.known(index) == PROVED:  # since just now
                raise Damaged("The server does not send the same bytes of this file twice: read it again later.")
            self._proof.revise(index, digest(block))
        return block


class Readers:
    """Opens readers; caches the shared state of the readers of a version, and the `Tags` of each site."""

    KEPT = 4096  # versions, a large one counted for each GiB: 64 MiB of digests at most

    def __init__(
        self,
        nursery: trio.Nursery,
        blocks: Blocks,
        copies: Copies,
        others: Mapping[str, Others] = {},
    ) -> None:
        self._nursery = nursery
        self._others = others  # by site
        self._blocks = blocks
        self._copies = copies
        self._shared: LRUCache[Version, tuple[Shared, int]] = LRUCache(self.KEPT, getsizeof=lambda kept: kept[1])
        self._live: WeakValueDictionary[Version, Shared] = WeakValueDictionary()  # also those that readers hold
        self._tags: dict[str, Tags] = {}  # by site
        self._lines: defaultdict[str, Line] = defaultdict(Line)  # by site
        self._budget = Budget(blocks.capacity)

    def open(self, site: str, backend: Backend, entry: Entry) -> Reader:
        """Return a reader of the entry's version, whose size is known; without a version nothing is shared."""
        assert entry.size is not None
        if entry.version is None:
            key = object()
            return Reader(self._blocks, self._budget, self._made(site, backend, entry, None, key), key, entry.size)
        version = (site, entry.id, entry.version)
        shared = self._live.get(version) or self._made(site, backend, entry, version, version)
        if isinstance(shared.content, RangedOrWhole):
            shared.content.renew()
        self._live[version] = shared
        self._shared[version] = shared, min(1 + entry.size // (1024 * BLOCK), self.KEPT)
        return Reader(self._blocks, self._budget, shared, version, entry.size)

    def _made(self, site: str, backend: Backend, entry: Entry, version: Version | None, key: Hashable) -> Shared:
        size, ranged = entry.size or 0, backend.capabilities.ranged
        content = RangedOrWhole(backend.content(entry), self._copies, version, size, ranged=ranged)
        tags = self._tags.setdefault(site, _tags(backend))
        others = self._others.get(site)
        common = Common(others, (entry.id, entry.version)) if others is not None and version is not None else None
        proof = self._proof(tags, backend, entry, size, content, key, common)
        return Shared(content, proof, self._lines[site], common)

    def _proof(
        self,
        tags: Tags,
        backend: Backend,
        entry: Entry,
        size: int,
        content: RangedOrWhole | Copy,
        key: Hashable,
        common: Common | None = None,
    ) -> Proof:
        def again() -> AsyncGenerator[Buffer, None]:
            """Download the file a second time, bypassing the caches."""
            ranged = backend.capabilities.ranged
            return whole(RangedOrWhole(backend.content(entry), self._copies, None, size, ranged=ranged), size, BLOCK)

        def damaged() -> None:
            self._blocks.drop(key)
            if common is not None:
                common.drop(-(-size // BLOCK))
            content.discard()

        return Proof(self._nursery, entry.checksum, size, BLOCK, tags=tags, again=again, damaged=damaged)

    async def snapshot(self, backend: Backend, entry: Entry) -> tuple[Reader, int]:
        """Return a reader of the present bytes of an entry without version and ranges, and their size."""
        content = self._copies.open(None, backend.content(entry))
        size, key = await content.whole(), object()
        shared = Shared(content, self._proof(_tags(backend), backend, entry, size, content, key), Line())
        return Reader(self._blocks, self._budget, shared, key, size), size

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
