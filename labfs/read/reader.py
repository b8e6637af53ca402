"""One open file being read: offsets → blocks, read-ahead, and the proof that the bytes are right.

Decisions: neighbouring blocks that are missing come with one ranged GET, each usable when it has arrived; a reader is
bound to the version that was opened and never sees another. Every fetched block is compared with its known digest
before it enters the cache, so that the cache holds no damaged block.

Tests: unit/test_reader, core/test_proof.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Hashable
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

import trio

from labfs.backend import Buffer, Stretch
from labfs.errors import LabfsError, Malformed, Unsupported
from labfs.read.below.common import Common
from labfs.read.blocks import Blocks, Fetch, FetchRun, Landed
from labfs.read.digests import PROVED, digest
from labfs.read.flight import caught_up
from labfs.read.proof import HOLD_S, Damaged, Proof
from labfs.read.ranged import RangedOrWhole
from labfs.read.refetch import exactly, recounted
from labfs.read.whole import Copy
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
        if known or not (self._blocks.is_missing((self._key, 0)) and self._is_remote(0)):
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
        """Return the bytes `[start, start + size)` if they lie in one block, and nothing has to be waited for."""
        index, begin = divmod(start, BLOCK)
        if not self._handed_out or self._damaged or self._failures != self._proof.failures:
            return None
        block = self._hand[1] if index == self._hand[0] else self._ready(index, start, start + size)
        if block is None or begin + size > len(block):
            return None
        return memoryview(block)[begin : begin + size]

    def _ready(self, index: int, start: int, stop: int) -> Buffer | None:
        """Hand out a cached block of a file that is read in order, unless something has to be waited for."""
        key = (self._key, index)
        in_order = self._window.sequential and index > 0 and stop <= (index + 1) * BLOCK
        block = self._blocks.peek(key) if in_order else None
        if block is None or not self._proof.passes(index, block):
            return None
        for wanted in self._window.moved(start, stop):
            self._start(wanted)
        self._blocks.used(key, in_order=self._window.sequential)
        self._hand = index, block
        return block

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

    async def _stored(self, run: range) -> dict[int, Buffer]:
        """Return those blocks that are on disk, but not another than what was fetched: that is a server's to say."""
        stored = {} if self._is_copied else await self._blocks.stored(*((self._key, index) for index in run))
        return {index: block for (_, index), (block, value) in stored.items() if self._is_known(index, value)}

    def _is_known(self, index: int, value: bytes) -> bool:
        """Whether a block that no server has sent now is what was fetched before; the first one is taken for that."""
        digests = self._proof.digests
        if not digests.known(index):
            digests.add(index, value)  # once: taking it from where it lies again says no more
        return digests.value(index) == value

    def _start(self, wanted: range) -> None:
        """Begin to fetch the blocks of a range that are missing: neighbours together, if they are in the same place."""
        missing = (index for index in wanted if self._blocks.is_missing((self._key, index)))
        for _, group in groupby(enumerate(missing), lambda each: (each[1] - each[0], self._is_remote(each[1]))):
            indexes = [index for _, index in group]
            run = range(indexes[0], indexes[-1] + 1)
            if len(run) == 1 or self._is_copied:
                for index in run:
                    self._blocks.start((self._key, index), self._fetch(index))
            else:
                fetch = self._fetch_run(run) if self._is_remote(run.start) else self._read_run(run)
                self._blocks.start_run([(self._key, index) for index in run], fetch)

    def _is_remote(self, index: int) -> bool:
        """Whether a missing block has to come from the server."""
        return not (self._is_copied or self._blocks.is_stored((self._key, index)))

    def _fetch(self, index: int) -> Fetch:
        """Return a fetch of one block, from this machine's disk or from the server."""

        async def fetch() -> Buffer:
            run, arrived = range(index, index + 1), await self._stored(range(index, index + 1))
            if index not in arrived:
                await self._stream(run, lambda key, block: arrived.update({index: block}))
            return arrived[index]

        return fetch

    def _read_run(self, run: range) -> FetchRun:
        """Return a fetch of neighbouring blocks from this disk; from the server what is not there after all."""

        async def fetch(landed: Landed) -> None:
            stored = await self._stored(run)
            for index in run:
                if index in stored:
                    landed((self._key, index), stored[index])
                else:
                    await self._stream(range(index, index + 1), landed)

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
            if len(block) != self._length(index) or not self._is_known(index, digest(block)):
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
