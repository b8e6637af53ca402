"""Open files: reading, writing, and closing.

A file that is being written has one writer, shared by all its handles, and everybody on this machine
reads from it. When the last handle that could write is closed the writer goes: its bytes are on the
server then, or in the outbox (`saves`).

Tests: core/test_vfs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import trio

from labfs.backend import Accept, Buffer
from labfs.errors import Empty, Exists, Invalid, IsDirectory, LabfsError, Stale
from labfs.errors.reasons import Reasons
from labfs.read.readers import Readers
from labfs.tree import names
from labfs.tree.node import Folder, Kind, Node
from labfs.tree.tree import Tree
from labfs.vfs import policy
from labfs.vfs.drafts.life import Drafts
from labfs.vfs.drafts.signs import NOBODY, Known, Maker
from labfs.vfs.leases import Leases
from labfs.vfs.outbox.yours import Yours
from labfs.vfs.remote.ahead import Ahead
from labfs.vfs.remote.sources import Sources
from labfs.vfs.remote.view import View
from labfs.vfs.saves import Saves
from labfs.write.spool import Spool


class Handle:
    """One open file."""

    def __init__(self, node: Node, *, readable: bool, writable: bool, append: bool) -> None:
        self.node = node
        self.readable = readable
        self.writable = writable
        self.append = append
        self.pid = 0  # of the process that opened the file, where known
        self.view: View | None = None  # of the server's version, once the handle is read


class Files:
    """The open files of a tree; `spool` takes what is written to them."""

    def __init__(
        self,
        nursery: trio.Nursery,
        tree: Tree,
        readers: Readers,
        spool: Spool,
        reasons: Reasons,
        known: Known,
        draft_s: float,
        leases: Leases,
    ) -> None:
        self.sources = Sources(tree, readers)
        self.ahead = Ahead(nursery, self.sources)
        self.saves = Saves(nursery, tree, self.sources, spool, reasons, self.writers, leases)
        self.yours = Yours(tree, self.saves.waiting)
        self.drafts = Drafts(tree, self.saves, self.sources, known, draft_s)
        self.given = 0  # bytes of servers' versions that programs were given since the mount
        self._tree = tree
        self._leases = leases
        self._handles: defaultdict[Node, set[Handle]] = defaultdict(set)

    async def open(
        self, node: Node, *, read: bool, write: bool, truncate: bool = False, append: bool = False
    ) -> Handle:
        """Open a file and return its handle. Raises an error that would make every read or write fail."""
        if node.is_dir:
            raise IsDirectory(f"“{node.name}” is a directory.")
        write = write or truncate  # an open that only truncates is a change too, which its close saves
        await self._known(node, write=write)
        handle = Handle(node, readable=read, writable=write, append=append)
        if write:
            self._raise_untold(node.path)
            policy.check_writable(node)
            # From now on the release of another handle does not end the writing.
            self._handles[node].add(handle)
            try:
                await self._begin_writing(node, truncate)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self.release(handle)
                raise
        elif not node.is_view and node.writer is None:
            self.ahead.opened(node)
            handle.view = View(self.sources, node)
            await handle.view.open()
        self._handles[node].add(handle)
        self.drafts.used(node)
        return handle

    async def _known(self, node: Node, *, write: bool) -> None:
        """Wait until the listing suffices to open a file. Raises NotYet, and Stale for a file that is gone."""
        if node.unlinked or node.stays_here or node.writer is not None:
            return
        parent = node.parent
        await (self._tree.whole(parent) if write else self._tree.openable(node))
        if write and not parent.has(node):
            raise Stale(f"“{node.name}” is not there any more.")

    async def create(
        self,
        parent: Folder,
        name: str,
        *,
        maker: Maker = NOBODY,
        truncate: bool = False,
        append: bool = False,
    ) -> Handle:
        """Create a file and open it for reading and writing; it is created on the server at the commit."""
        await self._tree.whole(parent)
        children = await self._tree.children(parent)
        name = parent.spelled(name)
        known = children.get(name)
        if known is not None and maker.exclusive:
            raise Exists(f"There already is a “{name}” in {parent.path}.")
        if known is not None:
            return await self.open(known, read=True, write=True, truncate=truncate, append=append)
        local = policy.stays_local(parent, name, maker.program)
        kind = None if local else self.drafts.judge(parent, name, maker)
        if not local:
            self._raise_untold(f"{parent.path.rstrip('/')}/{name}")
            names.for_saving(name)
            policy.check_holds(parent, Accept.FILE, name)
        if not local and kind is None:  # a draft may be written beside the only file that has room
            policy.check_room(parent, name)
        node = Node(name, parent, Kind.SCRATCH if local else Kind.UNBORN)
        if kind is None:
            await self._leases.take(node)
            if name in parent.children:  # made meanwhile
                self._leases.end(node)
                return await self.create(parent, name, maker=maker, truncate=truncate, append=append)
        # A file that was moved aside as a backup is the one that this save replaces.
        hidden = None if local else parent.hidden.get(name)
        if hidden is not None:
            policy.check_replaces(node)
        self.saves.begin(node, None, hidden.entry if hidden else None)
        self._tree.attach(node, parent, name)
        if hidden is None:
            self.drafts.made(node, kind, maker)
        handle = Handle(node, readable=True, writable=True, append=append)
        self._handles[node].add(handle)
        return handle

    def held(self) -> Iterable[Folder]:
        """Return the directories with whose listings open files came."""
        return [node.container for node, handles in self._handles.items() if handles]

    def forgotten(self, nodes: Iterable[Node]) -> None:
        """Nothing to do: no file of these is open."""

    async def read(self, handle: Handle, offset: int, size: int) -> Buffer:
        """Return `size` bytes, fewer only at the end of the file."""
        node = handle.node
        if node.kind is Kind.VIEW:
            return node.text[offset : offset + size]
        if node.kind is Kind.YOURS:
            return await self.yours.read(node, offset, size)
        handle.view = handle.view or View(self.sources, node)
        if node.writer is not None:
            handle.view.shown = True
            return await node.writer.read(offset, size)
        data = await handle.view.read(offset, size, glance=self.ahead.glances(node))
        self.given += len(data)
        self.ahead.reached(node, offset + len(data))
        return data

    def at_hand(self, handle: Handle, offset: int, size: int) -> Buffer | None:
        """Return `size` bytes, or fewer, of the block that was read last; None if something has to be waited for."""
        if handle.view is None or handle.node.writer is not None:
            return None
        data = handle.view.at_hand(offset, size)
        if data is not None:
            self.given += len(data)
            self.ahead.reached(handle.node, offset + len(data))
        return data

    async def write(self, handle: Handle, offset: int, data: bytes, *, placed: bool = False) -> int:
        """Write at `offset`, or at the end through an appending handle, unless the bytes are `placed`."""
        node = handle.node
        if node.writer is None or not handle.writable:
            raise Invalid(f"“{node.name}” is not open for writing.")
        self._tree.written(node)
        start = node.writer.size if handle.append and not placed else offset
        try:
            policy.check_size(node, start + len(data))
            return await node.writer.write(start, data)
        except BaseException as error:  # also a cancellation
            node.writer.lose(start, len(data), error)
            raise

    async def truncate(self, node: Node, size: int) -> None:
        """Set a file's length in bytes; saved at once if no other handle has the file open for writing."""
        if node.is_dir:
            raise IsDirectory(f"“{node.name}” is a directory.")
        if node.writer is None:
            policy.check_size(node, size)  # before a writer exists, so that the caller gets the error once
        handle = await self.open(node, read=False, write=True, truncate=size == 0)
        try:
            await self.resize(node, size)
            if self.writers(node) == 1:
                await self._save(node)
        finally:
            await self.release(handle)

    async def resize(self, node: Node, size: int) -> None:
        """Set the length, in bytes, of a file that is being written."""
        writer = node.writer
        if writer is None:
            raise Invalid(f"“{node.name}” is not open for writing.")
        try:
            policy.check_size(node, size)
            await writer.truncate(size)
        except (LabfsError, OSError) as error:
            writer.refuse(error)
            raise

    async def flush(self, handle: Handle, *, shared: bool, killed: bool = False) -> None:
        """Save what was written, unless other descriptors still share this handle's open file (`shared`).

        What a `killed` process wrote may be incomplete, and is not saved.
        """
        node = handle.node
        if killed and handle.writable and not shared:
            if self.writers(node) == 1:
                self.saves.abandon(node)
        elif handle.writable and not shared:
            await self._save(node)

    async def _save(self, node: Node) -> None:
        """Save a file that was closed, unless it is a draft."""
        if self.drafts.closed(node):
            return
        try:
            await self.saves.save(node)
        except Empty:
            if not self.drafts.refused(node):
                raise

    async def fsync(self, handle: Handle) -> None:
        """Sync to disk what was written to the spool so far, so that it survives a power cut."""
        if handle.node.writer is not None:
            await handle.node.writer.sync()

    async def release(self, handle: Handle) -> None:
        """Close a handle for good. Late writes (of a memory map) are saved; the bytes of a failed save are stored."""
        node = handle.node
        self._handles[node].discard(handle)
        self.drafts.used(node)
        if handle.writable and not self.writers(node):
            await self.saves.finish_writing(node)
            if node.writer is None and not self.writers(node):  # also where the writing could not begin
                self._leases.end(node)
        if self._handles[node]:
            return
        del self._handles[node]
        if node.unlinked:
            self.saves.discard(node)
        elif node.writer is not None:
            node.writer.spool.close()  # of a file that stays local: it must not hold a descriptor for ever

    def writers(self, node: Node) -> int:
        """Return how many handles may write to a file."""
        return sum(handle.writable for handle in self._handles.get(node, ()))

    def _raise_untold(self, path: str) -> None:
        """Raise, once, the error of an earlier save that failed after its close had been answered."""
        error = self.saves.untold.pop(path, None)
        if error is not None:
            raise type(error)(f"The last save failed after it was closed: {error}")

    async def _begin_writing(self, node: Node, truncate: bool) -> None:
        await self._leases.take(node)
        while node.writer is None:
            entry = node.entry
            if truncate or entry is None or entry.size == 0:
                self.saves.begin(node, None)
                return
            base, entry = await self.sources.begin(node)
            if node.writer is None and node.entry is entry:  # no other task began while the reader was prepared
                self.saves.begin(node, base)
        if truncate:
            await node.writer.truncate(0)

    def drop(self, node: Node) -> None:
        """Remove a file from the tree; its written bytes stay available while a handle has it open."""
        self._tree.unlink(node)
        self.drafts.forget(node)
        if not self._handles.get(node):
            self.saves.discard(node)
