"""What one open file shows of its node.

Tests: core/test_replaced.
"""

from __future__ import annotations

import trio

from labfs.backend import Buffer
from labfs.errors import LabfsError, Stale
from labfs.read.proof import Damaged
from labfs.read.reader import Reader
from labfs.tree.node import Node
from labfs.vfs.remote.sources import OUTDATED, Sources


class View:
    """What one open file shows of its node: one version, from the first byte that was handed out on.

    What others save ends it; our own saves move it along. Until a byte was handed out a version that is gone is
    given up, once, for what is there now.
    """

    def __init__(self, sources: Sources, node: Node) -> None:
        self._sources = sources
        self._node = node
        self._reader: Reader | None = None
        self._saves = -1  # of the node, at which the reader was made
        self._renewed = False
        self._renewing = trio.Lock()
        self.shown = False  # whether bytes were handed out
        self.kept = False  # whether the kernel may have handed out bytes that it kept

    async def open(self) -> None:
        """Raise now what would make every read fail."""
        saves = self._node.saves
        (self._reader, _), self._saves = await self._sources.begin(self._node), saves

    @property
    def size(self) -> int | None:
        """How many bytes it shows; None before it was opened."""
        return None if self._reader is None else self._reader.size

    async def read(self, offset: int, size: int, *, glance: bool = False) -> Buffer:
        """Return `size` bytes, fewer only at the end of the file; at a `glance` little more is fetched."""
        if self._saves != self._node.saves:
            await self.open()
        while True:
            reader = self._reader
            assert reader is not None
            self.kept = self.kept and not (offset == 0 and size >= reader.size)  # it asks for all: it had nothing
            try:
                data = await (reader.glance(offset, size) if glance else reader.read(offset, size))
            except Damaged:
                self._sources.damaged(self._node)
                raise
            except OUTDATED as error:
                await self._renew(reader, error)
                continue
            if reader is self._reader:  # else others were given another version meanwhile
                self.shown = self.shown or len(data) > 0
                return data

    def at_hand(self, offset: int, size: int) -> Buffer | None:
        """Return bytes of the block that was read last, if they lie in it and are still to be shown; else None."""
        if self._reader is None or self._saves != self._node.saves:
            return None
        return self._reader.at_hand(offset, size)

    async def _renew(self, reader: Reader, error: LabfsError) -> None:
        async with self._renewing:
            if reader is not self._reader:
                return
            if not (self.shown or self.kept or self._renewed):
                self._renewed = True
                newer, _ = await self._sources.again(self._node, error)
                if not self.shown:
                    self._reader = newer
                    return
            self._sources.expire(self._node)
            if (self.shown or self.kept) and not isinstance(error, Stale):
                raise Stale(str(error)) from error
            raise error
