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
from labfs.write.journal import OVERTAKEN, Changes, Identity, Note, Spooled, State, saves, unasked
from labfs.write.spool import Spool, SpoolFile

log = logging.getLogger(__name__)

LEFT = (State.WAITING, State.FAILED, State.REPLACING)  # states of what is left to do, for labfs or a person
DYING_S = 10.0  # for which a server may be at work on a request whose sender was killed


class BegunOn(TypedDict):
    opened: Identity | None
    after: int


@dataclass
class Owed:
    """A note that could not be written: `keep` does it, with the `news` for it."""

    spool: SpoolFile
    path: str
    keep: Callable[..., None]
    news: Changes

    def told(self) -> Spooled:
        """Return the save as its note should read."""
        return Spooled(replace(self.spool.note, **self.news), self.spool.path, self.spool.size)


class Waiting:
    """Tells who tends them what there is, and ends those that a newer save has overtaken."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._kept: list[Spooled] | None = None
        self.news = trio.Event()
        self._owed: list[Owed] = []

    def forget(self) -> None:
        """Have the spool looked at anew."""
        self._kept = None

    def changed(self) -> None:
        """Have the spool looked at anew, and whoever waits for news go on."""
        self.forget()
        self.news.set()
        self.news = trio.Event()

    def kept(self) -> list[Spooled]:
        """Return all saves that wait or failed, and duties, the oldest first."""
        if self._kept is None:
            self._kept = [kept for kept in saves(self._spool.leftovers()) if kept.note.state in LEFT]
        return self._kept

    def due(self, site: str) -> list[Spooled]:
        """Return the saves to a site that are sent without being asked for; what is owed a note may be newer."""
        owed = {kept.file: kept for kept in self.owed()}
        found = {**{kept.file: kept for kept in self.kept()}, **owed}
        in_order: list[Spooled] = sorted(found.values(), key=lambda kept: kept.note.number)
        latest = unasked(in_order, State.WAITING)
        return [kept for kept in latest if kept.note.site == site and kept.file not in owed]

    def duties(self, site: str, path: str | None = None) -> list[Spooled]:
        """Return what tells of files of a site, or of one path there, that are still to be deleted."""
        there = [kept for kept in self.kept() if kept.note.state is State.REPLACING and kept.note.site == site]
        return [kept for kept in there if path in (None, kept.note.path)]

    def strays(self, site: str) -> list[Spooled]:
        """Return the saves to a site that were overtaken after some of them may have arrived there."""
        there = [kept for kept in self.kept() if kept.note.site == site]
        return [kept for kept in there if kept.note.is_overtaken and kept.note.begun]

    def of(self, path: str) -> Note | None:
        """Return the note of a save of this path that is to be sent."""
        waiting = [kept.note for kept in self.kept() if kept.note.path == path and kept.note.state is State.WAITING]
        return waiting[-1] if waiting else None

    def under_way_s(self, path: str) -> float:
        """Return how long, in seconds, a save of this path by an earlier mount may still land on the server."""
        try:
            return max((under_way_s(kept) for kept in self.kept() if kept.note.path == path), default=0.0)
        except OSError as error:  # no reason not to save
            log.error("The outbox cannot be read: %s", error)
            return 0.0

    def owe(self, spool: SpoolFile, path: str, keep: Callable[..., None], news: Changes) -> None:
        """Have a note that the disk refused written later."""
        self._owed.append(Owed(spool, path, keep, news))

    def owed(self) -> list[Spooled]:
        """Return what the disk refused a note, as that should read."""
        return [owed.told() for owed in self._owed if owed.spool.path.exists()]

    def settle(self) -> bool:
        """Write the notes that the disk refused; false if it still refuses one."""
        while self._owed:
            owed = self._owed[0]
            try:
                if owed.spool.path.exists():  # else it was discarded by name
                    owed.keep(**owed.news)
                    owed.spool.close()
            except OSError as error:
                log.info("The note of %s still cannot be written: %s", owed.spool.path, error)
                return False
            del self._owed[0]
            self._kept = None
        return True

    def supersede(self, path: str, by: Path | None, reason: str = OVERTAKEN) -> None:
        """Keep earlier saves of a file from being sent over the one that was saved now, or what else was done."""
        for owed in self._owed:
            if owed.path == path and owed.spool.path != by:
                owed.news = {**owed.news, "state": State.FAILED, "error": reason, "overtaken": True}
        try:
            earlier = [kept for kept in self.kept() if kept.note.path == path and kept.file != by]
        except OSError as error:  # what was done is done all the same
            log.error("The outbox cannot be read: %s", error)
            return
        for kept in earlier:
            note = kept.note
            if not (note.is_duty or note.is_unfinished or note.is_overtaken):
                self._overtake(kept, reason)

    def _overtake(self, kept: Spooled, reason: str) -> None:
        if kept.note.state is State.FAILED and kept.note.error is not None:
            reason = kept.note.error
        news: Changes = {"state": State.FAILED, "overtaken": True, "insisted": False, "error": reason}
        try:
            self._spool.mark(kept, **news)
            self.forget()
        except OSError as error:
            log.error("The note of %s cannot be written: %s", kept.file, error)
            self.owe(self._spool.reopen(kept), kept.note.path, partial(self._spool.mark, kept), news)


def under_way_s(kept: Spooled) -> float:
    """Return how long, in seconds, a request may still be carried out that an earlier mount sent before it died."""
    age_s = time.time() - (kept.note.begun or 0.0)
    return DYING_S - age_s if kept.note.died and 0 <= age_s < DYING_S else 0.0


def begun_on(entry: Entry | None) -> BegunOn:
    """Return what a note says of the version that a save is begun on."""
    if entry is None:
        return {"opened": None, "after": 0}
    return {"opened": Identity.of(entry), "after": entry.age}
