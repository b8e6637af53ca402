"""What the BaseSpace stand-in holds: rows, and how they are made.

Tests: sandbox/test_basespace_sandbox, sandbox/test_guide.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from labfs.sandbox.basespace.answers import FORBIDDEN, Refusal
from labfs.sandbox.basespace.ids import Ids
from labfs.sandbox.basespace.switches import Switches
from labfs.sandbox.blobs import Blobs
from labfs.sandbox.store import Row, Store

OPEN_STATES = ("running", "needsattention", "timedout")  # of a session that still takes work

# `made` counts the rows of a table in the order in which they were made: neither ids nor dates tell it.
SCHEMA = """
CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, email TEXT);
CREATE TABLE IF NOT EXISTS tokens (token TEXT PRIMARY KEY, user INTEGER, scopes TEXT);
CREATE TABLE IF NOT EXISTS projects (id INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER, name TEXT, description TEXT,
    created REAL, modified REAL, removed INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER, name TEXT, status TEXT,
    summary TEXT, created REAL, modified REAL, removed INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, project INTEGER, session INTEGER,
    name TEXT, description TEXT, created REAL, removed INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY AUTOINCREMENT, record INTEGER, name TEXT, path TEXT, type TEXT,
    size INTEGER, etag TEXT, status TEXT, archived INTEGER DEFAULT 0, created REAL, modified REAL,
    blob TEXT, key TEXT);
CREATE INDEX IF NOT EXISTS files_of ON files (record, id);
CREATE INDEX IF NOT EXISTS records_of ON records (session);
CREATE INDEX IF NOT EXISTS records_by_project ON records (project, kind, id);
CREATE TABLE IF NOT EXISTS parts (file INTEGER, number INTEGER, etag TEXT, size INTEGER, blob TEXT,
    PRIMARY KEY (file, number));
CREATE TABLE IF NOT EXISTS properties (resource TEXT, name TEXT, type TEXT, description TEXT, content TEXT,
    PRIMARY KEY (resource, name));
CREATE TABLE IF NOT EXISTS biosamples (id INTEGER PRIMARY KEY AUTOINCREMENT, project INTEGER, name TEXT, created REAL);
CREATE TABLE IF NOT EXISTS trash (id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER, deleted REAL);
"""
COLUMNS = [
    *((table, "made", "INTEGER") for table in ("projects", "sessions", "records", "files")),
    ("records", "biosample", "INTEGER"),
]


class Shelf:
    """Rows in a store, bytes in a blob origin."""

    def __init__(self, store: Store, blobs: Blobs, switches: Switches) -> None:
        self.store = store
        self.blobs = blobs
        self.switches = switches
        store.script(SCHEMA)
        for table, name, kind in [*COLUMNS, ("files", "kms", "TEXT NOT NULL DEFAULT ''")]:
            store.column(table, name, kind)
        self._ids = Ids(store, switches)

    def row(self, table: str, number: int) -> Row:
        """Return a row that is there; a stranger's, or none, looks the same from outside."""
        row = self.store.one(f"SELECT * FROM {table} WHERE id = ?", number)  # a table name of our own
        if row is None:
            message = "Sorry but this requires READ access to this Run resource."
            raise Refusal(403, message, FORBIDDEN)
        if "removed" in row.keys() and row["removed"]:  # noqa: SIM118, a sqlite3.Row is no dict
            raise Refusal(410, "The resource has been removed.", "BASESPACE.COMMON.RESOURCE_REMOVED")
        return row

    def _add(self, table: str, parent: int, values: dict[str, Any]) -> int:
        """Insert a row below its parent; return the id that it got."""
        number, made = self._ids.next(table, parent)
        whole = {"id": number, "made": made, **values}
        marks = ", ".join("?" * len(whole))
        self.store.run(f"INSERT INTO {table} ({', '.join(whole)}) VALUES ({marks})", *whole.values())
        return number

    def add_project(self, user: int, name: str, created: float | None = None) -> int:
        when = created or time.time()
        row = {"user": user, "name": name, "description": "", "created": when, "modified": when}
        return self._add("projects", user, row)

    def add_session(self, user: int, name: str, status: str = "Running", created: float | None = None) -> int:
        when = created or time.time()
        row = {"user": user, "name": name, "status": status, "summary": "", "created": when, "modified": when}
        return self._add("sessions", user, row)

    def add_record(
        self, kind: str, project: int | None, name: str, session: int | None, text: str = "",
        created: float | None = None, biosample: int | None = None,
    ) -> int:  # fmt: skip
        row = {"kind": kind, "project": project, "session": session, "name": name, "description": text}
        more = {"created": created or time.time(), "biosample": biosample}
        return self._add("records", project or 0, {**row, **more})

    def add_biosample(self, project: int, name: str, created: float | None = None) -> int:
        sql = "INSERT INTO biosamples (project, name, created) VALUES (?, ?, ?)"
        return self.store.run(sql, project, name, created or time.time())

    def add_file(
        self, record: int, path: str, blob: str, size: int, md5: str, content_type: str,
        created: float | None = None, archived: bool = False,
    ) -> int:  # fmt: skip
        """Make a complete file of a blob; `md5` is that of the bytes, or of the MD5s of their parts."""
        self.supersede(record, path)
        kms = self.kms
        etag = entity_tag(kms, md5, blob)
        row = _file(record, path, content_type, created or time.time())
        held = {"size": size, "etag": etag, "blob": blob, "key": self.blobs.add(blob, etag, kms), "kms": kms}
        return self._add("files", record, {**row, **held, "status": "complete", "archived": archived})

    def add_stored(self, record: int, path: str, key: str, held: Row, size: int, content_type: str) -> int:
        """Make a complete file of an object that somebody put into the store."""
        self.supersede(record, path)
        row = _file(record, path, content_type, time.time())
        stored = {"size": size, "etag": held["etag"], "blob": held["blob"], "key": key, "kms": held["kms"]}
        return self._add("files", record, {**row, **stored, "status": "complete", "archived": False})

    def begin_file(self, record: int, path: str, content_type: str) -> int:
        """Make a file whose bytes are to come in parts."""
        row = _file(record, path, content_type, time.time())
        return self._add("files", record, {**row, "size": 0, "status": "pending", "kms": self.kms})

    @property
    def kms(self) -> str:
        """How what is stored now is encrypted: "" by the store's own key, else "told" or "silent"."""
        wanted = self.switches.kms
        return "silent" if wanted == "silent" else "told" if wanted else ""

    def set_property(self, resource: str, item: dict[str, Any]) -> None:
        """Set what has a name and a type; one of a list type, as `sample[]`, has items in place of a content."""
        kind, content = str(item.get("type") or "string"), item.get("content")
        if kind.endswith("[]"):
            content = json.dumps([str(each) for each in item.get("items") or []])
        values = (item["name"], kind, item.get("description", ""), content)
        self.store.run("INSERT OR REPLACE INTO properties VALUES (?, ?, ?, ?, ?)", resource, *values)

    def supersede(self, record: int, path: str) -> None:
        if self.switches.same_path == "replace":
            self.store.run("UPDATE files SET status = 'aborted' WHERE record = ? AND path = ?", record, path)

    def address(self, row: Row) -> tuple[str, float]:
        return self.blobs.address(row["key"], row["name"], row["type"], self.switches.url_life_s)

    def set_removed(self, session: int, removed: bool) -> None:
        self.store.run("UPDATE sessions SET removed = ? WHERE id = ?", removed, session)
        self.store.run("UPDATE records SET removed = ? WHERE session = ?", removed, session)


def _file(record: int, path: str, content_type: str, when: float) -> dict[str, Any]:
    name = path.rsplit("/", 1)[-1]
    return {"record": record, "name": name, "path": path, "type": content_type, "created": when, "modified": when}


def entity_tag(kms: str, md5: str, blob: str) -> str:
    """Return the tag of a blob: its MD5, or under KMS one of the same look that tells nothing of the bytes."""
    if not kms:
        return md5
    _, dash, parts = md5.partition("-")
    return hashlib.md5(f"kms {blob}".encode(), usedforsecurity=False).hexdigest() + dash + parts
