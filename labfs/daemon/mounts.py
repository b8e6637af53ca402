"""The mount table of this machine, and the private state that belongs to one mount point.

Tests: unit/test_mounts, mount/test_cli.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labfs.daemon import control
from labfs.daemon.config import cache_dir, state_dir
from labfs.errors import ConfigError
from labfs.tree import names
from labfs.write.journal import Spooled

log = logging.getLogger(__name__)

FSTYPE = "fuse.labfs"
FUSE_CONF = Path("/etc/fuse.conf")
DYING_S = 2.0
ALIVE_S = 3.0  # for a daemon to answer
LOOK_S = 5.0  # for a mount to answer statvfs
ALLOWS_OTHERS = "user_allow_other"  # the line that allows ordinary users the option; root needs none
ELSEWHERE = "by a labfs of another user or with another LABFS_STATE_DIR"


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of the mount table."""

    mountpoint: str
    fstype: str
    source: str
    device: str  # major:minor


def table() -> list[Mounted]:
    """Return the mount table, without accessing any mount."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().decode(errors="surrogateescape").split("\n"):
        if not line:
            continue
        left, right = line.split(" - ", 1)
        fields, (fstype, source, *_) = left.split(" "), right.split(" ")
        mountpoint = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        found.append(Mounted(mountpoint, fstype, source, fields[2]))
    return found


def mounted_at(mountpoint: str) -> Mounted | None:
    """Return the topmost mount at a path."""
    return next((mount for mount in reversed(table()) if mount.mountpoint == mountpoint), None)


def absolute(path: str) -> str:
    """Resolve the links in a path above its last part; never accesses a mount at the path."""
    head, tail = os.path.split(os.path.abspath(os.path.expanduser(path)))
    return os.path.join(os.path.realpath(head), tail)


class Place:
    """The state of one mount point: lock, control socket, log and spool, in one private directory."""

    def __init__(self, mountpoint: str) -> None:
        self.mountpoint = mountpoint
        name = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]
        self.name = name
        self.directory = state_dir() / "mounts" / name
        self.log = self.directory / "log"
        self.socket = self.directory / "control"
        self.spool = self.directory / "spool"
        self._lock: int | None = None

    @property
    def cache(self) -> Path:
        return cache_dir() / "mounts" / self.name

    def inside(self, path: str) -> str | None:
        """Return an absolute path as seen from the mount point, which is `/`; None if it lies elsewhere."""
        below = f"{path}/".startswith(self.mountpoint.rstrip("/") + "/")
        return (path[len(self.mountpoint.rstrip("/")) :] or "/") if below else None

    def prepare(self) -> None:
        """Make sure that the state and cache directories are writable. Raises ConfigError with the remedy."""
        try:
            os.close(self._open_lock())
            (self.directory / ".try").write_bytes(b"")
            (self.directory / ".try").unlink()
        except OSError as error:
            where = self.directory.parent.parent
            raise ConfigError(
                f"labfs cannot keep its state in {where}: {error.strerror}. Set LABFS_STATE_DIR."
            ) from error
        _ = self.cache

    def _open_lock(self) -> int:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def claim(self) -> bool:
        """Lock the place for this process, until it ends; False if another process holds the lock."""
        lock = self._open_lock()
        for attempt in range(20):  # a process that checks the lock holds it for a moment
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 19:
                    os.close(lock)
                    return False
                time.sleep(0.02)
            except OSError as error:  # some NFS, Lustre without `flock`
                os.close(lock)
                raise self._lockless(error) from error
        self._lock = lock
        self._sign()
        return True

    def leave(self) -> None:
        """Give up the lock; after a fork the child's copy of it alone, so that the parent still holds it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _lockless(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"The disk of {self.directory} knows no file locks ({error.strerror}), without which two mounts could use"
            " it at a time. Set LABFS_STATE_DIR to a directory on a local disk."
        )

    def _sign(self) -> None:
        """Record the mount point and the pid in `mount.json`, by which the outbox is found again."""
        partial = self.directory / "mount.part"
        try:
            partial.write_text(json.dumps({"mountpoint": self.mountpoint, "pid": os.getpid()}))
            partial.rename(self.directory / "mount.json")
        except OSError as error:
            partial.unlink(missing_ok=True)
            if self.record().get("mountpoint") != self.mountpoint:  # else the earlier record will do
                raise ConfigError(f"labfs cannot keep its state in {self.directory}: {error.strerror}.") from error

    def in_use(self) -> bool:
        """Whether a living labfs serves this mount point, by its lock. Writes nothing, so works on a full disk.

        A labfs that was killed just now does not listen any more, but holds its lock until its last thread has ended.
        """
        until = time.monotonic() + DYING_S
        while locked := self._is_locked():
            if not control.is_deaf(self.socket) or time.monotonic() > until:
                break
            time.sleep(0.02)
        return locked

    def is_served(self) -> bool:
        """Whether a labfs serves this mount point; one that does not answer in time counts, a dying one does not."""
        try:
            return self.in_use() and bool(control.ask(self.socket, {"op": "alive"}, ALIVE_S))
        except control.NoDaemon:
            return self.in_use()
        except ConfigError:
            return True

    def _is_locked(self) -> bool:
        try:
            lock = os.open(self.directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            raise self._lockless(error) from error
        finally:
            os.close(lock)
        return False

    def erase(self, *, keep_spool: bool) -> None:
        """Remove the mount point if nothing is mounted there, its cache, and its state unless the spool is to be kept.

        Called when no labfs serves it any more, or by the one that ends.
        """
        if mounted_at(self.mountpoint) is None:
            with suppress(OSError):
                os.rmdir(self.mountpoint)
        shutil.rmtree(self.cache, ignore_errors=True)
        if not keep_spool:
            shutil.rmtree(self.directory, ignore_errors=True)

    def record(self) -> dict[str, Any]:
        try:
            note: dict[str, Any] = json.loads((self.directory / "mount.json").read_text())
        except (OSError, ValueError):
            return {}
        return note


NAMELESS = "labfs://"


def nameless(config: Path, number: int) -> str:
    """Return what stands for a mount point where a program uses a configuration without a mount."""
    return f"{NAMELESS}{config}#{number}"


def places() -> list[Place]:
    """Return the places of all mount points that were ever served with this state directory."""
    found = []
    for path in sorted((state_dir() / "mounts").glob("*/mount.json")):
        try:
            found.append(Place(json.loads(path.read_text())["mountpoint"]))
        except (OSError, ValueError, KeyError):
            continue
    return found


def check(mountpoint: str) -> None:
    """Make sure that a directory can be mounted on; detach the mount of a labfs that died.

    Raises ConfigError with the obstacle and the remedy.
    """
    if importlib.util.find_spec("pyfuse3") is None:
        raise ConfigError(
            "Mounting needs pyfuse3, which is not installed; run: apt install fuse3 libfuse3-dev pkg-config gcc &&"
            " pip install 'labfs[fuse]'"
        )
    if not os.path.exists("/dev/fuse"):
        raise ConfigError("This machine has no /dev/fuse; load the kernel module fuse, or ask an administrator.")
    if shutil.which("fusermount3") is None:
        raise ConfigError("fusermount3 is missing; install the package fuse3.")
    there = mounted_at(mountpoint)
    if there is not None and there.fstype == FSTYPE:
        if Place(mountpoint).in_use():
            raise ConfigError(f"{mountpoint} is mounted by labfs already; run: labfs umount {mountpoint}")
        if alive(mountpoint):
            raise ConfigError(f"{mountpoint} is mounted already, {ELSEWHERE}.")
        detach(mountpoint)
        there = mounted_at(mountpoint)
    if there is not None:
        raise ConfigError(f"{mountpoint} is busy: {there.source} ({there.fstype}) is mounted there.")
    if not os.path.lexists(mountpoint):
        raise ConfigError(f"{mountpoint} does not exist; make it with: mkdir -p {mountpoint}")
    if not os.path.isdir(mountpoint):
        raise ConfigError(f"{mountpoint} is not a directory.")
    try:
        if os.listdir(mountpoint):
            raise ConfigError(f"{mountpoint} is not empty; a mount would hide what is in it. Use an empty directory.")
    except OSError as error:
        raise ConfigError(f"{mountpoint} cannot be used: {error.strerror}.") from error
    _check_own(mountpoint)


def _check_own(mountpoint: str) -> None:
    """Raises ConfigError if the mount would hide labfs's own files: access to them would deadlock."""
    for what, kept in (("state", state_dir()), ("cache", cache_dir())):
        if f"{kept}/".startswith(mountpoint.rstrip("/") + "/"):
            raise ConfigError(f"labfs keeps its {what} in {kept}, which this mount would hide; mount elsewhere.")


@contextmanager
def hearing() -> Iterator[list[str]]:
    """Capture what libfuse and fusermount3 write to stderr in the block; log the lines and add them to the list."""
    said: list[str] = []
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as ear:
        os.dup2(ear.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            ear.seek(0)
            said += ear.read().decode(errors="replace").splitlines()
            for line in said:
                log.warning("%s", line)


def others_allowed() -> bool:
    """Whether this user may let others into a mount: root always, others by a line of /etc/fuse.conf."""
    try:
        lines = FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return os.geteuid() == 0 or any(line.strip() == ALLOWS_OTHERS for line in lines)


def refusal(mountpoint: str, said: list[str]) -> ConfigError:
    """Return the error of a failed mount, from the lines that libfuse and fusermount3 `said`."""
    if any(ALLOWS_OTHERS in line for line in said):
        return ConfigError(
            f"--allow-other needs the line {ALLOWS_OTHERS} in {FUSE_CONF} of this machine, which an administrator"
            " can add; without --allow-other you alone can use the mount."
        )
    why = said[0].removeprefix("fusermount3: ").removeprefix("fuse: ") if said else "the kernel refuses it"
    return ConfigError(f"{mountpoint} cannot be mounted: {why.rstrip('.')}.")


def left_behind(mountpoint: str) -> bool:
    """Whether there is a dead mount, left by a labfs that died."""
    there = mounted_at(mountpoint)
    return there is not None and there.fstype == FSTYPE and not alive(mountpoint)


def alive(mountpoint: str) -> bool:
    """Whether a process serves a mount, perhaps with another state directory; one that does not answer counts."""
    dead = []

    def look() -> None:
        try:
            os.statvfs(mountpoint)  # always a request: a stat may be answered from the kernel's cache
        except OSError as error:
            dead.append(error.errno in (errno.ENOTCONN, errno.ECONNABORTED))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(LOOK_S)
    return not any(dead)


def detach(mountpoint: str) -> None:
    """Unmount a dead mount lazily, even if a process still uses it. Raises ConfigError."""
    unmount(mountpoint, lazy=True)


def unmount(mountpoint: str, *, lazy: bool = False) -> bool:
    """Unmount; False if the mount is busy. Raises ConfigError if unmounting fails."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", mountpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode == 0:
        return True
    if "busy" in done.stderr.lower():
        return False
    raise ConfigError(f"{mountpoint} cannot be unmounted: {done.stderr.strip()}")


def widen_read_ahead(mountpoint: str, kib: int = 1024) -> bool:
    """Enlarge the kernel's read-ahead to `kib`, which only root may: a third faster on sequential reads."""
    there = mounted_at(mountpoint)
    if there is None:
        return False
    try:
        Path(f"/sys/class/bdi/{there.device}/read_ahead_kb").write_text(str(kib))
    except OSError:
        return False
    return True


def widen_background(mountpoint: str, requests: int = 1000) -> bool:
    """Raise the kernel's limit of concurrent background requests, by default 12 for all sites together.

    Further requests wait inside the kernel, where no deadline of ours applies: a silent site would delay the others,
    and its own readers for longer than a read may take. The mounting user may set the limit if the kernel's control
    file system is mounted, as it is wherever systemd runs. False if it cannot be set.
    """
    there = mounted_at(mountpoint)
    if there is None:
        return False
    control = Path("/sys/fs/fuse/connections", there.device.partition(":")[2])
    try:
        for limit in ("max_background", "congestion_threshold"):
            (control / limit).write_text(str(requests))
    except OSError:
        return False
    return True


def paths(left: Spooled) -> Iterator[str]:
    """Yield the paths, from the mount point, of a save: of its file, and of the person's own version beside it."""
    yield left.note.path
    folder, _, name = left.note.path.rpartition("/")
    with suppress(OSError):
        yield f"{folder}/{names.yours(name, left.file.stat().st_mtime)}"
