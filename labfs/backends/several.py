"""Doing the same for several things, a few at a time.

Tests: mount/test_rows_of_records.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

from labfs.errors import LabfsError

T = TypeVar("T")
S = TypeVar("S")


async def each(work: Callable[[S], Awaitable[T]], items: Iterable[S], at_once: int) -> list[T]:
    """Do something for all items, so many at a time; the first failure ends it."""
    waiting = enumerate(items)
    done: dict[int, T] = {}
    failures: list[LabfsError] = []

    async def worker(scope: trio.CancelScope) -> None:
        for number, item in waiting:
            try:
                done[number] = await work(item)
            except LabfsError as error:
                failures.append(error)
                scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(worker, nursery.cancel_scope)
    if failures:
        raise failures[0]
    return [done[number] for number in sorted(done)]
