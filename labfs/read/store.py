"""What was fetched and is kept, blocks in memory and whole copies on disk, and the readers over both.

Tests: core/test_proof, core/test_copies.
"""

from __future__ import annotations

from pathlib import Path

import trio

from labfs.read.blocks import Blocks
from labfs.read.reader import Readers
from labfs.read.whole import Copies


class Store:
    """One core's share of memory and disk for what it reads, in bytes; fetches run in `nursery`."""

    def __init__(self, nursery: trio.Nursery, memory: int, directory: Path, disk: int) -> None:
        self.blocks = Blocks(nursery, memory)
        self.copies = Copies(nursery, directory, disk)
        self.readers = Readers(nursery, self.blocks, self.copies)
