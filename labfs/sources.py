"""What a server holds of a node, ready to be read: with its true size, learnt if no listing told it."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from labfs.backend import dispensable
from labfs.errors import Archived, LabfsError, NotFound, Unavailable
from labfs.node import Node
from labfs.reader import Reader, Readers
from labfs.tree import Tree


class Sources:
    """Readers of nodes."""

    def __init__(self, tree: Tree, readers: Readers) -> None:
        self._tree = tree
        self._readers = readers

    async def measure(self, node: Node, *, surely: bool = False) -> None:
        """Learn a size that no listing told, without fetching much unless it must be known `surely`."""
        entry, site = node.entry, node.site
        if node.is_dir or node.writer is not None or entry is None or site is None:
            return
        if entry.size is not None or entry.unreadable:
            return
        measuring = self._tree.measuring
        node.trouble = None if surely else measuring.trouble(site.name, entry)
        if node.trouble is not None:
            return
        try:
            with contextlib.nullcontext() if surely else dispensable():
                size, node.least = await self._readers.size(site.name, site.backend, entry, surely=surely)
        except LabfsError as error:
            measuring.give_up(site.name, entry, error)
            if surely and isinstance(error, Unavailable):
                raise
            node.trouble = error  # a file that cannot be had is still listed; opening it says why
            return
        if size is not None and node.entry is entry:
            node.entry = measuring.learnt(site.name, entry, size)

    def reader(self, node: Node) -> Reader:
        """Return a reader of what the server has, whose size is known.

        Raises Archived for what it cannot give now.
        """
        if node.entry is None or node.site is None:
            raise NotFound(f"“{node.name}” is not on the server any more.")
        if node.entry.unreadable:
            raise Archived(node.entry.unreadable)
        if node.entry.size is None:
            raise node.trouble or Unavailable(f"Nobody tells how large “{node.name}” is.")
        return self._readers.open(node.site.name, node.site.backend, node.entry)

    async def open(self, node: Node) -> Reader:
        """Return a reader of what the server has, after its size was learnt if need be."""
        entry, site = node.entry, node.site
        if entry is None or site is None or entry.version is not None or site.backend.capabilities.ranged:
            await self.measure(node, surely=True)
            return self.reader(node)
        if entry.unreadable:
            raise Archived(entry.unreadable)
        node.generation += 1  # nothing tells whether what the kernel kept is still so
        reader, size = await self._readers.snapshot(site.backend, entry)
        if node.entry is entry:
            node.entry = replace(entry, size=size)
        return reader
