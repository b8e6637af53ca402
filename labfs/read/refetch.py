"""A second fetch of bytes that may be damaged: one block, or the whole file.

Always in other ranges than the first time: a fault that damages each answer at the same offset, or repeats the same
wrong answer to the same request, then damages other bytes, so that two equal answers are evidence.

Tests: core/test_proof.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator
from itertools import pairwise

import trio

from labfs.backend import Buffer, Content, fetched
from labfs.errors import LabfsError, Malformed
from labfs.read.digests import PROVED, Digests, digest
from labfs.read.proof import Damaged

log = logging.getLogger(__name__)

TRIES = 4  # fetches of one block, at most, with the first
TRYING_S = 5.0  # after which no further fetch begins: a FUSE read has a deadline
AT_ONCE = 8  # ranges of a second download


async def exactly(content: Content, start: int, stop: int) -> Buffer:
    """Return the bytes `[start, stop)`. Raises Malformed for an answer of another length."""
    data = await fetched(content, start, stop)
    if len(data) != stop - start:
        raise Malformed(f"{len(data)} bytes came where {stop - start} were asked for.")
    return data


async def recounted(content: Content, start: int, stop: int, index: int, digests: Digests, first: Buffer) -> Buffer:
    """Fetch a block that differs from its known digest again, and return it once the fetches agree.

    Either one has the known digest: then only `first` was wrong. Or, unless the file was proved, another digest
    comes more often than the known one did. Raises Damaged when neither happens.
    """
    value, known = digests.value(index), digests.known(index)
    votes = Counter([digest(first)])
    until = trio.current_time() + TRYING_S
    for attempt in range(1, TRIES):
        log.warning("Block %d came otherwise than before; it is fetched again.", index)
        cut = start + (stop - start) * attempt // TRIES
        block = await _joined(content, [start, cut, stop])
        found = digest(block)
        votes[found] += 1
        if found == value or (known < PROVED and votes[found] > known):
            return block
        if trio.current_time() > until:
            break
    raise Damaged("The server does not send the same bytes of this file twice: read it again later.")


async def whole(content: Content, size: int, block: int) -> AsyncGenerator[Buffer, None]:
    """Yield every block of a file, fetched in ranges that begin and end in the middle of blocks."""
    cuts = [0, *range(block // 2 if size > block else size // 2, size, block), size]
    waiting = bytearray()
    for first in range(0, len(cuts) - 1, AT_ONCE):
        waiting += await _joined(content, cuts[first : first + AT_ONCE + 1])
        last = first + AT_ONCE >= len(cuts) - 1
        while len(waiting) >= block or (last and waiting):
            yield bytes(waiting[:block])
            del waiting[:block]


async def _joined(content: Content, cuts: list[int]) -> bytes:
    """Fetch the ranges between successive offsets concurrently; return their bytes in order."""
    pieces: dict[int, Buffer] = {}
    errors: list[LabfsError] = []

    async def fetch(start: int, stop: int) -> None:
        try:
            pieces[start] = await exactly(content, start, stop)
        except LabfsError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for start, stop in pairwise(cuts):
            if start < stop:
                nursery.start_soon(fetch, start, stop)
    if errors:
        raise errors[0]
    return b"".join(pieces[start] for start in sorted(pieces))
