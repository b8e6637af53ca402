"""Two things that are done to one name at a time: none of them is lost, doubled, or comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import mounted
from test_outbox import a_while, save, states
from test_windows import died, settled, shown, system

from labfs.errors import Denied, DiskFailed, Invalid, Unavailable
from labfs.node import Node
from labfs.vfs import Vfs

Clock = trio.testing.MockClock
AWAY = Unavailable("The site is away.")


@pytest.mark.parametrize("kind", ["by delete", "in place", "versions"])
async def test_a_name_is_moved_over_a_file_that_is_being_saved(
    kind: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.put("f", b"first")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await save(vfs, box, "f~", b"third")
        backend.latency_s = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(save, vfs, box, "f", b"second")
            await trio.sleep(0.5)
            assert (await vfs.resolve("/memory/box/f")).writer is not None
            nursery.start_soon(vfs.rename, box, "f~", box, "f")
        await a_while()
        assert (await shown(vfs, box))["f"] == b"third"
    assert kind == "versions" or backend.named("f") == [b"third"]
    assert states(tmp_path) == []


async def test_what_is_removed_while_the_outbox_looks_at_it_does_not_come_back(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("by delete")
    backend.put("f", b"first")
    backend.faults["upload"] = [AWAY]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unavailable):
            await save(vfs, box, "f", b"second")
        await trio.sleep(14)
        delete = backend.delete

        async def slow(entry: object) -> None:
            await trio.sleep(20)
            await delete(entry)  # type: ignore[arg-type]

        backend.delete = slow  # type: ignore[method-assign]
        await vfs.unlink(box, "f")
        await a_while()
        assert await shown(vfs, box) == {}
    assert backend.named("f") == []


@pytest.mark.parametrize("kind", ["by delete", "versions"])
async def test_a_new_file_that_is_removed_takes_what_waits_along(
    kind: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.faults["upload"] = [AWAY]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unavailable):
            await save(vfs, box, "f", b"first")
        handle = await vfs.files.create(box, "f")
        await vfs.unlink(box, "f")
        await vfs.files.release(handle)
        await a_while()
        assert await shown(vfs, box) == {}
        assert states(tmp_path) == ["failed"]


async def test_a_note_that_the_disk_refused_is_newer_than_what_waits(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = system("in place")
    backend.put("f", b"first")
    backend.faults["upload"] = [AWAY] * 2
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unavailable):
            await save(vfs, box, "f", b"second")
        handle = await vfs.files.create(box, "f", truncate=True)
        await vfs.files.write(handle, 0, b"third")
        with pytest.raises(Unavailable):
            await vfs.files.flush(handle, shared=False)

        def full(*args: object) -> None:
            raise DiskFailed(28, "full")

        with monkeypatch.context() as patch:
            patch.setattr("labfs.spool.write_note", full)
            await vfs.files.release(handle)
            await trio.sleep(14)
            assert backend.named("f") == [b"first"]
            await trio.sleep(20)
            assert backend.named("f") == [b"first"], "what is overtaken is not sent"
        await a_while()
        assert await shown(vfs, box) == {"f": b"third"}


async def test_what_was_named_replaces_that_version_also_after_a_crash(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        backend.faults["upload"] = [Invalid("No.")]
        with pytest.raises(Invalid):
            await save(vfs, box, "f", b"mine")
    backend.put("f", b"theirs")

    async def named(vfs: Vfs, box: Node) -> None:
        (note,) = vfs.saves.spool.leftovers()
        name = Path(note["file"]).stem
        plan = await vfs.outbox.plan(name)
        vfs.outbox.retry(name, plan["over"])

    await died(tmp_path, backend, "after", "upload", named)
    assert await settled(tmp_path, backend) == {"f": b"mine"}
    assert (backend.named("f"), states(tmp_path)) == ([b"mine"], [])


@pytest.mark.parametrize("separately", [False, True])
async def test_what_is_written_after_a_save_was_named_is_not_named(
    separately: bool, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("in place")
    backend.put("f", b"complete")
    backend.faults["upload"] = [Invalid("No.")]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Invalid):
            await save(vfs, box, "f", b"second")
        (note,) = vfs.saves.spool.leftovers()
        backend.latency_s = 3.0
        if not separately:
            backend.faults["upload"] = [AWAY]
        vfs.outbox.retry(Path(note["file"]).stem)
        node = await vfs.resolve("/memory/box/f")
        for _ in range(600):
            await trio.sleep(0.1)
            if backend.calls["upload"] == 2:
                break
        assert node.writer is not None
        handle = await vfs.files.open(node, read=False, write=True)
        if not separately:
            await node.writer.settled()
        else:
            backend.latency_s = 1000.0
            await trio.sleep(5.0)
        await vfs.files.write(handle, 0, b"h")
    backend.latency_s = 0.01
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await a_while()
        assert vfs.outbox.retry(None) == 0


async def twice(vfs: Vfs, box: Node) -> None:
    handle = await vfs.files.open(await vfs.resolve("/memory/box/f"), read=False, write=True, truncate=True)
    try:
        await vfs.files.write(handle, 0, b"second")
        await vfs.files.flush(handle, shared=False)
        await vfs.files.write(handle, 0, b"third!")
        await vfs.files.flush(handle, shared=False)
    finally:
        await vfs.files.release(handle)


@pytest.mark.parametrize("kind", ["by delete", "in place", "versions"])
async def test_the_second_close_of_a_file_that_dies_is_there_once(
    kind: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.put("f", b"first")

    async def step(vfs: Vfs, box: Node) -> None:
        backend.breaks.clear()
        handle = await vfs.files.open(await vfs.resolve("/memory/box/f"), read=False, write=True, truncate=True)
        await vfs.files.write(handle, 0, b"second")
        await vfs.files.flush(handle, shared=False)
        backend.breaks["after", "upload"] = None
        await vfs.files.write(handle, 0, b"third!")
        await vfs.files.flush(handle, shared=False)

    await died(tmp_path, backend, "after", "upload", step)
    found = await settled(tmp_path, backend)
    assert (found["f"], states(tmp_path)) == (b"third!", [])
    assert kind == "versions" or backend.named("f") == [b"third!"]


@pytest.mark.parametrize("kind", ["by delete", "in place", "versions"])
async def test_the_second_close_of_a_file_waits_and_is_sent(kind: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system(kind)
    backend.put("f", b"first")
    backend.faults["upload"] = [None, AWAY]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unavailable):
            await twice(vfs, box)
        await a_while()
        assert ((await shown(vfs, box))["f"], states(tmp_path)) == (b"third!", [])


TWIN = "/memory/box/f [102]"


async def over_twin(vfs: Vfs, box: Node) -> None:
    handle = await vfs.files.open(await vfs.resolve(TWIN), read=False, write=True, truncate=True)
    try:
        await vfs.files.write(handle, 0, b"third")
        await vfs.files.flush(handle, shared=False)
    finally:
        await vfs.files.release(handle)


@pytest.mark.parametrize(
    ("moment", "operation"), [("after", "upload"), ("before", "delete"), ("after", "delete"), ("before", "upload")]
)
@pytest.mark.parametrize("kind", ["by delete", "in place"])
async def test_a_save_of_a_twin_that_dies_is_there_once(
    kind: str, moment: str, operation: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    if (kind, operation) == ("in place", "delete"):
        return
    backend = system(kind)
    backend.put("f", b"first")
    backend.put("f", b"second")
    await died(tmp_path, backend, moment, operation, over_twin)
    found = await settled(tmp_path, backend)
    assert (found["f"], sorted(found.values()), states(tmp_path)) == (b"first", [b"first", b"third"], [])


async def test_what_arrived_before_a_crash_keeps_the_path(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete")
    backend.put("f", b"first")

    async def over(vfs: Vfs, box: Node) -> None:
        await save(vfs, box, "f", b"second")

    await died(tmp_path, backend, "after", "upload", over)
    backend.faults["delete"] = [Denied("No.")]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await a_while()
        assert await shown(vfs, box) == {"f": b"second", "f [101]": b"first"}


@pytest.mark.parametrize("notes", [0, 1])
async def test_a_rename_that_a_full_disk_refuses_leaves_both_names(
    notes: int, tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = system("in place")
    backend.put("f", b"first")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await save(vfs, box, "f~", b"second")
        written = []

        def full(path: Path, note: dict[str, Any]) -> None:
            if len(written) >= notes:
                raise DiskFailed(28, "full")
            written.append(note)

        with monkeypatch.context() as patch:
            patch.setattr("labfs.spool.write_note", full)
            with pytest.raises(OSError):
                await vfs.rename(box, "f~", box, "f")
        assert await shown(vfs, box) == {"f": b"first", "f~": b"second"}
        await vfs.rename(box, "f~", box, "f")
        assert await shown(vfs, box) == {"f": b"second"}


async def test_what_waits_is_overtaken_by_a_name_that_is_moved_to_its_path(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("in place")
    backend.put("g", b"other")
    backend.faults["upload"] = [AWAY]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unavailable):
            await save(vfs, box, "f", b"mine")
        await vfs.rename(box, "g", box, "f")
        await a_while()
        assert await shown(vfs, box) == {"f": b"other"}
        (note,) = vfs.saves.spool.leftovers()
        assert note.get("overtaken"), note


@pytest.mark.parametrize("kind", ["by delete", "in place"])
async def test_what_is_named_while_the_outbox_looks_at_it_is_sent(
    kind: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.put("f", b"first")
    backend.faults["upload"] = [AWAY]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unavailable):
            await save(vfs, box, "f", b"second")
        del backend.files[101]
        backend.put("f", b"theirs")
        (note,) = vfs.saves.spool.leftovers()
        name = Path(note["file"]).stem
        plan = await vfs.outbox.plan(name)
        backend.latency_s = 2.0
        await trio.sleep(16)
        vfs.outbox.retry(name, plan["over"])
        backend.latency_s = 0.01
        await a_while()
        assert await shown(vfs, box) == {"f": b"second"}


async def test_what_is_listed_before_its_upload_is_answered_has_one_name(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete")
    backend.put("f", b"first")
    upload = backend.upload

    async def slow(target: Any, source: Any) -> Any:
        entry = await upload(target, source)
        await trio.sleep(5)
        return entry

    backend.upload = slow  # type: ignore[method-assign]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box), trio.open_nursery() as nursery:
        nursery.start_soon(save, vfs, box, "f", b"second")
        await trio.sleep(3)
        vfs.refresh(box)
        await vfs.listing(box)
        await trio.sleep(5)
        assert [node.name for node in await vfs.listing(box)] == ["f"]
        assert await shown(vfs, box) == {"f": b"second"}
