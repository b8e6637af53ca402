"""The read caches, blocks in memory and on disk and whole copies on disk, and the readers over all.

Tests: core/test_proof, core/test_copies, core/test_shelf.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import trio

from labfs.read.below.common import Others
from labfs.read.below.shelf import Shelf
from labfs.read.blocks import Blocks
from labfs.read.readers import Readers
from labfs.read.whole import Copies
from labfs.read.window import BLOCK


class Store:
    """One core's read caches, of `memory` and `disk` bytes; fetches run in `nursery`.

    Whole copies come first on the disk: blocks have the room that these leave. `others` has, by the key of a site, the
    blocks that other machines have.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        memory: int,
        directory: Path,
        disk: int,
        others: Mapping[str, Others] = {},
    ) -> None:
        self.copies = Copies(nursery, directory / "copies", disk)
        self.shelf = Shelf(nursery, directory / "blocks", lambda: disk - self.copies.size)
        self.blocks = Blocks(nursery, memory, self.shelf, BLOCK)
        self.readers = Readers(nursery, self.blocks, self.copies, others)

    @property
    def fetched(self) -> int:
        """How many bytes of files came from servers since the mount."""
        return self.blocks.fetched + self.copies.fetched
