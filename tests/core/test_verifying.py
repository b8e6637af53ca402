"""Files are read whole from their server, and compared with its checksums, past everything that is kept here."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio
from memory import RULES, MemoryBackend, mounted
from steps import AWAY, contents
from trio.testing import MockClock as Clock

from labfs.tree.node import Node
from labfs.vfs import Vfs
from labfs.vfs.remote.verifying import verify

DATA = bytes(range(256)) * 5000


async def verdicts(vfs: Vfs, node: Node) -> dict[str, str]:
    return {each.path.rpartition("/")[2]: each.verdict async for each in verify(vfs.tree, node)}


def put(backend: MemoryBackend, name: str, data: bytes, **changes: Any) -> None:
    entry = backend.put(name, data)
    backend.files[int(entry.label)] = (replace(entry, **changes), data)


async def test_each_file_is_what_its_server_says_or_not(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=RULES)
    right = f"md5:{hashlib.md5(DATA).hexdigest()}"
    put(backend, "right", DATA, checksum=right)
    put(backend, "wrong", DATA[:-1] + b"?", checksum=right)
    put(backend, "plain", DATA, checksum=None)
    put(backend, "empty", b"", checksum=f"md5:{hashlib.md5(b'').hexdigest()}")
    put(backend, "long", DATA, size=7, checksum=None)
    put(backend, "odd parts", DATA, checksum=f"md5-of-parts:{'0' * 32}-3")
    put(backend, "archived", DATA, unreadable="It is archived.")
    async with mounted(tmp_path, backend) as (vfs, box):
        assert await verdicts(vfs, box) == {
            "right": "proved", "wrong": "wrong", "plain": "equal", "empty": "proved", "long": "wrong",
            "odd parts": "equal", "archived": "unread",
        }  # fmt: skip


async def test_what_is_kept_here_is_not_looked_at(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=RULES)
    put(backend, "f", DATA, checksum=f"md5:{hashlib.md5(DATA).hexdigest()}")
    async with mounted(tmp_path, backend) as (vfs, box):
        assert await contents(vfs, "/memory/box/f") == DATA[: 1 << 20]
        for number, (entry, data) in backend.files.items():
            backend.files[number] = (entry, data[:-1] + b"?")
        assert await verdicts(vfs, box) == {"f": "wrong"}


async def test_tags_that_are_no_checksums_prove_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=replace(RULES, checksums_prove=False))
    put(backend, "f", DATA, checksum=f"md5:{'0' * 32}")
    async with mounted(tmp_path, backend) as (vfs, box):
        assert await verdicts(vfs, box) == {"f": "equal"}


async def test_what_cannot_be_read_is_said_and_stops_no_other(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=RULES, faults={"pour": [AWAY]})
    put(backend, "a", DATA, checksum=None)
    put(backend, "b", DATA, checksum=None)
    async with mounted(tmp_path, backend) as (vfs, box):
        assert sorted((await verdicts(vfs, box)).values()) == ["equal", "unread"]


async def test_nothing_goes_on_once_nobody_waits(tmp_path: Path) -> None:
    backend = MemoryBackend(capabilities=RULES, piece=1000)
    put(backend, "f", DATA, checksum=None)
    async with mounted(tmp_path, backend) as (vfs, box):
        await vfs.listing(box)  # type: ignore[arg-type]
        backend.latency_s = 0.01
        with trio.move_on_after(0.3) as scope:
            await verdicts(vfs, box)
        assert scope.cancelled_caught
