"""Directories are forgotten when many others were looked at since, but nothing that only this mount knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from memory import MemoryBackend, mounted
from steps import save
from trio.testing import MockClock as Clock

from labfs.fuse.inodes import Inodes
from labfs.tree.node import Folder, Node
from labfs.vfs import Vfs, tidying


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "MOST", 10)


def a_box(files: int = 20) -> MemoryBackend:
    backend = MemoryBackend(page_size=1000)
    for number in range(files):
        backend.put(f"f{number:02}", b"x" * (number + 1))
    return backend


async def listed(vfs: Vfs, box: Node) -> Folder:
    assert isinstance(box, Folder)
    assert len(await vfs.listing(box)) >= 20
    return box


async def test_what_nobody_looks_at_is_forgotten_and_found_again(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = a_box()
    async with mounted(tmp_path, backend) as (vfs, node):
        box = await listed(vfs, node)
        await trio.sleep(tidying.IDLE_S + 2)
        assert box.children == {}
        child = await vfs.lookup(box, "f07")
        assert vfs.attributes(child).size == 8
        assert len(await vfs.listing(box)) == 20


async def in_folders(vfs: Vfs, box: Node) -> tuple[Folder, Folder]:
    """List a box whose files lie in a folder, which is listed with it."""
    assert isinstance(box, Folder)
    await vfs.listing(box)
    below = box.children["sub"]
    assert isinstance(below, Folder)
    assert len(below.children) == 20
    return box, below


def a_box_of_folders() -> MemoryBackend:
    backend = MemoryBackend(page_size=1000)
    for number in range(20):
        backend.put(f"f{number:02}", b"x" * (number + 1), ("sub",))
    return backend


async def test_files_in_folders_are_forgotten_and_the_folders_stay(tmp_path: Path, autojump_clock: Clock) -> None:
    async with mounted(tmp_path, a_box_of_folders()) as (vfs, node):
        box, below = await in_folders(vfs, node)
        await trio.sleep(tidying.IDLE_S + 2)
        assert (box.children, below.children) == ({"sub": below}, {})
        assert vfs.attributes(await vfs.lookup(below, "f07")).size == 8
        assert box.children["sub"] is below, "whoever is in it stays in it"


async def test_a_file_that_is_open_in_a_folder_keeps_what_was_listed_with_it(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with mounted(tmp_path, a_box_of_folders()) as (vfs, node):
        _, below = await in_folders(vfs, node)
        await vfs.files.open(below.children["f03"], read=True, write=False)
        await trio.sleep(60)
        assert len(below.children) == 20


async def test_a_small_tree_is_kept(tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "MOST", 30)
    async with mounted(tmp_path, a_box()) as (vfs, node):
        box = await listed(vfs, node)
        await trio.sleep(7200)
        assert len(box.children) == 20


@pytest.mark.parametrize("ours", ["open", "written", "local", "dated", "new"])
async def test_what_only_this_mount_knows_is_kept(tmp_path: Path, autojump_clock: Clock, ours: str) -> None:
    backend = a_box()
    async with mounted(tmp_path, backend) as (vfs, node):
        box = await listed(vfs, node)
        match ours:
            case "open":
                await vfs.files.open(box.children["f03"], read=True, write=False)
            case "written":
                await vfs.files.write(await vfs.files.open(box.children["f03"], read=False, write=True), 0, b"mine")
            case "local":
                await save(vfs, box, ".swp~", b"local")
            case "dated":
                vfs.set_modified(box.children["f03"], 5)
            case "new":
                await vfs.files.create(box, "being written")
        known = dict(box.children)
        await trio.sleep(60)
        assert box.children == known


async def test_a_number_stays_with_its_file(tmp_path: Path, autojump_clock: Clock) -> None:
    """The kernel may hold the number of a file that was forgotten."""
    async with mounted(tmp_path, a_box()) as (vfs, node):
        box = await listed(vfs, node)
        inodes: Inodes[Node] = Inodes(vfs.root)
        number = inodes.remember(box.children["f03"])
        nodes = vfs.tree.forget(box)
        assert len(nodes) == 20
        inodes.drop(nodes)
        with pytest.raises(KeyError):
            inodes[number]
        again = await vfs.lookup(box, "f03")
        assert inodes.remember(again) == number
        inodes.forget(number, 2)  # the kernel counts both
        assert len(inodes) == 1
