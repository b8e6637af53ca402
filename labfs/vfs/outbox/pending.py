"""The saves in the spool that wait for their server or for a person, known by path.

Tests: core/test_outbox, core/test_crossing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypedDict

import trio

from labfs.backend import Entry
from labfs.errors import NotFound
from labfs.write.journal import OVERTAKEN, Changes, Identity, Note, Spooled, State, saves, unasked
from labfs.write.spool import Spool, SpoolFile

log = logging.getLogger(__name__)

LEFT = (State.WAITING, State.FAILED, State.REPLACING)  # states of what is left to do, for labfs or a person
HELD = "it was cancelled before it was sent"
DYING_S = 10.0  # for which a server may be at work on a request whose sender was killed


class BegunOn(TypedDict):
    opened: Identity | None
    after: int


@dataclass
class Owed:
    """A note that could not be written: `persist` does it, with the `news` for it."""

    spool: SpoolFile
    path: str
    persist: Callable[..., None]
    news: Changes

    def intended(self) -> Spooled:
        """Return the save as its note should read."""
        return Spooled(replace(self.spool.note, **self.news), self.spool.path, self.spool.size)


class Waiting:
    """Tells who tends them what there is, and ends those that a newer save has overtaken."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._found: list[Spooled] | None = None
        self.news = trio.Event()
        self._owed: list[Owed] = []

    def forget(self) -> None:
        """Drop the cached list of the spool's files."""
        self._found = None

    def changed(self) -> None:
        """Drop the cached list of the spool's files, and wake the task that waits for changes."""
        self.forget()
        self.news.set()
        self.news = trio.Event()

    def leftovers(self) -> list[Spooled]:
        """Return all saves that wait or failed, and duties, the oldest first."""
        if self._found is None:
            self._found = [left for left in saves(self._spool.leftovers()) if left.note.state in LEFT]
        return self._found

    def due(self, site: str) -> list[Spooled]:
        """Return the saves to a site that are sent without being asked for; what is owed a note may be newer."""
        owed = {left.file: left for left in self.owed()}
        found = {**{left.file: left for left in self.leftovers()}, **owed}
        in_order: list[Spooled] = sorted(found.values(), key=lambda left: left.note.number)
        latest = unasked(in_order, State.WAITING)
        return [left for left in latest if left.note.site == site and left.file not in owed]

    def duties(self, site: str, path: str | None = None) -> list[Spooled]:
        """Return what tells of files of a site, or of one path there, that are still to be deleted."""
        there = [left for left in self.leftovers() if left.note.state is State.REPLACING and left.note.site == site]
        return [left for left in there if path in (None, left.note.path)]

    def strays(self, site: str) -> list[Spooled]:
        """Return the saves to a site that were overtaken after some of them may have arrived there."""
        there = [left for left in self.leftovers() if left.note.site == site]
        return [left for left in there if left.note.is_overtaken and left.note.begun]

    def unfinished(self, site: str) -> list[Spooled]:
        """Return the saves to a site that were never closed, and of which an upload had begun."""
        there = [left for left in self.leftovers() if left.note.site == site]
        return [left for left in there if left.note.is_unfinished and left.note.upload is not None]

    def of(self, path: str) -> Note | None:
        """Return the note of a save of this path that is to be sent; one that was sent has no file any more."""
        mine = [left for left in self.leftovers() if left.note.path == path and left.note.state is State.WAITING]
        waiting = [left.note for left in mine if left.file.exists()]
        return waiting[-1] if waiting else None

    def under_way_s(self, path: str) -> float:
        """Return how long, in seconds, a save of this path by an earlier mount may still land on the server."""
        try:
            return max((under_way_s(left) for left in self.leftovers() if left.note.path == path), default=0.0)
        except OSError as error:  # no reason not to save
            log.error("The outbox cannot be read: %s", error)
            return 0.0

    def hold(self, what: str) -> str:
        """Have a waiting save, by path or name, no longer sent by itself; return its path. Raises NotFound."""
        for left in self.leftovers():
            if what in (left.note.path, left.file.stem) and left.note.state is State.WAITING:
                self._spool.mark(left, state=State.FAILED, error=HELD, insisted=False)
                self.changed()
                return left.note.path
        raise NotFound(f"No upload of “{what}” is under way or waits; see: labfs outbox list")

    def owe(self, spool: SpoolFile, path: str, persist: Callable[..., None], news: Changes) -> None:
        """Queue a note that the disk refused, to be written later."""
        self._owed.append(Owed(spool, path, persist, news))

    def owed(self) -> list[Spooled]:
        """Return what the disk refused a note, as that should read."""
        return [owed.intended() for owed in self._owed if owed.spool.path.exists()]

    def flush(self) -> bool:
        """Write the notes that the disk refused; false if it still refuses one."""
        while self._owed:
            owed = self._owed[0]
            try:
                if owed.spool.path.exists():  # else it was discarded by name
                    owed.persist(**owed.news)
                    owed.spool.close()
            except OSError as error:
                log.info("The note of %s still cannot be written: %s", owed.spool.path, error)
                return False
            del self._owed[0]
            self._found = None
        return True

    def supersede(self, path: str, by: Path | None, reason: str = OVERTAKEN) -> None:
        """Keep earlier saves of a file from being sent over the one that was saved now, or what else was done."""
        for owed in self._owed:
            if owed.path == path and owed.spool.path != by:
                owed.news = {**owed.news, "state": State.FAILED, "error": reason, "overtaken": True}
        try:
            earlier = [left for left in self.leftovers() if left.note.path == path and left.file != by]
        except OSError as error:  # what was done is done all the same
            log.error("The outbox cannot be read: %s", error)
            return
        for left in earlier:
            note = left.note
            if not (note.is_duty or note.is_unfinished or note.is_overtaken):
                self._overtake(left, reason)

    def _overtake(self, left: Spooled, reason: str) -> None:
        if left.note.state is State.FAILED and left.note.error is not None:
            reason = left.note.error
        news: Changes = {"state": State.FAILED, "overtaken": True, "insisted": False, "error": reason}
        try:
            self._spool.mark(left, **news)
            self.forget()
        except OSError as error:
            log.error("The note of %s cannot be written: %s", left.file, error)
            self.owe(self._spool.reopen(left), left.note.path, partial(self._spool.mark, left), news)


def under_way_s(left: Spooled) -> float:
    """Return how long, in seconds, a request may still be carried out that an earlier mount sent before it died."""
    age_s = time.time() - (left.note.begun or 0.0)
    return DYING_S - age_s if left.note.died and 0 <= age_s < DYING_S else 0.0


def begun_on(entry: Entry | None) -> BegunOn:
    """Return what a note says of the version that a save is begun on."""
    if entry is None:
        return {"opened": None, "after": 0}
    return {"opened": Identity.of(entry), "after": entry.age}


def was_there(entry: Entry, note: Note) -> bool:
    """Whether an entry is older than a save; a save that restores an older version's bytes counts as a save."""
    if entry.age < note.after or entry.id in note.before:
        return True
    return note.opened == Identity.of(entry) and entry.version is not None


def described(entry: Entry, *, begun: bool) -> str:
    """Describe a version for a person: its size in bytes, its date, and whether the save was begun on it."""
    size = "a size that nobody tells" if entry.size is None else f"{entry.size:,} bytes"
    date = (
        ""
        if entry.modified_ns is None
        else time.strftime(" of %Y-%m-%d %H:%M:%S", time.localtime(entry.modified_ns / 1e9))
    )
    told = "it was begun on" if begun else "somebody saved since it was begun"
    return f"{size}{date}, the version that {told}"
