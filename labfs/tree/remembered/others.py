"""Listings that other machines made a moment ago, with the sizes that they have measured.

Tests: mount/test_shared.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from labfs.backend import Entry
from labfs.tree.remembered.listings import BROKEN, packed, unpacked

log = logging.getLogger(__name__)


class Others(Protocol):
    """The listings of one account of a site, by the id of the directory."""

    async def look(self, number: str) -> tuple[bytes | None, float, str]:
        """Return the listing of a directory, if there is one; for how many seconds it is fresh; and its stamp."""
        ...

    def put(self, number: str, stamp: str, listing: bytes, fresh_s: float) -> None:
        """Have a listing stored in the background, unless something has changed since it got its stamp."""
        ...

    def drop(self, number: str) -> None:
        """Have the listing of a directory removed in which something was changed."""
        ...

    async def settled(self) -> None:
        """Wait until what was dropped so far is gone."""
        ...


class Seen(NamedTuple):
    """What others know of a directory: its entries, or None; for how many seconds these are fresh; and a stamp."""

    entries: list[Entry] | None
    fresh_s: float
    stamp: str


class Common:
    """The listings that other machines have, by the key of a site; where nothing is shared, none."""

    def __init__(self, others: Mapping[str, Others]) -> None:
        self._others = others

    async def look(self, site: str, number: str) -> Seen:
        """Return what others know of a directory."""
        if site not in self._others:
            return Seen(None, 0.0, "")
        listing, fresh_s, stamp = await self._others[site].look(number)
        try:
            return Seen(None if listing is None else unpacked(listing), fresh_s, stamp)
        except BROKEN as error:
            log.warning("A listing in the shared tier is of no use: %r", error)
            return Seen(None, 0.0, stamp)

    def put(self, site: str, number: str, stamp: str, entries: Iterable[Entry], fresh_s: float) -> None:
        """Have a listing stored that got its stamp when it began. Blocks while it is packed."""
        if stamp:
            self._others[site].put(number, stamp, packed(tuple(entries)), fresh_s)

    def drop(self, site: str, number: str) -> None:
        """Have the listing of a directory removed in which something was changed."""
        if site in self._others:
            self._others[site].drop(number)

    async def settled(self, site: str) -> None:
        """Wait until others cannot find what was dropped."""
        if site in self._others:
            await self._others[site].settled()
