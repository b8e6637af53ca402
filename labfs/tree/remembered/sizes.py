"""Sizes that a listing lacks: measured once, and stored by version, also for the next mount.

Tests: unit/test_measuring.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from labfs.backend import Entry

log = logging.getLogger(__name__)


class Sizes:
    """A table in a file, or in memory if there is no file, of the sizes of entries with a version.

    Errors of a full or broken disk are logged: the size is then unknown.
    """

    def __init__(self, path: Path | None = None) -> None:
        try:
            self._open(path)
        except sqlite3.Error as error:
            log.warning("Sizes are not remembered: %s", error)
            self._db.close()
            self._open(None)

    def _open(self, path: Path | None) -> None:
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS sizes (site TEXT, id TEXT, version TEXT, size INTEGER,"
            " PRIMARY KEY (site, id)) WITHOUT ROWID"
        )

    def get(self, site: str, entry: Entry) -> int | None:
        """Return the size in bytes of this version of a file; None if it is not stored."""
        try:
            row = self._db.execute(
                "SELECT size FROM sizes WHERE site = ? AND id = ? AND version IS ?", (site, entry.id, entry.version)
            ).fetchone()
        except (sqlite3.Error, UnicodeError) as error:  # a version that is no text
            log.warning("A size cannot be looked up: %s", error)
            return None
        return None if row is None else int(row[0])

    def set(self, site: str, entry: Entry, size: int) -> None:
        row = (site, entry.id, entry.version, size)
        try:
            self._db.execute("INSERT OR REPLACE INTO sizes VALUES (?, ?, ?, ?)", row)
        except (sqlite3.Error, UnicodeError) as error:  # a version that is no text
            log.warning("A size cannot be remembered: %s", error)

    def close(self) -> None:
        self._db.close()
