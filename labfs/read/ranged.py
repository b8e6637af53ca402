"""The content of a file in ranges, or in a whole copy where its server turns out to send none.

Tests: core/test_whole_files, core/test_proof.
"""

from __future__ import annotations

import logging

from labfs.backend import Content, Sink, Stretch
from labfs.errors import Unranged
from labfs.read.whole import Copies, Copy, Version

log = logging.getLogger(__name__)


class RangedOrWhole:
    """A content read in ranges as long as the server supports them, else from a whole copy."""

    def __init__(
        self, content: Content, copies: Copies, version: Version | None, size: int, *, ranged: bool = True
    ) -> None:
        self._content = content
        self._size = size
        self._copies = copies
        self._version = version
        self._ranged = ranged
        self._copy: Copy | None = None

    async def prepare(self) -> None:
        await (self._content if self._ranged else self._whole()).prepare()

    async def stream(self, stretch: Stretch) -> None:
        if self._ranged:
            try:
                await self._content.stream(stretch)
                return
            except Unranged as error:
                log.info("%s It is fetched whole.", error)
                self._ranged = False
        await self._whole().stream(stretch)

    @property
    def is_copied(self) -> bool:
        """Whether the bytes come from a copy on this machine's disk."""
        return not self._ranged

    def _whole(self) -> Copy:
        self._copy = self._copy or self._copies.open(self._version, self._content, self._size)
        return self._copy

    def renew(self) -> None:
        """Drop a copy whose bytes turned out to be of several versions; the next read begins a new copy."""
        if self._copy is not None and self._copy.spoiled:
            self._copy = None

    def discard(self) -> None:
        """Remove a copy that does not match the server's checksum."""
        if self._copy is not None:
            self._copy.discard()

    async def pour(self, sink: Sink) -> None:
        raise Unranged("A copy is not copied.")
