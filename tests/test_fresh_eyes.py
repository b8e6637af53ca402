"""Faults that a second reading found: each test is one of them."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from click.testing import CliRunner
from memory import SYSTEMS, MemoryBackend, told
from test_outbox import IN_PLACE, a_while, mounted, save, states
from test_review import called, disk_full, waiting

from labfs.cli import main as cli
from labfs.daemon import mounts
from labfs.daemon.config import cache_dir, state_dir
from labfs.errors import Busy, ConfigError, Denied, DiskFailed, LabfsError
from labfs.fuse import holders
from labfs.write.spool import Spool, SpoolFile

Clock = trio.testing.MockClock


async def test_an_end_that_comes_too_late_still_writes_down_what_waits(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"mine")
        await vfs.saves.finish(-0.5)
        assert states(tmp_path) == ["failed"]


def test_a_program_whose_name_was_cut_within_a_letter_may_make_files() -> None:
    names: list[str] = []

    def look() -> None:
        ctypes.CDLL(None).prctl(15, "vierzehn Byte ü".encode()[:15], 0, 0, 0)
        names.append(holders.program(threading.get_native_id()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert names == [holders.program(os.getpid())] != [""]


async def _hold(lock: trio.Lock) -> None:
    async with lock:
        await trio.sleep(60)


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


async def test_a_file_whose_save_begins_while_it_is_renamed_gets_its_new_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(SYSTEMS["in place"], latency_s=1.0)
    backend.more = [replace(backend.box, id="box 2", name="other")]
    async with mounted(tmp_path, backend) as (vfs, box):
        other = await vfs.lookup(box, "other")
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"mine")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.rename, box, "f", other, "g")
            await trio.sleep(0.5)
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert set(backend.newest()) == {"g"}


async def test_a_save_is_never_sent_to_the_place_of_a_directory(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(IN_PLACE)
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"mine")
        backend.more = [replace(backend.box, id="box f", name="f", label="101")]
        await a_while()
        [note] = told(vfs.saves.spool)
        vfs.outbox.retry(Path(note["file"]).stem)
        uploads = backend.calls["upload"]
        await a_while()
        assert backend.calls["upload"] == uploads
        assert "directory" in told(vfs.saves.spool)[0]["error"]


async def test_a_save_that_waits_deletes_nothing_where_deleting_is_off(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(SYSTEMS["by delete"])
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"mine")
        backend.put("f", b"theirs")
        await a_while()
        [note] = told(vfs.saves.spool)
        vfs.outbox.retry(Path(note["file"]).stem)
        await a_while()
        assert b"theirs" in [data for _, data in backend.files.values()]
        assert "Deleting" in str(told(vfs.saves.spool)) or "delete" in str(told(vfs.saves.spool))


async def test_sending_again_takes_no_bytes_from_a_file_that_is_still_there(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, ".goutputstream-AAAAAA")
        await vfs.files.write(handle, 0, b"mine")
        await vfs.files.release(handle)
        backend.faults["upload"] = [Denied("no")]
        with pytest.raises(Denied):
            await vfs.rename(box, ".goutputstream-AAAAAA", box, "f")
        assert vfs.outbox.retry(None) == 0
        [note] = told(vfs.saves.spool)
        with pytest.raises(Busy, match="AAAAAA"):
            vfs.outbox.retry(Path(note["file"]).stem)
        await a_while()
        node = box.children.get(".goutputstream-AAAAAA")
        assert node is not None
        again = await vfs.files.open(node, read=True, write=False)
        assert await vfs.files.read(again, 0, 10) == b"mine"
        await vfs.files.release(again)
        await vfs.unlink(box, node.name)
        assert vfs.outbox.retry(None) == 1
        await a_while()
        assert backend.newest() == {"f": b"mine"}


async def test_what_a_newer_save_overtook_is_only_sent_by_name(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(SYSTEMS["in place"], versionless=True)
    backend.put("f", b"____")
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"mine")
        await save(vfs, box, "f", b"newr")
        assert states(tmp_path) == ["failed"]
        assert vfs.outbox.retry(None) == 0
        await a_while()
        assert backend.newest() == {"f": b"newr"}
        [note] = told(vfs.saves.spool)
        assert vfs.outbox.retry(Path(note["file"]).stem) == 1
        await a_while()
        assert backend.newest() == {"f": b"mine"}


async def test_a_newer_save_overtakes_one_whose_note_is_on_its_way_to_the_disk(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend(SYSTEMS["in place"], versionless=True)
    backend.put("f", b"____")
    written, sync = threading.Event(), SpoolFile.sync

    def slow(spool: SpoolFile) -> None:
        written.wait(5)
        sync(spool)

    monkeypatch.setattr(SpoolFile, "sync", slow)
    async with mounted(tmp_path, backend) as (vfs, box):
        async with trio.open_nursery() as nursery:

            async def older() -> None:
                await waiting(vfs, box, backend, "f", b"mine")

            nursery.start_soon(older)
            await called(backend, "upload", 1)
            await trio.sleep(0.1)
            await save(vfs, box, "f", b"newr")
            written.set()
        await a_while()
        assert backend.newest() == {"f": b"newr"}
        assert states(tmp_path) == ["failed"]


async def test_a_temporary_file_that_grew_after_its_rename_failed_is_kept_whole(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, ".goutputstream-AAAAAA")
        await vfs.files.write(handle, 0, b"mine")
        await vfs.files.release(handle)
        backend.faults["upload"] = [Denied("no")]
        with pytest.raises(Denied):
            await vfs.rename(box, ".goutputstream-AAAAAA", box, "f")
        handle = await vfs.files.open(box.children[".goutputstream-AAAAAA"], read=True, write=True)
        await vfs.files.write(handle, 4, b" and more")
        await vfs.files.release(handle)
    async with mounted(tmp_path, backend) as (vfs, box):
        assert vfs.outbox.retry(None) == 1
        await a_while()
        assert backend.newest() == {"f": b"mine and more"}


async def test_a_save_that_arrived_is_none_that_failed(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"mine")

        def broken() -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(vfs.saves.spool, "leftovers", broken)
        vfs.saves.waiting.changed()
        await vfs.files.flush(handle, shared=False)
        monkeypatch.undo()
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"mine"}
        assert (await vfs.lookup(box, "f")).entry is not None


def test_a_note_that_was_synced_is_never_replaced_by_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync
    spool = Spool(tmp_path).create("site", "/site/f")
    spool.describe(synced=True)
    spool.sync()
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    spool.describe(state="sending")
    spool.describe(synced=False)
    assert [name.rpartition(".")[2] for name in synced] == ["part", "part"]


@pytest.mark.parametrize("variable", ["LABFS_STATE_DIR", "LABFS_CACHE_DIR"])
def test_a_directory_of_state_is_the_same_wherever_one_stands(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "labfs")
    with pytest.raises(ConfigError, match=variable):
        state_dir() if variable == "LABFS_STATE_DIR" else cache_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["LABFS_STATE_DIR", "LABFS_CACHE_DIR"])
def test_labfs_keeps_nothing_of_its_own_below_its_mount(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab").mkdir()
    monkeypatch.setenv("LABFS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LABFS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(variable, str(tmp_path / "lab" / "own"))
    monkeypatch.setattr("os.listdir", lambda path: [])
    with pytest.raises(ConfigError, match="which this mount would hide"):
        mounts.check(str(tmp_path / "lab"))


async def test_a_disk_that_takes_no_note_says_so_to_whoever_wants_a_save_sent_again(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"mine")
        disk_full(monkeypatch, until=lambda: False)
        (note,) = told(vfs.saves.spool)
        with pytest.raises(DiskFailed, match="is full; make room"):
            vfs.outbox.retry(Path(note["file"]).stem)


def test_a_note_that_was_being_written_at_a_crash_leaves_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    file = spool.create("memory", "/memory/box/f")
    file.write(0, b"mine")
    file.describe(state="sending", size=4)
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
    file.describe(state="sending", size=4)
    label = file.path.with_suffix(".json")
    label.write_text(label.read_text().replace(f'"number": {file.note.number}', '"number": null'))
    assert '"number": null' in label.read_text()
    assert len(told(Spool(spool.directory))) == 1


def test_a_mount_that_does_not_answer_keeps_no_other_from_telling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABFS_STATE_DIR", str(tmp_path))
    place = mounts.Place(str(tmp_path / "mnt"))
    place.directory.mkdir(parents=True)
    assert place.claim()
    done = CliRunner().invoke(cli.cli, ["status"])
    assert (done.exit_code, "is starting, ending or busy" in done.output) == (0, True)
