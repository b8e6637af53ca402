"""The FUSE door: pyfuse3's requests ⇄ `vfs` calls, errors ⇄ errno, handles as integers; nothing else.

What a file system means is decided in `vfs`. Here is only what the kernel makes necessary:

* every exception becomes an errno and a log line, since any other than FUSEError would end the mount;
* every answer has a deadline below the 20 s that the kernel's freezer waits, except where bytes are saved;
* a flush comes for each close of each duplicate of a descriptor: only the last one is a save;
* the kernel may keep its pages of a file exactly as long as the version is the same.

Tests: mount/test_semantics, mount/test_machine.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any, cast

import pyfuse3
import trio
from pyfuse3 import FileHandleT, FileInfo, FileNameT, FlagT, FUSEError, InodeT, ModeT, XAttrNameT

from labfs.fuse import holders
from labfs.fuse.answers import Repeats, answered, room
from labfs.fuse.closes import Closers
from labfs.fuse.directories import Directories
from labfs.fuse.fence import Fence
from labfs.fuse.outcomes import Outcomes
from labfs.tree.names import to_be_made
from labfs.tree.node import Node
from labfs.vfs import Buffer, Handle, Vfs

WALKED = {"lookup", "getattr", "open", "opendir", "create"}


class Door(Directories):
    """One mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, vfs: Vfs, mountpoint: str = "", *, xattrs: bool = True, previews: int = 1 << 20) -> None:
        super().__init__(vfs, mountpoint, xattrs=xattrs)
        self._files: dict[int, Handle] = {}
        self._fence = Fence(previews)
        self.closers = Closers(vfs.files, self._inodes)
        self.repeats = Repeats()
        self._outcomes = Outcomes(vfs.reasons, lambda number: self._inodes[number], self._opened_by)
        vfs.tidying.holders.append(self)
        self.greeted = trio.Event()  # the kernel and libfuse have agreed on how to talk

    def init(self) -> None:
        self.greeted.set()

    def failure(self, request: str, args: tuple[Any, ...], number: int, error: BaseException) -> FUSEError:
        return self._outcomes.failed(request, args, number, error)

    def passed(self, request: str, args: tuple[Any, ...]) -> None:
        self._outcomes.passed(request, args)

    def place(self, request: str, args: tuple[Any, ...]) -> str:
        return " → ".join(self._outcomes.places(request, args))

    def subject(self, request: str, args: tuple[Any, ...]) -> tuple[Hashable, range] | None:
        """Return what a request asks for, if the kernel may repeat it: by node, since any handle may serve a page."""
        match request:
            case "read" if args[0] in self._files:
                return self._files[args[0]].node, range(args[1], args[1] + args[2])
            case "lookup" | "getattr":
                return (request, *args[:-1]), range(1)
        return None

    def began(self, request: str, args: tuple[Any, ...]) -> float:
        """Return when the program's call began: the names along a path are asked for one by one."""
        return self._walks.began(args[-1].pid, args[0]) if request in WALKED else trio.current_time()

    # -- names and attributes --------------------------------------------------------------------------

    @answered()
    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        node = await self._decided(inode)
        await self._vfs.measure(node)
        return self._attributes(node)

    @answered(None)
    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        # Modes and owners are accepted without effect: no lab system has them, and `cp -a` or `tar`
        # would call a perfect copy a failure.
        node = self._node(inode)
        if fields.update_size:
            node = await self._decided(inode)
            handle = self._files.get(fh) if fh is not None else None
            if handle is not None and node.writer is not None:
                await self._vfs.files.resize(node, attr.st_size)
            else:
                await self._vfs.files.truncate(node, attr.st_size)
        if fields.update_mtime and not self.news.is_ours(ctx.pid):
            self._vfs.set_modified(node, attr.st_mtime_ns)
        return self._attributes(node)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            self._inodes.forget(inode, count)

    @answered(None)  # from memory; the kernel asks for security.capability before each write
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        self.check_xattrs()
        if not name.startswith(b"user.labfs."):
            raise FUSEError(pyfuse3.ENOATTR)
        value = self._vfs.xattrs(self._node(inode)).get(name.decode(errors="replace"))
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value.encode("utf-8", "backslashreplace")

    async def listxattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> list[XAttrNameT]:
        # They answer to their names but are not listed: `cp -a` would litter every copy with them.
        self.check_xattrs()
        return []

    @answered()
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return room(self._vfs.saves.spool.free())

    # -- files -----------------------------------------------------------------------------------------

    @answered()
    async def create(
        self, parent: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: pyfuse3.RequestContext
    ) -> tuple[FileInfo, pyfuse3.EntryAttributes]:
        exclusive = bool(flags & os.O_EXCL)
        look = partial(holders.maker, ctx.pid, exclusive=exclusive, mode=mode, umask=ctx.umask)
        maker = await trio.to_thread.run_sync(look)
        handle = await self._vfs.files.create(
            self._folder(parent),
            to_be_made(name),
            maker=maker,
            truncate=bool(flags & os.O_TRUNC),
            append=bool(flags & os.O_APPEND),
        )
        handle.pid = maker.pid
        return self._opened(handle), self._handed_out(handle.node)

    @answered()
    async def open(self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext) -> FileInfo:
        access, node = flags & os.O_ACCMODE, await self._decided(inode)
        self._fence.check(node, self._kernel.size(node), ctx.pid)
        handle = await self._vfs.files.open(
            node,
            read=access != os.O_WRONLY,
            write=access != os.O_RDONLY,
            truncate=bool(flags & os.O_TRUNC),
            append=bool(flags & os.O_APPEND),
        )
        if handle.writable:
            handle.pid = await trio.to_thread.run_sync(holders.process, ctx.pid)
        if flags & os.O_TRUNC:
            self._kernel.record(node, 0)
        else:
            await self._kernel.agree(node, self._vfs.attributes(node).size)
        return self._opened(handle)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        # Of eight reads of a program whose kernel reads ahead 128 KiB, seven lie in the block that the last one had.
        data = self._at_hand(self._files[fh], off, size)
        return await self._read(fh, off, size) if data is None else cast(bytes, data)

    def _at_hand(self, handle: Handle, off: int, size: int) -> Buffer | None:
        """Return bytes that nothing has to be waited for, nor the kernel told anything of; else None."""
        data = self._vfs.files.at_hand(handle, off, size)
        there = data is not None and len(data) == size and off + size <= self._kernel.size(handle.node)
        return data if there else None

    @answered()
    async def _read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        handle = self._files[fh]
        node, tellings = handle.node, self._kernel.updates(handle.node)
        data = await self._vfs.files.read(handle, off, size)
        if node.writer is None and self._kernel.through_pages(node, fh):
            got, there = range(off, off + len(data)), self._vfs.attributes(node).size
            await self._kernel.check_read(node, got, size, there, tellings)
        elif data:
            self._kernel.filled(node)
        # Any buffer will do: pyfuse3 passes its address on. A copy to `bytes` would be one too many.
        return cast(bytes, data)

    @answered(None)  # it goes to this machine's disk
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        handle = self._files[fh]
        told = self._kernel.size(handle.node)
        self._kernel.record(handle.node, max(told, off + len(buf)))
        self._kernel.gave(handle.node, off, len(buf))
        # The pages of a memory map come through any handle that can write, one that appends as well. They
        # lie below the size that the kernel knows; what is appended begins at it.
        placed = off < told and off % mmap.PAGESIZE == 0
        return await self._vfs.files.write(handle, off, buf, placed=placed)

    @answered(None)
    async def flush(self, fh: FileHandleT) -> None:
        handle = self._files[fh]
        shared = await self.closers.left(handle)
        killed = await self.closers.was_killed(handle)
        try:
            await self._vfs.files.flush(handle, shared=shared, killed=killed)
        except Exception:
            if not await self.closers.goes_on(handle):
                self._failed.add(handle.node)
                await self._kernel.doubt(handle.node)
            raise

    @answered(None)
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._vfs.files.fsync(self._files[fh])

    @answered(None)
    async def release(self, fh: FileHandleT) -> None:
        handle = self._files.pop(fh)
        node = handle.node
        await self._kernel.closed(node, fh)
        parent, name, generation = node.parent, node.name, node.generation
        try:
            await self._vfs.files.release(handle)
        finally:
            self._failed.released(node)
        if node.generation != generation:
            # It was not saved. The kernel must believe neither its pages nor, of a new file, its name.
            await self._kernel.disbelieve(node, parent, name)

    # -- bookkeeping -----------------------------------------------------------------------------------

    def _opened_by(self, handle: int) -> Node:
        return (self._files.get(handle) or self._folders[handle]).node

    async def _decided(self, inode: InodeT) -> Node:
        """Return a node once it is known whether its last close saved it.

        Raises ESTALE for a new file that was not: the kernel then asks for its name again, and may create the file.
        """
        node = self._node(inode)
        await self._failed.decided(node)
        if not (node.is_dir or node.entry or node.writer or node.is_view):
            raise FUSEError(errno.ESTALE)
        return node

    def _opened(self, handle: Handle) -> FileInfo:
        number, node, view = next(self._numbers), handle.node, handle.view
        self._files[number] = handle
        kept, past = self._kernel.opened(node, number, None if view is None else view.size)
        if view is not None:
            view.kept = kept and not past and self._kernel.has_pages(node)
        return FileInfo(fh=FileHandleT(number), keep_cache=kept, direct_io=past)
