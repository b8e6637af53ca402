"""Bytes of files that are being written: on disk, private, kept until a server has them.

Each file is a pair in the spool directory, `NAME.data` and `NAME.json`: the second says where the bytes
belong and how far they are, so that nobody needs labfs's memory to know it. A pair is removed by `discard`
and nothing else. The notes are the journal (`journal`). Their states:

    local      stays on this machine, and ends with the mount
    draft      closed, and stays on this machine until its program gives it its last name; sent if none comes
    writing    a program has it open; after a crash it is unfinished, also what was synced of it
    sending    closed, and on its way; whether the server has it is found out after a crash
    waiting    to be sent as soon as the server answers
    failed     a person decides: refused for a reason that waiting does not mend, `unfinished`, or `overtaken`
    saved      the server has it; the file is still open

A pair without bytes is a duty (`replacing`): the file `opened` is still to be deleted, now that `arrived` has
its place. It is replacing, or failed where a person must decide.

What is sent without being asked for by name is decided by `journal.unasked`, and what a crash or a lost answer
leaves of each state is told in WINDOWS.md.

Of several saves of a path the one with the highest number in its note is the latest: clocks go back.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from labfs.errors import DiskFailed, disk_errors
from labfs.write.journal import (
    CLOSED,
    FORMAT,
    NEVER_CLOSED,
    NEVER_NAMED,
    OVERTAKEN,
    finish_removals,
    is_duty,
    known,
    leftovers,
    remove,
    reserve,
    unasked,
    unfinished,
    write_note,
)

log = logging.getLogger(__name__)

CHUNK = 1024 * 1024
# In the note of bytes that are no longer those that were closed, synced, sent in part, or decided about.
CHANGED = {"synced": False, "upload": None, "size": None, "insisted": False, "over": None, "overtaken": False}


class Ranges:
    """A set of offsets, as sorted half-open ranges that neither touch nor overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        if start >= stop:
            return
        low = bisect_left(self._stops, start)
        high = bisect_right(self._starts, stop)
        if low < high:
            start = min(start, self._starts[low])
            stop = max(stop, self._stops[high - 1])
        self._starts[low:high] = [start]
        self._stops[low:high] = [stop]

    def cut(self, size: int) -> None:
        """Forget every offset from `size` on."""
        keep = bisect_left(self._starts, size)
        del self._starts[keep:], self._stops[keep:]
        if keep and self._stops[-1] > size:
            self._stops[-1] = size

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of `[start, stop)` that are not in the set."""
        index = bisect_right(self._stops, start)
        while start < stop:
            if index == len(self._starts) or self._starts[index] >= stop:
                yield start, stop
                return
            if self._starts[index] > start:
                yield start, self._starts[index]
            start = self._stops[index]
            index += 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))


class Order:
    """Numbers that only grow, in this mount and from one to the next."""

    def __init__(self) -> None:
        self.latest = 0

    def next(self) -> int:
        self.latest += 1
        return self.latest


ORDER = Order()


class SpoolFile:
    """Random writes in, rewindable sources out. All methods block, on a local disk.

    `note` says where the bytes belong and what became of them; it lies beside them on disk.
    """

    def __init__(self, path: Path, note: dict[str, Any], fd: int = -1) -> None:
        self.path = path
        self.note = note
        self._fd = fd
        self._noting = Lock()  # a sync writes the note in a thread

    @classmethod
    def create(cls, path: Path, note: dict[str, Any]) -> SpoolFile:
        with disk_errors():
            file = cls(path, note, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            file.describe()
        except BaseException:
            file.discard()
            raise
        return file

    def describe(self, **news: Any) -> None:
        """Write the note anew, with some of it changed."""
        if "state" in news and "number" in self.note:
            news["number"] = ORDER.next()
        with self._noting, disk_errors():
            self.note = {**self.note, **news}
            write_note(self.path.with_suffix(".json"), self.note)

    @property
    def fd(self) -> int:
        """The open file; opened again if it was closed meanwhile."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self._fd

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return self.path.stat().st_size

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`. Raises OSError, ENOSPC above all."""
        view = memoryview(data)
        try:  # rather than `disk_errors`, which costs as much as a small write
            while view:
                written = os.pwrite(self.fd, view, offset)
                offset += written
                view = view[written:]
        except OSError as error:
            raise DiskFailed(error.errno, error.strerror) from error

    def cut(self, size: int) -> None:
        """Drop what a write that failed left beyond the end."""
        with suppress(OSError):
            if os.fstat(self.fd).st_size > size:
                os.ftruncate(self.fd, size)

    def read(self, start: int, stop: int) -> bytes:
        """Return `stop - start` bytes; what was never written reads as zeros."""
        return os.pread(self.fd, stop - start, start).ljust(stop - start, b"\0")

    def truncate(self, size: int) -> None:
        with disk_errors():
            os.ftruncate(self.fd, size)

    def sync(self) -> None:
        """Make the bytes, and the note that says where they belong, survive a power cut."""
        with disk_errors():
            os.fsync(self.fd)
            for path in (self.path.with_suffix(".json"), self.path.parent):
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def copy(self) -> SpoolFile:
        """Return a second file with the same bytes, which is being written, whatever this one is."""
        note = {**self.note, **CHANGED, "state": "writing"}
        if "number" in note:
            note["number"] = ORDER.next()
        twin = SpoolFile.create(_new(self.path.parent), note)
        try:
            size, offset = os.fstat(self.fd).st_size, 0
            with disk_errors():
                while offset < size:
                    offset += os.copy_file_range(self.fd, twin.fd, size - offset, offset, offset)
        except BaseException:
            twin.discard()
            raise
        return twin

    def close(self) -> None:
        """Give the descriptor back; the next use opens the file again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        self.close()
        try:
            remove(self.path)
        except OSError as error:  # a disk that can only be read: the next mount finds it
            log.error("%s cannot be removed: %s", self.path, error.strerror)

    def source(self, start: int, stop: int) -> Slice:
        return Slice(self, start, stop)


@dataclass(frozen=True, slots=True)
class Slice:
    """The bytes `[start, stop)` of a spool file as a body that can be sent again."""

    file: SpoolFile
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def chunks(self) -> Iterator[bytes]:
        for start in range(self.start, self.stop, CHUNK):
            yield self.file.read(start, min(start + CHUNK, self.stop))

    def md5(self) -> bytes:
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.digest()


class Spool:
    """A private directory of spool files."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(directory))
        directory.chmod(0o700)
        self.directory = directory
        ORDER.latest = max(ORDER.latest, *(note.get("number") or 0 for note in self.leftovers()), 0)
        reserve(self.directory)

    def create(self, site: str, path: str, *, local: bool = False, lacks: int = 0, **more: Any) -> SpoolFile:
        """Make an empty spool file for bytes that belong at `path` of `site`, or nowhere but here.

        `lacks` is the size in bytes of the version on the server that still lends its bytes to this one.
        """
        reserve(self.directory)
        state = "local" if local else "writing"
        note = {"format": FORMAT, "number": ORDER.next(), "site": site, "path": path, "state": state, **more}
        return SpoolFile.create(_new(self.directory), {**note, "missing": [[0, lacks]]} if lacks else note)

    def owe(self, site: str, path: str, **what: Any) -> SpoolFile:
        """Write down a duty: a file that is still to be deleted, now that another has its place at `path`."""
        note = {"format": FORMAT, "number": ORDER.next(), "site": site, "path": path, "state": "replacing", **what}
        return SpoolFile.create(_new(self.directory), note)

    def adopt(self) -> None:
        """Take over what an earlier process left: what was closed is sent if nothing overtook it."""
        finish_removals(self.directory)
        for partial in self.directory.glob("*.part"):
            if partial.with_suffix(".data").exists():  # it died while it wrote a note; the one before is there
                partial.unlink(missing_ok=True)
        notes = self.leftovers()
        latest = {note["file"] for note in unasked(notes, *CLOSED)}
        for note in notes:
            try:
                self._adopt(note, overtaken=note["state"] in CLOSED and note["file"] not in latest)
            except OSError as error:
                log.error("%s cannot be taken over: %s", note["file"], error)

    def _adopt(self, note: dict[str, Any], *, overtaken: bool) -> None:
        data, state = Path(note["file"]), note["state"]
        if not known(note):
            begun = not note["bytes"] and data.is_file() and not os.path.lexists(data.with_suffix(".json"))
            if begun and not data.is_symlink():
                remove(data)  # it died before it wrote a note
            else:
                log.warning("%s: %s", data, note["error"])
        elif state in ("local", "saved") or (state in ("draft", "writing") and not note["bytes"]):
            remove(data)
        elif state == "draft" and note.get("unfinished"):
            self.mark(note, state="failed", error=NEVER_NAMED)
        elif state == "draft" and not overtaken:
            self.mark(note, state="waiting", error="labfs ended before it was given its last name")
        elif state == "writing":
            self.mark(note, state="failed", error=NEVER_CLOSED[0], unfinished=True)
        elif state in ("draft", "sending", "waiting") and overtaken:
            self.mark(note, state="failed", error=OVERTAKEN, overtaken=True)
        elif state == "failed" and overtaken and not is_duty(note) and not unfinished(note):
            self.mark(note, overtaken=True)
        elif state == "sending":
            self.mark(note, state="waiting", error="labfs ended before it was saved", died=True)

    def mark(self, note: dict[str, Any], **news: Any) -> None:
        """Change the note of a file that nobody has open."""
        kept = {key: value for key, value in note.items() if key not in ("file", "bytes")}
        if os.path.exists(note["file"]):  # else it was discarded meanwhile
            with disk_errors():
                write_note(Path(note["file"]).with_suffix(".json"), {**kept, **news})

    def reopen(self, note: dict[str, Any]) -> SpoolFile:
        """Return a file that an earlier save left, to go on with it."""
        kept = {key: value for key, value in note.items() if key not in ("file", "bytes")}
        return SpoolFile(Path(note["file"]), kept)

    def leftovers(self) -> list[dict[str, Any]]:
        return leftovers(self.directory)

    def free(self) -> int:
        """Return the bytes that can still be written."""
        disk = os.statvfs(self.directory)
        return disk.f_bavail * disk.f_frsize


def _new(directory: Path) -> Path:
    return directory / f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}.data"
