"""What the Portal stand-in holds: rows, how they are made and found, and the switches.

Tests: sandbox/test_portal_sandbox, sandbox/test_portal_truths.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from labfs.sandbox.cost import Cost
from labfs.sandbox.portal.answers import NOT_FOUND, Refusal
from labfs.sandbox.store import Row, Store

WEEK_S = 7 * 24 * 3600.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS portal_users (id TEXT PRIMARY KEY, first TEXT, last TEXT, email TEXT, orcid TEXT,
    orcid_token TEXT, staff INTEGER, active INTEGER, personal INTEGER, created INTEGER, updated INTEGER);
CREATE TABLE IF NOT EXISTS portal_tokens (key TEXT PRIMARY KEY, user TEXT UNIQUE, created INTEGER, expires INTEGER);
CREATE TABLE IF NOT EXISTS portal_organizations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, description TEXT,
    personal INTEGER, owner TEXT, created INTEGER, updated INTEGER);
CREATE TABLE IF NOT EXISTS portal_members (organization INTEGER, user TEXT, PRIMARY KEY (organization, user));
CREATE TABLE IF NOT EXISTS portal_materials (id INTEGER PRIMARY KEY AUTOINCREMENT, organization INTEGER, contact TEXT,
    category TEXT, title TEXT, mta INTEGER, details TEXT, created INTEGER, updated INTEGER);
CREATE TABLE IF NOT EXISTS portal_grants (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT, year INTEGER, funder TEXT,
    user TEXT, created INTEGER, updated INTEGER);
CREATE TABLE IF NOT EXISTS portal_grant_links (support INTEGER, kind TEXT, target INTEGER);
CREATE TABLE IF NOT EXISTS portal_requests (id INTEGER PRIMARY KEY AUTOINCREMENT, material INTEGER, requester TEXT,
    assigned TEXT, status TEXT, abstract TEXT, irb INTEGER, signed INTEGER, executed INTEGER,
    created INTEGER, updated INTEGER);
CREATE TABLE IF NOT EXISTS portal_attachments (id INTEGER PRIMARY KEY AUTOINCREMENT, filename TEXT, description TEXT,
    user TEXT, organization INTEGER, material INTEGER, s3_deleted INTEGER DEFAULT 0, removed INTEGER DEFAULT 0,
    blob TEXT, object TEXT, s3_key TEXT, local_name TEXT, created INTEGER, updated INTEGER);
CREATE INDEX IF NOT EXISTS portal_attachments_of ON portal_attachments (organization);
CREATE INDEX IF NOT EXISTS portal_sequence_maps_of ON portal_attachments (material);
CREATE INDEX IF NOT EXISTS portal_attachments_by ON portal_attachments (user);
CREATE INDEX IF NOT EXISTS portal_objects ON portal_attachments (s3_key);
CREATE TABLE IF NOT EXISTS portal_secrets (name TEXT PRIMARY KEY, value TEXT);
"""

# Times are microseconds since 1970. A row of attachments has an `s3_key` when its bytes are in the bucket and
# a `local_name` when they are on the server's own disk.

# The links of an attachment, each with the table and the column that point to it.
LINKS = {
    "mta_materials": ("materials", "mta"),
    "requests_signed_mta": ("requests", "signed"),
    "requests_irb": ("requests", "irb"),
    "requests_executed_mta": ("requests", "executed"),
}

DETAILS: dict[str, Any] = {
    "url": "", "organisms": [], "pubmed_id": "", "is_archived": False, "additional_metadata": {},
    "needs_irb": False, "needs_abstract": False, "imported": False, "shipping_requirement": None,
    "import_source": None, "publication_title": "", "pre_print_doi": "", "pre_print_title": "", "citation": "",
    "additional_info": "", "embargo_date": None,
}  # fmt: skip


@dataclass(slots=True)
class Switches(Cost):
    """What the sources leave open, each with the variant that is likelier, and the two ways to run it."""

    mode: str = "s3"  # as in production; "local": bytes on the server's disk, as in development
    body_limit: int = 1024 * 1024  # bytes that the proxy of production lets pass, its default; 0: no limit
    proxy_buffers: bool = False  # whether something in front gives a chunked body its length
    largest_file: int = 10**9  # bytes
    missing_object_status: int = 404  # or 403, for a signer that may not list the bucket
    url_life_s: float = 24 * 3600.0
    token_life_s: float = 26 * WEEK_S
    trim_names: bool = True  # blanks around a filename and a description are cut off, the framework's default
    long_key: str = "error"  # or "accept": a bucket key above 255 characters, the width of its column
    newline_in_local_url: str = "error"  # or "quote": the pattern of the local route does not match a line end
    blank_ends_in_local: str = "lost"  # or "found": the bytes of an upload whose part's name has blanks at its ends
    dot_names: str = "error"  # or "accept": `.`, `..` and `x/` as the part's name
    search_users_open: bool = False  # whether the search for users needs no token
    users_prepare: str = "all"  # or "own": whose attachments the list of users prepares, before it drops them
    anonymous_user: bool = True  # among the users, as the library of permissions makes it
    null_document: str = "error"  # or "accept": a request's document set to nothing

    gateway_s: float = 0.0  # the proxy's patience with the program, 30 s as published; 0: endless
    late_s: float = 0.0  # from the arrival of an upload to its row
    early_reset: bool = True  # of a connection whose large body was not read before the answer
    dated: bool = True  # whether answers have a Date
    keep_alive: str = "kept"  # or "refused": the answer says close; or "cut": closed without a word


class Shelf:
    """Rows in a store."""

    def __init__(self, store: Store, switches: Switches) -> None:
        self.store = store
        self.switches = switches
        store.script(SCHEMA)
        store.run("INSERT OR IGNORE INTO portal_secrets VALUES ('signing', ?)", secrets.token_hex(20))

    @property
    def local(self) -> bool:
        return self.switches.mode == "local"

    # -- finding -------------------------------------------------------------------------------------

    def find(self, table: str, number: Any) -> Row | None:
        """Return the row of an id as a path gives it; a text that is none finds nothing."""
        return self.store.one(f"SELECT * FROM portal_{table} WHERE id = ?", number)  # a table name of our own

    def get(self, table: str, number: Any) -> Row:
        row = self.find(table, number)
        if row is None:
            raise Refusal(404, NOT_FOUND)
        return row

    def attachment(self, number: Any) -> Row:
        """Return an attachment that is not deleted."""
        row = self.get("attachments", number)
        if row["removed"]:
            raise Refusal(404, NOT_FOUND)
        return row

    def all(self, table: str, where: str = "1", *values: Any, order: str = "created, id") -> list[Row]:
        return self.store.all(f"SELECT * FROM portal_{table} WHERE {where} ORDER BY {order}", *values)

    def attachments(self, where: str, *values: Any) -> list[Row]:
        return self.all("attachments", f"NOT removed AND {where}", *values, order="updated, id")

    def organizations_of(self, user: str, order: str = "updated, id") -> list[Row]:
        where = "id IN (SELECT organization FROM portal_members WHERE user = ?)"
        return self.all("organizations", where, user, order=order)

    def is_member(self, organization: int | None, user: str) -> bool:
        sql = "SELECT 1 FROM portal_members WHERE organization = ? AND user = ?"
        return self.store.one(sql, organization, user) is not None

    def may_change(self, attachment: Row, user: Row) -> bool:
        return bool(user["staff"]) or self.owns(attachment, user)

    def owns(self, attachment: Row, user: Row) -> bool:
        return attachment["user"] == user["id"] or self.is_member(attachment["organization"], user["id"])

    # -- making --------------------------------------------------------------------------------------

    def insert(self, table: str, when: int | None = None, **values: Any) -> int:
        """Make a row, by the names of its columns; return its number."""
        now = when or time.time_ns() // 1000
        values = {**values, "created": now, "updated": now}
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        return self.store.run(f"INSERT INTO portal_{table} ({names}) VALUES ({marks})", *values.values())

    def change(self, table: str, number: int, **values: Any) -> None:
        """Set columns of a row and note when."""
        values = {**values, "updated": time.time_ns() // 1000}
        names = ", ".join(f"{name} = ?" for name in values)
        self.store.run(f"UPDATE portal_{table} SET {names} WHERE id = ?", *values.values(), number)

    def add_token(self, user: str, key: str | None = None, age_s: float = 0.0) -> str:
        key = key or secrets.token_hex(25)
        created = time.time_ns() // 1000 - int(age_s * 1e6)
        expires = created + int(self.switches.token_life_s * 1e6)
        self.store.run("INSERT OR REPLACE INTO portal_tokens VALUES (?, ?, ?, ?)", key, user, created, expires)
        return key

    def details(self, material: Row) -> dict[str, Any]:
        """Return the fields of a material that no query needs."""
        found: dict[str, Any] = {**DETAILS, **json.loads(material["details"])}
        return found
