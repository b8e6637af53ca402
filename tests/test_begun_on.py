"""What a save was begun on is what recovery takes it for: after an earlier save, among twins, and when it is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from memory import SYSTEMS, mounted
from test_outbox import AWAY, a_while, save, states
from test_windows import Breaking, Step, died, settled, shown, system

from labfs.backend import Entry, Source, Target
from labfs.errors import Denied, Invalid, LabfsError
from labfs.node import Node
from labfs.spool import Spool
from labfs.vfs import Vfs

Clock = trio.testing.MockClock
WINDOWS = [("before", "upload"), ("after", "upload"), ("before", "delete"), ("after", "delete")]


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


@pytest.mark.parametrize("kind", SYSTEMS)
async def test_a_second_save_of_one_writer_waits_and_is_sent(kind: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system(kind)
    backend.put("f", b"before")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        step = by_two_programs(backend, lambda: backend.faults.update(upload=[AWAY]))
        with pytest.raises(LabfsError):
            await step(vfs, box)
        assert states(tmp_path) == ["waiting"]
        await a_while()
        assert await shown(vfs, box) == {"f": b"second"}
    assert states(tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "moment", "operation"),
    [*((kind, *window) for kind in SYSTEMS for window in WINDOWS[:2]), *(("by delete", *w) for w in WINDOWS[2:])],
)
async def test_a_kill_in_the_second_save_of_one_writer(
    kind: str, moment: str, operation: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.put("f", b"before")
    step = by_two_programs(backend, lambda: backend.breaks.update({(moment, operation): None}))
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box), trio.open_nursery() as nursery:
        nursery.start_soon(step, vfs, box)
        await backend.reached.wait()
        nursery.cancel_scope.cancel()
    assert await settled(tmp_path, backend) == {"f": b"second"}
    assert states(tmp_path) == []
    versions = [b"before", b"first!", b"second"]
    assert backend.named("f") == (versions if kind == "versions" else versions[-1:])


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
        (note,) = Spool(tmp_path / "spool").leftovers()
        name = Path(note["file"]).stem
        plan = await vfs.outbox.plan(name)
        backend.breaks[moment, operation] = None
        vfs.outbox.retry(name, plan["over"])

    await died(tmp_path, backend, moment, operation, step)
    assert await settled(tmp_path, backend) == {"f": b"second"}
    assert (backend.named("f"), states(tmp_path)) == ([b"second"], [])


async def to_the_twin(vfs: Vfs, box: Node) -> None:
    await save(vfs, box, "f [102]", b"second")


@pytest.mark.parametrize(("moment", "operation"), WINDOWS)
async def test_a_kill_in_a_save_over_a_twin(moment: str, operation: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete")
    backend.put("f", b"plain")
    backend.put("f", b"twin")
    await died(tmp_path, backend, moment, operation, to_the_twin)
    found = await settled(tmp_path, backend)
    assert (found.pop("f"), list(found.values())) == (b"plain", [b"second"])
    assert (backend.named("f"), states(tmp_path)) == ([b"plain", b"second"], [])


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
    found = await settled(tmp_path, backend)
    assert (found.pop("f"), list(found.values())) == (b"second", [b"before"])
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
    assert backend.named("f") == [b"second"]


class Slow(Breaking):
    """A system that goes on checking a file for a while after it is listed."""

    async def upload(self, target: Target, source: Source) -> Entry:
        entry = await super().upload(target, source)
        await trio.sleep(5)
        return entry
