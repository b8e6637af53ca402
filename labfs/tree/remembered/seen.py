"""The order in which this account's mounts saw the entries of a site, stored from one mount to the next.

Ids do not tell the order of creation, and dates in whole seconds tie. So of several entries of one name the one that
was seen first has the plain name for good, whatever is listed later. Of entries first seen together the older one
counts as seen first; if their dates are the same the one with the shorter id, then with the lower id, which is the
numeric order of numbers.

Of several versions of one path the date decides, then the order in which they were seen; a version that was saved
here is newer than the one it was saved over, whatever the server's clocks say.

Tests: core/test_seen.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from labfs.backend import Entry
from labfs.tree.remembered.dates import Dates

log = logging.getLogger(__name__)

MOST = 200_000  # entries of one directory that are stored; in a larger one dates and ids alone decide the order
NEVER = float("inf")
HAIR = 2.0**-20  # by which the place of an entry comes before that of the entry it replaced


class Seen:
    """A table in a file, or in memory if there is no file. On a broken disk writes are lost."""

    def __init__(self, path: Path | None = None) -> None:
        try:
            self._open(path)
        except sqlite3.Error as error:
            log.warning("The order of equal names is not remembered: %s", error)
            self._db.close()
            self._open(None)

    def _open(self, path: Path | None) -> None:
        self._lock = Lock()  # a long listing is recorded in a thread
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS seen (number INTEGER PRIMARY KEY, site TEXT, id TEXT, place REAL, age INTEGER,"
            " UNIQUE (site, id))"
        )
        self.dates = Dates(self._db, self._lock)

    def add(self, site: str, entries: Iterable[Entry]) -> None:
        """Record entries as seen now, unless they were before. Blocks."""
        rows = [(site, entry.id) for entry in sorted(entries, key=_usual)]
        if len(rows) <= MOST:
            self._write("INSERT OR IGNORE INTO seen (site, id) VALUES (?, ?)", rows)

    def saved(self, site: str, entry: Entry, over: Entry | None) -> None:
        """Record an entry that was saved here: newer than the entry it was saved `over`, whose plain name it takes."""
        self.add(site, [entry])
        if over is not None and over.id != entry.id:
            before = self.rank(site, over)
            row = (before.place - HAIR, max(before.age, entry.age), site, entry.id)
            self._write("UPDATE seen SET place = ?, age = ? WHERE site = ? AND id = ?", [row])

    def of(self, site: str) -> SiteOrder:
        """Return the order of the entries of a site."""
        return SiteOrder(self, site)

    def close(self) -> None:
        self._db.close()

    def rank(self, site: str, entry: Entry) -> Rank:
        found = None
        try:
            with self._lock:
                sql = "SELECT number, place, age FROM seen WHERE site = ? AND id = ?"
                found = self._db.execute(sql, (site, entry.id)).fetchone()
        except sqlite3.Error as error:
            log.warning("The order of what was seen cannot be looked up: %s", error)
        number, place, age = found or (NEVER, None, None)
        return Rank(number, number if place is None else place, entry.age if age is None else max(age, entry.age))

    def _write(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        try:
            with self._lock, self._db:
                self._db.execute("BEGIN")
                self._db.executemany(sql, rows)
        except sqlite3.Error as error:
            log.warning("The order of what is seen cannot be kept: %s", error)


class Rank(NamedTuple):
    """The stored rank of one entry, and its age."""

    number: float  # of first sight
    place: float  # among entries of one name
    age: int


@dataclass(frozen=True, slots=True)
class SiteOrder:
    """The order of the entries of one site, for the layout of a listing."""

    seen: Seen
    site: str

    def twins(self, entries: list[Entry]) -> list[Entry]:
        """Return different entries of one name, the one that has the plain name first."""
        return sorted(entries, key=lambda entry: (self.seen.rank(self.site, entry).place, _usual(entry)))

    def versions(self, entries: list[Entry]) -> list[Entry]:
        """Return the versions of one file, the oldest first."""

        def order(entry: Entry) -> tuple[Any, ...]:
            rank = self.seen.rank(self.site, entry)
            return rank.age, rank.number, _usual(entry)

        return sorted(entries, key=order)


def _usual(entry: Entry) -> tuple[int, int, str]:
    return entry.age, len(entry.id), entry.id
