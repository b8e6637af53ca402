"""Directories that are forgotten when others were looked at since, so that memory is bounded.

A node takes about a kilobyte, and a search passes over a million of them once. When the tree has more than `MOST` nodes
the files of those directories, with the folders listed along, are forgotten that nobody has looked at for the longest
time. Never forgotten are directories themselves, one that a door or a program has open, and one that holds what only
this mount knows: bytes that are written, local files, names that were freed here. The next look lists the directory
anew; while its site is away, the listing that is stored on disk is shown.

Tests: core/test_tidying.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import trio

from labfs.tree.node import Folder, Node
from labfs.tree.tree import Tree

MOST = 50_000  # nodes in directories that may be forgotten
IDLE_S = 2.0  # for which a directory stays in any case: a program that has listed it looks at its files now
PAUSE_S = 1.0


class Holder(Protocol):
    """Who may hold nodes of a tree: a door, and the open files."""

    def held(self) -> Iterable[Folder]:
        """Return the directories with a listing that must stay as they are."""
        ...

    def forgotten(self, nodes: Iterable[Node]) -> None:
        """Let go of nodes that are not in the tree any more, although they exist on their server."""
        ...


class Tidying:
    """Forgets directories of a tree that no holder holds."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.holders: list[Holder] = []
        self._looked_s: float | None = None  # the latest look when there were few enough nodes

    async def run(self) -> None:
        while True:
            await trio.sleep(PAUSE_S)
            self.tidy()

    def _count(self) -> int:
        """Return how many nodes there are in all directories that were looked at."""
        return sum(len(folder.children) for container in self._tree.looked for folder in container.listed_with())

    def tidy(self) -> None:
        """Forget what may be forgotten now."""
        looked, now = self._tree.looked, trio.current_time()
        latest = next(reversed(looked.values()), None)
        if latest == self._looked_s:
            return  # no node more than then
        count = self._count()
        self._looked_s = latest if count <= MOST else None
        held: set[Folder] | None = None
        for folder, at in list(looked.items()):
            if count <= MOST or now - at < IDLE_S:
                return
            if not folder.is_root and folder.parent.children.get(folder.name) is not folder:
                del looked[folder]  # it is gone
                continue
            if held is None:
                held = {held for holder in self.holders for held in holder.held()}
            if folder not in held and (nodes := self._tree.forget(folder)):
                count -= len(nodes)
                for holder in self.holders:
                    holder.forgotten(nodes)
