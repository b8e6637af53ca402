"""The names of a mount: looking them up, and directories, which are read while names in them change.

Tests: mount/test_semantics.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pyfuse3
import trio
from pyfuse3 import FileHandleT, FileNameT, FlagT, FUSEError, InodeT, ModeT

from labfs.errors import Invalid, LabfsError, NotDirectory
from labfs.fuse import holders
from labfs.fuse.announcing import Act, Announcer
from labfs.fuse.answers import Walks, answered, entry_attributes
from labfs.fuse.closes import FailedCloses
from labfs.fuse.inodes import Inodes
from labfs.fuse.kernel import Kernel
from labfs.fuse.refusals import Refusals
from labfs.tree.listing import answer_by
from labfs.tree.names import looked_for, to_be_made
from labfs.tree.node import Folder, Node
from labfs.vfs import Vfs


@dataclass
class OpenFolder:
    """An open directory, and the names in it at the time of the first readdir."""

    node: Folder
    names: list[tuple[bytes, Node]]
    incomplete: LabfsError | None = None  # why these are not all
    until: float = 0.0  # for which the others are waited for, on trio's clock
    read: bool = False  # some of it

    def add(self, found: list[tuple[bytes, Node]]) -> None:
        """Append the names that are not among those that were read."""
        known = {name for name, _ in self.names}
        self.names += [(name, node) for name, node in found if name not in known]

    def holds(self, node: Node, name: bytes) -> bool:
        """Whether a node still has its name.

        A node that was removed or renamed since must not be listed: the kernel would take the old name for that file,
        and a program that then writes to the name would write into the file that was moved aside as a backup.
        """
        return os.fsencode(node.name) == name and self.node.children.get(node.name) is node


def named(nodes: Iterable[Node]) -> list[tuple[bytes, Node]]:
    """Return nodes with their names, as the kernel has these."""
    return [(os.fsencode(node.name), node) for node in nodes]


class Directories(Refusals):
    """The requests for names, and what the kernel knows of the nodes behind them."""

    def __init__(self, vfs: Vfs, mountpoint: str, *, xattrs: bool) -> None:
        super().__init__(xattrs=xattrs)
        self._mountpoint = mountpoint.rstrip("/")
        self._vfs = vfs
        self._inodes: Inodes[Node] = Inodes(vfs.root)
        self._folders: dict[int, OpenFolder] = {}
        self._numbers = iter(range(1, 1 << 62))  # of handles
        self._kernel = Kernel(self._inodes)
        self._failed = FailedCloses(vfs.tree)
        self._walks = Walks()
        self._owner = (os.getuid(), os.getgid())
        self.news = Announcer(self._mountpoint)
        vfs.polling.hears.append(self.news.hear)

    @answered()
    async def lookup(self, parent: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if name == b".":
            node = self._node(parent)
        elif name == b"..":
            node = self._node(parent).parent
        else:
            folder, known = self._node(parent), looked_for(name)
            if (act := self.news.of(ctx.pid, folder, name)) is not None:
                return self._told(act)
            await self._failed.decided(folder.children.get(known) if isinstance(folder, Folder) else None)
            node = await self._vfs.lookup(folder, known)
            await self._vfs.measure(node)
        found = self._handed_out(node)
        if name not in (b".", b"..", os.fsencode(node.name)):
            found.entry_timeout = 0.0  # another spelling of its name: the kernel asks again at each use
        self._walks.reached(ctx.pid, found.st_ino)
        return found

    @answered()
    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        number, node, until = next(self._numbers), self._folder(inode), answer_by()
        names = await self._listing(node, soon=True)
        self._folders[number] = OpenFolder(node, names, self._vfs.tree.incomplete(node), until)
        return FileHandleT(number)

    async def _listing(self, node: Folder, *, soon: bool = False) -> list[tuple[bytes, Node]]:
        await self._failed.decided_in(node)
        return [(b".", node), (b"..", node.parent), *named(await self._vfs.listing(node, soon=soon))]

    @answered()
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        # The offset is an index into the listing as it was at its beginning, so that no change skips a name.
        folder = self._folders[fh]
        if start_id == 0 and folder.read:  # rewound: what is there now
            folder.names = await self._listing(folder.node)
            folder.incomplete = self._vfs.tree.incomplete(folder.node)
        folder.read = True
        if folder.incomplete is not None and start_id >= len(folder.names):
            folder.add(named((await self._vfs.tree.rest(folder.node, folder.until)).values()))
            folder.incomplete = self._vfs.tree.incomplete(folder.node)
            if folder.incomplete is not None and start_id >= len(folder.names):
                raise folder.incomplete  # after all names, so that nobody takes them for all that are there
        for index, (name, node) in enumerate(folder.names[start_id:], start_id):
            if index >= 2 and not folder.holds(node, name):
                continue
            if not pyfuse3.readdir_reply(token, FileNameT(name), self._attributes(node), index + 1):
                break
            if index >= 2:  # `.` and `..` are not references
                self._inodes.remember(node)

    async def releasedir(self, fh: FileHandleT) -> None:
        self._folders.pop(fh, None)

    @answered()
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        return None

    @contextmanager
    def _spelled(self, folder: Folder, name: str) -> Iterator[None]:
        """Invalidate, after a change of a name, the same name as the kernel may know it in another spelling."""
        other = folder.spelled(name)
        yield
        if other != name:
            self._kernel.forget_name(folder, other)

    def _told(self, act: Act) -> pyfuse3.EntryAttributes:
        """Answer a request that only tells of a change. Raises ENOENT for a name that is about to be created."""
        if act.absent:
            raise FUSEError(errno.ENOENT)
        return self._handed_out(act.node)

    @answered()
    async def mknod(
        self, parent: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        act = self.news.of(ctx.pid, self._node(parent), name)
        return await super().mknod(parent, name, mode, rdev, ctx) if act is None else self._handed_out(act.node)

    @answered(60.0)
    async def mkdir(
        self, parent: InodeT, name: FileNameT, mode: ModeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if (act := self.news.of(ctx.pid, self._node(parent), name)) is not None:
            return self._handed_out(act.node)
        maker = await trio.to_thread.run_sync(partial(holders.maker, ctx.pid, mode=mode, umask=ctx.umask))
        return self._handed_out(await self._vfs.mkdir(self._folder(parent), to_be_made(name), maker))

    @answered()
    async def rmdir(self, parent: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> None:
        if not self.news.is_ours(ctx.pid):
            await self._vfs.rmdir(self._folder(parent), looked_for(name))

    @answered(None)
    async def unlink(self, parent: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> None:
        if self.news.is_ours(ctx.pid):
            return
        folder, maker = self._folder(parent), await trio.to_thread.run_sync(holders.maker, ctx.pid)
        called = looked_for(name)
        path = f"{self._mountpoint}{folder.path.rstrip('/')}/{called}"
        with self._spelled(folder, called):
            await self._vfs.unlink(folder, called, maker, path)

    @answered(None)
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise Invalid("Two names cannot be exchanged here: rename one of them, then the other.")
        old, new = self._folder(parent_inode_old), self._folder(parent_inode_new)
        replace = not flags & pyfuse3.RENAME_NOREPLACE
        maker = await trio.to_thread.run_sync(holders.maker, ctx.pid)
        before, after = looked_for(name_old), to_be_made(name_new)
        with self._spelled(old, before), self._spelled(new, after):
            await self._vfs.rename(old, before, new, after, replace=replace, maker=maker)

    async def renew(self, node: Node) -> None:
        """Invalidate the kernel's names and attributes of a directory, and of all below it."""
        await self._kernel.renew(node)

    def held(self) -> Iterable[Folder]:
        """Return the open directories."""
        return [folder.node.container for folder in self._folders.values()]

    def forgotten(self, nodes: Iterable[Node]) -> None:
        """Let go of nodes: where the kernel still has a number it gets ESTALE, and looks the name up again."""
        self._inodes.drop(nodes)

    # -- bookkeeping -----------------------------------------------------------------------------------

    def _node(self, inode: InodeT) -> Node:
        try:
            return self._inodes[inode]
        except KeyError:
            raise FUSEError(errno.ESTALE) from None

    def _folder(self, inode: InodeT) -> Folder:
        node = self._node(inode)
        if not isinstance(node, Folder):
            raise NotDirectory(f"“{node.name}” is not a directory.")
        return node

    def _handed_out(self, node: Node) -> pyfuse3.EntryAttributes:
        self._inodes.remember(node)
        return self._attributes(node)

    def _attributes(self, node: Node) -> pyfuse3.EntryAttributes:
        found, least = self._vfs.attributes(node), self._kernel.least(node)
        self._kernel.record(node, max(found.size, least))
        return entry_attributes(found, self._inodes.number(node), self._owner, least)
