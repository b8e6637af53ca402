"""What no lab system has: links, sockets, pipes, devices, and extended attributes of the users' own.

pyfuse3 answers ENOSYS to what it finds no handler for, which says that the kernel is too new for us. EPERM is what
symlink(2), link(2) and mknod(2) document for a file system without these.
"""

from __future__ import annotations

import errno

import pyfuse3
from pyfuse3 import EntryAttributes, FileNameT, FUSEError, InodeT, ModeT, RequestContext, XAttrNameT


class Refusals(pyfuse3.Operations):
    """The requests that are always refused."""

    async def symlink(self, parent: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    async def link(
        self, inode: InodeT, new_parent: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    async def mknod(
        self, parent: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        raise FUSEError(errno.EPERM)

    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        raise FUSEError(errno.EOPNOTSUPP)

    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        raise FUSEError(errno.EOPNOTSUPP)
