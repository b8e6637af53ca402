"""An open directory, which is read while names in it change.

Tests: mount/test_semantics.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from labfs.errors import LabfsError
from labfs.tree.node import Folder, Node


@dataclass
class OpenFolder:
    """An open directory, and the names in it at the time of the first readdir."""

    node: Folder
    names: list[tuple[bytes, Node]]
    incomplete: LabfsError | None = None  # why these are not all
    until: float = 0.0  # for which the others are waited for, on trio's clock
    read: bool = False  # some of it

    def add(self, found: list[tuple[bytes, Node]]) -> None:
        """Append the names that are not among those that were read."""
        known = {name for name, _ in self.names}
        self.names += [(name, node) for name, node in found if name not in known]

    def holds(self, node: Node, name: bytes) -> bool:
        """Whether a node still has its name.

        A node that was removed or renamed since must not be listed: the kernel would take the old name for that file,
        and a program that then writes to the name would write into the file that was moved aside as a backup.
        """
        return os.fsencode(node.name) == name and self.node.children.get(node.name) is node


def named(nodes: Iterable[Node]) -> list[tuple[bytes, Node]]:
    """Return nodes with their names, as the kernel has these."""
    return [(os.fsencode(node.name), node) for node in nodes]
