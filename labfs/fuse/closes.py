"""Who closes a file, and closes that failed.

FUSE tells of a close neither whose it is nor how many copies of the descriptor are left; that is asked of /proc.
After a close that failed: who looks next waits for the release that follows, and sees what the server has.

The kernel answers close() when the flush is answered and sends the release after that. In between the file still
shows what could not be saved, with its length, though the program has been told that it was not.

Tests: mount/test_saving, mount/test_semantics.
"""

from __future__ import annotations

import contextlib
from weakref import WeakKeyDictionary

import trio

from labfs.errors import LabfsError
from labfs.fuse import holders
from labfs.fuse.inodes import Inodes
from labfs.tree.node import Folder, Node
from labfs.tree.tree import Tree
from labfs.vfs import Files, Handle

RELEASE_S = 1.0  # for a release to follow; a descriptor that nobody sees may keep it away


class Closers:
    """The programs that close `files`, as far as /proc shows them."""

    def __init__(self, files: Files, inodes: Inodes[Node]) -> None:
        self._files = files
        self._inodes = inodes
        self.device: str | None = None  # of the mount, major:minor, once that is known

    async def left(self, handle: Handle) -> bool:
        """Whether copies of a handle's descriptor are left: then a later flush is the last one."""
        node = handle.node
        if not handle.writable or node.stays_here or node.writer is None or not node.writer.dirty:
            return False
        if self._files.writers(node) > 1:
            return False  # nobody can tell whose the other copies are: each close saves
        inode = self._inodes.number(node)
        return await trio.to_thread.run_sync(holders.open_for_writing, inode, node.name, self.device) > 0

    async def was_killed(self, handle: Handle) -> bool:
        """Whether the process that opened a handle for writing closes it because a signal kills the process."""
        node = handle.node
        if not handle.writable or not handle.pid or node.writer is None or not node.writer.dirty:
            return False
        return await trio.to_thread.run_sync(holders.killed, handle.pid)

    async def goes_on(self, handle: Handle) -> bool:
        """Whether something goes on writing to a file after this close: another handle, or a memory map."""
        node = handle.node
        if self._files.writers(node) > 1:
            return True
        return await trio.to_thread.run_sync(holders.mapped, self._inodes.number(node), node.name, self.device)


class FailedCloses:
    """The files of a tree whose close has just failed."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._closes: WeakKeyDictionary[Node, _Close] = WeakKeyDictionary()

    def add(self, node: Node) -> None:
        """Expect the release of a file."""
        self._closes[node] = _Close()

    def released(self, node: Node) -> None:
        if node in self._closes:
            self._closes[node].released.set()

    async def decided(self, node: Node | None) -> None:
        """Wait, after a close that failed just now, until the state of the file on the server is known."""
        close = self._closes.get(node) if node is not None else None
        if node is None or close is None:
            return
        with trio.move_on_after(RELEASE_S):
            await close.released.wait()
        async with close.looking:
            if self._closes.get(node) is not close:  # somebody else was here first
                return
            if close.released.is_set():
                with contextlib.suppress(LabfsError):  # then what was listed last is shown
                    await self._tree.certain(node.parent)  # a listing under way may be older than what is there
            del self._closes[node]

    async def decided_in(self, folder: Folder) -> None:
        """Wait, as `decided` does, for all files in a directory."""
        for node in list(self._closes):
            if node.parent is folder:
                await self.decided(node)


class _Close:
    def __init__(self) -> None:
        self.released = trio.Event()
        self.looking = trio.Lock()
