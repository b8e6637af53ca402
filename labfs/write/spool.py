"""Bytes of files that are being written: on disk, private, stored until a server has them.

Each file is a pair in the spool directory (`pairs`): its bytes, and a note (`journal`) with their path and the state
of the save, so that both survive a crash of labfs. A pair is removed by `discard` and nothing else.

Tests: core/test_spool.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Unpack

from labfs.errors import DiskFailed, disk_errors
from labfs.write.journal import (
    CLOSED,
    NEVER_CLOSED,
    NEVER_NAMED,
    OVERTAKEN,
    Begun,
    Changes,
    Gap,
    Identity,
    Leftover,
    Note,
    Spooled,
    State,
    Strange,
    saves,
    unasked,
)
from labfs.write.pairs import finish_removals, leftovers, remove, reserve, write_note

log = logging.getLogger(__name__)

CHUNK = 1024 * 1024


class Order:
    """A counter that only grows, within a mount and from one mount to the next."""

    def __init__(self) -> None:
        self.latest = 0

    def next(self) -> int:
        self.latest += 1
        return self.latest


ORDER = Order()


class SpoolFile:
    """A file on disk with random writes, read as sources that can be sent again. All methods block.

    `note` has the path of the bytes and the state of their save; it is stored beside them on disk.
    """

    def __init__(self, path: Path, note: Note, fd: int = -1) -> None:
        self.path = path
        self.note = note
        self._fd = fd
        self._noting = Lock()  # a sync writes the note in a thread

    @classmethod
    def create(cls, path: Path, note: Note) -> SpoolFile:
        with disk_errors():
            file = cls(path, note, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            file.describe()
        except BaseException:
            file.discard()
            raise
        return file

    def describe(self, **news: Unpack[Changes]) -> None:
        """Rewrite the note with `news`: changed fields of `Note`. A new state makes the save the latest of its path."""
        if "state" in news:
            news["number"] = ORDER.next()
        with self._noting, disk_errors():
            self.note = _changed(self.note, news)
            write_note(self.path.with_suffix(".json"), self.note)

    def reopen(self, missing: tuple[Gap, ...], upload: Begun | None = None) -> None:
        """Rewrite the note for a file that is being changed, with the ranges that are `missing` in the spool.

        Of an `upload` that follows the changes the note keeps no receipts.
        """
        state = self.note.state if self.note.state is State.FAILED else State.WRITING
        with self._noting, disk_errors():
            changed = replace(self.note.as_changed(), upload=upload and replace(upload, receipts=()))
            self.note = replace(changed, state=state, missing=missing, number=ORDER.next())
            write_note(self.path.with_suffix(".json"), self.note)

    @property
    def fd(self) -> int:
        """The file descriptor; the file is opened again if it was closed meanwhile."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        return self._fd

    @property
    def size(self) -> int:
        """The size of the file on disk, in bytes."""
        return self.path.stat().st_size

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`. Raises DiskFailed, above all with ENOSPC."""
        view = memoryview(data)
        try:  # rather than `disk_errors`, which costs as much as a small write
            while view:
                written = os.pwrite(self.fd, view, offset)
                offset += written
                view = view[written:]
        except OSError as error:
            raise DiskFailed(error.errno, error.strerror) from error

    def cut(self, size: int) -> None:
        """Cut off the bytes that a failed write left beyond `size`."""
        with suppress(OSError):
            if os.fstat(self.fd).st_size > size:
                os.ftruncate(self.fd, size)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`; bytes that were never written read as zeros."""
        return os.pread(self.fd, stop - start, start).ljust(stop - start, b"\0")

    def truncate(self, size: int) -> None:
        with disk_errors():
            os.ftruncate(self.fd, size)

    def sync(self) -> None:
        """Sync the bytes, their note and the directory to disk, so that they survive a power cut. Raises DiskFailed."""
        with disk_errors():
            os.fsync(self.fd)
            for path in (self.path.with_suffix(".json"), self.path.parent):
                fd = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def copy(self) -> SpoolFile:
        """Return a second spool file with the same bytes, in the state WRITING."""
        note = replace(self.note.as_changed(), state=State.WRITING, number=ORDER.next())
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
        """Close the descriptor; the next use opens the file again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        self.close()
        try:
            remove(self.path)
        except OSError as error:  # a read-only disk: the next mount finds the file
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
        ORDER.latest = max(ORDER.latest, *(kept.note.number for kept in saves(self.leftovers())), 0)
        reserve(self.directory)

    def create(
        self,
        site: str,
        path: str,
        *,
        local: bool = False,
        lacks: int = 0,
        opened: Identity | None = None,
        after: int = 0,
    ) -> SpoolFile:
        """Create an empty spool file for bytes to be saved at `path` of `site`, or for a `local` file.

        The save is begun on the version `opened`, of the age `after`; `lacks` is the size in bytes of that version,
        as long as its bytes are not copied to the spool.
        """
        reserve(self.directory)
        note = Note(
            site=site,
            path=path,
            state=State.LOCAL if local else State.WRITING,
            number=ORDER.next(),
            missing=((0, lacks),) if lacks else (),
            opened=opened,
            after=after,
        )
        return SpoolFile.create(_new(self.directory), note)

    def owe(
        self, site: str, path: str, opened: Identity, arrived: str, *, name: str | None, renamed: bool
    ) -> SpoolFile:
        """Record a duty: the file `opened` is to be deleted, since the file `arrived` has replaced it at `path`."""
        note = Note(
            site=site,
            path=path,
            state=State.REPLACING,
            number=ORDER.next(),
            name=name,
            opened=opened,
            arrived=arrived,
            renamed=renamed,
        )
        return SpoolFile.create(_new(self.directory), note)

    def adopt(self) -> None:
        """Take over the files of an earlier process: saves that were closed wait to be sent unless overtaken."""
        finish_removals(self.directory)
        for partial in self.directory.glob("*.part"):
            if partial.with_suffix(".data").exists():  # the process died while it wrote a note; the old note is there
                partial.unlink(missing_ok=True)
        left = self.leftovers()
        latest = {kept.file for kept in unasked(left, *CLOSED)}
        for one in left:
            try:
                if isinstance(one, Spooled):
                    self._adopt(one, overtaken=one.note.state in CLOSED and one.file not in latest)
                else:
                    self._look_at(one)
            except OSError as error:
                log.error("%s cannot be taken over: %s", one.file, error)

    @staticmethod
    def _look_at(strange: Strange) -> None:
        data = strange.file
        begun = not strange.bytes and data.is_file() and not os.path.lexists(data.with_suffix(".json"))
        if begun and not data.is_symlink():
            remove(data)  # the process died before it wrote a note
        else:
            log.warning("%s: %s", data, strange.problem)

    def _adopt(self, kept: Spooled, *, overtaken: bool) -> None:
        note = kept.note
        match note.state:
            case State.LOCAL | State.SAVED:
                remove(kept.file)
            case State.DRAFT | State.WRITING if not kept.bytes:
                remove(kept.file)
            case State.DRAFT if note.unfinished:
                self.mark(kept, state=State.FAILED, error=NEVER_NAMED)
            case State.DRAFT if not overtaken:
                self.mark(kept, state=State.WAITING, error="labfs ended before it was given its last name")
            case State.WRITING:
                self.mark(kept, state=State.FAILED, error=NEVER_CLOSED[0], unfinished=True)
            case State.DRAFT | State.SENDING | State.WAITING if overtaken:
                self.mark(kept, state=State.FAILED, error=OVERTAKEN, overtaken=True)
            case State.FAILED if overtaken and not (note.is_duty or note.is_unfinished):
                self.mark(kept, overtaken=True)
            case State.SENDING:
                self.mark(kept, state=State.WAITING, error="labfs ended before it was saved", died=True)

    def mark(self, kept: Spooled, **news: Unpack[Changes]) -> None:
        """Change the note of a spool file that is not open; `news` are fields of `Note`."""
        if kept.file.exists():  # else it was discarded meanwhile
            with disk_errors():
                write_note(kept.file.with_suffix(".json"), _changed(kept.note, news))

    def reopen(self, kept: Spooled) -> SpoolFile:
        """Return the spool file of an earlier save."""
        return SpoolFile(kept.file, kept.note)

    def leftovers(self) -> list[Leftover]:
        """Return the files in the directory, the oldest first."""
        return leftovers(self.directory)

    def free(self) -> int:
        """Return how many bytes are free on the spool's disk."""
        disk = os.statvfs(self.directory)
        return disk.f_bavail * disk.f_frsize


def _new(directory: Path) -> Path:
    return directory / f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}.data"


def _changed(note: Note, news: Changes) -> Note:
    """Return a note with some of its fields changed."""
    changed = replace(note, **news)
    if not note.state.may_become(changed.state):
        log.error("%s of %s became %s; this is a mistake in labfs", note.state, note.path, changed.state)
    return changed
