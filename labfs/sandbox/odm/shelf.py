"""What the ODM stand-in holds: objects under accessions, how they are found and how they are shown.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from labfs.sandbox.odm import contents
from labfs.sandbox.odm.answers import Item, Refusal, moment
from labfs.sandbox.odm.switches import Switches
from labfs.sandbox.store import Row, Store

CLASSES = (
    "Bulk transcriptomics", "Single-cell transcriptomics", "Differential abundance (FC, pval, etc.)",
    "Pathway analysis", "Proteomics", "Single-cell proteomics", "Metabolomics", "Lipidomics", "Epigenomics",
    "DNA methylation", "Chemoinformatics", "Imaging features", "Gene panel data", "Biomarker data",
    "Physical measures", "Blood counts", "Other body fluid counts", "Long-read sequencing (Nanopore, PacBio)",
    "Flow Cytometry (FCS)", "Spatial transcriptomics", "Phenomics", "Copy number alterations",
    "Microbiome / Metagenomics", "Immune repertoire", "Genetic screens (CRISPR / RNAi)", "Cell imaging",
    "Document", "Other",
)  # fmt: skip

# Kinds of objects as the deletion names them.
STUDY, FILE = "STUDY", "FILE"
GROUPS = {"SAMPLE_GROUP": "SAMPLE_OBJECT", "LIBRARY_GROUP": "LIBRARY_OBJECT", "PREPARATION_GROUP": "PREPARATION_OBJECT"}

MINIMAL = ("Study Title", "Study Source")  # the default template
TEMPLATE = (*MINIMAL, "Study Description", "Organism", "Contributor", "Year")
DETAIL = ("minimal_data", "extended_data_included", "original_data_included")

SCHEMA = """
CREATE TABLE IF NOT EXISTS odm_users (id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT, name TEXT,
    curator INTEGER, manager INTEGER, sees_all INTEGER);
CREATE TABLE IF NOT EXISTS odm_tokens (token TEXT PRIMARY KEY, kind TEXT, user INTEGER, revoked INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS odm_objects (number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, study INTEGER,
    parent INTEGER, name TEXT, attributes TEXT, owner INTEGER, published INTEGER DEFAULT 0, created REAL, changed REAL,
    born REAL DEFAULT 0, gone REAL, blob TEXT, size INTEGER);
CREATE INDEX IF NOT EXISTS odm_by_study ON odm_objects (study, kind);
CREATE INDEX IF NOT EXISTS odm_by_kind ON odm_objects (kind);
CREATE INDEX IF NOT EXISTS odm_by_blob ON odm_objects (blob);
CREATE TABLE IF NOT EXISTS odm_links (first INTEGER, second INTEGER, PRIMARY KEY (first, second));
CREATE TABLE IF NOT EXISTS odm_versions (study INTEGER, version INTEGER, author TEXT, message TEXT, timestamp REAL,
    attributes TEXT, PRIMARY KEY (study, version));
CREATE TABLE IF NOT EXISTS odm_jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, user INTEGER, link TEXT,
    created REAL, ends REAL, outcome TEXT, problem TEXT, result TEXT);
CREATE TABLE IF NOT EXISTS odm_audit (id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL, user INTEGER, event TEXT,
    target INTEGER);
"""
_ACCESSION = re.compile(r"GSF(\d{1,15})")
# Multiplied by an odd number, the low bits of a number are as good as shuffled, and always the same way.
ORDERS = {"ascending": "number", "descending": "number DESC", "scattered": "(number * 2654435761) % 4294967296"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and as what."""

    user: int
    email: str
    curator: bool
    deletes: bool
    audience: str = "as-user"

    @property
    def sees_drafts(self) -> bool:
        return self.audience == "as-curator"


class Shelf:
    """Objects in a store. An object is there from `born` and until `gone`, in seconds since 1970."""

    def __init__(self, store: Store, switches: Switches) -> None:
        self.store = store
        self.switches = switches
        store.script(SCHEMA)

    # -- finding -----------------------------------------------------------------------------------------

    def _there(self, caller: Caller, lag: float = 0.0) -> tuple[str, tuple[float, float]]:
        """Return the condition under which a caller sees an object."""
        now = time.time()
        where = "born <= ? AND (gone IS NULL OR gone > ?)"
        if not caller.sees_drafts:
            where += " AND study IN (SELECT number FROM odm_objects WHERE kind = 'STUDY' AND published)"
        return where, (now - lag, now)

    def find(self, accession: str, caller: Caller, *kinds: str) -> Row:
        """Return the object of an accession. Raises Refusal."""
        found = _ACCESSION.fullmatch(accession)
        if found is None:
            raise Refusal(self.switches.bad_id_status, f"“{accession}” is not an accession.")
        where, values = self._there(caller)
        row = self.store.one(f"SELECT * FROM odm_objects WHERE number = ? AND {where}", int(found[1]), *values)
        if row is None:
            raise Refusal(404, f"Object with accession {accession} could not be found in ODM.")
        if kinds and row["kind"] not in kinds:
            raise Refusal(self.switches.wrong_kind_status, f"Object {accession} is a {row['kind']}.")
        return row

    def rows(
        self, caller: Caller, where: str, *values: Any, order: str = "number", lag: float = 0.0,
        window: tuple[int, int] = (0, -1),
    ) -> list[Row]:  # fmt: skip
        """Return the objects that a caller sees; the window is an offset and a limit in objects."""
        there, times = self._there(caller, lag)
        sql = f"SELECT * FROM odm_objects WHERE {where} AND {there} ORDER BY {order}, number LIMIT ? OFFSET ?"
        return self.store.all(sql, *values, *times, window[1], window[0])

    def count(self, caller: Caller, where: str, *values: Any, lag: float = 0.0) -> int:
        there, times = self._there(caller, lag)
        return self.store.count(f"SELECT count(*) FROM odm_objects WHERE {where} AND {there}", *values, *times)

    def files_of(self, study: int, caller: Caller) -> list[Row]:
        lag = self.switches.index_lag_s if self.switches.links_lag else 0.0
        order = ORDERS[self.switches.file_order]
        return self.rows(caller, "kind = 'FILE' AND study = ?", study, order=order, lag=lag)

    # -- making and removing -----------------------------------------------------------------------------

    def add(
        self, kind: str, parent: int | None, name: str | None, attributes: Item, owner: int, created: float, *,
        number: int | None = None, published: bool = False, born: float = 0.0, blob: str | None = None, size: int = 0,
    ) -> int:  # fmt: skip
        """Make an object below another one, or a study; return its number."""
        study = None
        if parent is not None:
            above = self.store.one("SELECT study FROM odm_objects WHERE number = ?", parent)
            study = above["study"] if above else None  # samples have none before they are linked
        made = self.store.run(
            "INSERT INTO odm_objects (number, kind, study, parent, name, attributes, owner, published, created,"
            " changed, born, blob, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            number, kind, study, parent, name, json.dumps(attributes), owner, published, created, created,
            born, blob, size,
        )  # fmt: skip
        if kind == STUDY:
            self.store.run("UPDATE odm_objects SET study = number WHERE number = ?", made)
            self.add_version(made, self.email(owner), "Imported", created, attributes)
        return made

    def add_version(self, study: int, author: str, message: str, when: float, attributes: Item) -> None:
        number = self.store.count("SELECT coalesce(max(version), 0) + 1 FROM odm_versions WHERE study = ?", study)
        values = (study, number, author, message, when, json.dumps(attributes))
        self.store.run("INSERT INTO odm_versions VALUES (?, ?, ?, ?, ?, ?)", *values)

    def below(self, row: Row) -> list[Row]:
        """Return an object and all that goes with it."""
        if row["kind"] == STUDY:
            return self.store.all("SELECT * FROM odm_objects WHERE study = ? ORDER BY number", row["number"])
        sql = "SELECT * FROM odm_objects WHERE number = ?1 OR parent = ?1 ORDER BY number"
        return self.store.all(sql, row["number"])

    def doom(self, rows: Iterable[Row], when: float) -> None:
        sql = "UPDATE odm_objects SET gone = min(coalesce(gone, ?1), ?1) WHERE number = ?2"
        self.store.many(sql, iter([(when, row["number"]) for row in rows]))

    def sweep(self) -> None:
        """Drop the bytes that no object needs any more."""
        gone = "gone IS NOT NULL AND gone <= ?"
        sql = f"SELECT DISTINCT blob FROM odm_objects WHERE blob IS NOT NULL AND {gone}"
        now = time.time()
        for row in self.store.all(sql, now):
            used = "SELECT count(*) FROM odm_objects WHERE blob = ? AND (gone IS NULL OR gone > ?)"
            if not row["blob"].startswith("made-") and not self.store.count(used, row["blob"], now):
                self.store.drop(row["blob"])
        self.store.run(f"UPDATE odm_objects SET blob = NULL WHERE {gone}", now)

    def note(self, caller: Caller, event: str, numbers: Iterable[int]) -> None:
        """Write an audit event for each object."""
        rows = [(time.time(), caller.user, event, number) for number in numbers]
        with self.store.transaction():
            self.store.many("INSERT INTO odm_audit (time, user, event, target) VALUES (?, ?, ?, ?)", iter(rows))

    # -- showing -----------------------------------------------------------------------------------------

    def email(self, user: int) -> str:
        row = self.store.one("SELECT email FROM odm_users WHERE id = ?", user)
        return row["email"] if row else ""

    def item(self, row: Row) -> Item:
        """Return an object as the flat map of its attributes."""
        return {
            "genestack:accession": f"GSF{row['number']}",
            **({} if row["name"] is None else {"genestack:name": row["name"]}),
            **json.loads(row["attributes"]),
        }

    def file_item(self, row: Row, with_contents: bool = False) -> Item:
        item = self.item(row)
        if not with_contents:
            return item
        if contents.is_container(row["name"]):
            form = self.switches.contents_form
            lost = {"error": "The contents of the file could not be read: it cannot be retrieved"}
            item["contents"] = contents.of(self.store.path(row["blob"]), row["name"], form) if row["blob"] else lost
        elif self.switches.other_contents == "null":
            item["contents"] = None
        return item

    def study_item(self, row: Row, caller: Caller, detail: str | None) -> Item:
        """Return a study with as many attributes as are asked for."""
        detail = detail or (DETAIL[2] if caller.sees_drafts else DETAIL[1])
        item = self.item(row)
        if detail == DETAIL[0]:
            return {key: value for key, value in item.items() if key == "genestack:accession" or key in MINIMAL}
        if detail == DETAIL[1]:
            return {key: value for key, value in item.items() if key.startswith("genestack:") or key in TEMPLATE}
        return {**item, **{key: None for key in TEMPLATE if key not in item}}

    def doomed_item(self, row: Row) -> Item:
        return {
            "genestack:accession": f"GSF{row['number']}",
            "objectType": row["kind"],
            "ownerEmail": self.email(row["owner"]),
            "createdAt": moment(row["created"]),
        }
