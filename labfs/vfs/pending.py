"""The saves in the spool that wait for their server or for a person, known by path."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from labfs.backend import Entry
from labfs.write.journal import OVERTAKEN, is_duty, known, overtaken, unasked, unfinished
from labfs.write.spool import Spool, SpoolFile

log = logging.getLogger(__name__)

Note = dict[str, Any]

DYING_S = 10.0  # for which a server may be at work on a request whose sender was killed


@dataclass
class Owed:
    """A note that could not be written: `keep` does it, with the `news` for it."""

    spool: SpoolFile
    path: str
    keep: Callable[..., None]
    news: Note


class Waiting:
    """Tells who tends them what there is, and ends those that a newer save has overtaken."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._notes: list[Note] | None = None
        self.news = trio.Event()
        self._owed: list[Owed] = []

    def forget(self) -> None:
        """Have the spool looked at anew."""
        self._notes = None

    def changed(self) -> None:
        """Have the spool looked at anew, and whoever waits for news go on."""
        self.forget()
        self.news.set()
        self.news = trio.Event()

    def notes(self) -> list[Note]:
        """Return the notes of all saves that wait or failed, and of duties, oldest first."""
        if self._notes is None:
            found = self._spool.leftovers()
            self._notes = [
                note for note in found if known(note) and note["state"] in ("waiting", "failed", "replacing")
            ]
        return self._notes

    def due(self, site: str) -> list[Note]:
        """Return the saves to a site that are sent without being asked for; what is owed a note may be newer."""
        owed = {note["file"]: note for note in self.owed()}
        notes = {**{note["file"]: note for note in self.notes()}, **owed}
        latest = unasked(sorted(notes.values(), key=lambda note: note.get("number") or 0), "waiting")
        return [note for note in latest if note["site"] == site and note["file"] not in owed]

    def duties(self, site: str, path: str | None = None) -> list[Note]:
        """Return what tells of files of a site, or of one path there, that are still to be deleted."""
        there = [note for note in self.notes() if note["state"] == "replacing" and note["site"] == site]
        return [note for note in there if path in (None, note["path"])]

    def strays(self, site: str) -> list[Note]:
        """Return the saves to a site that were overtaken after some of them may have arrived there."""
        return [note for note in self.notes() if note["site"] == site and overtaken(note) and note.get("begun")]

    def waits(self, path: str) -> bool:
        """Whether a save of this path is to be sent."""
        return any(note["path"] == path and note["state"] == "waiting" for note in self.notes())

    def under_way_s(self, path: str) -> float:
        """Return how long, in seconds, a save of this path by an earlier mount may still land on the server."""
        try:
            return max((under_way_s(note) for note in self.notes() if note["path"] == path), default=0.0)
        except OSError as error:  # no reason not to save
            log.error("The outbox cannot be read: %s", error)
            return 0.0

    def owe(self, spool: SpoolFile, path: str, keep: Callable[..., None], news: Note) -> None:
        """Have a note that the disk refused written later."""
        self._owed.append(Owed(spool, path, keep, news))

    def owed(self) -> list[Note]:
        """Return the notes that the disk refused, as they should read."""
        return [
            {**owed.spool.note, **owed.news, "file": str(owed.spool.path), "bytes": owed.spool.size}
            for owed in self._owed
            if owed.spool.path.exists()
        ]

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
            self._notes = None
        return True

    def supersede(self, path: str, by: Path | None, reason: str = OVERTAKEN) -> None:
        """Keep earlier saves of a file from being sent over the one that was saved now, or what else was done."""
        for owed in self._owed:
            if owed.path == path and owed.spool.path != by:
                owed.news = {**owed.news, "state": "failed", "error": reason, "overtaken": True}
        try:
            earlier = [note for note in self.notes() if note["path"] == path and note["file"] != str(by)]
        except OSError as error:  # what was done is done all the same
            log.error("The outbox cannot be read: %s", error)
            return
        for note in earlier:
            if not (is_duty(note) or unfinished(note) or overtaken(note)):
                self._overtake(note, reason)

    def _overtake(self, note: Note, reason: str) -> None:
        refused = {"error": note["error"]} if note["state"] == "failed" and "error" in note else {"error": reason}
        note.update(state="failed", overtaken=True, insisted=False, **refused)
        try:
            self._spool.mark(note)
        except OSError as error:
            log.error("The note of %s cannot be written: %s", note["file"], error)
            spool = self._spool.reopen(note)
            self.owe(spool, note["path"], lambda **news: self._spool.mark({**note, **news}), {})


def under_way_s(note: Note) -> float:
    """Return how long, in seconds, a request may still be carried out that an earlier mount sent before it died."""
    age_s = time.time() - float(note.get("begun") or 0.0)
    return DYING_S - age_s if note.get("died") and 0 <= age_s < DYING_S else 0.0


def begun_on(entry: Entry | None) -> Note:
    """Return what a note says of the version that a save is begun on."""
    return {"opened": identity(entry), "after": entry.age} if entry is not None else {"opened": None, "after": 0}


def identity(entry: Entry) -> list[str | int | None]:
    """Return what tells, later, whether the server still has these bytes: by the size where there is no version."""
    return [entry.id, entry.version, entry.size if entry.version is None else None]
