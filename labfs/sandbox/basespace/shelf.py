"""What the BaseSpace stand-in holds: rows, how they are made, and how they are shown."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from labfs.sandbox.basespace.answers import FORBIDDEN, Refusal, moment
from labfs.sandbox.blobs import Blobs
from labfs.sandbox.store import Row, Store

OPEN_STATES = ("running", "needsattention", "timedout")  # of a session that still takes work

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
CREATE TABLE IF NOT EXISTS parts (file INTEGER, number INTEGER, etag TEXT, size INTEGER, blob TEXT,
    PRIMARY KEY (file, number));
CREATE TABLE IF NOT EXISTS properties (resource TEXT, name TEXT, type TEXT, description TEXT, content TEXT,
    PRIMARY KEY (resource, name));
CREATE TABLE IF NOT EXISTS trash (id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER, deleted REAL);
"""


@dataclass(slots=True)
class Switches:
    """What the sources leave open, each with the variant that is likelier."""

    created_status: int = 201  # of a project, a record and a simple upload
    redirect_status: int = 302  # of a file's content
    default_limit: int = 10
    over_limit: str = "clamp"  # or "refuse"
    same_path: str = "duplicate"  # or "replace" or "conflict"
    pending_listed: bool = False
    empty_upload: str = "refuse"  # or "accept"
    after_complete_status: int = 403
    bad_md5_status: int = 400
    url_life_s: float = 7 * 24 * 3600.0
    sort_ignored: bool = False
    short_pages: int = 0  # items in a page at most; 0 for no such limit


class Shelf:
    """Rows in a store, bytes in a blob origin."""

    def __init__(self, store: Store, blobs: Blobs, switches: Switches) -> None:
        self.store = store
        self.blobs = blobs
        self.switches = switches
        store.script(SCHEMA)

    def row(self, table: str, number: int) -> Row:
        """Return a row that is there; a stranger's, or none, looks the same from outside."""
        row = self.store.one(f"SELECT * FROM {table} WHERE id = ?", number)  # a table name of our own
        if row is None:
            message = "Sorry but this requires READ access to this Run resource."
            raise Refusal(403, message, FORBIDDEN)
        if "removed" in row.keys() and row["removed"]:  # noqa: SIM118, a sqlite3.Row is no dict
            raise Refusal(410, "The resource has been removed.", "BASESPACE.COMMON.RESOURCE_REMOVED")
        return row

    def add_project(self, user: int, name: str, created: float | None = None) -> int:
        when = created or time.time()
        return self.store.run(
            "INSERT INTO projects (user, name, description, created, modified) VALUES (?, ?, '', ?, ?)",
            user, name, when, when,
        )  # fmt: skip

    def add_session(self, user: int, name: str, status: str = "Running", created: float | None = None) -> int:
        when = created or time.time()
        return self.store.run(
            "INSERT INTO sessions (user, name, status, summary, created, modified) VALUES (?, ?, ?, '', ?, ?)",
            user, name, status, when, when,
        )  # fmt: skip

    def add_record(
        self, kind: str, project: int, name: str, session: int | None, text: str = "", created: float | None = None
    ) -> int:
        return self.store.run(
            "INSERT INTO records (kind, project, session, name, description, created) VALUES (?, ?, ?, ?, ?, ?)",
            kind, project, session, name, text, created or time.time(),
        )  # fmt: skip

    def add_file(
        self, record: int, path: str, blob: str, size: int, etag: str, content_type: str,
        created: float | None = None, archived: bool = False,
    ) -> int:  # fmt: skip
        """Make a complete file of a blob."""
        when = created or time.time()
        self.supersede(record, path)
        return self.store.run(
            "INSERT INTO files (record, name, path, type, size, etag, status, archived, created, modified, blob, key)"
            " VALUES (?, ?, ?, ?, ?, ?, 'complete', ?, ?, ?, ?, ?)",
            record, path.rsplit("/", 1)[-1], path, content_type, size, etag, archived, when, when, blob,
            self.blobs.add(blob, etag),
        )  # fmt: skip

    def supersede(self, record: int, path: str) -> None:
        if self.switches.same_path == "replace":
            self.store.run("UPDATE files SET status = 'aborted' WHERE record = ? AND path = ?", record, path)

    def address(self, row: Row) -> tuple[str, float]:
        return self.blobs.address(row["key"], row["name"], row["type"], self.switches.url_life_s)

    def set_removed(self, session: int, removed: bool) -> None:
        self.store.run("UPDATE sessions SET removed = ? WHERE id = ?", removed, session)
        self.store.run("UPDATE records SET removed = ? WHERE session = ?", removed, session)

    def compact_user(self, number: int) -> dict[str, Any]:
        row = self.store.one("SELECT * FROM users WHERE id = ?", number)
        name = row["name"] if row else "Somebody"
        return {"Id": str(number), "Href": f"v1pre3/users/{number}", "Name": name, "DateCreated": moment(None)}

    def project_item(self, row: Row) -> dict[str, Any]:
        size = "SELECT coalesce(sum(size), 0) FROM files JOIN records ON records.id = record WHERE project = ?"
        return {
            "Id": str(row["id"]),
            "Href": f"v1pre3/projects/{row['id']}",
            "Name": row["name"],
            "UserOwnedBy": self.compact_user(row["user"]),
            "Description": row["description"],
            "DateCreated": moment(row["created"]),
            "DateModified": moment(row["modified"]),
            "HasCollaborators": False,
            "TotalSize": self.store.count(size, row["id"]),
        }

    def record_item(self, row: Row) -> dict[str, Any]:
        session = self.store.one("SELECT * FROM sessions WHERE id = ?", row["session"])
        item = {
            "Id": str(row["id"]),
            "Href": f"v1pre3/{row['kind']}/{row['id']}",
            "Name": row["name"],
            "UserOwnedBy": self.compact_user(session["user"] if session else 1),
            "Status": session["status"] if session else "Complete",
            "StatusSummary": session["summary"] if session else "",
            "DateCreated": moment(row["created"]),
            "TotalSize": self.store.count("SELECT coalesce(sum(size), 0) FROM files WHERE record = ?", row["id"]),
        }
        if session is not None:
            item["AppSession"] = self.session_item(session)
        if row["kind"] == "samples":
            item["SampleId"] = row["name"]
        return item

    def session_item(self, row: Row) -> dict[str, Any]:
        return {
            "Id": str(row["id"]),
            "Name": row["name"],
            "Href": f"v1pre3/appsessions/{row['id']}",
            "Status": row["status"],
            "StatusSummary": row["summary"],
            "Application": {"Id": "1", "Name": "Sandbox"},
            "DateCreated": moment(row["created"]),
            "ModifiedOn": moment(row["modified"]),
        }

    def file_item(self, row: Row) -> dict[str, Any]:
        item = {
            "Id": str(row["id"]),
            "Href": f"v1pre3/files/{row['id']}",
            "HrefContent": f"v1pre3/files/{row['id']}/content",
            "Name": row["name"],
            "Path": row["path"],
            "ContentType": row["type"],
            "Size": row["size"],
            "IsArchived": bool(row["archived"]),
            "DateCreated": moment(row["created"]),
            "DateModified": moment(row["modified"]),
            "IdAsLong": row["id"],
        }
        return {**item, "ETag": row["etag"]} if row["etag"] else item

    def file_whole(self, row: Row) -> dict[str, Any]:
        whole = {**self.file_item(row), "UploadStatus": row["status"], "Properties": []}
        del whole["IdAsLong"]
        if row["status"] == "pending":
            whole["HrefParts"] = f"v1pre3/files/{row['id']}/parts"
        return whole

    def dataset_item(self, row: Row) -> dict[str, Any]:
        return {
            "Id": f"ds.{row['id']:032x}",
            "Name": row["name"],
            "DateCreated": moment(row["created"]),
            "DatasetType": {"Id": "common.files" if row["kind"] == "appresults" else "illumina.fastq.v1.8"},
        }

    def property_list(self, resource: str) -> dict[str, Any]:
        rows = self.store.all("SELECT * FROM properties WHERE resource = ? ORDER BY name", resource)
        items = [
            {"Type": r["type"], "Name": r["name"], "Description": r["description"], "Content": r["content"]}
            for r in rows
        ]
        return {"Items": items, "DisplayedCount": len(items), "TotalCount": len(items)}
