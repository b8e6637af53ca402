"""Two things that are done to one name, at a time or one after the other: none is lost, doubled, or comes back.

What a save was begun on is what recovery takes it for. The rows of labfs/write/WINDOWS.md that test_windows.py does not carry.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import SYSTEMS, mounted, told
from steps import AWAY, a_while, save, states
from test_windows import Breaking, Step, died, row, settled, shown, system

from labfs.backend import Entry, Source, Target
from labfs.errors import Denied, DiskFailed, Invalid, LabfsError, Unavailable
from labfs.tree.node import Node
from labfs.vfs.vfs import Vfs
from labfs.write.spool import Spool

Clock = trio.testing.MockClock


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
            patch.setattr("labfs.write.spool.write_note", full)
            await vfs.files.release(handle)
            await trio.sleep(14)
            assert backend.named("f") == [b"first"]
            await trio.sleep(20)
            assert backend.named("f") == [b"first"], "what is overtaken is not sent"
        await a_while()
        assert await shown(vfs, box) == {"f": b"third"}


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
        (note,) = told(vfs.saves.spool)
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
            await node.writer.committed()
        else:
            backend.latency_s = 1000.0
            await trio.sleep(5.0)
        await vfs.files.write(handle, 0, b"h")
    backend.latency_s = 0.01
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await a_while()
        assert vfs.outbox.retry(None) == 0


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
            patch.setattr("labfs.write.spool.write_note", full)
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
        (note,) = told(vfs.saves.spool)
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
        (note,) = told(vfs.saves.spool)
        name = Path(note["file"]).stem
        plan = await vfs.outbox.plan(name)
        backend.latency_s = 2.0
        await trio.sleep(16)
        vfs.outbox.retry(name, plan["over"])
        backend.latency_s = 0.01
        await a_while()
        assert await shown(vfs, box) == {"f": b"second"}


@row("C8")
@pytest.mark.parametrize("steps", range(8))
async def test_a_name_is_saved_again_while_the_end_of_its_first_file_fails(
    steps: int, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("by delete")
    backend.put("f", b"first")
    backend.faults["delete"] = [AWAY, AWAY]

    async def again(vfs: Vfs, box: Node) -> None:
        with contextlib.suppress(Unavailable):
            await save(vfs, box, "f", b"third")

    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unavailable):
            await save(vfs, box, "f", b"second")
        await trio.sleep(1)
        backend.latency_s = 1.0
        async with trio.open_nursery() as nursery:
            vfs.outbox.retry(None)
            await trio.sleep(steps / 2)
            nursery.start_soon(again, vfs, box)
        await a_while()
        assert await shown(vfs, box) == {"f": b"third"}
    assert (backend.named("f"), states(tmp_path)) == ([b"third"], [])


# -- what a save was begun on: after an earlier save, when it is named, and among twins ------------------

WINDOWS = [("before", "upload"), ("after", "upload"), ("before", "delete"), ("after", "delete")]


def by_one_program(backend: Breaking, between: Callable[[], None]) -> Step:
    """Return a step in which a program has a file open, and each of two closes saves it: those of its children."""

    async def step(vfs: Vfs, box: Node) -> None:
        handle = await vfs.files.open(await vfs.resolve("/memory/box/f"), read=False, write=True, truncate=True)
        try:
            for data in (b"first!", b"second"):
                await vfs.files.write(handle, 0, data)
                await vfs.files.flush(handle, shared=False)
                between()
        finally:
            await vfs.files.release(handle)

    return step


def by_two_programs(backend: Breaking, between: Callable[[], None]) -> Step:
    """Return a step in which two programs have a file open, and the close of each one saves it."""

    async def step(vfs: Vfs, box: Node) -> None:
        node = await vfs.resolve("/memory/box/f")
        first = await vfs.files.open(node, read=False, write=True, truncate=True)
        second = await vfs.files.open(node, read=False, write=True)
        for handle, data in [(first, b"first!"), (second, b"second")]:
            await vfs.files.write(handle, 0, data)
            try:
                await vfs.files.flush(handle, shared=False)
            finally:
                await vfs.files.release(handle)
            between()

    return step


Twice = Callable[[Breaking, Callable[[], None]], Step]


@row("G1")
@pytest.mark.parametrize("twice", [by_one_program, by_two_programs])
@pytest.mark.parametrize("kind", SYSTEMS)
async def test_a_second_save_of_one_writer_waits_and_is_sent(
    kind: str, twice: Twice, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.put("f", b"before")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        step = twice(backend, lambda: backend.faults.update(upload=[AWAY]))
        with pytest.raises(LabfsError):
            await step(vfs, box)
        assert states(tmp_path) == ["waiting"]
        await a_while()
        assert await shown(vfs, box) == {"f": b"second"}
    assert states(tmp_path) == []


@row("G1")
@pytest.mark.parametrize("twice", [by_one_program, by_two_programs])
@pytest.mark.parametrize(
    ("kind", "moment", "operation"),
    [*((kind, *window) for kind in SYSTEMS for window in WINDOWS[:2]), *(("by delete", *w) for w in WINDOWS[2:])],
)
async def test_a_kill_in_the_second_save_of_one_writer(
    kind: str, moment: str, operation: str, twice: Twice, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.put("f", b"before")
    step = twice(backend, lambda: backend.breaks.update({(moment, operation): None}))
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box), trio.open_nursery() as nursery:
        nursery.start_soon(step, vfs, box)
        await backend.reached.wait()
        nursery.cancel_scope.cancel()
    assert await settled(tmp_path, backend) == {"f": b"second"}
    assert states(tmp_path) == []
    versions = [b"before", b"first!", b"second"]
    assert backend.named("f") == (versions if kind == "versions" else versions[-1:])


@row("G3")
async def test_what_was_named_replaces_that_version_also_after_a_crash(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        backend.faults["upload"] = [Invalid("No.")]
        with pytest.raises(Invalid):
            await save(vfs, box, "f", b"mine")
    backend.put("f", b"theirs")

    async def named(vfs: Vfs, box: Node) -> None:
        (note,) = told(vfs.saves.spool)
        name = Path(note["file"]).stem
        plan = await vfs.outbox.plan(name)
        vfs.outbox.retry(name, plan["over"])

    await died(tmp_path, backend, "after", "upload", named)
    assert await settled(tmp_path, backend) == {"f": b"mine"}
    assert (backend.named("f"), states(tmp_path)) == ([b"mine"], [])


@row("G3")
@pytest.mark.parametrize(("moment", "operation"), WINDOWS)
async def test_a_kill_in_a_save_that_was_named(
    moment: str, operation: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("by delete")
    backend.put("f", b"before")
    backend.faults["upload"] = [Invalid("No.")]

    async def step(vfs: Vfs, box: Node) -> None:
        backend.breaks.clear()
        with pytest.raises(Invalid):
            await save(vfs, box, "f", b"second")
        await save(vfs, box, "f", b"third")
        (note,) = told(Spool(tmp_path / "spool"))
        name = Path(note["file"]).stem
        plan = await vfs.outbox.plan(name)
        backend.breaks[moment, operation] = None
        vfs.outbox.retry(name, plan["over"])

    await died(tmp_path, backend, moment, operation, step)
    assert await settled(tmp_path, backend) == {"f": b"second"}
    assert (backend.named("f"), states(tmp_path)) == ([b"second"], [])


async def to_the_twin(vfs: Vfs, box: Node) -> None:
    await save(vfs, box, "f [102]", b"second")


@row("G2")
@pytest.mark.parametrize(
    ("kind", "moment", "operation"),
    [*(("by delete", *window) for window in WINDOWS), *(("in place", *window) for window in WINDOWS[:2])],
)
async def test_a_kill_in_a_save_over_a_twin(
    kind: str, moment: str, operation: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.put("f", b"plain")
    backend.put("f", b"twin")
    await died(tmp_path, backend, moment, operation, to_the_twin)
    found = await settled(tmp_path, backend)
    assert (found.pop("f"), list(found.values())) == (b"plain", [b"second"])
    assert (backend.named("f"), states(tmp_path)) == ([b"plain", b"second"], [])


@row("G2")
@pytest.mark.parametrize("kind", ["in place", "by delete"])
@pytest.mark.parametrize("gone", ["plain", "twin"])
async def test_a_save_over_a_twin_waits_while_one_of_them_goes(
    kind: str, gone: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    plain, twin = backend.put("f", b"plain"), backend.put("f", b"twin")
    backend.faults["upload"] = [AWAY]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(LabfsError):
            await to_the_twin(vfs, box)
        await backend.delete(plain if gone == "plain" else twin)
        await a_while()
        expected = {"f": b"second"} if gone == "plain" else {"f": b"plain"}
        assert await shown(vfs, box) == expected
    assert states(tmp_path) == ([] if gone == "plain" else ["failed"])
    assert {entry.name for entry, _ in backend.files.values()} == {"f"}


async def test_what_arrived_has_the_path_although_the_old_file_cannot_go(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete")
    backend.put("f", b"before")

    async def step(vfs: Vfs, box: Node) -> None:
        await save(vfs, box, "f", b"second")

    await died(tmp_path, backend, "after", "upload", step)
    backend.faults["delete"] = [Denied("No.")]
    assert await settled(tmp_path, backend) == {"f": b"second", "f [101]": b"before"}
    assert await settled(tmp_path, backend, may_delete=False) == {"f": b"second", "f [101]": b"before"}
    assert states(tmp_path) == ["failed"]


async def test_what_arrived_is_the_newest_version_whatever_its_date(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("versions")
    backend.put("f", b"before")

    async def step(vfs: Vfs, box: Node) -> None:
        await save(vfs, box, "f", b"second")

    await died(tmp_path, backend, "after", "upload", step)
    entry, data = backend.files[102]
    backend.files[102] = replace(entry, age=101), data
    backend.put("g", b"")
    assert (await settled(tmp_path, backend))["f"] == b"second"


async def test_a_listing_while_a_save_is_confirmed_leaves_one_name(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = Slow(capabilities=SYSTEMS["by delete"])
    backend.put("f", b"before")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box), trio.open_nursery() as nursery:
        nursery.start_soon(save, vfs, box, "f", b"second")
        await trio.sleep(1)
        await shown(vfs, box)
        await trio.sleep(10)
        assert [node.name for node in await vfs.listing(box)] == ["f"]
        assert await shown(vfs, box) == {"f": b"second"}
    assert backend.named("f") == [b"second"]


class Slow(Breaking):
    """A system that goes on checking a file for a while after it is listed."""

    async def upload(self, target: Target, source: Source) -> Entry:
        entry = await super().upload(target, source)
        await trio.sleep(5)
        return entry
