"""Open files, as Python's own: a raw file in the core, and around it a buffer of the standard library.

The close of a file that was written to is its save. A file in a transaction is saved by `commit`.

Tests: mount/test_fsspec.
"""

from __future__ import annotations

import errno
import io
import os
from typing import Any, Self

from labfs.fsspec.core import Core, core_of
from labfs.fsspec.door import PIECE, Version
from labfs.vfs import Buffer, Handle

BUFFER = 128 * 1024  # bytes, as a kernel reads ahead


class Raw(io.RawIOBase):
    """A file without a buffer. Raises OSError with errno and sentence, also at its close.

    After a fork a file that is read is opened anew in the child, as the same version; one that is written is the
    parent's alone.
    """

    def __init__(self, config: str | None, path: str, mode: str, autocommit: bool = True) -> None:
        super().__init__()
        self.path, self.mode, self.name = path, mode, path
        self._config = config
        self._autocommit = autocommit
        self._writes = mode[0] != "r" or "+" in mode
        self._reads = mode[0] == "r" or "+" in mode
        self._settled = True  # until it is open
        self.core: Core = core_of(config)
        self._handle: Handle
        self._handle, self.size, self.version = self.core.call(self.core.door.opened, path, mode)
        self._at = self.size if mode[0] == "a" else 0
        self._settled = False

    def _asked(self) -> Core:
        """Return the core that has this file open."""
        if self.closed:
            raise ValueError("I/O operation on closed file.")
        if self.core.pid != os.getpid():
            if self._writes:
                raise OSError(errno.EBADF, "What was opened to be written before a fork is the parent's.", self.path)
            before, self.core = self.version, core_of(self._config)
            self._handle, self.size, self.version = self.core.call(self.core.door.opened, self.path, self.mode)
            self.expect(before)
        return self.core

    def expect(self, version: Version | None) -> None:
        """Raises OSError unless this is the version of the file."""
        if self.version != version:
            self.close()
            raise OSError(errno.ESTALE, "The file has another version now; open it anew.", self.path)

    # -- what the standard library's buffers ask ---------------------------------------------------------

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        pieces = []
        while data := self._read(PIECE):
            pieces.append(bytes(data))
        return b"".join(pieces)

    def _read(self, size: int) -> Any:
        if not self._reads:
            raise io.UnsupportedOperation("not readable")
        core = self._asked()
        data = core.call(core.door.read, self._handle, self._at, size)
        self._at += len(data)
        return data

    def write(self, data: Any, /) -> int:
        if not self._writes:
            raise io.UnsupportedOperation("not writable")
        core = self._asked()
        start, written = core.call(core.door.write, self._handle, self._at, bytes(data))
        self._at = start + written
        self.size = max(self.size, self._at)
        return written

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        core = self._asked()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence)
        if base is None and whence != os.SEEK_END:
            raise ValueError(f"whence {whence} is none of 0, 1 and 2")
        if base is None:
            base = core.call(core.door.measured, self._handle)
        if base + offset < 0:
            raise OSError(errno.EINVAL, "A position before the beginning of a file.", self.path)
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int | None = None) -> int:
        if not self._writes:
            raise io.UnsupportedOperation("not writable")
        core = self._asked()
        size = self._at if size is None else size
        core.call(core.door.truncate, self._handle, size)
        self.size = size
        return size

    def sync(self) -> None:
        """Have what was written survive a power cut on this machine; nothing is sent."""
        core = self._asked()
        core.call(core.door.sync, self._handle)

    def close(self) -> None:
        """Save what was written, unless a transaction is to do that."""
        if self.closed or self.core.elsewhere(self.close):
            return
        super().close()
        if self._autocommit or not self._writes:
            self.settle()

    def settle(self, *, keep: bool = True) -> None:
        """End the file in the core: what was written is saved, or dropped. Raises OSError."""
        if self._settled:
            return
        self._settled = True
        if self.core.pid == os.getpid() and self.core.alive:
            door = self.core.door
            self.core.call(door.close if keep else door.discard, self._handle)


class Extras:
    """What fsspec's files have beyond the standard library's."""

    raw: Raw

    @property
    def path(self) -> str:
        return self.raw.path

    @property
    def size(self) -> int:
        return self.raw.size

    @property
    def details(self) -> dict[str, Any]:
        return {"name": self.raw.path, "size": self.raw.size, "type": "file"}

    def commit(self) -> None:
        """Save what was written in a transaction. Raises OSError."""
        self.close()
        self.raw.settle()

    def discard(self) -> None:
        """Drop what was written in a transaction."""
        self.close()
        self.raw.settle(keep=False)

    def close(self) -> None:
        """Save what was written, and raise OSError if it is not saved; a transaction does that later."""
        if self.closed or self.raw.core.elsewhere(self.close):  # type: ignore[attr-defined]
            return
        super().close()  # type: ignore[misc]

    def __reduce__(self) -> Any:
        if self.raw.writable():
            raise TypeError("A file that is open to be written cannot be pickled.")
        return reopened, (self.raw._config, self.raw.path, self.tell(), self.raw.version)  # type: ignore[attr-defined]

    def __enter__(self) -> Self:
        return self


class Reader(Extras, io.BufferedReader):  # type: ignore[misc]
    """A file that is read."""


class Writer(Extras, io.BufferedWriter):  # type: ignore[misc]
    """A file that is written from its beginning, or appended to."""


class Both(Extras, io.BufferedRandom):  # type: ignore[misc]
    """A file that is read and written."""


def opened(config: str | None, path: str, mode: str, autocommit: bool, size: int | None) -> Reader | Writer | Both:
    """Open a file in a binary mode, with a buffer of `size` bytes."""
    raw = Raw(config, path, mode, autocommit)
    kind = Both if "+" in mode else Writer if raw.writable() else Reader
    file = kind(raw, size or BUFFER)
    raw.core.open.add(file)
    return file


def reopened(config: str | None, path: str, at: int, version: Version | None) -> Reader | Writer | Both:
    """Open a file that was pickled, in the same version. Raises OSError."""
    file = opened(config, path, "rb", True, None)
    file.raw.expect(version)
    file.seek(at)
    return file


class Streamed:
    """A file for asyncio: `read`, `write`, `seek` and `close` are awaited."""

    def __init__(self, core: Core, path: str, mode: str, handle: Handle, size: int) -> None:
        self.path, self.mode, self.size = path, mode, size
        self.closed = False
        self._core = core
        self._handle = handle
        self._at = size if mode[0] == "a" else 0

    async def read(self, length: int = -1) -> bytes:
        pieces: list[bytes] = []
        left = length
        while left and (data := await self._read(PIECE if left < 0 else min(left, PIECE))):
            pieces.append(data)
            left -= len(data) if left > 0 else 0
        return b"".join(pieces)

    async def _read(self, size: int) -> bytes:
        data = bytes(await self._core.ask(self._core.door.read, self._handle, self._at, size))
        self._at += len(data)
        return data

    async def write(self, data: Buffer) -> int:
        start, written = await self._core.ask(self._core.door.write, self._handle, self._at, bytes(data))
        self._at = start + written
        return written

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        end = await self._core.ask(self._core.door.measured, self._handle) if whence == os.SEEK_END else self._at
        self._at = offset if whence == os.SEEK_SET else end + offset
        return self._at

    def tell(self) -> int:
        return self._at

    async def close(self) -> None:
        """Save what was written. Raises OSError."""
        if not self.closed:
            self.closed = True
            await self._core.ask(self._core.door.close, self._handle)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
