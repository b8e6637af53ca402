"""Path → node: what is found by a name, and every way in which a node changes.

What one listing shows is laid out by `layout`. A folder (a sub-directory that is only part of its files'
paths) exists as long as something is in it, or while this mount made it. A directory whose contents were
listed along with it has an entry of its own, but is listed anew with the one above.

The verbs below `looking` are the only writes to a node from outside this room.

Tests: core/test_vfs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import trio

from labfs.backend import Entry
from labfs.errors import LabfsError, NotDirectory, NotFound, Unavailable, again
from labfs.tree import hiding, lister, names
from labfs.tree.lister import Lister, remark, unknown
from labfs.tree.listing import Known, answer_by
from labfs.tree.measuring import Measuring
from labfs.tree.node import Folder, Kind, Node
from labfs.tree.remembered.listings import Listings
from labfs.tree.remembered.seen import Seen
from labfs.tree.remembered.sizes import Sizes
from labfs.tree.site import Site
from labfs.write.writer import Writer

PATIENCE_S = 17.0  # of whoever removes or renames: that may take as long as it takes, but not this


class Tree:
    """The nodes of all sites, listed when somebody looks. Listings run in `nursery`."""

    def __init__(
        self, nursery: trio.Nursery, sites: Iterable[Site], sizes: Sizes, seen: Seen, listings: Listings
    ) -> None:
        self._seen = seen
        self.measuring = Measuring(sizes)
        self._lister = Lister(nursery, self.measuring, seen, listings)
        self.root = Folder("", None, Kind.SERVER)
        self.root.listed_at, self.root.known = float("inf"), Known.WHOLE
        self.root.seen_ns = seen.dates.meet("", [Entry(id="", name="", is_dir=True)]).get("")
        for site in sites:
            folder = Folder.of_site(site, self.root)
            folder.seen_ns = seen.dates.meet(site.name, [folder.entity]).get(folder.entity.id)
            self.root.children[site.name] = folder

    # -- looking ---------------------------------------------------------------------------------------

    async def children(self, folder: Folder) -> dict[str, Node]:
        """Return the nodes in a directory by name, listed anew if the last listing is too old and that works.

        Of one whose first listing takes long they are what that has found so far (`is_part`). Raises NotYet where that
        is nothing.
        """
        container = folder.container
        if hiding.show_what_is_over(folder):
            self.expire(folder)
        if container.rest.on and container.rest.error is not None and container.known is Known.NOTHING:
            raise again(container.rest.error)
        if not lister.is_fresh(container) and not container.rest.on:
            await self._lister.look(container)
        return folder.children

    async def whole(self, folder: Folder, patience_s: float = float("inf")) -> None:
        """Return once this mount has listed a directory to its end. Raises NotYet, and Unavailable.

        Before that a name that is not there may be in the part that was not read, and what an earlier mount saw may be
        gone: neither is a ground for making, replacing, moving or removing anything.
        """
        container = folder.container
        if container.is_whole:
            return
        with trio.move_on_after(patience_s):
            await self.children(folder)
            if not container.is_whole and container.listing is not None:
                with trio.move_on_at(answer_by()):
                    await container.listing.wait()
        if not container.is_whole:
            raise unknown(container)

    async def openable(self, node: Node) -> None:
        """Return if a file can be read as it is known. Raises NotYet where a newer version may be unread."""
        if node.site.keeps_versions and not node.stays_here:
            await self.whole(node.parent)

    @staticmethod
    def remark(node: Node) -> str | None:
        """Return in which way the listing that shows a node may be out of date; None where it is current."""
        return remark(node.folder.container)

    def remarks(self) -> list[str]:
        """Return what there is to say about all directories."""
        return self._lister.remarks()

    @staticmethod
    def incomplete(folder: Folder) -> LabfsError | None:
        """Return why what is shown of a directory is not all that is in it, or None."""
        return unknown(folder.container) if folder.container.known is Known.PART else None

    async def certain(self, folder: Folder) -> dict[str, Node]:
        """Return the nodes in a directory as listed from now on; nobody else waits for that. Raises Unavailable."""
        container = folder.container
        if container.is_root:
            return folder.children
        if container.listing is not None:  # begun before
            await container.listing.landed.wait()
        if container.rest.needed and container.rest.error is not None:
            raise again(container.rest.error)
        await self._lister.renewal(container).wait()
        if container.doubt is not None:
            raise Unavailable(container.doubt)
        return folder.children

    async def child(self, parent: Node, name: str) -> Node:
        """Return the node of that name, listed or not. Raises NotFound, and NotYet where it may not be listed yet."""
        if not isinstance(parent, Folder):
            raise NotDirectory(f"“{parent.name}” is not a directory.")
        container = parent.container
        if container.known is not Known.PART or name not in parent.children:
            await self.children(parent)
        if name not in parent.children and (listing := container.listing) is not None:
            with trio.move_on_at(answer_by()):
                await listing.wait()
            if not listing.landed.is_set():
                await self._lister.show(container, listing)
        node = parent.children.get(name) or parent.unlisted.get(name)
        doubtful = container.doubt is not None or container.listing is not None or not container.is_whole
        if node is None and not container.is_root and doubtful:
            # A list that is old or unfinished can show what was there, not what is absent.
            raise unknown(container)
        node = node or self._offered(parent, name)
        if node is None:
            raise NotFound(f"There is no “{name}” in {parent.path}.")
        return node

    def _offered(self, parent: Folder, name: str) -> Node | None:
        """Return a folder that the system has room for, although nothing is in it yet."""
        if parent.entry is None or names.original(name) not in parent.entry.takes.folders:
            return None
        parent.unlisted[name] = Folder(name, parent, Kind.SERVER)
        return parent.unlisted[name]

    def renew(self, node: Node) -> None:
        """Expire a listing as `expire` does, even while the server may still be at work on the last request."""
        container = node.folder.container
        if container.listing is not None:
            container.listing.scope.cancel()  # whoever waits for it gets the new one
        container.rest.end()
        self.expire(node)

    @staticmethod
    def expire(node: Node) -> None:
        """Expire the listing that shows a node: the next look lists it anew."""
        lister.expire(node.folder)

    # -- places ----------------------------------------------------------------------------------------

    def made(self, folder: Folder, entry: Entry) -> None:
        """Show a directory that was made on the server just now: nothing is in it."""
        folder.listed_at, folder.known = trio.current_time(), Known.WHOLE
        self._show(folder, entry, None)

    def add_folder(self, parent: Folder, name: str, kind: Kind = Kind.UNBORN) -> Folder:
        """Add a folder to a directory, or use the one that the system offers there."""
        offered = parent.unlisted.get(name)
        folder = offered if isinstance(offered, Folder) else Folder(name, parent, kind)
        folder.kind = kind
        self.attach(folder, parent, name)
        return folder

    @staticmethod
    def add_view(parent: Folder, name: str, text: bytes) -> Node:
        """Add an unlisted file with a text of labfs's own to a directory."""
        node = parent.unlisted[name] = Node(name, parent, Kind.VIEW)
        node.text = text
        return node

    @staticmethod
    def attach(node: Node, parent: Folder, name: str) -> None:
        """Attach a node at a name, in place of whatever had it."""
        node.name, node.parent = name, parent
        parent.children[name] = node
        parent.hidden.pop(name, None)
        if not parent.is_root and parent.parent.unlisted.get(parent.name) is parent:
            parent.parent.children[parent.name] = parent.parent.unlisted.pop(parent.name)  # it is in use now

    @staticmethod
    def detach(node: Node) -> None:
        """Detach a node from its parent; open handles keep it."""
        if node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]

    def unlink(self, node: Node) -> None:
        """Take a file out of the tree for good."""
        self.detach(node)
        node.unlinked = True

    @contextmanager
    def taking(self, node: Node, there: Node | None, into: Folder, new: str) -> Iterator[None]:
        """Give a file that is being written the place and the identity of another; on failure all is as it was.

        The identity is that of what has the name, or had it until it was moved aside. Nothing is put back where the
        mount ends: what was sent by then is found out by the next one.
        """
        parent, name, kind, entry, writer = node.parent, node.name, node.kind, node.entry, node.writer
        opened, hidden = writer.opened if writer is not None else None, into.hidden.get(new)
        self.detach(node)
        self.attach(node, into, new)
        taken = there.entry if there is not None else None
        self.take(node, hidden.entry if taken is None and hidden is not None else taken)
        try:
            yield
        except trio.Cancelled:
            raise
        except BaseException:
            self.detach(node)
            self.take(node, opened)
            node.kind, node.entry = kind, entry
            self.attach(node, parent, name)
            if there is not None:
                self.attach(there, into, new)
            if hidden is not None:
                into.hidden[new] = hidden
            raise

    @staticmethod
    def bury(parent: Folder, entry: Entry) -> None:
        """Show an entry no more, that was deleted but may be listed until the system has done it."""
        parent.container.gone.add((entry.id, entry.version))

    def bury_hidden(self, parent: Folder, name: str, entry: Entry) -> None:
        """Unlink, as `unlink` does, a file that was hidden under a name."""
        parent.hidden.pop(name, None)
        self.bury(parent, entry)

    def doom(self, site: str, number: str) -> None:
        """Stop showing an entry that was replaced and is about to be deleted."""
        self._lister.doomed[site].add(number)

    def spare(self, site: str, number: str) -> None:
        """Show an entry again if the server still lists it."""
        self._lister.doomed[site].discard(number)

    # -- what a node is --------------------------------------------------------------------------------

    @staticmethod
    def stay(node: Node) -> None:
        """Keep a node on this machine, whatever it was."""
        node.kind = Kind.SCRATCH

    @staticmethod
    def leave(node: Node) -> None:
        """Make a local node one of its server again: a file that the server has, or a new one."""
        node.kind = Kind.UNBORN if node.entry is None else Kind.SERVER

    def take(self, node: Node, entry: Entry | None) -> None:
        """Give a file the identity of the server's `entry`, or of a new file: its save goes over that one."""
        node.entry = entry
        self.leave(node)
        if node.writer is not None:
            node.writer.opened = entry

    # -- what is known of its bytes --------------------------------------------------------------------

    def saved(self, node: Node, entry: Entry, over: Entry | None) -> None:
        """Show what was saved here, `over` another entry or not, also before any listing does."""
        self._show(node, entry, over)
        node.saves += 1

    def renamed(self, node: Node, entry: Entry, over: Entry | None) -> None:
        """Rename a node whose file was renamed on the server, in place of `over`."""
        self._show(node, entry, over)
        if node.writer is not None and node.writer.opened is not None:
            node.writer.opened = entry  # what is being written is saved under the new name

    def arrived(self, node: Node, entry: Entry, over: Entry) -> None:
        """Show a save that an earlier mount began, and that the server has as `entry`."""
        self._show(node, entry, over)
        self.expire(node)

    def _show(self, node: Node, entry: Entry, over: Entry | None) -> None:
        node.entry, node.kind, node.committed_at = entry, Kind.SERVER, trio.current_time()
        node.parent.container.recent[entry.id] = node
        self._seen.saved(node.site.name, entry, over)
        self._date(node, entry)
        for other in list(node.parent.children.values()):  # a listing came before the answer
            if other is not node and other.entry is not None and other.entry.id == entry.id and not other.stays_here:
                self.detach(other)

    def _date(self, node: Node, entry: Entry) -> None:
        dates, writer, site = self._seen.dates, node.writer, node.site.name
        if writer is None:
            node.seen_ns = dates.meet(site, [entry]).get(entry.id)
        else:
            date = writer.modified_ns if node.modified_ns is None else node.modified_ns
            node.seen_ns = dates.saved(site, entry, date)

    def redate(self, node: Node, date: int) -> None:
        """Show the date, in nanoseconds, that a user gave; remember it where the server keeps none."""
        node.modified_ns = date
        if node.entry is not None and (node.writer is None or not node.writer.dirty):
            self._seen.dates.set(node.site.name, node.entry, date)

    @staticmethod
    def distrust(node: Node) -> None:
        """Believe a listing that does not show what was saved here: its bytes are not there any more."""
        lister.distrust(node)

    @staticmethod
    def written(node: Node) -> None:
        """Drop the date that a user set, since a write is newer."""
        node.modified_ns = None

    @staticmethod
    def set_writer(node: Node, writer: Writer | None) -> None:
        """Set or clear the writer of a file."""
        node.writer = writer

    @staticmethod
    def changed(node: Node) -> None:
        """Mark the kernel's cached pages of a file as invalid: its bytes changed on the server."""
        node.generation += 1

    def measured(self, node: Node, entry: Entry, size: int | None, least: int = 1) -> None:
        """Record the size of an entry in bytes, or that it has at `least` so many."""
        node.least = least
        if size is not None and node.entry is entry:
            node.entry = self.measuring.learnt(node.site.key, entry, size)

    @staticmethod
    def sized(node: Node, entry: Entry, size: int) -> None:
        """Show the size that an entry without a version had just now, and remember it for nobody else."""
        if node.entry is entry:
            node.entry = replace(entry, size=size)

    @staticmethod
    def troubled(node: Node, error: LabfsError | None) -> None:
        """Know why the size of a file, and so its bytes, cannot be had."""
        node.trouble = error
