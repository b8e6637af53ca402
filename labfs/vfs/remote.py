"""What a server holds of a node, ready to be read: with its true size, learnt if no listing told it.

Tests: core/test_replaced.
"""

from __future__ import annotations

import contextlib
import logging

import trio

from labfs.backend import Buffer, Entry, dispensable
from labfs.errors import Archived, LabfsError, NotFound, Stale, Unavailable, WrongLength
from labfs.read.proof import Damaged
from labfs.read.reader import Reader, Readers
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
        """Do so after `error` showed that the listing is out of date; raise it where the next one says the same."""
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
        """Have nobody believe what the kernel cached of a file."""
        self._tree.changed(node)

    def expire(self, node: Node) -> None:
        """Have whoever opens a file next see what is there then."""
        self._tree.expire(node)


class View:
    """What one open file shows of its node: one version, from the first byte that was handed out on.

    What others save ends it; our own saves move it along. Until a byte was handed out a version that is gone is
    given up, once, for what is there now.
    """

    def __init__(self, sources: Sources, node: Node) -> None:
        self._sources = sources
        self._node = node
        self._reader: Reader | None = None
        self._saves = -1  # of the node, at which the reader was made
        self._renewed = False
        self._renewing = trio.Lock()
        self.shown = False  # whether bytes were handed out
        self.kept = False  # whether the kernel may have handed out bytes that it kept

    async def open(self) -> None:
        """Raise now what would make every read fail."""
        saves = self._node.saves
        (self._reader, _), self._saves = await self._sources.begin(self._node), saves

    @property
    def size(self) -> int | None:
        """How many bytes it shows; None before it was opened."""
        return None if self._reader is None else self._reader.size

    async def read(self, offset: int, size: int) -> Buffer:
        """Return `size` bytes, fewer only at the end of the file."""
        if self._saves != self._node.saves:
            await self.open()
        while True:
            reader = self._reader
            assert reader is not None
            self.kept = self.kept and not (offset == 0 and size >= reader.size)  # it asks for all: it had nothing
            try:
                data = await reader.read(offset, size)
            except Damaged:
                self._sources.damaged(self._node)
                raise
            except OUTDATED as error:
                await self._renew(reader, error)
                continue
            if reader is self._reader:  # else others were given another version meanwhile
                self.shown = self.shown or len(data) > 0
                return data

    async def _renew(self, reader: Reader, error: LabfsError) -> None:
        async with self._renewing:
            if reader is not self._reader:
                return
            if not (self.shown or self.kept or self._renewed):
                self._renewed = True
                newer, _ = await self._sources.again(self._node, error)
                if not self.shown:
                    self._reader = newer
                    return
            self._sources.expire(self._node)
            if (self.shown or self.kept) and not isinstance(error, Stale):
                raise Stale(str(error)) from error
            raise error
