"""Sizes that a listing lacks: requested, cached by version, and not requested again for a while after a failure.

A size is worth little waiting: its request is retried once at most, and one unreadable file delays neither its
folder nor the next one that shows it. Opening the file requests the size with the usual timeouts.

Tests: unit/test_measuring.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import trio
from cachetools import TTLCache

from labfs.backend import Backend, Entry, dispensable
from labfs.errors import LabfsError, Unavailable
from labfs.tree.remembered.sizes import Sizes

log = logging.getLogger(__name__)

LISTED_S = 8.0  # for all sizes that one listing lacks; the rest is measured on access
ONE_S = 4.0  # for one size
GIVEN_UP_S = 60.0  # for which a size is not requested again, in any listing, after a failure
MOST_GIVEN_UP = 100_000


class Measuring:
    """The sizes of all sites' files; `sizes` outlives the mount."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._given_up: TTLCache[tuple[str, str, str | None], LabfsError] = TTLCache(
            MOST_GIVEN_UP, GIVEN_UP_S, timer=trio.current_time
        )

    async def fill(self, site: str, backend: Backend, entries: list[Entry], until: float) -> list[Entry]:
        """Return the entries with the sizes that are cached, or measured before `until` on trio's clock."""
        lacking = {entry.id: entry for entry in entries if not entry.is_dir and entry.size is None}
        found = {number: size for number, e in lacking.items() if (size := self._recall(site, e)) is not None}
        wanted = [e for e in lacking.values() if e.id not in found and not e.unreadable and not self.trouble(site, e)]
        if backend.capabilities.measured:
            waiting = iter(wanted)
            with trio.move_on_at(min(until, trio.current_time() + LISTED_S)):
                async with trio.open_nursery() as nursery:
                    for _ in range(min(backend.capabilities.connections, len(wanted))):
                        nursery.start_soon(self._ask, site, backend, waiting, found)
        # One file may be listed in several directories, by entries that share nothing but the size.
        return [replace(e, size=found[e.id]) if e.size is None and e.id in found else e for e in entries]

    async def _ask(self, site: str, backend: Backend, waiting: Iterator[Entry], found: dict[str, int]) -> None:
        for entry in waiting:
            size = None
            try:
                with dispensable(), trio.fail_after(ONE_S):
                    size = await backend.measure(entry)
            except LabfsError as error:
                self.give_up(site, entry, error)
            except trio.TooSlowError:
                self.give_up(site, entry, Unavailable(f"{site} did not tell the size of “{entry.name}” in time."))
            if size is not None:
                found[entry.id] = size
                self.learnt(site, entry, size)

    def told(self, site: str, entries: list[Entry]) -> None:
        """Remember the sizes that another machine has measured."""
        for entry in entries:
            if not entry.is_dir and entry.size is not None and entry.version is not None:
                self._sizes.set(site, entry, entry.size)

    def learnt(self, site: str, entry: Entry, size: int) -> Entry:
        """Return an entry with its size in bytes, and cache the size for the entry's version."""
        self._given_up.pop((site, entry.id, entry.version), None)
        if entry.version is not None:
            self._sizes.set(site, entry, size)
        return replace(entry, size=size)

    def give_up(self, site: str, entry: Entry, error: LabfsError) -> None:
        """Record the error of a size's request, so that no task waits for this size again soon."""
        log.info("%s has no size yet: %s", entry.name, error)
        self._given_up[site, entry.id, entry.version] = error

    def trouble(self, site: str, entry: Entry) -> LabfsError | None:
        """Return the error of a size's last request, if that failed less than `GIVEN_UP_S` ago."""
        return self._given_up.get((site, entry.id, entry.version))

    def insist(self, site: str) -> None:
        """Allow sizes of a site that failed to be requested again at once."""
        for key in [key for key in self._given_up if key[0] == site]:
            self._given_up.pop(key, None)

    def _recall(self, site: str, entry: Entry) -> int | None:
        return None if entry.version is None else self._sizes.get(site, entry)
