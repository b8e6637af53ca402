"""What goes wrong at the same time: saves that wait, people who do not, crashes and full disks."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import trio
import trio.testing
from memory import RULES, MemoryBackend, told
from test_outbox import AWAY, IN_PLACE, a_while, mounted, save, states

from labfs.errors import LabfsError, Unavailable
from labfs.read.whole import Copies
from labfs.tree.remembered.sizes import Sizes
from labfs.write import spool as spools
from labfs.write.journal import Begun, Note, State
from labfs.write.spool import Spool, SpoolFile

Clock = trio.testing.MockClock


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
    file.describe(state="sending", size=100, synced=True, upload=Begun("t", 10))
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
    file.describe(state="sending", size=50)  # the power went before the other forty were on the disk
    backend = MemoryBackend()
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {}
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


async def test_going_back_to_what_an_older_version_held_is_a_save(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"a")
    backend.put("f", b"b")
    async with mounted(tmp_path, backend) as (vfs, box):
        await waiting(vfs, box, backend, "f", b"a")
        await a_while()
        assert backend.newest() == {"f": b"a"}
        assert states(tmp_path) == []


class Slow(MemoryBackend):
    """A backend that shows a file only after a while."""

    hidden_s = 0.0

    async def page(self, parent: Any, cursor: str | None) -> Any:
        await trio.sleep(0 if parent.id == "" else 5)
        return await super().page(parent, cursor)


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


async def test_opening_a_file_anew_while_its_save_ends_is_no_error(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(latency_s=1.0)
    async with mounted(tmp_path, backend) as (vfs, box):
        first = await vfs.files.create(box, "f")
        await vfs.files.write(first, 0, b"first")
        writer = first.node.writer
        assert writer is not None
        separate, go_on = writer._separate, trio.Event()

        async def slowly() -> None:
            await go_on.wait()
            await separate()

        async def close() -> None:
            await vfs.files.flush(first, shared=False)
            await vfs.files.release(first)
            go_on.set()

        writer._separate = slowly  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            await trio.sleep(0.5)
            second = await vfs.files.open(first.node, read=False, write=True, truncate=True)
        await vfs.files.write(second, 0, b"2")
        await vfs.files.flush(second, shared=False)
        await vfs.files.release(second)
        assert backend.newest() == {"f": b"2"}
        assert states(tmp_path) == []


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


class Renaming(MemoryBackend):
    """A backend whose versions change with the name."""

    async def rename(self, entry: Any, target: Any) -> Any:
        moved = await super().rename(entry, target)
        number = int(entry.label)
        self.files[number] = (replace(moved, version=f"{moved.version} {target.name}"), self.files[number][1])
        return self.files[number][0]


async def test_a_file_that_is_renamed_while_it_is_written_is_saved_under_its_new_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = Renaming(capabilities=replace(IN_PLACE, renames=True))
    backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f", truncate=True)
        await vfs.files.write(handle, 0, b"new")
        await vfs.rename(box, "f", box, "g")
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"g": b"new"}
        assert [node.name for node in await vfs.listing(box)] == ["g"]


async def test_a_new_file_that_is_renamed_while_its_save_begins_has_one_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    for turns in range(6):
        backend = MemoryBackend()
        async with mounted(tmp_path / str(turns), backend) as (vfs, box):
            handle = await vfs.files.create(box, "f")
            await vfs.files.write(handle, 0, b"new")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda h=handle: vfs.files.flush(h, shared=False))
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                try:
                    await vfs.rename(box, "f", box, "g")
                except LabfsError:
                    name = "f"
                else:
                    name = "g"
            await vfs.files.release(handle)
            assert backend.newest() == {name: b"new"}


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


async def test_a_crash_while_a_temporary_file_replaces_another_loses_nothing(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    backend.put("f.txt", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, ".f.txt.swp")
        assert handle.node.stays_here
        await vfs.files.write(handle, 0, b"new")
        await vfs.files.release(handle)
        backend.latency_s = 1.0
        with trio.move_on_after(0.5):
            monkey = vfs.saves.relabel
            # A crash writes no more notes.
            vfs.saves.relabel = lambda node, **news: None if news else monkey(node)  # type: ignore[method-assign]
            await vfs.rename(box, ".f.txt.swp", box, "f.txt")
    backend.latency_s = 0.01
    assert backend.newest() == {"f.txt": b"old"}
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {"f.txt": b"new"}
    assert states(tmp_path) == []


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


async def test_a_full_disk_after_the_server_has_it_is_no_failure(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    async with mounted(tmp_path, backend) as (vfs, box):
        await vfs.listing(box)
        await waiting(vfs, box, backend, "f", b"first")
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"second")
        disk_full(monkeypatch, until=lambda: not backend.files)
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"second"}
        assert [node.name for node in await vfs.listing(box)] == ["f"]


WHOLE = replace(RULES, ranged=False)


async def contents(vfs: Any, path: str) -> bytes:
    handle = await vfs.files.open(await vfs.resolve(path), read=True, write=False)
    try:
        return bytes(await vfs.files.read(handle, 0, 1 << 20))
    finally:
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
            copy._lend(0, 5)
        kept = copies.open(("site", entry.id, "v"), backend.content(entry))
        await kept.read(0, 5)
        (path,) = tmp_path.iterdir()
        path.write_bytes(b"by")  # the disk lost some
        assert bytes(await kept.read(0, 5)) == b"bytes"


def test_sizes_that_cannot_be_remembered_are_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "sizes"
    path.write_bytes(b"no database at all, but as long as one might be" * 100)
    entry = MemoryBackend().put("f", b"bytes")
    sizes = Sizes(path)
    sizes.set("site", entry, 5)
    assert sizes.get("site", entry) == 5
    sizes._db.execute("DROP TABLE sizes")
    assert sizes.get("site", entry) is None
    sizes.set("site", entry, 5)
    sizes.close()
