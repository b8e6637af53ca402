"""Every sentence of SEMANTICS.md, carried word for word by the test that it is true in."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import five_stage
import others
import pytest
import trio
import trio.testing
from five_stage import Lab
from memory import SYSTEMS, mounted, opened
from others import GROUP, OTHER_GROUP, OTHER_USER, USER, Machine, denied
from stage import Folder, Mount, Sandbox, labfs, run, typed, until
from steps import a_while, states
from test_drafts import make, maker, system
from test_slow_lists import DEADLINE_S, shown, slow

from labfs.errors import LabfsError, Unavailable

pytestmark = pytest.mark.mount

Clock = trio.testing.MockClock
MIB = 1024 * 1024
PAGE = Path(__file__).parents[2] / "SEMANTICS.md"
FILES = "POST /v1pre3/appresults/{id}/files"
BLOB = "GET /{blob}"


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def fails(code: int, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    assert caught.value.errno == code, caught.value


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        yield made


@contextlib.contextmanager
def opendir(path: Path) -> Iterator[tuple[Iterator[str], Callable[[], None]]]:
    """Open a directory as a C program does; give its names as they are read, and rewinddir."""
    libc = ctypes.CDLL(None)
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir64.restype = ctypes.c_void_p
    directory = ctypes.c_void_p(libc.opendir(os.fsencode(path)))

    def names() -> Iterator[str]:
        while (found := libc.readdir64(directory)) is not None:
            yield ctypes.string_at(found + 19).decode()  # after d_ino, d_off, d_reclen and d_type

    class Names:
        def __iter__(self) -> Iterator[str]:
            return names()

        def __next__(self) -> str:
            return next(names())

    try:
        yield Names(), lambda: libc.rewinddir(directory)
    finally:
        libc.closedir(directory)


def at(drive: Mount, lab: Lab, site: str) -> Path:
    """Return a directory of a site that takes files, empty if it is a field."""
    drive.refresh(drive.path / site)
    return drive.path / lab.places[site]


def test_each_sentence_has_a_test_and_each_test_a_sentence() -> None:
    sentences = re.findall(r"^- (.+)$", PAGE.read_text(), re.MULTILINE)
    tests = [value for name, value in globals().items() if name.startswith("test_") and value.__doc__]
    told = {" ".join(test.__doc__.split()) for test in tests}
    assert told == set(sentences)
    assert len(tests) == len(sentences) > 40


# -- opening and reading -------------------------------------------------------------------------------


def test_the_version_stays(folder: Path, behind: Folder, drive: Mount, lab: Lab) -> None:
    """A file that is open for reading keeps the version it was opened with; where the system no longer has it,
    reading fails with ESTALE."""
    behind.put("f", noise(3 * MIB, 1))
    drive.refresh(folder)
    with open(folder / "f", "rb", buffering=0) as file:
        behind.put("f", noise(3 * MIB, 2))
        drive.refresh(folder)
        assert os.pread(file.fileno(), MIB, 2 * MIB) == noise(3 * MIB, 1)[2 * MIB :]
    study = at(drive, lab, "odm")
    (study / "f").write_bytes(noise(9 * MIB))
    drive.refresh(study)
    with open(study / "f", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(file.fileno(), 100, 0) == noise(9 * MIB)[:100]
        time.sleep(0.5)  # for what is read ahead
        number = os.getxattr(study / "f", "user.labfs.id").decode()
        lab.odm.ask("DELETE", "manage-data/data", params={"accessions": number}).raise_for_status()
        fails(errno.ESTALE, os.pread, file.fileno(), 100, 8 * MIB)


def test_blocks(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    """Reading never asks for more than the blocks of 1 MiB around what is read, and what follows when the reading is
    sequential."""
    behind.put("f", noise(40 * MIB))
    drive.refresh(folder)
    run(f"ls '{folder}'")
    sandbox.reset()
    with open(folder / "f", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for start in (30 * MIB + 5, 10 * MIB + 5, 20 * MIB + 5):
            assert os.pread(file.fileno(), 100, start) == noise(40 * MIB)[start : start + 100]
    assert sandbox.requests()[BLOB] == 3


def test_nothing_twice(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    """What was read of a version is not fetched again while it is in the cache."""
    behind.put("f", noise(2 * MIB))
    drive.refresh(folder)
    assert (folder / "f").read_bytes() == noise(2 * MIB)
    sandbox.reset()
    assert run(f"cat '{folder}/f' | wc -c; tail -c 5 '{folder}/f' | wc -c").stdout.split() == [str(2 * MIB), "5"]
    assert sandbox.requests() == {}


def test_in_the_next_mount(folder: Path, behind: Folder, sandbox: Sandbox, tmp_path: Path) -> None:
    """What was read of a version is read from this machine's disk in the next mount, as far as there was room and time to put it there."""
    behind.put("f", noise(3 * MIB))
    mount = Mount(tmp_path, sandbox.config, "--site=basespace")
    place = mount.path / "basespace" / behind.project / behind.name
    try:
        mount.start()
        assert (place / "f").read_bytes() == noise(3 * MIB)
        until(lambda: len([*tmp_path.glob("*/mounts/*/blocks/*/?")]) == 3, 30)
        assert mount.stop().returncode == 0
        mount.start()
        run(f"ls '{place}'")
        sandbox.reset()
        assert (place / "f").read_bytes() == noise(3 * MIB)
        assert BLOB not in sandbox.requests()
    finally:
        mount.clean_up()


def test_thirty_seconds(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    """A directory shows what its server said at most 30 seconds ago, or five times as long ago as it took to say it, or what `labfs refresh` asked it to say now."""
    os.listdir(folder)
    behind.put("f", b"x")
    sandbox.reset()
    assert os.listdir(folder) == []
    assert sandbox.requests() == {}, "the listing is believed; tests/core/test_vfs.py lets the 30 seconds pass"
    drive.refresh(folder)
    assert os.listdir(folder) == ["f"]


def test_what_was_moved_aside_is_not_shown_by_its_old_name(folder: Path, behind: Folder, drive: Mount) -> None:
    behind.put("f", b"old")
    drive.refresh(folder)
    with opendir(folder) as (names, _):
        os.rename(folder / "f", folder / "f~")  # as vim does, while a file manager reads the directory
        list(names)
        (folder / "f").write_bytes(b"new")
    assert ((folder / "f").read_bytes(), (folder / "f~").read_bytes()) == (b"new", b"old")
    assert behind.stored == {"f": b"new"}


def test_rewinddir(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    """rewinddir shows what is there then; the names of a listing that is being read stay as they were, and those that its first listing finds meanwhile follow."""
    for number in range(1000):
        (folder / f"{number}~").write_bytes(b"")  # stays here
    with opendir(folder) as (names, rewind):
        read = [next(names) for _ in range(100)]
        (folder / "new~").write_bytes(b"")
        read += names
        assert sorted(read) == sorted([".", "..", *(f"{number}~" for number in range(1000))])
        rewind()
        assert "new~" in list(names)
        behind.put("theirs", b"x")
        drive.refresh(folder)
        sandbox.reset()
        rewind()
        assert "theirs" in list(names)
        once = sandbox.requests()
    drive.refresh(folder)
    sandbox.reset()
    os.listdir(folder)
    assert sandbox.requests() == once, "opendir and its first readdir list once"


async def test_a_long_list(tmp_path: Path, autojump_clock: Clock) -> None:
    """A directory whose first listing takes long shows what is found so far and then ends with EAGAIN, or with EIO
    where the listing broke off."""
    backend = slow(15)
    backend.faults["page"] = [None, None, None, Unavailable("down")]
    async with opened(tmp_path, backend) as (vfs, box):
        assert await shown(vfs, box) == {f"f{number:02}" for number in range(6)}
        under_way = vfs.tree.incomplete(box)
        await trio.sleep(4)
        broken_off = vfs.tree.incomplete(box)
        assert (under_way and under_way.errno, broken_off and broken_off.errno) == (errno.EAGAIN, errno.EIO)


async def test_a_part_is_not_the_whole(tmp_path: Path, autojump_clock: Clock) -> None:
    """Of a directory that is known in part, a name that was not seen yet is EAGAIN, never ENOENT, and nothing in it can
    be made, replaced or removed."""
    backend = slow(15, capabilities=replace(SYSTEMS["by delete"], renames=True))
    async with opened(tmp_path, backend, may_delete=True) as (vfs, box):
        await shown(vfs, box)
        backend.page_s = 100.0
        for act in (
            partial(vfs.lookup, box, "f14"),
            partial(vfs.files.create, box, "new"),
            partial(vfs.rename, box, "f00", box, "f01"),
            partial(vfs.unlink, box, "f00"),
        ):
            with trio.fail_after(DEADLINE_S), pytest.raises(LabfsError) as caught:
                await act()
            assert caught.value.errno == errno.EAGAIN


def test_one_sees_what_one_wrote(folder: Path, behind: Folder) -> None:
    """What this machine wrote shows at once in every program on this machine, and on the server from the close on."""
    with open(folder / "f", "wb", buffering=0) as file:
        file.write(b"not closed")
        assert run(f"cat '{folder}/f'; stat -c %s '{folder}/f'").stdout == "not closed10\n"
        assert behind.stored == {}
    assert behind.stored == {"f": b"not closed"}


def test_archived(drive: Mount) -> None:
    """Opening an archived file fails with EAGAIN."""
    cold = next((drive.path / "basespace").glob("NextSeq2000*/*/cold.bam"))
    fails(errno.EAGAIN, cold.read_bytes)


def test_previews(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox, tmp_path: Path) -> None:
    """Opening a file fails with EACCES for a thumbnailer or an indexer, if it is larger than `previews_mib`."""
    thumbnailer = shutil.copy(shutil.which("cat") or "/bin/cat", tmp_path / "tumblerd")  # known by what it executes
    for number in range(5):
        behind.put(f"large{number}.png", noise(MIB + 1))
    behind.put("small.png", noise(MIB))
    drive.refresh(folder)
    assert len(list(folder.iterdir())) == 6
    sandbox.reset()
    for number in range(5):
        done = subprocess.run(
            [thumbnailer, folder / f"large{number}.png"], capture_output=True, check=False, timeout=20
        )
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"Permission denied" in done.stderr
    assert not sandbox.requests(), "nothing was asked for"
    assert "previews_mib" in labfs("why", folder / "large0.png", env=drive.env).stdout
    assert not [error for error in drive.status()["errors"] if "large" in error["path"]], "nobody is alarmed by it"
    done = subprocess.run([thumbnailer, folder / "small.png"], capture_output=True, check=True, timeout=20)
    assert done.stdout == noise(MIB)
    assert (folder / "large0.png").read_bytes() == noise(MIB + 1), "all others may read it"


# -- writing and closing -------------------------------------------------------------------------------


def test_writes_do_not_wait(folder: Path, sandbox: Sandbox) -> None:
    """A write goes to this machine's disk and never waits for the network."""
    run(f"ls '{folder}'")
    sandbox.faults({"service": "basespace", "action": "reset", "times": None})
    file = open(folder / "f", "wb", buffering=0)
    assert file.write(noise(4 * MIB)) == 4 * MIB
    assert (folder / "f").read_bytes() == noise(4 * MIB)
    sandbox.faults()
    file.close()


def test_close_is_the_save(folder: Path, behind: Folder) -> None:
    """The close of a file that was written to is its save: it returns 0 when the server has every byte."""
    descriptor = os.open(folder / "f", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, noise(MIB))
    os.close(descriptor)
    assert behind.stored == {"f": noise(MIB)}


def test_close_says_why(folder: Path, behind: Folder, sandbox: Sandbox, drive: Mount) -> None:
    """A close that fails says why by its errno, and the bytes are in the outbox."""
    before = len(drive.spooled)
    sandbox.faults({"service": "basespace", "method": "POST", "action": "status", "argument": 403, "times": None})
    descriptor = os.open(folder / "f", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"kept")
    fails(errno.EACCES, os.close, descriptor)
    for _ in range(50):  # the release comes a moment after the close
        if len(drive.spooled) > before:
            break
        time.sleep(0.02)
    assert (behind.stored, drive.spooled[-1].read_bytes()) == ({}, b"kept")


def test_what_was_not_closed(running: Sandbox, tmp_path: Path) -> None:
    """What was not closed when labfs ended, synced or not, is kept, and sent only when a person names it."""
    made = running.fresh()
    drive = Mount(tmp_path, running.config, "--site", "basespace")
    try:
        drive.start()
        descriptor = os.open(made.at(drive.path) / "f", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"half")
        os.fsync(descriptor)
        os.kill(drive.pid, 9)
        with contextlib.suppress(OSError):
            os.close(descriptor)
        drive.start()
        done = typed("outbox", "retry", env=drive.env)
        (line,) = typed("outbox", "list", env=drive.env).stdout.splitlines()
        assert (done.returncode, made.stored, "before it was closed" in line) == (0, {}, True)
        typed("outbox", "retry", line.split()[0], env=drive.env)
        for _ in range(100):
            if made.stored:
                break
            time.sleep(0.1)
        assert made.stored == {"f": b"half"}
    finally:
        drive.clean_up()


def test_the_entity_of_a_path(folder: Path, drive: Mount, sandbox: Sandbox, behind: Folder) -> None:
    """A path goes on showing the entity that it was first seen as, whatever else of that name turns up."""
    project = sandbox.project(f"Twins {random.random()}")
    first = sandbox.record(project, "Run")
    at = drive.path / "basespace"
    name = sandbox.api("GET", f"projects/{project}")["Name"]
    drive.refresh(at)
    assert os.getxattr(at / name / "Run", "user.labfs.id").decode() == first
    others = [sandbox.record(project, "Run") for _ in range(4)]
    drive.refresh(at)
    assert sorted(path.name for path in (at / name).iterdir()) == sorted(["Run", *(f"Run [{n}]" for n in others)])
    assert os.getxattr(at / name / "Run", "user.labfs.id").decode() == first


def test_the_newest_version(folder: Path, drive: Mount, behind: Folder) -> None:
    """Of several versions of a path the latest date has the name, of equal dates the version that was seen last."""
    for number in range(6):  # within a second or two, by ids that do not grow
        (folder / "f").write_bytes(b"%d" % number)
    drive.refresh(folder)
    assert (folder / "f").read_bytes() == b"5"
    behind.put("g", b"seen")
    drive.refresh(folder)
    assert (folder / "g").read_bytes() == b"seen"
    behind.put("g", b"seen last")
    drive.refresh(folder)
    assert (folder / "g").read_bytes() == b"seen last"


def test_the_last_descriptor(folder: Path, behind: Folder) -> None:
    """Of descriptors that were duplicated or inherited, the last one to be closed saves."""
    one = os.open(folder / "f", os.O_WRONLY | os.O_CREAT)
    two = os.dup(one)
    os.write(one, b"a")
    os.close(one)
    assert behind.stored == {}
    os.write(two, b"b")
    child = subprocess.Popen(
        [sys.executable, "-c", f"import os; input(); os.write({two}, b'c')"], stdin=-1, pass_fds=[two]
    )
    os.close(two)
    assert behind.stored == {}
    child.communicate(b"\n", timeout=30)
    for _ in range(100):  # a process that ends closes, and does not wait
        if behind.stored:
            break
        time.sleep(0.02)
    assert (behind.stored, behind.paths) == ({"f": b"abc"}, ["f"])


def test_nothing_written(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    """A file that was opened for writing and not written to is not saved."""
    behind.put("f", b"x")
    drive.refresh(folder)
    sandbox.reset()
    os.close(os.open(folder / "f", os.O_RDWR | os.O_APPEND))
    assert not [route for route in sandbox.requests() if not route.startswith("GET")]
    assert behind.paths == ["f"]


def test_truncated_by_open(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    """A file that is opened with O_TRUNC and closed is saved empty."""
    sandbox.switch(empty_upload="accept")
    behind.put("f", b"x")
    drive.refresh(folder)
    os.close(os.open(folder / "f", os.O_WRONLY | os.O_TRUNC))
    assert behind.stored == {"f": b""}


def test_fsync(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    """fsync makes what was written survive a power cut on this machine; it sends nothing."""
    run(f"ls '{folder}'")
    before = set(drive.spooled)
    with open(folder / "f", "wb", buffering=0) as file:
        file.write(b"synced")
        sandbox.reset()
        os.fsync(file.fileno())
        assert sandbox.requests() == {}
        (kept,) = set(drive.spooled) - before
        assert (kept.read_bytes(), '"synced": true' in kept.with_suffix(".json").read_text()) == (b"synced", True)
    assert behind.stored == {"f": b"synced"}


def test_two_writers(folder: Path, behind: Folder) -> None:
    """Two programs that write one file at the same time write the same file, which is saved when each closes it."""
    with open(folder / "f", "wb", buffering=0) as one:
        one.write(b"one, ")
        with open(folder / "f", "r+b", buffering=0) as two:
            two.seek(5)
            two.write(b"two")
        assert behind.stored == {"f": b"one, two"}
        one.write(b"TWO!")
    assert behind.stored == {"f": b"one, TWO!"}


def test_append(folder: Path, behind: Folder) -> None:
    """With O_APPEND every write goes to the end that the file has then."""
    with open(folder / "f", "ab", buffering=0) as one, open(folder / "f", "ab", buffering=0) as two:
        for _ in range(3):
            one.write(b"1")
            two.write(b"22")
    assert behind.stored == {"f": b"122122122"}


def test_memory_maps(folder: Path, behind: Folder, drive: Mount) -> None:
    """What is written through a shared memory map is saved at the latest when the map and the descriptor are gone."""
    behind.put("f", bytes(3 * MIB))
    drive.refresh(folder)
    with open(folder / "f", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[MIB : MIB + 5] = b"there"
    wanted = bytes(MIB) + b"there" + bytes(2 * MIB - 5)
    for _ in range(250):  # the kernel writes pages back in its own time
        if behind.stored["f"] == wanted:
            break
        time.sleep(0.02)
    assert behind.stored == {"f": wanted}


def test_holes(folder: Path, behind: Folder) -> None:
    """Holes are zeros."""
    with open(folder / "f", "wb") as file:
        file.seek(2 * MIB)
        file.write(b"x")
        file.truncate(3 * MIB)
    assert behind.stored == {"f": bytes(2 * MIB) + b"x" + bytes(MIB - 1)}


def test_allocating(folder: Path, behind: Folder, tmp_path: Path) -> None:
    """fallocate fails with EOPNOTSUPP, since no call of it reaches labfs; posix_fallocate writes a byte into each page
    instead, and `rsync --preallocate` says that it goes on without."""
    assert "Operation not supported" in run("fallocate -l 1M f.swp", folder).stderr
    with open(folder / "f", "w+b", buffering=0) as file:
        file.write(b"begun")
        os.posix_fallocate(file.fileno(), 0, 4 * MIB)
        assert os.fstat(file.fileno()).st_size == 4 * MIB
        assert (folder / "f").read_bytes() == b"begun".ljust(4 * MIB, b"\0")
        os.posix_fallocate(file.fileno(), 0, MIB)
        os.pwrite(file.fileno(), b"end", 4 * MIB - 3)
    assert behind.stored["f"] == b"begun".ljust(4 * MIB - 3, b"\0") + b"end"
    (tmp_path / "big").write_bytes(noise(MIB) + bytes(MIB) + noise(MIB))
    for more in ("", "--inplace", "--sparse"):
        done = run(f"rsync -t --preallocate {more} {tmp_path}/big '{folder}/big{more}'")
        assert (done.returncode, "do_fallocate" in done.stderr) == (0, True), done.stderr
        assert behind.stored[f"big{more}"] == (tmp_path / "big").read_bytes()
    assert sorted(behind.paths) == ["big", "big--inplace", "big--sparse", "f"], "one upload each"


def test_truncate(folder: Path, behind: Folder) -> None:
    """truncate of a closed file is a save of its own."""
    (folder / "f").write_bytes(b"0123456789")
    os.truncate(folder / "f", 3)
    assert (behind.stored, behind.paths) == ({"f": b"012"}, ["f", "f"])


def test_too_large(drive: Mount, lab: Lab, sandbox: Sandbox) -> None:
    """A file that is larger than its system takes fails with EFBIG at the write that makes it so, and nothing of it is
    sent."""
    folder = at(drive, lab, "redcap")
    run(f"ls '{folder}'; rm -f '{folder}'/*; ls '{folder}'")
    descriptor = os.open(folder / "large", os.O_WRONLY | os.O_CREAT)
    try:
        lab.requests()
        assert os.pwrite(descriptor, b"x", 1 << 29) == 1
        fails(errno.EFBIG, os.pwrite, descriptor, b"x", 1 << 30)
        assert lab.requests() == 0
        os.ftruncate(descriptor, 0)
        os.unlink(folder / "large")
    finally:
        os.close(descriptor)


def test_shells(folder: Path, behind: Folder, sandbox: Sandbox, tmp_path: Path) -> None:
    """A shell that redirects with `>` does not look at the errno of close: `cp`, `dd` and `cat > file` in a script with a
    check do."""
    (tmp_path / "f").write_bytes(b"x")
    sandbox.faults({"service": "basespace", "method": "POST", "action": "status", "argument": 403, "times": None})
    assert run("echo x > f", folder).returncode == 0
    for command in (f"cp '{tmp_path}/f' f", f"dd if='{tmp_path}/f' of=f status=none", f"cat '{tmp_path}/f' > f"):
        assert run(command, folder).returncode != 0, command
    assert behind.stored == {}


# -- making and naming ---------------------------------------------------------------------------------


def test_exclusive(folder: Path, behind: Folder, drive: Mount) -> None:
    """O_EXCL fails with EEXIST where the name is taken."""
    behind.put("f", b"x")
    drive.refresh(folder)
    fails(errno.EEXIST, os.open, folder / "f", os.O_WRONLY | os.O_CREAT | os.O_EXCL)


def test_long_names(folder: Path, sandbox: Sandbox) -> None:
    """A name of more than 255 bytes fails with ENAMETOOLONG, whatever is done with it."""
    (folder / "f").write_bytes(b"x")
    (folder / "made").mkdir()
    (folder / ("n" * 255)).mkdir()
    sandbox.reset()
    for name in ("n" * 256, "ä" * 128, ".~lock." + "n" * 249 + "#"):
        long = folder / name
        for call in (os.stat, os.listdir, os.unlink, os.rmdir, os.mkdir, long.read_bytes, long.touch):
            fails(errno.ENAMETOOLONG, call, *([] if call in (long.read_bytes, long.touch) else [long]))
        fails(errno.ENAMETOOLONG, os.truncate, long, 0)
        fails(errno.ENAMETOOLONG, os.rename, folder / "f", long)
        fails(errno.ENAMETOOLONG, os.rename, long, folder / "f")
        fails(errno.ENAMETOOLONG, os.symlink, "f", long)
        fails(errno.ENAMETOOLONG, os.stat, long / "below")
    assert sandbox.requests() == {}


def test_names_that_are_no_text(folder: Path, behind: Folder, drive: Mount) -> None:
    """Looking for a name that is not UTF-8 fails with ENOENT, making one with EILSEQ and a reason."""
    typed = folder / os.fsdecode(b"gr\xfc\xdfe.txt")  # more of it in tests/mount/test_names_that_are_no_text.py
    fails(errno.ENOENT, os.stat, typed)
    fails(errno.EILSEQ, typed.write_bytes, b"x")
    assert "is not UTF-8" in labfs("why", typed, env=drive.env).stdout
    assert behind.paths == []


def test_names_that_are_not_taken(drive: Mount, lab: Lab) -> None:
    """A new name that the system does not take fails when the file is made or at its close, and nothing is sent under
    another name."""
    folder = at(drive, lab, "redcap")
    run(f"rm -f '{folder}'/*")
    assert run("cp /etc/hostname 'quo\"te'", folder).returncode != 0
    assert lab.redcap.stored(lab.record) == {}


def test_scratch(folder: Path, behind: Folder) -> None:
    """The names of temporary, lock and desktop files stay on this machine, with all that is written to them."""
    for name in (".~lock.a.odt#", "~$a.docx", ".DS_Store", ".a.swp", "a.txt~", "Thumbs.db"):
        (folder / name).write_bytes(b"x")
        assert (folder / name).read_bytes() == b"x"
        (folder / name).unlink()
    assert behind.paths == []


def test_temporary_and_rename(folder: Path, behind: Folder, drive: Mount, lab: Lab) -> None:
    """Renaming a temporary file to an ordinary name is a save, also over a file, which keeps its identity where the
    system can."""
    (folder / "f~").write_bytes(b"new")
    os.rename(folder / "f~", folder / "f")
    assert (behind.stored, behind.paths) == ({"f": b"new"}, ["f"])
    other = at(drive, lab, "clarity")
    (other / "kept.txt").write_bytes(b"old")
    number = os.getxattr(other / "kept.txt", "user.labfs.id")
    (other / "kept.txt~").write_bytes(b"newer")
    os.rename(other / "kept.txt~", other / "kept.txt")
    assert ((other / "kept.txt").read_bytes(), os.getxattr(other / "kept.txt", "user.labfs.id")) == (b"newer", number)


def test_backup_and_rename(folder: Path, behind: Folder, drive: Mount) -> None:
    """Moving a file aside to a backup's name and saving a new one in its place is one save over the old one."""
    behind.put("f", b"old")
    drive.refresh(folder)
    os.rename(folder / "f", folder / "f~")
    (folder / "f").write_bytes(b"new")
    assert ((folder / "f~").read_bytes(), behind.paths, behind.stored) == (b"old", ["f", "f"], {"f": b"new"})
    (folder / "f~").unlink()
    assert behind.paths == ["f", "f"]


def test_rename(folder: Path, drive: Mount, lab: Lab) -> None:
    """A file on a server is renamed where its system can; where it cannot, rename fails with EXDEV if deleting is
    allowed, so that `mv` copies, and with EPERM if not."""
    there = at(drive, lab, "portal")
    (there / "a.txt").write_bytes(b"x")
    lab.requests()
    os.rename(there / "a.txt", there / "b.txt")
    assert ((there / "b.txt").read_bytes(), (there / "a.txt").exists()) == (b"x", False)
    there = at(drive, lab, "clarity")
    (there / "a.txt").write_bytes(b"x")
    fails(errno.EXDEV, os.rename, there / "a.txt", there / "b.txt")
    assert run("mv a.txt b.txt", there).returncode == 0
    assert ((there / "b.txt").read_bytes(), (there / "a.txt").exists()) == (b"x", False)
    (folder / "a").write_bytes(b"x")
    fails(errno.EPERM, os.rename, folder / "a", folder / "b")


def test_across(folder: Path, drive: Mount, lab: Lab) -> None:
    """From one system to another rename fails with EXDEV."""
    (folder / "across.txt").write_bytes(b"x")
    fails(errno.EXDEV, os.rename, folder / "across.txt", at(drive, lab, "clarity") / "across.txt")


def test_directories_stay(folder: Path, behind: Folder, drive: Mount) -> None:
    """A directory that is on a server is neither renamed nor removed: EPERM."""
    fails(errno.EPERM, os.rename, folder, folder.with_name("other"))
    fails(errno.EPERM, os.rmdir, folder)
    behind.put("in/f", b"x")
    drive.refresh(folder)
    fails(errno.EPERM, os.rename, folder / "in", folder / "out")


def test_folders_made_here(folder: Path, sandbox: Sandbox) -> None:
    """A folder that was made here and is still empty can be removed."""
    os.mkdir(folder / "empty")
    os.rmdir(folder / "empty")
    assert os.listdir(folder) == []


def test_mkdir(drive: Mount, lab: Lab, sandbox: Sandbox) -> None:
    """mkdir makes what the system has in that place, and fails with EROFS or EPERM where it has nothing of the kind."""
    name = f"Made by mkdir {os.getpid()}"
    os.mkdir(drive.path / "basespace" / name)
    assert sandbox.api("GET", "users/current/projects", params={"Name": name})["Items"][0]["Name"] == name
    with pytest.raises(OSError) as caught:
        os.mkdir(drive.path / "clarity" / name)
    assert caught.value.errno in (errno.EROFS, errno.EPERM)
    fails(errno.EROFS, os.mkdir, drive.path / name)


def test_certain_folders(drive: Mount, lab: Lab) -> None:
    """Where a system has certain folders only, no other is made, and no file outside of them: EPERM, and the reason names
    them."""
    study = at(drive, lab, "odm").parent
    (study / "Document" / "in.txt").write_bytes(b"x")
    lab.requests()
    for path in (study / "Nonsense", study / "Document" / "deeper"):
        fails(errno.EPERM, os.mkdir, path)
    fails(errno.EPERM, (study / "f.txt").write_bytes, b"x")
    (study / "Other" / ".f.txt.swp").write_bytes(b"x")
    fails(errno.EPERM, os.rename, study / "Other" / ".f.txt.swp", study / "f.txt")
    (study / "Other" / ".f.txt.swp").unlink()
    assert "“Document”" in typed("why", study / "Nonsense", env=drive.env).stdout
    assert lab.requests() == 0, "nobody is asked, and nothing is sent"
    (study / "Document" / "in.txt").unlink()


def test_no_links(folder: Path) -> None:
    """There are no links, sockets, pipes or devices: making one fails with EPERM."""
    (folder / "f").write_bytes(b"x")
    fails(errno.EPERM, os.symlink, "f", folder / "s")
    fails(errno.EPERM, os.link, folder / "f", folder / "h")
    fails(errno.EPERM, os.mkfifo, folder / "p")
    fails(errno.EPERM, os.mknod, folder / "d", 0o20600, os.makedev(1, 3))
    bind = f"cd '{folder}' && python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('s')\""
    assert "Operation not permitted" in run(bind).stderr
    assert os.listdir(folder) == ["f"]


# -- drafts --------------------------------------------------------------------------------------------


def draft(path: Path, data: bytes) -> None:
    """Make a file as mkstemp does."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def test_draft_shows(folder: Path, behind: Folder, drive: Mount) -> None:
    """A draft's close succeeds, it stays on this machine, and `labfs status` and its state say so."""
    draft(folder / "tmpq3x8zk2a", b"data")
    assert os.getxattr(folder / "tmpq3x8zk2a", "user.labfs.state") == b"draft"
    assert any(up["path"].endswith("/tmpq3x8zk2a") and up["state"] == "draft" for up in drive.status()["uploads"])
    (folder / "tmpq3x8zk2a").unlink()
    assert behind.paths == []


def test_draft_renamed(folder: Path, behind: Folder) -> None:
    """The rename of a draft is its one save, under the identity of what has the new name; a draft that is removed was
    never sent."""
    (folder / "f").write_bytes(b"old")
    draft(folder / "tmpq3x8zk2a", b"new")
    draft(folder / "tmpr4y9al3b", b"other")
    (folder / "tmpr4y9al3b").unlink()
    os.rename(folder / "tmpq3x8zk2a", folder / "f")
    assert (behind.stored, behind.paths) == ({"f": b"new"}, ["f", "f"])


async def test_draft_in_time(tmp_path: Path, autojump_clock: Clock) -> None:
    """A draft that nobody renames is saved under the name that it has, after 60 seconds without use, or when the mount
    ends."""
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "a.tmp", b"data")
        await trio.sleep(55)
        assert backend.newest() == {}
        await trio.sleep(10)
        assert backend.newest() == {"a.tmp": b"data"}
        await make(vfs, box, "b.tmp", b"data")
        await vfs.finish(10)
        assert set(backend.newest()) == {"a.tmp", "b.tmp"}


async def test_draft_of_a_running_program(tmp_path: Path, autojump_clock: Clock) -> None:
    """A program's own drafts, made as mkstemp does or numbered, wait as long as it runs, for a day at most."""
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "tmpq3x8zk2a", b"data", maker(private=True))
        await make(vfs, box, "run.0001.bam", b"data", maker("samtools", "-T", "run"))
        await trio.sleep(80_000)
        assert backend.newest() == {}
        await trio.sleep(10_000)
        assert set(backend.newest()) == {"tmpq3x8zk2a", "run.0001.bam"}


async def test_draft_after_a_crash(tmp_path: Path, autojump_clock: Clock) -> None:
    """After a crash a draft that was closed is sent by the next mount, under the name that it had."""
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "a.tmp", b"data")
    async with mounted(tmp_path, backend):
        await a_while()
    assert backend.newest() == {"a.tmp": b"data"}


async def test_draft_unfinished(tmp_path: Path, autojump_clock: Clock) -> None:
    """What its name calls unfinished is never sent by itself; when the mount ends it is in the outbox."""
    backend = system("versions")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "a.part", b"ha")
        await trio.sleep(80_000)
        await vfs.finish(10)
    assert (backend.newest(), states(tmp_path)) == ({}, ["failed"])


def test_draft_marked(folder: Path, behind: Folder) -> None:
    """A file is unfinished as long as its `.aria2` stands beside it."""
    with open(folder / "big.bin", "wb") as file:
        file.write(b"half")
        (folder / "big.bin.aria2").write_bytes(b"map")
    assert os.getxattr(folder / "big.bin", "user.labfs.state") == b"draft"
    (folder / "big.bin.aria2").unlink()
    assert behind.stored == {"big.bin": b"half"}


def test_draft_empty(folder: Path, behind: Folder) -> None:
    """An empty new file that its system does not take stays here until something is written to it, and ends with the
    mount."""
    (folder / "new.txt").touch()
    assert os.listdir(folder) == ["new.txt"]
    assert behind.paths == []
    (folder / "new.txt").write_bytes(b"data")
    assert behind.stored == {"new.txt": b"data"}


def test_draft_folder(folder: Path, behind: Folder) -> None:
    """A private folder with a hidden or random name, or any that has the name and the process number of its program, is
    a program's own: in it are drafts."""
    (folder / ".own").mkdir(0o700)
    (folder / ".own" / "data").write_bytes(b"data")
    assert behind.paths == []
    os.rename(folder / ".own" / "data", folder / "data")
    (folder / ".own").rmdir()
    assert behind.stored == {"data": b"data"}


async def test_draft_beside(tmp_path: Path, autojump_clock: Clock) -> None:
    """A file of the server that a program moves out of the way of its draft is still there if the draft never takes
    its name."""
    backend = system("versions")
    backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        await make(vfs, box, "tmpq3x8zk2a", b"new")
        await vfs.rename(box, "f", box, "f.bak", maker=maker(private=True))
        await vfs.unlink(box, "tmpq3x8zk2a")
        await a_while()
        assert [node.name for node in await vfs.listing(box)] == ["f"]


def test_killed(folder: Path, behind: Folder, drive: Mount) -> None:
    """What a program wrote that a signal ended is not saved: the file is as it was, and what was written is in the
    outbox as unfinished."""
    (folder / "f").write_bytes(b"complete")
    torn = "import os; os.write(os.open('f', os.O_WRONLY | os.O_TRUNC), b'ha'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", torn], cwd=folder, check=False).returncode == -9
    deadline = time.monotonic() + 5
    while (folder / "f").read_bytes() != b"complete" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (folder / "f").read_bytes() == b"complete"
    assert behind.paths == ["f"]
    assert any(note.get("unfinished") for note in drive.status()["spool"]["kept"])
    drive.discard()


def test_replaced(folder: Path, behind: Folder, tmp_path: Path) -> None:
    """What a program removes to make it anew it replaces, as `cp` would: the old file goes when the new one is there."""
    (folder / "f").write_bytes(b"old")
    (tmp_path / "f").write_bytes(b"new")
    assert run(f"mv '{tmp_path}/f' . && cat f", folder).stdout == "new"
    assert behind.paths == ["f", "f"]


async def test_not_replaced(tmp_path: Path, autojump_clock: Clock) -> None:
    """If the new one does not come, the old one is there again, when the program has ended or after 10 seconds."""
    backend = system("versions")
    backend.put("f", b"old")
    async with mounted(tmp_path, backend) as (vfs, box):
        await vfs.unlink(box, "f", maker("tar"))
        assert await vfs.listing(box) == []
        await trio.sleep(11)
        assert [node.name for node in await vfs.listing(box)] == ["f"]
        await vfs.unlink(box, "f", maker("tar", runs=False))
        assert [node.name for node in await vfs.listing(box)] == ["f"]


# -- removing ------------------------------------------------------------------------------------------


def test_rm(folder: Path, behind: Folder, drive: Mount, lab: Lab) -> None:
    """rm deletes on the server where the system and `access = "full"` allow it, and else fails with EPERM and a reason."""
    there = at(drive, lab, "clarity")
    (there / "gone.txt").write_bytes(b"x")
    os.unlink(there / "gone.txt")
    drive.refresh(there)
    assert "gone.txt" not in os.listdir(there)
    (folder / "f").write_bytes(b"x")
    fails(errno.EPERM, os.unlink, folder / "f")
    assert os.getxattr(folder / "f", "user.labfs.error").endswith(b".")
    assert behind.stored == {"f": b"x"}


def test_removed_while_open(folder: Path, behind: Folder) -> None:
    """A file that is removed while it is open can be read and written until it is closed, and is not saved."""
    with open(folder / "f", "w+b", buffering=0) as file:
        file.write(b"abc")
        os.unlink(folder / "f")
        file.write(b"def")
        file.seek(0)
        assert file.read() == b"abcdef"
    assert (os.listdir(folder), behind.paths) == ([], [])


# -- what is known of a file ---------------------------------------------------------------------------


def test_sizes_and_dates(drive: Mount, lab: Lab, folder: Path, behind: Folder) -> None:
    """Size and date are the server's; where it tells no date, that of the version's first sight or save here, also in
    the next mount."""
    behind.put("f", noise(12345))
    drive.refresh(folder)
    assert (folder / "f").stat().st_size == 12345
    assert abs((folder / "f").stat().st_mtime - time.time()) < 60
    began = time.time()
    lab.put("odm", "dateless.txt", b"x")
    there = at(drive, lab, "odm")
    seen = (there / "dateless.txt").stat().st_mtime
    assert began < seen < time.time(), "tests/core/test_dates.py mounts again"
    (there / "saved.txt").write_bytes(b"x")
    drive.refresh(there)
    assert (there / "dateless.txt").stat().st_mtime == seen
    assert seen < (there / "saved.txt").stat().st_mtime < time.time()


def test_modes(folder: Path, behind: Folder, drive: Mount) -> None:
    """Modes are 644 and 755, or 444 and 555 where nothing can be written; chmod and chown succeed and change nothing."""
    (folder / "f").write_bytes(b"x")
    os.chmod(folder / "f", 0o600)
    os.chown(folder / "f", 1, 1)
    drive.refresh(folder)
    sample = next((drive.path / "basespace" / "Tumour panel 2026" / "NA12871").rglob("*.gz"))
    modes = [oct(path.stat().st_mode & 0o777) for path in (folder / "f", folder, sample, sample.parent)]
    assert modes == ["0o644", "0o755", "0o444", "0o555"]
    assert (folder / "f").stat().st_uid == os.getuid()
    assert behind.paths == ["f"]


def test_dates_that_are_set(folder: Path, behind: Folder, sandbox: Sandbox, tmp_path: Path) -> None:
    """A date that is set lasts as long as the mount; where the server keeps none, as long as the version."""
    (folder / "f").write_bytes(b"x")
    os.utime(folder / "f", (1e9, 1e9))
    assert (folder / "f").stat().st_mtime == 1e9
    assert behind.paths == ["f"]
    other = Mount(tmp_path, sandbox.config, "--site=basespace")
    try:
        other.start()
        assert abs((behind.at(other.path) / "f").stat().st_mtime - time.time()) < 60
    finally:
        other.clean_up()


def test_attributes_are_a_choice(sandbox: Sandbox, tmp_path: Path) -> None:
    """There are no extended attributes, and asking for one is EOPNOTSUPP, unless the configuration says `xattrs = true`."""
    config, made = tmp_path / "labfs.toml", sandbox.fresh()
    config.write_text(sandbox.config.read_text().replace("xattrs = true\n", ""))
    config.chmod(0o600)
    made.put("f", b"x")
    mount = Mount(tmp_path, config, "--site=basespace")
    try:
        file = made.at(mount.start().path) / "f"
        for _ in range(2):
            fails(errno.EOPNOTSUPP, os.getxattr, file, "user.labfs.site")
            fails(errno.EOPNOTSUPP, os.listxattr, file)
        assert run(f"ls -l '{file.parent}'").stdout.endswith(" f\n")
        file.write_bytes(b"written")
        assert made.stored["f"] == b"written"
        assert "site       basespace" in labfs("info", file, env=mount.env).stdout
    finally:
        mount.clean_up()


def test_attributes(folder: Path) -> None:
    """Extended attributes are labfs's own, answer to their names, are not listed and cannot be set: EOPNOTSUPP."""
    (folder / "f").write_bytes(b"x")
    assert os.getxattr(folder / "f", "user.labfs.site") == b"basespace"
    assert os.listxattr(folder / "f") == []
    fails(errno.EOPNOTSUPP, os.setxattr, folder / "f", "user.mine", b"x")
    fails(errno.ENODATA, os.getxattr, folder / "f", "user.mine")


def test_inode_numbers(folder: Path, behind: Folder, sandbox: Sandbox, tmp_path: Path) -> None:
    """A file's inode number is the same in the next mount."""
    behind.put("in/f", b"x")
    numbers = []
    for _ in range(2):
        other = Mount(tmp_path, sandbox.config, "--site=basespace")
        try:
            other.start()
            numbers.append([path.stat().st_ino for path in (behind.at(other.path) / "in/f", behind.at(other.path))])
        finally:
            other.clean_up()
    assert numbers[0] == numbers[1]


def test_locks(folder: Path, behind: Folder, sandbox: Sandbox) -> None:
    """Locks are this machine's alone; no server hears of them."""
    (folder / "f").write_bytes(b"x")
    with open(folder / "f", "rb") as file:
        sandbox.reset()
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(f"flock --nonblock '{folder}/f' true").returncode == 1
        fcntl.flock(file, fcntl.LOCK_UN)
        assert run(f"flock --nonblock '{folder}/f' true").returncode == 0
    assert not [route for route in sandbox.requests() if not route.startswith("GET")]


def test_df(drive: Mount) -> None:
    """df tells what the spool has room for."""
    told, disk = os.statvfs(drive.path), os.statvfs(drive.state)
    assert abs(told.f_bavail * told.f_frsize - disk.f_bavail * disk.f_frsize) < 0.1 * disk.f_blocks * disk.f_frsize


# -- others --------------------------------------------------------------------------------------------


def test_conflicts(drive: Mount, lab: Lab) -> None:
    """What somebody else saved since the file was opened is not overwritten where that would destroy it: the close fails
    with ESTALE, theirs is on the server, yours in the outbox, and to be read beside theirs as `f (yours, 14:07)` until you
    decide."""
    folder = at(drive, lab, "redcap")
    run(f"rm -f '{folder}'/*")
    (folder / "f").write_bytes(b"old")
    before = len(drive.spooled)
    descriptor = os.open(folder / "f", os.O_RDWR | os.O_APPEND)
    assert os.read(descriptor, 10) == b"old"
    os.write(descriptor, b" and mine")
    lab.put("redcap", "f", b"theirs")
    fails(errno.ESTALE, os.close, descriptor)
    assert lab.redcap.stored(lab.record)["counts", 1] == ("f", b"theirs")
    for _ in range(50):
        if len(drive.spooled) > before:
            break
        time.sleep(0.02)
    assert any(kept.read_bytes().endswith(b" and mine") for kept in drive.spooled)
    drive.refresh(folder)
    (mine,) = [path for path in folder.iterdir() if path.name != "f"]
    assert mine.name.startswith("f (yours, ")
    assert mine.read_bytes() == b"old and mine"
    assert mine.stat().st_mode & 0o222 == 0
    fails(errno.EROFS, mine.write_bytes, b"x")
    assert "your version of a file that somebody else has saved" in typed("why", mine, env=drive.env).stdout
    assert "is saved over" in typed("outbox", "retry", mine, env=drive.env).stdout
    until(lambda: lab.redcap.stored(lab.record)["counts", 1] == ("f", b"old and mine"))
    until(lambda: os.listdir(folder) == ["f"])


def test_either_form(drive: Mount, lab: Lab) -> None:
    """A name is found in either Unicode form, `é` as one character or as two, if one file fits; listings show the server's."""
    folder = at(drive, lab, "redcap")
    run(f"rm -f '{folder}'/*")
    one, two = "r\u00e9sum\u00e9.txt", "re\u0301sume\u0301.txt"
    (folder / one).write_bytes(b"one")
    assert (folder / two).read_bytes() == b"one"
    (folder / two).write_bytes(b"two")
    assert (os.listdir(folder), (folder / one).read_bytes()) == ([one], b"two")
    (folder / two).unlink()
    until(lambda: not (folder / one).exists(), 0.5)
    assert not (folder / two).exists()


def test_both_versions(folder: Path, behind: Folder, drive: Mount) -> None:
    """Where a save is a new version, a save on top of somebody else's leaves both."""
    (folder / "f").write_bytes(b"old")
    with open(folder / "f", "ab", buffering=0) as file:
        file.write(b" and mine")
        behind.put("f", b"theirs")
    assert behind.paths == ["f", "f", "f"]
    assert behind.stored == {"f": b"old and mine"}


@pytest.mark.of_app_results
def test_away(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    """A site that is away fails with an errno of its own within seconds, and what was listed of it stays visible."""
    behind.put("f", noise(MIB))
    drive.refresh(folder)
    assert os.listdir(folder) == ["f"]
    sandbox.faults({"service": "basespace", "action": "reset", "times": None})
    began = time.monotonic()
    with pytest.raises(OSError, match=r"error|down") as caught:
        (folder / "f").read_bytes()
    assert caught.value.errno in (errno.EIO, errno.EHOSTDOWN)
    assert time.monotonic() - began < 17
    drive.refresh(folder)
    began = time.monotonic()
    assert os.listdir(folder) == ["f"]
    assert time.monotonic() - began < 17


# -- who may enter -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_house(running: Sandbox) -> Iterator[Machine]:
    """A machine on which an ordinary user, allowed to, has mounted with --allow-other."""
    with others.opened("user_allow_other", running) as machine:
        machine.give(USER)
        done = machine.mount("--allow-other")
        assert (done.returncode, done.stderr) == (0, "")
        yield machine


@pytest.fixture
def record(sandbox: Sandbox) -> Folder:
    """A record that no mount has listed yet."""
    made = sandbox.fresh()
    made.put("theirs.txt", b"what the server has")
    return made


def test_who_may_enter(sandbox: Sandbox, record: Folder) -> None:
    """The user and the group that made a mount can enter it; others, root and a shell of `sg` too, get EACCES unless it
    was made with --allow-other."""
    with others.opened("", sandbox) as machine:
        labfs_there = f"{sys.executable} -m labfs"
        mount = f"{labfs_there} mount -c {machine.config} --site=basespace"
        done = machine.run("sg", "daemon", "-c", f"{mount} {machine.path}")
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "But: programs of the group daemon alone can use it; --allow-other lets others in." in done.stdout
        place = record.at(machine.path)
        copied = machine.run("sg", "daemon", "-c", f"cd '{place}' && stat -c %G theirs.txt && cp theirs.txt mine.txt")
        assert (copied.stdout, copied.stderr) == ("daemon\n", "")
        assert sorted(record.paths) == ["mine.txt", "theirs.txt"]
        assert denied(machine.run("ls", machine.path)), "the same user's other shells"
        assert machine.labfs("why", place / "theirs.txt", user=0, group=0).returncode == 0, "but labfs answers them"
        done = machine.run("sg", "daemon", "-c", f"{labfs_there} umount {machine.path}")
        assert (done.returncode, done.stderr) == (0, "")
        assert "But:" not in machine.run("sg", "daemon", "-c", f"{mount} --allow-other {machine.path}").stdout
        assert machine.run("cat", place / "theirs.txt").stdout == "what the server has"


def test_allow_other_is_refused(sandbox: Sandbox) -> None:
    """An ordinary user needs the line user_allow_other in /etc/fuse.conf for --allow-other, and is told so; root needs
    none."""
    with others.opened("#user_allow_other", sandbox) as machine:
        machine.give(USER)
        done = machine.mount("--allow-other")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
        assert "--allow-other needs the line user_allow_other in /etc/fuse.conf" in done.stderr
        (log,) = machine.state.glob("mounts/*/log")
        assert "option allow_other only allowed if 'user_allow_other' is set" in log.read_text(), "fusermount3's words"
        done = machine.mount()
        assert (done.returncode, done.stderr) == (0, ""), "without it the same machine mounts"
        assert machine.run("ls", machine.path, user=USER, group=GROUP).stdout == "basespace\n"
        assert denied(machine.run("ls", machine.path, user=OTHER_USER, group=GROUP))
        assert denied(machine.run("ls", machine.path, user=USER, group=OTHER_GROUP)), "a shell of another group"
        assert denied(machine.run("ls", machine.path)), "root"
        assert machine.labfs("umount", machine.path, group=OTHER_GROUP).returncode == 0, "from there it can be ended"
        # test_who_may_enter mounts with --allow-other as root, on a machine without the line


def test_allow_other(open_house: Machine, record: Folder) -> None:
    """With --allow-other everybody on this machine can read, and only the user who mounted, and root, can write."""
    place = record.at(open_house.path)
    open_house.refresh()
    theirs, mine = place / "theirs.txt", place / "mine.txt"
    for user, group in [(USER, GROUP), (USER, OTHER_GROUP), (OTHER_USER, GROUP), (0, 0)]:
        assert open_house.run("cat", theirs, user=user, group=group).stdout == "what the server has", (user, group)
    owner = open_house.run("stat", "-c", "%u %g %a", theirs, place, user=OTHER_USER, group=GROUP)
    assert owner.stdout == f"{USER} {GROUP} 644\n{USER} {GROUP} 755\n"
    for group in (OTHER_GROUP, GROUP):
        assert denied(open_house.run("cp", theirs, mine, user=OTHER_USER, group=group))
        assert denied(open_house.run("sh", "-c", f"echo x > '{theirs}'", user=OTHER_USER, group=group))
    assert record.paths == ["theirs.txt"]
    for user, group in [(USER, GROUP), (USER, OTHER_GROUP), (0, 0)]:
        done = open_house.run("cp", theirs, place / f"by {user} {group}", user=user, group=group)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(record.paths) == 4


def test_duplicates_of_others(open_house: Machine, record: Folder) -> None:
    """Of duplicates that a program of another user or group has nothing is known: each of its closes saves."""
    place = record.at(open_house.path)
    open_house.refresh()
    for group in (GROUP, OTHER_GROUP):
        command = f"(/bin/echo one; /bin/echo two) > '{place}/{group}'"
        done = open_house.run("sh", "-c", command, user=USER, group=group)
        assert (done.returncode, done.stderr) == (0, "")
    assert [record.stored[f"{group}"] for group in (GROUP, OTHER_GROUP)] == [b"one\ntwo\n"] * 2
    assert (record.paths.count(f"{GROUP}"), record.paths.count(f"{OTHER_GROUP}")) == (1, 2)
