"""What the kernel caches of files and names, and how these caches are invalidated.

An invalidation blocks until the kernel is done, for which it may need answers from us: all run in threads.
That of attributes alone takes no lock that a request holds, and is safe before the answer to any request.

Tests: core/test_replaced, mount/test_fsx.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from weakref import WeakKeyDictionary, WeakSet

import pyfuse3
import trio
from pyfuse3 import FileNameT, InodeT

from labfs.errors import Stale
from labfs.fuse.inodes import Inodes
from labfs.tree.node import Folder, Node

UNTOLD = 0, 0  # a size in bytes, and how often one was told


class Kernel:
    """The kernel's caches of one mount's nodes: sizes, pages and names."""

    def __init__(self, inodes: Inodes[Node]) -> None:
        self._inodes = inodes
        # node → the size in bytes that the kernel was told last, and how often it was told one
        self._told: WeakKeyDictionary[Node, tuple[int, int]] = WeakKeyDictionary()
        self._pages: WeakKeyDictionary[Node, int] = WeakKeyDictionary()  # → the generation of the cached pages
        self._filled: WeakSet[Node] = WeakSet()  # nodes of which the kernel has pages
        self._readers: WeakKeyDictionary[Node, dict[int, tuple[int, int]]] = WeakKeyDictionary()

    # -- sizes -----------------------------------------------------------------------------------------

    def record(self, node: Node, size: int) -> None:
        """Record that the kernel was told a size, in bytes."""
        self._told[node] = size, self._told.get(node, UNTOLD)[1] + 1

    def size(self, node: Node) -> int:
        """Return the size in bytes that the kernel knows, 0 if it knows none."""
        return self._told.get(node, UNTOLD)[0]

    def updates(self, node: Node) -> int:
        """Return how often the kernel was told a size."""
        return self._told.get(node, UNTOLD)[1]

    async def agree(self, node: Node, size: int) -> None:
        """Invalidate the kernel's attributes of a file if it knows another size."""
        if self._told.get(node, (size, 0))[0] != size:
            await self.doubt(node)

    async def doubt(self, node: Node) -> None:
        """Invalidate the kernel's attributes of a file."""
        if self._inodes.holds(node):
            await trio.to_thread.run_sync(_forget_attributes, self._inodes.number(node))

    async def check_read(self, node: Node, got: range, wanted: int, size: int, updates: int) -> None:
        """Keep the kernel's size correct after a read of `wanted` bytes that returned the range `got`.

        After a short read the kernel takes its end for the end of the file, but only if it was told no other size
        since `updates`; else it would fill up with zeros. Raises Stale then.
        """
        told = self.size(node)
        if len(got) < min(wanted, told - got.start) and (size == told or updates != self.updates(node)):
            raise Stale(f"“{node.name}” changed its length while it was read.")
        if size > told:
            await self.doubt(node)
        if got:
            self._filled.add(node)

    # -- pages -----------------------------------------------------------------------------------------

    def opened(self, node: Node, handle: int, size: int | None) -> tuple[bool, bool]:
        """Return whether the kernel keeps its cached pages at an open, and whether this handle bypasses them.

        A handle bypasses the page cache while a reader of another version is open, whose pages it must neither see
        nor replace. `size` is in bytes; None for a handle that reads what is being written here.
        """
        readers = self._readers.setdefault(node, {})
        if size is not None and any(generation != node.generation for generation, _ in readers.values()):
            return True, True
        if size is not None:
            readers[handle] = node.generation, size
        kept = self._pages.get(node) == node.generation
        self._pages[node] = node.generation
        if not kept:
            self._filled.discard(node)
        return kept, False

    async def closed(self, node: Node, handle: int) -> None:
        """Remove a closed handle; if it read another version, invalidate the kernel's attributes."""
        generation, _ = self._readers.get(node, {}).pop(handle, (node.generation, 0))
        if generation != node.generation:
            await self.doubt(node)

    def through_pages(self, node: Node, handle: int) -> bool:
        """Whether the reads of a read-only handle go through the kernel's page cache."""
        return handle in self._readers.get(node, {})

    def least(self, node: Node) -> int:
        """Return the largest size in bytes of other versions with open readers, whose reads a smaller one would cut."""
        if not self._readers:
            return 0
        readers = self._readers.get(node, {}).values()
        return max((size for generation, size in readers if generation != node.generation), default=0)

    def gave(self, node: Node, start: int, size: int) -> None:
        """Record a write of `size` bytes by the kernel, which caches whole pages of them."""
        if start + size - -(-start // mmap.PAGESIZE) * mmap.PAGESIZE >= mmap.PAGESIZE:
            self._filled.add(node)

    def filled(self, node: Node) -> None:
        """Record that the kernel got bytes of a file to cache."""
        self._filled.add(node)

    def has_pages(self, node: Node) -> bool:
        """Whether a program may have read bytes of the file from the kernel's page cache, without a request."""
        return node in self._filled

    # -- invalidation ----------------------------------------------------------------------------------

    async def disbelieve(self, node: Node, parent: Folder, name: str) -> None:
        """Invalidate the kernel's pages of a file, and its name if the file is no longer there."""
        gone = parent.children.get(name) is not node
        await trio.to_thread.run_sync(self._drop, self._inodes.number(node), self._inodes.number(parent), name, gone)

    def forget_name(self, parent: Folder, name: str) -> None:
        """Invalidate a name of a directory soon: not before an answer for which the kernel has the directory locked."""
        pyfuse3.invalidate_entry_async(
            InodeT(self._inodes.number(parent)), FileNameT(os.fsencode(name)), ignore_enoent=True
        )

    @staticmethod
    def _drop(node: int, parent: int, name: str, gone: bool) -> None:
        with contextlib.suppress(OSError):
            pyfuse3.invalidate_inode(InodeT(node))
        if gone:
            _forget_name(parent, name)

    async def renew(self, node: Node) -> None:
        """Invalidate the names and attributes that the kernel caches of a directory and of all below it."""
        known = [child for child in _below(node) if not child.is_root and self._inodes.holds(child)]
        numbers = [(self._inodes.number(c.parent), c.name, self._inodes.number(c)) for c in known]

        def forget() -> None:
            for parent, name, number in numbers:
                _forget_attributes(number)
                _forget_name(parent, name)

        await trio.to_thread.run_sync(forget)


def _forget_attributes(number: int) -> None:
    with contextlib.suppress(OSError):
        pyfuse3.invalidate_inode(InodeT(number), attr_only=True)


def _forget_name(parent: int, name: str) -> None:
    with contextlib.suppress(OSError):
        pyfuse3.invalidate_entry(InodeT(parent), FileNameT(name.encode()))


def _below(node: Node) -> Iterator[Node]:
    yield node
    for child in list(node.children.values()) if isinstance(node, Folder) else ():
        yield from _below(child)
