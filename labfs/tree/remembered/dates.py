"""Dates of files that have none from the server: when a mount of this machine first saw a version, or saved it.

`rsync`, `make` and Nextflow's `-resume` compare dates: an unchanged file must have the same date in the next mount,
and a new version a newer one. Where there are no versions either, a new size counts as a new version. The version of
a directory is a digest of its contents.

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

MOST = 200_000  # entries of one directory whose dates are stored; in a larger one all have the date of the mount
AT_ONCE = 900  # ids in one query; SQLite takes no more than 999 parameters in some builds


class Dated(NamedTuple):
    """The last known version and size of a file or directory, and its date in nanoseconds since 1970."""

    version: str | None
    size: int | None
    date: int

    def met(self, entry: Entry, now: int) -> Dated:
        """Return the row to store after the file was seen as `entry`; a new date only with a new version."""
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

    A file whose date a broken or full disk cannot store has none here, and so that of the mount.
    """

    def __init__(self, db: sqlite3.Connection, lock: Lock) -> None:
        self._db = db
        self._lock = lock
        db.execute(
            "CREATE TABLE IF NOT EXISTS dates (site TEXT, id TEXT, version TEXT, size INTEGER, date INTEGER,"
            " PRIMARY KEY (site, id)) WITHOUT ROWID"
        )

    def meet(self, site: str, entries: Iterable[Entry], directory: Entry | None = None) -> dict[str, int]:
        """Return, by id, the dates in nanoseconds of the listed entries that have none from the server.

        If the listing is the whole of a `directory`, include that directory's date.
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
        """Store the date, in nanoseconds, of a version saved here and return it; None if the server has a date."""
        if entry.modified_ns is not None:
            return None
        self._save(site, {entry.id: Dated(entry.version, entry.size, date)})
        return date

    def set(self, site: str, entry: Entry, date: int) -> None:
        """Store the date, in nanoseconds, that a user set for this version, if the server has none."""
        known = self._known(site, [entry.id])
        if entry.modified_ns is None and known:
            self._save(site, {entry.id: known[entry.id]._replace(date=date)})

    def _known(self, site: str, numbers: list[str]) -> dict[str, Dated] | None:
        """Return the stored rows by id; None if the table cannot be read."""
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
        """Store dates; false if that fails."""
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
    """Return, by id, the entries without a date; the version of a directory is a digest of its listing."""
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
