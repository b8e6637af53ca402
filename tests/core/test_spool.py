"""The bytes and notes of a save on this machine: what a crash, a full disk or a write in between leaves of them."""

from __future__ import annotations

import errno
import json
import os
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import trio
import trio.testing
from memory import MemoryBackend, mounted, told
from steps import AWAY, a_while, called, states

from labfs.errors import LabfsError, Unavailable
from labfs.write import spool as spools
from labfs.write.journal import Begun, Identity, Note, Spooled, State, parse
from labfs.write.spool import Spool, SpoolFile

Clock = trio.testing.MockClock


async def _hold(lock: trio.Lock) -> None:
    async with lock:
        await trio.sleep(60)


@pytest.mark.parametrize("change", ["write", "truncate"])
async def test_parts_of_a_save_that_broke_off_are_not_taken_for_what_was_written_since(
    change: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"a" * 1000)
        backend.faults["complete"] = [AWAY]
        with pytest.raises(Unavailable):
            await vfs.files.flush(handle, shared=False)
        if change == "truncate":
            await vfs.files.resize(handle.node, 0)
        await vfs.files.write(handle, 0, b"b" * 1000)
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"b" * 1000}


async def test_what_is_written_after_a_save_that_failed_is_unfinished_after_a_crash(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f", truncate=True)
        await vfs.files.write(handle, 0, b"whole")
        backend.faults["upload"] = [AWAY]
        with pytest.raises(Unavailable):
            await vfs.files.flush(handle, shared=False)
        await vfs.files.write(handle, 0, b"ha")
    async with mounted(tmp_path, backend):
        await a_while()
        assert backend.newest() == {"f": b"old"}
        assert states(tmp_path) == ["failed"]


async def test_what_is_written_after_a_sync_is_unfinished_after_a_crash(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"whole")
        await vfs.files.fsync(handle)
        await vfs.files.write(handle, 0, b"ha")
    async with mounted(tmp_path, backend):
        await a_while()
        assert backend.newest() == {}
        assert states(tmp_path) == ["failed"]


async def test_a_copy_that_a_crash_broke_off_is_not_sent(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool")
    file = spool.create("memory", "/memory/box/f")
    file.write(0, b"x" * 100)
    file.describe(state=State.SENDING, size=100, synced=True, upload=Begun("t", 10))
    monkeypatch.setattr(spools.os, "copy_file_range", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        file.copy()
    assert len(told(spool)) == 1, "a copy that failed is not kept"
    monkeypatch.setattr(spools, "remove", lambda data: None)  # as if that had been a crash
    with pytest.raises(ZeroDivisionError):
        file.copy()
    monkeypatch.undo()
    backend = MemoryBackend()
    async with mounted(tmp_path, backend):
        await a_while()
        assert list(backend.newest().values()) == [b"x" * 100]
        assert backend.calls["begin"] + backend.calls["resume"] <= 2


async def test_bytes_that_the_disk_lost_are_not_sent_as_zeros(tmp_path: Path, autojump_clock: Clock) -> None:
    file = Spool(tmp_path / "spool").create("memory", "/memory/box/f")
    file.write(0, b"x" * 10)
    file.describe(state=State.SENDING, size=50)  # the power went before the other forty were on the disk
    backend = MemoryBackend()
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {}
    assert states(tmp_path) == ["failed"]


async def test_a_copy_that_is_made_for_a_write_outlives_no_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(latency_s=1.0)
    copy, saved = SpoolFile.copy, Event()

    def slowly(file: SpoolFile) -> SpoolFile:
        twin = copy(file)
        saved.wait(10)
        return twin

    monkeypatch.setattr(SpoolFile, "copy", slowly)
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(vfs.files.flush, handle, shared=False))
            await called(backend, "upload", 1)
            nursery.start_soon(vfs.files.write, handle, 5, b" second")
            await trio.sleep(5)
            saved.set()
        assert backend.newest() == {"f": b"first"}
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"first second"}
        assert states(tmp_path) == []
        assert [path.suffix for path in (tmp_path / "spool").iterdir() if path.suffix in (".data", ".json")] == []


async def test_a_sync_tells_of_a_write_that_failed(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"begin")

        def full(*args: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(spools.os, "pwrite", full)
            with pytest.raises(OSError, match="is full"):
                await vfs.files.write(handle, 5, b"middle")
        await vfs.files.write(handle, 11, b"end")
        with pytest.raises(OSError, match="is full"):
            await vfs.files.fsync(handle)
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {}
    assert states(tmp_path) == ["failed"]


async def test_an_unfinished_edit_of_which_nobody_knows_what_it_changed_is_not_sent(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    backend.put("f", b"0123456789")
    async with mounted(tmp_path, backend) as (vfs, _):
        handle = await vfs.files.open(await vfs.resolve("/memory/box/f"), read=True, write=True)
        await vfs.files.write(handle, 3, b"xx")
    async with mounted(tmp_path, backend) as (vfs, _):
        vfs.outbox.retry(None)
        await a_while()
    assert backend.newest() == {"f": b"0123456789"}
    assert states(tmp_path) == ["failed"]


async def test_a_write_that_came_too_late_is_not_missing_from_what_is_saved(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"____")
        writer = handle.node.writer
        assert writer is not None
        writer._sending = writer.spool
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hold, writer._copy)  # a copy of a large file takes its time
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.TooSlowError), trio.fail_after(17):
                await vfs.files.write(handle, 0, b"mine")
        writer._sending = None
        with pytest.raises(LabfsError):
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {}
        assert states(tmp_path) == ["failed"]


def test_a_note_that_was_synced_is_never_replaced_by_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync
    spool = Spool(tmp_path).create("site", "/site/f")
    spool.describe(synced=True)
    spool.sync()
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    spool.describe(state=State.SENDING)
    spool.describe(synced=False)
    assert [name.rpartition(".")[2] for name in synced] == ["part", "part"]


def test_a_note_that_was_being_written_at_a_crash_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    file = spool.create("memory", "/memory/box/f")
    file.write(0, b"mine")
    file.describe(state=State.SENDING, size=4)
    file.path.with_suffix(".part").write_text('{"half": ')
    (spool.directory / "of somebody else.part").write_text("x")
    Spool(spool.directory).adopt()
    assert [path.name for path in spool.directory.glob("*.part")] == ["of somebody else.part"]
    (note,) = told(spool)
    assert (note["state"], note["bytes"]) == ("waiting", 4)


def test_a_number_that_is_none_is_no_reason_to_fail(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    file = spool.create("memory", "/memory/box/f")
    file.write(0, b"mine")
    file.describe(state=State.SENDING, size=4)
    label = file.path.with_suffix(".json")
    label.write_text(label.read_text().replace(f'"number": {file.note.number}', '"number": null'))
    assert '"number": null' in label.read_text()
    assert len(told(Spool(spool.directory))) == 1


OLDER = (
    '{"format": 1, "number": 7, "site": "memory", "path": "/memory/box/f", "state": "waiting", "opened": ["3", "v", null],'
    ' "after": 12, "missing": [], "synced": false, "upload": null, "size": 4, "insisted": false, "over": null,'
    ' "overtaken": false, "before": ["1"], "begun": 1764170000.5, "error": "The site is away."}'
)


def test_what_an_older_labfs_wrote_is_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    (spool.directory / "old.data").write_bytes(b"mine")
    (spool.directory / "old.json").write_text(OLDER)
    (left,) = spool.leftovers()
    assert isinstance(left, Spooled)
    assert left.note == Note(
        site="memory", path="/memory/box/f", state=State.WAITING, number=7, opened=Identity("3", "v", None), after=12,
        synced=False, size=4, before=("1",), begun=1764170000.5, error="The site is away.",
    )  # fmt: skip
    assert parse(json.dumps(left.report())) == left.note, "what is told is what is read"


@pytest.mark.parametrize(
    "change",
    [
        {"state": "gone"}, {"state": "replacing"}, {"site": 1}, {"path": None}, {"number": -1}, {"size": "4"},
        {"missing": [[3, 1]]}, {"missing": [[1]]}, {"missing": 5}, {"opened": "3"}, {"upload": 3}, {"error": 4},
        {"arrived": "3", "opened": None}, {"before": 5}, {"begun": "yesterday"},
    ],
)  # fmt: skip
def test_a_note_that_makes_no_sense_is_said_to_be_damaged(change: dict[str, Any]) -> None:
    assert parse(json.dumps({**json.loads(OLDER), **change})) == "its note is damaged, but its bytes are there"
    assert "a newer labfs" in str(parse(json.dumps({**json.loads(OLDER), "format": 2})))
