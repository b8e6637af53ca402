"""Requests that no lab system supports: links, sockets, pipes, devices, and user-defined extended attributes.

pyfuse3 answers ENOSYS to a request without a handler, which says that the kernel is too new for us. symlink(2),
link(2) and mknod(2) document EPERM for a file system without these.

Tests: mount/test_semantics.
"""

from __future__ import annotations

import errno

import pyfuse3
from pyfuse3 import EntryAttributes, FileNameT, FUSEError, InodeT, ModeT, RequestContext, XAttrNameT

from labfs.errors import NotPermitted, Unsupported
from labfs.fuse import answers
from labfs.fuse.answers import answered
from labfs.tree.names import shown, to_be_made


class Refusals(pyfuse3.Operations, answers.Door):
    """The requests that are always refused; those for extended attributes unless there are `xattrs`."""

    def __init__(self, *, xattrs: bool) -> None:
        super().__init__()
        self._xattrs = xattrs

    def check_xattrs(self) -> None:
        """Raise ENOSYS where files have none: the kernel then answers by itself, for this mount, from now on.

        Else `ls -l` asks for two of each file, and each write for one.
        """
        if not self._xattrs:
            raise FUSEError(errno.ENOSYS)

    @answered()
    async def symlink(self, parent: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext) -> EntryAttributes:
        raise NotPermitted(
            f"“{to_be_made(name)}” cannot be a symbolic link: no lab system has any; copy the file itself."
        )

    @answered()
    async def link(
        self, inode: InodeT, new_parent: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        raise NotPermitted(
            f"“{to_be_made(new_name)}” cannot be a hard link: no lab system has any; copy the file itself."
        )

    @answered()
    async def mknod(
        self, parent: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        raise NotPermitted(f"“{to_be_made(name)}” cannot be a pipe, socket or device: no lab system has any.")

    @answered()
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        raise Unsupported(f"The attribute {shown(name)} cannot be set: no lab system keeps any.")

    @answered()
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        raise Unsupported(f"The attribute {shown(name)} cannot be removed: no lab system keeps any.")
