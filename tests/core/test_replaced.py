"""What somebody else saved meanwhile is read whole, with its own length, or not at all."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import five_stage
import pytest
import trio.testing
from five_stage import SITES, Lab
from memory import SYSTEMS, MemoryBackend, opened
from stage import Mount, Sandbox, run

from labfs.errors import LabfsError, NotFound, Stale
from labfs.read.window import BLOCK
from labfs.tree.node import Node
from labfs.vfs.vfs import Vfs

Clock = trio.testing.MockClock


# -- in memory ------------------------------------------------------------------------------------------------


def replaced(backend: MemoryBackend, data: bytes) -> None:
    """Replace the only file of a backend by another one of its name, as somebody else would."""
    ((_, (entry, _)),) = backend.files.items()
    newer = backend.put(entry.name, data)
    del backend.files[entry.age]
    if backend.capabilities.replace.value == "in place":
        del backend.files[newer.age]
        backend.files[entry.age] = (replace(newer, id=entry.id, age=entry.age), data)


async def whole(vfs: Vfs, node: Node) -> bytes:
    handle = await vfs.files.open(node, read=True, write=False)
    try:
        return bytes(await vfs.files.read(handle, 0, 1 << 20))
    finally:
        await vfs.files.release(handle)


@pytest.mark.parametrize("system", ["in place", "whole", "by delete"])
@pytest.mark.parametrize("sizes", [(5, 35), (35, 5), (5, 5)])
async def test_opening_what_is_gone_goes_on_with_what_is_there(
    system: str, sizes: tuple[int, int], tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(capabilities=SYSTEMS[system])
    backend.put("f", b"o" * sizes[0])
    async with opened(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, "f")
        replaced(backend, b"n" * sizes[1])
        backend.calls.clear()
        assert await whole(vfs, node) == b"n" * sizes[1]
        assert vfs.attributes(await vfs.lookup(box, "f")).size == sizes[1]
        assert backend.calls["page"] == 1
        backend.files.clear()
        vfs.store.blocks.drop(("memory", node.entry.id if node.entry else "", node.entry.version if node.entry else ""))
        vfs.store.copies.make_room(1 << 40)
        with pytest.raises(LabfsError) as caught:
            await whole(vfs, node)
        assert caught.value.errno in (errno.ENOENT, errno.ESTALE)
        assert backend.calls["page"] == 2, "at most once"


@pytest.mark.parametrize("system", ["in place", "by delete"])
async def test_what_was_read_is_not_mixed_with_what_came_after(
    system: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(capabilities=replace(SYSTEMS[system], whole=1 << 30))
    backend.put("f", b"o" * 5 * BLOCK)
    async with opened(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, "f")
        begun = await vfs.files.open(node, read=True, write=False)
        waiting = await vfs.files.open(node, read=True, write=False)
        assert bytes(await vfs.files.read(begun, 0, 5)) == b"ooooo"
        await trio.sleep(1)
        replaced(backend, b"n" * 5 * BLOCK)
        for _ in range(2):
            with pytest.raises(Stale):
                await vfs.files.read(begun, 4 * BLOCK, 5)
        assert bytes(await vfs.files.read(waiting, 4 * BLOCK, 5)) == b"nnnnn"
        assert bytes(await vfs.files.read(waiting, 0, 5)) == b"nnnnn"
        with pytest.raises(Stale):
            await vfs.files.read(begun, 4 * BLOCK, 5)


async def test_many_first_reads_list_once_and_show_one_version(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=replace(SYSTEMS["by delete"], whole=1 << 30))
    backend.put("f", b"o" * 5 * BLOCK)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.open(await vfs.lookup(box, "f"), read=True, write=False)
        replaced(backend, b"n" * 5 * BLOCK)
        backend.calls.clear()
        found: list[bytes] = []

        async def read(index: int) -> None:
            found.append(bytes(await vfs.files.read(handle, index * BLOCK, 3)))

        async with trio.open_nursery() as nursery:
            for index in range(5):
                nursery.start_soon(read, index)
        assert (found, backend.calls["page"]) == ([b"nnn"] * 5, 1)


async def test_appending_to_what_is_gone_begins_on_what_is_there(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=SYSTEMS["whole"])
    backend.put("f", b"o" * 5)
    async with opened(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, "f")
        replaced(backend, b"n" * 35)
        handle = await vfs.files.open(node, read=False, write=True, append=True)
        await vfs.files.write(handle, 35, b"!")
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
    assert backend.newest() == {"f": b"n" * 35 + b"!"}


async def test_a_file_that_is_gone_is_told_as_gone(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=SYSTEMS["by delete"])
    backend.put("f", b"o" * 5)
    async with opened(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, "f")
        backend.files.clear()
        with pytest.raises((NotFound, Stale)):
            await whole(vfs, node)
        with pytest.raises(NotFound):
            await vfs.lookup(box, "f")


async def test_a_place_that_was_emptied_here_shows_what_is_put_there_next(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """Where a place has one id, whatever file is in it."""
    backend = MemoryBackend(capabilities=SYSTEMS["in place"])
    entry = backend.put("f", b"o")
    async with opened(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.unlink(box, "f")
        backend.files[entry.age] = (replace(entry, version="next", checksum=None), b"n")
        vfs.refresh(box)
        assert await whole(vfs, await vfs.lookup(box, "f")) == b"n"


# -- through a mount, in all five systems ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        yield made


def replace_there(lab: Lab, site: str, path: Path, data: bytes) -> None:
    """Put other bytes in the place of a file, through the system itself."""
    number = os.getxattr(path, "user.labfs.id").decode()
    match site:
        case "clarity":
            assert lab.clarity.upload(number, data).status_code == 200
            return
        case "odm":
            lab.odm.ask("DELETE", "manage-data/data", params={"accessions": number}).raise_for_status()
        case "portal":
            lab.portal.delete(int(number))
    lab.put(site, path.name, data)


def refuse(lab: Lab, site: str) -> None:
    """Have a system refuse every save."""
    routes = {"clarity": ["*/upload", "*/glsstorage"]}.get(site, ["*"])
    fault = {"service": site, "method": "P*", "action": "status", "argument": 403, "times": None}
    lab.sandbox.faults(*({**fault, "route": route} for route in routes))


def place(lab: Lab, drive: Mount, site: str) -> Path:
    lab.sandbox.faults()
    drive.refresh(drive.path / site)
    run(f"rm -f '{drive.path / lab.places[site]}'/*")
    return drive.path / lab.places[site]


@pytest.mark.mount
@pytest.mark.parametrize("site", SITES)
def test_a_copy_of_what_was_replaced_is_whole(site: str, lab: Lab, drive: Mount, tmp_path: Path) -> None:
    folder = place(lab, drive, site)
    sizes = [(5, 35), (9000, 5), (4096, 4100), (7, 7)][: 2 if site == "redcap" else 4]  # which keeps a pace
    for number, (before, after) in enumerate(sizes):
        path = folder / ("f" if site == "redcap" else f"f{number}")
        ours, theirs = b"o" * before, b"n" * after
        path.write_bytes(ours)
        replace_there(lab, site, path, theirs)
        for command in ("cp", "cat", "rsync -a")[number % 2 :]:
            into = tmp_path / "copy"
            done = run(f"{command} '{path}' {'>' if command == 'cat' else ''} '{into}'")
            copy = into.read_bytes()
            # Elsewhere the older file can still be fetched, for as long as it is listed.
            possible = (theirs,) if site in ("clarity", "redcap") else (ours, theirs)
            assert (done.returncode, done.stderr) == (0, ""), (command, before, after)
            assert copy in possible, (command, before, after, len(copy))
            into.unlink()
        if site in ("clarity", "redcap"):
            assert (path.stat().st_size, path.read_bytes()) == (after, theirs)


@pytest.mark.mount
@pytest.mark.parametrize("site", ["clarity", "redcap"])
def test_after_a_conflict_everybody_sees_what_the_server_has(site: str, lab: Lab, drive: Mount) -> None:
    folder = place(lab, drive, site)
    looks = ["stat -c %s", "wc -c <", "cat", "cp -v", "ls -l"][: 1 if site == "redcap" else 5]
    for number, look in enumerate(looks):
        path = folder / ("f" if site == "redcap" else f"g{number}")
        path.write_bytes(b"first")
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, b" and mine")
        replace_there(lab, site, path, b"n" * 35)
        with pytest.raises(OSError, match=r".+") as caught:
            os.close(descriptor)
        assert caught.value.errno == errno.ESTALE
        if number == 0:
            assert path.stat().st_size == 35
            assert path.read_bytes() == b"n" * 35
        seen = run(f"{look} '{path}' {'/dev/stdout' if look == 'cp -v' else ''}").stdout
        assert "35" in seen or "n" * 35 in seen, (look, seen)
        if look != "ls -l":
            assert os.listdir(folder)
        assert (path.stat().st_size, path.read_bytes()) == (35, b"n" * 35)


@pytest.mark.mount
@pytest.mark.parametrize("site", [site for site in SITES if site != "redcap"])
def test_after_a_close_that_failed_everybody_sees_what_the_server_has(site: str, lab: Lab, drive: Mount) -> None:
    folder = place(lab, drive, site)
    known, new = folder / "known", folder / "new"
    known.write_bytes(b"first")
    for path, flags in ((known, os.O_APPEND), (new, os.O_CREAT), (known, os.O_TRUNC)):
        refuse(lab, site)
        descriptor = os.open(path, os.O_WRONLY | flags)
        os.write(descriptor, b"mine, and longer than before")
        with pytest.raises(OSError, match=r".+"):
            os.close(descriptor)
        if path is new:
            assert not path.exists()
            assert path.name not in os.listdir(folder)
        else:
            assert (path.stat().st_size, path.read_bytes()) == (5, b"first")
        lab.sandbox.faults()
    known.write_bytes(b"second")
    assert known.read_bytes() == b"second"


@pytest.mark.mount
def test_a_memory_map_that_keeps_a_file_open_delays_nobody(lab: Lab, drive: Mount) -> None:
    folder = place(lab, drive, "clarity")
    path = folder / "mapped"
    path.write_bytes(b"first")
    descriptor = os.open(path, os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)  # Python's own mmap keeps a copy of the descriptor
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    view = libc.mmap(None, 4096, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, descriptor, 0)
    os.pwrite(descriptor, b"F", 0)
    refuse(lab, "clarity")
    with pytest.raises(OSError, match=r".+"):
        os.close(descriptor)
    began = time.monotonic()
    assert path.stat().st_size == 5
    assert time.monotonic() - began < 0.9
    lab.sandbox.faults()
    libc.munmap(ctypes.c_void_p(view), 4096)


@pytest.mark.mount
def test_readers_at_the_same_time_are_not_cut(lab: Lab, drive: Mount) -> None:
    """Of a file without versions that grows while several open and read it."""
    folder = place(lab, drive, "clarity")
    path = folder / "grows"
    path.write_bytes(b"o" * 5)
    found: set[bytes] = set()
    failed: list[str] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            done = run(f"cat '{path}'")
            if done.returncode == 0:
                found.add(done.stdout.encode())
            else:
                failed.append(done.stderr)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for size in (35, 5000, 70_000, 12):
            replace_there(lab, "clarity", path, b"n" * size)
            time.sleep(0.3)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert found <= {b"o" * 5, *(b"n" * size for size in (35, 5000, 70_000, 12))}, sorted(map(len, found))
    assert all("Stale" in text for text in failed), failed
