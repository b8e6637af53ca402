"""The read caches, blocks in memory and on disk and whole copies on disk, and the readers over all.

Tests: core/test_proof, core/test_copies, core/test_shelf.
"""

from __future__ import annotations

from pathlib import Path

import trio

from labfs.read.blocks import Blocks
from labfs.read.reader import Readers
from labfs.read.shelf import Shelf
from labfs.read.whole import Copies
from labfs.read.window import BLOCK


class Store:
    """One core's read caches, of `memory` and `disk` bytes; fetches run in `nursery`.

    Whole copies come first on the disk: blocks have the room that these leave.
    """

    def __init__(self, nursery: trio.Nursery, memory: int, directory: Path, disk: int) -> None:
        self.copies = Copies(nursery, directory / "copies", disk)
        self.shelf = Shelf(nursery, directory / "blocks", lambda: disk - self.copies.size)
        self.blocks = Blocks(nursery, memory, self.shelf, BLOCK)
        self.readers = Readers(nursery, self.blocks, self.copies)

    @property
    def fetched(self) -> int:
        """How many bytes of files came from servers since the mount."""
        return self.blocks.fetched + self.copies.fetched
