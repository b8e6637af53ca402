"""Inode numbers and lookup counts: pure bookkeeping for doors that speak in numbers.

A number is a hash of what the node is (site and server id), so that it is the same after a remount; it
belongs to the node for as long as that lives, also when a save gives the file a new id on the server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from hashlib import blake2b
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

ROOT = 1


class Keyed(Hashable, Protocol):
    @property
    def key(self) -> str: ...


N = TypeVar("N", bound=Keyed)


class Inodes(Generic[N]):
    """Numbers ⇄ nodes. A node is kept while the kernel holds a reference to its number."""

    def __init__(self, root: N) -> None:
        self._numbers: WeakKeyDictionary[N, int] = WeakKeyDictionary({root: ROOT})
        self._taken: dict[int, N] = {ROOT: root}
        self._counts: Counter[int] = Counter({ROOT: 1})

    def __getitem__(self, number: int) -> N:
        """Return the node; KeyError for a number that the kernel has forgotten."""
        return self._taken[number]

    def __len__(self) -> int:
        return len(self._taken)

    def number(self, node: N) -> int:
        """Return the node's number without counting a reference."""
        number = self._numbers.get(node)
        if number is None:
            number = _hash(node.key)
            while number in self._taken or number <= ROOT:
                number = _hash(f"{number}")
            self._numbers[node] = number
        return number

    def remember(self, node: N) -> int:
        """Count one reference that the kernel was handed, and return the number."""
        number = self.number(node)
        # Two nodes can hold one number while neither is referenced; the later one moves away.
        while self._taken.get(number, node) is not node:
            number = self._numbers[node] = _hash(f"{number}")
        self._taken[number] = node
        self._counts[number] += 1
        return number

    def forget(self, number: int, count: int) -> None:
        """Take back `count` references; the root is never forgotten."""
        self._counts[number] -= count
        if self._counts[number] <= 0 and number != ROOT:
            del self._counts[number]
            self._taken.pop(number, None)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1
