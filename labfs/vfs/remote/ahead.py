"""Files of a folder that is read in order, fetched before they are opened: the address of each, and its first block.

`cat *` opens files by their names, `cp -r` and `tar` as they are listed; both are one file after the other, and far
from a server each costs two round trips. After the third file in either order the next ones are fetched, bounded in
number and in bytes, until a file is opened out of order. A program that reads only the beginnings of files (a file
manager, an indexer, `file`) reads none through, and nothing is fetched for it; after some such files in a row it gets
the heads of the next ones alone, a small piece of each instead of a block.

Tests: core/test_ahead.
"""

from __future__ import annotations

import logging
from collections import OrderedDict

import trio

from labfs.read.window import BLOCK, HEAD
from labfs.tree.node import Folder, Kind, Node
from labfs.vfs.remote.sources import Sources

log = logging.getLogger(__name__)

GLANCES = 3  # files of a folder in a row of which only the head was read, before the next ones are taken for the same
IN_ORDER = 3  # files read through, one after the other, before others are fetched ahead
FILES, BYTES = 32, 16 * 1024 * 1024  # ahead of the reader, at most
AT_ONCE = 16  # files that are being fetched
STRIDE = 4  # names by which the next one may lie further on: a shell and a code point order them differently
FOLDERS = 8  # that are watched
LARGEST = 100_000  # files of a folder that is watched: putting them in order takes this process a tenth of a second


class Run:
    """How a folder is being read."""

    def __init__(self, folder: Folder) -> None:
        self.children = folder.children  # as they were listed; another listing ends the run
        self.last: Node | None = None
        self.read_through = False  # the last one
        self.glances = 0  # files before the last one of which only the head was read
        self.reached = 0  # offset in bytes up to which the last one was read
        self._orders: list[Order] = []  # made when a second file is read: a folder may be large

    def opened(self, node: Node) -> list[Node]:
        """Return the files to be fetched now that a file more was opened."""
        self.glances = self.glances + 1 if 0 < self.reached <= HEAD else 0
        self.reached = 0
        before, self.last = self.last, node
        through, self.read_through = self.read_through, False
        if before is None or not through or len(self.children) > LARGEST:
            for order in self._orders:
                order.length = 1
            return []
        if not self._orders:
            files = [child for child in self.children.values() if _can_be_fetched(child)]
            self._orders = [Order(files), Order(sorted(files, key=lambda file: file.name))]
        for order in self._orders:
            order.opened(before, node)
        best = max(self._orders, key=lambda order: order.length)
        return best.following(node) if best.length >= IN_ORDER else []


class Order:
    """One order of the files of a folder, and how many were read in it."""

    def __init__(self, files: list[Node]) -> None:
        self._files = files
        self._places = {file: at for at, file in enumerate(files)}
        self._fetched = 0  # the place up to which files were fetched
        self.length = 1  # files that were read one after the other

    def opened(self, before: Node, node: Node) -> None:
        here, there = self._places.get(before), self._places.get(node)
        follows = here is not None and there is not None and 0 < there - here <= STRIDE
        self.length = self.length + 1 if follows else 1

    def following(self, node: Node) -> list[Node]:
        """Return the files after one that are to be fetched, each once."""
        here, found, size = self._places[node], [], 0
        most = min(1 << self.length, FILES)  # few at first: three may be in order by chance
        for at in range(here + 1, min(here + 1 + most, len(self._files))):
            size += _least(self._files[at])
            if size > BYTES:
                break
            if at >= self._fetched:
                found.append(self._files[at])
                self._fetched = at + 1
        return found


class Ahead:
    """Watches what is opened and read, and fetches what comes next; fetches run in `nursery`."""

    def __init__(self, nursery: trio.Nursery, sources: Sources) -> None:
        self._nursery = nursery
        self._sources = sources
        self._runs: OrderedDict[Folder, Run] = OrderedDict()
        self._at_once = trio.CapacityLimiter(AT_ONCE)

    def opened(self, node: Node) -> None:
        """Record that a file is opened for reading, and start the fetches that follow from that."""
        folder = node.parent
        if not folder.site.backend.capabilities.ranged or not _can_be_fetched(node):
            return
        run = self._runs.pop(folder, None)
        if run is None or run.children is not folder.children:
            run = Run(folder)
        self._runs[folder] = run
        if len(self._runs) > FOLDERS:
            self._runs.popitem(last=False)
        if node is run.last:
            return
        for other in run.opened(node):
            self._nursery.start_soon(self._fetch, other)

    def reached(self, node: Node, offset: int) -> None:
        """Record that a file was read up to an offset in bytes."""
        run = self._runs.get(node.parent)
        if run is not None and run.last is node:
            run.reached = max(run.reached, offset)
            run.read_through = run.read_through or offset >= _least(node)

    def glances(self, node: Node) -> bool:
        """Whether a program seems to look at the beginnings of a folder's files, this one among them."""
        run = self._runs.get(node.parent)
        return run is not None and run.last is node and run.glances >= GLANCES and run.reached <= HEAD

    async def _fetch(self, node: Node) -> None:
        """Fetch the address and the first block of a file; an error is left to the program that opens it."""
        async with self._at_once:
            if node.writer is not None or node.unlinked or not _can_be_fetched(node):
                return
            try:
                # Not `dispensable`: a program that opens the file meanwhile waits for these requests.
                reader = self._sources.reader(node)
                await reader.prepare()
                await reader.fetch(0)
            except Exception as error:  # whatever it is: nobody asked for this file
                log.debug("%s was not fetched ahead: %r", node.path, error)


def _can_be_fetched(node: Node) -> bool:
    entry = node.entry
    return (
        node.kind is Kind.SERVER and not node.is_dir and entry is not None and not entry.unreadable and bool(entry.size)
    )


def _least(node: Node) -> int:
    """Return how many bytes of a file are fetched ahead: its first block."""
    return min(node.entry.size or 0, BLOCK) if node.entry is not None else 0
