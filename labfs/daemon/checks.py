"""Who we are to each site: asked when a mount begins, without keeping it waiting, and again until there is an answer.

A site that is slow or away never fails a mount, also if it is the only one: it may answer later, and until then what
was listed last is shown. Only where waiting mends nothing (a wrong token, an address behind which something else is)
a mount with no other site is refused, while whoever typed the command is there to read why.

Tests: mount/test_five_sites.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import trio

from labfs.errors import LabfsError, Unavailable
from labfs.tree.site import Site

log = logging.getLogger(__name__)

SOON_S = 2.5  # for the answers that are told at the mount
FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 60.0  # before a site that could not answer is asked again


class Checks:
    """What the sites of a mount answered, by name; `doubts` says what is wrong with some."""

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = tuple(sites)
        self.doubts: dict[str, str] = {}
        self._hopeless: set[str] = set()
        self._unasked = {site.name for site in self.sites}
        self._told = trio.Event()  # by all of them, for the first time

    async def run(self, nursery: trio.Nursery) -> None:
        """Ask all sites, and return with the first answers or after a while; the asking goes on."""
        for site in self.sites:
            nursery.start_soon(self._ask, site)
        with trio.move_on_after(SOON_S):
            await self._told.wait()
        for name in self._unasked:
            self.doubts.setdefault(name, f"{name} has not answered yet; labfs goes on asking.")

    @property
    def hopeless(self) -> bool:
        """Whether there is no site that waiting could help."""
        return self._hopeless == {site.name for site in self.sites}

    async def _ask(self, site: Site) -> None:
        wait_s = FIRST_WAIT_S
        while not await self._answered(site):
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _answered(self, site: Site) -> bool:
        """Ask once; false if it makes sense to ask again."""
        again = False
        try:
            who = await site.backend.check()
            log.info("%s: signed in as %s", site.name, who)
            self.doubts.pop(site.name, None)
        except LabfsError as error:
            log.warning("%s does not say who we are: %s", site.name, error)
            self.doubts[site.name] = str(error)
            again = isinstance(error, Unavailable)
            self._hopeless |= set() if again else {site.name}
        except Exception as error:  # which must not end a mount
            log.exception("%s could not be asked who we are; this is a mistake in labfs", site.name)
            self.doubts[site.name] = f"{site.name} could not be asked who we are: {type(error).__name__}."
        self._unasked.discard(site.name)
        if not self._unasked:
            self._told.set()
        return not again
