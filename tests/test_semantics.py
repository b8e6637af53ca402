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
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import five_stage
import pytest
from five_stage import Lab
from stage import Folder, Mount, Sandbox, labfs, run

pytestmark = pytest.mark.mount

MIB = 1024 * 1024
PAGE = Path(__file__).parent.parent / "SEMANTICS.md"
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


def test_thirty_seconds(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    """A directory shows what its server said at most 30 seconds ago, or five times as long ago as it took to say it, or what `labfs refresh` asked it to say now."""
    os.listdir(folder)
    behind.put("f", b"x")
    sandbox.reset()
    assert os.listdir(folder) == []
    assert sandbox.requests() == {}, "the listing is believed; tests/test_vfs.py lets the 30 seconds pass"
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
    """rewinddir shows what is there then; the names of a listing that is being read stay as they were at its beginning."""
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
        done = labfs("outbox", "retry", env=drive.env)
        (line,) = labfs("outbox", "list", env=drive.env).stdout.splitlines()
        assert (done.returncode, made.stored, "before it was closed" in line) == (0, {}, True)
        labfs("outbox", "retry", line.split()[0], env=drive.env)
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
    assert "“Document”" in labfs("why", study / "Nonsense", env=drive.env).stdout
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
    """Size and date are the server's; where it tells no date, the time of the mount."""
    behind.put("f", noise(12345))
    drive.refresh(folder)
    assert (folder / "f").stat().st_size == 12345
    assert abs((folder / "f").stat().st_mtime - time.time()) < 60
    lab.put("odm", "dateless.txt", b"x")
    there = at(drive, lab, "odm")
    assert (there / "dateless.txt").stat().st_mtime == drive.path.stat().st_mtime


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
    """A date that is set lasts as long as the mount; the server keeps its own."""
    (folder / "f").write_bytes(b"x")
    os.utime(folder / "f", (1e9, 1e9))
    assert (folder / "f").stat().st_mtime == 1e9
    assert behind.paths == ["f"]
    other = Mount(tmp_path, sandbox.config)
    try:
        other.start()
        assert abs((behind.at(other.path) / "f").stat().st_mtime - time.time()) < 60
    finally:
        other.clean_up()


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
        other = Mount(tmp_path, sandbox.config)
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
    with ESTALE, theirs is on the server, yours in the outbox."""
    folder = at(drive, lab, "redcap")
    run(f"rm -f '{folder}'/*")
    (folder / "f").write_bytes(b"old")
    before = len(drive.spooled)
    descriptor = os.open(folder / "f", os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b" and mine")
    lab.put("redcap", "f", b"theirs")
    fails(errno.ESTALE, os.close, descriptor)
    assert lab.redcap.stored(lab.record)["counts", 1] == ("f", b"theirs")
    for _ in range(50):
        if len(drive.spooled) > before:
            break
        time.sleep(0.02)
    assert any(kept.read_bytes().endswith(b" and mine") for kept in drive.spooled)


def test_both_versions(folder: Path, behind: Folder, drive: Mount) -> None:
    """Where a save is a new version, a save on top of somebody else's leaves both."""
    (folder / "f").write_bytes(b"old")
    with open(folder / "f", "ab", buffering=0) as file:
        file.write(b" and mine")
        behind.put("f", b"theirs")
    assert behind.paths == ["f", "f", "f"]
    assert behind.stored == {"f": b"old and mine"}


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
