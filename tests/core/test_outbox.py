"""What could not be saved is sent later: once, never over a newer save, and never given up."""

from __future__ import annotations

import contextlib
import errno
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import RULES, SYSTEMS, MemoryBackend, mounted, told
from steps import AWAY, IN_PLACE, Slow, a_while, called, disk_full, save, states, waiting

from labfs.backend import Replace
from labfs.errors import Busy, Conflict, Denied, DiskFailed, LabfsError, NoBytes, Unanswered, Unavailable
from labfs.write import spool as spools
from labfs.write.journal import Note, State
from labfs.write.spool import SpoolFile

Clock = trio.testing.MockClock


async def test_what_failed_while_the_site_was_away_is_sent_when_it_answers(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    backend.faults["upload"] = [AWAY, AWAY, AWAY]
    async with mounted(tmp_path, backend) as (vfs, box):
        with pytest.raises(Unavailable):
            await save(vfs, box, "f", b"mine")
        assert states(tmp_path) == ["waiting"]
        await a_while()
        assert backend.newest() == {"f": b"mine"}
        assert states(tmp_path) == []
        assert [node.name for node in await vfs.listing(box)] == ["f"]


async def test_the_next_mount_goes_on(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("edited", b"0123456789")
    backend.faults["upload"] = [AWAY, AWAY, AWAY]
    async with mounted(tmp_path, backend) as (vfs, box):
        for name, data in [("f", b"mine"), ("g", b"")]:
            with pytest.raises(Unavailable):
                await save(vfs, box, name, data)
        handle = await vfs.files.open(await vfs.resolve("/memory/box/edited"), read=True, write=True)
        await vfs.files.write(handle, 3, b"xxx")
        backend.faults["read"] = [AWAY] * 3
        with pytest.raises(Unavailable):
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
    backend.faults.clear()
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {"f": b"mine", "g": b"", "edited": b"012xxx6789"}
    assert states(tmp_path) == []


async def test_what_was_not_closed_outlives_a_crash_and_waits_for_a_person(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    backend.put("synced", b"complete before")
    async with mounted(tmp_path, backend) as (vfs, box):
        synced = await vfs.files.open(await vfs.resolve("/memory/box/synced"), read=False, write=True, truncate=True)
        unfinished = await vfs.files.create(box, "unfinished")
        await vfs.files.write(synced, 0, b"half")
        await vfs.files.fsync(synced)
        await vfs.files.write(unfinished, 0, b"ha")
    async with mounted(tmp_path, backend) as (vfs, _):
        await a_while()
        notes = {note["path"].rpartition("/")[2]: note for note in told(vfs.saves.spool)}
        assert {name: (note["state"], note["bytes"]) for name, note in notes.items()} == {
            "synced": ("failed", 4),
            "unfinished": ("failed", 2),
        }
        assert vfs.outbox.retry(None) == 0, "nobody knows whether they are whole"
        await a_while()
        assert backend.newest() == {"synced": b"complete before"}
        assert vfs.outbox.retry(Path(notes["synced"]["file"]).stem) == 1
        await a_while()
        assert backend.newest() == {"synced": b"half"}
        assert states(tmp_path) == ["failed"]


class Lost(MemoryBackend):
    """A backend that does what it is asked to and then the line breaks."""

    async def upload(self, target: Any, source: Any) -> Any:
        entry = await super().upload(target, source)
        if self.calls["upload"] == 1:
            raise Unanswered("The line broke.")
        return entry


@pytest.mark.parametrize("rule", [Replace.NEWER, Replace.IN_PLACE])
async def test_an_answer_that_was_lost_is_found_and_nothing_is_sent_twice(
    rule: Replace, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = Lost(capabilities=replace(RULES, replace=rule))
    backend.put("old", b"before")
    for name in ("f", "old"):
        backend.calls.clear()
        async with mounted(tmp_path, backend) as (vfs, box):
            with contextlib.suppress(LabfsError):
                await save(vfs, box, name, b"mine")
            await a_while()
        assert backend.newest()[name] == b"mine"
        assert backend.calls["upload"] == 1
        assert states(tmp_path) == []


async def test_a_crash_after_the_server_had_it_doubles_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"x" * 50)
        assert handle.node.writer is not None
        handle.node.writer.spool.describe(state=State.SENDING, size=50)
        backend.put("f", b"x" * 50)  # it arrived, and nobody came to write that down
    async with mounted(tmp_path, backend):
        await a_while()
    assert (len(backend.files), backend.calls["upload"], states(tmp_path)) == (1, 0, [])


async def test_an_upload_in_parts_goes_on_with_those_that_are_there(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(latency_s=1.0)
    data = bytes(range(200)) * 5
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, data)
        with trio.move_on_after(4.5):  # the crash comes while parts are on their way
            await vfs.files.flush(handle, shared=False)
    sent = backend.calls["part"]
    assert 4 <= sent < 32
    backend.latency_s = 0.01
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {"f": data}
    assert (backend.calls["begin"], backend.calls["resume"]) == (1, 1)
    assert backend.calls["part"] <= 32 + 4, "only those that were under way are sent again"


async def test_a_newer_save_is_never_overtaken_by_an_older_one(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.faults["upload"] = [AWAY]
    async with mounted(tmp_path, backend) as (vfs, box):
        with pytest.raises(Unavailable):
            await save(vfs, box, "f", b"first")
        await save(vfs, box, "f", b"second")
        await a_while()
        assert backend.newest() == {"f": b"second"}
        assert backend.calls["upload"] == 2
        (note,) = told(vfs.saves.spool)
        assert (note["state"], note["error"]) == ("failed", "the file was saved again since")


@pytest.mark.parametrize("rule", [Replace.NEWER, Replace.IN_PLACE])
async def test_what_somebody_else_saved_meanwhile_stays(rule: Replace, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=replace(RULES, replace=rule))
    old = backend.put("f", b"old")
    backend.faults["upload"] = [AWAY]
    async with mounted(tmp_path, backend) as (vfs, box):
        with pytest.raises(Unavailable):
            await save(vfs, box, "f", b"mine")
        backend.files[int(old.label)] = (replace(old, version="theirs", size=6), b"theirs")
        await a_while()
        assert backend.newest() == {"f": b"theirs"}
        (note,) = told(vfs.saves.spool)
        assert note["state"] == "failed"
        assert "Somebody else" in note["error"]
        assert vfs.outbox.retry(Path(note["file"]).stem) == 1, "who says so by name means it"
        await a_while()
        assert backend.newest() == {"f": b"mine"}


async def test_a_conflict_in_place_is_found_before_anything_is_destroyed(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=IN_PLACE)
    old = backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, _):
        handle = await vfs.files.open(await vfs.resolve("/memory/box/f"), read=True, write=True)
        await vfs.files.write(handle, 0, b"mine")
        backend.files[int(old.label)] = (replace(old, version="theirs", size=6), b"theirs")
        with pytest.raises(Conflict, match="yours is in the outbox"):
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"theirs"}
        assert states(tmp_path) == ["failed"]
        del backend.files[int(old.label)]
        vfs.outbox.retry(None)
        await a_while()
        assert backend.newest() == {"f": b"mine"}, "theirs was removed, and ours is a new file"


async def test_a_refusal_is_left_to_a_person(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.faults["upload"] = [Denied("Not you.")]
    async with mounted(tmp_path, backend) as (vfs, box):
        with pytest.raises(Denied):
            await save(vfs, box, "f", b"mine")
        await a_while()
        assert backend.calls["upload"] == 1
        assert states(tmp_path) == ["failed"]
        vfs.outbox.retry(None)
        await a_while()
        assert backend.newest() == {"f": b"mine"}


@pytest.mark.parametrize("busy", [False, True])
async def test_who_asks_does_not_wait_for_the_next_round(busy: bool, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.faults["upload"] = [Denied("Not you."), Denied("Not you.")]
    async with mounted(tmp_path, backend) as (vfs, box):
        for name in ("f", "g"):
            with pytest.raises(Denied):
                await save(vfs, box, name, b"mine")
        await trio.sleep(1)
        if busy:  # with one of them
            backend.latency_s = 1.0
            vfs.outbox.retry(Path(told(vfs.saves.spool)[0]["file"]).stem)
            await trio.sleep(0.5)
        vfs.outbox.retry(None)
        await trio.sleep(10)
        assert backend.newest() == {"f": b"mine", "g": b"mine"}


async def test_a_failure_after_the_close_is_told_at_the_next_open(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"late")
        backend.faults["upload"] = [Denied("Not you.")]
        await vfs.files.release(handle)  # as for a memory map: no flush came after the write
        with pytest.raises(Denied, match="after it was closed: Not you"):
            await vfs.files.create(box, "f")
        await save(vfs, box, "f", b"again")
        assert backend.newest() == {"f": b"again"}


async def test_a_damaged_note_and_one_of_another_age_hide_no_bytes(tmp_path: Path, autojump_clock: Clock) -> None:
    (tmp_path / "spool").mkdir()
    for stem, note in [("a", "{half"), ("b", '"text"'), ("c", None), ("d", '{"state": "writing", "path": "/gone/f"}')]:
        (tmp_path / "spool" / f"{stem}.data").write_bytes(b"precious")
        if note is not None:
            (tmp_path / "spool" / f"{stem}.json").write_text(note)
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, _):
        await a_while()
        kept = told(vfs.saves.spool)
        assert [(note["state"], note["bytes"]) for note in kept] == [("failed", 8)] * 4
        vfs.outbox.retry(None)
        await a_while()
    assert len(states(tmp_path)) == 4


async def test_folders_that_only_this_mount_knew_are_made_again(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.faults["upload"] = [AWAY]
    async with mounted(tmp_path, backend) as (vfs, box):
        folder = await vfs.mkdir(box, "new folder")
        with pytest.raises(Unavailable):
            await save(vfs, folder, "f", b"mine")
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {"new folder/f": b"mine"}


async def test_a_record_that_a_crash_left_without_its_bytes_is_filled(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=replace(IN_PLACE, ranged=False, measured=False), sizeless=True)
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"mine")
        assert handle.node.writer is not None
        handle.node.writer.spool.describe(state=State.SENDING, size=4)
    backend.put("f", b"")  # the first of the system's steps was done
    backend.faults["pour"] = [NoBytes("Its bytes never arrived.")] * 3
    async with mounted(tmp_path, backend):
        await a_while()
    assert (backend.newest(), len(backend.files), states(tmp_path)) == ({"f": b"mine"}, 1, [])


async def test_a_full_disk_does_not_end_the_outbox(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    room = False
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"mine")
        disk_full(monkeypatch, until=lambda: room)
        await a_while()
        assert states(tmp_path) != []
        room = True
        await a_while()
        assert backend.newest() == {"f": b"mine"}
        assert states(tmp_path) == []


async def test_what_somebody_writes_while_a_waiting_save_is_compared_is_theirs(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(latency_s=1.0, versionless=True)
    backend.put("f", b"____")
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"mine")
        await called(backend, "read", 1)
        handle = await vfs.files.create(box, "f", truncate=True)
        writer = handle.node.writer
        await vfs.files.write(handle, 0, b"newer")
        await trio.sleep(5)
        assert handle.node.writer is writer
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        await a_while()
        assert backend.newest() == {"f": b"newer"}
        assert states(tmp_path) == ["failed"]


async def test_of_two_saves_that_wait_the_later_one_is_sent(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"first")
        await waiting(vfs, box, backend, "f", b"second")
        await a_while()
        assert backend.newest() == {"f": b"second"}
        assert [n["error"] for n in told(vfs.saves.spool)] == ["the file was saved again since"]


async def test_of_two_saves_that_an_earlier_mount_left_the_later_one_is_sent(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    (tmp_path / "spool").mkdir()
    for age, stem, data in [(2, "2", b"second"), (1, "1", b"first"), (0, "3", b"zeroth")]:
        note = Note(site="memory", path="/memory/box/f", state=State.WAITING, size=len(data))
        file = SpoolFile.create(tmp_path / "spool" / f"{stem}.data", note)
        file.write(0, data)
        spools.os.utime(file.path, (age, age))
        file.close()
    async with mounted(tmp_path, backend):
        await a_while()
        assert backend.newest() == {"f": b"second"}
        assert states(tmp_path) == ["failed", "failed"]


async def test_a_waiting_save_is_compared_with_what_is_there_now(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = Slow()
    async with mounted(tmp_path, backend) as (vfs, box):
        await vfs.listing(box)
        await waiting(vfs, box, backend, "f", b"mine")
        await vfs.listing(box)
        await trio.sleep(6)  # a listing in between, without it
        backend.put("f", b"mine")  # the request had been carried out after all
        await a_while()
        assert len(backend.files) == 1
        assert states(tmp_path) == []


async def test_the_kernel_forgets_its_pages_of_what_a_waiting_save_replaces(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, "f")
        before = node.generation
        await waiting(vfs, box, backend, "f", b"new")
        await a_while()
        assert backend.newest() == {"f": b"new"}
        assert (await vfs.lookup(box, "f")) is node
        assert node.generation >= before + 2, "once as the save fails, and once as it is shown again"


async def test_looking_for_what_waits_keeps_nobody_waiting(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = Slow()
    async with mounted(tmp_path, backend) as (vfs, box):
        await vfs.listing(box)
        await waiting(vfs, box, backend, "f", b"mine")
        await vfs.listing(box)
        await called(backend, "page", 2)
        with trio.fail_after(2.5):
            await vfs.listing(box)


async def test_a_save_that_fails_while_another_is_sent_is_sent_too(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"mine")
        backend.latency_s = 1.0
        await called(backend, "page", 1)
        await waiting(vfs, box, backend, "g", b"mine too")
        await a_while()
        assert backend.newest() == {"f": b"mine", "g": b"mine too"}


async def test_what_was_removed_here_is_not_brought_back_by_a_save_that_waits(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(capabilities=replace(IN_PLACE, deletable=True, renames=True))
    backend.put("f", b"old")
    backend.put("g", b"old")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        for name in ("f", "g"):
            await waiting(vfs, box, backend, name, b"mine")
            backend.faults["upload"] = [AWAY] * 50
        await vfs.unlink(box, "f")
        await vfs.rename(box, "g", box, "h")
        backend.faults.clear()
        await a_while()
        assert backend.newest() == {"h": b"old"}
        assert "waiting" not in states(tmp_path)


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


async def test_a_save_that_was_sent_does_not_wait(tmp_path: Path, autojump_clock: Clock) -> None:
    """Nor is it said to, although the list of what waits was made before."""
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        backend.faults["upload"] = [AWAY] * 100
        with pytest.raises(Unavailable):
            await save(vfs, box, "f", b"data")
        (left,) = vfs.saves.waiting.leftovers()
        path = left.note.path
        assert vfs.saves.waiting.of(path) == left.note
        left.file.unlink()
        assert vfs.saves.waiting.of(path) is None
