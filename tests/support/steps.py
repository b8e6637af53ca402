"""Steps that tests of the core share: saves that fail, wait and are looked for, in virtual time."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import RULES, MemoryBackend, told

from labfs.backend import Replace
from labfs.errors import Unavailable
from labfs.tree.node import Node
from labfs.vfs.vfs import Vfs
from labfs.write import spool as spools
from labfs.write.spool import Spool

WHOLE = replace(RULES, ranged=False)
IN_PLACE = replace(RULES, replace=Replace.IN_PLACE)
AWAY = Unavailable("The site is away.")


async def waiting(vfs: Any, box: Any, backend: MemoryBackend, name: str, data: bytes) -> None:
    """Leave a save in the outbox."""
    backend.faults["upload"] = [AWAY]
    with pytest.raises(Unavailable):
        await save(vfs, box, name, data)


async def called(backend: MemoryBackend, operation: str, times: int) -> None:
    """Wait until something was asked for so many times more."""
    until = backend.calls[operation] + times
    while backend.calls[operation] < until:  # noqa: ASYNC110
        await trio.sleep(0.1)


def disk_full(monkeypatch: pytest.MonkeyPatch, *, until: Callable[[], bool]) -> None:
    """Let no note be written until something is so."""
    write_note = spools.write_note

    def full(path: Path, note: dict[str, Any]) -> None:
        if not until():
            raise OSError(errno.ENOSPC, "No space left on device")
        write_note(path, note)

    monkeypatch.setattr(spools, "write_note", full)


class Slow(MemoryBackend):
    """A backend that shows a file only after a while."""

    hidden_s = 0.0

    async def page(self, parent: Any, cursor: str | None) -> Any:
        await trio.sleep(0 if parent.id == "" else 5)
        return await super().page(parent, cursor)


class Renaming(MemoryBackend):
    """A backend whose versions change with the name."""

    async def rename(self, entry: Any, target: Any) -> Any:
        moved = await super().rename(entry, target)
        number = int(entry.label)
        self.files[number] = (replace(moved, version=f"{moved.version} {target.name}"), self.files[number][1])
        return self.files[number][0]


async def contents(vfs: Any, path: str) -> bytes:
    handle = await vfs.files.open(await vfs.resolve(path), read=True, write=False)
    try:
        return bytes(await vfs.files.read(handle, 0, 1 << 20))
    finally:
        await vfs.files.release(handle)


async def save(vfs: Vfs, box: Node, name: str, data: bytes) -> None:
    handle = await vfs.files.create(box, name, truncate=True)
    try:
        await vfs.files.write(handle, 0, data)
        await vfs.files.flush(handle, shared=False)
    finally:
        await vfs.files.release(handle)


async def a_while() -> None:
    """Let ten minutes pass."""
    await trio.sleep(600)


def states(path: Path) -> list[str]:
    return [note["state"] for note in told(Spool(path / "spool"))]
