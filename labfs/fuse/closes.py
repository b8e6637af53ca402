"""Who closes a file, and closes that failed.

A flush of FUSE tells neither the closing process nor how many copies of the descriptor are left; /proc tells both.
After a failed close the next access waits for the release that follows, and then sees the server's version.

The kernel answers close() when the flush is answered and sends the release after that. In between the file still
shows the bytes that could not be saved, though the program has been told that the save failed.

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

RELEASE_S = 1.0  # timeout of the wait for a release; a descriptor that /proc does not show may delay the release


class Closers:
    """The programs that close `files`, as far as /proc shows them."""

    def __init__(self, files: Files, inodes: Inodes[Node]) -> None:
        self._files = files
        self._inodes = inodes
        self.device: str | None = None  # of the mount, major:minor, once known

    async def left(self, handle: Handle) -> bool:
        """Whether copies of a handle's descriptor are left: then a later flush is the last one."""
        node = handle.node
        if not handle.writable or node.stays_here or node.writer is None or not node.writer.dirty:
            return False
        if self._files.writers(node) > 1:
            return False  # /proc does not tell which handle a descriptor is of: each close saves
        inode = self._inodes.number(node)
        return await trio.to_thread.run_sync(holders.open_for_writing, inode, node.name, self.device) > 0

    async def was_killed(self, handle: Handle) -> bool:
        """Whether the process that opened a handle for writing is being ended by a signal."""
        node = handle.node
        if not handle.writable or not handle.pid or node.writer is None or not node.writer.dirty:
            return False
        return await trio.to_thread.run_sync(holders.killed, handle.pid)

    async def goes_on(self, handle: Handle) -> bool:
        """Whether a file can still be written to after this close: by another handle, or a memory map."""
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
        """Record that the close of a file failed; its release is to follow."""
        self._closes[node] = _Close()

    def released(self, node: Node) -> None:
        if node in self._closes:
            self._closes[node].released.set()

    async def decided(self, node: Node | None) -> None:
        """If the close of a file failed just now, wait for the release and list the directory anew."""
        close = self._closes.get(node) if node is not None else None
        if node is None or close is None:
            return
        with trio.move_on_after(RELEASE_S):
            await close.released.wait()
        async with close.looking:
            if self._closes.get(node) is not close:  # another task has done it meanwhile
                return
            if close.released.is_set():
                with contextlib.suppress(LabfsError):  # then the last listing is shown
                    await self._tree.certain(node.parent)  # a listing under way may be older than the failed save
            del self._closes[node]

    async def decided_in(self, folder: Folder) -> None:
        """Do the same for all files in a directory."""
        for node in list(self._closes):
            if node.parent is folder:
                await self.decided(node)


class _Close:
    def __init__(self) -> None:
        self.released = trio.Event()
        self.looking = trio.Lock()
