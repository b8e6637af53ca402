"""A person's own version of a file that somebody else saved meanwhile, shown beside the file until it is decided about.

What is shown follows from the outbox alone, so that it outlives a mount and ends with its save: a save that was
refused, closed, whole, and begun on another version than the server has now. It is only read here; it is never sent,
unless a person says so (`labfs outbox retry`), and removing it discards the save.

Tests: core/test_yours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import trio

from labfs.errors import Stale
from labfs.tree import names
from labfs.tree.node import Folder, Kind, Node
from labfs.tree.tree import Tree
from labfs.vfs.outbox.pending import Waiting
from labfs.write.journal import Identity, Spooled, State


class Yours:
    """The nodes that show such versions, if they are `wanted`: a program that reads all files would count two."""

    def __init__(self, tree: Tree, waiting: Waiting) -> None:
        self.wanted = False
        self._tree = tree
        self._waiting = waiting
        self._kept: WeakKeyDictionary[Node, Spooled] = WeakKeyDictionary()
        self._shown: WeakKeyDictionary[Folder, list[Node]] = WeakKeyDictionary()

    def refresh(self, folder: Folder) -> None:
        """Show in a listed directory what the outbox holds for it now, and nothing else."""
        if not self.wanted:
            return
        with suppress(OSError):  # the outbox cannot be read: what is shown stays
            found = {left.file: left for left in self._conflicting(folder)}
            for node in self._shown.pop(folder, ()):
                if found.pop(self._kept[node].file, None) is None:
                    self._tree.unlink(node)
                else:
                    self._shown.setdefault(folder, []).append(node)
            for left in found.values():
                self._show(folder, name_beside(left), left)

    def _conflicting(self, folder: Folder) -> Iterator[Spooled]:
        below = f"{folder.path.rstrip('/')}/"
        for left in self._waiting.leftovers():
            parent, _, name = left.note.path.rpartition("/")
            if f"{parent}/" == below and is_complete(left) and self._is_newer(folder.children.get(name), left):
                yield left

    @staticmethod
    def _is_newer(there: Node | None, left: Spooled) -> bool:
        """Whether the server has another version than the one that a save was begun on."""
        if there is None or there.entry is None or not there.on_server or left.note.opened is None:
            return False
        return Identity.of(there.entry) != left.note.opened

    def _show(self, folder: Folder, name: str, left: Spooled) -> None:
        if name in folder.children:
            return
        node = Node(name, folder, Kind.YOURS)
        self._tree.attach(node, folder, name)
        self._kept[node] = left
        self._shown.setdefault(folder, []).append(node)

    def save(self, node: Node) -> str:
        """Return the name in the outbox of what a node shows."""
        return self._kept[node].file.stem

    def attributes(self, node: Node) -> tuple[int, int]:
        """Return the size in bytes and the date in nanoseconds of what a node shows."""
        left = self._kept[node]
        with suppress(OSError):
            return left.bytes, left.file.stat().st_mtime_ns
        return left.bytes, 0

    async def read(self, node: Node, offset: int, size: int) -> bytes:
        """Return bytes of what a node shows. Raises Stale when it was decided about meanwhile."""
        try:
            return await trio.to_thread.run_sync(_read, self._kept[node].file, offset, size)
        except FileNotFoundError:
            raise Stale(f"“{node.name}” was saved or discarded meanwhile.") from None


def name_beside(left: Spooled) -> str:
    """Return the name under which a save is shown beside its file. Raises OSError."""
    return names.yours(left.note.path.rpartition("/")[2], left.file.stat().st_mtime)


def is_complete(left: Spooled) -> bool:
    """Whether a save was refused although it has all bytes of a closed file, and is the latest of its path."""
    note = left.note
    if note.shown is not State.FAILED or note.is_duty or note.is_unfinished or note.is_overtaken:
        return False
    return left.bytes > 0 and not note.missing


def _read(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as source:
        return os.pread(source.fileno(), size, offset)
