"""The file system, whatever door it is entered by: sites at the root, and what their names mean.

It ties the tree to the open files and holds the rules between them: looking, making, removing and
renaming. What cannot be done is refused with the errno and the sentence that say why.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import trio

from labfs import names, rules
from labfs.backend import Accept, Entry, Site, Target
from labfs.blocks import Blocks
from labfs.copies import Copies
from labfs.errors import CrossDevice, Exists, IsDirectory, NotDirectory, NotEmpty, NotPermitted
from labfs.files import Files
from labfs.outbox import Outbox
from labfs.reader import Readers
from labfs.reasons import Reasons
from labfs.sizes import Sizes
from labfs.spool import Spool
from labfs.tree import Node, Tree

META = ".meta.json"  # unlisted: the system's own record of a directory, as JSON


@dataclass(frozen=True, slots=True)
class Attributes:
    is_dir: bool
    writable: bool
    size: int  # bytes
    modified_ns: int
    certain: bool = True  # else the file may have another number


class Vfs:
    """All mounted sites as one tree. At most `cache_bytes` are cached in memory, and writes go to `spool`.

    What goes on behind the requests (read-ahead, hashing) runs in `nursery`.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        sites: Iterable[Site],
        cache_bytes: int,
        spool: Spool,
        sizes: Sizes,
        copies: Copies,
    ) -> None:
        self.sites = tuple(sites)
        self.tree = Tree(nursery, self.sites, sizes)
        self.blocks = Blocks(nursery, cache_bytes)
        self.copies = copies
        self.reasons = Reasons()
        self.files = Files(self.tree, Readers(nursery, self.blocks, copies), spool, self.reasons)
        self.outbox = Outbox(self.tree, self.files, self.sites)
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

    async def measure(self, node: Node) -> None:
        """Have a file's true size at hand for `attributes`, if that can be had for little."""
        await self.files.sources.measure(node)

    async def resolve(self, path: str) -> Node:
        """Return the node at a path that starts at the mount point."""
        node = self.root
        for name in filter(None, path.split("/")):
            node = await self.lookup(node, name)
        return node

    async def listing(self, node: Node) -> list[Node]:
        return list((await self.tree.children(node)).values())

    def attributes(self, node: Node) -> Attributes:
        entry = node.entry
        writable = rules.why_read_only(node) is None
        if node.is_dir:
            return Attributes(True, writable, 0, self._modified(node, entry.modified_ns if entry else None))
        if node.text is not None:
            return Attributes(False, False, len(node.text), self._started_ns)
        if node.writer is not None:
            changed = node.writer.modified_ns if node.writer.dirty or entry is None else entry.modified_ns
            return Attributes(False, writable, node.writer.size, self._modified(node, changed))
        if entry is None:  # removed while somebody still looks at it
            return Attributes(False, False, 0, self._modified(node, None))
        size = entry.size if entry.size is not None else node.least
        # Without a version nothing tells that the bytes are still those that were measured.
        certain = entry.size is not None and entry.version is not None
        return Attributes(False, writable, size, self._modified(node, entry.modified_ns), certain)

    def _modified(self, node: Node, there: int | None) -> int:
        """Return the date that the user gave, else the server's, else that of the mount; 0 is a date as well."""
        return next(date for date in (node.modified_ns, there, self._started_ns) if date is not None)

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
            "state": "waiting" if node.path in self.files.waiting.notes() else rules.state(node),
            "error": self.reasons.of(node.path),
        }
        return {f"user.labfs.{name}": value for name, value in found.items() if value}

    async def _meta(self, parent: Node, entry: Entry) -> Node:
        assert parent.site is not None
        await self.tree.children(parent)
        if META not in parent.unlisted:
            record = await parent.site.backend.describe(entry)
            node = Node(META, parent, parent.site, is_dir=False, local=True)
            node.text = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")
            parent.unlisted[META] = node
        return parent.unlisted[META]

    # -- names ---------------------------------------------------------------------------------------

    async def mkdir(self, parent: Node, name: str) -> Node:
        """Make a directory: an entity on the server, a folder of files to come, or a local one."""
        if name in await self.tree.children(parent):
            raise Exists(f"There already is a “{name}” in {parent.path}.")
        offered = parent.unlisted.get(name)
        node = offered if offered is not None and offered.is_dir else Node(name, parent, parent.site, is_dir=True)
        if not rules.stays_local(parent, name):
            names.for_saving(name)
        if rules.stays_local(parent, name):
            node.local = True
        elif parent.entry is not None and Accept.DIRECTORY in parent.entry.accepts:
            rules.check_holds(parent, Accept.DIRECTORY, name)
            assert parent.site is not None
            node.entry = await parent.site.backend.make(parent.entry, names.original(name))
            node.committed_at = node.listed_at = trio.current_time()
        else:
            rules.check_holds(parent, Accept.FOLDER, name)
            node.made_here = True
        self.tree.attach(node, parent, name)
        if node.entry is not None and node.entry.complete:
            self.tree.expire(parent)  # only its own listing tells what is in the new one from the start
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
        node = await self._settled(parent, name)
        if node.is_dir:
            raise IsDirectory(f"“{name}” is a directory.")
        if node.text is not None:
            raise NotPermitted(f"“{name}” is labfs's own view of a record.")
        if node.entry is not None and not node.local:
            await self._delete(node, node.entry)
            self.files.waiting.supersede(node.path, None, "the file was removed since")
        self.files.drop(node)

    async def _settled(self, parent: Node, name: str) -> Node:
        """Return the node of that name when no upload of it is under way: that decides what it is."""
        node = await self.lookup(parent, name)
        while node.writer is not None and node.writer.committing:
            await node.writer.settled()
            node = await self.lookup(parent, name)
        return node

    async def _delete(self, node: Node, entry: Entry) -> None:
        self._check_deletable(node)
        assert node.site is not None
        await node.site.backend.delete(entry)
        self.tree.bury(node, entry)

    def _check_deletable(self, node: Node) -> None:
        assert node.site is not None
        site = node.site
        if node.entry is not None and node.entry.read_only:
            raise NotPermitted(node.entry.read_only)
        if not site.backend.capabilities.deletable:
            raise NotPermitted(f"{site.name} cannot delete a single file, and so not “{node.name}”.")
        if not site.may_delete:
            raise NotPermitted(f'Deleting is off for {site.name}; access = "full" in the configuration allows it.')

    async def rename(self, parent: Node, name: str, into: Node, new: str, *, replace: bool = True) -> None:
        """Move a name. A local file that gets an ordinary name is saved under it: the rename is the save."""
        node = await self._settled(parent, name)
        there = (await self.tree.children(into)).get(new)
        while node.writer is not None and node.writer.committing:  # begun while that was listed
            node = await self._settled(parent, name)
            there = (await self.tree.children(into)).get(new)
        if there is node:
            return
        self._check_rename(node, there, into, new, replace)
        local = rules.stays_local(into, new)
        if not local:
            names.for_saving(new)
            rules.check_holds(into, Accept.FOLDER if node.is_dir else Accept.FILE, new)
            if there is None and not node.is_dir and into is not node.parent:
                rules.check_room(into, new)
        if self._on_server(node) and not local:
            await self._rename_there(node, there, into, new)
            return
        over = there is not None and self._on_server(there)
        if node.is_dir or local or (self._unborn(node) and not over):
            self._move(node, there, into, new)
            node.local = local
        elif there is None and self._is_put_back(node, into, new):
            self._move(node, there, into, new)
            node.local = False
        else:
            await self._save_as(node, there, into, new)
            return
        self.files.relabel(node)

    def _on_server(self, node: Node) -> bool:
        return node.entry is not None and not node.local and not node.is_dir

    async def _rename_there(self, node: Node, there: Node | None, into: Node, new: str) -> None:
        """Give a file of a server another name; what had that name before is deleted afterwards."""
        assert node.site is not None
        assert node.entry is not None
        assert into.home.entry is not None
        backend = node.site.backend
        taken = there.entry if there is not None and not there.local else None
        if there is not None and taken is not None:
            self._check_deletable(there)
        target = Target(into.home.entry, into.folders, names.original(new), taken)
        entry = await backend.rename(node.entry, target)
        try:
            if there is not None and taken is not None:
                await self._delete(there, taken)
        except BaseException:
            for place in (node, into):
                self.tree.expire(place)  # it has its new name all the same
            raise
        if there is not None:
            self.files.waiting.supersede(there.path, None)
            self.files.drop(there)
        self.files.waiting.supersede(node.path, None, "the file was renamed since")
        self.tree.detach(node)
        self.tree.attach(node, into, new)
        node.entry, node.committed_at = entry, trio.current_time()
        if node.writer is not None and node.writer.opened is not None:
            node.writer.opened = entry  # what is being written is saved under the new name
        self.files.relabel(node)

    def _is_put_back(self, node: Node, into: Node, new: str) -> bool:
        """Whether this is a backup, unchanged, that gets its old name again."""
        unchanged = node.writer is None or not node.writer.dirty
        hidden = into.hidden.get(new)
        return unchanged and node.entry is not None and hidden is not None and hidden.id == node.entry.id

    def _unborn(self, node: Node) -> bool:
        """Whether a file was never saved and will be, under whatever name it has when it is closed."""
        return node.entry is None and not node.local

    def _check_rename(self, node: Node, there: Node | None, into: Node, new: str, replace: bool) -> None:
        if there is not None:
            if not replace:
                raise Exists(f"There already is a “{new}” in {into.path}.")
            if there.is_dir != node.is_dir:
                raise IsDirectory(f"“{new}” is a directory.") if there.is_dir else NotDirectory(f"“{new}” is a file.")
            if there.is_dir and (there.entry is not None or there.children):
                raise NotEmpty(f"There already is a directory “{new}”.")
        if node.site is not into.site:
            raise CrossDevice(f"“{node.name}” and {into.path} are on different systems.")
        if node.text is not None:
            raise NotPermitted(f"“{node.name}” is labfs's own view of a record.")
        fixed = node.is_dir and not self._movable(node)
        if fixed or (self._on_server(node) and not rules.stays_local(into, new)):
            assert node.site is not None
            if node.site.backend.capabilities.renames and not node.is_dir:
                rules.check_writable(node)
                return
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
            self.files.drop(there)
        if node.entry is not None and not node.local:
            self.tree.hide(node)
        else:
            self.tree.detach(node)
        self.tree.attach(node, into, new)

    async def _save_as(self, node: Node, there: Node | None, into: Node, new: str) -> None:
        """Save a file that no server has under an ordinary name, over whatever is there; all of it or nothing."""
        if there is not None and self._on_server(there):
            rules.check_writable(there)
        parent, name, entry, local = node.parent, node.name, node.entry, node.local
        assert parent is not None
        if node.writer is None:
            self.files.attach_writer(node, self.files.sources.reader(node))
        assert node.writer is not None
        node.writer.touch()
        self.tree.detach(node)
        self.tree.attach(node, into, new)
        node.local, node.entry = False, there.entry if there else None
        opened, node.writer.opened = node.writer.opened, node.entry
        self.files.relabel(node)
        try:
            if not self.files.writers(node):  # else it is still being written: its close is the save
                await self.files.commit(node)
        except BaseException as error:
            reason = str(error) or "the rename was interrupted"
            self.files.relabel(node, state="failed", error=reason)
            node.local, node.entry = local, entry
            if node.writer is not None:
                node.writer.opened = opened
            self.tree.detach(node)
            self.tree.attach(node, parent, name)
            if there is not None:
                self.tree.attach(there, into, new)
            raise
        if there is not None:
            there.unlinked = True
            if there.writer is not None:
                there.writer.void()  # replaced as a whole
        if not self.files.writers(node):
            self.files.discard(node)

    def set_modified(self, node: Node, modified_ns: int) -> None:
        """Remember a date that the user gave a file; the server keeps its own."""
        node.modified_ns = modified_ns

    def uploads(self) -> list[dict[str, Any]]:
        """Return what is on its way to a server, for people to look at; sizes in bytes."""
        return [
            {
                "path": node.path,
                "state": rules.state(node),
                "size": node.writer.size,
                "sent": node.writer.sent,
                "error": self.reasons.of(node.path),
            }
            for node in self.files.unsaved()
            if node.writer is not None
        ]

    # -- upkeep --------------------------------------------------------------------------------------

    def refresh(self, node: Node) -> None:
        """Have a directory and everything below, or a file, asked of its server when somebody looks next."""
        self.tree.expire(node)
        if node.site is not None:
            self.tree.measuring.insist(node.site.name)
        for child in node.children.values() if node.is_dir else ():
            if child.is_dir:
                self.refresh(child)
