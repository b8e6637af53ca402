"""What the REDCap stand-in holds: tables, the log, documents, and what the sources leave open.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from dataclasses import dataclass
from typing import Any

from labfs.sandbox.cost import Cost
from labfs.sandbox.redcap.answers import Refusal
from labfs.sandbox.redcap.design import Design
from labfs.sandbox.store import Row, Store

# An edited record keeps the log's number of its last change, so that later is told without a clock.
SCHEMA = """
CREATE TABLE IF NOT EXISTS redcap_projects (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT, notes TEXT,
    longitudinal INTEGER, autonumber INTEGER, groups TEXT, created REAL);
CREATE TABLE IF NOT EXISTS redcap_rights (token TEXT PRIMARY KEY, project INTEGER, username TEXT, api_export INTEGER,
    api_import INTEGER, file_repository INTEGER, logging INTEGER, record_delete INTEGER, record_rename INTEGER,
    user_rights INTEGER, data_export INTEGER, dag TEXT, role INTEGER);
CREATE TABLE IF NOT EXISTS redcap_forms (project INTEGER, position INTEGER, name TEXT, label TEXT);
CREATE TABLE IF NOT EXISTS redcap_fields (project INTEGER, position INTEGER, name TEXT, form TEXT, spec TEXT);
CREATE TABLE IF NOT EXISTS redcap_arms (project INTEGER, number INTEGER, name TEXT);
CREATE TABLE IF NOT EXISTS redcap_events (id INTEGER PRIMARY KEY AUTOINCREMENT, project INTEGER, arm INTEGER,
    name TEXT, unique_name TEXT);
CREATE TABLE IF NOT EXISTS redcap_mapping (event INTEGER, form TEXT);
CREATE TABLE IF NOT EXISTS redcap_repeating (project INTEGER, event INTEGER, form TEXT, label TEXT);
CREATE TABLE IF NOT EXISTS redcap_records (project INTEGER, name TEXT, dag TEXT DEFAULT '', locked INTEGER DEFAULT 0,
    created REAL, modified REAL, PRIMARY KEY (project, name));
CREATE TABLE IF NOT EXISTS redcap_values (project INTEGER, record TEXT, event INTEGER, instance INTEGER, field TEXT,
    value TEXT, PRIMARY KEY (project, record, event, instance, field));
CREATE TABLE IF NOT EXISTS redcap_documents (id INTEGER PRIMARY KEY AUTOINCREMENT, project INTEGER, name TEXT,
    type TEXT, size INTEGER, blob TEXT, stored REAL);
CREATE TABLE IF NOT EXISTS redcap_folders (id INTEGER PRIMARY KEY AUTOINCREMENT, project INTEGER, parent INTEGER,
    name TEXT, dag TEXT DEFAULT '', role INTEGER DEFAULT 0, system INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS redcap_repository (document INTEGER PRIMARY KEY, project INTEGER, folder INTEGER,
    deleted REAL);
CREATE TABLE IF NOT EXISTS redcap_log (id INTEGER PRIMARY KEY AUTOINCREMENT, project INTEGER, happened REAL,
    username TEXT, kind TEXT, action TEXT, details TEXT, record TEXT);
CREATE INDEX IF NOT EXISTS redcap_log_of ON redcap_log (project, id);
"""


@dataclass(slots=True)
class Switches(Cost):
    """What the sources leave open or differs by version and site, each with the variant that is likelier."""

    version: str = "16.1.3"  # from 16.0.8 on a repository's CSV has the columns of restrictions
    zone_hours: float = -6.0  # of the server's clock, which no call tells
    requests_per_minute: int = 600  # of one address, which then is banned; 0 lifts limit and bans
    ban_status: int = 403
    compression: bool = True  # for who accepts gzip
    charset: str = "; charset=utf-8"  # behind the type of JSON, CSV and XML; "" for none
    get_status: int = 501  # of any method but POST
    missing_token_status: int = 401  # also of a malformed one
    missing_token_text: str = "You do not have permissions to use the API"  # noqa: S105, a sentence
    no_export_status: int = 403
    no_export_text: str = "You do not have API Export privileges"
    quoted_parameter: bool = True  # around `fields` in the error about unknown ones
    bad_comma_list: str = "drop"  # the filter and answer everything; or "refuse"
    identity_without_key: bool = False  # event and repeat columns where the primary key was not asked for
    eav_identity_last: bool = False
    record_order: str = "number"  # or "text"
    file_value: str = "name"  # in flat rows; or "document": the constant of old servers
    file_value_import: str = "ignore"  # of a file field in imported rows; or "refuse"
    new_id_per_upload: bool = True  # else a replaced file keeps its number
    upload_modifies: bool = True  # the record, for date ranges
    upload_basename: bool = True  # of the part's name is kept, as PHP does
    disposition: bool = False  # a Content-Disposition too
    name_coding: str = "utf-8"  # of names in headers: bytes as they are; or "percent" or "latin-1"
    mime_from: str = "name"  # its extension; or "part": the type that the client sent
    length_sent: bool = True  # with exported files; else they come chunked
    empty_type: str = "text/html; charset=UTF-8"  # of the empty answer to an import or a deletion
    missing_record: str = "refuse"  # on file import; or "create"
    unknown_record_text: str = 'The record "{record}" does not exist'
    delete_needs_record_right: bool = False  # also for a file, as the vendor's own module asks
    delete_empty: str = "succeed"  # for a field without a file; or "refuse"
    system_folders: bool = False  # listed in the repository
    largest_upload: int = 1 << 30  # bytes, in a field
    largest_repository_upload: int = 1 << 30  # bytes
    too_large: str = "refuse"  # or "lost": PHP drops the whole form, and the token with it
    too_large_text: str = "The file exceeds the maximum file size that is allowed"
    blocked_text: str = "Files with this extension are not allowed to be uploaded"
    locked_status: int = 400
    memory_rows: int = 0  # rows from which on a record export runs out of memory; 0 for never
    empty_answers: int = 0  # so many of the next requests get 200 and nothing


@dataclass(frozen=True, slots=True)
class Caller:
    """The user and the project behind a token."""

    rights: Row
    project: Row
    design: Design

    @property
    def id(self) -> int:
        return int(self.project["id"])

    @property
    def dag(self) -> str:
        return str(self.rights["dag"])

    def need(self, right: str, status: int, message: str) -> None:
        if not self.rights[right]:
            raise Refusal(status, message)


class Shelf:
    """Rows and bytes in a store."""

    def __init__(self, store: Store, switches: Switches) -> None:
        self.store = store
        self.switches = switches
        store.script(SCHEMA)

    def caller(self, token: str) -> Caller | None:
        rights = self.store.one("SELECT * FROM redcap_rights WHERE token = ?", token.upper())
        if rights is None:
            return None
        project = self.store.one("SELECT * FROM redcap_projects WHERE id = ?", rights["project"])
        assert project is not None
        return Caller(rights, project, Design(self.store, project))

    # -- time: the server's own, without a zone ----------------------------------------------------------

    def clock(self, seconds: float, form: str = "%Y-%m-%d %H:%M:%S") -> str:
        zone = dt.timezone(dt.timedelta(hours=self.switches.zone_hours))
        return dt.datetime.fromtimestamp(seconds, zone).strftime(form)

    def moment(self, text: str, parameter: str) -> float:
        """Return seconds since 1970. Raises Refusal."""
        zone = dt.timezone(dt.timedelta(hours=self.switches.zone_hours))
        try:
            return dt.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()
        except ValueError:
            raise Refusal(400, f'The value of the parameter "{parameter}" is not valid') from None

    # -- records -----------------------------------------------------------------------------------------

    def record(self, caller: Caller, name: str) -> Row | None:
        """Return a record that the caller may see."""
        row = self.store.one("SELECT * FROM redcap_records WHERE project = ? AND name = ?", caller.id, name)
        return None if row is not None and caller.dag and row["dag"] != caller.dag else row

    def add_record(self, project: int, name: str, dag: str = "", when: float | None = None) -> None:
        now = when or time.time()
        sql = "INSERT INTO redcap_records (project, name, dag, created, modified) VALUES (?, ?, ?, ?, ?)"
        self.store.run(sql, project, name, dag, now, now)

    def touch(self, project: int, name: str) -> None:
        sql = "UPDATE redcap_records SET modified = ? WHERE project = ? AND name = ?"
        self.store.run(sql, time.time(), project, name)

    def value(self, project: int, record: str, event: int, instance: int, field: str) -> str | None:
        row = self.store.one(
            "SELECT value FROM redcap_values WHERE project = ? AND record = ? AND event = ? AND instance = ?"
            " AND field = ?", project, record, event, instance, field,
        )  # fmt: skip
        return None if row is None else str(row["value"])

    def set_value(self, project: int, record: str, event: int, instance: int, field: str, value: str) -> None:
        """Keep a value; an empty one is none."""
        place = (project, record, event, instance, field)
        if value:
            self.store.run("INSERT OR REPLACE INTO redcap_values VALUES (?, ?, ?, ?, ?, ?)", *place, value)
            return
        self.store.run(
            "DELETE FROM redcap_values WHERE project = ? AND record = ? AND event = ? AND instance = ? AND field = ?",
            *place,
        )

    # -- documents ---------------------------------------------------------------------------------------

    def document(self, number: int) -> Row | None:
        return self.store.one("SELECT * FROM redcap_documents WHERE id = ?", number)

    def add_document(
        self, project: int, name: str, kind: str, size: int, blob: str, number: int | None = None,
        when: float | None = None,
    ) -> int:  # fmt: skip
        """Keep a document under a new number, or under that of an older one; return it."""
        return self.store.run(
            "INSERT OR REPLACE INTO redcap_documents VALUES (?, ?, ?, ?, ?, ?, ?)",
            number, project, name, kind, size, blob, when or time.time(),
        )  # fmt: skip

    # -- the log -----------------------------------------------------------------------------------------

    def note(self, caller: Caller, kind: str, action: str, details: str = "", record: str = "") -> None:
        self.store.run(
            "INSERT INTO redcap_log (project, happened, username, kind, action, details, record)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            caller.id, time.time(), caller.rights["username"], kind, action, details, record,
        )  # fmt: skip

    def groups(self, project: Row) -> list[dict[str, Any]]:
        """Return the data access groups of a project: number, name, unique name."""
        found: list[dict[str, Any]] = json.loads(project["groups"])
        return found
