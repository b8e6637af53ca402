"""Blocks that machines share: those that others have fetched are taken from there, those they are fetching are awaited.

Blocks from there are compared as those from a disk are: they are no evidence of what the server holds. Nothing here is
needed: where machines share nothing, or the store of what they share fails, every block comes from the server.

Tests: mount/test_shared.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

import trio

from labfs.backend import Buffer

WAIT_S = 5.0  # for blocks that others are fetching; then they are fetched here, too
FIRST_LOOK_S, LONGEST_LOOK_S = 0.01, 0.2  # before others' blocks are looked for again
GROWTH = 1.5


class Others(Protocol):
    """The blocks of one account's files that machines share; `content` names a version of a file."""

    async def ask(self, content: object, indexes: Sequence[int]) -> list[Buffer | bool]:
        """Return the blocks that are there and undamaged; else whether it is ours to fetch one, or another's."""
        ...

    def put(self, content: object, index: int, block: Buffer) -> None:
        """Have a fetched block stored in the background, which ends our claim."""
        ...

    def leave(self, content: object, indexes: Sequence[int]) -> None:
        """End our claims of blocks that were not fetched."""
        ...

    def drop(self, content: object, indexes: Sequence[int]) -> None:
        """Have blocks removed that are not what the server holds."""
        ...


class Common:
    """The blocks of one version in what machines share."""

    def __init__(self, others: Others, content: object) -> None:
        self._others = others
        self._content = content

    async def bring(
        self, run: range, take: Callable[[int, Buffer], bool], fetch: Callable[[range], Awaitable[None]]
    ) -> None:
        """Bring the blocks of a run: `take` is given what others have, and tells whether it is right; else `fetch`."""
        until, pause_s = trio.current_time() + WAIT_S, FIRST_LOOK_S
        wanted: Sequence[int] = run
        while True:
            ours, theirs, wrong = list[int](), list[int](), list[int]()
            for index, answer in zip(wanted, await self._others.ask(self._content, wanted), strict=True):
                if isinstance(answer, bool):
                    (ours if answer else theirs).append(index)
                elif not take(index, answer):
                    wrong.append(index)
            if wrong:
                self._others.drop(self._content, wrong)
            late = trio.current_time() >= until
            await self._fetched(sorted([*ours, *wrong, *(theirs if late else [])]), fetch)
            if late or not theirs:
                return
            wanted = theirs
            await trio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(GROWTH * pause_s, LONGEST_LOOK_S)

    async def _fetched(self, indexes: list[int], fetch: Callable[[range], Awaitable[None]]) -> None:
        runs = list(_runs(indexes))
        try:
            while runs:
                await fetch(runs[0])
                del runs[0]
        finally:
            if runs:
                self._others.leave(self._content, [index for run in runs for index in run])

    def put(self, index: int, block: Buffer) -> None:
        self._others.put(self._content, index, block)

    def drop(self, count: int) -> None:
        """Have the first `count` blocks removed: the file turned out to be another one."""
        self._others.drop(self._content, range(count))


def _runs(indexes: list[int]) -> Iterator[range]:
    """Yield ascending numbers as ranges without gaps."""
    start = 0
    for end in range(1, len(indexes) + 1):
        if end == len(indexes) or indexes[end] != indexes[end - 1] + 1:
            yield range(indexes[start], indexes[end - 1] + 1)
            start = end
