"""Closes that failed: who looks next waits for the release that follows, and sees what the server has.

The kernel answers close() when the flush is answered and sends the release after that. In between the file still
shows what could not be saved, with its length, though the program has been told that it was not.
"""

from __future__ import annotations

import contextlib
from weakref import WeakKeyDictionary

import trio

from labfs.errors import LabfsError
from labfs.node import Node
from labfs.tree import Tree

RELEASE_S = 1.0  # for a release to follow; a descriptor that nobody sees may keep it away


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

    async def settle(self, node: Node | None) -> None:
        """Wait, if the close of a file failed just now, until it is known what the server has."""
        close = self._closes.get(node) if node is not None else None
        if node is None or close is None:
            return
        with trio.move_on_after(RELEASE_S):
            await close.released.wait()
        async with close.looking:
            if self._closes.get(node) is not close:  # somebody else was here first
                return
            if close.released.is_set() and node.parent is not None:
                with contextlib.suppress(LabfsError):  # then what was listed last is shown
                    await self._tree.certain(node.parent)  # a listing under way may be older than what is there
            del self._closes[node]

    async def settle_in(self, folder: Node) -> None:
        """Do so for all files in a directory."""
        for node in list(self._closes):
            if node.parent is folder:
                await self.settle(node)


class _Close:
    def __init__(self) -> None:
        self.released = trio.Event()
        self.looking = trio.Lock()
