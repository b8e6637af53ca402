"""A set of offsets in a file.

Tests: unit/test_units.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Ranges:
    """A set of offsets, as sorted half-open ranges that neither touch nor overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        if low < high:
            start = min(start, self._starts[low])
            stop = max(stop, self._stops[high - 1])
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]

    def cut(self, size: int) -> None:
        """Remove every offset from `size` on."""
        keep = bisect_left(self._starts, size)
        del self._starts[keep:], self._stops[keep:]
        if keep and self._stops[-1] > size:
            self._stops[-1] = size

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of `[start, stop)` that are not in the set."""
        index = bisect_right(self._stops, start)
        while start < stop:
            if index == len(self._starts) or self._starts[index] >= stop:
                yield start, stop
                return
            if self._starts[index] > start:
                yield start, self._starts[index]
            start = self._stops[index]
            index += 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))
