"""Each row of labfs/write/WINDOWS.md: the daemon dies there, or an answer is lost, and what was saved is there once.

Those of two saves of one name are in test_crossing.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import SYSTEMS, MemoryBackend, MemoryUpload, mounted, told
from steps import a_while, save, states

import labfs
from labfs.backend import Entry, Replace
from labfs.errors import Denied, Invalid, LabfsError, NoBytes, Unanswered, Unavailable
from labfs.tree.node import Node
from labfs.vfs.drafts.signs import Maker
from labfs.vfs.vfs import Vfs
from labfs.write import early, journal, pairs
from labfs.write.journal import State
from labfs.write.spool import Spool

Clock = trio.testing.MockClock
TABLE = Path(labfs.__file__).parent / "write/WINDOWS.md"
CHANGES = ("upload", "delete", "rename", "complete")


@dataclass
class Breaking(MemoryBackend):
    """A system whose next call of an operation breaks before or after it is carried out; None: labfs dies there."""

    breaks: dict[tuple[str, str], LabfsError | None] = field(default_factory=dict)
    reached: trio.Event = field(default_factory=trio.Event)

    async def _at(self, moment: str, operation: str) -> None:
        if (moment, operation) not in self.breaks:
            return
        error = self.breaks.pop((moment, operation))
        if error is not None:
            raise error
        self.reached.set()
        await trio.sleep_forever()

    async def _call(self, operation: str) -> None:
        await self._at("before", operation)
        await super()._call(operation)

    async def upload(self, target: Any, source: Any) -> Entry:
        entry = await super().upload(target, source)
        await self._at("after", "upload")
        return entry

    async def delete(self, entry: Entry) -> None:
        await super().delete(entry)
        await self._at("after", "delete")

    async def rename(self, entry: Entry, target: Any) -> Entry:
        moved = await super().rename(entry, target)
        await self._at("after", "rename")
        return moved

    async def begin_upload(self, target: Any, size: int | None) -> MemoryUpload:
        upload = await super().begin_upload(target, size)
        complete = upload.complete

        async def completed(receipts: Any, size: int) -> Entry:
            entry = await complete(receipts, size)
            await self._at("after", "complete")
            return entry

        upload.complete = completed  # type: ignore[method-assign]
        return upload

    def named(self, name: str) -> list[bytes]:
        return [data for entry, data in self.files.values() if entry.name == name]


Step = Callable[[Vfs, Node], Awaitable[object]]


def system(kind: str, **more: Any) -> Breaking:
    return Breaking(capabilities=replace(SYSTEMS[kind], **more))


@asynccontextmanager
async def dying(path: Path, backend: Breaking, moment: str, operation: str, step: Step) -> AsyncIterator[None]:
    """Run a step in a mount that dies when it reaches that moment."""
    backend.breaks[moment, operation] = None
    async with mounted(path, backend, may_delete=True) as (vfs, box), trio.open_nursery() as nursery:
        nursery.start_soon(step, vfs, box)
        await backend.reached.wait()
        yield
        nursery.cancel_scope.cancel()


async def died(path: Path, backend: Breaking, moment: str, operation: str, step: Step) -> None:
    async with dying(path, backend, moment, operation, step):
        pass


async def settled(path: Path, backend: Breaking, **site: Any) -> dict[str, bytes]:
    """Let the next mount recover; return what it shows by name."""
    async with mounted(path, backend, **{"may_delete": True, **site}) as (vfs, box):
        await a_while()
        backend.faults.clear()
        return await shown(vfs, box)


async def shown(vfs: Vfs, box: Node) -> dict[str, bytes]:
    vfs.refresh(box)
    found = {}
    for node in await vfs.listing(box):
        handle = await vfs.files.open(node, read=True, write=False)
        found[node.name] = bytes(await vfs.files.read(handle, 0, 1000))
        await vfs.files.release(handle)
    return found


async def over(vfs: Vfs, box: Node) -> None:
    await save(vfs, box, "f", b"second")


async def edited(vfs: Vfs, box: Node) -> None:
    handle = await vfs.files.open(await vfs.resolve("/memory/box/f"), read=True, write=True)
    await vfs.files.write(handle, 0, b"F")
    await vfs.files.flush(handle, shared=False)
    await vfs.files.release(handle)


async def moved_over(vfs: Vfs, box: Node) -> None:
    await vfs.rename(box, "g", box, "f")


async def temp_over(vfs: Vfs, box: Node) -> None:
    await save(vfs, box, "f~", b"second")
    await vfs.rename(box, "f~", box, "f")


def row(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say which rows of the table a test carries."""

    def mark(test: Callable[..., Any]) -> Callable[..., Any]:
        test.rows = names  # type: ignore[attr-defined]
        return test

    return mark


def rows() -> dict[str, list[str]]:
    lines = [line for line in TABLE.read_text().splitlines() if re.match(r"\| [A-Z]\d+ ", line)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {cell[0]: cell[1:] for cell in cells}


def test_each_row_has_a_test_and_each_test_a_row() -> None:
    import test_crossing  # which imports this module

    tests = [*globals().values(), *vars(test_crossing).values()]
    carried = {name for test in tests for name in getattr(test, "rows", ())}
    assert carried == set(rows())


def test_the_table_names_every_state_of_a_note() -> None:
    table = " ".join(" ".join(cells) for cells in rows().values())
    assert {state for state in journal.State if not re.search(rf"`{state}`", table)} == set()


def changing() -> set[str]:
    """Return the functions of all backends that send a request which may change something."""
    found = set()
    backends = TABLE.parents[1] / "backends"
    for path in sorted(backends.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.AsyncFunctionDef) and any(map(_changes, ast.walk(function))):
                found.add(f"{path.relative_to(backends).with_suffix('')}.{function.name}")
    return found


def _changes(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    method = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
    if isinstance(node.func, ast.Name):
        return node.func.id == "Request" and method in ("POST", "PUT", "PATCH", "DELETE")
    if not isinstance(node.func, ast.Attribute):
        return False
    owner = node.func.value
    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return node.func.attr in ("change", "send") and name in ("_wire", "wire", "_api", "api", "self")


def test_the_table_names_every_request_that_changes_something() -> None:
    told = set(re.findall(r"`([\w/]+\.\w+)`", TABLE.read_text().partition("## The requests")[2]))
    assert told == changing()


# -- never closed --------------------------------------------------------------------------------------


@row("A3")
async def test_parts_of_half_a_file_are_withdrawn(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "START", 100)
    backend = MemoryBackend()
    backend.put("f", b"whole")
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.open(await vfs.lookup(box, "f"), read=False, write=True, truncate=True)  # type: ignore[arg-type]
        for start in range(0, 1000, 50):
            await vfs.files.write(handle, start, b"x" * 50)
            await trio.sleep(0.05)
        assert backend.calls["part"] > 10
    async with mounted(tmp_path, backend) as (vfs, _):
        await a_while()
        (note,) = told(vfs.saves.spool)
        assert (note["state"], note["unfinished"], note.get("upload")) == ("failed", True, None)
    assert backend.newest() == {"f": b"whole"}
    assert [upload.aborted for upload in backend.uploads.values()] == [True]


@row("A1", "A2")
@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("synced", [False, True])
async def test_half_a_file_never_replaces_a_whole_one(
    kind: str, synced: bool, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.put("f", b"complete")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, _):
        handle = await vfs.files.open(await vfs.resolve("/memory/box/f"), read=False, write=True, truncate=True)
        await vfs.files.write(handle, 0, b"ha")
        if synced:
            await vfs.files.fsync(handle)
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await a_while()
        assert vfs.outbox.retry(None) == 0
        await a_while()
        assert await shown(vfs, box) == {"f": b"complete"}
        (note,) = told(vfs.saves.spool)
        assert (note["state"], note["error"]) == ("failed", "labfs ended before it was closed")
        plan = await vfs.outbox.plan(Path(note["file"]).stem)
        assert "never closed" in plan["sentence"]
        assert "8 bytes" in plan["sentence"]
        assert vfs.outbox.retry(Path(note["file"]).stem, plan["over"]) == 1
        await a_while()
        assert await shown(vfs, box) == {"f": b"ha"}
    assert states(tmp_path) == []


# -- one request ---------------------------------------------------------------------------------------


@row("B1", "B2", "B3")
@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_save_that_died_is_there_once(
    kind: str, there: bool, moment: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    if there:
        backend.put("f", b"first")
    await died(tmp_path, backend, moment, "upload", over)
    assert await settled(tmp_path, backend) == {"f": b"second"}
    assert backend.named("f") == ([b"first", b"second"] if there and kind == "versions" else [b"second"])
    assert (states(tmp_path), backend.calls["upload"]) == ([], 1)


@row("B1", "B2", "B3")
@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_save_whose_answer_was_lost_is_there_once(
    kind: str, moment: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.put("f", b"first")
    backend.breaks[moment, "upload"] = Unanswered("The line broke.")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unanswered):
            await over(vfs, box)
        await a_while()
        assert await shown(vfs, box) == {"f": b"second"}
    assert (states(tmp_path), backend.calls["upload"], len(backend.named("f"))) == ([], 1, 1 + (kind == "versions"))


@row("B6")
@pytest.mark.parametrize("kind", SYSTEMS)
async def test_a_server_that_is_still_at_work_is_waited_for(kind: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system(kind)
    old = backend.put("f", b"first")
    await died(tmp_path, backend, "before", "upload", over)
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await trio.sleep(4)
        if SYSTEMS[kind].replace is Replace.IN_PLACE:
            backend.files[int(old.label)] = (replace(old, version="2", size=6, checksum=None), b"second")
        else:
            backend.put("f", b"second")
        await a_while()
        assert await shown(vfs, box) == {"f": b"second"}
    assert (backend.calls["upload"], states(tmp_path)) == (0, [])


@row("B4", "B5")
@pytest.mark.parametrize("step", ["note", "first", "second"])
async def test_what_is_done_leaves_nothing(step: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("versions")
    backend.put("f", b"there")
    spool = Spool(tmp_path / "spool")
    file = spool.create("memory", "/memory/box/f")
    file.write(0, b"there")
    file.describe(state=State.SENDING)
    file.describe(state=State.SAVED)
    file.close()
    if step != "note":
        file.path.with_suffix(".json").rename(file.path.with_suffix(pairs.GONE))
        assert told(spool) == [], "it is not shown as a save that failed"
    if step == "second":
        file.path.unlink()
    assert await settled(tmp_path, backend) == {"f": b"there"}
    assert list((tmp_path / "spool").glob("2*")) == []


# -- the new file, then the end of the old one ---------------------------------------------------------


@row("C1", "C2", "C4")
@pytest.mark.parametrize("step", [over, edited, temp_over])
@pytest.mark.parametrize(("moment", "operation"), [("after", "upload"), ("before", "delete"), ("after", "delete")])
async def test_a_replacement_that_died_is_finished(
    step: Step, moment: str, operation: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("by delete")
    backend.put("f", b"first")
    new = b"First" if step is edited else b"second"
    await died(tmp_path, backend, moment, operation, step)
    assert await settled(tmp_path, backend) == {"f": new}
    assert (backend.named("f"), states(tmp_path), backend.calls["upload"]) == ([new], [], 1)


@row("C2", "C3")
async def test_the_old_file_is_hidden_while_its_end_waits(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete")
    backend.put("f", b"first")
    await died(tmp_path, backend, "before", "delete", over)
    backend.faults["delete"] = [Unavailable("away")]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        assert await shown(vfs, box) == {"f": b"second"}
        await save(vfs, box, "f", b"third")
        assert await shown(vfs, box) == {"f": b"third"}
        await a_while()
        assert (backend.named("f"), states(tmp_path)) == ([b"third"], [])


@row("C2")
async def test_a_stranger_of_that_name_is_not_what_replaced_it(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete")
    backend.put("f", b"first")
    await died(tmp_path, backend, "before", "delete", over)
    ours = max(backend.files)
    del backend.files[ours]  # somebody removed what was saved, and another put a file of that name there
    backend.put("f", b"stranger")
    assert sorted((await settled(tmp_path, backend)).values()) == [b"first", b"stranger"], (
        "one of them is all that is left"
    )


@row("C3")
@pytest.mark.parametrize("step", [over, temp_over])
async def test_a_deletion_that_fails_for_a_while_is_made_up_for(
    step: Step, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("by delete")
    backend.put("f", b"first")
    backend.faults["delete"] = [Unavailable("The site is away.")]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unavailable, match="is saved, but its old file"):
            await step(vfs, box)
        assert await shown(vfs, box) == {"f": b"second"}
        vfs.outbox.retry(None)
        await a_while()
        assert await shown(vfs, box) == {"f": b"second"}
    assert (backend.named("f"), states(tmp_path), backend.calls["upload"]) == ([b"second"], [], 1)


@row("C5")
async def test_a_deletion_that_is_refused_shows_both(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete")
    backend.put("f", b"first")
    backend.faults["delete"] = [Denied("Not you.")]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Denied, match="both are there now"):
            await over(vfs, box)
        assert await shown(vfs, box) == {"f": b"second", "f [101]": b"first"}, "the path goes on with what was saved"
        assert states(tmp_path) == ["failed"]
        assert vfs.outbox.retry(None) == 1
        await a_while()
        assert (await shown(vfs, box), states(tmp_path)) == ({"f": b"second"}, [])


@row("C6")
@pytest.mark.parametrize("change", ["remove", "rename"])
async def test_what_was_replaced_does_not_come_back(change: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete", renames=True)
    backend.put("f", b"first")
    backend.faults["delete"] = [Unavailable("The site is away.")]
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unavailable):
            await over(vfs, box)
        if change == "remove":
            await vfs.unlink(box, "f")
        else:
            await vfs.rename(box, "f", box, "g")
        await a_while()
        assert await shown(vfs, box) == ({} if change == "remove" else {"g": b"second"})
    assert (backend.named("f"), states(tmp_path)) == ([], [])


@row("C7")
@pytest.mark.parametrize("late", [False, True])
async def test_what_arrives_after_it_was_overtaken_is_deleted(
    late: bool, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("by delete")
    backend.put("f", b"first")
    backend.breaks["before" if late else "after", "upload"] = Unanswered("The line broke.")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        with pytest.raises(Unanswered):
            await over(vfs, box)
        await save(vfs, box, "f", b"third")
        if late:
            backend.put("f", b"second")
        await a_while()
        assert await shown(vfs, box) == {"f": b"third"}
    assert backend.named("f") == [b"third"]


# -- renames on the server -----------------------------------------------------------------------------


@row("D1", "D2", "D3")
@pytest.mark.parametrize(
    ("moment", "operation", "name"),
    [("before", "rename", "g"), ("after", "rename", "f"), ("before", "delete", "f"), ("after", "delete", "f")],
)
@pytest.mark.parametrize("kind", ["by delete", "in place"])
async def test_a_rename_that_died_is_finished_or_was_none(
    moment: str, operation: str, name: str, kind: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind, renames=True)
    backend.put("f", b"old")
    backend.put("g", b"moved")
    await died(tmp_path, backend, moment, operation, moved_over)
    expected = {"f": b"old", "g": b"moved"} if name == "g" else {"f": b"moved"}
    assert await settled(tmp_path, backend) == expected
    assert states(tmp_path) == []


@row("D1", "D3")
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_rename_whose_answer_was_lost_is_found_out(moment: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete", renames=True)
    backend.put("f", b"old")
    backend.put("g", b"moved")
    backend.breaks[moment, "rename"] = Unanswered("The line broke.")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.listing(box)
        with pytest.raises(Unanswered):
            await moved_over(vfs, box)
        await a_while()
        expected = {"f": b"old", "g": b"moved"} if moment == "before" else {"f": b"moved"}
        assert await shown(vfs, box) == expected
    assert states(tmp_path) == []


@row("D4")
async def test_a_rename_that_was_refused_deletes_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete", renames=True)
    backend.put("f", b"old")
    backend.put("g", b"moved")
    backend.breaks["before", "rename"] = Invalid("Choose a plainer name.")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.listing(box)
        with pytest.raises(Invalid):
            await moved_over(vfs, box)
        await a_while()
        assert await shown(vfs, box) == {"f": b"old", "g": b"moved"}
    assert states(tmp_path) == []


# -- parts, and two steps ------------------------------------------------------------------------------


@row("E1", "E2", "E3")
@pytest.mark.parametrize(("moment", "operation"), [("before", "part"), ("before", "complete"), ("after", "complete")])
@pytest.mark.parametrize("forgotten", [False, True])
async def test_an_upload_in_parts_that_died_is_there_once(
    moment: str, operation: str, forgotten: bool, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend, data = system("versions"), bytes(range(200))

    async def large(vfs: Vfs, box: Node) -> None:
        await save(vfs, box, "f", data)

    await died(tmp_path, backend, moment, operation, large)
    if forgotten:
        backend.uploads.clear()
    assert await settled(tmp_path, backend) == {"f": data}
    assert (backend.named("f"), states(tmp_path)) == ([data], [])


@row("E4")
async def test_a_record_without_bytes_is_filled(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("whole")
    backend.sizeless = True
    await died(tmp_path, backend, "before", "upload", over)
    backend.put("f", b"")  # the first of the system's two steps was done
    backend.faults["pour"] = [NoBytes("Its bytes never arrived.")] * 3
    assert await settled(tmp_path, backend) == {"f": b"second"}
    assert (len(backend.files), states(tmp_path)) == (1, [])


# -- what is never sent unasked ------------------------------------------------------------------------


@row("F1", "F2")
@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("change", ["saved", "removed", "renamed"])
async def test_a_refused_save_never_comes_back_over_what_was_done_since(
    kind: str, change: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind, deletable=True, renames=True)
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await save(vfs, box, "f", b"v1")
        backend.faults["upload"] = [Invalid("No.")]
        with pytest.raises(Invalid):
            await save(vfs, box, "f", b"v2")
        if change == "saved":
            await save(vfs, box, "f", b"v3")
        elif change == "removed":
            await vfs.unlink(box, "f")
        else:
            await vfs.rename(box, "f", box, "g")
        before = await shown(vfs, box)
        assert vfs.outbox.retry(None) == 0
        await a_while()
        assert await shown(vfs, box) == before
    assert await settled(tmp_path, backend) == before
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        assert vfs.outbox.retry(None) == 0
        (note,) = told(vfs.saves.spool)
        assert vfs.outbox.retry(Path(note["file"]).stem) == 1, "by name it is meant"
        await a_while()
        assert (await shown(vfs, box))["f"] == b"v2"


@row("F3")
async def test_a_crash_right_after_a_newer_save_is_no_way_back_for_the_older(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("in place")
    backend.put("f", b"v3")
    spool = Spool(tmp_path / "spool")
    for state, data in [("failed", b"v2"), ("waiting", b"vx"), ("saved", b"v3")]:
        file = spool.create("memory", "/memory/box/f", opened=None, after=0)
        file.write(0, data)
        file.describe(state=State.SENDING, size=2)
        file.describe(state=state, error="refused")
        file.close()
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await a_while()
        assert vfs.outbox.retry(None) == 0
        await a_while()
        assert await shown(vfs, box) == {"f": b"v3"}
        assert states(tmp_path) == ["failed", "failed"]


@row("F4")
async def test_only_the_version_that_was_named_is_overwritten(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("in place")
    old = backend.put("f", b"v1")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        backend.faults["upload"] = [Invalid("No.")]
        with pytest.raises(Invalid):
            await over(vfs, box)
        (note,) = told(vfs.saves.spool)
        plan = await vfs.outbox.plan(Path(note["file"]).stem)
        assert "2 bytes" in plan["sentence"]
        backend.files[int(old.label)] = (replace(old, version="theirs", size=6, checksum=None), b"theirs")
        assert vfs.outbox.retry(Path(note["file"]).stem, plan["over"]) == 1
        await a_while()
        assert await shown(vfs, box) == {"f": b"theirs"}
        assert states(tmp_path) == ["failed"]


async def test_what_was_asked_for_by_name_stays_so(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("in place")
    backend.put("f", b"complete")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, _):
        handle = await vfs.files.open(await vfs.resolve("/memory/box/f"), read=False, write=True, truncate=True)
        await vfs.files.write(handle, 0, b"ha")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        (note,) = told(vfs.saves.spool)
        backend.faults["upload"] = [Unavailable("away")] * 2
        assert vfs.outbox.retry(Path(note["file"]).stem) == 1
        await trio.sleep(5)
        assert vfs.outbox.retry(None) == 1, "it waits"
        await a_while()
        assert await shown(vfs, box) == {"f": b"ha"}
    assert states(tmp_path) == []


@row("F5")
async def test_a_local_file_ends_with_its_mount(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f~", b"scratch")
        assert states(tmp_path) == ["local"]
    assert await settled(tmp_path, backend) == {}
    assert states(tmp_path) == []


@row("F6", "F7")
@pytest.mark.parametrize("name", ["tmpq3x8zk2a", "f.part"])
async def test_a_draft_that_was_closed_is_sent_unless_it_is_unfinished(
    name: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, name, maker=Maker(7001, "python3", exclusive=True, private=True))
        await vfs.files.write(handle, 0, b"data")
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert states(tmp_path) == ["draft"]
    unfinished = name == "f.part"
    assert await settled(tmp_path, backend) == ({} if unfinished else {name: b"data"})
    assert states(tmp_path) == (["failed"] if unfinished else [])


@row("F8", "F9")
@pytest.mark.parametrize("unlinked", [False, True])
async def test_what_was_not_finished_leaves_the_old_file(unlinked: bool, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("in place")
    backend.put("f", b"v1")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        if unlinked:
            await vfs.unlink(box, "f", Maker(7001, "tar", ("tar", "xf", "t.tar")))
        handle = await vfs.files.create(box, "f", truncate=True)
        await vfs.files.write(handle, 0, b"ha")
        if not unlinked:
            await vfs.files.flush(handle, shared=False, killed=True)
            await vfs.files.release(handle)
    assert await settled(tmp_path, backend) == {"f": b"v1"}
    assert states(tmp_path) == ["failed"]
