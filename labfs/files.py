"""Open files: reading, writing, and the save that a close means.

A file that is being written has one writer, shared by all its handles, and everybody on this machine
reads from it. When the last handle that could write is closed the writer goes: its bytes are on the
server then, or in the outbox.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

import trio

from labfs import names, rules
from labfs.backend import Accept, Buffer, Target
from labfs.errors import Archived, Exists, Invalid, IsDirectory, LabfsError, NotFound
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
            handle.reader = self.reader(node)
            await handle.reader.prepare()
        self._handles[node].add(handle)
        return handle

    async def create(self, parent: Node, name: str, *, program: str = "", exclusive: bool = False) -> Handle:
        """Make a file and open it for reading and writing; the server hears of it at the commit."""
        known = (await self._tree.children(parent)).get(name)
        if known is not None and exclusive:
            raise Exists(f"There already is a “{name}” in {parent.path}.")
        if known is not None:
            return await self.open(known, read=True, write=True)
        local = rules.stays_local(parent, name, program)
        if not local:
            rules.check_holds(parent, Accept.FILE, name)
        node = Node(name, parent, parent.site, is_dir=False, local=local)
        self.attach_writer(node, None)
        self._tree.attach(node, parent, name)
        handle = Handle(node, readable=True, writable=True, append=False)
        self._handles[node].add(handle)
        return handle

    async def read(self, handle: Handle, offset: int, size: int) -> Buffer:
        """Return `size` bytes, fewer only at the end of the file."""
        node = handle.node
        if node.text is not None:
            return node.text[offset : offset + size]
        if node.writer is not None:
            handle.reader = None
            return await node.writer.read(offset, size)
        if handle.reader is None:
            handle.reader = self.reader(node)
        try:
            return await handle.reader.read(offset, size)
        except Damaged:
            node.generation += 1  # what the kernel cached of it must not be believed either
            raise

    async def write(self, handle: Handle, offset: int, data: bytes) -> int:
        node = handle.node
        if node.writer is None or not handle.writable:
            raise Invalid(f"“{node.name}” is not open for writing.")
        node.modified_ns = None
        return await node.writer.write(None if handle.append else offset, data)

    async def truncate(self, node: Node, size: int) -> None:
        """Set a file's length; saved at once if nobody has it open for writing."""
        if node.is_dir:
            raise IsDirectory(f"“{node.name}” is a directory.")
        handle = await self.open(node, read=False, write=True, truncate=size == 0)
        try:
            assert node.writer is not None
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
        handles = self._handles[node]
        handles.discard(handle)
        if handle.writable and not self.writers(node):
            await self._finish_writing(node)
        if not self._handles[node]:
            del self._handles[node]
            if node.unlinked:
                self.discard(node)

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
        try:
            entry = await writer.commit(node.site.backend, self._target(node))
        except (LabfsError, OSError) as error:
            self._reasons.note(node.path, error)
            raise
        if entry is not None:
            node.entry = entry
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
        """Save what is still unsaved, for at most so long; the bytes of what is not stay in the spool."""
        with trio.move_on_after(seconds):
            for node in self.unsaved():
                try:
                    await self.commit(node)
                except (LabfsError, OSError) as error:
                    log.error("%s could not be saved: %s", node.path, error)
        for node in list(self._writing):
            if node.writer is not None and node.writer.dirty and not node.local:
                self._set_aside(node, node.writer)
            else:
                self.discard(node)

    async def _begin_writing(self, node: Node, truncate: bool) -> None:
        if node.writer is None:
            base = None if truncate or node.entry is None or not node.entry.size else self.reader(node)
            if base is not None:
                await base.prepare()
        if node.writer is None:  # still: nobody else came first while the base was prepared
            self.attach_writer(node, base)
            assert node.writer is not None
            node.writer.dirty = truncate or node.entry is None
        elif truncate:
            await node.writer.truncate(0)
        for handle in self._handles.get(node, ()):
            handle.reader = None

    async def _finish_writing(self, node: Node) -> None:
        writer = node.writer
        if writer is None or node.local or node.unlinked:
            return
        if writer.dirty and writer.error is None:
            try:
                await self.commit(node)
            except (LabfsError, OSError) as error:
                log.error("%s was closed but could not be saved: %s", node.path, error)
        if node.writer is not writer or self.writers(node):
            return  # opened again meanwhile
        if writer.dirty:
            self._set_aside(node, writer)
        else:
            self.discard(node)

    def _set_aside(self, node: Node, writer: Writer) -> None:
        """Keep the bytes of a save that failed, and show again what the server has."""
        assert node.site is not None
        if writer.size:
            note = {"site": node.site.name, "path": node.path, "state": "failed", "error": str(writer.error)}
            writer.spool.describe(note)
            writer.spool.sync()
            writer.spool.close()
            log.error("%s was not saved (%s); its bytes are in %s.", node.path, writer.error, writer.spool.path)
            node.writer = None
        self.discard(node)
        if node.entry is None:
            self._tree.detach(node)
        node.generation += 1
        self._tree.expire(node.parent or node)

    def attach_writer(self, node: Node, base: Reader | None) -> None:
        """Begin to write a file, on top of what `base` reads or from nothing."""
        assert node.site is not None
        node.writer = Writer(self.spool.create(node.site.name, node.path, local=node.local), base)
        self._writing.add(node)

    def discard(self, node: Node) -> None:
        """Forget what was written to a file."""
        if node.writer is not None:
            node.writer.spool.discard()
            node.writer = None
        self._writing.discard(node)

    def reader(self, node: Node) -> Reader:
        """Return a reader of what the server has. Raises Archived for what it cannot give now."""
        if node.entry is None or node.site is None:
            raise NotFound(f"“{node.name}” is not on the server any more.")
        if node.entry.unreadable:
            raise Archived(node.entry.unreadable)
        return self._readers.open(node.site.name, node.site.backend, node.entry)

    def _target(self, node: Node) -> Target:
        assert node.parent is not None
        container = node.parent.container
        assert container.entry is not None
        return Target(container.entry, node.parent.folders, names.original(node.name))

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
