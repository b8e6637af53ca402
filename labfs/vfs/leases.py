"""The leases of files that are being written here, where other machines could write to the same path.

Tests: mount/test_shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from labfs.tree import names
from labfs.tree.node import Node


class Lessor(Protocol):
    """Who lends the paths of a server, each to one machine at a time."""

    async def take(self, owner: object, *place: str) -> None:
        """Hold the lease of a place, which ends with its name, for an owner. Raises Held."""
        ...

    def end(self, owner: object) -> None:
        """End the leases of an owner."""
        ...


class Leases:
    """The leases that the files of a tree have; `lessors` by the key of the site. Without a lessor nothing is asked."""

    def __init__(self, lessors: Mapping[str, Lessor]) -> None:
        self._lessors = lessors

    async def take(self, node: Node) -> None:
        """Hold, or confirm, the lease of a file's place until `end`. Raises Held."""
        lessor = None if node.stays_here or node.unlinked else self._lessors.get(node.site.key)
        if lessor is not None:
            await lessor.take(node, *_place(node))

    def end(self, node: Node) -> None:
        """End all leases of a file."""
        lessor = self._lessors.get(node.site.key)
        if lessor is not None:
            lessor.end(node)


def _place(node: Node) -> tuple[str, ...]:
    """Return what names a file's place on every machine, whatever its sites are called."""
    entry = node.entry
    if entry is not None:
        return node.parent.entity.id, *entry.folders, entry.name
    return node.parent.entity.id, *node.parent.folders, names.original(node.name)
