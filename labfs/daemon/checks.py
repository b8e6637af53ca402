"""The check of each site's credentials: begun with the mount, without delaying it, and retried until an answer comes.

A site that is slow or unavailable never fails a mount, even as the only one: it may answer later, and until then the
last listings are shown. Only if all sites fail permanently (a wrong token, an address of another service) the mount is
refused, while the user who typed the command is there to read why.

Tests: mount/test_five_sites.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio

from labfs.daemon.setup.asking import introduced
from labfs.errors import LabfsError, Unavailable
from labfs.tree.site import Site

log = logging.getLogger(__name__)

SOON_S = 2.5  # for the answers that are reported at the mount
FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 60.0  # before the check of an unavailable site is retried


class Checks:
    """The results of the checks of a mount's sites; `doubts` has a sentence for each failed one, by name."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = tuple(sites)
        self.doubts: dict[str, str] = {}
        self._hopeless: set[str] = set()
        self._unasked = {site.name for site in self.sites}
        self._told = trio.Event()  # all sites were checked once

    async def run(self, nursery: trio.Nursery) -> None:
        """Check all sites, and return once all were checked or after `SOON_S`; the checks go on in `nursery`."""
        for site in self.sites:
            nursery.start_soon(self._ask, site)
        with trio.move_on_after(SOON_S):
            await self._told.wait()
        for name in self._unasked:
            self.doubts.setdefault(name, f"{name} has not answered yet; labfs goes on asking.")

    @property
    def hopeless(self) -> bool:
        """Whether the checks of all sites have failed permanently."""
        return self._hopeless == {site.name for site in self.sites}

    async def _ask(self, site: Site) -> None:
        wait_s = FIRST_WAIT_S
        while not await self._answered(site):
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _answered(self, site: Site) -> bool:
        """Check a site once; false if a retry can help."""
        again = False
        try:
            who = await introduced(site)
            log.info("%s: signed in as %s", site.name, who)
            self.doubts.pop(site.name, None)
        except LabfsError as error:
            log.warning("%s does not say who we are: %s", site.name, error)
            self.doubts[site.name] = str(error)
            again = isinstance(error, Unavailable)
            self._hopeless |= set() if again else {site.name}
        except Exception as error:  # a bug in a check must not end the mount
            log.exception("%s could not be asked who we are; this is a mistake in labfs", site.name)
            self.doubts[site.name] = f"{site.name} could not be asked who we are: {type(error).__name__}."
        self._unasked.discard(site.name)
        if not self._unasked:
            self._told.set()
        return not again
