"""Parts that go up while a file is written: the close waits for the tail, and nothing but the whole file is ever seen."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import RULES, MemoryBackend, mounted, opened, told
from trio.testing import MockClock as Clock

from labfs.backend import Replace
from labfs.errors import Conflict, Denied, Garbled, LabfsError, TooLarge, Unavailable
from labfs.vfs import Handle, Vfs
from labfs.write import early, upload

START, PART = 100, 32  # bytes; of RULES


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "START", START)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def close(vfs: Vfs, handle: Handle) -> None:
    try:
        await vfs.files.flush(handle, shared=False)
    finally:
        await vfs.files.release(handle)


async def write(vfs: Vfs, handle: Handle, data: bytes, at: int = 0, step: int = 40, pause_s: float = 0.05) -> None:
    for start in range(0, len(data), step):
        await vfs.files.write(handle, at + start, data[start : start + step])
        await trio.sleep(pause_s)


async def test_a_close_waits_for_the_tail_alone(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, data = MemoryBackend(), noise(1000)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await write(vfs, handle, data)
        assert backend.newest() == {}, "nothing is visible before the close"
        early_parts = backend.calls["part"]
        assert early_parts >= (len(data) - 3 * PART) // PART
        await close(vfs, handle)
    assert backend.newest() == {"f": data}
    assert backend.calls["begin"] == 1
    assert backend.calls["part"] == -(-len(data) // PART), "each part once"


async def test_what_is_written_again_is_sent_again(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, data = MemoryBackend(), noise(1000)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await write(vfs, handle, data)
        await vfs.files.write(handle, 10, b"header")
        await vfs.files.write(handle, 3 * PART - 2, b"over")
        await close(vfs, handle)
    changed = bytearray(data)
    changed[10:16], changed[3 * PART - 2 : 3 * PART + 2] = b"header", b"over"
    assert backend.newest() == {"f": bytes(changed)}
    assert backend.calls["part"] == -(-len(data) // PART) + 3, "the three parts that changed"


async def test_a_part_that_changes_on_its_way_is_sent_again(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, data = MemoryBackend(latency_s=1.0), noise(400)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await write(vfs, handle, data)
        await trio.sleep(1.2)  # the upload is begun, and parts are on their way
        await vfs.files.write(handle, 0, b"later")
        await close(vfs, handle)
    assert backend.newest() == {"f": b"later" + data[5:]}


async def test_a_file_that_becomes_shorter_is_sent_anew(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, data = MemoryBackend(), noise(1000)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await write(vfs, handle, data)
        await vfs.files.resize(handle.node, 300)
        await close(vfs, handle)
    assert backend.newest() == {"f": data[:300]}
    assert all(each.aborted for each in list(backend.uploads.values())[:-1])


async def test_what_was_cut_off_and_grew_again_is_zeros(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, data = MemoryBackend(), noise(1000)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await write(vfs, handle, data)
        for size in (300, 1000):
            await vfs.files.resize(handle.node, size)
        await close(vfs, handle)
    assert backend.newest() == {"f": data[:300] + bytes(700)}


async def test_holes_and_files_written_backwards_go_up_whole(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, data = MemoryBackend(), noise(1000)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        for start in reversed(range(0, len(data), 40)):
            await vfs.files.write(handle, start, data[start : start + 40])
            await trio.sleep(0.01)
        await close(vfs, handle)
    assert backend.newest() == {"f": data}


@pytest.mark.parametrize("ended", ["removed", "left open", "killed"])
async def test_a_file_that_is_not_saved_leaves_no_upload_behind(
    tmp_path: Path, autojump_clock: Clock, ended: str
) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await write(vfs, handle, noise(1000))
        (begun,) = backend.uploads.values()
        match ended:
            case "removed":
                await vfs.unlink(box, "f")  # type: ignore[arg-type]
                await close(vfs, handle)
            case "left open":
                await vfs.saves.finish(10)
            case "killed":
                vfs.saves.abandon(handle.node)
                await vfs.files.release(handle)
        await trio.sleep(1)
        assert begun.aborted
        assert backend.newest() == {}
        if ended != "removed":
            (note,) = told(vfs.saves.spool)
            assert (note["state"], note["bytes"], note.get("upload")) == ("failed", 1000, None)


async def test_a_crash_leaves_no_upload_behind(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, data = MemoryBackend(), noise(1000)
    async with opened(tmp_path, backend) as (vfs, box):
        await write(vfs, await vfs.files.create(box, "f"), data)
        (note,) = told(vfs.saves.spool)
        assert note["upload"]["receipts"] == []
    async with mounted(tmp_path, backend) as (vfs, _):
        await trio.sleep(1)
        assert [each.aborted for each in backend.uploads.values()] == [True]
        (note,) = told(vfs.saves.spool)
        assert (note["state"], note.get("upload"), note["unfinished"]) == ("failed", None, True)
        vfs.outbox.retry(Path(note["file"]).stem)
        await trio.sleep(60)
    assert backend.newest() == {"f": data}, "and its bytes can still be saved"


@pytest.mark.parametrize("operation", ["begin", "part", "complete"])
@pytest.mark.parametrize("error", [Denied("no"), Garbled("damaged"), Unavailable("away"), RuntimeError("a mistake")])
async def test_no_early_failure_reaches_the_program(
    tmp_path: Path, autojump_clock: Clock, operation: str, error: Exception
) -> None:
    backend, data = MemoryBackend(), noise(1000)
    backend.faults[operation] = [error]  # type: ignore[list-item]
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await write(vfs, handle, data)
        if operation == "complete":
            with pytest.raises(type(error)):
                await close(vfs, handle)
            assert backend.newest() == {}
        else:
            await close(vfs, handle)
            assert backend.newest() == {"f": data}


async def test_a_part_is_void_also_if_it_is_written_again_after_another_one_failed(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(faults={"part": [None, None, Garbled("damaged")]})
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        data = noise(1000)
        await write(vfs, handle, data)
        await trio.sleep(1)
        await vfs.files.write(handle, 0, b"later")
        await close(vfs, handle)
    assert backend.newest() == {"f": b"later" + data[5:]}


async def test_an_error_that_stays_is_told_at_the_close(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(faults={"part": [Denied("no")] * 99})
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await write(vfs, handle, noise(1000))
        with pytest.raises(Denied):
            await close(vfs, handle)
        assert all(each.aborted for each in backend.uploads.values())


async def test_what_others_saved_meanwhile_stays(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=replace(RULES, replace=Replace.IN_PLACE, deletable=True))
    old = backend.put("f", b"old")
    async with opened(tmp_path, backend) as (vfs, box):
        node = (await vfs.tree.children(box))["f"]  # type: ignore[arg-type]
        handle = await vfs.files.open(node, read=False, write=True, truncate=True)
        await write(vfs, handle, noise(1000))
        assert backend.calls["part"] > 10
        backend.files[int(old.label)] = (replace(old, version="theirs", size=6), b"theirs")
        with pytest.raises(Conflict):
            await close(vfs, handle)
        assert backend.newest() == {"f": b"theirs"}
        assert [each.aborted for each in backend.uploads.values()] == [True]


async def test_a_file_that_is_too_large_leaves_no_upload_behind(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await write(vfs, handle, noise(1000))
        monkeypatch.setattr(upload, "largest", lambda *_: 500)
        with pytest.raises(TooLarge):
            await close(vfs, handle)
        assert [each.aborted for each in backend.uploads.values()] == [True]


@pytest.mark.parametrize("pause_s", [0.0, 0.2, 0.5, 0.9, 1.1, 1.9, 2.5, 3.5])
async def test_a_write_while_a_commit_begins_is_in_it_or_in_the_next(
    tmp_path: Path, autojump_clock: Clock, pause_s: float
) -> None:
    backend = MemoryBackend(capabilities=replace(RULES, replace=Replace.IN_PLACE, deletable=True))
    backend.put("f", b"old")
    async with opened(tmp_path, backend) as (vfs, box):
        node = (await vfs.tree.children(box))["f"]  # type: ignore[arg-type]
        handle = await vfs.files.open(node, read=False, write=True, truncate=True)
        data = noise(1000)
        await write(vfs, handle, data)
        backend.latency_s = 1.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(vfs.files.flush, handle, shared=True))
            nursery.start_soon(vfs.saves.save, node)
            await trio.sleep(pause_s)
            await vfs.files.write(handle, 0, b"later")
        assert backend.newest()["f"] in (data, b"later" + data[5:]), "never a mixture"
        await close(vfs, handle)
    assert backend.newest() == {"f": b"later" + data[5:]}


async def test_a_file_renamed_while_it_is_written_is_saved_under_its_new_name(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend, data = MemoryBackend(), noise(1000)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await write(vfs, handle, data)
        await vfs.rename(box, "f", box, "g")  # type: ignore[arg-type]
        await close(vfs, handle)
    assert backend.newest() == {"g": data}
    assert sum(not each.aborted for each in backend.uploads.values()) == 1


async def test_a_small_file_and_a_draft_are_sent_when_they_are_closed(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, backend) as (vfs, box):
        for name, size in (("f", START), ("f~", 1000)):
            handle = await vfs.files.create(box, name)
            await write(vfs, handle, noise(size))
            assert backend.calls["begin"] == 0
            await close(vfs, handle)
            backend.calls.clear()


Step = tuple[str, int, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 120), st.just(0)),
        st.tuples(st.just("write"), st.integers(0, 900), st.integers(1, 90)),
        st.tuples(st.just("cut"), st.integers(0, 900), st.just(0)),
        st.tuples(st.just("grow"), st.integers(0, 300), st.just(0)),
        st.tuples(st.just("wait"), st.integers(0, 200), st.just(0)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


@given(steps=STEPS, latency_ms=st.integers(0, 80), faults=st.lists(st.integers(0, 12), max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_written_the_file_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step], latency_ms: int, faults: list[int]
) -> None:
    async def history() -> None:
        backend = MemoryBackend(capabilities=RULES, latency_s=latency_ms / 1000)
        backend.faults["part"] = [Garbled("damaged") if at in faults else None for at in range(13)]
        truth, chance = bytearray(), random.Random(len(steps))
        async with opened(tmp_path_factory.mktemp("early"), backend) as (vfs, box):
            handle = await vfs.files.create(box, "f")
            for action, a, b in steps:
                match action:
                    case "append" | "write":
                        start, data = (
                            (len(truth), chance.randbytes(a)) if action == "append" else (a, chance.randbytes(b))
                        )
                        await vfs.files.write(handle, start, data)
                        truth.extend(bytes(max(start - len(truth), 0)))
                        truth[start : start + len(data)] = data
                    case "cut":
                        await vfs.files.resize(handle.node, min(a, len(truth)))
                        del truth[a:]
                    case "grow":
                        await vfs.files.resize(handle.node, len(truth) + a)
                        truth.extend(bytes(a))
                    case "flush":
                        await vfs.files.flush(handle, shared=True)
                    case "wait":
                        await trio.sleep(a / 1000)
            try:
                await close(vfs, handle)
            except LabfsError as error:
                raise AssertionError("no error stays") from error
            assert backend.newest().get("f", b"") == bytes(truth)
            await trio.sleep(10)
            left = [each for each in backend.uploads.values() if not (each.aborted or each.completed)]
            assert left == [], "no upload is left behind"

    trio.run(history, clock=Clock(autojump_threshold=0))
