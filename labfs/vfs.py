"""The file system, whatever door it is entered by: sites at the root, files read, written and saved.

It ties tree, reader and writer together and holds the rules between them: a file that is being written
shows its new bytes to everyone on this machine; a save is a commit; what cannot be done is refused with
the errno and the sentence that say why.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import trio

from labfs import names
from labfs.backend import Accept, Buffer, Entry, Site, Target
from labfs.blocks import Blocks
from labfs.errors import (
    Archived,
    CrossDevice,
    Exists,
    Invalid,
    IsDirectory,
    LabfsError,
    NotDirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    ReadOnly,
)
from labfs.proof import Damaged
from labfs.reader import Reader, Readers
from labfs.reasons import Reasons
from labfs.scratch import is_scratch
from labfs.spool import Spool
from labfs.tree import Node, Tree
from labfs.writer import Writer

log = logging.getLogger(__name__)

META = ".meta.json"  # unlisted: the system's own record of a directory, as JSON


@dataclass(frozen=True, slots=True)
class Attributes:
    is_dir: bool
    writable: bool
    size: int  # bytes
    modified_ns: int


class Handle:
    """One open file. The version it reads is fixed when it is opened; saves made here move it along."""

    def __init__(self, node: Node, *, readable: bool, writable: bool, append: bool) -> None:
        self.node = node
        self.readable = readable
        self.writable = writable
        self.append = append
        self.reader: Reader | None = None


class Vfs:
    """All mounted sites as one tree. Bytes are cached in `blocks` and written to `spool`."""

    def __init__(self, sites: Iterable[Site], blocks: Blocks, spool: Spool) -> None:
        self.sites = tuple(sites)
        self.tree = Tree(self.sites)
        self.blocks = blocks
        self.spool = spool
        self.reasons = Reasons()
        self._readers = Readers(blocks)
        self._handles: defaultdict[Node, set[Handle]] = defaultdict(set)
        self._writing: set[Node] = set()
        self._started_ns = time.time_ns()

    @property
    def root(self) -> Node:
        return self.tree.root

    # -- looking -------------------------------------------------------------------------------------

    async def lookup(self, parent: Node, name: str) -> Node:
        """Return what has that name in a directory. Raises NotFound."""
        if name == META and parent.entry is not None:
            return await self._meta(parent, parent.entry)
        return await self.tree.child(parent, name)

    async def resolve(self, path: str) -> Node:
        """Return the node at a path that starts at the mount point."""
        node = self.root
        for name in filter(None, path.split("/")):
            node = await self.lookup(node, name)
        return node

    async def list(self, node: Node) -> list[Node]:
        return list((await self.tree.children(node)).values())

    def attributes(self, node: Node) -> Attributes:
        entry = node.entry
        writable = self._why_read_only(node) is None
        if node.is_dir:
            modified = entry.modified_ns if entry else None
            return Attributes(True, writable, 0, node.modified_ns or modified or self._started_ns)
        if node.text is not None:
            return Attributes(False, False, len(node.text), self._started_ns)
        if node.writer is not None:
            changed = node.writer.modified_ns if node.writer.dirty or entry is None else entry.modified_ns
            return Attributes(False, writable, node.writer.size, node.modified_ns or changed or self._started_ns)
        assert entry is not None
        return Attributes(False, writable, entry.size or 0, node.modified_ns or entry.modified_ns or self._started_ns)

    def xattrs(self, node: Node) -> dict[str, str]:
        """Return what labfs knows of a node, as the extended attributes `user.labfs.*`."""
        entry = node.entry
        found = {
            "site": node.site.name if node.site else None,
            "kind": node.site.kind if node.site else None,
            "id": entry.label if entry else None,
            "name": entry.name if entry and entry.name != node.name else None,
            "url": entry.url if entry else None,
            "version": entry.version if entry else None,
            "checksum": entry.checksum if entry else None,
            "state": self._state(node),
            "error": self.reasons.of(node.path),
        }
        return {f"user.labfs.{name}": value for name, value in found.items() if value}

    def _state(self, node: Node) -> str | None:
        if node.is_dir or node.text is not None:
            return None
        if node.local:
            return "local"
        if node.writer is not None and (node.writer.dirty or node.writer.committing):
            return "uploading" if node.writer.committing else "unsaved"
        return "archived" if node.entry and node.entry.unreadable else "saved"

    async def _meta(self, parent: Node, entry: Entry) -> Node:
        assert parent.site is not None
        await self.tree.children(parent)
        if META not in parent.unlisted:
            record = await parent.site.backend.describe(entry)
            node = Node(META, parent, parent.site, is_dir=False, local=True)
            node.text = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")
            parent.unlisted[META] = node
        return parent.unlisted[META]

    # -- open files ----------------------------------------------------------------------------------

    async def open(
        self, node: Node, *, read: bool, write: bool, truncate: bool = False, append: bool = False
    ) -> Handle:
        """Open a file. What would make every read or write fail is raised here."""
        if node.is_dir:
            raise IsDirectory(f"“{node.name}” is a directory.")
        handle = Handle(node, readable=read, writable=write, append=append)
        if write or truncate:
            self._check_writable(node)
            await self._begin_writing(node, truncate)
        elif node.text is None and node.writer is None:
            handle.reader = self._reader(node)
            await handle.reader.prepare()
        self._handles[node].add(handle)
        return handle

    async def create(self, parent: Node, name: str, *, program: str = "", exclusive: bool = False) -> Handle:
        """Make a file and open it for reading and writing; the server hears of it at the commit."""
        known = (await self.tree.children(parent)).get(name)
        if known is not None and exclusive:
            raise Exists(f"There already is a “{name}” in {parent.path}.")
        if known is not None:
            return await self.open(known, read=True, write=True)
        local = self._stays_local(parent, name, program)
        if not local:
            self._check_holds(parent, Accept.FILE, name)
        node = Node(name, parent, parent.site, is_dir=False, local=local)
        self._attach_writer(node, None)
        self.tree.attach(node, parent, name)
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
            handle.reader = self._reader(node)
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
                self._discard(node)

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
            self.reasons.note(node.path, error)
            raise
        if entry is not None:
            node.entry = entry
            node.committed_at = trio.current_time()
            self.reasons.forget(node.path)

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
                "state": self._state(node),
                "size": node.writer.size,
                "sent": node.writer.sent,
                "error": self.reasons.of(node.path),
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
                self._discard(node)

    async def _begin_writing(self, node: Node, truncate: bool) -> None:
        if node.writer is None:
            base = None if truncate or node.entry is None or not node.entry.size else self._reader(node)
            if base is not None:
                await base.prepare()
        if node.writer is None:  # still: nobody else came first while the base was prepared
            self._attach_writer(node, base)
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
            self._discard(node)

    def _set_aside(self, node: Node, writer: Writer) -> None:
        """Keep the bytes of a save that failed, and show again what the server has."""
        assert node.site is not None
        note = {"site": node.site.name, "path": node.path, "state": "failed", "error": str(writer.error)}
        writer.spool.describe(note)
        writer.spool.sync()
        writer.spool.close()
        log.error("%s was not saved (%s); its bytes are kept in %s.", node.path, writer.error, writer.spool.path)
        node.writer = None
        self._writing.discard(node)
        if node.entry is None:
            self.tree.detach(node)
        node.generation += 1
        self.tree.expire(node.parent or node)

    def _attach_writer(self, node: Node, base: Reader | None) -> None:
        assert node.site is not None
        node.writer = Writer(self.spool.create(node.site.name, node.path), base)
        self._writing.add(node)

    def _discard(self, node: Node) -> None:
        if node.writer is not None:
            node.writer.spool.discard()
            node.writer = None
        self._writing.discard(node)

    def _reader(self, node: Node) -> Reader:
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

    # -- names ---------------------------------------------------------------------------------------

    async def mkdir(self, parent: Node, name: str) -> Node:
        """Make a directory: an entity on the server, a folder of files to come, or a local one."""
        if name in await self.tree.children(parent):
            raise Exists(f"There already is a “{name}” in {parent.path}.")
        node = Node(name, parent, parent.site, is_dir=True)
        if self._stays_local(parent, name, ""):
            node.local = True
        elif parent.entry is not None and Accept.DIRECTORY in parent.entry.accepts:
            self._check_holds(parent, Accept.DIRECTORY, name)
            assert parent.site is not None
            node.entry = await parent.site.backend.make(parent.entry, names.original(name))
            node.committed_at = node.listed_at = trio.current_time()
        else:
            self._check_holds(parent, Accept.FOLDER, name)
            node.made_here = True
        self.tree.attach(node, parent, name)
        return node

    async def rmdir(self, parent: Node, name: str) -> None:
        node = await self.tree.child(parent, name)
        if not node.is_dir:
            raise NotDirectory(f"“{name}” is not a directory.")
        if await self.tree.children(node):
            raise NotEmpty(f"“{name}” is not empty.")
        if node.entry is not None:
            raise NotPermitted(f"labfs does not delete projects or records, and so not “{name}”.")
        self.tree.detach(node)

    async def unlink(self, parent: Node, name: str) -> None:
        """Remove a file: from the server where that is allowed, a local one always."""
        node = await self.lookup(parent, name)
        if node.is_dir:
            raise IsDirectory(f"“{name}” is a directory.")
        if node.text is not None:
            raise NotPermitted(f"“{name}” is labfs's own view of a record.")
        if node.entry is not None and not node.local:
            await self._delete(node, node.entry)
        self._drop(node)

    async def _delete(self, node: Node, entry: Entry) -> None:
        assert node.site is not None
        site = node.site
        if not site.backend.capabilities.deletable:
            raise NotPermitted(f"{site.name} cannot delete a single file, and so not “{node.name}”.")
        if not site.may_delete:
            raise NotPermitted(f'Deleting is off for {site.name}; access = "full" in the configuration allows it.')
        await site.backend.delete(entry)

    def _drop(self, node: Node) -> None:
        self.tree.detach(node)
        node.unlinked = True
        if not self._handles.get(node):
            self._discard(node)

    async def rename(self, parent: Node, name: str, into: Node, new: str, *, replace: bool = True) -> None:
        """Move a name. A local file that gets an ordinary name is saved under it: the rename is the save."""
        node = await self.tree.child(parent, name)
        there = (await self.tree.children(into)).get(new)
        if there is node:
            return
        self._check_rename(node, there, into, new, replace)
        local = self._stays_local(into, new, "")
        if node.is_dir or local or self._unborn(node):
            self._move(node, there, into, new)
            node.local = local if not node.is_dir else node.local
            return
        if there is None and node.entry is not None and into.hidden.get(new) == node.entry.id:
            self._move(node, there, into, new)  # a backup that is put back
            node.local = False
            return
        self._check_holds(into, Accept.FILE, new)
        await self._save_as(node, there, into, new)

    def _unborn(self, node: Node) -> bool:
        """Whether a file was never saved and will be, under whatever name it has when it is closed."""
        return node.entry is None and not node.local

    def _check_rename(self, node: Node, there: Node | None, into: Node, new: str, replace: bool) -> None:
        if there is not None:
            if not replace:
                raise Exists(f"There already is a “{new}” in {into.path}.")
            if there.is_dir != node.is_dir:
                raise IsDirectory(f"“{new}” is a directory.") if there.is_dir else NotDirectory(f"“{new}” is a file.")
            if there.is_dir:
                raise NotEmpty(f"There already is a directory “{new}”.")
        if node.site is not into.site:
            raise CrossDevice(f"“{node.name}” and {into.path} are on different systems.")
        if node.text is not None:
            raise NotPermitted(f"“{node.name}” is labfs's own view of a record.")
        fixed = node.is_dir and not self._movable(node)
        if fixed or (node.entry is not None and not node.local and not self._stays_local(into, new, "")):
            assert node.site is not None
            if node.site.may_delete and node.site.backend.capabilities.deletable and not node.is_dir:
                raise CrossDevice(f"{node.site.name} cannot rename “{node.name}”; copy it, then delete it.")
            raise NotPermitted(f"{node.site.name} cannot rename or move “{node.name}”; copy it instead.")

    def _movable(self, node: Node) -> bool:
        """Whether nothing in a directory is on a server yet."""
        if node.entry is not None or not (node.local or node.made_here):
            return False
        return all(self._movable(child) if child.is_dir else child.local for child in node.children.values())

    def _move(self, node: Node, there: Node | None, into: Node, new: str) -> None:
        if there is not None:
            if there.entry is not None and not there.local:
                self.tree.hide(there)
            self._drop(there)
        if node.entry is not None and not node.local:
            self.tree.hide(node)
        else:
            self.tree.detach(node)
        self.tree.attach(node, into, new)

    async def _save_as(self, node: Node, there: Node | None, into: Node, new: str) -> None:
        """Save a local file under an ordinary name, over whatever is there; all of it or nothing."""
        parent, name = node.parent, node.name
        assert parent is not None
        if node.writer is None:
            self._attach_writer(node, self._reader(node))
        assert node.writer is not None
        node.writer.dirty = True
        if there is not None and there.writer is not None and not there.writer.committing:
            there.writer.dirty = False  # replaced as a whole: its own changes are void
        self.tree.detach(node)
        self.tree.attach(node, into, new)
        node.local = False
        if self.writers(node):
            return  # still being written: its close is the save
        try:
            await self.commit(node)
        except BaseException:
            node.local = True
            self.tree.detach(node)
            self.tree.attach(node, parent, name)
            if there is not None:
                self.tree.attach(there, into, new)
            raise
        self._discard(node)
        if there is not None:
            there.unlinked = True

    def set_modified(self, node: Node, modified_ns: int) -> None:
        """Remember a date that the user gave a file; the server keeps its own."""
        node.modified_ns = modified_ns

    # -- what is allowed -----------------------------------------------------------------------------

    def _stays_local(self, parent: Node, name: str, program: str) -> bool:
        if parent.site is None or not parent.site.may_write:
            return False
        return parent.in_scratch or is_scratch(name, program, parent.children)

    def _why_read_only(self, node: Node) -> str | None:
        """Say why nothing can be written to a file or into a directory; None if something can."""
        if node.site is None:
            return "Only the configuration adds sites here."
        if not node.site.may_write:
            return f'{node.site.name} is mounted read-only (access = "read" in the configuration).'
        if node.local:
            return None
        home = node if node.is_dir else node.parent
        assert home is not None
        entry = home.container.entry
        assert entry is not None
        if entry.read_only or not entry.accepts:
            return entry.read_only or f"Nothing can be written in “{entry.name}”."
        return None

    def _check_writable(self, node: Node) -> None:
        if node.text is not None:
            raise NotPermitted(f"“{node.name}” is labfs's own view of a record and cannot be changed.")
        reason = self._why_read_only(node)
        if reason is not None:
            raise ReadOnly(reason)

    def _check_holds(self, parent: Node, what: Accept, name: str) -> None:
        reason = self._why_read_only(parent)
        if reason is not None:
            raise ReadOnly(reason)
        entry = parent.container.entry
        assert entry is not None
        if what not in entry.accepts:
            kind = "Files" if what is Accept.FILE else "Directories"
            raise NotPermitted(f"{kind} cannot be made in {parent.path}, and so not “{name}”.")

    # -- upkeep --------------------------------------------------------------------------------------

    def refresh(self, node: Node) -> None:
        """Have everything at and below a node asked of its server again when somebody looks."""
        if node.is_dir:
            if node is not self.root:
                node.listed_at = float("-inf")
            for child in node.children.values():
                self.refresh(child)
        if node.parent is not None:
            self.tree.expire(node.parent)
