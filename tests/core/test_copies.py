"""Copies on disk: what lies there is checked before it is lent, and fetched again where it is not what was written."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import RULES, MemoryBackend, mounted
from redcap_stage import Redcap, opened
from stage import Mount, Sandbox
from steps import AWAY, contents
from test_proof import Line, each

from labfs.backend import Entry, Replace, Sink
from labfs.errors import (
    LabfsError,
    Stale,
    Unavailable,
)
from labfs.read import whole
from labfs.read.blocks import Blocks
from labfs.read.digests import SPAN
from labfs.read.readers import Readers
from labfs.read.whole import Copies

Clock = trio.testing.MockClock

DATA = random.Random(1).randbytes(3 * SPAN + 1234)
WHOLE = replace(RULES, ranged=False, measured=False, replace=Replace.IN_PLACE)
VERSION = ("site", "f", "1")
FOOTER = 36


def changed(path: Path, place: int, data: bytes = b"four") -> None:
    with open(path, "r+b") as file:
        file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        file.write(data)


def cut(path: Path, lacking: int) -> None:
    os.truncate(path, path.stat().st_size - lacking)


def longer(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def swapped(path: Path) -> None:
    """The bytes of another copy, whole and with its digests, under this one's name."""
    (other,) = [each for each in path.parent.iterdir() if each != path]
    path.write_bytes(other.read_bytes())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "four bytes changed": lambda path: changed(path, SPAN + 100),
    "the last bytes changed": lambda path: changed(path, len(DATA) - 4),
    "zeros": lambda path: changed(path, 2 * SPAN, bytes(4096)),
    "no byte is left": lambda path: os.truncate(path, 0),
    "cut within the bytes": lambda path: os.truncate(path, SPAN + 5),
    "cut and filled up with zeros": lambda path: (cut(path, 2 * SPAN), cut(path, -2 * SPAN)),
    "longer": longer,
    "made by an older labfs": lambda path: os.truncate(path, len(DATA)),
    "digests torn": lambda path: cut(path, 50),
    "digests changed": lambda path: changed(path, -FOOTER - 20),
    "the end of another kind": lambda path: changed(path, -FOOTER, b"labfs:0\n"),
    "another size": lambda path: changed(path, 8 - FOOTER, b"\x01\x00"),
    "another copy's bytes": swapped,
}


class Store:
    """A system that sends files whole, and what is behind it in a directory of copies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.backend = MemoryBackend(WHOLE, latency_s=0.0, piece=SPAN // 3)
        self.entry = self.backend.put("f", DATA)
        self.content = self.backend.content(self.entry)

    def copies(self, nursery: trio.Nursery, capacity: int = 1 << 30) -> Copies:
        return Copies(nursery, self.path, capacity)

    @property
    def pours(self) -> int:
        return self.backend.calls["pour"]

    @property
    def held(self) -> int:
        return sum(path.stat().st_size for path in self.path.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "copies")


@pytest.mark.parametrize("remounted", [True, False], ids=["after a remount", "while it runs"])
@pytest.mark.parametrize("name", DAMAGES)
async def test_a_damaged_copy_is_removed_and_fetched_again(
    name: str, remounted: bool, store: Store, nursery: trio.Nursery
) -> None:
    made = store.copies(nursery)
    copy = made.open(VERSION, store.content)
    assert await copy.read(0, len(DATA)) == DATA
    (path,) = store.path.iterdir()
    await made.open(("site", "other", "1"), store.backend.content(store.backend.put("other", b"others"))).read(0, 6)
    DAMAGES[name](path)
    if remounted:
        made = store.copies(nursery)
        copy = made.open(VERSION, store.content)
        if await copy.whole() != len(DATA):
            pytest.fail("the size is the file's and not the copy's")
    pieces = [bytes(await copy.read(start, min(start + SPAN, len(DATA)))) for start in range(0, len(DATA), SPAN)]
    assert b"".join(pieces) == DATA
    # While it runs, what a copy says at its end is in memory.
    assert store.pours == 3 or not remounted
    assert made.size == store.held or store.pours == 2, "what is counted is what is there"
    again = store.copies(nursery).open(VERSION, store.content)
    assert await again.read(SPAN - 7, SPAN + 7) == DATA[SPAN - 7 : SPAN + 7]
    assert store.pours == 3, "and the new one is kept"


@pytest.mark.parametrize("size", [0, 1, SPAN - 1, SPAN, SPAN + 1, 2 * SPAN])
async def test_a_copy_of_any_size_is_taken_over_and_counted(size: int, store: Store, nursery: trio.Nursery) -> None:
    entry = store.backend.put("g", DATA[:size])
    content = store.backend.content(entry)
    for _ in range(2):
        made = store.copies(nursery)
        copy = made.open(VERSION, content)
        assert await copy.whole() == size
        assert not size or bytes(await copy.read(0, size)) == DATA[:size]
        while not copy.complete:
            await copy._step()
        assert made.size == store.held
    assert store.pours == 1


async def test_many_readers_of_a_damaged_copy_fetch_it_once(store: Store, nursery: trio.Nursery) -> None:
    copy = store.copies(nursery).open(VERSION, store.content)
    await copy.read(0, len(DATA))
    (path,) = store.path.iterdir()
    changed(path, 10, bytes(3 * SPAN))
    found: list[bool] = []

    async def read(start: int) -> None:
        found.append(bytes(await copy.read(start, start + SPAN)) == DATA[start : start + SPAN])

    async with trio.open_nursery() as readers:
        for start in (0, SPAN, 2 * SPAN, 0, SPAN):
            readers.start_soon(read, start)
    assert found == [True] * 5
    assert store.pours == 2


async def test_a_copy_that_is_renewed_while_a_reader_looks_gives_no_fewer_bytes(
    store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's thread begins to look when the copy is being fetched again, and nothing has come yet."""
    copy = store.copies(nursery).open(VERSION, store.content)
    await copy.read(0, len(DATA))
    lend, late = copy._lend, [True]

    async def renewed() -> None:
        copy.discard()
        store.backend.latency_s = 0.5
        nursery.start_soon(copy._step)
        while copy._fd < 0:  # no event tells  # noqa: ASYNC110
            await trio.sleep(0.01)

    def delayed(*arguments: Any) -> Any:
        if late:
            late.clear()
            trio.from_thread.run(renewed)
        return lend(*arguments)

    monkeypatch.setattr(copy, "_lend", delayed)
    assert bytes(await copy.read(0, SPAN)) == DATA[:SPAN]


async def test_what_is_still_arriving_is_checked_too(store: Store, nursery: trio.Nursery) -> None:
    store.backend.latency_s = 0.02
    copy = store.copies(nursery).open(VERSION, store.content)
    assert bytes(await copy.read(0, SPAN)) == DATA[:SPAN]
    (path,) = store.path.glob("*.part")
    changed(path, 100)
    assert bytes(await copy.read(0, SPAN)) == DATA[:SPAN]
    assert bytes(await copy.read(0, len(DATA))) == DATA


@pytest.mark.parametrize("same", [True, False])
async def test_a_snapshot_without_a_version_is_never_mixed(same: bool, store: Store, nursery: trio.Nursery) -> None:
    copy = store.copies(nursery).open(None, store.content)
    assert bytes(await copy.read(0, SPAN)) == DATA[:SPAN]
    await copy.read(SPAN, len(DATA))
    (path,) = store.path.iterdir()
    changed(path, SPAN + 5)
    if not same:  # in another place than the damage
        number = int(store.entry.label)
        store.backend.files[number] = (store.entry, DATA[: 2 * SPAN] + b"?" + DATA[2 * SPAN + 1 :])
    if same:
        assert bytes(await copy.read(SPAN, len(DATA))) == DATA[SPAN:]
    else:
        with pytest.raises(Stale):
            await copy.read(SPAN, len(DATA))


async def test_a_disk_that_keeps_nothing_is_an_error_and_no_endless_download(
    store: Store, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = store.copies(nursery).open(VERSION, store.content)
    pread = os.pread
    monkeypatch.setattr(whole.os, "pread", lambda *where: bytes(len(pread(*where))))
    with pytest.raises(LabfsError, match="LABFS_CACHE_DIR"):
        await copy.read(0, SPAN)
    assert store.pours == whole.DAMAGES
    monkeypatch.undo()
    assert bytes(await copy.read(0, SPAN)) == DATA[:SPAN]


async def test_digests_are_counted_with_the_copies(store: Store, nursery: trio.Nursery) -> None:
    made = store.copies(nursery, capacity=2 * len(DATA) + 100)
    for number in range(3):
        await made.open(("site", "f", str(number)), store.content).read(0, len(DATA))
        assert made.size == store.held <= made.capacity + 100


class Garbled(Line):
    """A line to a system without ranges; `once` spoils the next downloads."""

    def content(self, entry: Entry) -> object:  # type: ignore[override]
        inner, line = super().content(entry), self

        class Poured:
            prepare, read = inner.prepare, inner.read

            async def pour(self, sink: Sink) -> None:
                _, data = line.backend._held(entry.id)
                line.backend.calls["pour"] += 1
                spoil = line.once.pop(0) if line.once else line.spoil
                await trio.to_thread.run_sync(sink.begin, len(data))
                await trio.to_thread.run_sync(sink.write, spoil(0, data))

        return Poured()


@pytest.mark.parametrize("size", [1000, len(DATA)])
async def test_a_copy_that_does_not_match_the_checksum_is_not_kept(
    size: int, store: Store, nursery: trio.Nursery
) -> None:
    entry, line = store.backend.put("g", DATA[:size]), Garbled(store.backend)
    store.backend.content = line.content  # type: ignore[method-assign, assignment]
    line.once = [each(500)]

    async def read() -> bytes:
        readers = Readers(nursery, Blocks(nursery, 1 << 24), store.copies(nursery))
        return bytes(await readers.open("site", store.backend, entry).read(0, size))

    if size > SPAN:
        with pytest.raises(LabfsError, match="checksum"):
            await read()
    for _ in range(2):
        assert await read() == DATA[:size]


# -- a mount -----------------------------------------------------------------------------------------------


@pytest.fixture
def redcap(sandbox: Sandbox) -> Iterator[Redcap]:
    with opened(sandbox) as redcap:
        yield redcap


@pytest.mark.mount
def test_a_cache_directory_that_was_damaged_is_believed_by_no_mount(
    sandbox: Sandbox, redcap: Redcap, tmp_path: Path
) -> None:
    mount = Mount(tmp_path, sandbox.config, "--site=redcap")
    mount.env["LABFS_CACHE_DIR"] = str(tmp_path / "cache")
    name = redcap.record()
    redcap.put("biobank", "f", DATA, record=name, field="counts").raise_for_status()
    path = mount.path / "redcap" / "biobank" / name / "counts" / "f"
    try:
        mount.start()
        assert path.read_bytes() == DATA
        assert mount.stop().returncode == 0
        (copy,) = tmp_path.glob("cache/mounts/*/copies/*")
        DAMAGES["four bytes changed"](copy)
        mount.start()
        assert path.stat().st_size == len(DATA)
        assert path.read_bytes() == DATA
        assert "cannot be used" in mount.log
    finally:
        mount.clean_up()
        redcap.post("biobank", content="record", action="delete", records=[name])


async def test_another_server_by_the_same_name_has_other_bytes(tmp_path: Path) -> None:
    for address, data in (("https://a.example", b"ours" * 1000), ("https://b.example", b"more" * 1000)):
        backend = MemoryBackend(capabilities=WHOLE)
        entry = backend.put("f", data)
        number = int(entry.label)
        backend.files[number] = (replace(entry, version="1", checksum=None), data)
        async with mounted(tmp_path, backend, address=address) as (vfs, box):
            node = await vfs.lookup(box, "f")
            handle = await vfs.files.open(node, read=True, write=False)
            assert bytes(await vfs.files.read(handle, 0, 10_000)) == data
            await vfs.files.release(handle)


async def test_a_cache_that_is_cleared_under_a_mount_is_made_anew(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=WHOLE)
    backend.put("f", b"bytes")
    backend.put("g", b"more")
    async with mounted(tmp_path, backend) as (vfs, _):
        assert await contents(vfs, "/memory/box/f") == b"bytes"
        shutil.rmtree(tmp_path / "copies")
        assert await contents(vfs, "/memory/box/g") == b"more"


async def test_a_copy_that_cannot_be_removed_ends_nothing(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend(capabilities=WHOLE)
    backend.put("f", b"bytes")

    def refused(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    async with mounted(tmp_path, backend) as (vfs, _):
        node = await vfs.resolve("/memory/box/f")
        backend.faults["pour"] = [AWAY]
        with monkeypatch.context() as patch, trio.fail_after(60):
            patch.setattr(Path, "unlink", refused)
            with pytest.raises(Unavailable):
                await vfs.files.open(node, read=True, write=False)
        assert await contents(vfs, "/memory/box/f") == b"bytes"


async def test_a_copy_that_is_closed_lends_no_bytes_of_another_file(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        backend = MemoryBackend(capabilities=WHOLE)
        entry = backend.put("f", b"bytes")
        copies = Copies(nursery, tmp_path, 1 << 20)
        copy = copies.open(None, backend.content(entry))
        assert await copy.whole() == 5
        assert bytes(await copy.read(0, 5)) == b"bytes"
        copy._close()
        with pytest.raises(FileNotFoundError):
            copy._lend(0, 5, 5, copy._digests)
        kept = copies.open(("site", entry.id, "v"), backend.content(entry))
        await kept.read(0, 5)
        (path,) = tmp_path.iterdir()
        path.write_bytes(b"by")  # the disk lost some
        assert bytes(await kept.read(0, 5)) == b"bytes"
