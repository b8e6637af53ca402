"""The class that fsspec finds: `fsspec.filesystem("labfs")`, asynchronous and, by fsspec's own means, synchronous.

Tests: mount/test_fsspec, mount/test_fsspec_suite.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.asyn import AsyncFileSystem, get_loop, sync
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.utils import stringify_path

from labfs.daemon.config import default_path
from labfs.fsspec import files
from labfs.fsspec.core import Core, core_of

MODES = {"overwrite": "wb", "create": "xb"}


class LabFileSystem(AsyncFileSystem):  # type: ignore[misc]
    """The sites of a configuration; paths are `site/project/record/file`.

    `config` is the path of a configuration; without it the one is used that a mount would find. What fails raises the
    OSError of its errno, with a sentence. Listings and bytes are kept by the core, which all instances of a process
    share.
    """

    protocol = "labfs"
    root_marker = ""
    cachable = True
    async_impl = True

    def __init__(self, config: str | os.PathLike[str] | None = None, **options: Any) -> None:
        super().__init__(config=config, **options)
        self._pid = os.getpid()
        # Absolute, so that a process that is sent this instance finds it too.
        self.config = str(Path(config or default_path()).expanduser().absolute())

    def __reduce__(self) -> Any:
        kept = {**self.storage_options, "config": self.config}
        return _made, (type(self), kept)

    @property
    def loop(self) -> Any:
        if self._pid != os.getpid():  # forked; fsspec itself would refuse
            self._pid = os.getpid()
            self._loop = None if self.asynchronous else get_loop()
        return self._loop

    @property
    def fsid(self) -> str:
        return f"labfs_{self.config}"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        bare = stringify_path(path)
        for prefix in ("labfs://", "labfs::"):
            bare = bare.removeprefix(prefix)
        return bare.strip("/")

    def unstrip_protocol(self, name: str) -> str:
        return f"labfs://{self._strip_protocol(name)}"

    async def _core(self) -> Core:
        """Return this process's core, without keeping asyncio waiting while it is made."""
        return await asyncio.to_thread(core_of, self.config)

    async def _ask(self, request: str, *args: Any) -> Any:
        core = await self._core()
        return await core.ask(getattr(core.door, request), *args)

    # -- looking -------------------------------------------------------------------------------------

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self._ask("info", self._strip_protocol(path))
        return found

    async def _ls(self, path: str, detail: bool = True, refresh: bool = False, **_: Any) -> list[Any]:
        found: list[dict[str, Any]] = await self._ask("listing", self._strip_protocol(path), refresh)
        return found if detail else sorted(one["name"] for one in found)

    def invalidate_cache(self, path: str | None = None) -> None:
        core = core_of(self.config)
        core.call(core.door.forget, self._strip_protocol(path or ""))
        super().invalidate_cache(path)

    async def _modified(self, path: str) -> Any:
        return (await self._info(path))["mtime"]

    def ukey(self, path: str) -> str:
        """Return what changes with a file's version."""
        found = self.info(path)
        return f"{found['id']} {found['version']} {found['size']} {found['mtime']}"

    # -- files ---------------------------------------------------------------------------------------

    def open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        file = super().open(path, mode, *args, **options)
        with suppress(TypeError):  # some files that compress cannot be remembered
            core_of(self.config).open.add(file)
        return file

    def _open(
        self, path: str, mode: str = "rb", block_size: int | None = None, autocommit: bool = True, **_: Any
    ) -> Any:
        return files.opened(self.config, path, mode, autocommit, block_size)

    async def open_async(self, path: str, mode: str = "rb", **_: Any) -> files.Streamed:
        core, bare = await self._core(), self._strip_protocol(path)
        handle, size, _version = await core.ask(core.door.opened, bare, mode)
        return files.Streamed(core, bare, mode, handle, size)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        data: bytes = await self._ask("fetch", self._strip_protocol(path), start, end)
        return data

    async def _cat(self, path: Any, recursive: bool = False, **options: Any) -> Any:
        if recursive:  # else a directory would be one of the files
            found = await self._expand_path(path, recursive=True)
            path = [one for one in found if not await self._isdir(one)]
        return await super()._cat(path, **options)

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        await self._ask("store", self._strip_protocol(path), value, MODES[mode])

    async def _put_file(
        self, lpath: Any, rpath: str, mode: str = "overwrite", callback: Any = DEFAULT_CALLBACK, **_: Any
    ) -> None:
        local, path = Path(stringify_path(lpath)), self._strip_protocol(rpath)
        if local.is_dir():
            await self._ask("mkdirs", path, True)
            return
        await self._ask("put", local, path, MODES[mode], callback.set_size, callback.relative_update)

    async def _get_file(self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **_: Any) -> None:
        path = self._strip_protocol(rpath)
        if hasattr(lpath, "write"):
            lpath.write(await self._cat_file(path))
            return
        local = Path(stringify_path(lpath))
        if await self._isdir(path):
            local.mkdir(parents=True, exist_ok=True)
            return
        local.parent.mkdir(parents=True, exist_ok=True)
        await self._ask("get", path, local, callback.set_size, callback.relative_update)

    async def _cp_file(self, path1: str, path2: str, **_: Any) -> None:
        await self._ask("copy", self._strip_protocol(path1), self._strip_protocol(path2))

    # -- names ---------------------------------------------------------------------------------------

    async def _rm_file(self, path: str, **_: Any) -> None:
        await self._ask("remove", self._strip_protocol(path))

    async def _rm(
        self, path: Any, recursive: bool = False, batch_size: int | None = None, maxdepth: int | None = None, **_: Any
    ) -> None:
        for one in reversed(await self._expand_path(path, recursive=recursive, maxdepth=maxdepth)):
            if recursive and await self._isdir(one):
                await self._ask("emptied", one)
            elif not recursive or await self._exists(one):
                await self._rm_file(one)

    async def _mv_file(self, path1: str, path2: str) -> None:
        old, new = self._strip_protocol(path1), self._strip_protocol(path2)
        if not await self._ask("move", old, new):
            await self._cp_file(old, new)
            await self._rm_file(old)

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **options: Any) -> None:
        """Rename where the system can; elsewhere copy and then remove, unless copying fails."""
        single = isinstance(path1, str) and isinstance(path2, str) and not recursive and maxdepth is None
        if single and self.isfile(path1):
            core = core_of(self.config)
            if core.call(core.door.move, self._strip_protocol(path1), self._strip_protocol(path2)):
                return
        super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **options)

    async def _mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        await self._ask("mkdir", self._strip_protocol(path), create_parents)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        await self._ask("mkdirs", self._strip_protocol(path), exist_ok)

    async def _rmdir(self, path: str) -> None:
        await self._ask("rmdir", self._strip_protocol(path))

    async def _touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        bare = self._strip_protocol(path)
        if truncate or not await self._exists(bare):
            await self._pipe_file(bare, b"")
        else:
            await self._ask("touch", bare)

    def rmdir(self, path: str) -> None:
        core = core_of(self.config)
        core.call(core.door.rmdir, self._strip_protocol(path))

    def touch(self, path: str, truncate: bool = True, **options: Any) -> None:
        """Make an empty file, or empty one; without `truncate` an existing file gets the date of now."""
        sync(self.loop, self._touch, path, truncate=truncate, **options)

    def modified(self, path: str) -> Any:
        """Return when a file was changed, as a datetime in UTC."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)


def _made(kind: type[LabFileSystem], options: dict[str, Any]) -> LabFileSystem:
    return kind(**options)
