"""Open files: reading, writing, and the save that a close means.

A file that is being written has one writer, shared by all its handles, and everybody on this machine
reads from it. When the last handle that could write is closed the writer goes: its bytes are on the
server then, or in the outbox.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import partial
from typing import Any

import trio

from labfs import names, rules
from labfs.backend import Accept, Buffer, Entry, Target
from labfs.conflicts import unchanged
from labfs.errors import Exists, Invalid, IsDirectory, LabfsError
from labfs.reader import Reader, Readers
from labfs.reasons import Reasons
from labfs.sources import Sources, View
from labfs.spool import Spool
from labfs.tree import Node, Tree
from labfs.waiting import Waiting, begun_on
from labfs.writer import Writer

log = logging.getLogger(__name__)


class Handle:
    """One open file."""

    def __init__(self, node: Node, *, readable: bool, writable: bool, append: bool) -> None:
        self.node = node
        self.readable = readable
        self.writable = writable
        self.append = append
        self.view: View | None = None  # of what the server has, once it is read


class Files:
    """The open files of a tree; `spool` takes what is written to them."""

    def __init__(self, tree: Tree, readers: Readers, spool: Spool, reasons: Reasons) -> None:
        self.spool = spool
        self.sources = Sources(tree, readers)
        self._tree = tree
        self._reasons = reasons
        self._handles: defaultdict[Node, set[Handle]] = defaultdict(set)
        self._writing: set[Node] = set()
        self._untold: dict[str, LabfsError] = {}  # path → why a save failed after its close had been answered
        self.waiting = Waiting(spool)

    async def open(
        self, node: Node, *, read: bool, write: bool, truncate: bool = False, append: bool = False
    ) -> Handle:
        """Open a file. What would make every read or write fail is raised here."""
        if node.is_dir:
            raise IsDirectory(f"“{node.name}” is a directory.")
        write = write or truncate  # an open that only truncates is a change too, which its close saves
        handle = Handle(node, readable=read, writable=write, append=append)
        if write:
            self._tell(node.path)
            rules.check_writable(node)
            # From now on nobody else's release ends the writing.
            self._handles[node].add(handle)
            try:
                await self._begin_writing(node, truncate)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self.release(handle)
                raise
        elif node.text is None and node.writer is None:
            handle.view = View(self.sources, node)
            await handle.view.open()
        self._handles[node].add(handle)
        return handle

    async def create(
        self,
        parent: Node,
        name: str,
        *,
        program: str = "",
        exclusive: bool = False,
        truncate: bool = False,
        append: bool = False,
    ) -> Handle:
        """Make a file and open it for reading and writing; the server hears of it at the commit."""
        known = (await self._tree.children(parent)).get(name)
        if known is not None and exclusive:
            raise Exists(f"There already is a “{name}” in {parent.path}.")
        if known is not None:
            return await self.open(known, read=True, write=True, truncate=truncate, append=append)
        local = rules.stays_local(parent, name, program)
        if not local:
            self._tell(f"{parent.path.rstrip('/')}/{name}")
            names.for_saving(name)
            rules.check_holds(parent, Accept.FILE, name)
            rules.check_room(parent, name)
        node = Node(name, parent, parent.site, is_dir=False, local=local)
        # What was moved aside as a backup is what this save takes the place of.
        replaces = None if local else parent.hidden.get(name)
        if replaces is not None:
            rules.check_replaces(node)
        self.attach_writer(node, None, replaces)
        self._tree.attach(node, parent, name)
        handle = Handle(node, readable=True, writable=True, append=append)
        self._handles[node].add(handle)
        return handle

    async def read(self, handle: Handle, offset: int, size: int) -> Buffer:
        """Return `size` bytes, fewer only at the end of the file."""
        node = handle.node
        if node.text is not None:
            return node.text[offset : offset + size]
        handle.view = handle.view or View(self.sources, node)
        if node.writer is not None:
            handle.view.shown = True
            return await node.writer.read(offset, size)
        return await handle.view.read(offset, size)

    async def write(self, handle: Handle, offset: int, data: bytes, *, placed: bool = False) -> int:
        """Write at `offset`; at the end through a handle that appends, unless the bytes have their place."""
        node = handle.node
        if node.writer is None or not handle.writable:
            raise Invalid(f"“{node.name}” is not open for writing.")
        node.modified_ns = None
        start = node.writer.size if handle.append and not placed else offset
        try:
            rules.check_size(node, start + len(data))
            return await node.writer.write(start, data)
        except BaseException as error:  # one that was too late as well
            node.writer.lose(start, error)
            raise

    async def truncate(self, node: Node, size: int) -> None:
        """Set a file's length; saved at once if nobody has it open for writing."""
        if node.is_dir:
            raise IsDirectory(f"“{node.name}” is a directory.")
        handle = await self.open(node, read=False, write=True, truncate=size == 0)
        try:
            await self.resize(node, size)
            if self.writers(node) == 1:
                await self.commit(node)
        finally:
            await self.release(handle)

    async def resize(self, node: Node, size: int) -> None:
        """Set the length of a file that is being written."""
        assert node.writer is not None
        try:
            rules.check_size(node, size)
            await node.writer.truncate(size)
        except (LabfsError, OSError) as error:
            node.writer.lose(node.writer.size, error)
            raise

    async def flush(self, handle: Handle, *, shared: bool) -> None:
        """Save what was written, unless other descriptors still `share` this handle's open file."""
        if handle.writable and not shared:
            await self.commit(handle.node)

    async def fsync(self, handle: Handle) -> None:
        """Make what was written so far survive a power cut, in the spool."""
        if handle.node.writer is not None:
            await handle.node.writer.sync()

    async def release(self, handle: Handle) -> None:
        """Close for good. Late writes (a memory map's) are saved; a save that failed keeps its bytes."""
        node = handle.node
        self._handles[node].discard(handle)
        if handle.writable and not self.writers(node):
            await self._finish_writing(node)
        if self._handles[node]:
            return
        del self._handles[node]
        if node.unlinked:
            self.discard(node)
        elif node.writer is not None:
            node.writer.spool.close()  # a file that stays local: it must not hold a descriptor for ever

    def writers(self, node: Node) -> int:
        """Return how many handles may write to a file."""
        return sum(handle.writable for handle in self._handles.get(node, ()))

    # -- saving --------------------------------------------------------------------------------------

    async def commit(self, node: Node) -> None:
        """Bring a written file to its server. Raises what made that fail; the bytes stay in the spool."""
        writer = node.writer
        if writer is None or node.local or node.unlinked or not writer.dirty:
            return
        assert node.site is not None
        target = self._target(node, writer)

        async def aim() -> Target:
            nonlocal target
            target = await unchanged(node, self._target(node, writer))
            await self._keep_backups(node, target.replaces)
            return target

        try:
            entry = await writer.commit(node.site.backend, aim)
        except Exception as error:
            writer.error = error
            self._reasons.note(node.path, error)
            raise
        if entry is not None:
            self.waiting.supersede(node.path, writer.spool.path)
            if target.replaces is not None and rules.deletes_old(node):
                self._tree.bury(node, target.replaces)
            node.entry = entry
            node.saves += 1
            node.committed_at = trio.current_time()
            self._reasons.forget(node.path)

    def _tell(self, path: str) -> None:
        """Raise, once, why an earlier save failed that nobody could be told about any more."""
        error = self._untold.pop(path, None)
        if error is not None:
            raise type(error)(f"The last save failed after it was closed: {error}")

    def unsaved(self) -> list[Node]:
        """Return the files whose bytes no server has yet."""
        return [node for node in self._writing if node.writer and node.writer.dirty and not node.local]

    def local(self) -> list[Node]:
        """Return the files that stay on this machine."""
        return [node for node in self._writing if node.local]

    async def finish(self, seconds: float) -> None:
        """Save what is closed and not saved, for at most so long; the bytes of the rest stay in the spool.

        What a program still has open is not a whole file, and so it is not saved as one.
        """
        with trio.move_on_after(max(seconds, 0.0)):  # the time may be over
            for node in self.unsaved():
                if not self.writers(node):
                    await self._try_commit(node)
        for node in list(self._writing):
            if node.writer is not None and node.writer.dirty and not node.local and not node.unlinked:
                await self._set_aside(node, node.writer)
            else:
                self.discard(node)
        self.waiting.settle()

    async def _begin_writing(self, node: Node, truncate: bool) -> None:
        while node.writer is None:
            entry = node.entry
            if truncate or entry is None or entry.size == 0:
                self.attach_writer(node, None)
                return
            base, entry = await self.sources.begin(node)
            if node.writer is None and node.entry is entry:  # nobody came first while it was prepared
                self.attach_writer(node, base)
        if truncate:
            await node.writer.truncate(0)

    async def _finish_writing(self, node: Node) -> None:
        writer = node.writer
        if writer is None or node.local or node.unlinked:
            return
        if writer.dirty and writer.error is None:
            await self._try_commit(node)
            if isinstance(writer.error, LabfsError):
                self._untold[node.path] = writer.error
        await self._let_go(node, writer)

    async def send(self, node: Node) -> bool:
        """Save a file that nobody has open; false if that failed for a while, and its bytes wait again."""
        writer = node.writer
        assert writer is not None
        await self._try_commit(node)
        await self._let_go(node, writer)
        return not _passing(writer)

    async def _let_go(self, node: Node, writer: Writer) -> None:
        """Take the writer off a file, unless that was opened again meanwhile; what is not saved goes to the outbox."""
        if node.writer is not writer or self.writers(node):
            return
        if writer.dirty:
            await self._set_aside(node, writer)
        else:
            self.discard(node)

    async def _try_commit(self, node: Node) -> None:
        try:
            await self.commit(node)
        except (LabfsError, OSError) as error:
            log.error("%s could not be saved: %s", node.path, error)
        except Exception:
            log.exception("%s could not be saved; this is a mistake in labfs", node.path)

    async def _set_aside(self, node: Node, writer: Writer) -> None:
        """Keep the bytes of a save that failed, and show again what the server has."""
        node.writer = None
        self._writing.discard(node)
        if node.entry is None:
            self._tree.detach(node)
        node.generation += 1
        self._tree.expire(node.parent or node)
        reason = str(writer.error or "it was still being written when labfs ended")
        # An upload that was broken off by a shutdown goes on with the next mount.
        closed = not self.writers(node) or writer.spool.note["state"] == "sending"
        passing = _passing(writer) or (writer.error is None and closed)
        if not writer.size and not passing:
            writer.spool.discard()
            return
        if passing:
            self.waiting.supersede(node.path, writer.spool.path)
        path = node.path
        news = {"path": path, "state": "waiting" if passing else "failed", "error": reason}
        try:
            writer.describe(**news)  # at once: a newer save must find it
            self.waiting.forget()
            await trio.to_thread.run_sync(writer.spool.sync)
        except OSError as error:
            log.error("The note of %s cannot be written: %s", writer.spool.path, error)
            self.waiting.owe(writer.spool, path, partial(writer.keep, **news))
        writer.spool.close()
        self.waiting.changed()
        if node.unlinked or node.path != path:
            self.waiting.supersede(path, None, "the file was removed or renamed since")
        log.error("%s was not saved (%s); its bytes are in %s.", node.path, reason, writer.spool.path)

    def attach_writer(self, node: Node, base: Reader | None, replaces: Entry | None = None) -> None:
        """Begin to write a file, on top of what `base` reads or from nothing."""
        assert node.site is not None
        lacks, opened = base.size if base else 0, node.entry or replaces
        spool = self.spool.create(node.site.name, node.path, local=node.local, lacks=lacks, **begun_on(opened))
        node.writer = Writer(spool, base, opened)
        self._writing.add(node)

    async def _keep_backups(self, node: Node, replaced: Entry | None) -> None:
        """Give a backup, so far a view of the file that is replaced now, bytes of its own."""
        if replaced is None or node.parent is None or not (rules.destroys_old(node) or rules.deletes_old(node)):
            return
        for other in list(node.parent.children.values()):
            if other.local and other.writer is None and other.entry is not None and other.entry.id == replaced.id:
                self.attach_writer(other, await self.sources.open(other))
                assert other.writer is not None
                await other.writer.fill()

    def resume(self, node: Node, note: dict[str, Any], base: Reader | None, opened: Entry | None) -> None:
        """Go on with an earlier save of a file, whose bytes everybody here sees from now on."""
        node.writer = Writer.adopted(self.spool.reopen(note), base, opened)
        node.generation += 1  # the kernel's pages are of what the server had
        self._writing.add(node)

    def relabel(self, node: Node, **news: Any) -> None:
        """Write down where the bytes of a file belong now that its name has changed."""
        if node.writer is not None:
            state = "local" if node.local else "writing"
            begun = begun_on(node.writer.opened)
            node.writer.spool.describe(**{"path": node.path, "state": state, **begun, **news})

    def discard(self, node: Node) -> None:
        """Forget what was written to a file, but not the bytes of a save that failed."""
        if node.writer is not None:
            spool = node.writer.spool
            spool.close() if spool.note["state"] == "failed" else spool.discard()
            node.writer = None
        self._writing.discard(node)

    def _target(self, node: Node, writer: Writer) -> Target:
        assert node.parent is not None
        home = node.parent.home
        assert home.entry is not None
        opened = writer.opened
        if opened is not None:
            return Target(home.entry, opened.folders, opened.name, opened)
        return Target(home.entry, node.parent.folders, names.original(node.name))

    def drop(self, node: Node) -> None:
        """Take a file out of the tree; its bytes live on while it is open."""
        self._tree.detach(node)
        node.unlinked = True
        if not self._handles.get(node):
            self.discard(node)


def _passing(writer: Writer) -> bool:
    """Whether waiting may mend what made a save fail: a site that is away, or this machine's full disk."""
    error = writer.error
    return error.transient if isinstance(error, LabfsError) else isinstance(error, OSError) and writer.whole
