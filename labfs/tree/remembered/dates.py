"""Dates of what a server tells none of: when the mounts of this place first saw a version, or saved it.

`rsync`, `make` and Nextflow's `-resume` go by dates: what has not changed must have the same one in the next mount,
and another version a newer one. Where there are no versions either, another size is another version. The version of
a directory is what is in it.

Tests: core/test_dates.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b
from threading import Lock
from typing import NamedTuple

from labfs.backend import Entry

log = logging.getLogger(__name__)

MOST = 200_000  # things of one directory whose dates are remembered; of more, all have that of the mount
AT_ONCE = 900  # ids in one question; SQLite takes no more than 999 in some builds


class Dated(NamedTuple):
    """A version of one thing, as far as it is known, and its date in nanoseconds since 1970."""

    version: str | None
    size: int | None
    date: int

    def met(self, entry: Entry, now: int) -> Dated:
        """Return what to remember once the thing was seen as `entry`; the date moves on with the version alone."""
        by_size = None in (self.version, entry.version)
        ours, theirs = (self.size, entry.size) if by_size else (self.version, entry.version)
        date = self.date if None in (ours, theirs) or ours == theirs else max(now, self.date + 1)
        return Dated(
            self.version if entry.version is None else entry.version,
            self.size if entry.size is None else entry.size,
            date,
        )


class Dates:
    """A table in the database `db`, which `lock` guards. All methods block, on a local disk.

    What a broken or full disk cannot keep has no date here, and so that of the mount.
    """

    def __init__(self, db: sqlite3.Connection, lock: Lock) -> None:
        self._db = db
        self._lock = lock
        db.execute(
            "CREATE TABLE IF NOT EXISTS dates (site TEXT, id TEXT, version TEXT, size INTEGER, date INTEGER,"
            " PRIMARY KEY (site, id)) WITHOUT ROWID"
        )

    def meet(self, site: str, entries: Iterable[Entry], directory: Entry | None = None) -> dict[str, int]:
        """Return, by id, the dates of what was listed and the server tells no date of; in nanoseconds.

        Where the listing is that of a `directory`, the one of that too.
        """
        now = time.time_ns()
        found: dict[str, int] = {}
        news: dict[str, Dated] = {}
        lacking = _lacking(list(entries), directory)
        if len(lacking) > MOST:
            return found
        known = self._known(site, list(lacking))
        if known is None:
            return found
        for number, entry in lacking.items():
            before = known.get(number) or Dated(None, None, now)
            after = before if before[:2] == (entry.version, entry.size) else before.met(entry, now)
            if number in known and after == before:
                found[number] = after.date
            else:
                news[number] = after
        if self._save(site, news):
            found.update((number, dated.date) for number, dated in news.items())
        return found

    def saved(self, site: str, entry: Entry, date: int) -> int | None:
        """Remember that a version was saved here, at `date` in nanoseconds; return it where the server tells none."""
        if entry.modified_ns is not None:
            return None
        self._save(site, {entry.id: Dated(entry.version, entry.size, date)})
        return date

    def set(self, site: str, entry: Entry, date: int) -> None:
        """Remember the date that a user gave this version of a thing, if the server keeps none."""
        known = self._known(site, [entry.id])
        if entry.modified_ns is None and known:
            self._save(site, {entry.id: known[entry.id]._replace(date=date)})

    def _known(self, site: str, numbers: list[str]) -> dict[str, Dated] | None:
        """Return what is remembered of things by id; None where that cannot be read."""
        found: dict[str, Dated] = {}
        try:
            for start in range(0, len(numbers), AT_ONCE):
                some = numbers[start : start + AT_ONCE]
                marks = ",".join("?" * len(some))
                sql = f"SELECT id, version, size, date FROM dates WHERE site = ? AND id IN ({marks})"
                with self._lock:
                    rows = self._db.execute(sql, (site, *some)).fetchall()
                found.update((row[0], Dated(*row[1:])) for row in rows)
        except sqlite3.Error as error:
            log.warning("The dates of %s cannot be looked up: %s", site or "the mount", error)
            return None
        return found

    def _save(self, site: str, dates: dict[str, Dated]) -> bool:
        """Write dates down; false if they cannot be kept."""
        if not dates:
            return True
        try:
            with self._lock, self._db:
                self._db.execute("BEGIN")
                rows = ((site, number, *dated) for number, dated in dates.items())
                self._db.executemany("INSERT OR REPLACE INTO dates VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            log.warning("The dates of %s cannot be kept: %s", site or "the mount", error)
            return False
        return True


def _lacking(entries: list[Entry], directory: Entry | None) -> dict[str, Entry]:
    """Return, by id, what the server tells no date of; the version of a directory is what was listed of it."""
    lacking = {entry.id: entry for entry in entries if entry.modified_ns is None}
    homes: dict[str | None, Entry] = {e.id: e for e in lacking.values() if e.complete}
    if directory is not None and directory.modified_ns is None:
        homes[None] = directory
    inside: dict[str | None, list[str]] = {number: [] for number in homes}
    for entry in entries if homes else ():
        if entry.inside in inside:
            inside[entry.inside].append("\0".join((*entry.folders, entry.name, entry.id)))
    for number, home in homes.items():
        names = "\n".join(sorted(inside[number])).encode("utf-8", "surrogatepass")
        lacking[home.id] = replace(home, version=blake2b(names, digest_size=16).hexdigest())
    return lacking
