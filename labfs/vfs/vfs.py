"""The file system, whatever door it is entered by: sites at the root, and what their names mean.

It ties the tree to the open files and holds the rules between them: looking, making, removing and
renaming. What cannot be done is refused with the errno and the sentence that say why.

Tests: core/test_vfs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import trio

from labfs.backend import Accept, Entry
from labfs.errors import Exists, NotDirectory, NotEmpty, NotPermitted
from labfs.errors.reasons import Reasons
from labfs.read.store import Store
from labfs.tree import names
from labfs.tree.node import Folder, Kind, Node
from labfs.tree.remembered.listings import Listings
from labfs.tree.remembered.others import Common
from labfs.tree.remembered.seen import Seen
from labfs.tree.remembered.sizes import Sizes
from labfs.tree.site import Site
from labfs.tree.tree import PATIENCE_S, Tree
from labfs.vfs import policy
from labfs.vfs.drafts.life import DRAFT_S
from labfs.vfs.drafts.signs import NOBODY, Known, Maker, judge_folder
from labfs.vfs.files import Files
from labfs.vfs.leases import Leases
from labfs.vfs.moves import Moves
from labfs.vfs.outbox.sending import Outbox
from labfs.vfs.polling import Polling
from labfs.vfs.tidying import Tidying
from labfs.write.spool import Spool

META = ".meta.json"  # unlisted: the system's own record of a directory, as JSON


@dataclass(frozen=True, slots=True)
class Attributes:
    is_dir: bool
    writable: bool
    size: int  # bytes
    modified_ns: int
    certain: bool = True  # false: the file may have another size


class Vfs:
    """All mounted sites as one tree. Reads are cached in `store`, and writes go to `spool`.

    Background tasks (read-ahead, hashing) run in `nursery`.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        sites: Iterable[Site],
        store: Store,
        spool: Spool,
        sizes: Sizes,
        seen: Seen,
        listings: Listings | None = None,
        known: Known | None = None,
        draft_s: float = DRAFT_S,
        leases: Leases | None = None,
        common: Common | None = None,
    ) -> None:
        self.sites = tuple(sites)
        self.tree = Tree(nursery, self.sites, sizes, seen, listings or Listings(), common or Common({}))
        self.store = store
        self.reasons = Reasons()
        known, leases = known or Known(), leases or Leases({})
        self.files = Files(nursery, self.tree, store.readers, spool, self.reasons, known, draft_s, leases)
        self.saves = self.files.saves
        self.drafts = self.files.drafts
        self.saves.replacing.restore(self.sites)
        self.moves = Moves(self.tree, self.files, self.lookup)
        self.tidying = Tidying(self.tree)
        self.tidying.holders.append(self.files)
        self.polling = Polling(self.tree)
        self.outbox = Outbox(self.tree, self.files, self.sites)
        self._started_ns = time.time_ns()

    @property
    def root(self) -> Folder:
        return self.tree.root

    # -- looking -------------------------------------------------------------------------------------

    async def lookup(self, parent: Node, name: str) -> Node:
        """Return the node of that name in a directory. Raises NotFound."""
        if name == META and isinstance(parent, Folder) and parent.entry is not None:
            return await self._meta(parent, parent.entry)
        if names.may_be_yours(name) and isinstance(parent, Folder):
            await self.listing(parent)
        return await self.tree.child(parent, name)

    async def measure(self, node: Node) -> None:
        """Measure a file's true size for `attributes`, if little has to be fetched for it."""
        await self.files.sources.measure(node)

    async def resolve(self, path: str) -> Node:
        """Return the node at a path that starts at the mount point."""
        node: Node = self.root
        for name in filter(None, path.split("/")):
            node = await self.lookup(node, names.looked_for(name.encode(errors="surrogateescape")))
        return node

    def known(self, path: str) -> Node | None:
        """Return the node at a path if the tree has it, without a request; else None."""
        node: Node | None = self.root
        for name in filter(None, path.split("/")):
            node = node.children.get(name) if isinstance(node, Folder) else None
        return node

    async def listing(self, folder: Folder, *, soon: bool = False) -> list[Node]:
        """Return what is in a directory; `soon` what is known when its first page has come."""
        await self.tree.children(folder, soon=soon)
        self.polling.looked(folder.container)
        self.files.yours.refresh(folder)
        return list(folder.children.values())

    def attributes(self, node: Node) -> Attributes:
        entry = node.entry
        writable = policy.why_read_only(node) is None
        if node.is_dir:
            home = node.home  # a folder that only exists in files' paths has the date of its entity
            there = home.entry.modified_ns if home.entry is not None else None
            return Attributes(True, writable, 0, self._modified(node, home.seen_ns if there is None else there))
        if node.kind is Kind.VIEW:
            return Attributes(False, False, len(node.text), self._started_ns)
        if node.kind is Kind.YOURS:
            return Attributes(False, False, *self.files.yours.attributes(node))
        if node.writer is not None:
            changed = node.writer.modified_ns if node.writer.dirty or entry is None else entry.modified_ns
            return Attributes(False, writable, node.writer.size, self._modified(node, changed))
        if entry is None:  # removed while somebody still has it open
            return Attributes(False, False, 0, self._modified(node, None))
        size = entry.size if entry.size is not None else node.least
        # Without a version nothing tells that the bytes are still those that were measured.
        certain = entry.size is not None and entry.version is not None
        return Attributes(False, writable, size, self._modified(node, entry.modified_ns), certain)

    def _modified(self, node: Node, there: int | None) -> int:
        """Return the date set by the user, else the server's, the first sight's or the mount's; 0 is a valid date."""
        return next(date for date in (node.modified_ns, there, node.seen_ns, self._started_ns) if date is not None)

    def xattrs(self, node: Node) -> dict[str, str]:
        """Return what labfs knows of a node, as the extended attributes `user.labfs.*`."""
        entry = node.entry
        found = {
            "site": None if node.is_root else node.site.name,
            "kind": None if node.is_root else node.site.kind,
            "id": entry.label if entry else None,
            "name": entry.name if entry and entry.name != node.name else None,
            "url": entry.url if entry else None,
            "version": entry.version if entry else None,
            "checksum": entry.checksum if entry and not node.is_root and _prove(node.site) else None,
            "state": policy.state(node, self.saves.waiting.of(node.path)),
            "error": self.reasons.of(node.path),
        }
        return {f"user.labfs.{name}": str(value) for name, value in found.items() if value}

    async def _meta(self, parent: Folder, entry: Entry) -> Node:
        await self.tree.children(parent)
        if META not in parent.unlisted:
            record = await parent.site.backend.describe(entry)
            text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
            # Lone surrogates are written as JSON escapes.
            self.tree.add_view(parent, META, text.encode("utf-8", "backslashreplace"))
        return parent.unlisted[META]

    # -- names ---------------------------------------------------------------------------------------

    async def mkdir(self, parent: Folder, name: str, maker: Maker = NOBODY) -> Node:
        """Make a directory: an entity on the server, a folder for files to come, or a local directory."""
        await self.tree.whole(parent)
        children = await self.tree.children(parent)
        if (name := parent.spelled(name)) in children:
            raise Exists(f"There already is a “{name}” in {parent.path}.")
        if policy.stays_local(parent, name):
            return self.tree.add_folder(parent, name, Kind.SCRATCH)
        names.for_saving(name)
        if policy.takes_files(parent) and judge_folder(name, maker):
            folder = self.tree.add_folder(parent, name, Kind.SCRATCH)
            self.drafts.made_folder(folder, maker)
            return folder
        if parent.entry is None or Accept.DIRECTORY not in parent.entry.takes:
            policy.check_holds(parent, Accept.FOLDER, name)
            return self.tree.add_folder(parent, name)
        policy.check_holds(parent, Accept.DIRECTORY, name)
        made = await parent.site.backend.make(parent.entry, names.original(name))
        folder = self.tree.add_folder(parent, name)
        self.tree.made(folder, made)
        if made.complete:
            self.tree.expire(parent)  # only the parent's listing shows what the new directory contains from the start
        await self.tree.told(parent)
        return folder

    async def rmdir(self, parent: Folder, name: str) -> None:
        await self.tree.whole(parent)
        node = await self.tree.child(parent, name)
        if not isinstance(node, Folder):
            raise NotDirectory(f"“{name}” is not a directory.")
        if node.entry is not None:
            raise NotPermitted(f"labfs does not delete projects or records, and so not “{name}”.").advised(
                policy.ELSEWHERE
            )
        if await self.tree.children(node):
            raise NotEmpty(f"“{name}” is not empty: remove what is in it first.")
        self.tree.detach(node)

    async def unlink(self, parent: Folder, name: str, maker: Maker = NOBODY, path: str = "") -> None:
        """Remove a file: from the server where deleting is allowed, a local file, or one's own version, always."""
        await self.tree.whole(parent, PATIENCE_S)
        await self.tree.children(parent)
        there = parent.children.get(name := parent.spelled(name))
        if there is not None and there.kind is Kind.YOURS:
            self.outbox.discard(self.files.yours.save(there))
            self.files.yours.refresh(parent)
        else:
            await self.moves.unlink(parent, name, maker, path)
            await self.tree.told(parent)

    async def rename(
        self, parent: Folder, name: str, into: Folder, new: str, *, replace: bool = True, maker: Maker = NOBODY
    ) -> None:
        """Rename or move a node. A local file that gets an ordinary name is saved under it: the rename is the save."""
        for folder in (parent, into):
            await self.tree.whole(folder, PATIENCE_S)
            await self.tree.children(folder)
        name, there = parent.spelled(name), into.spelled(new)
        if into.children.get(there) is not parent.children.get(name):  # else it is to be spelled otherwise
            new = there
        await self.moves.rename(parent, name, into, new, replace=replace, maker=maker)
        await self.tree.told(parent)

    async def finish(self, seconds: float) -> None:
        """Settle drafts and save closed files when the mount ends, for at most `seconds`."""
        until = trio.current_time() + seconds
        await self.drafts.end(seconds)
        await self.saves.finish(until - trio.current_time())

    def set_modified(self, node: Node, modified_ns: int) -> None:
        """Record a modification date that the user set; the server's date stays."""
        self.tree.redate(node, modified_ns)

    def uploads(self) -> list[dict[str, Any]]:
        """Return the files that are not yet on a server, for display; sizes in bytes."""
        return [
            {
                "path": node.path,
                "state": policy.state(node),
                "size": node.writer.size,
                "sent": node.writer.sent,
                "rate": round(node.writer.rate),
                "error": self.reasons.of(node.path),
            }
            for node in [*self.saves.unsaved(), *self.drafts.all()]
            if node.writer is not None
        ]

    # -- upkeep --------------------------------------------------------------------------------------

    def refresh(self, node: Node) -> None:
        """Have a file, or a directory and all below it, requested from its server at the next access."""
        self.tree.renew(node)
        if not node.is_root:
            self.tree.measuring.insist(node.site.key)
        for child in node.children.values() if isinstance(node, Folder) else ():
            if child.is_dir:
                self.refresh(child)


def _prove(site: Site) -> bool:
    """Whether no checksum of a site was found to be something else than a checksum."""
    return site.backend.capabilities.checksums_prove
