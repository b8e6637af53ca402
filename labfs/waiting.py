"""The saves in the spool that wait for their server, known by path."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from labfs.backend import Entry
from labfs.spool import Spool, SpoolFile

log = logging.getLogger(__name__)


@dataclass
class Owed:
    """A note that could not be written: `keep` does it, with the `news` since."""

    spool: SpoolFile
    path: str
    keep: Callable[..., None]
    news: dict[str, Any] = field(default_factory=dict)


class Waiting:
    """Tells who tends them what there is, and ends those that a newer save has overtaken."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._paths: dict[str, list[dict[str, Any]]] | None = None
        self.news = trio.Event()
        self._owed: list[Owed] = []

    def forget(self) -> None:
        """Have the spool looked at anew."""
        self._paths = None

    def changed(self) -> None:
        """Have the spool looked at anew, and whoever waits for news go on."""
        self.forget()
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

    def owe(self, spool: SpoolFile, path: str, keep: Callable[..., None]) -> None:
        """Have a note that the disk refused written later."""
        self._owed.append(Owed(spool, path, keep))

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
            self._paths = None
        return True

    def supersede(self, path: str, by: Path | None, reason: str = "the file was saved again since") -> None:
        """Keep earlier saves of a file from being sent over the one that was saved now, or what else was done."""
        for owed in self._owed:
            if owed.path == path and owed.spool.path != by:
                owed.news = {"state": "failed", "error": reason, "overtaken": True}
        try:
            earlier = self.notes().pop(path, [])
        except OSError as error:  # what was done is done all the same
            log.error("The outbox cannot be read: %s", error)
            return
        for note in earlier:
            if note["file"] != str(by):
                try:
                    self._spool.mark(note, state="failed", error=reason, overtaken=True)
                except OSError as error:
                    log.error("The note of %s cannot be written: %s", note["file"], error)


def begun_on(entry: Entry | None) -> dict[str, Any]:
    """Return what a note says of the version that a save is begun on."""
    return {"opened": identity(entry), "after": entry.age} if entry is not None else {"opened": None, "after": 0}


def identity(entry: Entry) -> list[str | int | None]:
    """Return what tells, later, whether the server still has these bytes: by the size where there is no version."""
    return [entry.id, entry.version, entry.size if entry.version is None else None]
