"""A spool directory: pairs of a file of bytes, `NAME.data`, and the note that says where they belong, `NAME.json`.

Each note is replaced by a rename, so that every step is atomic, and there is no database whose one bad page could
cost the other saves. Space reserved on the disk lets notes be written when it is full. Files that labfs did not
write, or that a newer labfs wrote, are left alone.

Tests: core/test_spool, core/test_windows.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from labfs.errors import FULL
from labfs.write.journal import Leftover, Note, Spooled, State, Strange, as_json, parse, place

GONE = ".gone"  # suffix of a note whose file is being removed: from then on both count as removed
RESERVE = "reserve"  # a file that only reserves disk space
RESERVED = 256 * 1024  # bytes for notes on a full disk
GIVEN = 16 * 1024  # bytes of the reserve that are freed at a time


def write_note(path: Path, note: Note) -> None:
    """Replace a note atomically; on a full disk in the space reserved for notes. Raises OSError."""
    while True:
        try:
            return _replace(path, note)
        except OSError as error:
            if error.errno not in FULL or not _give(path.parent / RESERVE):
                raise


def _replace(path: Path, note: Note) -> None:
    partial = path.with_suffix(".part")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(as_json(note), file)
            if note.is_lasting:
                file.flush()
                os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def leftovers(directory: Path) -> list[Leftover]:
    """Return the saves, duties and strange files in a spool directory, the oldest first."""
    stems = {path.stem for kind in ("*.data", "*.json") for path in directory.glob(kind)}
    found = []
    for stem in stems - {path.stem for path in directory.glob(f"*{GONE}")}:
        data = directory / f"{stem}.data"
        try:
            there = data.lstat()
        except OSError:
            there = None
        left = _leftover(data, there)
        if left is not None:
            number = left.note.number if isinstance(left, Spooled) else 0
            found.append((number, there.st_mtime_ns if there else 0, stem, left))
    return [left for *_, left in sorted(found, key=lambda item: item[:3])]


def _leftover(data: Path, there: os.stat_result | None) -> Leftover | None:
    note: Note | str
    try:
        note = parse(text := data.with_suffix(".json").read_text())
    except FileNotFoundError:
        if there is None:
            return None  # removed just now
        text, note = "", "its note is missing, so nobody knows where it belongs; its bytes are there"
    except OSError:
        text, note = "", "its note cannot be read, but its bytes are there"
    except ValueError:
        text, note = "", "its note is damaged, but its bytes are there"
    size = there.st_size if there is not None and stat.S_ISREG(there.st_mode) else 0
    if there is None:
        if isinstance(note, Note) and note.state in (State.LOCAL, State.SAVED):
            return Spooled(note, data, 0)  # the process died while it removed both
        problem: str | None = "its bytes are gone from the disk; only their note is left"
    elif not stat.S_ISREG(there.st_mode):
        kind = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link"}.get(stat.S_IFMT(there.st_mode), "a device")
        problem = f"it is {kind} and no file of labfs, which leaves it alone"
    else:
        problem = None
    if isinstance(note, Note):
        return Spooled(note, data, size) if problem is None else Strange(data, size, problem, note.path)
    return Strange(data, size, problem or note, place(text))


def remove(data: Path) -> None:
    """Delete a spool file and its note for good: after the first step both count as removed, even if labfs dies."""
    gone = data.with_suffix(GONE)
    with suppress(FileNotFoundError):
        data.with_suffix(".json").rename(gone)
    try:
        data.unlink(missing_ok=True)
    except OSError:  # e.g. a directory, and no file of ours: restore its note
        with suppress(FileNotFoundError):
            gone.rename(data.with_suffix(".json"))
        raise
    gone.unlink(missing_ok=True)


def finish_removals(directory: Path) -> None:
    """Finish the removals that a process began before it died."""
    for gone in directory.glob(f"*{GONE}"):
        if not gone.with_suffix(".json").exists():
            gone.with_suffix(".data").unlink(missing_ok=True)
        gone.unlink(missing_ok=True)


def reserve(directory: Path) -> None:
    """Reserve disk space for notes, if there is room."""
    with suppress(OSError):
        fd = os.open(directory / RESERVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_size < RESERVED:
                os.posix_fallocate(fd, 0, RESERVED)
        finally:
            os.close(fd)


def _give(reserve: Path) -> bool:
    """Free some of the reserve; False if it was used up already."""
    try:
        size = reserve.stat().st_size
        os.truncate(reserve, max(size - GIVEN, 0))
    except OSError:
        return False
    return size > 0
