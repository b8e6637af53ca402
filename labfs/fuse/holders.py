"""Who holds a file open, read from /proc: FUSE tells neither the closing process nor the descriptors left.

A shell redirection duplicates its descriptor and passes it to children, and the kernel sends a flush for
every close of every copy. Only the last flush means that the file is finished. `/proc/PID/fdinfo` shows the
other copies (its `ino` line needs Linux 5.14). No function here accesses the mount itself: that would be a
request to this process, and a deadlock.

Tests: unit/test_units, mount/test_semantics.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from labfs.vfs import Maker

MOST_OPEN = 256  # descriptors of a process that are looked at
FLAGS, EXIT_CODE = 9, 52  # fields of /proc/PID/stat
EXITING, SIGNALED = 0x4, 0x400  # include/linux/sched.h: PF_EXITING, PF_SIGNALED


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    program: str
    path: str


def open_for_writing(inode: int, name: str, device: str | None = None) -> int:
    """Count the descriptors, in processes that we may inspect, that could still write to a file. Blocks.

    `device` is the mount's, major:minor: another mount of the same account has the same numbers and names.
    """
    found = [(pid, fd) for pid, fd, link in _descriptors() if _names(link, name)]
    return sum(_can_write(pid, fd, inode, device) for pid, fd in found)


def mapped(inode: int, name: str, device: str | None = None) -> bool:
    """Whether a process that we may inspect has a file of the mount mapped into its memory. Blocks."""
    ourselves = os.getpid()
    return any(_maps(pid, inode, name, device) for pid in _pids() if pid != ourselves)


def using(mountpoint: str) -> list[Holder]:
    """Return the processes with a file, or their working directory, at or below a mount point. Blocks."""
    found: dict[int, Holder] = {}
    inside = mountpoint.rstrip("/") + "/"
    for pid in _pids():
        for link in (_readlink(f"/proc/{pid}/cwd"), *(link for _, _, link in _of(pid))):
            if (link + "/").startswith(inside):
                found.setdefault(pid, Holder(pid, program(pid), link))
    return list(found.values())


def program(task: int) -> str:
    """Return the name of the process that a thread belongs to, "" if unknown.

    A thread may have a name of its own; LibreOffice saves from such threads. The kernel truncates names to 15 bytes,
    also within a character.
    """
    return _read(f"/proc/{process(task)}/comm").strip()


def maker(task: int, *, exclusive: bool = False, mode: int | None = None, umask: int = 0) -> Maker:
    """Return the process that a thread belongs to, and how it creates a file or folder, as a Maker. Blocks.

    `mode` is the requested mode, without the bits of the `umask`, as in the FUSE request.
    """
    pid = process(task)
    if not pid:
        return Maker(exclusive=exclusive)
    return Maker(
        pid=pid,
        program=program(pid),
        arguments=tuple(_read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")),
        directory=_readlink(f"/proc/{pid}/cwd"),
        reading=frozenset(link.rpartition("/")[2] for _, _, link in islice(_of(pid), MOST_OPEN)),
        exclusive=exclusive,
        private=mode is not None and not mode & 0o077 and umask & 0o077 != 0o077,
        runs=lambda: os.path.exists(f"/proc/{pid}"),
    )


def process(task: int) -> int:
    """Return the id of the process that a thread belongs to, 0 if unknown."""
    try:
        with open(f"/proc/{task}/status", errors="replace") as file:
            return int(next(line.split()[1] for line in file if line.startswith("Tgid:")))
    except (OSError, StopIteration):
        return 0


def killed(pid: int) -> bool:
    """Whether a process is being ended by a signal, so that the file it was writing may be incomplete. Blocks.

    The kernel closes descriptors after it has set the exit code, whose low bits are the signal (proc(5), `stat`); of
    another user's process only the flags can be read.
    """
    # After the name, which may contain blanks and brackets, the first field is the state, the third of all.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < EXIT_CODE - 2:
        return False
    flags, code = int(fields[FLAGS - 3]), int(fields[EXIT_CODE - 3])
    return bool(flags & EXITING) and (bool(code & 0x7F) if code else bool(flags & SIGNALED))


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _names(link: str, name: str) -> bool:
    return link.endswith(("/" + name, "/" + name + " (deleted)"))


def _can_write(pid: int, fd: str, inode: int, device: str | None) -> bool:
    try:
        with open(f"/proc/{pid}/fdinfo/{fd}") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
    except OSError:
        return False
    writable = int(fields["flags"], 8) & os.O_ACCMODE != os.O_RDONLY
    same = writable and int(fields.get("ino", inode)) == inode
    return same and device in (None, _device(pid, fields["mnt_id"].strip()) or device)


def _device(pid: int, mount: str) -> str | None:
    """Return the device of a mount, major:minor, from a process's mountinfo; None if it is not there."""
    try:
        with open(f"/proc/{pid}/mountinfo", errors="replace") as file:
            return next((line.split()[2] for line in file if line.split(" ", 1)[0] == mount), None)
    except OSError:
        return None


def _maps(pid: int, inode: int, name: str, device: str | None) -> bool:
    try:
        with open(f"/proc/{pid}/maps", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(maxsplit=5) for line in file if str(inode) in line]
    except OSError:
        return False
    files = [fields for fields in lines if len(fields) == 6 and fields[4] == str(inode) and _names(fields[5], name)]
    return any(device in (None, ":".join(str(int(part, 16)) for part in fields[3].split(":"))) for fields in files)


def _descriptors() -> Iterator[tuple[int, str, str]]:
    ourselves = os.getpid()
    for pid in _pids():
        if pid != ourselves:
            yield from _of(pid)


def _of(pid: int) -> Iterator[tuple[int, str, str]]:
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for fd in descriptors:
        yield pid, fd, _readlink(f"/proc/{pid}/fd/{fd}")


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
