"""What the Clarity stand-in holds: rows, how they are found, and how files are attached.

Bytes belong to a location, not to a file: deleting a file leaves them where they are.

Tests: sandbox/test_clarity_sandbox, clients/test_clarity_clients.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from labfs.sandbox.clarity.wire import Refusal
from labfs.sandbox.cost import Cost
from labfs.sandbox.store import Row, Store

BASE = "/api/v2"
FILESTORE = "sftp://127.0.0.1/opt/gls/clarity/users/glsftp"  # where a client with SFTP would find the bytes
REMOTE = "/filestore/"  # path of the remote store, which serves without credentials
UNDER_REVIEW = "Under Review"  # state of a step whose samples a manager looks at
FILE_TYPES = ("ResultFile", "SharedResultFile", "SearchResultFile", "Image")  # artifacts that hold a file

SCHEMA = """
CREATE TABLE IF NOT EXISTS clarity_users (username TEXT PRIMARY KEY, password TEXT, api INTEGER);
CREATE TABLE IF NOT EXISTS clarity_researchers (id INTEGER PRIMARY KEY, first TEXT, last TEXT);
CREATE TABLE IF NOT EXISTS clarity_projects (id INTEGER PRIMARY KEY, limsid TEXT UNIQUE, name TEXT, researcher INTEGER,
    opened TEXT, modified REAL);
CREATE TABLE IF NOT EXISTS clarity_samples (id INTEGER PRIMARY KEY, limsid TEXT UNIQUE, name TEXT, project TEXT,
    submitter INTEGER, received TEXT, artifact TEXT);
CREATE INDEX IF NOT EXISTS clarity_samples_of ON clarity_samples (project);
CREATE TABLE IF NOT EXISTS clarity_artifacts (id INTEGER PRIMARY KEY, limsid TEXT UNIQUE, name TEXT, type TEXT,
    process TEXT, state INTEGER, qc TEXT DEFAULT 'UNKNOWN', working INTEGER DEFAULT 1, artifact_group TEXT,
    container TEXT, container_name TEXT, well TEXT, label TEXT, shared INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS clarity_made_of (artifact TEXT, sample TEXT, PRIMARY KEY (artifact, sample));
CREATE INDEX IF NOT EXISTS clarity_made_into ON clarity_made_of (sample);
CREATE TABLE IF NOT EXISTS clarity_processes (id INTEGER PRIMARY KEY, limsid TEXT UNIQUE, type_id INTEGER, type TEXT,
    technician INTEGER, run TEXT, started TEXT, completed TEXT, state TEXT, modified REAL);
CREATE TABLE IF NOT EXISTS clarity_maps (process TEXT, input TEXT, output TEXT, generation TEXT);
CREATE INDEX IF NOT EXISTS clarity_maps_of ON clarity_maps (process);
CREATE INDEX IF NOT EXISTS clarity_maps_from ON clarity_maps (input);
CREATE TABLE IF NOT EXISTS clarity_fields (owner TEXT, udt TEXT, name TEXT, type TEXT, value TEXT);
CREATE INDEX IF NOT EXISTS clarity_fields_of ON clarity_fields (owner);
CREATE TABLE IF NOT EXISTS clarity_files (id INTEGER PRIMARY KEY, limsid TEXT UNIQUE, kind TEXT, owner TEXT,
    location TEXT UNIQUE, original TEXT, published INTEGER DEFAULT 0);
CREATE INDEX IF NOT EXISTS clarity_files_of ON clarity_files (owner);
CREATE TABLE IF NOT EXISTS clarity_locations (location TEXT PRIMARY KEY, blob TEXT);
CREATE INDEX IF NOT EXISTS clarity_locations_of ON clarity_locations (blob);
CREATE TABLE IF NOT EXISTS clarity_numbers (series TEXT PRIMARY KEY, last INTEGER);
"""


@dataclass(slots=True)
class Switches(Cost):
    """What the sources leave open or differ about, each with the variant that is likelier."""

    realm: str = "GLSSecurity"  # of the challenge
    basic: str = "utf-8"  # how user names and passwords are read; or "latin-1"
    password: str = ""  # that everybody has; empty for the one in `sandbox.json`
    https_only: bool = False  # answer 301 to the same address with https
    host: str = ""  # origin in the addresses of answers; empty for the true one
    page_size: int = 500
    unknown_parameter: str = "ignore"  # or "refuse"
    processes_by_project_id: bool = False  # a filter `projectlimsid` for processes
    files_project: str = "projectlimsid"  # name of the project filter for files
    files_process_type: str = "process-type"  # name of the process type filter for files
    processes_served: bool = True  # the deprecated `processes/ID`
    wrong_type_status: int = 415  # a body that is not called XML
    unresolved_status: int = 404  # a batch that names what is not there
    upload_limit: int = 10_485_760  # bytes of one file
    over_limit_status: int = 413
    limit_in_properties: bool = True
    part_status: int = 400  # a form that is not one part named `file`
    completed_step: str = "refuse"  # uploads to a completed step; or "accept"
    completed_status: int = 400  # of both
    review: str = "refuse"  # uploads to a step whose samples are under review; or "accept"
    second_attach: str = "replace"  # to a filled placeholder; or "refuse"
    steps_attachable: bool = True  # `steps/ID` is taken for `processes/ID`
    bytes_first: bool = False  # old servers want the bytes before the record
    missing_status: int = 404  # download of a file whose bytes never came
    head: bool = True
    ranges: bool = False  # also sends ETag and Last-Modified
    file_ids: str = "plain"  # 40-7; or "owned": ADM1-40-7
    original_name: bool = True
    embedded_files: bool = False  # the whole file record inside an artifact
    shared_type: str = "SharedResultFile"  # of a shared placeholder, in a process; or "ResultFile"
    shared_step_type: str = "ResultFile"  # of the same in the details of a step, as s4-clarity reads them
    attach_touches_project: bool = False  # attaching a file bumps the project's last-modified


@dataclass(frozen=True, slots=True)
class Target:
    """What a file is attached to; `kind` is the plural in its address."""

    kind: str
    limsid: str


class Shelf:
    """Rows in a store, bytes in its blobs."""

    def __init__(self, store: Store, switches: Switches) -> None:
        self.store = store
        self.switches = switches
        store.script(SCHEMA)

    def find(self, kind: str, limsid: str) -> Row | None:
        return self.store.one(f"SELECT * FROM clarity_{kind} WHERE limsid = ?", limsid)  # a table of our own

    def row(self, kind: str, limsid: str) -> Row:
        row = self.find(kind, limsid)
        if row is None:
            raise Refusal(404, f"Requested resource not found: {kind} with LIMS ID {limsid}")
        return row

    def number(self, series: str) -> int:
        """Use up a number of a series."""
        self.store.run("UPDATE clarity_numbers SET last = last + 1 WHERE series = ?", series)
        return self.store.count("SELECT last FROM clarity_numbers WHERE series = ?", series)

    def samples_of(self, artifact: str) -> list[Row]:
        return self.store.all(
            "SELECT s.* FROM clarity_made_of m JOIN clarity_samples s ON s.limsid = m.sample WHERE m.artifact = ?"
            " ORDER BY s.id",
            artifact,
        )

    def files_of(self, owner: str) -> list[Row]:
        return self.store.all("SELECT * FROM clarity_files WHERE owner = ? ORDER BY id", owner)

    # -- attaching -------------------------------------------------------------------------------------

    def target(self, address: str) -> Target:
        """Return what an `attached-to` names, or refuse it; its host and state do not matter."""
        found = re.fullmatch(f"{BASE}/([a-z]+)/([A-Za-z0-9-]+)", urlsplit(address).path)
        kind, limsid = found.groups() if found else ("", "")
        if kind == "steps" and self.switches.steps_attachable:
            kind = "processes"
        if kind not in ("projects", "samples", "processes", "artifacts"):
            raise Refusal(400, f"Files cannot be attached to {address!r}")
        row = self.find(kind, limsid)
        if row is None:
            raise Refusal(400, f"There is nothing to attach to at {address!r}")
        if kind == "artifacts" and row["type"] not in FILE_TYPES:
            raise Refusal(400, f"Files cannot be attached to an artifact of type {row['type']}")
        return Target(kind, limsid)

    def process_of(self, target: Target) -> Row | None:
        """Return the step that a file belongs to, if it belongs to one."""
        if target.kind == "processes":
            return self.find("processes", target.limsid)
        if target.kind == "artifacts":
            return self.find("processes", self.row("artifacts", target.limsid)["process"] or "")
        return None

    def projects_of(self, target: Target) -> list[str]:
        """Return the LIMS IDs of the projects that something belongs to."""
        if target.kind == "projects":
            return [target.limsid]
        samples = "SELECT ?1"
        if target.kind == "artifacts":
            samples = "SELECT sample FROM clarity_made_of WHERE artifact = ?1"
        if target.kind == "processes":
            samples = (
                "SELECT sample FROM clarity_made_of WHERE artifact IN"
                " (SELECT input FROM clarity_maps WHERE process = ?1)"
            )
        sql = f"SELECT DISTINCT project FROM clarity_samples WHERE limsid IN ({samples}) AND project IS NOT NULL"
        return [row["project"] for row in self.store.all(sql, target.limsid)]

    def allocate(self, target: Target, original: str) -> str:
        """Return a location that no other call was given."""
        process = self.process_of(target)
        if process is None:
            folder = f"Project/{next(iter(self.projects_of(target)), 'controls')}"
        else:
            year, month = process["started"][:4], int(process["started"][5:7])
            folder = f"Process/{year}/{month}/{process['limsid']}"
        ending = re.search(r"\.[A-Za-z0-9]{1,10}$", original)
        name = f"{target.limsid}-40-{self.number('file')}{ending.group() if ending else ''}"
        location = f"{FILESTORE}/{folder}/{name}"
        self.store.run("INSERT INTO clarity_locations VALUES (?, NULL)", location)
        return location

    def attach(self, target: Target, location: str, original: str, published: bool = False) -> Row:
        """Make the record of a file; of an artifact's files the last one stays."""
        if target.kind == "artifacts" and self.files_of(target.limsid):
            if self.switches.second_attach == "refuse":
                raise Refusal(400, f"Artifact {target.limsid} has a file already")
            self.store.run("DELETE FROM clarity_files WHERE owner = ?", target.limsid)
        number = self.number("file")
        limsid = f"40-{number}" if self.switches.file_ids == "plain" else f"{target.limsid}-40-{number}"
        self.store.run(
            "INSERT INTO clarity_files VALUES (?, ?, ?, ?, ?, ?, ?)",
            number, limsid, target.kind, target.limsid, location, original, published,
        )  # fmt: skip
        if self.switches.attach_touches_project:
            for project in self.projects_of(target):
                self.store.run("UPDATE clarity_projects SET modified = ? WHERE limsid = ?", time.time(), project)
        return self.row("files", limsid)

    def blob(self, location: str) -> str | None:
        row = self.store.one("SELECT blob FROM clarity_locations WHERE location = ?", location)
        return row["blob"] if row else None

    def fill(self, location: str, blob: str) -> None:
        """Put other bytes at a location; those that nobody needs any more are gone."""
        before = self.blob(location)
        self.store.run("UPDATE clarity_locations SET blob = ? WHERE location = ?", blob, location)
        if before and not self.store.count("SELECT count(*) FROM clarity_locations WHERE blob = ?", before):
            self.store.drop(before)
