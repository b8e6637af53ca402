"""Path → node: listings with a time to live, local things among them, and names that stay put.

What one listing shows is laid out by `layout`. A folder (a sub-directory that is only part of its files'
paths) exists as long as something is in it, or while this mount made it. A directory whose contents were
listed along with it has an entry of its own, but is listed anew with the one above.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import trio

from labfs import names
from labfs.backend import Entry, Replace, Site, scan
from labfs.errors import LabfsError, NotDirectory, NotFound, Unavailable
from labfs.layout import Layout, fold
from labfs.listing import Listing
from labfs.measuring import Measuring
from labfs.node import Hidden, Node
from labfs.seen import Seen
from labfs.sizes import Sizes

log = logging.getLogger(__name__)

LISTING_S = 30.0  # for which a listing is believed
RENEWAL_S = 2.0  # to wait for a newer listing before the last one is shown again
MANY = 5000  # entries, which take too long to lay out while others wait
LOOKING_S = 13.0  # for a listing and the sizes that it lacks, so that whoever waits for both has his answer in time
ASIDE_S = 60.0  # for something newer to take the name of what was moved aside
SETTLING_S = 10.0  # for which our own commit outlives a listing that does not show it yet


class Tree:
    """The nodes of all sites, listed when somebody looks.

    A listing runs in `nursery` and belongs to nobody who waits for it: a long one is there for the next.
    """

    def __init__(self, nursery: trio.Nursery, sites: Iterable[Site], sizes: Sizes, seen: Seen) -> None:
        self._nursery = nursery
        self._seen = seen
        self._doomed: defaultdict[str, set[str]] = defaultdict(set)  # site → ids that are about to be deleted
        self.measuring = Measuring(sizes)
        self.root = Node("", None, None, is_dir=True)
        self.root.listed_at = float("inf")
        self.root.seen_ns = seen.dates.meet("", [Entry(id="", name="", is_dir=True)]).get("")
        for site in sites:
            node = Node(site.name, self.root, site, is_dir=True, entry=site.backend.root)
            node.seen_ns = seen.dates.meet(site.name, [site.backend.root]).get(site.backend.root.id)
            self.root.children[site.name] = node

    async def children(self, node: Node) -> dict[str, Node]:
        """Return the nodes in a directory by name, listed anew if the last listing is too old and that works."""
        if not node.is_dir:
            raise NotDirectory(f"“{node.name}” is not a directory.")
        container = node.container
        if node.hidden:
            self._show_again(node)
        if self._fresh(container):
            return node.children
        listing = self._renewal(container)
        known = container.listed_at > float("-inf")
        with trio.move_on_after(RENEWAL_S if known else float("inf")):
            await listing.wait()
        return node.children

    async def certain(self, node: Node) -> dict[str, Node]:
        """Return the nodes in a directory as listed from now on; nobody else waits for that. Raises Unavailable."""
        container = node.container
        if container.parent is None:
            return node.children
        if container.listing is not None:  # begun before
            await container.listing.done.wait()
        await self._renewal(container).wait()
        if container.doubt is not None:
            raise Unavailable(container.doubt)
        return node.children

    async def child(self, parent: Node, name: str) -> Node:
        """Return the node of that name, listed or not. Raises NotFound."""
        container = parent.container
        await self.children(parent)
        if name not in parent.children and container.listing is not None:
            await container.listing.wait()
        node = parent.children.get(name) or parent.unlisted.get(name) or self._offered(parent, name)
        doubt = container.doubt
        if node is None and doubt is not None:
            raise Unavailable(doubt)  # an old listing can show what was there, not what is absent
        if node is None:
            raise NotFound(f"There is no “{name}” in {parent.path}.")
        return node

    def _offered(self, parent: Node, name: str) -> Node | None:
        """Return a folder that the system has room for, although nothing is in it yet."""
        if parent.entry is None or names.original(name) not in parent.entry.offers:
            return None
        parent.unlisted[name] = Node(name, parent, parent.site, is_dir=True)
        return parent.unlisted[name]

    def expire(self, node: Node) -> None:
        """Have a directory, or the one that a file is in, listed anew when somebody looks next."""
        assert node.is_dir or node.parent is not None
        container = (node if node.is_dir or node.parent is None else node.parent).container
        if container.parent is not None:
            container.listed_at = float("-inf")
            container.stamp += 1

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
    def named(parent: Node, name: str) -> list[Entry]:
        """Return the files in a directory that the server calls `name`, older versions among them."""
        nodes = [*parent.children.values(), *parent.unlisted.values()]
        files = [node.entry for node in nodes if node.entry is not None and not (node.is_dir or node.local)]
        return [entry for entry in files if entry.name == name]

    def hide(self, node: Node, over: Callable[[], bool] | None = None) -> None:
        """Take a server's file out of sight, here, until something newer has its name, or it is `over`."""
        assert node.parent is not None
        assert node.entry is not None
        self.detach(node)
        until = trio.current_time() + ASIDE_S
        node.parent.hidden[node.name] = Hidden(node.entry, over or (lambda: trio.current_time() >= until))

    def _show_again(self, parent: Node) -> None:
        """Show what was hidden in a directory to make room for what did not come."""
        for name, hidden in list(parent.hidden.items()):
            if hidden.over():
                self.show_again(parent, name)

    def show_again(self, parent: Node, name: str) -> None:
        """Show a file that was hidden."""
        hidden = parent.hidden.pop(name, None)
        if hidden is not None and name not in parent.children:
            log.info("Nothing took the place of “%s” in %s, so it is there again.", name, parent.path)
            parent.children[name] = Node(name, parent, parent.site, is_dir=False, entry=hidden.entry)
            self.expire(parent)

    @staticmethod
    def _fresh(container: Node) -> bool:
        return trio.current_time() - container.listed_at < LISTING_S

    def _renewal(self, container: Node) -> Listing:
        if container.listing is None:
            container.listing = Listing()
            self._nursery.start_soon(self._renew, container, container.listing)
        return container.listing

    async def _renew(self, container: Node, listing: Listing) -> None:
        try:
            await self._list(container)
        except Exception as error:  # handed to whoever waits
            listing.error = error
        finally:
            container.listing = None
            listing.done.set()

    async def _list(self, container: Node) -> None:
        assert container.site is not None
        assert container.entry is not None
        backend, began, stamp = container.site.backend, trio.current_time(), container.stamp
        try:
            entries = await scan(backend, container.entry)
            until = max(began + LOOKING_S, trio.current_time() + 1.0)
            entries = await self.measuring.fill(container.site.name, backend, entries, until)
        except Unavailable as error:
            if container.listed_at == float("-inf") and not container.children:
                raise
            log.warning("Showing the last listing of %s: %s", container.path, error)
            container.doubt = str(error)
            container.listed_at = trio.current_time() - LISTING_S + 5
            return
        except NotFound:
            if container.parent:
                self.expire(container.parent)
            raise
        entries = self._corrected(container, [*entries, *await self._unlisted(container, entries, began)])
        lay_out = partial(self._lay_out, container.site, container.entry, entries)
        layout, dates = lay_out() if len(entries) < MANY else await trio.to_thread.run_sync(lay_out)
        container.seen_ns = dates.get(container.entry.id)
        self._settle(container, layout, began, dates)
        if container.stamp == stamp:
            container.listed_at = trio.current_time()
        container.doubt = None

    async def _unlisted(self, container: Node, entries: list[Entry], began: float) -> list[Entry]:
        """Return what was saved here and is not listed yet; asked for one by one, since others may have removed it."""
        assert container.site is not None
        found, listed = [], {entry.id for entry in entries}
        for number, node in list(container.recent.items()):
            if number in listed or began - node.committed_at >= SETTLING_S:
                del container.recent[number]
                if _is_at(node, number, container):
                    node.committed_at = float("-inf")  # from now on the listing tells where it is
                continue
            if _is_at(node, number, container):
                try:
                    there = node.is_dir or _is_called(await container.site.backend.stat(number), node)
                except NotFound:
                    there = False
                except LabfsError as error:
                    log.info("%s is believed to be there: %s", node.path, error)
                    there = True
                if there and _is_at(node, number, container):
                    found.append(_placed(node, container))
                elif not there:
                    self.distrust(node)
        return found

    def _corrected(self, container: Node, entries: list[Entry]) -> list[Entry]:
        """Leave out what was deleted here, and is about to be."""
        assert container.site is not None
        doomed = self._doomed[container.site.name]
        container.gone &= {(entry.id, entry.version) for entry in entries}
        return [e for e in entries if e.id not in doomed and (e.id, e.version) not in container.gone]

    def _lay_out(self, site: Site, directory: Entry, entries: list[Entry]) -> tuple[Layout, Mapping[str, int]]:
        self._seen.note(site.name, entries)
        keeps_versions = site.backend.capabilities.replace is Replace.NEWER
        layout = fold(entries, self._seen.of(site.name), keeps_versions=keeps_versions)
        return layout, self._seen.dates.meet(site.name, entries, directory)

    def _settle(self, node: Node, layout: Layout, began: float, dates: Mapping[str, int]) -> None:
        """Make the node's children what a listing begun then says, keeping nodes that are still there."""
        before = node.children
        node.children = {}
        for name, folder in layout.folders.items():
            child = before.get(name)
            if child is None or not child.is_dir:
                child = Node(name, node, node.site, is_dir=True)
            child.local = child.made_here = False
            node.children[name] = child
            self._settle(child, folder, began, dates)
        for name, entry in layout.entries.items():
            if name in node.hidden and node.hidden[name].entry.id == entry.id and not node.hidden[name].over():
                continue
            node.hidden.pop(name, None)
            child = self._renewed(before.get(name), name, node, entry, began)
            child.seen_ns = dates.get(entry.id)
            node.children[name] = child
            if entry.complete:
                self._settle(child, layout.complete[name], began, dates)
        node.unlisted = {
            name: self._renewed(node.unlisted.get(name), name, node, entry, began)
            for name, entry in layout.older.items()
        }
        for child in node.unlisted.values():
            child.older = True
            child.seen_ns = dates.get(child.entry.id) if child.entry is not None else None
        for name, child in before.items():
            if name not in node.children and _ours(child, began):
                node.children[name] = child

    def _renewed(self, known: Node | None, name: str, parent: Node, entry: Entry, began: float) -> Node:
        if known is None or known.is_dir != entry.is_dir:
            return Node(name, parent, parent.site, is_dir=entry.is_dir, entry=entry)
        if known.local and known.writer is not None:
            return known  # a temporary file of ours, whatever somebody else calls by its name
        old = known.entry
        if old is not None and (old.id, old.version) != (entry.id, entry.version):
            known.generation += 1
            known.modified_ns = None
        known.entry = entry
        known.trouble = None
        known.local = False
        return known


def _is_at(node: Node, number: str, container: Node) -> bool:
    """Whether a node still shows what was saved as it, in a directory that is listed with `container`."""
    parent, entry = node.parent, node.entry
    if entry is None or entry.id != number or parent is None or node.unlinked:
        return False
    return parent.children.get(node.name) is node and parent.container is container


def _is_called(entry: Entry, node: Node) -> bool:
    """Whether a node's entity has the name still under which it was saved."""
    ours = node.entry
    return ours is not None and (entry.name, entry.folders, entry.inside) == (ours.name, ours.folders, ours.inside)


def _placed(node: Node, container: Node) -> Entry:
    """Return a node's entry as a listing of `container` would show it."""
    assert node.parent is not None
    assert node.entry is not None
    home = node.parent.home
    inside = home.entry.id if home is not container and home.entry is not None else None
    return replace(node.entry, folders=node.parent.folders, inside=inside)


def _ours(node: Node, began: float) -> bool:
    """Whether a node stays although a listing begun then does not show it."""
    if node.local or node.made_here or node.writer is not None:
        return True
    if (
        node.is_dir
        and (node.entry is None or node.entry.complete)
        and any(_ours(child, began) for child in node.children.values())
    ):
        return True
    return began - node.committed_at < SETTLING_S
