"""Programs that read every file they see, for a preview or an index that nobody asked for, kept from downloading them.

A folder of pictures that is merely opened would else be downloaded whole, once for each such program: a thumbnailer
reads a file to its end. These programs show a plain icon for, or leave out, a file that they may not open.

Source: the names of the programs in Debian 12 (tumbler, GNOME's and KDE's thumbnailers, Tracker, Baloo, recoll).

Tests: mount/test_semantics, unit/test_fence.
"""

from __future__ import annotations

import fnmatch
import os

from labfs.errors import Fenced
from labfs.tree.node import Node

PROGRAMS = (
    "tumblerd",
    "*thumbnail*",
    "tracker-extract*",
    "tracker-miner-*",
    "localsearch*",
    "baloo_file*",
    "recollindex",
    "updatedb*",
)


class Fence:
    """`largest` is the size in bytes of the largest file that may be opened for a preview."""

    def __init__(self, largest: int) -> None:
        self._largest = largest

    def check(self, node: Node, size: int, task: int) -> None:
        """Raise Fenced where a program of these opens a larger file of a server; `task` is one of its threads."""
        if size > self._largest and node.on_server and (program := program_of(task)) and is_fenced(program):
            raise Fenced(
                f"“{node.name}” has {size:,} bytes; {program} may open files of up to {self._largest:,}, since a "
                "larger one would be downloaded for a preview or an index (previews_mib in labfs.toml)."
            )


def program_of(task: int) -> str:
    """Return the name of the file that a task executes, "" if unknown; a thread may have another name of its own."""
    try:
        return os.path.basename(os.readlink(f"/proc/{task}/exe")).removesuffix(" (deleted)")
    except OSError:
        return ""


def is_fenced(program: str) -> bool:
    return any(fnmatch.fnmatchcase(program, pattern) for pattern in PROGRAMS)
