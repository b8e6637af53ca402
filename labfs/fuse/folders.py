"""An open directory, as its reading goes on while names in it change.

Tests: mount/test_semantics.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from labfs.errors import LabfsError
from labfs.tree.node import Folder, Node


@dataclass
class OpenFolder:
    """An open directory, and the names in it as they were when its reading began."""

    node: Folder
    names: list[tuple[bytes, Node]]
    incomplete: LabfsError | None = None  # why these are not all
    read: bool = False  # some of it

    def holds(self, node: Node, name: bytes) -> bool:
        """Whether a node has its name still.

        One that was removed or renamed since must not be told: the kernel would take the old name for that file, and
        what a program then saves under the name would go into what was moved aside as a backup.
        """
        return os.fsencode(node.name) == name and self.node.children.get(node.name) is node
