"""Inode numbers and lookup counts: pure bookkeeping for doors that speak in numbers.

A number is a hash of the node's key (site and server id), so that it is the same after a remount. A number
belongs to its node as long as the node object lives, whether or not the kernel holds a reference, also when
a save gives the file a new id on the server: so one number never means two nodes.

Tests: unit/test_units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from hashlib import blake2b
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

ROOT = 1


class Keyed(Hashable, Protocol):
    @property
    def key(self) -> str: ...


N = TypeVar("N", bound=Keyed)


class Inodes(Generic[N]):
    """Numbers ⇄ nodes. A node is kept alive while the kernel holds a reference to its number."""

    def __init__(self, root: N) -> None:
        self._numbers: WeakKeyDictionary[N, int] = WeakKeyDictionary({root: ROOT})
        self._owners: WeakValueDictionary[int, N] = WeakValueDictionary({ROOT: root})
        self._held: dict[int, N] = {ROOT: root}
        self._counts: Counter[int] = Counter({ROOT: 1})

    def __getitem__(self, number: int) -> N:
        """Return the node of a number. Raises KeyError for a number that the kernel has forgotten."""
        return self._held[number]

    def __len__(self) -> int:
        return len(self._held)

    def number(self, node: N) -> int:
        """Return the node's number without counting a reference."""
        number = self._numbers.get(node)
        if number is None:
            number = _hash(node.key)
            while number <= ROOT or number in self._owners:
                number = _hash(f"{number}")
            self._numbers[node] = number
            self._owners[number] = node
        return number

    def holds(self, node: N) -> bool:
        """Whether the kernel holds a reference to the node."""
        return self._numbers.get(node, 0) in self._held

    def remember(self, node: N) -> int:
        """Count one more reference of the kernel to the node, and return the number."""
        number = self.number(node)
        self._held[number] = node
        self._counts[number] += 1
        return number

    def drop(self, nodes: Iterable[N]) -> None:
        """Let go of nodes of which the kernel may hold references: a successor gets the same number."""
        for node in nodes:
            number = self._numbers.pop(node, None)
            if number is not None and number != ROOT:
                self._held.pop(number, None)
                self._owners.pop(number, None)
                del self._counts[number]  # the kernel forgets all its references at once

    def forget(self, number: int, count: int) -> None:
        """Subtract `count` references; drop the node without references, but never the root."""
        self._counts[number] -= count
        if self._counts[number] <= 0 and number != ROOT:
            del self._counts[number]
            self._held.pop(number, None)


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1
