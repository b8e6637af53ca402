"""The listing of directories: when it is done, what is shown meanwhile, and what is reported about it.

A listing runs in the tree's nursery and outlives the tasks that wait for it: a long one serves the next caller.

Tests: core/test_slow_lists.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from weakref import WeakSet

import trio

from labfs.backend import Entry, unhurried
from labfs.errors import LabfsError, NotFound, NotYet, Unavailable
from labfs.tree.layout import Layout, fold
from labfs.tree.listing import PAUSE_S, Known, Listing, answer_by, aside, unfinished
from labfs.tree.measuring import Measuring
from labfs.tree.merging import MERGING_S, is_at, is_called, merge, placed
from labfs.tree.node import Folder, Node
from labfs.tree.remembered.listings import Listings
from labfs.tree.remembered.others import Common
from labfs.tree.remembered.seen import Seen
from labfs.tree.scan import scan
from labfs.tree.site import Site

log = logging.getLogger(__name__)

LISTING_S = 30.0  # for which a listing is fresh
RENEWAL_S = 2.0  # to wait for a newer listing before the last one is shown again
PART_S = 5.0  # to wait for the end of a first listing, once a part of it was shown
SLOW_S = 4.0  # a listing that took this long has a longer timeout than usual, as any first one has
SHARE = 5.0  # a slow listing is fresh for this many times its duration, if that is longer than LISTING_S
LONGEST_BELIEVED_S = 1800.0
LOOKING_S = 13.0  # for a listing and the sizes that it lacks, so that a caller who waits for both has a timely answer


class Lister:
    """Lists the directories of a tree; the listings run in `nursery`."""

    def __init__(
        self, nursery: trio.Nursery, measuring: Measuring, seen: Seen, listings: Listings, common: Common
    ) -> None:
        self._nursery = nursery
        self._measuring = measuring
        self._seen = seen
        self._listings = listings
        self._common = common
        self._looked: WeakSet[Folder] = WeakSet()  # directories whose listing is under way, or was interrupted
        self.doomed: defaultdict[str, set[str]] = defaultdict(set)  # site → ids that are about to be deleted

    def remarks(self) -> list[str]:
        """Return the remarks about all directories."""
        return [text for container in list(self._looked) if (text := remark(container)) is not None]

    async def look(self, container: Folder) -> None:
        """List a directory, and wait for the listing until the caller's deadline. Raises NotYet."""
        listing, until = self.renewal(container), answer_by()
        if container.known is Known.NOTHING:
            with trio.move_on_at(until):
                await listing.shown.wait()
        if container.known is Known.PART:
            until = min(until, trio.current_time() + PART_S)
        elif container.listed_at > float("-inf") or container.known is Known.KEPT:
            until = min(until, listing.began + RENEWAL_S)  # one wait for all callers while the listing is under way
        with trio.move_on_at(until):
            await listing.wait()
        if not listing.landed.is_set():
            await self.show(container, listing)
        if container.known is Known.NOTHING:
            raise NotYet(unfinished(container.path, listing))

    async def glance(self, container: Folder) -> None:
        """List a directory, and wait until there is a part of it to show, with all that it shows. Raises NotYet."""
        if container.known is Known.NOTHING:
            listing = self.renewal(container)
            with trio.move_on_at(answer_by()):
                await listing.shown.wait()
            if listing.landed.is_set():
                await listing.wait()
                return
            found = listing.progress.found.values()
            if all(entry.is_dir or entry.size is not None for entry in found):
                await self.show(container, listing)
        partly = container.known is Known.PART and container.listing is not None
        if not (partly or is_fresh(container)):  # it may have ended while a part was laid out
            await self.look(container)

    async def finish(self, container: Folder, until: float) -> None:
        """Wait for the end of a first listing of which a part was shown, and show what has come. Raises its error."""
        listing = container.listing
        if listing is not None:
            with trio.move_on_at(until):
                await listing.wait()
            if not listing.landed.is_set():
                await self.show(container, listing)

    def renewal(self, container: Folder) -> Listing:
        """Return the listing of a directory that is under way; begin one if there is none."""
        if container.listing is None:
            container.listing = Listing(container.progress if container.rest.lately else None)
            self._looked.add(container)
            self._nursery.start_soon(self._renew, container, container.listing)
        return container.listing

    async def _renew(self, container: Folder, listing: Listing) -> None:
        with listing.outcome():
            try:
                if container.known is Known.NOTHING and await self._adopt(container):
                    return
                if container.known is Known.NOTHING and await self._recall(container):
                    listing.shown.set()
                while True:
                    with listing.scope:
                        await self._list(container, listing)
                        return
                    listing.begin_anew()
            finally:
                container.listing = None
                listing.shown.set()

    async def _adopt(self, container: Folder) -> bool:
        """Show the listing that another machine made a moment ago; false if there is none, or a newer one is wanted."""
        if container.stamp:
            return False
        site, directory = container.site, container.entity
        found = await self._common.look(site.key, directory.id)
        if found.entries is None or container.stamp:
            return False
        if site.backend.capabilities.measured:
            self._measuring.told(site.key, found.entries)
        layout, dates = await self._laid_out(site, self._corrected(container, found.entries), directory)
        if container.stamp:
            return False
        began = trio.current_time() - LISTING_S + found.fresh_s
        merge(container, layout, began, dates)
        container.seen_ns = dates.get(directory.id)
        container.known, container.listed_at = Known.SHARED, began
        self._looked.discard(container)
        return True

    def changed(self, folder: Folder) -> None:
        """Have other machines list a directory anew."""
        container = folder.container
        if not container.is_root:
            self._common.drop(container.site.key, container.entity.id)

    async def told(self, node: Node) -> None:
        """Wait until other machines are shown no listing from before the last change in a site."""
        if not node.is_root:
            await self._common.settled(node.site.key)

    async def _recall(self, container: Folder) -> bool:
        """Show the listing of a directory that an earlier mount stored; false if there is none."""
        found = self._listings.get(container.site.name, container.entity.id)
        if found is None:
            return False
        entries, container.kept_s = found
        layout, dates = await self._laid_out(container.site, self._corrected(container, entries))
        merge(container, layout, trio.current_time(), dates)
        container.known = Known.KEPT
        return True

    async def _list(self, container: Folder, listing: Listing) -> None:
        site, directory, began, stamp = container.site, container.entity, trio.current_time(), container.stamp
        try:
            shared = (await self._common.look(site.key, directory.id)).stamp
            with unhurried(not container.is_whole or container.took_s >= SLOW_S):
                entries = await scan(site.backend, directory, listing.progress, listing.shown.set)
        except Unavailable as error:
            await self._broken_off(container, listing, error, trio.current_time() - began)
            return
        except LabfsError as error:
            container.progress = None  # its cursor may be invalid
            if isinstance(error, NotFound):
                self._listings.drop(site.name, directory.id)
                expire(container.parent)
            raise
        took_s = trio.current_time() - began
        until = max(began + LOOKING_S, trio.current_time() + 1.0)
        entries = await self._measuring.fill(site.key, site.backend, entries, until)
        entries = self._corrected(container, [*entries, *await self._unlisted(container, entries, began)], whole=True)
        remark, lacking = listing.progress.remark, listing.progress.lacking
        layout, dates = await self._laid_out(site, entries, None if lacking else directory)
        container.seen_ns = container.seen_ns if lacking else dates.get(directory.id)
        merge(container, layout, began, dates, whole=not lacking)
        container.known, container.progress, container.took_s = Known.WHOLE, None, took_s
        container.remark, container.doubt = remark, remark if lacking else None
        container.rest.end()
        if container.stamp == stamp:
            container.listed_at = trio.current_time()
        self._looked.discard(container)
        if not lacking:  # else the listing stored before is more complete
            await aside(len(entries), partial(self._listings.put, site.name, directory.id, entries))
        if not lacking and container.stamp == stamp:
            fresh_s = LISTING_S - (trio.current_time() - began)
            await aside(len(entries), partial(self._common.put, site.key, directory.id, shared, entries, fresh_s))

    async def _broken_off(self, container: Folder, listing: Listing, error: Unavailable, took_s: float) -> None:
        """Show what is known of a directory whose listing failed. Raises the error if nothing is known."""
        await self.show(container, listing)
        if container.listed_at == float("-inf") and not container.children:
            container.known = Known.NOTHING  # an old empty listing is no answer to a caller who asked for a new one
        known = container.known is not Known.NOTHING
        container.rest.begin(error, took_s, PAUSE_S if known else 0.0)
        if not known:
            raise error
        container.progress = None if container.is_whole else listing.progress
        log.warning("Showing what is known of %s: %s", container.path, error)
        container.doubt = str(error)

    async def show(self, container: Folder, listing: Listing) -> None:
        """Show the entries that a first listing has found so far, and remove none."""
        found = list(listing.progress.found.values())
        if container.known not in (Known.NOTHING, Known.PART) or not found:
            return
        layout, dates = await self._laid_out(container.site, self._corrected(container, found))
        if container.known in (Known.NOTHING, Known.PART):  # the listing may have ended meanwhile
            merge(container, layout, trio.current_time(), dates, whole=False)
            container.known = Known.PART

    async def _unlisted(self, container: Folder, entries: list[Entry], began: float) -> list[Entry]:
        """Return entries saved here that are not listed yet; a stat of each tells whether others have removed it."""
        found, listed = [], {entry.id for entry in entries}
        for number, node in list(container.recent.items()):
            if number in listed or began - node.committed_at >= MERGING_S:
                del container.recent[number]
                if is_at(node, number, container):
                    node.committed_at = float("-inf")  # from now on the listing tells where it is
                continue
            if is_at(node, number, container):
                try:
                    there = node.is_dir or is_called(await container.site.backend.stat(number), node)
                except NotFound:
                    there = False
                except LabfsError as error:
                    log.info("%s is believed to be there: %s", node.path, error)
                    there = True
                if there and node.entry is not None and is_at(node, number, container):
                    found.append(placed(node.entry, node.parent, container))
                elif not there:
                    distrust(node)
        return found

    def _corrected(self, container: Folder, entries: list[Entry], *, whole: bool = False) -> list[Entry]:
        """Leave out entries that were deleted here, or are about to be; a `whole` listing ends this for absent ones."""
        doomed = self.doomed[container.site.name]
        if whole:
            container.gone &= {(entry.id, entry.version) for entry in entries}
        return [e for e in entries if e.id not in doomed and (e.id, e.version) not in container.gone]

    async def _laid_out(
        self, site: Site, entries: list[Entry], directory: Entry | None = None
    ) -> tuple[Layout, Mapping[str, int]]:
        """Return the layout of a listing, and dates in nanoseconds by id.

        New entries are recorded as seen only from a listing of a whole `directory`.
        """

        def lay_out() -> tuple[Layout, Mapping[str, int]]:
            if directory is not None:
                self._seen.add(site.name, entries)
            layout = fold(entries, self._seen.of(site.name), keeps_versions=site.keeps_versions)
            return layout, self._seen.dates.meet(site.name, entries, directory)

        return await aside(len(entries), lay_out)


def is_fresh(container: Folder) -> bool:
    """Whether the last listing of a directory is still fresh."""
    believed_s = max(LISTING_S, min(SHARE * container.took_s, LONGEST_BELIEVED_S))
    return trio.current_time() - container.listed_at < believed_s


def expire(folder: Folder) -> None:
    """Expire the listing of a directory: the next access lists it anew."""
    container = folder.container
    if not container.is_root:
        container.listed_at = float("-inf")
        container.stamp += 1
        container.progress = None
        container.rest.cut()


def distrust(node: Node) -> None:
    """Accept a listing that does not show a file saved here: its bytes are not there any more."""
    node.committed_at = float("-inf")
    if node.entry is not None:
        node.parent.container.recent.pop(node.entry.id, None)


def unknown(container: Folder) -> LabfsError:
    """Return the error of a lookup in a directory whose listing is partial or stale."""
    if container.doubt is not None:
        return Unavailable(container.doubt).advised("")  # that of the doubt is in it
    return NotYet(unfinished(container.path, container.listing))


def remark(container: Folder) -> str | None:
    """Return why the listing of a directory may not be current; None if it is."""
    if container.known is Known.PART or (container.known is Known.NOTHING and container.listing is not None):
        return unfinished(container.path, container.listing)
    if container.known is Known.KEPT:
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(container.kept_s))
        why = f": {container.doubt}" if container.doubt else "; it is being listed anew."
        return f"{container.path} is shown as it was listed on {date}{why}"
    if container.doubt is not None and container.remark is None:
        return f"{container.path} is shown as it was listed last: {container.doubt}"
    return container.remark
