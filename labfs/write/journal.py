"""The journal of the spool: the note beside each file, its states, and what may be sent because of it.

A note is JSON: `format`, and the fields of `Note` that are not as usual. What a newer labfs wrote, or what is none, is
told in a sentence. WINDOWS.md tells what a crash leaves of each state.

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
    DRAFT = "draft"  # closed, and stays here until its program gives it its last name; sent if none comes
    WRITING = "writing"  # a program has it open; after a crash it is unfinished, also what was synced of it
    SENDING = "sending"  # closed, and on its way; whether the server has it is found out after a crash
    WAITING = "waiting"  # to be sent as soon as the server answers
    FAILED = "failed"  # a person decides: refused for a reason that waiting does not mend, unfinished, or overtaken
    SAVED = "saved"  # the server has it; the file is still open
    REPLACING = "replacing"  # a duty and no save: the file `opened` is to be deleted, now that `arrived` has its place

    def may_become(self, other: State) -> bool:
        """Whether a note in this state may be replaced by one in another."""
        return other is self or other in TRANSITIONS[self]


_OPEN = {State.LOCAL, State.DRAFT, State.WRITING}  # what a name and a close decide about
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
CLOSED = (State.DRAFT, State.SENDING, State.WAITING, State.FAILED, State.SAVED)  # of saves that were closed


class Identity(NamedTuple):
    """What tells, later, whether the server still has these bytes: by the size where there is no version."""

    id: str
    version: str | None
    size: int | None

    @classmethod
    def of(cls, entry: Entry) -> Identity:
        return cls(entry.id, entry.version, entry.size if entry.version is None else None)


Over = Identity | tuple[()]  # what a save goes over that a person has seen: a version, or nothing
Gap = tuple[int, int]  # `[start, stop)` in bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """A multipart upload that can be gone on with: its token, the size of a part in bytes, and what is there."""

    token: Any
    step: int
    receipts: tuple[Receipt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Where the bytes of a spool file belong, and what became of them."""

    site: str
    path: str  # from the mount point
    state: State
    number: int = 0  # of several saves of a path the one with the highest is the latest: clocks go back
    name: str | None = None  # the server's, where the path does not tell it
    size: int | None = None  # in bytes, once it was closed
    missing: tuple[Gap, ...] = ()  # what the spool lacks of the version that the save is begun on
    opened: Identity | None = None  # that version
    after: int = 0  # the age of that version; what is older was there before
    before: tuple[str, ...] = ()  # ids of other files of that name that were there before
    begun: float | None = None  # when it was sent, in seconds since 1970
    died: bool = False  # the mount died that had sent it
    error: str | None = None  # why it waits or failed
    unfinished: bool = False  # never closed, so that nobody knows whether it is whole
    overtaken: bool = False  # something newer was acknowledged since
    insisted: bool = False  # a person named it: it is meant, and the latest
    over: Over | None = None  # and saw that version; None: over whatever is there
    synced: bool | None = None  # whether all of it survives a power cut; None: nobody asked for that
    upload: Begun | None = None
    arrived: str | None = None  # of a duty: the id of what has the place now
    renamed: bool = False  # … by a rename, not by a save

    def as_changed(self) -> Note:
        """Return the note of bytes that are no longer those that were closed, synced, sent or decided about."""
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
        """Whether a note tells of a file that is still to be deleted, since another has its place, and of no save."""
        return self.arrived is not None

    @property
    def is_unfinished(self) -> bool:
        """Whether a save was never closed; one that is insisted on is meant."""
        if self.insisted:
            return False
        return self.unfinished or (self.state is State.FAILED and self.error in NEVER_CLOSED)

    @property
    def is_overtaken(self) -> bool:
        """Whether something newer was acknowledged since a save; one that is insisted on is the newest."""
        return self.overtaken and not self.insisted

    @property
    def shown(self) -> State:
        """What people are told of a save that is no living program's: it waits for its server, or for them."""
        goes = self.state in (State.WAITING, State.SENDING, State.REPLACING)
        return State.WAITING if goes else State.FAILED

    @property
    def is_lasting(self) -> bool:
        """Whether a note was made to survive a power cut, or replaces one that was."""
        return self.synced is not None or self.error is not None


class Changes(TypedDict, total=False):
    """What changes in a note: some of its fields."""

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
    """A save or a duty in a spool directory: its note, its file, and the bytes that are there."""

    note: Note
    file: Path
    bytes: int

    def report(self) -> dict[str, Any]:
        """Return what is told of it elsewhere, as JSON."""
        return {**as_json(self.note), "file": str(self.file), "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class Strange:
    """A file in a spool directory that labfs cannot make sense of, and leaves alone."""

    file: Path
    bytes: int
    problem: str  # as a sentence
    path: str | None = None  # where it belongs, if that much is known

    def report(self) -> dict[str, Any]:
        where = {} if self.path is None else {"path": self.path}
        return {**where, "file": str(self.file), "state": "failed", "error": self.problem, "bytes": self.bytes}


Leftover = Spooled | Strange


def heard(told: dict[str, Any]) -> Leftover:
    """Return what another process has told."""
    file, size = Path(told["file"]), int(told["bytes"])
    if "site" not in told:
        return Strange(file, size, str(told["error"]), told.get("path"))
    return Spooled(_note({key: value for key, value in told.items() if key not in ("file", "bytes")}), file, size)


def saves(leftovers: Iterable[Leftover]) -> list[Spooled]:
    """Return those that labfs understands."""
    return [left for left in leftovers if isinstance(left, Spooled)]


def unasked(leftovers: Iterable[Leftover], *states: State) -> list[Spooled]:
    """Return the saves in one of `states` that may be sent although nobody names them; the oldest come first.

    This is the one rule for that. A save may be sent unasked iff it was closed, so that it is whole; nothing
    overtook it that was acknowledged since, be it a save, a rename or a removal, here or by an earlier mount;
    and it is the latest of its path. All others wait for a person to name them.
    """
    latest: dict[str, Spooled] = {}
    for kept in saves(leftovers):
        note = kept.note
        if note.state in CLOSED and not (note.is_duty or note.is_unfinished or note.is_overtaken):
            latest[note.path] = kept
    return [kept for kept in latest.values() if kept.note.state in states]


def as_json(note: Note) -> dict[str, Any]:
    """Return a note as JSON: what of it is not as usual."""
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
    """Return a note, or what is wrong with it as a sentence."""
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
    """Return where a file belongs by a note that cannot be followed."""
    try:
        return _text(json.loads(text)["path"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _note(told: dict[str, Any]) -> Note:
    """Return a note from its JSON. Raises ValueError, TypeError or KeyError for what is none."""
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
    """Return, from JSON, what a save goes over. Raises TypeError."""
    return None if value is None else _identity(value) or ()


def _begun(told: Any) -> Begun | None:
    """Return an upload to go on with; None for one that cannot be: another is begun then."""
    if not isinstance(told, dict | None):
        raise TypeError(told)
    try:
        return Begun(told["token"], int(told["step"]), tuple(Receipt(*r) for r in told["receipts"])) if told else None
    except (KeyError, TypeError, ValueError):
        return None
