"""What a server holds of a node, ready to be read: with its true size, learnt if no listing told it.

Tests: core/test_replaced.
"""

from __future__ import annotations

import contextlib
import logging

from labfs.backend import Entry, dispensable
from labfs.errors import Archived, LabfsError, NotFound, Stale, Unavailable, WrongLength
from labfs.read.reader import Reader
from labfs.read.readers import Readers
from labfs.tree.node import Node
from labfs.tree.tree import Tree

log = logging.getLogger(__name__)

OUTDATED = (Stale, NotFound, WrongLength)  # the listing told of something that is not there any more


class Sources:
    """Readers of nodes."""

    def __init__(self, tree: Tree, readers: Readers) -> None:
        self._tree = tree
        self._readers = readers

    async def measure(self, node: Node, *, surely: bool = False) -> None:
        """Learn a size that no listing told, without fetching much unless it must be known `surely`."""
        entry = node.entry
        if node.is_dir or node.writer is not None or entry is None:
            return
        if entry.size is not None or entry.unreadable:
            return
        site, measuring = node.site, self._tree.measuring
        self._tree.troubled(node, None if surely else measuring.trouble(site.key, entry))
        if node.trouble is not None:
            return
        try:
            with contextlib.nullcontext() if surely else dispensable():
                size, least = await self._readers.size(site.key, site.backend, entry, surely=surely)
        except LabfsError as error:
            measuring.give_up(site.key, entry, error)
            if surely and isinstance(error, Unavailable):
                raise
            self._tree.troubled(node, error)  # a file that cannot be had is still listed; opening it says why
            return
        self._tree.measured(node, entry, size, least)

    def reader(self, node: Node) -> Reader:
        """Return a reader of what the server has, whose size is known.

        Raises Archived for what it cannot give now.
        """
        if node.entry is None:
            raise NotFound(f"“{node.name}” is not on the server any more.")
        if node.entry.unreadable:
            raise Archived(node.entry.unreadable)
        if node.entry.size is None:
            raise node.trouble or Unavailable(f"Nobody tells how large “{node.name}” is.")
        return self._readers.open(node.site.key, node.site.backend, node.entry)

    async def open(self, node: Node) -> Reader:
        """Return a reader of what the server has, after its size was learnt if need be."""
        entry, site = node.entry, node.site
        if entry is None or entry.version is not None or site.backend.capabilities.ranged:
            await self.measure(node, surely=True)
            return self.reader(node)
        if entry.unreadable:
            raise Archived(entry.unreadable)
        self._tree.changed(node)  # nothing tells whether what the kernel kept is still so
        reader, size = await self._readers.snapshot(site.backend, entry)
        self._tree.sized(node, entry, size)
        return reader

    async def begin(self, node: Node) -> tuple[Reader, Entry | None]:
        """Return a reader that was prepared, and its entry; listed again if the listing is out of date."""
        try:
            return await self._prepared(node)
        except OUTDATED as error:
            return await self.again(node, error)

    async def _prepared(self, node: Node) -> tuple[Reader, Entry | None]:
        reader = await self.open(node)
        entry = node.entry  # with its size, which may have been learnt now
        await reader.prepare()
        return reader, entry

    async def again(self, node: Node, error: LabfsError) -> tuple[Reader, Entry | None]:
        """Begin after a new listing, since `error` shows that the last one is stale; re-raise if both are equal."""
        before = node.entry
        if node.unlinked:
            raise error
        self._tree.distrust(node)
        await self._tree.certain(node.parent)
        if not node.parent.has(node) or (node.entry == before and not isinstance(error, WrongLength)):
            raise error
        self._tree.changed(node)
        log.info("%s was listed again: %s", node.path, error)
        return await self._prepared(node)

    def damaged(self, node: Node) -> None:
        """Mark the kernel's cached pages of a file as invalid."""
        self._tree.changed(node)

    def expire(self, node: Node) -> None:
        """Expire the listing of a file: the next open sees the current version."""
        self._tree.expire(node)
