"""Path → node: lookups by name, and every way in which a node changes.

`layout` sorts a listing into directories. A folder (a sub-directory that is only part of its files' paths)
exists as long as a file is in it, or if this mount made it. A directory whose contents were listed along
with it has an entry of its own, but is listed anew with the directory above.

The methods below `looking` are the only writes to a node from outside this package.

Tests: core/test_vfs.
"""

from __future__ import annotations

from collections import OrderedDict
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
from labfs.tree.remembered.others import Common
from labfs.tree.remembered.seen import Seen
from labfs.tree.remembered.sizes import Sizes
from labfs.tree.site import Site
from labfs.write.writer import Writer

PATIENCE_S = 17.0  # timeout of the listing before a removal or rename, which itself has none


class Tree:
    """The nodes of all sites, listed on demand. Listings run in `nursery`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        sites: Iterable[Site],
        sizes: Sizes,
        seen: Seen,
        listings: Listings,
        common: Common,
    ) -> None:
        self._seen = seen
        self.measuring = Measuring(sizes)
        self._lister = Lister(nursery, self.measuring, seen, listings, common)
        self.looked: OrderedDict[Folder, float] = OrderedDict()  # listed directory → when looked at, oldest first
        self.root = Folder("", None, Kind.SERVER)
        self.root.listed_at, self.root.known = float("inf"), Known.WHOLE
        self.root.seen_ns = seen.dates.meet("", [Entry(id="", name="", is_dir=True)]).get("")
        for site in sites:
            folder = Folder.of_site(site, self.root)
            folder.seen_ns = seen.dates.meet(site.name, [folder.entity]).get(folder.entity.id)
            self.root.children[site.name] = folder

    # -- looking ---------------------------------------------------------------------------------------

    async def children(self, folder: Folder, *, soon: bool = False) -> dict[str, Node]:
        """Return the nodes in a directory by name, listed anew if the last listing is too old and a new one succeeds.

        While a first listing takes long, or if something is wanted `soon`, the nodes found so far are returned. Raises
        NotYet if there are none.
        """
        container = folder.container
        self._look(container)
        if hiding.show_what_is_over(folder):
            self.expire(folder)
        if container.rest.on and container.rest.error is not None and container.known is Known.NOTHING:
            raise again(container.rest.error)
        if not lister.is_fresh(container) and not container.rest.on:
            await (self._lister.glance(container) if soon else self._lister.look(container))
        return folder.children

    async def rest(self, folder: Folder, until: float) -> dict[str, Node]:
        """Return the nodes in a directory of which a part was shown, once it is listed or the time has come."""
        await self._lister.finish(folder.container, until)
        return folder.children

    def _look(self, container: Folder) -> None:
        self.looked[container] = trio.current_time()
        self.looked.move_to_end(container)

    def forget(self, container: Folder) -> list[Node]:
        """Forget the files of a directory, and of the folders listed with it, until somebody looks again.

        Return the nodes that were forgotten: none if only this mount knows some of what is there.
        """
        folders = list(container.listed_with())
        nodes = [node for folder in folders for node in folder.files()]
        ours = container.is_root or container.listing or container.recent or container.gone
        kept = (folder.hidden or (folder is not container and folder.kind is not Kind.SERVER) for folder in folders)
        if ours or any(kept) or not all(node.is_forgettable for node in nodes):
            return []
        for folder in folders:
            folder.children = {name: node for name, node in folder.children.items() if node.is_dir}
            folder.unlisted = {name: node for name, node in folder.unlisted.items() if node.is_dir}
        container.known = Known.NOTHING
        self.expire(container)
        del self.looked[container]
        return nodes

    async def whole(self, folder: Folder, patience_s: float = float("inf")) -> None:
        """Wait until this mount has listed the whole directory. Raises NotYet, and Unavailable.

        Before, an absent name may be in the part that was not read, and a file that an earlier mount listed may be
        gone: no file may be created, replaced, moved or removed on these grounds.
        """
        container = folder.container
        if container.is_whole:
            return
        if container.known is Known.SHARED:
            self.expire(folder)
        with trio.move_on_after(patience_s):
            await self.children(folder)
            if not container.is_whole and container.listing is not None:
                with trio.move_on_at(answer_by()):
                    await container.listing.wait()
        if not container.is_whole:
            raise unknown(container)

    async def openable(self, node: Node) -> None:
        """Wait until the listing suffices to read a file. Raises NotYet while a newer version may be unlisted."""
        if node.site.keeps_versions and not node.stays_here and node.parent.container.known is not Known.SHARED:
            await self.whole(node.parent)

    @staticmethod
    def remark(node: Node) -> str | None:
        """Return why the listing of a directory, or of a file's directory, may not be current; None if it is."""
        return remark(node.folder.container)

    def remarks(self) -> list[str]:
        """Return the remarks about all directories."""
        return self._lister.remarks()

    @staticmethod
    def incomplete(folder: Folder) -> LabfsError | None:
        """Return an error that says why the listing of a directory is partial; None if it is not."""
        return unknown(folder.container) if folder.container.known is Known.PART else None

    async def list_anew(self, container: Folder) -> None:
        """List a directory that nobody waits for. Raises the error of the listing."""
        await self._lister.renewal(container).wait()

    async def certain(self, folder: Folder) -> dict[str, Node]:
        """Return the nodes in a directory from a listing that begins now. Raises Unavailable."""
        container = folder.container
        if container.is_root:
            return folder.children
        if container.listing is not None:  # it began before this call
            await container.listing.landed.wait()
        if container.rest.needed and container.rest.error is not None:
            raise again(container.rest.error)
        await self._lister.renewal(container).wait()
        if container.doubt is not None:
            raise Unavailable(container.doubt).advised("")  # that of the doubt is in it
        return folder.children

    async def child(self, parent: Node, name: str) -> Node:
        """Return the node of that name, listed or not. Raises NotFound, and NotYet if the listing is incomplete."""
        if not isinstance(parent, Folder):
            raise NotDirectory(f"“{parent.name}” is not a directory.")
        container = parent.container
        if container.known is not Known.PART or name not in parent.children:
            await self.children(parent)
        if name not in parent.children and container.known is Known.SHARED:
            self.expire(parent)  # it may have been made since the other machine looked
            await self.children(parent)
        if name not in parent.children and (listing := container.listing) is not None:
            with trio.move_on_at(answer_by()):
                await listing.wait()
            if not listing.landed.is_set():
                await self._lister.show(container, listing)
        node = parent.children.get(name) or parent.unlisted.get(name)
        node = node or parent.children.get(parent.spelled(name))
        doubtful = container.doubt is not None or container.listing is not None or not container.is_whole
        if node is None and not container.is_root and doubtful:
            # A stale or partial listing shows what was there; it does not prove that a name is absent.
            raise unknown(container)
        node = node or self._offered(parent, name)
        if node is None:
            raise NotFound(f"There is no “{name}” in {parent.path}.")
        return node

    def _offered(self, parent: Folder, name: str) -> Node | None:
        """Return a folder that the system offers for files, although it is empty yet; None if it offers none."""
        if parent.entry is None or names.original(name) not in parent.entry.takes.folders:
            return None
        parent.unlisted[name] = Folder(name, parent, Kind.SERVER)
        return parent.unlisted[name]

    def renew(self, node: Node) -> None:
        """Expire a listing as `expire` does, and cancel the one under way and the pause after a failure."""
        container = node.folder.container
        if container.listing is not None:
            container.listing.scope.cancel()  # the tasks that wait for it get the new one
        container.rest.end()
        self.expire(node)
        self._lister.changed(node.folder)

    @staticmethod
    def expire(node: Node) -> None:
        """Expire the listing of a directory, or of a file's directory: the next access lists it anew."""
        lister.expire(node.folder)

    async def told(self, node: Node) -> None:
        """Wait until other machines cannot be shown a listing from before what was changed in a site just now."""
        await self._lister.told(node)

    # -- places ----------------------------------------------------------------------------------------

    def made(self, folder: Folder, entry: Entry) -> None:
        """Show a directory that was created on the server just now, and is empty."""
        folder.listed_at, folder.known = trio.current_time(), Known.WHOLE
        self._show(folder, entry, None)

    def add_folder(self, parent: Folder, name: str, kind: Kind = Kind.UNBORN) -> Folder:
        """Add a folder made by this mount to a directory, or use the one that the system offers there."""
        offered = parent.unlisted.get(name)
        folder = offered if isinstance(offered, Folder) else Folder(name, parent, kind)
        folder.kind = kind
        self.attach(folder, parent, name)
        return folder

    @staticmethod
    def add_view(parent: Folder, name: str, text: bytes) -> Node:
        """Add an unlisted file with a text of labfs's own to a directory, and return it."""
        node = parent.unlisted[name] = Node(name, parent, Kind.VIEW)
        node.text = text
        return node

    @staticmethod
    def attach(node: Node, parent: Folder, name: str) -> None:
        """Put a node into a directory under a name, in place of any node of that name."""
        node.name, node.parent = name, parent
        parent.children[name] = node
        parent.hidden.pop(name, None)
        if not parent.is_root and parent.parent.unlisted.get(parent.name) is parent:
            parent.parent.children[parent.name] = parent.parent.unlisted.pop(parent.name)  # it is in use now

    @staticmethod
    def detach(node: Node) -> None:
        """Remove a node from its directory; open handles keep the node."""
        if node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]

    def unlink(self, node: Node) -> None:
        """Remove a file from the tree for good."""
        self.detach(node)
        node.unlinked = True

    @contextmanager
    def taking(self, node: Node, there: Node | None, into: Folder, new: str) -> Iterator[None]:
        """Give a file that is being written the path and the entry of another; on an error in the block undo both.

        The entry is that of the file that has the name, or had it until it was moved aside. A cancellation, at the end
        of the mount, undoes nothing: the next mount finds out what was sent.
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

    def bury(self, parent: Folder, entry: Entry) -> None:
        """Leave a deleted entry out of listings, in which it may stay until the system has deleted it."""
        parent.container.gone.add((entry.id, entry.version))
        self._lister.changed(parent)

    def bury_hidden(self, parent: Folder, name: str, entry: Entry) -> None:
        """Do the same for a deleted file that was hidden under a name."""
        parent.hidden.pop(name, None)
        self.bury(parent, entry)

    def doom(self, site: str, number: str) -> None:
        """Leave an entry out of listings, since another has replaced it and it is about to be deleted."""
        self._lister.doomed[site].add(number)

    def spare(self, site: str, number: str) -> None:
        """Undo `doom`: show an entry again if it is listed."""
        self._lister.doomed[site].discard(number)

    # -- what a node is --------------------------------------------------------------------------------

    @staticmethod
    def stay(node: Node) -> None:
        """Make a node local: it stays on this machine."""
        node.kind = Kind.SCRATCH

    @staticmethod
    def leave(node: Node) -> None:
        """Make a local node one of its server's again: an existing file if it has an entry, else a new one."""
        node.kind = Kind.UNBORN if node.entry is None else Kind.SERVER

    def take(self, node: Node, entry: Entry | None) -> None:
        """Set a file's entry, over which its next save goes; None makes it a new file."""
        node.entry = entry
        self.leave(node)
        if node.writer is not None:
            node.writer.opened = entry

    # -- what is known of its bytes --------------------------------------------------------------------

    def saved(self, node: Node, entry: Entry, over: Entry | None) -> None:
        """Show a file that was saved here as `entry`, perhaps `over` another, before a listing shows it."""
        self._show(node, entry, over)
        node.saves += 1

    def renamed(self, node: Node, entry: Entry, over: Entry | None, before: Folder) -> None:
        """Show a file that was renamed on the server, where it perhaps replaced `over`, and was in `before`."""
        self._lister.changed(before)
        self._show(node, entry, over)
        if node.writer is not None and node.writer.opened is not None:
            node.writer.opened = entry  # the file being written is saved under the new name

    def arrived(self, node: Node, entry: Entry, over: Entry) -> None:
        """Show a save that an earlier mount began, and that the server has as `entry`."""
        self._show(node, entry, over)
        self.expire(node)

    def _show(self, node: Node, entry: Entry, over: Entry | None) -> None:
        node.entry, node.kind, node.committed_at = entry, Kind.SERVER, trio.current_time()
        node.parent.container.recent[entry.id] = node
        self._seen.saved(node.site.name, entry, over)
        self._date(node, entry)
        self._lister.changed(node.parent)
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
        """Show the date, in nanoseconds, that a user set; remember the date if the server has none."""
        node.modified_ns = date
        if node.entry is not None and (node.writer is None or not node.writer.dirty):
            self._seen.dates.set(node.site.name, node.entry, date)

    @staticmethod
    def distrust(node: Node) -> None:
        """Accept a listing that does not show a file saved here: its bytes are not there any more."""
        lister.distrust(node)

    @staticmethod
    def written(node: Node) -> None:
        """Drop the date that a user set: the file has the date of its last write from now on."""
        node.modified_ns = None

    @staticmethod
    def set_writer(node: Node, writer: Writer | None) -> None:
        """Set the writer of a file; None ends the writing."""
        node.writer = writer

    @staticmethod
    def changed(node: Node) -> None:
        """Mark the kernel's cached pages of a file as invalid: its bytes were changed by others."""
        node.generation += 1

    def measured(self, node: Node, entry: Entry, size: int | None, least: int = 1) -> None:
        """Record the size of an entry, in bytes, or the lower bound `least`."""
        node.least = least
        if size is not None and node.entry is entry:
            node.entry = self.measuring.learnt(node.site.key, entry, size)

    @staticmethod
    def sized(node: Node, entry: Entry, size: int) -> None:
        """Show the size, in bytes, that an entry without a version had just now; not stored for the next mount."""
        if node.entry is entry:
            node.entry = replace(entry, size=size)

    @staticmethod
    def troubled(node: Node, error: LabfsError | None) -> None:
        """Record why the size of a file, and so its bytes, cannot be read; None if they can."""
        node.trouble = error
