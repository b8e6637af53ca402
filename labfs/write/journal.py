"""The journal of the spool: one note beside each file, and what is made of a directory of them.

Each note is replaced as a whole, so every step is made or not made, and there is no database whose one bad page
could cost the other saves. A reserve on the disk lets notes be written when it is full. What labfs did not write,
or a newer one did, is told in a sentence and left alone.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from labfs.errors import FULL

FORMAT = 1  # of the notes
STATES = ("local", "draft", "writing", "sending", "replacing", "waiting", "failed", "saved")
CLOSED = ("draft", "sending", "waiting", "failed", "saved")  # states of saves that were closed
NEVER_CLOSED = ("labfs ended before it was closed", "it was still being written when labfs ended")
NEVER_NAMED = "its program did not give it its last name before labfs ended, and may not have finished it"
KILLED = "the program that wrote it was killed, so that it may not be whole"
OVERTAKEN = "the file was saved again since"
GONE = ".gone"  # of a note whose file is being removed: from then on neither is there
RESERVE = "reserve"  # a file without use but its size
RESERVED = 256 * 1024  # bytes for notes on a disk that is full
GIVEN = 16 * 1024  # bytes of them at a time
LASTING = {"synced", "error"}  # only in notes that were made to survive a power cut: what replaces them must as well


def remove(data: Path) -> None:
    """Delete a spool file and its note, for good: with the first step both are gone, whenever labfs dies."""
    gone = data.with_suffix(GONE)
    with suppress(FileNotFoundError):
        data.with_suffix(".json").rename(gone)
    try:
        data.unlink(missing_ok=True)
    except OSError:  # no file of ours: its note must go on saying so
        with suppress(FileNotFoundError):
            gone.rename(data.with_suffix(".json"))
        raise
    gone.unlink(missing_ok=True)


def finish_removals(directory: Path) -> None:
    """Delete what a process that died was about to delete."""
    for gone in directory.glob(f"*{GONE}"):
        if not gone.with_suffix(".json").exists():
            gone.with_suffix(".data").unlink(missing_ok=True)
        gone.unlink(missing_ok=True)


def write_note(path: Path, note: dict[str, Any]) -> None:
    """Replace a note as a whole; where the disk is full, in the room that was reserved for it."""
    while True:
        try:
            return _replace(path, note)
        except OSError as error:
            if error.errno not in FULL or not _give(path.parent / RESERVE):
                raise


def _replace(path: Path, note: dict[str, Any]) -> None:
    partial = path.with_suffix(".part")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(note, file)
            if note.keys() & LASTING:
                file.flush()
                os.fsync(file.fileno())
        partial.rename(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def reserve(directory: Path) -> None:
    """Keep some of the disk for notes, as far as it has room."""
    with suppress(OSError):
        fd = os.open(directory / RESERVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(fd).st_size < RESERVED:
                os.posix_fallocate(fd, 0, RESERVED)
        finally:
            os.close(fd)


def _give(reserve: Path) -> bool:
    """Free some of the reserve; False if nothing is left of it."""
    try:
        size = reserve.stat().st_size
        os.truncate(reserve, max(size - GIVEN, 0))
    except OSError:
        return False
    return size > 0


def known(note: dict[str, Any]) -> bool:
    """Whether a leftover is a save that labfs understands and has the bytes of."""
    return "site" in note


def unfinished(note: dict[str, Any]) -> bool:
    """Whether a save was never closed, so that nobody knows whether it is whole; one that is insisted on is meant."""
    if note.get("insisted"):
        return False
    return bool(note.get("unfinished")) or (note["state"] == "failed" and note.get("error") in NEVER_CLOSED)


def overtaken(note: dict[str, Any]) -> bool:
    """Whether something newer was acknowledged since a save; one that is insisted on is the newest."""
    return bool(note.get("overtaken")) and not note.get("insisted")


def unasked(notes: Iterable[dict[str, Any]], *states: str) -> list[dict[str, Any]]:
    """Return the saves in one of `states` that may be sent although nobody names them; `notes` are oldest first.

    This is the one rule for that. A save may be sent unasked iff it was closed, so that it is whole; nothing
    overtook it that was acknowledged since, be it a save, a rename or a removal, here or by an earlier mount;
    and it is the latest of its path. All others wait for a person to name them.
    """
    latest: dict[str, dict[str, Any]] = {}
    for note in notes:
        closed = known(note) and note["state"] in CLOSED and not is_duty(note)
        if closed and not unfinished(note) and not overtaken(note):
            latest[note["path"]] = note
    return [note for note in latest.values() if note["state"] in states]


def is_duty(note: dict[str, Any]) -> bool:
    """Whether a note tells of a file that is still to be deleted, since another has its place, and of no save."""
    return "arrived" in note


def leftovers(directory: Path) -> list[dict[str, Any]]:
    """Return the notes of all files in a spool directory, with `file` and `bytes`, oldest first.

    Of what nobody understands there is a sentence in `error`, and no `site`.
    """
    stems = {path.stem for kind in ("*.data", "*.json") for path in directory.glob(kind)}
    found = []
    for stem in stems - {path.stem for path in directory.glob(f"*{GONE}")}:
        data = directory / f"{stem}.data"
        try:
            there = data.lstat()
        except OSError:
            there = None
        note = _leftover(data, there)
        if note is not None:
            found.append((note.get("number") or 0, there.st_mtime_ns if there else 0, stem, note))
    return [note for *_, note in sorted(found, key=lambda item: item[:3])]


def _leftover(data: Path, there: os.stat_result | None) -> dict[str, Any] | None:
    note: dict[str, Any] = {}
    try:
        note = json.loads(data.with_suffix(".json").read_text())
        reason = _objection(note)
    except FileNotFoundError:
        if there is None:
            return None  # removed just now
        reason = "its note is missing, so nobody knows where it belongs; its bytes are there"
    except (OSError, ValueError, RecursionError) as error:
        unread = isinstance(error, OSError)
        reason = f"its note {'cannot be read' if unread else 'is damaged'}, but its bytes are there"
    if there is None:
        over = reason is None and note["state"] in ("local", "saved")  # it died while it removed both
        reason = None if over else "its bytes are gone from the disk; only their note is left"
    elif not stat.S_ISREG(there.st_mode):
        kind = {stat.S_IFDIR: "a directory", stat.S_IFLNK: "a link"}.get(stat.S_IFMT(there.st_mode), "a device")
        reason = f"it is {kind} and no file of labfs, which leaves it alone"
    size = there.st_size if there is not None and stat.S_ISREG(there.st_mode) else 0
    if reason is None:
        return {**note, "file": str(data), "bytes": size}
    where = {"path": note["path"]} if isinstance(note, dict) and isinstance(note.get("path"), str) else {}
    return {**where, "file": str(data), "state": "failed", "error": reason, "bytes": size}


def _objection(note: Any) -> str | None:
    """Return why a note cannot be followed, as a sentence."""
    written = note.get("format", FORMAT) if isinstance(note, dict) else None
    if isinstance(written, int) and written > FORMAT:
        return f"a newer labfs wrote its note (format {written}): use that one, or export the bytes"
    if not isinstance(written, int) or not _sound(note):
        return "its note is damaged, but its bytes are there"
    return None


def _sound(note: dict[str, Any]) -> bool:
    """Whether a note holds what it must, and what it may hold is of the right kind."""
    texts = all(isinstance(note.get(key), str) for key in ("state", "site", "path")) and note["state"] in STATES
    counts = [note.get(key) or 0 for key in ("size", "after", "number")]
    numbers = all(isinstance(count, int) and count >= 0 for count in counts)
    missing = note.get("missing", [])
    pairs = isinstance(missing, list) and all(_is_range(pair) for pair in missing)
    rest = isinstance(note.get("upload"), dict | None) and isinstance(note.get("opened"), list | None)
    words = all(isinstance(note.get(key, ""), str) for key in ("error", "arrived", "name"))
    known_ids = isinstance(note.get("before", []), list)
    duty = not (is_duty(note) or note["state"] == "replacing") or bool(note.get("arrived") and note.get("opened"))
    return texts and numbers and pairs and rest and words and known_ids and duty


def _is_range(pair: Any) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(number, int) for number in pair)
        and 0 <= pair[0] <= pair[1]
    )
