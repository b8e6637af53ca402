"""Opens readers, and holds what the readers of one version share: the source of its bytes, and their proof.

Tests: unit/test_reader, core/test_proof.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Hashable, Mapping
from weakref import WeakValueDictionary

import trio
from cachetools import LRUCache

from labfs.backend import Backend, Buffer, Entry
from labfs.read.below.common import Common, Others
from labfs.read.blocks import Blocks
from labfs.read.proof import Proof, Tags
from labfs.read.ranged import RangedOrWhole
from labfs.read.reader import Reader, Shared
from labfs.read.refetch import whole
from labfs.read.whole import Copies, Copy, Version
from labfs.read.window import BLOCK, Budget, Line


class Readers:
    """Opens readers; caches the shared state of the readers of a version, and the `Tags` of each site."""

    KEPT = 4096  # versions, a large one counted for each GiB: 64 MiB of digests at most

    def __init__(
        self,
        nursery: trio.Nursery,
        blocks: Blocks,
        copies: Copies,
        others: Mapping[str, Others] = {},
    ) -> None:
        self._nursery = nursery
        self._others = others  # by site
        self._blocks = blocks
        self._copies = copies
        self._shared: LRUCache[Version, tuple[Shared, int]] = LRUCache(self.KEPT, getsizeof=lambda kept: kept[1])
        self._live: WeakValueDictionary[Version, Shared] = WeakValueDictionary()  # also those that readers hold
        self._tags: dict[str, Tags] = {}  # by site
        self._lines: defaultdict[str, Line] = defaultdict(Line)  # by site
        self._budget = Budget(blocks.capacity)

    def open(self, site: str, backend: Backend, entry: Entry) -> Reader:
        """Return a reader of the entry's version, whose size is known; without a version nothing is shared."""
        assert entry.size is not None
        if entry.version is None:
            key = object()
            return Reader(self._blocks, self._budget, self._made(site, backend, entry, None, key), key, entry.size)
        version = (site, entry.id, entry.version)
        shared = self._live.get(version) or self._made(site, backend, entry, version, version)
        if isinstance(shared.content, RangedOrWhole):
            shared.content.renew()
        self._live[version] = shared
        self._shared[version] = shared, min(1 + entry.size // (1024 * BLOCK), self.KEPT)
        return Reader(self._blocks, self._budget, shared, version, entry.size)

    def _made(self, site: str, backend: Backend, entry: Entry, version: Version | None, key: Hashable) -> Shared:
        size, ranged = entry.size or 0, backend.capabilities.ranged
        content = RangedOrWhole(backend.content(entry), self._copies, version, size, ranged=ranged)
        tags = self._tags.setdefault(site, _tags(backend))
        others = self._others.get(site)
        common = Common(others, (entry.id, entry.version)) if others is not None and version is not None else None
        proof = self._proof(tags, backend, entry, size, content, key, common)
        return Shared(content, proof, self._lines[site], common)

    def _proof(
        self,
        tags: Tags,
        backend: Backend,
        entry: Entry,
        size: int,
        content: RangedOrWhole | Copy,
        key: Hashable,
        common: Common | None = None,
    ) -> Proof:
        def again() -> AsyncGenerator[Buffer, None]:
            """Download the file a second time, bypassing the caches."""
            ranged = backend.capabilities.ranged
            return whole(RangedOrWhole(backend.content(entry), self._copies, None, size, ranged=ranged), size, BLOCK)

        def damaged() -> None:
            self._blocks.drop(key)
            if common is not None:
                common.drop(-(-size // BLOCK))
            content.discard()

        return Proof(self._nursery, entry.checksum, size, BLOCK, tags=tags, again=again, damaged=damaged)

    async def snapshot(self, backend: Backend, entry: Entry) -> tuple[Reader, int]:
        """Return a reader of the present bytes of an entry without version and ranges, and their size."""
        content = self._copies.open(None, backend.content(entry))
        size, key = await content.whole(), object()
        shared = Shared(content, self._proof(_tags(backend), backend, entry, size, content, key), Line())
        return Reader(self._blocks, self._budget, shared, key, size), size

    async def size(self, site: str, backend: Backend, entry: Entry, *, surely: bool) -> tuple[int | None, int]:
        """Return the size in bytes of a file that was listed without one, or None, and a lower bound.

        About `GLANCE` bytes are fetched at most, unless the size must be known `surely`.
        """
        version = None if entry.version is None else (site, entry.id, entry.version)
        copy = self._copies.open(version, backend.content(entry))
        size = await copy.whole() if surely else await copy.glance()
        return size, copy.least


def _tags(backend: Backend) -> Tags:
    return Tags(lambda: backend.capabilities.checksums_prove)
