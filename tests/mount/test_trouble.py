"""The machine itself is in trouble: nothing is lost and the error is clear."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import MemoryBackend, told
from memory import mounted as in_memory
from redcap_stage import Redcap, opened
from stage import Folder, Mount, Sandbox, labfs, mounted, run, typed, until
from steps import AWAY, a_while, save, states

from labfs.backend import Target
from labfs.backends import KINDS
from labfs.backends.common import Settings
from labfs.daemon import mounts
from labfs.errors import ConfigError, DiskFailed, NoSpace, Unavailable
from labfs.errors.reasons import Reasons
from labfs.http.client import Answer
from labfs.http.contents import address
from labfs.http.failures import refusal
from labfs.read.whole import Copies
from labfs.write import pairs
from labfs.write import spool as spools
from labfs.write.journal import State
from labfs.write.spool import Spool

Clock = trio.testing.MockClock
KIB, MIB = 1024, 1024 * 1024
NO_ROOM = {errno.ENOSPC, errno.EFBIG}  # the second where a limit of file sizes stands in for a small disk
NO_WRITING = {errno.EROFS, errno.EACCES}  # the second where permissions stand in for a disk that can only be read


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Disk:
    """A small disk of its own; where only an administrator may mount one, the largest size of a daemon's files."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(path)]
        self.real = subprocess.run(command, capture_output=True).returncode == 0
        self._pid = 0

    def fill(self, leave: int, pid: int) -> None:
        """Leave room for so many bytes to the daemon."""
        if not self.real:
            self._pid = pid
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (leave, resource.RLIM_INFINITY))
            return
        free = os.statvfs(self.path).f_bavail * os.statvfs(self.path).f_frsize
        with open(self.path / "filler", "ab") as filler:
            os.posix_fallocate(filler.fileno(), filler.tell(), free - leave)

    def clear(self) -> None:
        if self.real:
            (self.path / "filler").unlink(missing_ok=True)
        elif self._pid:
            resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def gone(self) -> None:
        if self.real:
            subprocess.run(["umount", "-l", self.path], check=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    made: list[Disk] = []

    def make(name: str, size: int) -> Disk:
        made.append(Disk(tmp_path / name, size))
        return made[-1]

    yield make
    for disk in made:
        disk.gone()


@pytest.fixture
def mount(sandbox: Sandbox, tmp_path: Path, disk: Callable[..., Disk]) -> Iterator[Mount]:
    """A mount of one site, not started; it is gone before its disks are."""
    mount = Mount(tmp_path, sandbox.config, "--site=basespace")
    try:
        yield mount
    finally:
        mount.clean_up()


def kept(mount: Mount) -> list[str]:
    done = typed("outbox", "list", env=mount.env)
    assert done.returncode == 0, done.stderr
    lines: list[str] = done.stdout.splitlines()
    return lines


def export(mount: Mount, line: str, target: Path) -> bytes:
    done = typed("outbox", "export", line.split()[0], target, env=mount.env)
    assert done.returncode == 0, done.stderr
    return target.read_bytes()


def why(mount: Mount, path: Path) -> str:
    return str(typed("why", path, env=mount.env).stdout)


def arrives(folder: Folder, name: str, data: bytes, within_s: float = 30.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if folder.stored.get(name) == data:
            return True
        time.sleep(0.1)
    return False


def gone(pid: int, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
                time.sleep(0.05)
                continue
        return True
    return False


def one_sentence(done: Any) -> str:
    """Check that a command failed in one plain sentence; return that."""
    assert (done.returncode, done.stdout) == (1, "")
    sentence: str = done.stderr.strip()
    assert sentence.startswith("labfs: ")
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    assert "Errno" not in sentence
    return sentence


# -- a full disk: what is written ------------------------------------------------------------------------


@pytest.mark.mount
def test_a_full_disk_fails_one_save_and_harms_no_other(
    mount: Mount, sandbox: Sandbox, tmp_path: Path, disk: Callable[..., Disk]
) -> None:
    state, folder, data = disk("state", 8 * MIB), sandbox.fresh(), noise(3 * MIB)
    folder.put("big", b"what the server has")
    mount.start()
    at = folder.at(mount.path)
    (at / "small").write_bytes(b"saved before")
    state.fill(MIB, mount.pid)

    with pytest.raises(OSError) as told, open(at / "big", "wb", buffering=0) as file:
        file.writelines(data[start : start + 128 * KIB] for start in range(0, len(data), 128 * KIB))
    assert told.value.errno in NO_ROOM
    assert folder.stored == {"big": b"what the server has", "small": b"saved before"}
    assert (at / "big").read_bytes() == b"what the server has"
    assert (at / "small").read_bytes() == b"saved before"
    assert "The disk on which labfs keeps what is written" in why(mount, at / "big")

    (line,) = kept(mount)
    assert "/big " in line
    held = export(mount, line, tmp_path / "exported")
    assert 0 < len(held) < len(data)
    assert data.startswith(held)
    stick = disk("stick", 64 * KIB)
    if stick.real:
        done = typed("outbox", "export", line.split()[0], stick.path / "exported", env=mount.env)
        assert "No space left on device" in one_sentence(done)
        assert not (stick.path / "exported").exists(), "half of it would look like all of it"
    assert (at / "small").read_bytes() == b"saved before"

    typed("outbox", "discard", line.split()[0], env=mount.env)
    state.clear()
    (at / "big").write_bytes(data)
    assert folder.stored == {"big": data, "small": b"saved before"}
    assert kept(mount) == []


@pytest.mark.mount
def test_a_disk_without_any_room_still_takes_notes_and_mounts(
    mount: Mount, sandbox: Sandbox, disk: Callable[..., Disk]
) -> None:
    state, folder = disk("state", 4 * MIB), sandbox.fresh()
    done = labfs("mount", "-c", sandbox.config, "--site=basespace", mount.path, env=mount.env)
    assert (done.returncode, not state.real or "KiB are free in" in done.stdout) == (0, True), done.stderr
    at = folder.at(mount.path)
    with open(at / "f", "wb", buffering=0) as file:
        file.write(b"all of it")
        sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "action": "status",
                        "argument": 503, "times": None})  # fmt: skip
        state.fill(0 if state.real else 64 * KIB, mount.pid)
        pid = mount.pid
        os.kill(pid, signal.SIGSTOP)  # what is closed now is not sent before it dies
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            file.close()
    assert gone(pid, 10.0)
    until(lambda: len(kept(mount)) == 1)
    assert "/f " in kept(mount)[0]
    sandbox.faults()
    mount.start()
    (line,) = kept(mount)
    assert typed("outbox", "retry", line.split()[0], env=mount.env).returncode == 0
    assert arrives(folder, "f", b"all of it")


async def test_what_a_failed_write_left_is_not_part_of_the_file(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, pwrite = MemoryBackend(), os.pwrite

    def half(fd: int, data: Any, offset: int) -> int:
        if offset + len(data) <= 20:
            return pwrite(fd, data, offset)
        if offset >= 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data[: 20 - offset], offset)

    async with in_memory(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"0123456789")
        monkeypatch.setattr(spools.os, "pwrite", half)
        with pytest.raises(DiskFailed, match="is full"):
            await vfs.files.write(handle, 10, b"x" * 30)
        monkeypatch.undo()
        with pytest.raises(DiskFailed, match="is full"):
            await vfs.files.flush(handle, shared=False)
        assert backend.newest() == {}
        await vfs.files.resize(handle.node, 10)  # the program does without
        await vfs.files.resize(handle.node, 15)
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        assert backend.newest() == {"f": b"0123456789" + bytes(5)}
        assert states(tmp_path) == []


# -- a full disk: the journal ----------------------------------------------------------------------------


def refuse_notes(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> list[bool]:
    """Let no note be written while the list is not empty."""
    refusing, write_note = [True], spools.write_note

    def refused(path: Path, note: dict[str, Any]) -> None:
        if refusing:
            raise OSError(number, os.strerror(number))
        write_note(path, note)

    monkeypatch.setattr(spools, "write_note", refused)
    return refusing


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "is full"), (errno.EROFS, "can only be read")])
async def test_a_save_whose_note_cannot_be_written_fails_and_is_sent_once_it_can(
    number: int, words: str, tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    async with in_memory(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"mine")
        refusing = refuse_notes(monkeypatch, number)
        with pytest.raises(DiskFailed, match=words):
            await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        await a_while()
        assert backend.newest() == {}
        (data,) = (tmp_path / "spool").glob("*.data")
        assert data.read_bytes() == b"mine"
        refusing.clear()
        await a_while()
        assert backend.newest() == {"f": b"mine"}
        assert states(tmp_path) == []


async def test_a_note_that_is_written_late_does_not_undo_a_newer_save(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    async with in_memory(tmp_path, backend) as (vfs, box):
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"older")
        with monkeypatch.context() as patch:
            refuse_notes(patch)
            with pytest.raises(DiskFailed):
                await vfs.files.flush(handle, shared=False)
            await vfs.files.release(handle)
        await save(vfs, box, "f", b"newer")
        await a_while()
        assert backend.newest() == {"f": b"newer"}
        (note,) = told(vfs.saves.spool)
        assert (note["state"], note["error"]) == ("failed", "the file was saved again since")


def test_notes_have_a_reserve_on_a_disk_that_is_full(tmp_path: Path, disk: Callable[..., Disk]) -> None:
    small = disk("small", 2 * MIB)
    spool = Spool(small.path / "spool")
    assert (small.path / "spool" / pairs.RESERVE).stat().st_size == pairs.RESERVED
    file = spool.create("site", "/site/f")
    if small.real:
        for offset in range(0, 4 * MIB, 4 * KIB):
            with contextlib.suppress(DiskFailed):
                file.write(offset, bytes(4 * KIB))
        assert os.stat(file.path).st_blocks * 512 < 2 * MIB
    for _ in range(50):
        file.describe(state=State.FAILED, error="x" * 1000)
    (note,) = told(spool)
    assert note["error"] == "x" * 1000
    assert not list(spool.directory.glob("*.part"))
    file.discard()
    spool.create("site", "/site/g").discard()
    assert (small.path / "spool" / pairs.RESERVE).stat().st_size == pairs.RESERVED, "it is filled up again"


def test_a_note_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    file = spool.create("site", "/site/f")

    def broken(value: Any, sink: Any) -> None:
        sink.write('{"half')
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pairs.json, "dump", broken)
    with pytest.raises(DiskFailed):
        file.describe(state=State.FAILED)
    file.close()
    assert [note["state"] for note in told(spool)] == ["writing"]
    assert not list(tmp_path.glob("*.part"))


# -- a full disk: the cache --------------------------------------------------------------------------------


@pytest.fixture
def redcap(sandbox: Sandbox) -> Iterator[Redcap]:
    with opened(sandbox) as redcap:
        yield redcap


@pytest.mark.mount
def test_a_full_cache_fails_what_does_not_fit_and_nothing_else(
    sandbox: Sandbox, redcap: Redcap, tmp_path: Path, disk: Callable[..., Disk]
) -> None:
    cache, mount = disk("cache", 3 * MIB), Mount(tmp_path, sandbox.config, "--site=redcap")
    mount.env["LABFS_CACHE_DIR"] = str(cache.path)
    name = redcap.record()
    files = {"counts": noise(2 * MIB, 1), "slide_image": noise(2 * MIB, 2), "variants": noise(4 * MIB, 3)}
    for field, data in files.items():
        redcap.put("biobank", "f", data, record=name, field=field).raise_for_status()
    try:
        mount.start()
        at = mount.path / "redcap" / "biobank" / name
        if not cache.real:
            cache.fill(3 * MIB, mount.pid)
        for field in ("counts", "slide_image", "counts"):  # each makes room for the next
            assert (at / field / "f").read_bytes() == files[field]
        with pytest.raises(OSError) as told:
            (at / "variants" / "f").read_bytes()
        assert told.value.errno in (errno.ENOSPC, errno.EIO)
        assert "The disk of labfs's cache" in why(mount, at / "variants" / "f")
        assert (at / "counts" / "f").read_bytes() == files["counts"]
        until(lambda: not list(cache.path.glob("mounts/*/copies/*.part")))  # the kernel asks once more by itself
        if cache.real:
            subprocess.run(["mount", "-o", f"remount,size={16 * MIB}", cache.path], check=True)
        else:
            cache.clear()
        until(
            lambda: (at / "variants" / "f").read_bytes() == files["variants"], 20
        )  # a failure that took long is repeated
        assert not list(cache.path.glob("mounts/*/copies/*.part"))
    finally:
        mount.clean_up()
        redcap.post("biobank", content="record", action="delete", records=[name])


async def test_a_cache_that_is_full_of_other_things_is_an_error_and_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, pwrite = MemoryBackend(), os.pwrite
    entries = [backend.put(name, noise(100, seed)) for seed, name in enumerate("abc")]
    room = [True]

    def full(fd: int, data: Any, offset: int) -> int:
        if not room:
            pwrite(fd, data[:10], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    async with trio.open_nursery() as nursery:
        copies = Copies(nursery, tmp_path, 1 << 20)
        versions = [("site", entry.id, "v") for entry in entries]
        assert bytes(await copies.open(versions[0], backend.content(entries[0])).read(0, 100)) == noise(100, 0)
        room.clear()
        for version in (versions[1], None):
            with pytest.raises(NoSpace, match="LABFS_CACHE_DIR"):
                await copies.open(version, backend.content(entries[1])).read(0, 100)
        assert copies.size == 0, "what could make room has made room"
        room.append(True)
        for seed, (version, entry) in enumerate(zip(versions, entries, strict=True)):
            assert bytes(await copies.open(version, backend.content(entry)).read(0, 100)) == noise(100, seed)


# -- a disk that can only be read --------------------------------------------------------------------------


@contextlib.contextmanager
def only_read(path: Path) -> Iterator[None]:
    """Let nothing below a directory be changed by what is opened from now on."""
    bound = subprocess.run(["mount", "--bind", path, path], capture_output=True).returncode == 0
    if bound:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
    else:
        path.chmod(0o500)
    try:
        yield
    finally:
        if bound:
            subprocess.run(["umount", "-l", path], check=True)
        else:
            path.chmod(0o700)


@pytest.mark.mount
def test_a_state_directory_that_cannot_be_written_is_refused(sandbox: Sandbox, mount: Mount, tmp_path: Path) -> None:
    def refused() -> str:
        sentence = one_sentence(labfs("mount", "-c", sandbox.config, "--site=basespace", mount.path, env=mount.env))
        assert not mounted(mount.path)
        assert "LABFS_STATE_DIR" in sentence
        return sentence

    parent = tmp_path / "parent"
    parent.mkdir()
    mount.env["LABFS_STATE_DIR"] = str(parent / "new")
    with only_read(parent):
        assert str(parent / "new") in refused()
    mount.env["LABFS_STATE_DIR"] = str(parent)
    (parent / "mounts").mkdir()
    with only_read(parent if os.geteuid() == 0 else parent / "mounts"):
        assert "cannot keep its state in" in refused()
    mount.env["LABFS_STATE_DIR"] = str(theirs(tmp_path))
    assert "belongs to another user" in refused()


def theirs(tmp_path: Path) -> Path:
    """Return a directory of somebody else."""
    if os.geteuid():
        return Path("/usr")
    path = tmp_path / "theirs"
    path.mkdir()
    os.chown(path, 65534, 65534)
    return path


@pytest.mark.mount
def test_a_disk_that_becomes_read_only_stops_saves_and_not_reads(
    mount: Mount, sandbox: Sandbox, tmp_path: Path
) -> None:
    folder = sandbox.fresh()
    folder.put("old", b"what the server has")
    mount.start()
    at = folder.at(mount.path)
    assert run(f"cat '{at}/old'").stdout == "what the server has"
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "action": "status", "argument": 403})
    with pytest.raises(PermissionError):
        (at / "refused").write_bytes(b"kept")
    (spool,) = mount.state.glob("mounts/*/spool")
    file = open(at / "open", "wb", buffering=0)
    file.write(b"begun before")
    with only_read(spool):
        with pytest.raises(OSError) as told:
            file.close()  # its note cannot be replaced
        assert told.value.errno in NO_WRITING
        with pytest.raises(OSError) as told:
            (at / "new").write_bytes(b"more")
        assert told.value.errno in NO_WRITING
        assert "The disk on which labfs keeps what is written" in why(mount, at / "new")
        with pytest.raises(OSError) as told:
            (at / "old").write_bytes(b"more")
        assert told.value.errno in NO_WRITING
        assert (at / "old").read_bytes() == b"what the server has"
        assert os.listdir(at) == ["old"]
        refused, owed = sorted(kept(mount), key=lambda line: "/refused  " not in line)
        assert "/open  " in owed, "its note cannot be written, and it is told all the same"
        assert export(mount, refused, tmp_path / "exported") == b"kept"
    (at / "new").write_bytes(b"more")
    assert folder.stored == {"old": b"what the server has", "new": b"more"}
    assert "2 save(s)" in typed("status", env=mount.env).stdout, "one was refused, and one is still owed its note"
    assert "2 save(s) never reached their server" in mount.stop().stderr
    line = next(line for line in kept(mount) if "/open  " in line)
    assert "  waiting  " in line
    with only_read(mount.state):
        assert kept(mount)[-1] == line, "nothing needs to be written to get the bytes out"
        assert export(mount, line, tmp_path / "open") == b"begun before"


# -- state directories ---------------------------------------------------------------------------------------


@pytest.mark.mount
def test_a_disk_without_file_locks_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setenv("LABFS_STATE_DIR", str(tmp_path))
    place = mounts.Place("/somewhere")
    place.prepare()
    monkeypatch.setattr("fcntl.flock", no_locks)  # of disks at hand none is without
    for ask in (place.claim, place.in_use):
        with pytest.raises(ConfigError, match="knows no file locks"):
            ask()


def test_what_is_too_open_is_closed_and_a_spool_elsewhere_is_used(
    mount: Mount, sandbox: Sandbox, tmp_path: Path
) -> None:
    mount.state.mkdir(mode=0o755)
    place = mount.state / "mounts" / hashlib.sha256(os.fsencode(str(mount.path))).hexdigest()[:16]
    place.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    (place / "spool").symlink_to(elsewhere)
    refused = one_sentence(labfs("mount", "-c", sandbox.config, "--site=basespace", mount.path, env=mount.env))
    assert "cannot keep what is written in" in refused, "a link to nowhere"
    (place / "spool").unlink()
    (place / "spool").symlink_to(theirs(tmp_path))
    refused = one_sentence(labfs("mount", "-c", sandbox.config, "--site=basespace", mount.path, env=mount.env))
    assert "belongs to another user" in refused
    (place / "spool").unlink()
    (place / "spool").symlink_to(elsewhere)
    elsewhere.mkdir(mode=0o755)
    mount.start()
    for path in (mount.state, elsewhere):
        assert path.stat().st_mode & 0o777 == 0o700, path
    folder = sandbox.fresh()
    with open(folder.at(mount.path) / "f", "wb", buffering=0) as file:
        file.write(b"mine")
        (data,) = elsewhere.glob("*.data")
        assert data.stat().st_mode & 0o777 == 0o600
    assert folder.stored == {"f": b"mine"}


@pytest.mark.mount
def test_a_living_mount_is_not_taken_for_a_dead_one_from_another_state_directory(
    mount: Mount, sandbox: Sandbox, tmp_path: Path
) -> None:
    mount.start()
    other = {**mount.env, "LABFS_STATE_DIR": str(tmp_path / "other")}
    assert "mounted already, by a labfs of another user or with another LABFS_STATE_DIR" in one_sentence(
        labfs("mount", "-c", sandbox.config, mount.path, env=other)
    )
    assert "is served by a labfs of another user" in one_sentence(typed("umount", mount.path, env=other))
    assert "is mounted by labfs already" in one_sentence(
        labfs("mount", "-c", sandbox.config, mount.path, env=mount.env)
    )
    assert "basespace" in os.listdir(mount.path)

    second = Mount(tmp_path / "mnt" / "..", sandbox.config, "--site=basespace")
    second.path = tmp_path / "second"
    second.path.mkdir()
    folder = sandbox.fresh()
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "action": "status",
                    "argument": 403, "times": None})  # fmt: skip
    try:
        second.start()  # the same sites and the same state directory, at another place
        for each, name in ((mount, "one"), (second, "two")):
            with pytest.raises(PermissionError):
                (folder.at(each.path) / name).write_bytes(b"mine")
        spools_ = sorted(mount.state.glob("mounts/*/spool"))
        assert [len(list(spool.glob("*.data"))) for spool in spools_] == [1, 1]
        assert {line.split("  ")[3].rpartition("/")[2] for line in kept(mount)} == {"one", "two"}
        assert "1 save(s) never reached their server" in second.stop().stderr
        assert "basespace" in os.listdir(mount.path)
    finally:
        if mounted(second.path):
            subprocess.run(["fusermount3", "-u", "-z", str(second.path)], check=False)


# -- a clock that jumps ------------------------------------------------------------------------------------------


def clock(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """Move the wall clock."""
    seconds, nanoseconds = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: seconds() + days * 86400)
    monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + int(days * 86400e9))


@pytest.mark.parametrize("days", [1, -365])
async def test_of_two_saves_that_wait_the_later_one_is_sent_whatever_the_clock_says(
    days: float, tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, now = MemoryBackend(), time.time()
    for index, data in enumerate([b"first", b"second", b"third"]):
        monkeypatch.setattr(spools.ORDER, "latest", 0)  # each was left by a mount of its own
        file = Spool(tmp_path / "spool").create("memory", "/memory/box/f", opened=None, after=0)
        file.write(0, data)
        file.describe(state=State.WAITING, size=len(data))
        file.close()
        os.utime(file.path, (now + index * days * 86400,) * 2)
    async with in_memory(tmp_path, backend):
        await a_while()
    assert backend.newest() == {"f": b"third"}
    assert states(tmp_path) == ["failed", "failed"]


@pytest.mark.parametrize("days", [1, -365])
async def test_listings_and_dates_survive_a_clock_that_jumps(
    days: float, tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = MemoryBackend()
    there = backend.put("there", b"old")
    async with in_memory(tmp_path, backend) as (vfs, box):
        assert [node.name for node in await vfs.listing(box)] == ["there"]
        clock(monkeypatch, days)
        backend.put("new", b"new")
        await trio.sleep(31)
        assert {node.name for node in await vfs.listing(box)} == {"new", "there"}
        assert vfs.attributes(await vfs.resolve("/memory/box/there")).modified_ns == there.modified_ns
        handle = await vfs.files.create(box, "f")
        await vfs.files.write(handle, 0, b"mine")
        assert abs(vfs.attributes(handle.node).modified_ns - time.time_ns()) < 60e9, "until it is saved, our own date"
        await vfs.files.flush(handle, shared=False)
        await vfs.files.release(handle)
        saved = vfs.attributes(await vfs.resolve("/memory/box/f")).modified_ns
        assert saved == backend.files[max(backend.files)][0].modified_ns
        backend.faults["upload"] = [AWAY]
        with pytest.raises(Unavailable):
            await save(vfs, box, "g", b"waits")
        await a_while()
        assert backend.newest()["g"] == b"waits"


@pytest.mark.parametrize("days", [1, -365])
async def test_times_that_a_server_tells_are_taken_by_its_own_clock(
    days: float, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    theirs = datetime.now(UTC).replace(microsecond=0)
    headers = {"date": format_datetime(theirs), "retry-after": format_datetime(theirs + timedelta(seconds=7))}
    clock(monkeypatch, days)
    answer = Answer(200, headers, b"", "The site")
    there = address("https://files.example/f", answer, theirs.timestamp() + 1000)
    assert there.until - trio.current_time() == pytest.approx(940)
    wait = refusal(503, headers, "The site", "Busy.")
    assert isinstance(wait, Unavailable)
    assert wait.retry_after_s == pytest.approx(7)
    assert answer.since_s(time.time(), trio.current_time()) <= theirs.timestamp()

    reasons = Reasons()
    reasons.record("/earlier", OSError("earlier"))
    clock(monkeypatch, -365)
    reasons.record("/later", OSError("later"))
    assert [reason.path for reason in reasons.latest()] == ["/later", "/earlier"]


async def test_a_lost_answer_is_found_although_our_clock_is_a_day_ahead(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = sandbox.fresh()
    backend = KINDS["basespace"].build(
        Settings(name="hub", url=sandbox.url, secrets={"token": lambda: sandbox.token}, options={}, timeout_s=8.0)
    )
    try:
        record = await backend.stat(f"appresults/{folder.record}")
        clock(monkeypatch, 1)
        file = Spool(tmp_path).create("hub", "/f")
        file.write(0, b"mine")
        sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "action": "cut", "argument": 5})
        await backend.upload(Target(record, (), "f"), file.source(0, 4))
        file.discard()
        assert folder.paths == ["f"], "it was not sent twice"
    finally:
        await backend.aclose()


# -- journals of another version, and broken ones ----------------------------------------------------------------

NOTE = {"format": 1, "site": "memory", "path": "/memory/box/f", "state": "waiting", "size": 8}


def leave(spool: Path, stem: str, note: Any, data: bytes | None = b"precious") -> None:
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    if data is not None:
        (spool / f"{stem}.data").write_bytes(data)
    if note is not None:
        (spool / f"{stem}.json").write_bytes(note if isinstance(note, bytes) else json.dumps(note).encode())


@pytest.mark.parametrize(
    "note",
    [
        {"site": "memory", "path": "/memory/box/f", "state": "waiting"},
        {**NOTE, "format": 0},
        {**NOTE, "colour": "blue", "more": {"deep": [1]}, "number": 7},
        {**NOTE, "state": "sending", "upload": None, "error": ""},
    ],
)
async def test_a_note_of_an_older_labfs_or_with_more_in_it_is_followed(
    note: dict[str, Any], tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend()
    leave(tmp_path / "spool", "a", note)
    async with in_memory(tmp_path, backend):
        await a_while()
    assert (backend.newest(), states(tmp_path)) == ({"f": b"precious"}, [])


DAMAGED = "its note is damaged, but its bytes are there"
NEWER = "a newer labfs wrote its note (format 2): use that one, or export the bytes"
BROKEN: dict[str, tuple[Any, str]] = {
    "newer": ({**NOTE, "format": 2}, NEWER),
    "newer-saved": ({**NOTE, "format": 2, "state": "saved"}, NEWER),
    "newer-local": ({"format": 2, "state": "local"}, NEWER),
    "strange-format": ({**NOTE, "format": "1"}, DAMAGED),
    "strange-state": ({**NOTE, "state": "parked"}, DAMAGED),
    "strange-missing": ({**NOTE, "missing": [[0, "x"]]}, DAMAGED),
    "strange-size": ({**NOTE, "size": "8"}, DAMAGED),
    "strange-after": ({**NOTE, "after": [1], "opened": "x"}, DAMAGED),
    "truncated": (b'{"format": 1, "site": "mem', DAMAGED),
    "empty": (b"", DAMAGED),
    "garbage": (bytes(range(256)), DAMAGED),
    "deep": (b"[" * 200_000, DAMAGED),
    "a-list": ([1, 2], DAMAGED),
    "none": (None, "its note is missing, so nobody knows where it belongs; its bytes are there"),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_a_note_that_cannot_be_followed_is_told_and_left_alone(
    what: str, tmp_path: Path, autojump_clock: Clock
) -> None:
    note, sentence = BROKEN[what]
    backend = MemoryBackend()
    leave(tmp_path / "spool", what, note)
    leave(tmp_path / "spool", "good", {**NOTE, "path": "/memory/box/good"})
    before = {path.name: path.read_bytes() for path in (tmp_path / "spool").glob(f"{what}.*")}
    async with in_memory(tmp_path, backend) as (vfs, _):
        await a_while()
        vfs.outbox.retry(None)
        vfs.outbox.retry(what)
        await a_while()
        assert [(kept["state"], kept["error"]) for kept in told(vfs.saves.spool)] == [("failed", sentence)]
    assert backend.newest() == {"good": b"precious"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "spool").glob(f"{what}.*")} == before


@pytest.mark.mount
def test_a_journal_in_ruins_is_mounted_listed_and_exported(mount: Mount, sandbox: Sandbox, tmp_path: Path) -> None:
    folder = sandbox.fresh()
    mount.start()
    assert mount.stop().returncode == 0
    (spool,) = mount.state.glob("mounts/*/spool")
    path = f"/basespace/{folder.project}/{folder.name}/good"
    leave(spool, "good", {**NOTE, "site": "basespace", "path": path})
    for what in ("truncated", "garbage", "none", "newer-saved"):
        leave(spool, what, BROKEN[what][0])
    leave(spool, "gone", {**NOTE, "site": "basespace", "path": path + "-gone"}, None)
    leave(spool, "done", {**NOTE, "state": "saved"}, None)  # it died while it removed both
    leave(spool, "note-is-directory", None)
    (spool / "note-is-directory.json").mkdir()
    leave(spool, "data-is-directory", NOTE, None)
    (spool / "data-is-directory.data").mkdir()
    (tmp_path / "target").write_bytes(b"elsewhere")
    leave(spool, "link", {**NOTE, "state": "saved"}, None)
    (spool / "link.data").symlink_to(tmp_path / "target")
    (spool / "notes.txt").write_text("a person's own")

    before = kept(mount)
    assert any(line.startswith("good  waiting") for line in before)
    mount.start()
    assert arrives(folder, "good", b"precious")
    wanted = {
        "data-is-directory": "it is a directory and no file of labfs, which leaves it alone",
        "garbage": DAMAGED,
        "gone": "its bytes are gone from the disk; only their note is left",
        "link": "it is a link and no file of labfs, which leaves it alone",
        "newer-saved": NEWER,
        "none": BROKEN["none"][1],
        "note-is-directory": "its note cannot be read, but its bytes are there",
        "truncated": DAMAGED,
    }
    for _ in range(100):
        lines = {line.split()[0]: line for line in kept(mount)}
        if "good" not in lines:
            break
        time.sleep(0.1)
    assert set(lines) == set(wanted)
    assert all(lines[name].endswith(sentence) for name, sentence in wanted.items()), lines
    for name in ("truncated", "garbage", "none", "newer-saved", "note-is-directory"):
        assert export(mount, lines[name], tmp_path / f"{name}.out") == b"precious"
    assert export(mount, lines["link"], tmp_path / "link.out") == b"elsewhere"
    for name in ("gone", "data-is-directory"):
        done = typed("outbox", "export", name, tmp_path / "nothing", env=mount.env)
        assert wanted[name] in one_sentence(done)
        assert not (tmp_path / "nothing").exists()
    done = typed("outbox", "retry", "truncated", env=mount.env)
    assert one_sentence(done) == f"labfs: truncated cannot be sent: {DAMAGED}."
    (folder.at(mount.path) / "f").write_bytes(b"as ever")
    assert folder.stored == {"good": b"precious", "f": b"as ever"}
    assert typed("outbox", "discard", "gone", env=mount.env).returncode == 0
    assert set(wanted) - {"gone"} == {line.split()[0] for line in kept(mount)}
    assert (spool / "notes.txt").exists()


# -- unmounting and signals ------------------------------------------------------------------------------------


@pytest.mark.mount
def test_a_busy_mount_goes_on_and_a_save_that_waits_is_counted(mount: Mount, sandbox: Sandbox) -> None:
    folder = sandbox.fresh()
    mount.start()
    at = folder.at(mount.path)
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "action": "status",
                    "argument": 403, "times": 2})  # fmt: skip
    for name in ("one", "two"):
        with pytest.raises(PermissionError):
            (at / name).write_bytes(b"refused")
    command = ["bash", "-c", "exec 3> open; echo begun >&3; read"]
    writer = subprocess.Popen(command, cwd=at, stdin=subprocess.PIPE)
    while not (at / "open").exists():
        time.sleep(0.05)
    sentence = one_sentence(mount.stop())
    assert f"bash (process {writer.pid}, " in sentence
    assert "close it and try again" in sentence
    assert mounted(mount.path)
    (at / "three").write_bytes(b"3")
    writer.communicate(b"\n", timeout=20)
    done = mount.stop()
    assert (done.returncode, mounted(mount.path)) == (1, False)
    assert "2 save(s) never reached their server; their bytes are safe: labfs outbox list" in done.stderr
    assert folder.stored == {"three": b"3", "open": b"begun\n"}


@pytest.mark.mount
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_a_save_is_under_way_loses_nothing(
    number: signal.Signals, mount: Mount, sandbox: Sandbox, tmp_path: Path
) -> None:
    folder, ours = sandbox.fresh(), tmp_path / "ours"
    ours.write_bytes(b"mine\n")
    mount.start()
    run(f"ls '{folder.at(mount.path)}'")
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "action": "delay_s", "argument": 20})
    writer = subprocess.Popen(["cp", ours, folder.at(mount.path) / "f"], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 10
    while not any(upload["state"] == "uploading" for upload in mount.status()["uploads"]):
        assert time.monotonic() < until
        time.sleep(0.02)
    pid = mount.pid
    os.kill(pid, number)
    if number != signal.SIGHUP:  # whoever is in a hurry says so twice
        time.sleep(0.5)
        os.kill(pid, number)
    assert gone(pid, 14.0 if number == signal.SIGHUP else 8.0), "it does not wait for a slow site"
    assert not mounted(mount.path)
    assert writer.wait(10) != 0
    (line,) = kept(mount)
    assert "  waiting  " in line
    sandbox.faults()
    mount.start()
    assert arrives(folder, "f", b"mine\n")
    for _ in range(100):
        if not kept(mount):
            break
        time.sleep(0.1)
    assert kept(mount) == []
