"""What the kernel believes of files and names, and how it is made to ask again.

An invalidation blocks until the kernel has let go, for which it may need answers from us: all run in threads.
That of attributes alone takes no lock that a request holds, and is safe before the answer to any.

Tests: core/test_replaced, mount/test_fsx.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from weakref import WeakKeyDictionary, WeakSet

import pyfuse3
import trio
from pyfuse3 import FileNameT, InodeT

from labfs.errors import Stale
from labfs.fuse.inodes import Inodes
from labfs.tree.node import Folder, Node


class Kernel:
    """The kernel's memory of one mount's nodes: sizes, pages and names."""

    def __init__(self, inodes: Inodes[Node]) -> None:
        self._inodes = inodes
        self._sizes: WeakKeyDictionary[Node, int] = WeakKeyDictionary()
        self._updates: WeakKeyDictionary[Node, int] = WeakKeyDictionary()
        self._pages: WeakKeyDictionary[Node, int] = WeakKeyDictionary()  # the generation they are of
        self._filled: WeakSet[Node] = WeakSet()  # of which it has pages
        self._readers: WeakKeyDictionary[Node, dict[int, tuple[int, int]]] = WeakKeyDictionary()

    # -- sizes -----------------------------------------------------------------------------------------

    def record(self, node: Node, size: int) -> None:
        """Record the size, in bytes, that the kernel knows from now on."""
        self._sizes[node] = size
        self._updates[node] = self.updates(node) + 1

    def size(self, node: Node) -> int:
        """Return the size that the kernel knows, 0 if it knows none."""
        return self._sizes.get(node, 0)

    def updates(self, node: Node) -> int:
        """Return how often it was told one."""
        return self._updates.get(node, 0)

    async def agree(self, node: Node, size: int) -> None:
        """Invalidate the kernel's attributes of a file if the kernel knows another size."""
        if node in self._sizes and self._sizes[node] != size:
            await self.doubt(node)

    async def doubt(self, node: Node) -> None:
        """Invalidate the kernel's attributes of a file."""
        if self._inodes.holds(node):
            await trio.to_thread.run_sync(_forget_attributes, self._inodes.number(node))

    async def check_read(self, node: Node, got: range, wanted: int, size: int, updates: int) -> None:
        """Make the kernel know the file's `size` before a reply of the bytes `got` to a request of `wanted` bytes.

        A short answer makes the kernel believe that the file ends there, but only if it was told nothing else since
        `updates`; if it was, it would fill up with zeros. Raises Stale then.
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
        """Return whether the kernel keeps its pages at an open, and whether this handle reads past them.

        It does so while a reader of another version is open, whose pages it must neither see nor replace. `size` is
        in bytes; None for a handle that reads what is being written here.
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
        """Record the release of a handle, and drop a size that the kernel knew through that handle alone."""
        generation, _ = self._readers.get(node, {}).pop(handle, (node.generation, 0))
        if generation != node.generation:
            await self.doubt(node)

    def through_pages(self, node: Node, handle: int) -> bool:
        """Whether the reads of a handle, opened to read only, fill the kernel's pages."""
        return handle in self._readers.get(node, {})

    def least(self, node: Node) -> int:
        """Return the size below which the kernel would cut a reader of another version short."""
        readers = self._readers.get(node, {}).values()
        return max((size for generation, size in readers if generation != node.generation), default=0)

    def gave(self, node: Node, start: int, size: int) -> None:
        """Record a write of the kernel, which caches the bytes by whole pages."""
        if start + size - -(-start // mmap.PAGESIZE) * mmap.PAGESIZE >= mmap.PAGESIZE:
            self._filled.add(node)

    def filled(self, node: Node) -> None:
        """Record that bytes of a file went into the kernel's page cache."""
        self._filled.add(node)

    def has_pages(self, node: Node) -> bool:
        """Whether a program may have read some of the file without our hearing of it."""
        return node in self._filled

    # -- letting go ------------------------------------------------------------------------------------

    async def disbelieve(self, node: Node, parent: Folder, name: str) -> None:
        """Drop the pages of a file, and its name if that is no longer there."""
        gone = parent.children.get(name) is not node
        await trio.to_thread.run_sync(self._drop, self._inodes.number(node), self._inodes.number(parent), name, gone)

    @staticmethod
    def _drop(node: int, parent: int, name: str, gone: bool) -> None:
        with contextlib.suppress(OSError):
            pyfuse3.invalidate_inode(InodeT(node))
        if gone:
            _forget_name(parent, name)

    async def renew(self, node: Node) -> None:
        """Invalidate the kernel's names and attributes of a directory, and of all below it."""
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
