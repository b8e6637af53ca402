"""What a new REDCap stand-in holds: believable projects, and the awkward things that real ones have.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from labfs.sandbox import specimens
from labfs.sandbox.redcap.design import COLUMNS
from labfs.sandbox.redcap.files import type_of
from labfs.sandbox.redcap.shelf import Shelf
from labfs.sandbox.store import MIB

LARGE_MIB = 256
MANY = 5000


def _token(alias: str) -> str:
    return hashlib.md5(f"redcap {alias}".encode(), usedforsecurity=False).hexdigest().upper()


FULL = {
    "api_export": 1, "api_import": 1, "file_repository": 1, "logging": 1, "record_delete": 1, "record_rename": 1,
    "user_rights": 1, "data_export": 1, "dag": "", "role": 1,
}  # fmt: skip
LESS: dict[str, dict[str, Any]] = {
    "reader": {"api_import": 0, "logging": 0, "record_delete": 0, "record_rename": 0, "user_rights": 0, "role": 0},
    "writer": {"api_export": 0, "file_repository": 0},
    "nobody": {"api_export": 0, "api_import": 0},
    "deidentified": {"data_export": 2},
    "no-data": {"data_export": 0},
    "keeper": {"record_delete": 0},
    "north": {"dag": "site_north", "role": 0},
}
PROJECTS = ("biobank", "trial", "plates", "empty", "wells", "odd")
# A project's own name, and behind a slash whoever may do less there.
TOKENS = {alias: _token(alias) for alias in (*PROJECTS, *(f"biobank/{user}" for user in LESS))}


def seed(shelf: Shelf) -> None:
    """Fill an empty service; does nothing to one that has projects."""
    store = shelf.store
    if store.count("SELECT count(*) FROM redcap_projects"):
        return
    with store.transaction():
        # Ids as long as real ones.
        for table, least in (("projects", 4120), ("events", 40180), ("documents", 198020), ("folders", 44)):
            store.run("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", f"redcap_{table}", least)
        _Seeder(shelf).run()


def row(name: str, form: str, kind: str = "text", **more: str) -> dict[str, str]:
    """Return a row of a data dictionary; `choices` and `validation` are short for their long columns."""
    known = {
        "select_choices_or_calculations": more.pop("choices", ""),
        "text_validation_type_or_show_slider_number": more.pop("validation", ""),
        "field_name": name,
        "form_name": form,
        "field_type": kind,
        "field_label": name.replace("_", " ").capitalize(),
        **more,
    }
    return {column: known.get(column, "") for column in COLUMNS}


class _Seeder:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._now = dt.datetime(2026, 3, 2, 9, 30, tzinfo=dt.UTC).timestamp()

    def _later(self) -> float:
        self._now += 600
        return self._now

    def run(self) -> None:
        for fill in (self.biobank, self.trial, self.plates, self.empty, self.wells, self.odd):
            fill()

    # -- pieces ------------------------------------------------------------------------------------------

    def _project(
        self, alias: str, title: str, fields: list[dict[str, str]], *, events: tuple[tuple[int, str, str], ...] = (),
        groups: tuple[str, ...] = (),
    ) -> int:  # fmt: skip
        """Make a project and the tokens to it; a classic one gets the one event that nobody sees."""
        known = [
            {"id": 700 + index, "name": name, "unique": name.lower().replace(" ", "_")}
            for index, name in enumerate(groups)
        ]
        project = self._store.run(
            "INSERT INTO redcap_projects (title, notes, longitudinal, autonumber, groups, created)"
            " VALUES (?, '', ?, 1, ?, ?)", title, bool(events), json.dumps(known), self._later(),
        )  # fmt: skip
        for position, form in enumerate(dict.fromkeys(spec["form_name"] for spec in fields)):
            label = form.replace("_", " ").capitalize()
            self._store.run("INSERT INTO redcap_forms VALUES (?, ?, ?, ?)", project, position, form, label)
        for position, spec in enumerate(fields):
            values = (project, position, spec["field_name"], spec["form_name"], json.dumps(spec))
            self._store.run("INSERT INTO redcap_fields VALUES (?, ?, ?, ?, ?)", *values)
        for arm, name, unique in events or ((1, "Event 1", "event_1_arm_1"),):
            sql = "INSERT INTO redcap_events (project, arm, name, unique_name) VALUES (?, ?, ?, ?)"
            self._store.run(sql, project, arm, name, unique)
        for arm in sorted({event[0] for event in events}):
            self._store.run("INSERT INTO redcap_arms VALUES (?, ?, ?)", project, arm, f"Arm {arm}")
        for name, token in TOKENS.items():
            owner, _, user = name.partition("/")
            if owner == alias:
                self._rights(token, project, user)
        return project

    def _rights(self, token: str, project: int, user: str) -> None:
        rights = {**FULL, **LESS.get(user, {}), "token": token, "project": project, "username": user or "ada"}
        sql = f"INSERT INTO redcap_rights ({', '.join(rights)}) VALUES ({', '.join('?' * len(rights))})"
        self._store.run(sql, *rights.values())

    def _event(self, project: int, unique: str = "event_1_arm_1") -> int:
        sql = "SELECT id FROM redcap_events WHERE project = ? AND unique_name = ?"
        return self._store.count(sql, project, unique)

    def _record(self, project: int, name: str, event: str = "event_1_arm_1", dag: str = "", **values: str) -> None:
        """Make a record, or add values to one."""
        known = self._store.one("SELECT * FROM redcap_records WHERE project = ? AND name = ?", project, name)
        if known is None:
            self._shelf.add_record(project, name, dag, self._later())
        for field, value in {"record_id": name, **values}.items():
            self._shelf.set_value(project, name, self._event(project, event), 1, field, value)

    def _document(self, project: int, name: str, data: bytes) -> int:
        blob = self._store.put(data)
        return self._shelf.add_document(project, name, type_of(name), len(data), blob, None, self._later())

    def _attach(
        self, project: int, record: str, field: str, name: str, data: bytes, *, event: str = "event_1_arm_1",
        instance: int = 1, form: str = "",
    ) -> None:  # fmt: skip
        """Put a file into a field; `form` where that is a repeating one."""
        number, place = self._document(project, name, data), (project, record, self._event(project, event), instance)
        self._shelf.set_value(*place, field, str(number))
        if form:
            self._shelf.set_value(*place, f"{form}_complete", "0")

    def _folder(
        self, project: int, name: str, parent: int = 0, *, dag: str = "", role: int = 0, system: int = 0
    ) -> int:
        return self._store.run(
            "INSERT INTO redcap_folders (project, parent, name, dag, role, system) VALUES (?, ?, ?, ?, ?, ?)",
            project, parent, name, dag, role, system,
        )  # fmt: skip

    def _shelve(self, project: int, folder: int, name: str, data: bytes) -> None:
        number = self._document(project, name, data)
        self._store.run("INSERT INTO redcap_repository VALUES (?, ?, ?, NULL)", number, project, folder)

    # -- projects ----------------------------------------------------------------------------------------

    def biobank(self) -> None:
        """Make a classic project: identifiers, a signature, groups, a locked record and a repository."""
        fields = [
            row("record_id", "intake"),
            row("sample_name", "intake"),
            row("patient_number", "intake", identifier="y"),
            row("tissue", "intake", "radio", choices="1, Colon | 2, Lung | 3, Breast"),
            row("stains", "intake", "checkbox", choices="1, H&E | 2, Ki-67 | 3, HER2"),
            row("consent_scan", "intake", "file", identifier="y"),
            row("consent_signature", "intake", "file", validation="signature"),
            row("pathology_report", "laboratory", "file"),
            row("slide_image", "laboratory", "file"),
            row("counts", "laboratory", "file"),
            row("variants", "laboratory", "file"),
        ]
        project = self._project("biobank", "Tumour biobank 2026", fields, groups=("Site north", "Site south"))
        for number, dag in (("1", "site_north"), ("2", "site_north"), ("3", "site_south"), ("10", "")):
            values = {
                "sample_name": f"S{number}",
                "patient_number": f"P-{number:0>5}",
                "tissue": "2",
                "stains___1": "1",
            }
            self._record(project, number, dag=dag, **values)
        for number in ("1", "2"):
            name = f"S{number}"
            text = ["Tumour biobank, sample " + name, "Two variants of interest in TP53.", "Signed: A. Lab"]
            self._attach(project, number, "pathology_report", "report.pdf", specimens.pdf(text))
            self._attach(project, number, "slide_image", f"{name} H&E.png", specimens.png())
            self._attach(project, number, "counts", "counts.h5", specimens.hdf5())
            self._attach(project, number, "variants", f"{name}.variants.vcf.gz", specimens.vcf_gz(name))
            self._attach(project, number, "consent_scan", "Einverständnis.pdf", specimens.pdf(["I agree."]))
        self._attach(project, "1", "consent_signature", "signature.png", specimens.png(120, 40))
        self._store.run("UPDATE redcap_records SET locked = 1 WHERE project = ? AND name = '10'", project)
        protocols = self._folder(project, "Protocols")
        self._folder(project, "Empty folder")
        self._folder(project, "North only", dag="site_north")
        self._folder(project, "Staff", role=1)
        self._folder(project, "Data Export Files", system=1)
        self._shelve(project, self._folder(project, "2025", protocols), "old.txt", b"superseded\n")
        for edition in (1, 2):  # names are not unique here
            self._shelve(project, 0, "consent.pdf", specimens.pdf([f"Consent, edition {edition}"]))
        self._shelve(project, protocols, "plate layout.csv", specimens.csv())

    def trial(self) -> None:
        """Make a longitudinal project with two arms, a repeating form and a repeating event."""
        fields = [
            row("record_id", "enrolment"),
            row("initials", "enrolment"),
            row("form_scan", "enrolment", "file"),
            row("image", "imaging", "file"),
            row("reads", "sequencing", "file"),
            row("quality", "sequencing", validation="number"),
        ]
        events = ((1, "Baseline", "baseline_arm_1"), (1, "Visit", "visit_arm_1"), (2, "Baseline", "baseline_arm_2"))
        project = self._project("trial", "Treatment response", fields, events=events)
        first, visit = self._event(project, "baseline_arm_1"), self._event(project, "visit_arm_1")
        other = self._event(project, "baseline_arm_2")
        for event, form in ((first, "enrolment"), (first, "imaging"), (visit, "sequencing"), (other, "enrolment")):
            self._store.run("INSERT INTO redcap_mapping VALUES (?, ?)", event, form)
        for event, form in ((first, "imaging"), (visit, "")):
            self._store.run("INSERT INTO redcap_repeating VALUES (?, ?, ?, '')", project, event, form)
        for number in ("1", "2"):
            self._record(project, number, "baseline_arm_1", initials="A. B.")
            self._attach(project, number, "form_scan", "form.pdf", specimens.pdf(["Form"]), event="baseline_arm_1")
        for instance in (1, 2):
            place: dict[str, Any] = {"event": "baseline_arm_1", "instance": instance, "form": "imaging"}
            self._attach(project, "1", "image", "scan.png", specimens.png(64, 32 + instance), **place)
            self._record(project, "1", "visit_arm_1")
            self._shelf.set_value(project, "1", visit, instance, "record_id", "1")
            name = f"NA12871_S{instance}_L001_R1_001.fastq.gz"
            reads = specimens.fastq_gz("NA12871", instance)
            self._attach(project, "1", "reads", name, reads, event="visit_arm_1", instance=instance)
        self._record(project, "7", "baseline_arm_2", initials="C. D.")

    def plates(self) -> None:
        """Make a classic project with a repeating form, and a large file."""
        fields = [
            row("record_id", "plate"),
            row("label", "plate"),
            row("raw", "plate", "file"),
            row("run_table", "run", "file"),
        ]
        project = self._project("plates", "Plate reader", fields)
        self._store.run("INSERT INTO redcap_repeating VALUES (?, ?, 'run', '')", project, self._event(project))
        for number in ("1", "2"):
            self._record(project, number, label=f"Plate {number}")
            for instance in (1, 2, 3):
                place: dict[str, Any] = {"instance": instance, "form": "run"}
                self._attach(project, number, "run_table", "run.csv", specimens.csv(12 * instance), **place)
        large = self._shelf.add_document(
            project, "run42.raw.bin", "application/octet-stream", LARGE_MIB * MIB, f"made-large-{LARGE_MIB}", None,
            self._later(),
        )  # fmt: skip
        self._record(project, "1", raw=str(large))

    def empty(self) -> None:
        """Make a project without a record, of the same title as another."""
        self._project("empty", "Plate reader", [row("record_id", "plate"), row("raw", "plate", "file")])

    def wells(self) -> None:
        """Make a project with very many records, a file in each."""
        fields = [row("record_id", "well"), row("table", "well", "file")]
        project = self._project("wells", "Five thousand wells", fields)
        event, data, created = self._event(project), specimens.csv(12), self._later()
        blob = self._store.put(data)
        first = 1 + self._store.count("SELECT seq FROM sqlite_sequence WHERE name = 'redcap_documents'")

        def values() -> Iterator[tuple[Any, ...]]:
            for index in range(MANY):
                yield (project, str(index + 1), event, 1, "record_id", str(index + 1))
                yield (project, str(index + 1), event, 1, "table", str(first + index))

        documents = (
            (first + index, project, f"well-{index:04d}.csv", "text/csv", len(data), blob, created)
            for index in range(MANY)
        )
        self._store.many("INSERT INTO redcap_documents VALUES (?, ?, ?, ?, ?, ?, ?)", documents)
        records = ((project, str(index + 1), created, created) for index in range(MANY))
        self._store.many("INSERT INTO redcap_records (project, name, created, modified) VALUES (?, ?, ?, ?)", records)
        self._store.many("INSERT INTO redcap_values VALUES (?, ?, ?, ?, ?, ?)", values())

    def odd(self) -> None:
        """Make names that a file system cannot take as they are, and twins by case and by Unicode form."""
        fields = [row("record_id", "main"), row("attachment", "main", "file"), row("second", "main", "file")]
        project = self._project("odd", "../../etc", fields)
        names = ("..", ".", "a/b", "two\nlines.txt", "caf\u00e9.txt", "cafe\u0301.txt", "CAF\u00c9.txt", "100%2F.txt",
                 " blank ", "[document]", 'semi;colon="x".txt', "x" * 200 + ".txt")  # fmt: skip
        for index, name in enumerate(names):
            record = name if index < 3 else f"R-{index}"
            self._record(project, record)
            self._attach(project, record, "attachment", name, f"content of {name!r}\n".encode())
            self._shelve(project, 0, name, f"repository content of {name!r}\n".encode())
        self._record(project, "R 3")
        self._attach(project, "R 3", "attachment", "nothing.txt", b"")
        self._attach(project, "R 3", "second", "error.txt", b"<error>no error at all</error>\n")
        self._folder(project, "..")
        self._folder(project, "a/b")
        self._folder(project, "consent.pdf")
        self._shelve(project, 0, "consent.pdf", specimens.pdf(["A file beside a folder of its name"]))
