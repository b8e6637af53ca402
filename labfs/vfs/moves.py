"""Removing and renaming files: what that means on a server, and what stays on this machine.

A local file that gets an ordinary name is saved under that name: the rename is the save. A file of a server is renamed
where its system can rename; the file that had the name before is deleted afterwards.

Tests: core/test_moves, core/test_drafts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from labfs.backend import Accept, Entry, Target
from labfs.errors import (
    CrossDevice,
    Exists,
    IsDirectory,
    LabfsError,
    NotDirectory,
    NotEmpty,
    NotPermitted,
    Unavailable,
)
from labfs.tree import names
from labfs.tree.hiding import hide
from labfs.tree.node import Folder, Kind, Node
from labfs.tree.tree import Tree
from labfs.vfs import policy
from labfs.vfs.drafts import signs
from labfs.vfs.drafts.signs import NOBODY, Maker
from labfs.vfs.files import Files
from labfs.write.spool import SpoolFile

REPLACED_S = 10.0  # in which a program creates again the file that it removed in order to replace it


class Moves:
    """Removals and renames in a tree with open `files`."""

    def __init__(self, tree: Tree, files: Files, lookup: Callable[[Folder, str], Awaitable[Node]]) -> None:
        self._tree = tree
        self._lookup = lookup
        self._files = files
        self._drafts = files.drafts
        self._saves = files.saves

    async def unlink(self, parent: Folder, name: str, maker: Maker = NOBODY, path: str = "") -> None:
        """Remove a file: from the server where deleting is allowed, a local file always.

        Where a program is about to put another file at `path`, as the program sees it, the old one is only hidden.
        """
        node = await self._at_rest(parent, name)
        if node.is_dir:
            raise IsDirectory(f"“{name}” is a directory.")
        if node.kind is Kind.VIEW:
            raise NotPermitted(f"“{name}” is labfs's own view of a record and cannot be removed.")
        entry, has_draft = node.entry, self._drafts.has(parent, maker)
        if entry is not None and node.on_server:
            if signs.replaces(name, path or node.path, maker, has_draft=has_draft):
                self._make_room(node, entry, maker)
                return
            with self._moving(node):
                await self._saves.replacing.finish(node)
                await self._delete(node, entry)
        if not node.stays_here:
            self._saves.waiting.supersede(node.path, None, "the file was removed since")
        self._files.drop(node)
        await self._finish_marked(parent, name)

    def _make_room(self, node: Node, entry: Entry, maker: Maker) -> None:
        """Hide a file that a program is about to replace; the new file then replaces it as any save would."""
        until = trio.current_time() + REPLACED_S
        goes = maker.program in signs.EITHER and node.site.may_delete and node.site.backend.capabilities.deletable
        if not goes:
            policy.check_writable(node)
            hide(node, entry, lambda: trio.current_time() >= until or not maker.runs())
        else:
            self._check_deletable(node)
            hide(node, entry, lambda: False)
            self._drafts.removed(node.parent, node.name, entry)
        self._files.drop(node)

    async def _finish_marked(self, parent: Folder, name: str) -> None:
        """Save a draft whose mark, the file beside it that said it was incomplete, has been removed."""
        for mark in signs.MARKS:
            marked = parent.children.get(name.removesuffix(mark)) if name.endswith(mark) else None
            if marked is not None and self._drafts.holds(marked) and not self._files.writers(marked):
                await self._drafts.publish(marked)

    @contextmanager
    def _moving(self, *nodes: Node | None) -> Iterator[None]:
        """Keep the outbox from sending saves of these files while they are removed or renamed."""
        moving = [node for node in nodes if node is not None]
        self._saves.moving += moving
        try:
            yield
        finally:
            for node in moving:
                self._saves.moving.remove(node)

    async def _at_rest(self, parent: Folder, name: str) -> Node:
        """Return the node of that name once its upload, if any, has ended: the upload decides what the node is."""
        node = await self._lookup(parent, name)
        while node.writer is not None and node.writer.committing:
            await node.writer.committed()
            node = await self._lookup(parent, name)
        return node

    async def _delete(self, node: Node, entry: Entry) -> None:
        self._check_deletable(node)
        await node.site.backend.delete(entry)
        self._tree.bury(node.parent, entry)

    def _check_deletable(self, node: Node) -> None:
        site = node.site
        if node.entry is not None and node.entry.read_only:
            raise NotPermitted(node.entry.read_only)
        if not site.backend.capabilities.deletable:
            raise NotPermitted(f"{site.name} cannot delete a single file, and so not “{node.name}”.").advised(
                policy.ELSEWHERE
            )
        if not site.may_delete:
            raise NotPermitted(f'Deleting is off for {site.name}; access = "full" in the configuration allows it.')

    async def rename(
        self, parent: Folder, name: str, into: Folder, new: str, *, replace: bool = True, maker: Maker = NOBODY
    ) -> None:
        """Rename or move a node. A local file that gets an ordinary name is saved under it: the rename is the save."""
        node = await self._at_rest(parent, name)
        there = (await self._tree.children(into)).get(new)
        while uploads := [n.writer for n in (node, there) if n and n.writer and n.writer.committing]:
            await uploads[0].committed()  # also of the file to be replaced: both would be on the server in the end
            node = await self._at_rest(parent, name)
            there = (await self._tree.children(into)).get(new)
        if there is node:
            return
        aside = self._goes_aside(node, there, into, maker)
        draft = aside or (node.stays_here and not node.is_dir and self._drafts.known.kind(new) is not None)
        local = draft or policy.stays_local(into, new)
        self._check_rename(node, there, into, new, replace, local=local)
        if not local:
            names.for_saving(new)
            policy.check_holds(into, Accept.FOLDER if node.is_dir else Accept.FILE, new)
            if there is None and not node.is_dir and into is not node.parent:
                policy.check_room(into, new)
        if node.entry is not None and node.on_server and not local:
            with self._moving(node, there):
                await self._rename_there(node, node.entry, there, into, new)
            return
        over = there is not None and there.on_server
        if node.is_dir or local or (node.kind is Kind.UNBORN and not over):
            self._move(node, there, into, new)
            if isinstance(node, Folder) and node.stays_here and not local:
                await self._name_folder(node)
            elif local:
                self._tree.stay(node)
            else:
                self._tree.leave(node)
            if aside:
                self._drafts.aside(node, maker)
        elif there is None and self._is_put_back(node, into, new):
            self._move(node, there, into, new)
            self._tree.leave(node)
        else:
            await self._save_as(node, there, into, new)
            return
        self._saves.relabel(node)
        self._drafts.moved(node)

    def _goes_aside(self, node: Node, there: Node | None, into: Folder, maker: Maker) -> bool:
        """Whether a program moves a file of a server aside, to put a draft from the same directory in its place."""
        free = there is None or not there.on_server
        return free and node.on_server and into is node.parent and self._drafts.has(into, maker)

    async def _name_folder(self, folder: Folder) -> None:
        """Save the drafts in a program's own folder, now that its name is an ordinary one. Raises the first error."""
        names.for_saving(folder.name)
        self._tree.leave(folder)
        for node in list(folder.children.values()):
            if isinstance(node, Folder) and node.stays_here:
                await self._name_folder(node)
            elif self._drafts.holds(node) and not self._files.writers(node):
                await self._drafts.publish(node)

    async def _rename_there(self, node: Node, entry: Entry, there: Node | None, into: Folder, new: str) -> None:
        """Rename a file on its server; the file that had the new name before is deleted afterwards."""
        site, path = node.site, node.path
        taken = there.entry if there is not None and not there.stays_here else None
        if there is not None and taken is not None:
            self._check_deletable(there)
            await self._saves.replacing.finish(there)
        await self._saves.replacing.finish(node)
        target = Target(into.entity, into.folders, names.original(new), taken)
        duty = None
        if there is not None and taken is not None:
            duty = self._saves.replacing.owe(site.name, there.path, taken, entry, renamed=True)
        try:
            entry = await site.backend.rename(entry, target)
        except LabfsError as error:
            if taken is not None and (duty is None or not isinstance(error, Unavailable)):
                self._saves.replacing.drop(site, taken.id, duty)
            self._saves.waiting.changed()  # the outbox finds out whether the rename was carried out
            raise
        if there is not None:
            self._files.drop(there)
        self._saves.waiting.supersede(path, None, "the file was renamed since")
        before = node.parent
        self._tree.detach(node)
        self._tree.attach(node, into, new)
        self._saves.waiting.supersede(node.path, None)
        self._tree.renamed(node, entry, taken, before)
        self._saves.relabel(node)
        if taken is not None:
            await self._saves.replacing.remove(into, taken, duty)

    def _is_put_back(self, node: Node, into: Folder, new: str) -> bool:
        """Whether the node is an unchanged backup that gets its old name again."""
        unchanged = node.writer is None or not node.writer.dirty
        hidden = into.hidden.get(new)
        return unchanged and node.entry is not None and hidden is not None and hidden.entry.id == node.entry.id

    def _check_rename(
        self, node: Node, there: Node | None, into: Folder, new: str, replace: bool, *, local: bool
    ) -> None:
        if there is not None:
            if not replace:
                raise Exists(f"There already is a “{new}” in {into.path}.")
            if there.is_dir != node.is_dir:
                raise IsDirectory(f"“{new}” is a directory.") if there.is_dir else NotDirectory(f"“{new}” is a file.")
            if isinstance(there, Folder) and (there.entry is not None or there.children):
                raise NotEmpty(f"There already is a directory “{new}”.")
        if node.site is not into.site:
            raise CrossDevice(f"“{node.name}” and {into.path} are on different systems: copy it, then delete it.")
        if node.kind is Kind.VIEW:
            raise NotPermitted(f"“{node.name}” is labfs's own view of a record and cannot be renamed.")
        if Kind.YOURS in (node.kind, None if there is None else there.kind):
            raise NotPermitted(policy.YOURS)
        fixed = isinstance(node, Folder) and not self._movable(node)
        if fixed or (node.on_server and not local):
            if node.site.backend.capabilities.renames and not node.is_dir:
                policy.check_writable(node)
                return
            if node.site.may_delete and node.site.backend.capabilities.deletable and not node.is_dir:
                raise CrossDevice(f"{node.site.name} cannot rename “{node.name}”; copy it, then delete it.")
            raise NotPermitted(f"{node.site.name} cannot rename or move “{node.name}”; copy it instead.")

    def _movable(self, folder: Folder) -> bool:
        """Whether nothing in a directory is on a server yet."""
        if folder.entry is not None or folder.kind is Kind.SERVER:
            return False
        nodes = folder.children.values()
        return all(self._movable(node) if isinstance(node, Folder) else node.stays_here for node in nodes)

    def _move(self, node: Node, there: Node | None, into: Folder, new: str) -> None:
        if there is not None:
            if there.entry is not None and not there.stays_here:
                hide(there, there.entry)
            self._files.drop(there)
        if node.entry is not None and not node.stays_here:
            hide(node, node.entry)
        else:
            self._tree.detach(node)
        self._tree.attach(node, into, new)

    async def _save_as(self, node: Node, there: Node | None, into: Folder, new: str) -> None:
        """Save a local file under an ordinary name, over any file of that name; undone in the tree if that fails."""
        if there is not None and there.on_server:
            policy.check_writable(there)
        elif new in into.hidden:
            policy.check_replaces(node)
        writer = node.writer or self._saves.begin(node, self._files.sources.reader(node))
        writer.touch()
        retired: tuple[Entry | None, SpoolFile | None] = None, None
        with self._tree.taking(node, there, into, new), self._explained(node):
            self._saves.relabel(node)
            if not self._files.writers(node):  # else it is still being written: its close is the save
                retired = await self._saves.commit(node)
        self._drafts.forget(node)
        if there is not None:
            if there.writer is not None:
                there.writer.void()  # replaced as a whole
            self._files.drop(there)
        if not self._files.writers(node):
            self._saves.discard(node)
        await self._saves.retire(node, *retired)

    @contextmanager
    def _explained(self, node: Node) -> Iterator[None]:
        """Record in the file's note why the rename done in this block failed, and re-raise."""
        try:
            yield
        except trio.Cancelled:
            raise
        except BaseException as error:
            reason = str(error) or "the rename was interrupted"
            with suppress(OSError):  # a full disk: the note stays as it was
                self._saves.relabel(node, reason)
            raise
