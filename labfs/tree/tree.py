"""Path → node: listings with a time to live, local things among them, and names that stay put.

What one listing shows is laid out by `layout`. A folder (a sub-directory that is only part of its files'
paths) exists as long as something is in it, or while this mount made it. A directory whose contents were
listed along with it has an entry of its own, but is listed anew with the one above.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from weakref import WeakSet

import trio

from labfs.backend import Entry, unhurried
from labfs.errors import LabfsError, NotDirectory, NotFound, NotYet, Unavailable, again
from labfs.tree import names
from labfs.tree.hiding import show_what_is_over
from labfs.tree.layout import Layout, fold
from labfs.tree.listing import PAUSE_S, Known, Listing, answer_by, aside, unfinished
from labfs.tree.measuring import Measuring
from labfs.tree.node import Node
from labfs.tree.remarks import is_whole, remark, unknown
from labfs.tree.remembered.kept import Kept
from labfs.tree.remembered.seen import Seen
from labfs.tree.remembered.sizes import Sizes
from labfs.tree.scan import scan
from labfs.tree.settling import SETTLING_S, is_at, is_called, placed, settle
from labfs.tree.site import Site

log = logging.getLogger(__name__)

LISTING_S = 30.0  # for which a listing is believed
RENEWAL_S = 2.0  # to wait for a newer listing before the last one is shown again
PATIENCE_S = 17.0  # of whoever removes or renames: that may take as long as it takes, but not this
PART_S = 5.0  # to wait for the end of a first listing, once a part of it was shown
SLOW_S = 4.0  # a listing that took as long is let take longer than the usual silence, as any first one is
SHARE = 5.0  # times as long as it took to list a directory, the listing is believed, where that is longer
LONGEST_BELIEVED_S = 1800.0
LOOKING_S = 13.0  # for a listing and the sizes that it lacks, so that whoever waits for both has his answer in time


class Tree:
    """The nodes of all sites, listed when somebody looks.

    A listing runs in `nursery` and belongs to nobody who waits for it: a long one is there for the next.
    """

    def __init__(self, nursery: trio.Nursery, sites: Iterable[Site], sizes: Sizes, seen: Seen, kept: Kept) -> None:
        self._nursery = nursery
        self._seen = seen
        self._kept = kept
        self._looked: WeakSet[Node] = WeakSet()  # directories whose listing is under way, or did not come to its end
        self._doomed: defaultdict[str, set[str]] = defaultdict(set)  # site → ids that are about to be deleted
        self.measuring = Measuring(sizes)
        self.root = Node("", None, None, is_dir=True)
        self.root.listed_at, self.root.known = float("inf"), Known.WHOLE
        self.root.seen_ns = seen.dates.meet("", [Entry(id="", name="", is_dir=True)]).get("")
        for site in sites:
            node = Node(site.name, self.root, site, is_dir=True, entry=site.backend.root)
            node.seen_ns = seen.dates.meet(site.name, [site.backend.root]).get(site.backend.root.id)
            self.root.children[site.name] = node

    async def children(self, node: Node) -> dict[str, Node]:
        """Return the nodes in a directory by name, listed anew if the last listing is too old and that works.

        Of one whose first listing takes long they are what that has found so far (`is_part`). Raises NotYet where that
        is nothing.
        """
        if not node.is_dir:
            raise NotDirectory(f"“{node.name}” is not a directory.")
        container = node.container
        if show_what_is_over(node):
            self.expire(node)
        if container.rest.on and container.rest.error is not None and container.known is Known.NOTHING:
            raise again(container.rest.error)
        if not self._fresh(container) and not container.rest.on:
            await self._look(container)
        return node.children

    async def _look(self, container: Node) -> None:
        """Have a directory listed, and wait for that as long as whoever asks may. Raises NotYet."""
        listing, until = self._renewal(container), answer_by()
        if container.known is Known.NOTHING:
            with trio.move_on_at(until):
                await listing.shown.wait()
        if container.known is Known.PART:
            until = min(until, trio.current_time() + PART_S)
        elif container.listed_at > float("-inf") or container.known is Known.KEPT:
            until = min(until, listing.began + RENEWAL_S)  # once for all who look while it is under way
        with trio.move_on_at(until):
            await listing.wait()
        if not listing.landed.is_set():
            await self._show(container, listing)
        if container.known is Known.NOTHING:
            raise NotYet(unfinished(container.path, listing))

    async def whole(self, node: Node, patience_s: float = float("inf")) -> None:
        """Return once this mount has listed a directory to its end. Raises NotYet, and Unavailable.

        Before that a name that is not there may be in the part that was not read, and what an earlier mount saw may be
        gone: neither is a ground for making, replacing, moving or removing anything.
        """
        container = node.container
        if is_whole(container):
            return
        with trio.move_on_after(patience_s):
            await self.children(node)
            if not is_whole(container) and container.listing is not None:
                with trio.move_on_at(answer_by()):
                    await container.listing.wait()
        if not is_whole(container):
            raise unknown(container)

    async def openable(self, node: Node) -> None:
        """Return if a file can be read as it is known. Raises NotYet where a newer version may be unread."""
        parent = node.parent
        if parent is not None and node.site is not None and node.site.keeps_versions and not node.local:
            await self.whole(parent)

    def remark(self, node: Node) -> str | None:
        """Say in which way a directory, or the one that a file is in, is not known as it is now."""
        return remark(node.container if node.is_dir or node.parent is None else node.parent.container)

    def remarks(self) -> list[str]:
        """Return what there is to say about all directories."""
        return [text for container in list(self._looked) if (text := self.remark(container)) is not None]

    @staticmethod
    def incomplete(node: Node) -> LabfsError | None:
        """Return why what is shown of a directory is not all that is in it, or None."""
        return unknown(node.container) if node.container.known is Known.PART else None

    async def certain(self, node: Node) -> dict[str, Node]:
        """Return the nodes in a directory as listed from now on; nobody else waits for that. Raises Unavailable."""
        container = node.container
        if container.parent is None:
            return node.children
        if container.listing is not None:  # begun before
            await container.listing.landed.wait()
        if container.rest.needed and container.rest.error is not None:
            raise again(container.rest.error)
        await self._renewal(container).wait()
        if container.doubt is not None:
            raise Unavailable(container.doubt)
        return node.children

    async def child(self, parent: Node, name: str) -> Node:
        """Return the node of that name, listed or not. Raises NotFound, and NotYet where it may not be listed yet."""
        container = parent.container
        if container.known is not Known.PART or name not in parent.children:
            await self.children(parent)
        if name not in parent.children and (listing := container.listing) is not None:
            with trio.move_on_at(answer_by()):
                await listing.wait()
            if not listing.landed.is_set():
                await self._show(container, listing)
        node = parent.children.get(name) or parent.unlisted.get(name)
        doubtful = container.doubt is not None or container.listing is not None or not is_whole(container)
        if node is None and container.parent is not None and doubtful:
            # A list that is old or unfinished can show what was there, not what is absent.
            raise unknown(container)
        node = node or self._offered(parent, name)
        if node is None:
            raise NotFound(f"There is no “{name}” in {parent.path}.")
        return node

    def _offered(self, parent: Node, name: str) -> Node | None:
        """Return a folder that the system has room for, although nothing is in it yet."""
        if parent.entry is None or names.original(name) not in parent.entry.offers:
            return None
        parent.unlisted[name] = Node(name, parent, parent.site, is_dir=True)
        return parent.unlisted[name]

    def renew(self, node: Node) -> None:
        """Have a directory listed anew as `expire` does, whatever its server may still be at work on."""
        container = (node if node.is_dir or node.parent is None else node.parent).container
        if container.listing is not None:
            container.listing.scope.cancel()  # whoever waits for it gets the new one
        container.rest.end()
        self.expire(node)

    def expire(self, node: Node) -> None:
        """Have a directory, or the one that a file is in, listed anew when somebody looks next."""
        assert node.is_dir or node.parent is not None
        container = (node if node.is_dir or node.parent is None else node.parent).container
        if container.parent is not None:
            container.listed_at = float("-inf")
            container.stamp += 1
            container.progress = None
            container.rest.cut()

    @staticmethod
    def born(node: Node) -> None:
        """Note that a directory was made just now: nothing is in it."""
        node.listed_at, node.known = trio.current_time(), Known.WHOLE

    def attach(self, node: Node, parent: Node, name: str) -> None:
        """Put a node at a place, which it takes from whatever was there."""
        node.name, node.parent, node.site = name, parent, parent.site
        parent.children[name] = node
        parent.hidden.pop(name, None)
        above = parent.parent
        if above is not None and above.unlisted.get(parent.name) is parent:
            above.children[parent.name] = above.unlisted.pop(parent.name)  # a folder on offer is in use now

    def detach(self, node: Node) -> None:
        if node.parent and node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]

    def bury(self, node: Node, entry: Entry) -> None:
        """Show an entry no more, that was deleted but may be listed until the system has done it."""
        if node.parent is not None:
            node.parent.container.gone.add((entry.id, entry.version))

    def doom(self, site: str, number: str) -> None:
        """Show an entry no more, since another has its place and it is about to be deleted."""
        self._doomed[site].add(number)

    def spare(self, site: str, number: str) -> None:
        """Show an entry again if it is there."""
        self._doomed[site].discard(number)

    def saved(self, node: Node, entry: Entry, over: Entry | None = None) -> None:
        """Show what this mount made or saved, `over` another entry or not, also before any listing does."""
        assert node.site is not None
        assert node.parent is not None
        node.entry, node.committed_at = entry, trio.current_time()
        node.parent.container.recent[entry.id] = node
        self._seen.saved(node.site.name, entry, over)
        self._date(node, node.site.name, entry)
        for other in list(node.parent.children.values()):  # a listing came before the answer
            if other is not node and other.entry is not None and other.entry.id == entry.id and not other.local:
                self.detach(other)

    def _date(self, node: Node, site: str, entry: Entry) -> None:
        dates, writer = self._seen.dates, node.writer
        if writer is None:
            node.seen_ns = dates.meet(site, [entry]).get(entry.id)
        else:
            date = writer.modified_ns if node.modified_ns is None else node.modified_ns
            node.seen_ns = dates.saved(site, entry, date)

    def redate(self, node: Node, date: int) -> None:
        """Show the date, in nanoseconds, that a user gave; remember it where the server keeps none."""
        node.modified_ns = date
        if node.site is not None and node.entry is not None and (node.writer is None or not node.writer.dirty):
            self._seen.dates.set(node.site.name, node.entry, date)

    def distrust(self, node: Node) -> None:
        """Believe a listing that does not show what was saved here: its bytes are not there any more."""
        node.committed_at = float("-inf")
        if node.parent is not None and node.entry is not None:
            node.parent.container.recent.pop(node.entry.id, None)

    @staticmethod
    def _fresh(container: Node) -> bool:
        believed_s = max(LISTING_S, min(SHARE * container.took_s, LONGEST_BELIEVED_S))
        return trio.current_time() - container.listed_at < believed_s

    def _renewal(self, container: Node) -> Listing:
        if container.listing is None:
            container.listing = Listing(container.progress if container.rest.lately else None)
            self._looked.add(container)
            self._nursery.start_soon(self._renew, container, container.listing)
        return container.listing

    async def _renew(self, container: Node, listing: Listing) -> None:
        with listing.outcome():
            try:
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

    async def _recall(self, container: Node) -> bool:
        """Show a directory as the last mount listed it; false where that is not known."""
        assert container.site is not None
        assert container.entry is not None
        found = self._kept.get(container.site.name, container.entry.id)
        if found is None:
            return False
        entries, container.kept_s = found
        layout, dates = await self._laid_out(container.site, self._corrected(container, entries))
        settle(container, layout, trio.current_time(), dates)
        container.known = Known.KEPT
        return True

    async def _list(self, container: Node, listing: Listing) -> None:
        assert container.site is not None
        assert container.entry is not None
        site, began, stamp = container.site, trio.current_time(), container.stamp
        try:
            with unhurried(container.known is not Known.WHOLE or container.took_s >= SLOW_S):
                entries = await scan(site.backend, container.entry, listing.progress, listing.shown.set)
        except Unavailable as error:
            await self._broken_off(container, listing, error, trio.current_time() - began)
            return
        except LabfsError as error:
            container.progress = None  # where it went on from may be no place any more
            if isinstance(error, NotFound):
                self._kept.drop(site.name, container.entry.id)
                if container.parent:
                    self.expire(container.parent)
            raise
        took_s = trio.current_time() - began
        until = max(began + LOOKING_S, trio.current_time() + 1.0)
        entries = await self.measuring.fill(site.key, site.backend, entries, until)
        entries = self._corrected(container, [*entries, *await self._unlisted(container, entries, began)], whole=True)
        layout, dates = await self._laid_out(site, entries, container.entry)
        container.seen_ns = dates.get(container.entry.id)
        settle(container, layout, began, dates)
        container.known, container.doubt, container.progress, container.took_s = Known.WHOLE, None, None, took_s
        container.rest.end()
        if container.stamp == stamp:
            container.listed_at = trio.current_time()
        self._looked.discard(container)
        await aside(len(entries), partial(self._kept.put, site.name, container.entry.id, entries))

    async def _broken_off(self, container: Node, listing: Listing, error: Unavailable, took_s: float) -> None:
        """Show what is known of a directory whose listing failed. Raises the error where that is nothing."""
        await self._show(container, listing)
        if container.listed_at == float("-inf") and not container.children:
            container.known = Known.NOTHING  # that it was empty is nothing to show to whoever asked for it anew
        known = container.known is not Known.NOTHING
        container.rest.begin(error, took_s, PAUSE_S if known else 0.0)
        if not known:
            raise error
        container.progress = None if container.known is Known.WHOLE else listing.progress
        log.warning("Showing what is known of %s: %s", container.path, error)
        container.doubt = str(error)

    async def _show(self, container: Node, listing: Listing) -> None:
        """Show what a first listing has found so far, and remove nothing by that."""
        found = list(listing.progress.found.values())
        if container.known not in (Known.NOTHING, Known.PART) or not found:
            return
        assert container.site is not None
        layout, dates = await self._laid_out(container.site, self._corrected(container, found))
        if container.known in (Known.NOTHING, Known.PART):  # it may have come to its end meanwhile
            settle(container, layout, trio.current_time(), dates, whole=False)
            container.known = Known.PART

    async def _unlisted(self, container: Node, entries: list[Entry], began: float) -> list[Entry]:
        """Return what was saved here and is not listed yet; asked for one by one, since others may have removed it."""
        assert container.site is not None
        found, listed = [], {entry.id for entry in entries}
        for number, node in list(container.recent.items()):
            if number in listed or began - node.committed_at >= SETTLING_S:
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
                if there and is_at(node, number, container):
                    found.append(placed(node, container))
                elif not there:
                    self.distrust(node)
        return found

    def _corrected(self, container: Node, entries: list[Entry], *, whole: bool = False) -> list[Entry]:
        """Leave out what was deleted here, and is about to be; the `whole` tells what need not be any more."""
        assert container.site is not None
        doomed = self._doomed[container.site.name]
        if whole:
            container.gone &= {(entry.id, entry.version) for entry in entries}
        return [e for e in entries if e.id not in doomed and (e.id, e.version) not in container.gone]

    async def _laid_out(
        self, site: Site, entries: list[Entry], directory: Entry | None = None
    ) -> tuple[Layout, Mapping[str, int]]:
        """Return what each directory should hold, and dates by id.

        Only a list that is the whole of a `directory` is a ground to note what is new.
        """

        def lay_out() -> tuple[Layout, Mapping[str, int]]:
            if directory is not None:
                self._seen.note(site.name, entries)
            layout = fold(entries, self._seen.of(site.name), keeps_versions=site.keeps_versions)
            return layout, self._seen.dates.meet(site.name, entries, directory)

        return await aside(len(entries), lay_out)
