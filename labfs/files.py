"""Open files: reading, writing, and the save that a close means.

A file that is being written has one writer, shared by all its handles, and everybody on this machine
reads from it. When the last handle that could write is closed the writer goes: its bytes are on the
server then, or in the outbox.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from labfs import names, rules
from labfs.backend import Accept, Buffer, Target
from labfs.errors import Archived, Exists, Invalid, IsDirectory, LabfsError, NotFound, Stale, Unavailable
from labfs.proof import Damaged
from labfs.reader import Reader, Readers
from labfs.reasons import Reasons
from labfs.spool import Spool
from labfs.tree import Node, Tree
from labfs.writer import Writer

log = logging.getLogger(__name__)


class Handle:
    """One open file. The version it reads is fixed when it is opened; saves made here move it along."""

    def __init__(self, node: Node, *, readable: bool, writable: bool, append: bool) -> None:
        self.node = node
        self.readable = readable
        self.writable = writable
        self.append = append
        self.reader: Reader | None = None
        self.saves = node.saves  # at which the reader was made


class Files:
    """The open files of a tree; `spool` takes what is written to them."""

    def __init__(self, tree: Tree, readers: Readers, spool: Spool, reasons: Reasons) -> None:
        self.spool = spool
        self._tree = tree
        self._readers = readers
        self._reasons = reasons
        self._handles: defaultdict[Node, set[Handle]] = defaultdict(set)
        self._writing: set[Node] = set()

    async def open(
        self, node: Node, *, read: bool, write: bool, truncate: bool = False, append: bool = False
    ) -> Handle:
        """Open a file. What would make every read or write fail is raised here."""
        if node.is_dir:
            raise IsDirectory(f"“{node.name}” is a directory.")
        handle = Handle(node, readable=read, writable=write, append=append)
        if write or truncate:
            rules.check_writable(node)
            await self._begin_writing(node, truncate)
        elif node.text is None and node.writer is None:
            handle.reader, handle.saves = await self._reader(node), node.saves
            await handle.reader.prepare()
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
            names.for_saving(name)
            rules.check_holds(parent, Accept.FILE, name)
            rules.check_room(parent, name)
        node = Node(name, parent, parent.site, is_dir=False, local=local)
        self.attach_writer(node, None)
        self._tree.attach(node, parent, name)
        handle = Handle(node, readable=True, writable=True, append=append)
        self._handles[node].add(handle)
        return handle

    async def read(self, handle: Handle, offset: int, size: int) -> Buffer:
        """Return `size` bytes, fewer only at the end of the file."""
        node = handle.node
        if node.text is not None:
            return node.text[offset : offset + size]
        if node.writer is not None:
            return await node.writer.read(offset, size)
        if handle.reader is None or handle.saves != node.saves:
            # Our own saves move a handle along; what others save does not.
            handle.reader, handle.saves = await self._reader(node), node.saves
        try:
            return await handle.reader.read(offset, size)
        except Damaged:
            node.generation += 1  # what the kernel cached of it must not be believed either
            raise
        except Stale:
            self._tree.expire(node)  # whoever opens it next sees what is there now
            raise

    async def write(self, handle: Handle, offset: int, data: bytes) -> int:
        node = handle.node
        if node.writer is None or not handle.writable:
            raise Invalid(f"“{node.name}” is not open for writing.")
        node.modified_ns = None
        start = node.writer.size if handle.append else offset
        try:
            rules.check_size(node, start + len(data))
            return await node.writer.write(start, data)
        except (LabfsError, OSError) as error:
            node.writer.lose(start, error)
            raise

    async def truncate(self, node: Node, size: int) -> None:
        """Set a file's length; saved at once if nobody has it open for writing."""
        if node.is_dir:
            raise IsDirectory(f"“{node.name}” is a directory.")
        handle = await self.open(node, read=False, write=True, truncate=size == 0)
        try:
            assert node.writer is not None
            rules.check_size(node, size)
            await node.writer.truncate(size)
            if self.writers(node) == 1:
                await self.commit(node)
        finally:
            await self.release(handle)

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
        target = self._target(node)
        try:
            entry = await writer.commit(node.site.backend, target)
        except Exception as error:
            self._reasons.note(node.path, error)
            raise
        if entry is not None:
            if target.replaces is not None and rules.deletes_old(node):
                self._tree.bury(node, target.replaces)
            node.entry = entry
            node.saves += 1
            node.committed_at = trio.current_time()
            self._reasons.forget(node.path)

    def unsaved(self) -> list[Node]:
        """Return the files whose bytes no server has yet."""
        return [node for node in self._writing if node.writer and node.writer.dirty and not node.local]

    def local(self) -> list[Node]:
        """Return the files that stay on this machine."""
        return [node for node in self._writing if node.local]

    def uploads(self) -> list[dict[str, Any]]:
        """Return what is on its way to a server, for people to look at; sizes in bytes."""
        return [
            {
                "path": node.path,
                "state": state(node),
                "size": node.writer.size,
                "sent": node.writer.sent,
                "error": self._reasons.of(node.path),
            }
            for node in self.unsaved()
            if node.writer is not None
        ]

    async def finish(self, seconds: float) -> None:
        """Save what is closed and not saved, for at most so long; the bytes of the rest stay in the spool.

        What a program still has open is not a whole file, and so it is not saved as one.
        """
        with trio.move_on_after(seconds):
            for node in self.unsaved():
                if not self.writers(node):
                    await self._try_commit(node)
        for node in list(self._writing):
            if node.writer is not None and node.writer.dirty and not node.local and not node.unlinked:
                await self._set_aside(node, node.writer)
            else:
                self.discard(node)

    async def _begin_writing(self, node: Node, truncate: bool) -> None:
        while node.writer is None:
            entry = node.entry
            if truncate or entry is None or entry.size == 0:
                self.attach_writer(node, None)
                return
            base = await self._reader(node)
            entry = node.entry  # with its size, which may have been learnt now
            await base.prepare()
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
        if node.writer is not writer or self.writers(node):
            return  # opened again meanwhile
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
        if not writer.size:
            writer.spool.discard()
            return
        reason = str(writer.error or "it was still being written when labfs ended")
        keep = partial(writer.keep, path=node.path, state="failed", error=reason)
        await trio.to_thread.run_sync(keep)
        writer.spool.close()
        log.error("%s was not saved (%s); its bytes are in %s.", node.path, reason, writer.spool.path)

    def attach_writer(self, node: Node, base: Reader | None) -> None:
        """Begin to write a file, on top of what `base` reads or from nothing."""
        assert node.site is not None
        lacks = base.size if base else 0
        node.writer = Writer(self.spool.create(node.site.name, node.path, local=node.local, lacks=lacks), base)
        self._writing.add(node)

    def relabel(self, node: Node, **news: Any) -> None:
        """Write down where the bytes of a file belong now that its name has changed."""
        if node.writer is not None:
            state = "local" if node.local else "writing"
            node.writer.spool.describe(**{"path": node.path, "state": state, **news})

    def discard(self, node: Node) -> None:
        """Forget what was written to a file, but not the bytes of a save that failed."""
        if node.writer is not None:
            spool = node.writer.spool
            spool.close() if spool.note["state"] == "failed" else spool.discard()
            node.writer = None
        self._writing.discard(node)

    async def measure(self, node: Node, *, surely: bool = False) -> None:
        """Learn a size that no listing told, without fetching much unless it must be known `surely`."""
        entry, site = node.entry, node.site
        if node.is_dir or node.writer is not None or entry is None or site is None:
            return
        if entry.size is not None or entry.unreadable:
            return
        try:
            size, node.least = await self._readers.size(site.name, site.backend, entry, surely=surely)
        except Unavailable:
            raise
        except LabfsError as error:
            if node.entry is entry:
                node.entry = replace(entry, size=0, unreadable=str(error))
            return
        if size is not None and node.entry is entry:
            node.entry = self._tree.measured(site.name, entry, size)

    def reader(self, node: Node) -> Reader:
        """Return a reader of what the server has, whose size is known.

        Raises Archived for what it cannot give now.
        """
        if node.entry is None or node.site is None:
            raise NotFound(f"“{node.name}” is not on the server any more.")
        if node.entry.unreadable:
            raise Archived(node.entry.unreadable)
        return self._readers.open(node.site.name, node.site.backend, node.entry)

    async def _reader(self, node: Node) -> Reader:
        """Return a reader of what the server has, after its size was learnt if need be."""
        entry, site = node.entry, node.site
        if entry is None or site is None or entry.version is not None or site.backend.capabilities.ranged:
            await self.measure(node, surely=True)
            return self.reader(node)
        if entry.unreadable:
            raise Archived(entry.unreadable)
        node.generation += 1  # nothing tells whether what the kernel kept is still so
        reader, size = await self._readers.snapshot(site.backend, entry)
        if node.entry is entry:
            node.entry = replace(entry, size=size)
        return reader

    def _target(self, node: Node) -> Target:
        assert node.parent is not None
        home = node.parent.home
        assert home.entry is not None
        if node.entry is not None:
            return Target(home.entry, node.entry.folders, node.entry.name, node.entry)
        return Target(home.entry, node.parent.folders, names.original(node.name))

    def drop(self, node: Node) -> None:
        """Take a file out of the tree; its bytes live on while it is open."""
        self._tree.detach(node)
        node.unlinked = True
        if not self._handles.get(node):
            self.discard(node)


def state(node: Node) -> str | None:
    """Say how far a file is: local, unsaved, uploading, saved or archived."""
    if node.is_dir or node.text is not None:
        return None
    if node.local:
        return "local"
    if node.writer is not None and (node.writer.dirty or node.writer.committing):
        return "uploading" if node.writer.committing else "unsaved"
    return "archived" if node.entry and node.entry.unreadable else "saved"
