"""The journal of the spool: the note beside each file, its states, and what may be sent because of it.

A note is JSON: `format`, and the fields of `Note` that differ from their defaults. A damaged note, or one of a newer
labfs, is reported as a sentence. WINDOWS.md describes what a crash leaves in each state.

Tests: core/test_windows, core/test_crossing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from labfs.backend import Entry, Receipt

FORMAT = 1  # of the notes
NEVER_CLOSED = ("labfs ended before it was closed", "it was still being written when labfs ended")
NEVER_NAMED = "its program did not give it its last name before labfs ended, and may not have finished it"
KILLED = "the program that wrote it was killed, so that it may not be whole"
OVERTAKEN = "the file was saved again since"


class State(StrEnum):
    """How far a save is."""

    LOCAL = "local"  # stays on this machine, and ends with the mount
    DRAFT = "draft"  # closed, and stays here until its program gives it its final name; sent if none comes
    WRITING = "writing"  # a program has the file open; after a crash it is unfinished, even if it was synced
    SENDING = "sending"  # closed, and being uploaded; after a crash the outbox finds out whether the server has it
    WAITING = "waiting"  # to be sent as soon as the server answers
    FAILED = "failed"  # a person decides: refused with a permanent error, unfinished, or overtaken
    SAVED = "saved"  # the server has it; the file is still open
    REPLACING = "replacing"  # a duty and no save: the file `opened` is to be deleted, since `arrived` has replaced it

    def may_become(self, other: State) -> bool:
        """Whether a note in this state may change to `other`."""
        return other is self or other in TRANSITIONS[self]


_OPEN = {State.LOCAL, State.DRAFT, State.WRITING}  # states that a rename or a close decides about
TRANSITIONS: dict[State, set[State]] = {
    State.LOCAL: {State.DRAFT, State.WRITING, State.FAILED},
    State.DRAFT: {State.LOCAL, State.WRITING, State.SENDING, State.WAITING, State.FAILED},
    State.WRITING: {State.LOCAL, State.DRAFT, State.SENDING, State.WAITING, State.FAILED},
    State.SENDING: _OPEN | {State.SAVED, State.WAITING, State.FAILED},
    State.WAITING: _OPEN | {State.SENDING, State.FAILED},
    State.FAILED: _OPEN | {State.SENDING, State.WAITING, State.REPLACING},
    State.SAVED: _OPEN | {State.SENDING},
    State.REPLACING: {State.FAILED},
}
CLOSED = (State.DRAFT, State.SENDING, State.WAITING, State.FAILED, State.SAVED)  # states of saves that were closed


class Identity(NamedTuple):
    """What identifies a version of a file on the server: its id and version, or its size where there is no version."""

    id: str
    version: str | None
    size: int | None

    @classmethod
    def of(cls, entry: Entry) -> Identity:
        return cls(entry.id, entry.version, entry.size if entry.version is None else None)


Over = Identity | tuple[()]  # what a person has agreed to save over: a version, or no file (the empty tuple)
Gap = tuple[int, int]  # `[start, stop)` in bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """A multipart upload that can be resumed: its token, the size of a part in bytes, and the receipts of its parts."""

    token: Any
    step: int
    receipts: tuple[Receipt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Where the bytes of a spool file belong, and the state of their save."""

    site: str
    path: str  # from the mount point
    state: State
    number: int = 0  # the save of a path with the highest number is the latest: clocks can go back
    name: str | None = None  # the name on the server, where it cannot be derived from the path
    size: int | None = None  # in bytes, once the file was closed
    missing: tuple[Gap, ...] = ()  # ranges of the version `opened` that the spool lacks
    opened: Identity | None = None  # the version that the save is begun on
    after: int = 0  # the age of that version; an older file was there before the save
    before: tuple[str, ...] = ()  # ids of other files of that name that were there before the save
    begun: float | None = None  # when its upload began, in seconds since 1970
    died: bool = False  # the mount that had sent it died, or the upload was cancelled
    error: str | None = None  # why it waits or failed
    unfinished: bool = False  # never closed, so that it may be incomplete
    overtaken: bool = False  # a newer save, rename or removal was acknowledged since
    insisted: bool = False  # a person named it for a retry: to be sent in any case, and the latest
    over: Over | None = None  # the only version that the person agreed to save over; None: any
    synced: bool | None = None  # whether all bytes survive a power cut; None: no fsync was requested
    upload: Begun | None = None
    arrived: str | None = None  # of a duty: the id of the file that has replaced the old one
    renamed: bool = False  # … by a rename, not by a save

    def as_changed(self) -> Note:
        """Return the note of a file that is changed: without what was recorded of its close, sync, upload or retry."""
        return replace(
            self,
            synced=False,
            upload=None,
            size=None,
            insisted=False,
            over=None,
            overtaken=False,
        )

    @property
    def is_duty(self) -> bool:
        """Whether a note is a duty to delete a file that another has replaced, and not a save."""
        return self.arrived is not None

    @property
    def is_unfinished(self) -> bool:
        """Whether a save was never closed, and no person insisted on it."""
        if self.insisted:
            return False
        return self.unfinished or (self.state is State.FAILED and self.error in NEVER_CLOSED)

    @property
    def is_overtaken(self) -> bool:
        """Whether a newer save, rename or removal was acknowledged since, and no person insisted on this save."""
        return self.overtaken and not self.insisted

    @property
    def shown(self) -> State:
        """The state shown for a save that no program has open: WAITING for its server, or FAILED, for a person."""
        goes = self.state in (State.WAITING, State.SENDING, State.REPLACING)
        return State.WAITING if goes else State.FAILED

    @property
    def is_lasting(self) -> bool:
        """Whether a note must survive a power cut, or replaces one that must."""
        return self.synced is not None or self.error is not None


class Changes(TypedDict, total=False):
    """Changes to a note: new values of some of its fields."""

    path: str
    state: State
    number: int
    name: str | None
    size: int | None
    missing: tuple[Gap, ...]
    opened: Identity | None
    after: int
    before: tuple[str, ...]
    begun: float | None
    died: bool
    error: str | None
    unfinished: bool
    overtaken: bool
    insisted: bool
    over: Over | None
    synced: bool | None
    upload: Begun | None
    arrived: str | None
    renamed: bool


@dataclass(frozen=True, slots=True)
class Spooled:
    """A save or a duty in a spool directory: its note, its file, and the file's size in bytes."""

    note: Note
    file: Path
    bytes: int

    def report(self) -> dict[str, Any]:
        """Return the save or duty as JSON, for another process."""
        return {**as_json(self.note), "file": str(self.file), "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Strange:
    """A file in a spool directory that labfs cannot interpret, and leaves alone."""

    file: Path
    bytes: int
    problem: str  # as a sentence
    path: str | None = None  # where it belongs, if known

    def report(self) -> dict[str, Any]:
        where = {} if self.path is None else {"path": self.path}
        return {**where, "file": str(self.file), "state": "failed", "error": self.problem, "bytes": self.bytes}


Leftover = Spooled | Strange


def heard(told: dict[str, Any]) -> Leftover:
    """Return the leftover that another process sent as JSON: the inverse of `report`."""
    file, size = Path(told["file"]), int(told["bytes"])
    if "site" not in told:
        return Strange(file, size, str(told["error"]), told.get("path"))
    return Spooled(_note({key: value for key, value in told.items() if key not in ("file", "bytes")}), file, size)


def saves(leftovers: Iterable[Leftover]) -> list[Spooled]:
    """Return the saves and duties, without strange files."""
    return [left for left in leftovers if isinstance(left, Spooled)]


def unasked(leftovers: Iterable[Leftover], *states: State) -> list[Spooled]:
    """Return the saves in one of `states` that may be sent although nobody names them; the oldest come first.

    The one rule for this: a save may be sent unasked iff it was closed, so that it is complete; no save, rename or
    removal of its path was acknowledged since, by this mount or an earlier one; and it is the latest of its path.
    All others wait for a person to name them.
    """
    latest: dict[str, Spooled] = {}
    for kept in saves(leftovers):
        note = kept.note
        if note.state in CLOSED and not (note.is_duty or note.is_unfinished or note.is_overtaken):
            latest[note.path] = kept
    return [kept for kept in latest.values() if kept.note.state in states]


def as_json(note: Note) -> dict[str, Any]:
    """Return a note as JSON: the fields that differ from their defaults."""
    found: dict[str, Any] = {"format": FORMAT}
    for field in fields(Note):
        value = getattr(note, field.name)
        if value != field.default or (field.name == "synced" and value is False):
            found[field.name] = value
    if note.upload is not None:
        begun = note.upload
        receipts = [[receipt.number, receipt.tag, receipt.size] for receipt in begun.receipts]
        found["upload"] = {"token": begun.token, "step": begun.step, "receipts": receipts}
    return found


def parse(text: str) -> Note | str:
    """Return the note in `text`, or a sentence about why it cannot be used."""
    try:
        told = json.loads(text)
        written = told.get("format", FORMAT) if isinstance(told, dict) else None
        if isinstance(written, int) and written > FORMAT:
            return f"a newer labfs wrote its note (format {written}): use that one, or export the bytes"
        if isinstance(written, int):
            return _note(told)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return "its note is damaged, but its bytes are there"


def place(text: str) -> str | None:
    """Return the path in a note that cannot be used; None if it has none."""
    try:
        return _text(json.loads(text)["path"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _note(told: dict[str, Any]) -> Note:
    """Return a note from its JSON. Raises ValueError, TypeError or KeyError if the JSON is not a note's."""
    note = Note(
        site=_text(told["site"]),
        path=_text(told["path"]),
        state=State(told["state"]),
        number=_count(told.get("number")),
        name=_text_or_none(told.get("name")),
        size=None if told.get("size") is None else _count(told["size"]),
        missing=tuple(map(_gap, told.get("missing") or ())),
        opened=_identity(told.get("opened")),
        after=_count(told.get("after")),
        before=tuple(map(str, told.get("before") or ())),
        begun=None if told.get("begun") is None else float(told["begun"]),
        died=bool(told.get("died")),
        error=_text_or_none(told.get("error")),
        unfinished=bool(told.get("unfinished")),
        overtaken=bool(told.get("overtaken")),
        insisted=bool(told.get("insisted")),
        over=seen_version(told.get("over")),
        synced=None if told.get("synced") is None else bool(told["synced"]),
        upload=_begun(told.get("upload")),
        arrived=_text_or_none(told.get("arrived")),
        renamed=bool(told.get("renamed")),
    )
    if (note.is_duty or note.state is State.REPLACING) and (note.arrived is None or note.opened is None):
        raise ValueError("a duty without its files")
    return note


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _text_or_none(value: Any) -> str | None:
    return None if value is None else _text(value)


def _count(value: Any) -> int:
    if not isinstance(value or 0, int) or (value or 0) < 0:
        raise ValueError(value)
    return int(value or 0)


def _gap(pair: Any) -> Gap:
    start, stop = map(_count, pair)
    if start > stop:
        raise ValueError(pair)
    return start, stop


def _identity(value: Any) -> Identity | None:
    if not isinstance(value, list | tuple | None):
        raise TypeError(value)
    return Identity(*[*value, None, None][:3]) if value else None


def seen_version(value: Any) -> Over | None:
    """Return, from JSON, the version that a save may go over. Raises TypeError."""
    return None if value is None else _identity(value) or ()


def _begun(told: Any) -> Begun | None:
    """Return the upload to resume; None for a damaged record: a new upload is begun then. Raises TypeError."""
    if not isinstance(told, dict | None):
        raise TypeError(told)
    try:
        return Begun(told["token"], int(told["step"]), tuple(Receipt(*r) for r in told["receipts"])) if told else None
    except (KeyError, TypeError, ValueError):
        return None
