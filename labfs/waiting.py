"""The saves in the spool that wait for their server, known by path."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import trio

from labfs.backend import Entry
from labfs.spool import Spool

log = logging.getLogger(__name__)


class Waiting:
    """Tells who tends them what there is, and ends those that a newer save has overtaken."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._paths: dict[str, list[dict[str, Any]]] | None = None
        self.news = trio.Event()

    def changed(self) -> None:
        """Have the spool looked at anew, and whoever waits for news go on."""
        self._paths = None
        self.news.set()
        self.news = trio.Event()

    def notes(self) -> dict[str, list[dict[str, Any]]]:
        """Return the notes of all waiting saves by path, oldest first."""
        if self._paths is None:
            self._paths = {}
            for note in self._spool.leftovers():
                if note["state"] == "waiting":
                    self._paths.setdefault(note["path"], []).append(note)
        return self._paths

    def supersede(self, path: str, by: Path | None, reason: str = "the file was saved again since") -> None:
        """Keep earlier saves of a file from being sent over the one that was saved now, or what else was done."""
        for note in self.notes().pop(path, []):
            if note["file"] != str(by):
                try:
                    self._spool.mark(note, state="failed", error=reason)
                except OSError as error:
                    log.error("The note of %s cannot be written: %s", note["file"], error)


def begun_on(entry: Entry | None) -> dict[str, Any]:
    """Return what a note says of the version that a save is begun on."""
    return {"opened": identity(entry), "after": entry.age} if entry is not None else {"opened": None, "after": 0}


def identity(entry: Entry) -> list[str | int | None]:
    """Return what tells, later, whether the server still has these bytes: by the size where there is no version."""
    return [entry.id, entry.version, entry.size if entry.version is None else None]
