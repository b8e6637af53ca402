"""A save that conflicts is shown beside the file that it is a version of, until a person has decided about it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import SYSTEMS, MemoryBackend, mounted, told
from steps import save

from labfs.errors import Conflict, LabfsError, NotFound, Stale
from labfs.tree.node import Node
from labfs.vfs.vfs import Vfs

Clock = trio.testing.MockClock
YOURS = re.compile(r"f \(yours, \d\d:\d\d\)\.tar\.gz")


@asynccontextmanager
async def drive(base: Path, backend: MemoryBackend) -> AsyncIterator[tuple[Vfs, Node]]:
    async with mounted(base, backend, may_delete=True) as (vfs, box):
        vfs.files.yours.wanted = True
        yield vfs, box


async def names(vfs: Vfs, box: Any) -> list[str]:
    vfs.refresh(box)
    return sorted(node.name for node in await vfs.listing(box))


async def conflict(vfs: Vfs, box: Any, backend: MemoryBackend, mine: bytes = b"mine") -> None:
    """Save `mine` over a file that somebody else saves meanwhile."""
    if not backend.files:
        backend.put("f.tar.gz", b"old")
    vfs.refresh(box)
    node = (await vfs.tree.children(box))["f.tar.gz"]
    old = node.entry
    assert old is not None
    handle = await vfs.files.open(node, read=False, write=True, truncate=True)
    await vfs.files.write(handle, 0, mine)
    backend.files[int(old.label)] = (replace(old, version=f"{old.version} later", size=6), b"theirs")
    with pytest.raises(Conflict):
        await vfs.files.flush(handle, shared=False)
    await vfs.files.release(handle)


async def content(vfs: Vfs, path: str) -> bytes:
    handle = await vfs.files.open(await vfs.resolve(path), read=True, write=False)
    try:
        return bytes(await vfs.files.read(handle, 0, 100))
    finally:
        await vfs.files.release(handle)


async def shown(vfs: Vfs, box: Any) -> str:
    """Return the path of the version that is shown beside the file."""
    mine = [name for name in await names(vfs, box) if name != "f.tar.gz"]
    assert len(mine) == 1, mine
    assert YOURS.fullmatch(mine[0])
    return f"/memory/box/{mine[0]}"


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend(capabilities=SYSTEMS["in place"])


async def test_it_is_read_beside_theirs_and_cannot_be_changed(
    tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend
) -> None:
    async with drive(tmp_path, backend) as (vfs, box):
        await conflict(vfs, box, backend)
        mine = await shown(vfs, box)
        assert (await content(vfs, mine), await content(vfs, "/memory/box/f.tar.gz")) == (b"mine", b"theirs")
        node = await vfs.resolve(mine)
        found = vfs.attributes(node)
        assert (found.size, found.writable) == (4, False)
        assert vfs.xattrs(node)["user.labfs.state"] == "failed"
        for attempt in (
            lambda: vfs.files.open(node, read=False, write=True),
            lambda: vfs.files.truncate(node, 0),
            lambda: vfs.rename(box, node.name, box, "g"),
            lambda: vfs.rename(box, "f.tar.gz", box, node.name),
            lambda: vfs.files.create(box, node.name, truncate=True),
        ):
            with pytest.raises(LabfsError, match="your version of a file"):
                await attempt()
        await trio.sleep(3600)
        assert backend.newest() == {"f.tar.gz": b"theirs"}, "it is never sent by itself"
        assert await shown(vfs, box) == mine


async def test_it_has_all_bytes_also_of_what_was_appended_to(
    tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend
) -> None:
    old = backend.put("f.tar.gz", b"old")
    async with drive(tmp_path, backend) as (vfs, box):
        node = (await vfs.tree.children(box))["f.tar.gz"]  # type: ignore[arg-type]
        handle = await vfs.files.open(node, read=True, write=True, append=True)
        assert bytes(await vfs.files.read(handle, 0, 10)) == b"old"
        await vfs.files.write(handle, 0, b" and mine")
        backend.files[int(old.label)] = (replace(old, version="theirs", size=6), b"theirs")
        with pytest.raises(Conflict):
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert await content(vfs, await shown(vfs, box)) == b"old and mine"


async def test_removing_it_discards_the_save(tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend) -> None:
    async with drive(tmp_path, backend) as (vfs, box):
        await conflict(vfs, box, backend)
        mine = await shown(vfs, box)
        handle = await vfs.files.open(await vfs.resolve(mine), read=True, write=False)
        await vfs.unlink(box, mine.rpartition("/")[2])
        assert await names(vfs, box) == ["f.tar.gz"]
        with pytest.raises(NotFound):
            await vfs.resolve(mine)
        with pytest.raises(Stale):
            await vfs.files.read(handle, 0, 10)
        await vfs.files.release(handle)
        assert told(vfs.saves.spool) == []
    assert backend.newest() == {"f.tar.gz": b"theirs"}


async def test_it_is_sent_when_a_person_says_so(tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend) -> None:
    async with drive(tmp_path, backend) as (vfs, box):
        await conflict(vfs, box, backend)
        await shown(vfs, box)
        name = Path(told(vfs.saves.spool)[0]["file"]).stem
        plan = await vfs.outbox.plan(name)
        assert vfs.outbox.retry(name, plan["over"]) == 1
        await trio.sleep(60)
        assert await names(vfs, box) == ["f.tar.gz"]
    assert backend.newest() == {"f.tar.gz": b"mine"}


async def test_the_next_mount_shows_it_too(tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend) -> None:
    async with drive(tmp_path, backend) as (vfs, box):
        await conflict(vfs, box, backend)
        mine = await shown(vfs, box)
    async with drive(tmp_path, backend) as (vfs, box):
        assert await content(vfs, mine) == b"mine", "by its name, before anything is listed"
        assert await shown(vfs, box) == mine


async def test_only_the_latest_is_shown_and_none_once_a_newer_save_was_made(
    tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend
) -> None:
    async with drive(tmp_path, backend) as (vfs, box):
        await conflict(vfs, box, backend)
        await conflict(vfs, box, backend, b"mine again")
        assert await content(vfs, await shown(vfs, box)) == b"mine again"
        await save(vfs, box, "f.tar.gz", b"later")
        assert await names(vfs, box) == ["f.tar.gz"]


async def test_programs_that_read_all_files_of_a_folder_are_not_shown_it(
    tmp_path: Path, autojump_clock: Clock, backend: MemoryBackend
) -> None:
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await conflict(vfs, box, backend)
        assert await names(vfs, box) == ["f.tar.gz"]
