"""Path → node: listings with a time to live, local things among them, and names that stay put.

A node is one place in the tree. It keeps its identity while listings come and go, so that a door can
hang an inode number or an open file on it; what the server says about it is its `entry`.

What one listing shows is laid out by `layout`. A folder (a sub-directory that is only part of its files'
paths) exists as long as something is in it, or while this mount made it. A directory whose contents were
listed along with it has an entry of its own, but is listed anew with the one above.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import partial

import trio

from labfs import names
from labfs.backend import Entry, Replace, Site, scan
from labfs.errors import LabfsError, NotDirectory, NotFound, Unavailable
from labfs.layout import Layout, fold
from labfs.listing import Listing
from labfs.measuring import Measuring
from labfs.sizes import Sizes
from labfs.writer import Writer

log = logging.getLogger(__name__)

LISTING_S = 30.0  # for which a listing is believed
RENEWAL_S = 2.0  # to wait for a newer listing before the last one is shown again
MANY = 5000  # entries, which take too long to lay out while others wait
LOOKING_S = 13.0  # for a listing and the sizes that it lacks, so that whoever waits for both has his answer in time
SETTLING_S = 10.0  # for which our own commit outlives a listing that does not show it yet

Version = tuple[str, str | None]  # of an entry: where a place has one id, another file in it is another version


class Node:
    """One place in the tree: the root, a site, a directory, a folder or a file."""

    __slots__ = (
        "__weakref__",
        "children",
        "committed_at",
        "doubt",
        "entry",
        "generation",
        "gone",
        "hidden",
        "is_dir",
        "least",
        "listed_at",
        "listing",
        "local",
        "made_here",
        "modified_ns",
        "name",
        "older",
        "parent",
        "saves",
        "serial",
        "site",
        "stamp",
        "text",
        "trouble",
        "unlinked",
        "unlisted",
        "writer",
    )

    _serials = iter(range(1, 1 << 62))

    def __init__(
        self,
        name: str,
        parent: Node | None,
        site: Site | None,
        *,
        is_dir: bool,
        entry: Entry | None = None,
        local: bool = False,
    ) -> None:
        self.name = name
        self.parent = parent
        self.site = site
        self.is_dir = is_dir
        self.entry = entry
        self.local = local  # stays on this machine: never uploaded
        self.made_here = False  # a folder that the server will know by the first file in it
        self.writer: Writer | None = None
        self.text: bytes | None = None  # content of a node that labfs itself writes
        self.modified_ns: int | None = None  # set by the user; the server keeps its own date
        self.older = False  # not the newest version of its path: to read only
        self.saves = 0  # how often this mount saved it
        self.generation = 0  # grows when the bytes changed behind the reader's back
        self.unlinked = False
        self.least = 1  # bytes that are there at least, of a file whose size nobody told
        self.trouble: LabfsError | None = None  # why its size, and so its bytes, cannot be had
        self.committed_at = float("-inf")
        self.serial = next(self._serials)
        if is_dir:
            self.children: dict[str, Node] = {}
            self.unlisted: dict[str, Node] = {}
            self.hidden: dict[str, Entry] = {}  # names that were moved aside here → what the server has there
            self.listed_at = float("-inf")
            self.listing: Listing | None = None  # the one under way
            self.gone: set[Version] = set()  # what was deleted and may be listed for a while yet
            self.stamp = 0  # grows whenever the listing is called old
            self.doubt: str | None = None  # why the listing could not be renewed

    def __repr__(self) -> str:
        return f"<Node {self.path!r}>"

    @property
    def key(self) -> str:
        """What the node is, stable across mounts for whatever a server holds."""
        if self.entry is not None and self.site is not None:
            return f"{self.site.name}\0{self.entry.id}"
        if self.is_dir and not self.local and self.parent is not None:
            return f"{self.parent.key}\0/{self.name}"
        return f"\0local\0{self.serial}" if self.parent else "\0root"

    @property
    def path(self) -> str:
        """The path from the mount point, which is `/`."""
        parts = [node.name for node in self.ancestry() if node.parent is not None]
        return "/" + "/".join(reversed(parts))

    def ancestry(self) -> Iterator[Node]:
        """Yield the node itself and all nodes above it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def container(self) -> Node:
        """The nearest directory whose own listing shows this one and what is in it."""
        return next(
            node
            for node in self.ancestry()
            if node.is_dir and (not node.parent or (node.entry is not None and not node.entry.complete))
        )

    @property
    def home(self) -> Node:
        """The nearest directory that the server knows: where this folder's files really live."""
        return next(node for node in self.ancestry() if node.is_dir and (node.entry or not node.parent))

    @property
    def folders(self) -> tuple[str, ...]:
        """The server's names of the folders between the home and this directory."""
        home = self.home
        between = []
        for node in self.ancestry():
            if node is home:
                break
            between.append(names.original(node.name))
        return tuple(reversed(between))

    @property
    def in_scratch(self) -> bool:
        """Whether this directory, or one above it, is local, so that whatever is made here stays local."""
        return any(node.local and node.is_dir for node in self.ancestry())


class Tree:
    """The nodes of all sites, listed when somebody looks.

    A listing runs in `nursery` and belongs to nobody who waits for it: a long one is there for the next.
    """

    def __init__(self, nursery: trio.Nursery, sites: Iterable[Site], sizes: Sizes) -> None:
        self._nursery = nursery
        self.measuring = Measuring(sizes)
        self.root = Node("", None, None, is_dir=True)
        self.root.listed_at = float("inf")
        for site in sites:
            self.root.children[site.name] = Node(site.name, self.root, site, is_dir=True, entry=site.backend.root)

    async def children(self, node: Node) -> dict[str, Node]:
        """Return the nodes in a directory by name, listed anew if the last listing is too old and that works."""
        if not node.is_dir:
            raise NotDirectory(f"“{node.name}” is not a directory.")
        container = node.container
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

    def hide(self, node: Node) -> None:
        """Take a server's file out of sight, here, until something newer has its name."""
        assert node.parent is not None
        assert node.entry is not None
        self.detach(node)
        node.parent.hidden[node.name] = node.entry

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
        container.gone &= {(entry.id, entry.version) for entry in entries}
        entries = [entry for entry in entries if (entry.id, entry.version) not in container.gone]
        lay_out = partial(fold, entries, keeps_versions=backend.capabilities.replace is Replace.NEWER)
        layout = lay_out() if len(entries) < MANY else await trio.to_thread.run_sync(lay_out)
        self._settle(container, layout, began)
        if container.stamp == stamp:
            container.listed_at = trio.current_time()
        container.doubt = None

    def _settle(self, node: Node, layout: Layout, began: float) -> None:
        """Make the node's children what a listing begun then says, keeping nodes that are still there."""
        before = node.children
        node.children = {}
        for name, folder in layout.folders.items():
            child = before.get(name)
            if child is None or not child.is_dir:
                child = Node(name, node, node.site, is_dir=True)
            child.local = child.made_here = False
            node.children[name] = child
            self._settle(child, folder, began)
        for name, entry in layout.entries.items():
            if name in node.hidden and node.hidden[name].id == entry.id:
                continue
            node.hidden.pop(name, None)
            child = self._renewed(before.get(name), name, node, entry, began)
            node.children[name] = child
            if entry.complete:
                self._settle(child, layout.complete[name], began)
        node.unlisted = {
            name: self._renewed(node.unlisted.get(name), name, node, entry, began)
            for name, entry in layout.older.items()
        }
        for child in node.unlisted.values():
            child.older = True
        for name, child in before.items():
            if name not in node.children and _ours(child, began):
                node.children[name] = child

    def _renewed(self, known: Node | None, name: str, parent: Node, entry: Entry, began: float) -> Node:
        if known is None or known.is_dir != entry.is_dir:
            return Node(name, parent, parent.site, is_dir=entry.is_dir, entry=entry)
        if known.local and known.writer is not None:
            return known  # a temporary file of ours, whatever somebody else calls by its name
        if _ours(known, began) and known.entry is not None and entry.age < known.entry.age:
            return known  # our own, newer commit, which the listing does not show yet
        old = known.entry
        if old is not None and (old.id, old.version) != (entry.id, entry.version):
            known.generation += 1
            known.modified_ns = None
        known.entry = entry
        known.trouble = None
        known.local = False
        return known


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
