"""The last listing of each directory, stored on disk so that the next mount can show it at once.

A stored listing may be shown but proves nothing. It belongs to one account at one address: a mount with another
account does not see it, and deletes it. Entries hold no secret and no address of bytes (`backend.Entry`), and an
account is identified by a slow digest of its secrets, with a salt of its own for each database file.

Tests: core/test_slow_lists.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from operator import attrgetter
from pathlib import Path
from threading import Lock
from typing import Any

from labfs.backend import Accept, Entry, Replace, Takes

log = logging.getLogger(__name__)

FORMAT = 3  # of a row; rows of an older or a newer labfs are dropped
LOOKED_AT_S = 90 * 24 * 3600.0  # after which a directory that was not listed again is deleted
USUAL = {field.name: field.default for field in fields(Entry) if field.default is not MISSING}
BROKEN = (sqlite3.Error, zlib.error, ValueError, TypeError, KeyError, AttributeError)


class Listings:
    """A table in a file, or in memory if there is no file. Thread-safe; a listing that cannot be stored is dropped."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = Lock()
        self._accounts: dict[str, str] = {}
        self._written: dict[tuple[str, str], int] = {}  # hashes of the listings that this mount stored
        try:
            self._open_anew(path)
        except (sqlite3.Error, OSError) as error:
            log.warning("Listings are not kept: %s", error)
            self._open(None)

    def _open_anew(self, path: Path | None) -> None:
        """Open the database file, or replace it by a new one if it is damaged."""
        try:
            self._open(path)
        except sqlite3.DatabaseError as error:
            if path is None or isinstance(error, sqlite3.OperationalError):  # locked, or the disk is in trouble
                raise
            log.warning("Remembered listings are of no use and dropped: %s", error)
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            self._open(path)

    def _open(self, path: Path | None) -> None:
        if path is not None:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if self._db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            self._db.execute("DROP TABLE IF EXISTS kept")
            self._db.execute("DROP TABLE IF EXISTS salt")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS kept (site TEXT, account TEXT, id TEXT, listed REAL, entries BLOB,"
            " PRIMARY KEY (site, account, id)) WITHOUT ROWID"
        )
        self._db.execute("DELETE FROM kept WHERE listed < ?", (time.time() - LOOKED_AT_S,))
        self._db.execute("CREATE TABLE IF NOT EXISTS salt (salt BLOB)")
        self._db.execute(f"PRAGMA user_version = {FORMAT}")
        row = self._db.execute("SELECT salt FROM salt").fetchone()
        self.salt: bytes = row[0] if row else secrets.token_bytes(16)  # of the digests of accounts
        if not row:
            self._db.execute("INSERT INTO salt VALUES (?)", (self.salt,))

    def admit(self, site: str, account: str) -> None:
        """Enable listings of a site for this account; delete those of any other."""
        self._accounts[site] = account
        try:
            with self._lock:
                self._db.execute("DELETE FROM kept WHERE site = ? AND account != ?", (site, account))
        except sqlite3.Error as error:
            log.warning("Remembered listings cannot be dropped: %s", error)

    def get(self, site: str, number: str) -> tuple[list[Entry], float] | None:
        """Return the entries of a directory, and when they were listed, in seconds since 1970. Blocks."""
        account = self._accounts.get(site)
        if account is None:
            return None
        sql = "SELECT entries, listed FROM kept WHERE site = ? AND account = ? AND id = ?"
        try:
            with self._lock:
                row = self._db.execute(sql, (site, account, number)).fetchone()
            return None if row is None else (unpacked(row[0]), float(row[1]))
        except BROKEN as error:
            log.warning("A kept listing of %s is of no use and dropped: %r", site, error)
            self.drop(site, number)
            return None

    def put(self, site: str, number: str, entries: Iterable[Entry]) -> None:
        """Store the entries of a directory. Blocks."""
        account = self._accounts.get(site)
        if account is None:
            return
        columns = _columns(list(entries))
        digest = hash(tuple(columns.items()))
        try:
            if self._written.get((site, number)) == digest:
                sql = "UPDATE kept SET listed = ? WHERE site = ? AND account = ? AND id = ?"
                row: tuple[Any, ...] = (time.time(), site, account, number)
            else:
                sql = "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)"
                row = (site, account, number, time.time(), _written(columns))
            with self._lock:
                self._db.execute(sql, row)
            self._written[site, number] = digest
        except BROKEN as error:
            log.warning("A listing of %s cannot be kept: %r", site, error)

    def drop(self, site: str, number: str) -> None:
        """Delete the listing of a directory that is gone, or whose stored listing cannot be read."""
        self._written.pop((site, number), None)
        try:
            with self._lock:
                self._db.execute("DELETE FROM kept WHERE site = ? AND id = ?", (site, number))
        except sqlite3.Error as error:
            log.warning("A kept listing cannot be dropped: %s", error)

    def close(self) -> None:
        self._db.close()


def _columns(entries: list[Entry]) -> dict[str, tuple[Any, ...]]:
    """Return the values of each field that is not the usual one everywhere: quicker than rows."""
    found = {name: tuple(map(attrgetter(name), entries)) for name in _NAMES}
    return {name: column for name, column in found.items() if column.count(USUAL.get(name)) < len(entries)}


def packed(entries: Iterable[Entry]) -> bytes:
    """Return entries as bytes."""
    return _written(_columns(list(entries)))


def _written(columns: dict[str, tuple[Any, ...]]) -> bytes:
    """Return columns as compressed JSON, one a line."""
    lines = (json.dumps([name, *map(_PLAIN.get(name, _same), column)]) for name, column in columns.items())
    return zlib.compress("\n".join(lines).encode(), 1)


def unpacked(data: bytes) -> list[Entry]:
    """Return the entries that were packed. Raises what is in `BROKEN`."""
    lines = map(json.loads, zlib.decompress(data).splitlines())
    columns = {name: map(_TYPED.get(name, _same), column) for name, *column in lines}
    return [Entry(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _same(value: Any) -> Any:
    return value


def _plain_takes(takes: Takes) -> list[Any]:
    kinds = sorted(kind.value for kind in takes.kinds)
    return [kinds, takes.folders, takes.room, takes.replace and takes.replace.value, takes.whole]


def _takes(plain: list[Any]) -> Takes:
    kinds, folders, room, replace, whole = plain
    return Takes(frozenset(map(Accept, kinds)), tuple(folders), room, replace and Replace(replace), whole)


_NAMES = tuple(field.name for field in fields(Entry))
_PLAIN: dict[str, Callable[[Any], Any]] = {"takes": _plain_takes}  # by field: from its value to JSON
_TYPED: dict[str, Callable[[Any], Any]] = {"takes": _takes, "folders": tuple}  # … and back
