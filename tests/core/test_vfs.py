"""The file system over a system in memory, in virtual time: histories, races and faults."""

from __future__ import annotations

import errno
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import RULES, MemoryBackend, opened, told

from labfs.backend import Replace
from labfs.errors import Denied, Garbled, LabfsError, NotFound, NotPermitted, Stale, TooLarge, Unavailable
from labfs.tree.lister import LISTING_S
from labfs.tree.node import Node
from labfs.vfs.vfs import Vfs

Clock = trio.testing.MockClock


async def read(vfs: Vfs, node: Node) -> bytes:
    handle = await vfs.files.open(node, read=True, write=False)
    try:
        return bytes(await vfs.files.read(handle, 0, 1 << 20))
    finally:
        await vfs.files.release(handle)


async def save(vfs: Vfs, box: Node, name: str, data: bytes) -> None:
    handle = await vfs.files.create(box, name)
    if handle.node.entry is not None:
        await vfs.files.truncate(handle.node, 0)
    try:
        await vfs.files.write(handle, 0, data)
        await vfs.files.flush(handle, shared=False)
    finally:
        await vfs.files.release(handle)


async def test_a_listing_is_asked_for_once_in_its_time(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    for index in range(7):
        backend.put(f"f{index}", b"x")
    async with opened(tmp_path, backend) as (vfs, box):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(vfs.listing, box)
        assert backend.calls["page"] == 1 + 3
        await trio.sleep(LISTING_S + 1)
        await vfs.listing(box)
        assert backend.calls["page"] == 1 + 3 + 3


async def test_a_dead_site_shows_its_last_listing_and_denies_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"x")
    async with opened(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, "f")
        await trio.sleep(LISTING_S + 1)
        backend.faults["page"] = [Unavailable("down")] * 2
        assert await vfs.lookup(box, "f") is node
        with pytest.raises(Unavailable):
            await vfs.lookup(box, "new since then")
        await trio.sleep(LISTING_S + 1)
        await vfs.listing(box)  # the second fault
        await trio.sleep(LISTING_S + 1)
        with pytest.raises(NotFound):
            await vfs.lookup(box, "new since then")


async def test_a_node_keeps_its_identity_while_listings_change(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"one")
    async with opened(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, "f")
        before = node.generation
        backend.put("f", b"two")
        vfs.refresh(box)
        assert await vfs.lookup(box, "f") is node
        assert node.generation == before + 1, "the kernel's pages are no longer good"
        assert await read(vfs, node) == b"two"


async def test_our_own_save_is_no_news_to_the_kernel(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f", b"data")
        node = await vfs.lookup(box, "f")
        generation = node.generation
        vfs.refresh(box)
        assert (await vfs.lookup(box, "f"), node.generation) == (node, generation)


async def test_a_version_that_changes_under_an_open_file_is_stale(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    entry = backend.put("f", bytes(5 << 20))
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.open(await vfs.lookup(box, "f"), read=True, write=False)
        await vfs.files.read(handle, 0, 10)
        await trio.sleep(1)
        backend.files[entry.age] = (replace(entry, version="other"), b"y" * (5 << 20))
        with pytest.raises(Stale) as caught:
            await vfs.files.read(handle, 4 << 20, 10)
        assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("operation", ["upload", "begin", "part", "complete"])
async def test_a_save_that_fails_keeps_its_bytes_and_leaves_the_old_file(
    operation: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    backend.put("f", b"old")
    size = 10 if operation == "upload" else 200
    async with opened(tmp_path, backend) as (vfs, box):
        backend.faults[operation] = [Denied("no")] * 99
        with pytest.raises(Denied):
            await save(vfs, box, "f", b"n" * size)
        (note,) = told(vfs.saves.spool)
        assert (note["state"], note["error"], note["path"]) == ("failed", "no", "/memory/box/f")
        assert Path(note["file"]).read_bytes() == b"n" * size
        assert await read(vfs, await vfs.lookup(box, "f")) == b"old"
        assert backend.newest() == {"f": b"old"}
        assert operation in ("upload", "begin") or backend.calls["abort"] == 1
        assert "no" in str(vfs.xattrs(await vfs.lookup(box, "f"))["user.labfs.error"])


async def test_a_new_file_that_cannot_be_saved_is_not_shown(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(faults={"upload": [Denied("no")]})
    async with opened(tmp_path, backend) as (vfs, box):
        with pytest.raises(Denied):
            await save(vfs, box, "f", b"n")
        assert await vfs.listing(box) == []
        await save(vfs, box, "f", b"second try")
        assert backend.newest() == {"f": b"second try"}


async def test_parts_are_sent_again_one_by_one(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(faults={"part": [Garbled("damaged"), None, Garbled("damaged")]})
    async with opened(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f", bytes(range(200)))
    assert backend.newest() == {"f": bytes(range(200))}
    assert backend.calls["part"] == 7 + 2
    assert backend.calls["abort"] == 0


async def test_never_more_parts_at_once_than_agreed(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f", bytes(4000))
    assert 1 < backend.most_at_once <= backend.capabilities.connections


async def test_a_write_during_a_commit_is_saved_by_the_next(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(latency_s=1)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.saves.save, handle.node)
            await trio.sleep(0.1)
            assert bytes(await vfs.files.read(handle, 0, 9)) == b"first"
            await vfs.files.write(handle, 0, b"FIRST")
        assert backend.newest() == {"f": b"first"}, "never a mixture"
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
    assert backend.newest() == {"f": b"FIRST"}


async def test_a_refresh_in_the_middle_of_a_save_loses_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(latency_s=1)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"data")
        vfs.refresh(box)
        assert [node.name for node in await vfs.listing(box)] == ["f"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.saves.save, handle.node)
            vfs.refresh(box)
            nursery.start_soon(vfs.listing, box)
        await vfs.files.release(handle)
        assert [node.name for node in await vfs.listing(box)] == ["f"]
        assert (await vfs.lookup(box, "f")) is handle.node


async def test_deleting_where_it_is_allowed(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=replace(RULES, deletable=True))
    backend.put("f", b"x")
    async with opened(tmp_path, backend) as (vfs, box):
        with pytest.raises(LabfsError, match="access") as caught:
            await vfs.unlink(box, "f")
        assert caught.value.errno == errno.EPERM
    async with opened(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.unlink(box, "f")
        assert (await vfs.listing(box), backend.newest()) == ([], {})
        backend.put("g", b"x")
        vfs.refresh(box)
        with pytest.raises(LabfsError) as caught:
            await vfs.rename(box, "g", box, "h")
        assert caught.value.errno == errno.EXDEV, "mv then copies and deletes"


async def test_saving_a_scratch_file_under_a_name_is_all_or_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(faults={"upload": [Denied("no")]})
    backend.put("f", b"old")
    async with opened(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f~", b"new")
        with pytest.raises(Denied):
            await vfs.rename(box, "f~", box, "f")
        assert await read(vfs, await vfs.lookup(box, "f")) == b"old"
        assert await read(vfs, await vfs.lookup(box, "f~")) == b"new"
        await vfs.rename(box, "f~", box, "f")
        assert [node.name for node in await vfs.listing(box)] == ["f"]
        assert await read(vfs, await vfs.lookup(box, "f")) == b"new"
    assert backend.newest() == {"f": b"new"}
    assert backend.calls["upload"] == 2


async def test_sizes_that_a_listing_does_not_tell_are_asked_for_once(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    for index in range(6):
        entry = backend.put(f"f{index}", bytes(index + 1))
        backend.unmeasured[entry.id] = index + 1
    for _ in range(2):  # the second mount remembers
        async with opened(tmp_path, backend) as (vfs, box):
            sizes = {node.name: vfs.attributes(node).size for node in await vfs.listing(box)}
            assert sizes == {f"f{index}": index + 1 for index in range(6)}
            assert await read(vfs, await vfs.lookup(box, "f3")) == bytes(4)
            vfs.refresh(box)
            await vfs.listing(box)
    assert backend.calls["measure"] == 6


@pytest.mark.parametrize(
    ("rule", "may_delete", "number"),
    [(Replace.NEVER, True, errno.EPERM), (Replace.BY_DELETE, False, errno.EPERM), (Replace.BY_DELETE, True, None)],
)
async def test_saving_over_a_file_is_allowed_where_the_system_can(
    rule: Replace, may_delete: bool, number: int | None, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(capabilities=replace(RULES, replace=rule, deletable=True))
    backend.put("f", b"old")
    async with opened(tmp_path, backend, may_delete=may_delete) as (vfs, box):
        if number is None:
            await save(vfs, box, "f", b"new")
            assert backend.newest() == {"f": b"new"}
            return
        with pytest.raises(LabfsError) as caught:
            await vfs.files.open(await vfs.lookup(box, "f"), read=True, write=True)
        assert caught.value.errno == number
        await save(vfs, box, "another", b"x")


async def test_a_folder_that_is_offered_can_be_entered_and_is_not_listed(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.box = replace(backend.box, takes=replace(backend.box.takes, folders=("Document", "A / B")))
    async with opened(tmp_path, backend) as (vfs, box):
        assert await vfs.listing(box) == []
        folder = await vfs.lookup(box, "A %2F B")
        await save(vfs, folder, "f", b"x")
        with pytest.raises(NotFound):
            await vfs.lookup(box, "Nonsense")
        vfs.refresh(box)
        assert [node.name for node in await vfs.listing(box)] == ["A %2F B"]
    ((entry, _),) = backend.files.values()
    assert (entry.folders, entry.name) == (("A / B",), "f")


async def test_the_folders_on_offer_are_the_only_ones(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.box = replace(backend.box, takes=replace(backend.box.takes, folders=("Document", "A / B")))
    async with opened(tmp_path, backend) as (vfs, box):
        made = await vfs.mkdir(box, "Document")
        assert await vfs.lookup(box, "Document") is made
        await save(vfs, made, "f", b"x")
        await save(vfs, made, "f~", b"x")
        other = await vfs.lookup(box, "A %2F B")
        for parent, name in ((box, "Nonsense"), (made, "Document"), (other, "deeper")):
            with pytest.raises(NotPermitted, match="“Document”, “A %2F B”"):
                await vfs.mkdir(parent, name)
        with pytest.raises(NotPermitted, match="“Document”, “A %2F B”"):
            await vfs.files.create(box, "f")
        with pytest.raises(NotPermitted, match="“Document”, “A %2F B”"):
            await vfs.rename(made, "f~", box, "f")
        scratch = await vfs.mkdir(box, ".Trash-1000")
        await save(vfs, scratch, "f", b"y")
    assert backend.newest() == {"Document/f": b"x"}


# -- what a review found: each of these lost, mixed or misplaced bytes once --------------------------------


async def test_a_failed_edit_says_what_its_bytes_lack(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"A" * 300)
    async with opened(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, "f")
        handle = await vfs.files.open(node, read=True, write=True)
        await vfs.files.write(handle, 100, b"EDIT")
        backend.faults["read"] = [Unavailable("down")] * 9
        with pytest.raises(Unavailable):
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        (note,) = told(vfs.saves.spool)
        assert note["missing"] == [[0, 100], [104, 300]]


async def test_fsync_writes_down_what_the_bytes_lack(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"A" * 300)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.open(await vfs.lookup(box, "f"), read=True, write=True)
        assert told(vfs.saves.spool)[0]["missing"] == [[0, 300]], "a crash right now must not be mistaken for a file"
        await vfs.files.write(handle, 0, b"B" * 200)
        await vfs.files.fsync(handle)
        assert told(vfs.saves.spool)[0]["missing"] == [[200, 300]]
        await vfs.files.release(handle)


async def test_a_rename_is_written_down_before_its_upload(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(latency_s=5)
    async with opened(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f~", b"precious")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.rename, box, "f~", box, "f")
            await trio.sleep(1)
            (note,) = told(vfs.saves.spool)
            assert (note["state"], note["path"]) == ("sending", "/memory/box/f")


async def test_a_rename_that_failed_keeps_its_bytes_at_the_end(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(faults={"upload": [Denied("no")]})
    async with opened(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f~", b"precious")
        with pytest.raises(Denied):
            await vfs.rename(box, "f~", box, "f")
        await vfs.saves.finish(10)
        (note,) = told(vfs.saves.spool)
        assert (note["state"], note["path"]) == ("failed", "/memory/box/f")
        assert Path(note["file"]).read_bytes() == b"precious"


async def test_a_rename_that_failed_voids_nobody_elses_changes(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"old")
    async with opened(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f~", b"temporary")
        handle = await vfs.files.open(await vfs.lookup(box, "f"), read=False, write=True, truncate=True)
        await vfs.files.write(handle, 0, b"mine")
        backend.faults["upload"] = [Denied("no")]
        with pytest.raises(Denied):
            await vfs.rename(box, "f~", box, "f")
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"mine"}


async def test_what_was_replaced_while_open_does_not_come_back(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, backend) as (vfs, box):
        temporary = await vfs.files.create(box, "f~")
        await vfs.files.write(temporary, 0, b"new")
        replaced = await vfs.files.create(box, "f")
        await vfs.files.write(replaced, 0, b"replaced")
        await vfs.rename(box, "f~", box, "f")
        for handle in (temporary, replaced):
            await vfs.files.flush(handle, shared=False)
            await vfs.files.release(handle)
        assert backend.newest() == {"f": b"new"}


async def test_a_change_to_a_backup_is_saved_when_it_is_put_back(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"old")
    async with opened(tmp_path, backend) as (vfs, box):
        await vfs.rename(box, "f", box, "f~")
        handle = await vfs.files.open(await vfs.lookup(box, "f~"), read=True, write=True)
        await vfs.files.write(handle, 3, b" and more")
        await vfs.files.release(handle)
        await vfs.rename(box, "f~", box, "f")
        assert backend.newest() == {"f": b"old and more"}


async def test_a_half_written_file_is_not_saved_at_the_end(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "big.bam")
        await vfs.files.write(handle, 0, b"only the beginning")
        await vfs.saves.finish(10)
        (note,) = told(vfs.saves.spool)
        assert (backend.newest(), note["state"]) == ({}, "failed")


async def test_a_reader_keeps_its_version_whatever_others_open(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"1" * 50)
    async with opened(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, "f")
        reading = await vfs.files.open(node, read=True, write=False)
        backend.put("f", b"2" * 50)
        vfs.refresh(box)
        await vfs.listing(box)
        await vfs.files.release(await vfs.files.open(node, read=True, write=True))
        assert bytes(await vfs.files.read(reading, 0, 50)) == b"1" * 50
        await save(vfs, box, "f", b"3" * 50)
        assert bytes(await vfs.files.read(reading, 0, 50)) == b"3" * 50, "what this machine saves, it sees"


async def test_a_slow_listing_does_not_undo_a_save(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"old")
    async with opened(tmp_path, backend) as (vfs, box):
        await vfs.listing(box)
        vfs.refresh(box)
        old = dict(backend.files)
        backend.latency_s = 15

        async def stale_page(parent: Any, cursor: str | None) -> Any:
            from labfs.backend import Page

            await trio.sleep(15)
            return Page(tuple(entry for entry, _ in old.values()))

        backend.page = stale_page  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.listing, box)
            await trio.sleep(0.1)
            backend.latency_s = 0.01
            node = box.children["f"]
            handle = await vfs.files.open(node, read=False, write=True, truncate=True)
            await vfs.files.write(handle, 0, b"new")
            await vfs.files.flush(handle, shared=False)
            await vfs.files.release(handle)
        assert await read(vfs, await vfs.lookup(box, "f")) == b"new"


async def test_opening_while_another_saves_starts_from_what_was_saved(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"one")
    async with opened(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, "f")
        backend.latency_s = 5

        async def append() -> None:
            handle = await vfs.files.open(node, read=True, write=True, append=True)
            await vfs.files.write(handle, 0, b"+")
            await vfs.files.flush(handle, shared=False)
            await vfs.files.release(handle)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(append)
            await trio.sleep(6)
            nursery.start_soon(append)
        backend.latency_s = 0.01
        assert await read(vfs, node) == b"one++"


async def test_a_write_never_waits_for_an_upload(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(latency_s=600)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"first")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.saves.save, handle.node)
            await trio.sleep(0.1)
            with trio.fail_after(1):
                await vfs.files.write(handle, 0, b"FIRST")
        assert backend.newest() == {"f": b"first"}
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"FIRST"}


async def test_a_temporary_file_is_not_taken_for_somebody_elses(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with opened(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f~", b"mine")
        backend.put("f~", b"theirs")
        vfs.refresh(box)
        node = await vfs.lookup(box, "f~")
        assert (node.stays_here, await read(vfs, node)) == (True, b"mine")
        await vfs.saves.finish(10)
        assert backend.newest() == {"f~": b"theirs"}


async def test_renaming_and_removing_wait_for_an_upload(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(latency_s=5)
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"x")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(vfs.saves.save, handle.node)
            await trio.sleep(1)
            for attempt in (vfs.unlink(box, "f"), vfs.rename(box, "f", box, "g")):
                with pytest.raises(LabfsError) as caught:
                    await attempt
                assert caught.value.errno == errno.EPERM
        await vfs.files.release(handle)
        assert [node.name for node in await vfs.listing(box)] == ["f"]


async def test_an_older_version_is_only_to_be_read(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    first = backend.put("f", b"one")
    backend.put("f", b"two")
    async with opened(tmp_path, backend) as (vfs, box):
        node = await vfs.lookup(box, f"f [{first.label}]")
        assert await read(vfs, node) == b"one"
        with pytest.raises(LabfsError, match="older version") as caught:
            await vfs.files.open(node, read=True, write=True)
        assert caught.value.errno == errno.EROFS


async def test_a_mistake_in_a_backend_loses_nothing_and_ends_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(faults={"upload": [KeyError("Id")] * 2})  # type: ignore[list-item]
    async with opened(tmp_path, backend) as (vfs, box):
        with pytest.raises(KeyError):
            await save(vfs, box, "f", b"x")
        assert [note["state"] for note in told(vfs.saves.spool)] == ["failed"]
        assert backend.calls["upload"] == 1, "and nothing is sent twice"
        await vfs.saves.finish(10)


async def test_files_are_not_moved_to_where_none_can_be(tmp_path: Path, autojump_clock: Clock) -> None:
    async with opened(tmp_path, MemoryBackend()) as (vfs, box):
        site = await vfs.resolve("/memory")
        handle = await vfs.files.create(box, "f")
        folder = await vfs.mkdir(box, "folder")
        for name in ("f", folder.name):
            with pytest.raises(LabfsError) as caught:
                await vfs.rename(box, name, site, name)
            assert caught.value.errno == errno.EPERM
        vfs.files.drop(handle.node)


async def test_names_that_are_too_long_or_hold_control_characters_are_refused(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with opened(tmp_path, MemoryBackend()) as (vfs, box):
        for name, number in (("x" * 256, errno.ENAMETOOLONG), ("a\nb", errno.EINVAL)):
            with pytest.raises(LabfsError) as caught:
                await vfs.files.create(box, name)
            assert caught.value.errno == number


async def test_many_local_files_hold_no_descriptors(tmp_path: Path, autojump_clock: Clock) -> None:
    import os

    async with opened(tmp_path, MemoryBackend()) as (vfs, box):
        before = len(os.listdir("/proc/self/fd"))
        for index in range(200):
            await save(vfs, box, f"._{index}", b"x")
        assert len(os.listdir("/proc/self/fd")) < before + 20
        assert await read(vfs, await vfs.lookup(box, "._7")) == b"x"
        await vfs.saves.finish(1)


# -- histories against a plain model -----------------------------------------------------------------------

OPERATIONS = st.one_of(
    st.tuples(st.just("save"), st.sampled_from("abc"), st.binary(min_size=1, max_size=150)),
    st.tuples(st.just("patch"), st.sampled_from("abc"), st.integers(0, 160), st.binary(min_size=1, max_size=60)),
    st.tuples(st.just("append"), st.sampled_from("abc"), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("cut"), st.sampled_from("abc"), st.integers(0, 200)),
    st.tuples(st.just("read"), st.sampled_from("abc")),
    st.tuples(st.just("theirs"), st.sampled_from("abc"), st.binary(min_size=1, max_size=150)),
    st.tuples(st.just("swap"), st.sampled_from("abc"), st.binary(min_size=1, max_size=80)),
    st.tuples(st.just("backup"), st.sampled_from("abc"), st.binary(min_size=1, max_size=80)),
    st.tuples(st.just("wait"), st.floats(0, 2 * LISTING_S)),
    st.tuples(st.just("refresh")),
)
FAULTS = st.dictionaries(
    st.sampled_from(["upload", "begin", "part", "complete", "read"]),
    st.lists(st.sampled_from([None, None, Unavailable("fault")]), max_size=4),
)


class History:
    """Runs operations on the file system and on a dictionary; only an error may make them differ, and then not."""

    def __init__(self, vfs: Vfs, box: Node, backend: MemoryBackend) -> None:
        self.vfs, self.box, self.backend = vfs, box, backend
        self.model: dict[str, bytes] = {}

    async def step(self, operation: tuple[Any, ...]) -> None:
        kind, *arguments = operation
        try:
            await getattr(self, kind)(*arguments)
        except Unavailable:
            # Whether a save that failed was carried out is the server's to say.
            self.model = self.backend.newest()
        except NotFound:
            assert kind != "save"
            assert arguments[0] not in self.model

    async def save(self, name: str, data: bytes) -> None:
        await save(self.vfs, self.box, name, data)
        self.model[name] = data

    async def edit(self, name: str, change: Any) -> None:
        handle = await self.vfs.files.open(await self.vfs.lookup(self.box, name), read=True, write=True)
        try:
            await change(handle)
            await self.vfs.files.flush(handle, shared=False)
        finally:
            await self.vfs.files.release(handle)

    async def patch(self, name: str, offset: int, data: bytes) -> None:
        await self.edit(name, lambda handle: self.vfs.files.write(handle, offset, data))
        old = self.model[name].ljust(offset, b"\0")
        self.model[name] = old[:offset] + data + old[offset + len(data) :]

    async def append(self, name: str, data: bytes) -> None:
        async def change(handle: Any) -> None:
            handle.append = True
            await self.vfs.files.write(handle, 0, data)

        await self.edit(name, change)
        self.model[name] += data

    async def cut(self, name: str, size: int) -> None:
        await self.vfs.files.truncate(await self.vfs.lookup(self.box, name), size)
        self.model[name] = self.model[name][:size].ljust(size, b"\0")

    async def read(self, name: str) -> None:
        assert await read(self.vfs, await self.vfs.lookup(self.box, name)) == self.model[name]

    async def theirs(self, name: str, data: bytes) -> None:
        self.backend.put(name, data)
        self.vfs.refresh(self.box)
        await self.vfs.listing(self.box)
        self.model[name] = data

    async def swap(self, name: str, data: bytes) -> None:
        await save(self.vfs, self.box, f".{name}.swp", data)
        await self.vfs.rename(self.box, f".{name}.swp", self.box, name)
        self.model[name] = data

    async def backup(self, name: str, data: bytes) -> None:
        await self.vfs.rename(self.box, name, self.box, name + "~")
        await save(self.vfs, self.box, name, data)
        self.model[name] = data
        await self.vfs.unlink(self.box, name + "~")

    async def wait(self, seconds: float) -> None:
        await trio.sleep(seconds)

    async def refresh(self) -> None:
        self.vfs.refresh(self.box)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(OPERATIONS, max_size=14), faults=FAULTS)
def test_every_history_agrees_with_a_dictionary(operations: list[Any], faults: dict[str, Any], tmp_path: Path) -> None:
    run_history(operations, faults, tmp_path)


def run_history(operations: list[Any], faults: dict[str, Any], tmp_path: Path) -> None:
    async def main() -> None:
        backend = MemoryBackend()
        async with opened(tmp_path / str(random.getrandbits(64)), backend) as (vfs, box):
            history = History(vfs, box, backend)
            backend.faults = {kind: list(errors) for kind, errors in faults.items()}
            for operation in operations:
                await history.step(operation)
            backend.faults = {}
            await trio.sleep(2 * LISTING_S)
            shown = {node.name: await read(vfs, node) for node in await vfs.listing(box) if not node.stays_here}
            assert shown == backend.newest()
            if not faults:
                assert shown == history.model
            assert vfs.saves.unsaved() == []

    trio.run(main, clock=Clock(autojump_threshold=0))


@pytest.mark.parametrize("rule", [Replace.IN_PLACE, Replace.BY_DELETE, Replace.NEWER])
async def test_renaming_what_is_still_written_over_a_file_replaces_it(
    rule: Replace, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(replace(RULES, replace=rule, deletable=True))
    backend.put("f", b"old")
    async with opened(tmp_path, backend, may_delete=True) as (vfs, box):
        handle = await vfs.files.create(box, "new")
        await vfs.files.write(handle, 0, b"new")
        await vfs.rename(box, "new", box, "f")
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert [node.name for node in await vfs.listing(box)] == ["f"]
        assert backend.newest() == {"f": b"new"}
        assert len(backend.files) == (2 if rule is Replace.NEWER else 1)


async def test_what_cannot_be_saved_over_is_not_renamed_over(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(replace(RULES, replace=Replace.NEVER))
    backend.put("f", b"old")
    async with opened(tmp_path, backend) as (vfs, box):
        for name in ("new", ".f.swp"):
            handle = await vfs.files.create(box, name)
            with pytest.raises(NotPermitted):
                await vfs.rename(box, name, box, "f")
            await vfs.files.release(handle)
        assert await read(vfs, await vfs.lookup(box, "f")) == b"old"


async def test_opening_that_only_truncates_is_saved_at_its_close(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"full")
    async with opened(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.open(await vfs.lookup(box, "f"), read=True, write=False, truncate=True)
        await vfs.files.flush(handle, shared=False)
        assert backend.newest() == {"f": b""}
        await vfs.files.release(handle)
        assert told(vfs.saves.spool) == []


# -- a directory whose files go up in one body only ------------------------------------------------------------


async def test_a_directory_may_take_larger_bodies_than_the_rest_of_the_site(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    backend.box = replace(backend.box, takes=replace(backend.box.takes, whole=100))
    async with opened(tmp_path, backend) as (vfs, box):
        await save(vfs, box, "f", bytes(range(100)))
        assert (backend.newest(), backend.calls["begin"]) == ({"f": bytes(range(100))}, 0)
        with pytest.raises(TooLarge, match="100 bytes at most"):
            await save(vfs, box, "g", bytes(101))
    assert backend.newest() == {"f": bytes(range(100))}
