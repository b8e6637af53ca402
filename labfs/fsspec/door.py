"""What is asked of the core by path: looking, opening, reading, writing, moving. Runs in the core's thread.

A path has no leading slash, as in object stores: `site/project/record/file`; "" is the root. Folders that are part
of files' paths are made along with a file; projects and records only by `mkdir`.

A file's name was chosen by the caller, so that only names that are known to be temporary make a draft.

Tests: mount/test_fsspec.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from labfs.backend import Accept
from labfs.errors import CrossDevice, Exists, Invalid, IsDirectory, LabfsError, NotDirectory, NotFound
from labfs.tree.lister import SHARE
from labfs.tree.listing import Known
from labfs.tree.names import looked_for, to_be_made
from labfs.tree.node import Folder, Node
from labfs.vfs import Buffer, Handle, Maker, Vfs

LISTING_S = 1.0  # age of a listing that is asked for anew; older ones suffice to find a name that they have
PIECE = 4 * 1024 * 1024  # bytes that are read or written at a time
Version = tuple[str, str | None]


def parts(path: str) -> list[str]:
    """Return the names in a path. Raises Invalid for `.` and `..`, which mean nothing here."""
    found = [name for name in path.split("/") if name]
    if any(name in (".", "..") for name in found):
        raise Invalid(f"“{path}” must not hold “.” or “..”.")
    return found


class Door:
    """Requests by path to a file system."""

    def __init__(self, vfs: Vfs) -> None:
        self._vfs = vfs

    # -- looking -------------------------------------------------------------------------------------

    async def node(self, path: str) -> Node:
        """Return the node at a path. A listing that lacks a name is renewed first, as another process may have it.

        Raises NotFound.
        """
        node: Node = self._vfs.root
        for name in parts(path):
            node = await self._child(node, looked_for(_encoded(name)))
        return node

    async def _child(self, node: Node, name: str) -> Node:
        try:
            return await self._vfs.lookup(node, name)
        except NotFound:
            if not self._renewed(node.folder):
                raise
        return await self._vfs.lookup(node, name)

    def _renewed(self, folder: Folder) -> bool:
        """Have a directory listed anew at the next access, if its listing is not of just now."""
        container = folder.container
        age_s = trio.current_time() - container.listed_at
        if container.is_root or container.known is Known.NOTHING or age_s < max(LISTING_S, SHARE * container.took_s):
            return False
        self._vfs.tree.expire(folder)
        return True

    async def _folder(self, path: str) -> Folder:
        node = await self.node(path)
        if not isinstance(node, Folder):
            raise NotDirectory(f"“{node.name}” is not a directory.")
        return node

    async def info(self, path: str) -> dict[str, Any]:
        node = await self.node(path)
        await self._vfs.measure(node)
        return self._told(node)

    async def listing(self, path: str, fresh: bool) -> list[dict[str, Any]]:
        """Return what is in a directory, or the file itself; `fresh` has the server asked anew."""
        node = await self.node(path)
        if not isinstance(node, Folder):
            return [await self.info(path)]
        if fresh:
            self._vfs.tree.expire(node)
        self._renewed(node)  # another process, such as a worker of this one, may have written there
        children = await self._vfs.listing(node)
        if self._vfs.tree.incomplete(node) is not None:
            await self._vfs.tree.whole(node)
            children = await self._vfs.listing(node)
        return [self._told(child) for child in children]

    async def forget(self, path: str) -> None:
        """Have a directory and all below it listed anew at the next access."""
        with suppress(LabfsError):
            self._vfs.refresh(await self.node(path))

    def _told(self, node: Node) -> dict[str, Any]:
        found, entry = self._vfs.attributes(node), node.entry
        known = found.certain or node.writer is not None or (entry is not None and entry.size is not None)
        return {
            "name": node.path.lstrip("/"),
            "size": found.size if node.is_dir or known else None,
            "type": "directory" if node.is_dir else "file",
            "mtime": found.modified_ns / 1e9,
            "id": (entry.label or None) if entry else None,
            "version": entry.version if entry else None,
            "writable": found.writable,
        }

    # -- open files ----------------------------------------------------------------------------------

    async def open(self, path: str, mode: str) -> Handle:
        """Open a file as the built-in `open` does; `mode` is of `rb`, `wb`, `ab`, `xb`, and each with a `+`."""
        kind, update = mode[0], "+" in mode
        if kind not in "rwax":
            raise Invalid(f"“{mode}” is no mode of a file.")
        files, write = self._vfs.files, kind != "r" or update
        try:
            node = await self.node(path)
        except NotFound:
            if kind == "r":
                raise
            return await self._create(path, append=kind == "a")
        if kind == "x":
            raise Exists(f"There already is a “{node.name}” in {node.parent.path}.")
        return await files.open(node, read=True, write=write, truncate=kind == "w", append=kind == "a")

    async def _create(self, path: str, *, append: bool) -> Handle:
        *above, name = parts(path)
        parent = await self._made("/".join(above))
        return await self._vfs.files.create(
            parent, to_be_made(_encoded(name)), maker=self._maker(name), truncate=not append, append=append
        )

    async def _made(self, path: str) -> Folder:
        """Return a directory; what is missing of it is made if it is only part of its files' paths."""
        try:
            return await self._folder(path)
        except NotFound:
            *above, name = parts(path)
            parent = await self._made("/".join(above))
            if parent.is_root or (parent.entry is not None and Accept.DIRECTORY in parent.entry.takes):
                raise  # a project or a record is made only where it is asked for
        return await self._mkdir(parent, name)

    @staticmethod
    def _maker(name: str) -> Maker:
        return Maker(pid=os.getpid(), arguments=("", name))

    def version(self, handle: Handle) -> Version | None:
        entry = handle.node.entry
        return None if entry is None else (entry.id, entry.version)

    def size(self, handle: Handle) -> int:
        """Return the size in bytes of what a handle shows."""
        node, view = handle.node, handle.view
        if node.writer is None and view is not None and view.size is not None:
            return view.size
        return self._vfs.attributes(node).size

    async def opened(self, path: str, mode: str) -> tuple[Handle, int, Version | None]:
        """Open a file; return its handle, its size in bytes, and its version."""
        handle = await self.open(path, mode)
        return handle, self.size(handle), self.version(handle)

    async def measured(self, handle: Handle) -> int:
        return self.size(handle)

    async def read(self, handle: Handle, offset: int, size: int) -> Buffer:
        return await self._vfs.files.read(handle, offset, size)

    async def write(self, handle: Handle, offset: int, data: bytes) -> tuple[int, int]:
        """Write at `offset`, or at the end of a file that is appended to; return where they begin, and how many."""
        writer = handle.node.writer
        start = writer.size if handle.append and writer is not None else offset
        return start, await self._vfs.files.write(handle, offset, data)

    async def truncate(self, handle: Handle, size: int) -> None:
        await self._vfs.files.resize(handle.node, size)

    async def sync(self, handle: Handle) -> None:
        await self._vfs.files.fsync(handle)

    async def close(self, handle: Handle) -> None:
        """Close a handle, and save what was written. What a cancelled close did not save is left in the outbox."""
        try:
            await self._vfs.files.flush(handle, shared=False)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._vfs.files.flush(handle, shared=False, killed=True)
            raise
        finally:
            with trio.CancelScope(shield=True):
                await self._vfs.files.release(handle)

    async def discard(self, handle: Handle) -> None:
        """Close a handle, and drop what was written, unless others write to the file too."""
        node, files = handle.node, self._vfs.files
        if node.writer is not None and files.writers(node) == 1:
            node.writer.void()
            if node.entry is None:
                files.drop(node)
        await files.release(handle)

    @asynccontextmanager
    async def _writing(self, path: str, mode: str) -> AsyncIterator[Handle]:
        """Open a file to be written in the block, and save it; if the block fails nothing of it is saved."""
        handle = await self.open(path, mode)
        try:
            yield handle
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.discard(handle)
            raise
        await self.close(handle)

    # -- whole files ---------------------------------------------------------------------------------

    async def fetch(self, path: str, start: int | None, stop: int | None) -> bytes:
        """Return the bytes `[start, stop)` of a file; negative ones count from its end."""
        handle = await self.open(path, "rb")
        try:
            first, last, _ = slice(start, stop).indices(self.size(handle))
            pieces = []
            while first < last and (data := await self.read(handle, first, min(PIECE, last - first))):
                pieces.append(data)
                first += len(data)
            return b"".join(pieces)
        finally:
            await self._vfs.files.release(handle)

    async def store(self, path: str, data: bytes, mode: str) -> None:
        """Save `data` as a file."""
        view = memoryview(data).cast("B")
        async with self._writing(path, mode) as handle:
            for offset in range(0, len(view), PIECE):
                await self._vfs.files.write(handle, offset, bytes(view[offset : offset + PIECE]))

    async def get(self, path: str, local: Path, size: Any, moved: Any) -> None:
        """Copy a file to this machine's disk; `size` and `moved` are called with bytes."""
        handle = await self.open(path, "rb")
        try:
            size(self.size(handle))
            async with await trio.open_file(local, "wb") as sink:
                offset = 0
                while data := await self.read(handle, offset, PIECE):
                    await sink.write(data)
                    offset += len(data)
                    moved(len(data))
        except BaseException:
            with suppress(OSError):
                local.unlink()  # a part would look complete
            raise
        finally:
            await self._vfs.files.release(handle)

    async def put(self, local: Path, path: str, mode: str, size: Any, moved: Any) -> None:
        """Save a file of this machine's disk."""
        async with await trio.open_file(local, "rb") as source:
            size(os.fstat(source.fileno()).st_size)
            async with self._writing(path, mode) as handle:
                offset = 0
                while data := await source.read(PIECE):
                    offset += await self._vfs.files.write(handle, offset, data)
                    moved(len(data))

    async def copy(self, path: str, new: str) -> None:
        """Copy a file; a directory is made anew, without what is in it."""
        if (await self.node(path)).is_dir:
            await self.mkdirs(new, True)
            return
        source = await self.open(path, "rb")
        try:
            async with self._writing(new, "wb") as sink:
                offset = 0
                while data := await self.read(source, offset, PIECE):
                    offset += await self._vfs.files.write(sink, offset, bytes(data))
        finally:
            await self._vfs.files.release(source)

    # -- names ---------------------------------------------------------------------------------------

    async def mkdir(self, path: str, parents: bool) -> None:
        """Make a directory; with `parents` those above it too. Raises Exists."""
        *above, _ = parts(path) or [""]
        if parents and above:
            await self.mkdirs("/".join(above), True)
        await self._mkdir(await self._folder("/".join(above)), (parts(path) or [""])[-1])

    async def mkdirs(self, path: str, exist_ok: bool) -> None:
        folder: Folder = self._vfs.root
        names = parts(path)
        for number, name in enumerate(names):
            try:
                node = await self._child(folder, looked_for(_encoded(name)))
            except NotFound:
                node = await self._mkdir(folder, name)
            else:
                if number == len(names) - 1 and not exist_ok:
                    raise Exists(f"There already is a “{name}” in {folder.path}.")
            if not isinstance(node, Folder):
                raise NotDirectory(f"“{name}” is not a directory.")
            folder = node

    async def _mkdir(self, parent: Folder, name: str) -> Folder:
        made = await self._vfs.mkdir(parent, to_be_made(_encoded(name)), self._maker(name))
        assert isinstance(made, Folder)
        return made

    async def remove(self, path: str) -> None:
        node = await self.node(path)
        if node.is_dir:
            raise IsDirectory(f"“{node.name}” is a directory.")
        await self._vfs.unlink(node.parent, node.name, self._maker(node.name))

    async def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        node = await self.node(path)
        await self._vfs.rmdir(node.parent, node.name)

    async def emptied(self, path: str) -> None:
        """Remove a directory whose files were removed; one that was only part of their paths is gone with them."""
        with suppress(NotFound):
            await self.rmdir(path)

    async def move(self, path: str, new: str) -> bool:
        """Rename a node; false where its system cannot, so that it has to be copied."""
        node = await self.node(path)
        *above, name = parts(new)
        into = await self._made("/".join(above))
        with suppress(NotFound):
            there = await self._child(into, looked_for(_encoded(name)))
            if isinstance(there, Folder):
                into, name = there, node.name
        try:
            await self._vfs.rename(node.parent, node.name, into, to_be_made(_encoded(name)), maker=self._maker(name))
        except CrossDevice:
            return False
        return True

    async def touch(self, path: str) -> None:
        """Set the date of a file to now; its system may keep another."""
        self._vfs.set_modified(await self.node(path), time.time_ns())


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
