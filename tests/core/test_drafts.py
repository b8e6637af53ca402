"""Drafts and replacements, without a door: what they become in time, at the end of a mount, and after a crash."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from memory import SYSTEMS, MemoryBackend, mounted, told
from steps import a_while, save, states
from test_windows import shown

from labfs.errors import Empty, Invalid, LabfsError, NotFound, NotPermitted, Unavailable
from labfs.tree.node import Node
from labfs.vfs import policy
from labfs.vfs.drafts.life import DRAFT_S
from labfs.vfs.drafts.signs import Draft, Known, Maker, judge
from labfs.vfs.vfs import Vfs
from labfs.write import spool as spools

Clock = trio.testing.MockClock


def maker(program: str = "python3", *arguments: str, private: bool = False, exclusive: bool = True, pid: int = 7001,
          runs: bool = True, reading: tuple[str, ...] = ()) -> Maker:  # fmt: skip
    return Maker(pid, program, (program, *arguments), "/home/ada", frozenset(reading), exclusive, private, lambda: runs)


MKSTEMP = maker(private=True)
ENDED = maker(private=True, runs=False)


def system(kind: str) -> MemoryBackend:
    return MemoryBackend(capabilities=SYSTEMS[kind])


async def make(vfs: Vfs, box: Node, name: str, data: bytes, by: Maker = MKSTEMP) -> Node:
    handle = await vfs.files.create(box, name, maker=by)
    try:
        if data:
            await vfs.files.write(handle, 0, data)
        await vfs.files.flush(handle, shared=False)
    finally:
        await vfs.files.release(handle)
    return handle.node


@pytest.mark.parametrize("kind", SYSTEMS)
async def test_a_draft_stays_here_and_its_rename_is_the_save(kind: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system(kind)
    old = backend.put("f", b"old")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        node = await make(vfs, box, "tmpq3x8zk2a", b"new")
        assert vfs.xattrs(node)["user.labfs.state"] == "draft"
        assert [(one["path"], one["state"]) for one in vfs.uploads()] == [("/memory/box/tmpq3x8zk2a", "draft")]
        assert backend.newest() == {"f": b"old"}
        await vfs.rename(box, "tmpq3x8zk2a", box, "f", maker=MKSTEMP)
        assert backend.newest() == {"f": b"new"}
        assert [entry.id for entry, _ in backend.files.values()].count(old.id) == (kind != "by delete")
        assert await shown(vfs, box) == {"f": b"new"}
        assert vfs.uploads() == []
    assert states(tmp_path) == []


async def test_a_backup_of_what_was_saved_here_stays_here_when_it_is_written_over(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend, emacs = system("versions"), maker("emacs", exclusive=False)
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "f", b"one", emacs)
        await vfs.rename(box, "f", box, "f~", maker=emacs)
        await make(vfs, box, "f", b"two", emacs)
        backup = await vfs.files.create(box, "f~", maker=emacs, truncate=True)
        await vfs.files.write(backup, 0, b"two")
        await vfs.files.flush(backup, shared=False)
        await vfs.files.release(backup)
        assert backend.newest() == {"f": b"two"}
        assert await shown(vfs, box) == {"f": b"two", "f~": b"two"}
        assert backup.node.stays_here


@pytest.mark.parametrize("by", [ENDED, maker("sort", private=True), maker("java", exclusive=True)])
async def test_a_draft_whose_time_is_over_is_saved_under_its_own_name(
    by: Maker, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend, name = system("versions"), "save18223372036854775807.tmp"
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, name, b"data", by)
        await trio.sleep(DRAFT_S - 5)
        assert backend.newest() == {}
        await trio.sleep(10)
        assert backend.newest() == {name: b"data"}
        assert await shown(vfs, box) == {name: b"data"}


async def test_what_a_running_program_made_for_itself_stays_as_long_as_it_runs(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    running = [True]
    by = Maker(7001, "samtools", ("samtools", "sort", "-T", "/mnt/x/run", "-"), "/", exclusive=True,
               runs=lambda: running[0])  # fmt: skip
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "run.0000.bam", b"one", by)
        await make(vfs, box, "run.0001.bam", b"two", by)
        await trio.sleep(5000)
        assert backend.newest() == {}
        await vfs.unlink(box, "run.0000.bam", by)
        running[0] = False
        await trio.sleep(5)
        assert backend.newest() == {"run.0001.bam": b"two"}, "it was left behind, so perhaps it was meant"


async def test_a_draft_is_saved_when_the_mount_ends(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "tmpq3x8zk2a", b"data")
        await vfs.finish(10)
    assert backend.newest() == {"tmpq3x8zk2a": b"data"}
    assert states(tmp_path) == []


async def test_a_draft_outlives_a_crash(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "tmpq3x8zk2a", b"data")
        assert states(tmp_path) == ["draft"]
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {"tmpq3x8zk2a": b"data"}
    assert states(tmp_path) == []


async def test_a_draft_waits_in_the_outbox_where_its_site_is_away_at_the_end(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "tmpq3x8zk2a", b"data")
        backend.faults["upload"] = [Unavailable("away")] * 9
        await vfs.finish(10)
    assert states(tmp_path) == ["waiting"]
    backend.faults.clear()
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {"tmpq3x8zk2a": b"data"}


@pytest.mark.parametrize("crashed", [False, True])
async def test_what_its_name_calls_unfinished_goes_to_the_outbox_and_nowhere_else(
    crashed: bool, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "Unconfirmed 42.crdownload", b"ha", maker("chrome"))
        await trio.sleep(10_000)
        assert backend.newest() == {}
        if not crashed:
            await vfs.finish(10)
    async with mounted(tmp_path, backend) as (vfs, box):
        await a_while()
        assert await shown(vfs, box) == {}
        (note,) = told(vfs.saves.spool)
        assert (note["state"], note["unfinished"]) == ("failed", True)
        assert vfs.outbox.retry(None) == 0
        assert vfs.outbox.retry(Path(note["file"]).stem) == 1
        await a_while()
        assert await shown(vfs, box) == {"Unconfirmed 42.crdownload": b"ha"}


async def test_a_file_is_unfinished_while_its_mark_is_beside_it(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, aria = system("versions"), maker("aria2c", "http://lab.example/big.bin", exclusive=False)
    async with mounted(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "big.bin", maker=aria)
        await make(vfs, box, "big.bin.aria2__temp", b"map", aria)
        await vfs.rename(box, "big.bin.aria2__temp", box, "big.bin.aria2", maker=aria)
        await vfs.files.write(handle, 0, b"bytes")
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {}
        await vfs.unlink(box, "big.bin.aria2", aria)
        assert backend.newest() == {"big.bin": b"bytes"}


async def test_an_empty_file_that_its_system_does_not_take_stays_here(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        backend.faults["upload"] = [Empty("no empty files")]
        node = await make(vfs, box, "new.txt", b"", maker("touch", "new.txt", exclusive=False))
        assert vfs.attributes(node).size == 0
        await trio.sleep(1000)
        assert await shown(vfs, box) == {"new.txt": b""}
        handle = await vfs.files.open(node, read=False, write=True)
        await vfs.files.write(handle, 0, b"more")
        await vfs.files.flush(handle, shared=False)
        assert backend.newest() == {"new.txt": b"more"}, "it was meant all the time"
        await vfs.files.release(handle)
        backend.faults["upload"] = [Empty("no empty files")]
        await make(vfs, box, "lock", b"", maker("flock", "lock", exclusive=False))
        await vfs.finish(10)
    assert states(tmp_path) == [], "nothing is lost that had no byte"
    assert backend.newest() == {"new.txt": b"more"}


async def test_a_programs_own_folder_holds_drafts(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, rsync = system("versions"), maker("rsync", private=True, exclusive=False)
    async with mounted(tmp_path, backend) as (vfs, box):
        folder = await vfs.mkdir(box, ".rsync-partial", rsync)
        await make(vfs, box, ".big.bin.OXMPfI", b"half", maker("rsync", private=True))
        await vfs.rename(box, ".big.bin.OXMPfI", folder, "big.bin", maker=rsync)
        await trio.sleep(1000)
        assert backend.newest() == {}
        await vfs.rename(folder, "big.bin", box, "big.bin", maker=rsync)
        assert backend.newest() == {"big.bin": b"half"}
        await vfs.rmdir(box, ".rsync-partial")
        folder = await vfs.mkdir(box, "bcftools.Xy3fQa", rsync)
        await make(vfs, folder, "0001.bcf", b"data", maker("bcftools"))
        await vfs.finish(10)
    assert backend.newest() == {"big.bin": b"half", "bcftools.Xy3fQa/0001.bcf": b"data"}


async def test_a_folder_that_gets_an_ordinary_name_is_saved(tmp_path: Path, autojump_clock: Clock) -> None:
    backend, tool = system("versions"), maker("tool", private=True)
    async with mounted(tmp_path, backend) as (vfs, box):
        folder = await vfs.mkdir(box, "tmpq3x8zk2a", tool)
        await make(vfs, folder, "a", b"1", tool)
        inner = await vfs.mkdir(folder, "deep", tool)
        await make(vfs, inner, "b", b"2", tool)
        await vfs.rename(box, "tmpq3x8zk2a", box, "result", maker=tool)
        assert backend.newest() == {"result/a": b"1", "result/deep/b": b"2"}


@pytest.mark.parametrize("kind", SYSTEMS)
async def test_a_file_that_is_moved_aside_for_a_draft_is_a_file_of_its_own_in_the_end(
    kind: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend, sed = system(kind), maker("sed", "-i.bak", "s/a/b/", "f", private=True)
    backend.put("f", b"old")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await make(vfs, box, "tmpq3x8zk2a", b"new", sed)
        await vfs.rename(box, "f", box, "f.bak", maker=sed)
        await vfs.rename(box, "tmpq3x8zk2a", box, "f", maker=sed)
        assert backend.newest() == {"f": b"new"}
        assert await shown(vfs, box) == {"f": b"new", "f.bak": b"old"}
        await a_while()
        assert backend.newest() == {"f": b"new", "f.bak": b"old"}


async def test_a_file_that_was_moved_aside_for_nothing_has_its_name_again(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("versions")
    backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "tmpq3x8zk2a", b"new")
        await vfs.rename(box, "f", box, "f.bak", maker=MKSTEMP)
        await vfs.unlink(box, "tmpq3x8zk2a", MKSTEMP)
        await a_while()
        assert await shown(vfs, box) == {"f": b"old"}
        assert backend.newest() == {"f": b"old"}


# -- replacements --------------------------------------------------------------------------------------

TAR = maker("tar", "xf", "t.tar")


@pytest.mark.parametrize("kind", SYSTEMS)
async def test_what_is_removed_and_made_anew_is_one_save(kind: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system(kind)
    old = backend.put("f", b"old")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.unlink(box, "f", TAR, "/mnt/memory/box/f")
        assert await shown(vfs, box) == {}
        assert old.id in {entry.id for entry, _ in backend.files.values()}, "until the new one is there"
        await make(vfs, box, "f", b"new", TAR)
        assert backend.newest() == {"f": b"new"}
        assert len(backend.files) == 1 + (kind == "versions")
        assert await shown(vfs, box) == {"f": b"new"}


@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("ends", ["in time", "at once", "refused"])
async def test_the_old_one_is_there_if_the_new_one_never_comes(
    kind: str, ends: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system(kind)
    backend.put("f", b"old")
    by = replace(TAR, runs=lambda: ends != "at once")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.unlink(box, "f", by, "/mnt/memory/box/f")
        if ends == "refused":
            backend.faults["upload"] = [Invalid("No.")]
            with pytest.raises(Invalid):
                await make(vfs, box, "f", b"new", by)
        elif ends == "in time":
            await trio.sleep(20)
        assert await shown(vfs, box) == {"f": b"old"}
        assert backend.newest() == {"f": b"old"}


async def test_a_replacement_is_refused_where_saving_over_a_file_is(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("by delete")
    backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        with pytest.raises(NotPermitted, match="would delete the old one"):
            await vfs.unlink(box, "f", TAR)
        assert await shown(vfs, box) == {"f": b"old"}


@pytest.mark.parametrize("by", [maker("rm", "f"), maker("python3", "x.py"), maker("find", ".", "-delete")])
async def test_a_plain_removal_is_done_when_it_returns(by: Maker, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("in place")
    backend.put("f", b"old")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.unlink(box, "f", by, "/mnt/memory/box/f")
        assert backend.newest() == {}
    backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        with pytest.raises(NotPermitted):
            await vfs.unlink(box, "f", by, "/mnt/memory/box/f")


@pytest.mark.parametrize("failing", [False, True])
async def test_what_a_program_of_both_kinds_removes_goes_after_all(
    failing: bool, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend, git = system("in place"), maker("git", "checkout", "main")
    backend.put("f", b"old")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        if failing:
            backend.faults["delete"] = [Unavailable("away")]
        await vfs.unlink(box, "f", git, "/mnt/memory/box/f")
        assert await shown(vfs, box) == {}
        await trio.sleep(10)
        assert await shown(vfs, box) == ({"f": b"old"} if failing else {})
        assert (backend.newest() == {}) is not failing


@pytest.mark.parametrize("kind", ["in place", "by delete", "whole"])
async def test_what_is_made_while_the_old_one_is_being_deleted_is_a_file_of_its_own(
    kind: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend, git = system(kind), maker("git", "checkout", "main")
    backend.put("f", b"old")
    backend.latency_s = 1.0
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        await vfs.unlink(box, "f", git, "/mnt/memory/box/f")
        while not backend.calls["delete"]:  # noqa: ASYNC110
            await trio.sleep(0.1)
        await make(vfs, box, "f", b"new", git)
        assert backend.newest() == {"f": b"new"}
        assert len(backend.files) == 1
        assert await shown(vfs, box) == {"f": b"new"}
    assert states(tmp_path) == []


async def test_a_full_disk_keeps_a_draft_and_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    backend, name, write_note = system("versions"), "tmpq3x8zk2a", spools.write_note
    full = [False]

    def write(path: Path, note: dict[str, object]) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_note(path, note)

    monkeypatch.setattr(spools, "write_note", write)
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, name, b"data", ENDED)
        full[0] = True
        await trio.sleep(DRAFT_S + 5)
        full[0] = False
        await a_while()
        assert backend.newest() == {name: b"data"}
        assert await shown(vfs, box) == {name: b"data"}
    assert states(tmp_path) == []


async def test_a_mistake_over_one_draft_ends_no_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    backend, first = system("versions"), "tmpq3x8zk2a"
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, first, b"one", ENDED)
        await make(vfs, box, "tmpa81mz0qx", b"two", ENDED)
        check_room = policy.check_room

        def mistaken(parent: Node, name: str) -> None:
            assert name != first, "a mistake in labfs"
            check_room(parent, name)

        monkeypatch.setattr(policy, "check_room", mistaken)
        await trio.sleep(DRAFT_S + 5)
        assert backend.newest() == {"tmpa81mz0qx": b"two"}
    async with mounted(tmp_path, backend) as (vfs, box):
        monkeypatch.undo()
        await a_while()
        assert set(backend.newest().values()) == {b"one", b"two"}


async def test_mv_replaces_its_target_and_removes_its_source(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("in place")
    backend.put("f", b"old")
    there = "/mnt/memory/box/f"
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        for words in (
            ("new", there),
            ("f", "/mnt/memory/box"),
            ("-f", "f", "/mnt/memory/box/"),
            ("-t", "/mnt/memory/box", "f"),
        ):
            await vfs.unlink(box, "f", maker("mv", *words), there)
            assert len(backend.files) == 1, words
            await make(vfs, box, "f", b"new", TAR)
        away = Maker(7001, "mv", ("mv", "f", "/tmp/"), "/mnt/memory/box")
        await vfs.unlink(box, "f", away, there)
        assert backend.newest() == {}


# -- killed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SYSTEMS)
async def test_what_a_killed_program_wrote_is_set_aside(kind: str, tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system(kind)
    backend.put("f", b"complete")
    async with mounted(tmp_path, backend, may_delete=True) as (vfs, box):
        for name in ("f", "new"):
            handle = await vfs.files.create(box, name, truncate=True)
            await vfs.files.write(handle, 0, b"ha")
            with suppress(LabfsError):
                await vfs.files.flush(handle, shared=False, killed=True)
            await vfs.files.release(handle)
        await a_while()
        assert backend.newest() == {"f": b"complete"}
        assert await shown(vfs, box) == {"f": b"complete"}
        notes = told(vfs.saves.spool)
        assert [(note["path"], note["unfinished"], note["bytes"]) for note in notes] == [
            ("/memory/box/f", True, 2),
            ("/memory/box/new", True, 2),
        ]
        assert all("was killed" in note["error"] for note in notes)
        with pytest.raises(NotFound):
            await vfs.lookup(box, "new")


async def test_a_file_that_another_program_goes_on_writing_is_saved_by_that(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        first = await vfs.files.create(box, "f")
        second = await vfs.files.open(first.node, read=False, write=True)
        await vfs.files.write(first, 0, b"ha")
        await vfs.files.flush(first, shared=False, killed=True)
        await vfs.files.release(first)
        await vfs.files.write(second, 2, b"lf")
        await vfs.files.flush(second, shared=False)
        await vfs.files.release(second)
        assert backend.newest() == {"f": b"half"}


# -- the signs -----------------------------------------------------------------------------------------

ORDINARY = [
    ("results.csv", maker(exclusive=False), ()),
    ("results.csv", maker(private=True), ()),
    ("S3XK9A.bam", maker(exclusive=False), ()),
    ("tmp.txt", maker("bash", exclusive=False), ()),
    ("body_temp.csv", maker(), ()),
    ("reads.bam.bai", maker("samtools", "index", "reads.bam", exclusive=False), ("reads.bam",)),
    ("doc.txt.gz", maker("gzip", "doc.txt", private=True), ("doc.txt",)),
    ("report_A1b2C3.pdf", maker("tar", "xf", "t.tar", private=True), ()),
    ("report_A1b2C3.pdf", maker("cp", "-a", "x", ".", private=True, reading=("report_A1b2C3.pdf",)), ()),
    ("nb.ipynb.bak", maker("cp", "nb.ipynb", "nb.ipynb.bak"), ("nb.ipynb",)),
    ("x.part", maker("cp", "/data/x.part", ".", reading=("x.part",)), ()),
    ("plate_0001.png", maker("camera", "--out", "/data"), ("plate_0000.png",)),
    ("chr7.vcf", maker(pid=7), ()),
    ("key_aB3dE9", maker("ssh-keygen", "-f", "key_aB3dE9", private=True), ()),
]
DRAFTS = [
    (".~nb.ipynb", maker(exclusive=False), ("nb.ipynb",), Draft.TEMPORARY),
    ("doc.py___jb_tmp___", maker("java", exclusive=False), ("doc.py",), Draft.TEMPORARY),
    ("tmpab12cd34", MKSTEMP, (), Draft.PRIVATE),
    ("upload_gh3_l9ax.csv", MKSTEMP, (), Draft.PRIVATE),
    ("sortgewbo9", maker("sort", private=True), (), Draft.PRIVATE),
    ("data.csv.new", maker(exclusive=False), ("data.csv",), Draft.TEMPORARY),
    ("data.csv.7001", maker(exclusive=False), ("data.csv",), Draft.TEMPORARY),
    ("data.csv.part", maker(exclusive=False), (), Draft.UNFINISHED),
    (".syncthing.a.csv.tmp", maker("syncthing", exclusive=False), (), Draft.TEMPORARY),
    ("out.bam.tmp.0000.bam", maker("samtools", "sort", "-o", "/m/out.bam"), (), Draft.SPILLED),
    ("app.ini.lock", maker(), (), Draft.TEMPORARY),
]


@pytest.mark.parametrize(("name", "by", "beside"), ORDINARY)
def test_an_ordinary_file_is_no_draft(name: str, by: Maker, beside: tuple[str, ...]) -> None:
    assert judge(name, by, set(beside), Known()) is None


@pytest.mark.parametrize(("name", "by", "beside", "kind"), DRAFTS)
def test_two_signs_make_a_draft(name: str, by: Maker, beside: tuple[str, ...], kind: Draft) -> None:
    assert judge(name, by, set(beside), Known()) is kind


def test_the_configuration_adds_names() -> None:
    assert judge("x.mine", maker("cp", "y", "x.mine"), set(), Known()) is None
    assert judge("x.mine", maker("cp", "y", "x.mine"), set(), Known(["*.mine"])) is Draft.TEMPORARY


async def test_an_ordinary_save_is_on_the_server_when_it_is_closed(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        for name, by, beside in ORDINARY:
            if not beside and name not in backend.newest():
                await make(vfs, box, name, b"data", by)
                assert backend.newest()[name] == b"data"
        await save(vfs, box, "plain", b"x")
        assert backend.newest()["plain"] == b"x"
