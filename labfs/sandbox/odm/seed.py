"""What a new ODM stand-in holds: believable studies, and the awkward things that real ones have.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

import datetime as dt
import gzip
import io
import json
import zipfile
from collections.abc import Iterator

from labfs.sandbox import specimens
from labfs.sandbox.odm.answers import Item
from labfs.sandbox.odm.shelf import FILE, STUDY, Shelf
from labfs.sandbox.store import MIB

# They open nothing but a sandbox. `token` may do everything, `curator` all but delete, `user` only read.
TOKENS = {
    "token": "sandbox-odm-token",
    "access_token": "sandbox-odm-access-token",
    "curator": "sandbox-odm-curator-token",
    "user": "sandbox-odm-user-token",
    "revoked": "sandbox-odm-revoked-token",
}
OWNER, CURATOR, USER = 1, 2, 3
LARGE_MIB = 256
MANY = 2500  # files of one study, more than a page holds
FIRST_STUDY, FIRST_FILE, FIRST_JOB = 282799, 1283030, 2115  # as the published examples name them


def seed(shelf: Shelf) -> None:
    """Fill an empty service; does nothing to one that has users."""
    store = shelf.store
    if store.count("SELECT count(*) FROM odm_users"):
        return
    with store.transaction():
        for number, name, curator, manager in (
            (OWNER, "Ada Lab", True, True),
            (CURATOR, "Cy Urator", True, False),
            (USER, "Uma Reader", False, False),
        ):
            email = f"{name.split()[0].lower()}@lab.example"
            row = (number, email, name, curator, manager, manager)
            store.run("INSERT INTO odm_users VALUES (?, ?, ?, ?, ?, ?)", *row)
        for key, user in (
            ("token", OWNER),
            ("access_token", OWNER),
            ("curator", CURATOR),
            ("user", USER),
            ("revoked", OWNER),
        ):
            kind = "access-token" if key == "access_token" else "api-token"
            store.run("INSERT INTO odm_tokens VALUES (?, ?, ?, ?)", TOKENS[key], kind, user, key == "revoked")
        for table, first in (("odm_objects", FIRST_FILE), ("odm_jobs", FIRST_JOB)):
            store.run("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", table, first - 1)
        _Seeder(shelf).run()


class _Seeder:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._now = dt.datetime(2026, 2, 2, 9, 30, tzinfo=dt.UTC).timestamp()
        self._study = FIRST_STUDY

    def _later(self) -> float:
        self._now += 3600
        return self._now

    def run(self) -> None:
        self._gut()
        self._untitled()
        self._cells()
        self._draft()
        self._odd()
        self._many()
        self._large()

    def _make(self, title: str | None, attributes: Item, published: bool = True, name: str | None = None) -> int:
        """Make a study; its title is an attribute and may be null."""
        made = self._shelf.add(
            STUDY, None, title or name, {"Study Title": title, **attributes}, OWNER, self._later(),
            number=self._study, published=published,
        )  # fmt: skip
        self._study += 13
        return made

    def _attach(self, study: int, name: str, data: bytes, data_class: str | None, **attributes: object) -> int:
        known: Item = {} if data_class is None else {"Data Class": data_class}
        return self._blob(study, name, self._shelf.store.put(data), len(data), {**known, **attributes})

    def _blob(self, study: int, name: str, blob: str | None, size: int, attributes: Item) -> int:
        return self._shelf.add(FILE, study, name, attributes, OWNER, self._later(), blob=blob, size=size)

    def _gut(self) -> None:
        about = {
            "Study Source": "ArrayExpress",
            "Study Description": "Vertical transmission of the gut microbiome, stool of mothers and infants",
            "Organism": ["Homo sapiens"],
            "Contributor": ["F. Asnicar", "Zoë Müller"],
            "Year": 2017,
            "Embargo": False,
        }
        study = self._make("Infant gut, 2017", about)
        self._attach(study, "AsnicarF_2017_sample.pdf", specimens.pdf(["Sampling of stool", "Signed: A. Lab"]), "Other")
        self._attach(study, "counts.h5ad", specimens.hdf5(), "Single-cell transcriptomics", Cells=3, Genes=2)
        self._attach(study, "species.csv", specimens.csv(), "Microbiome / Metagenomics", Tool="MetaPhlAn", Depth=4.5)
        self._attach(study, "reads.zip", _archive(), "Microbiome / Metagenomics")
        self._attach(study, "S1_R1.fastq.gz", specimens.fastq_gz("S1", 1), "Long-read sequencing (Nanopore, PacBio)")
        self._attach(study, "coverage.png", specimens.png(), "Cell imaging", **{"Image/Channel: main": "DAPI"})
        for text in ("first draft", "second draft"):  # twins: a name is only an attribute
            self._attach(study, "protocol.txt", f"{text}\n".encode(), "Document")
        self._groups(study)

    def _groups(self, study: int) -> None:
        """Make six samples, a library of each and preparations of two."""
        add, when = self._shelf.add, self._later()
        samples = add("SAMPLE_GROUP", study, "Samples", {"Template": "Default"}, OWNER, when)
        libraries = add("LIBRARY_GROUP", study, "Libraries", {}, OWNER, when)
        preparations = add("PREPARATION_GROUP", study, "Preparations", {}, OWNER, when)
        link = "INSERT INTO odm_links VALUES (?, ?)"
        for group in (libraries, preparations):
            self._shelf.store.run(link, samples, group)
        for index in range(6):
            role = "Mother" if index % 2 else "Infant"
            sample = add("SAMPLE_OBJECT", samples, f"S{index + 1}", {"Donor": role, "Tissue": "stool"}, OWNER, when)
            library = add("LIBRARY_OBJECT", libraries, f"L{index + 1}", {"Library ID": f"L{index + 1}"}, OWNER, when)
            self._shelf.store.run(link, sample, library)
            if index < 2:
                made = add("PREPARATION_OBJECT", preparations, f"P{index + 1}", {"Kit": "DNeasy"}, OWNER, when)
                self._shelf.store.run(link, sample, made)

    def _untitled(self) -> None:
        """Null and equal titles are normal, and so is a study that nobody attached anything to."""
        self._make(None, {"Study Source": "GEO"})
        self._make(None, {"Study Source": "GEO"}, name="GSE131907 import")
        for year in (2019, 2021):
            study = self._make("Lung atlas", {"Study Source": "GEO", "Year": year})
            self._attach(study, "readme.txt", f"Lung atlas of {year}\n".encode(), "Document")
        self._make("Empty study", {"Study Source": "Lab"})

    def _cells(self) -> None:
        study = self._make("Blutzellen bei Müdigkeit · 血液", {"Study Source": "Lab", "Organism": "Homo sapiens"})
        self._attach(study, "variants.vcf.gz", specimens.vcf_gz("S2"), "Gene panel data")
        self._attach(study, "counts.h5.gz", gzip.compress(specimens.hdf5(), mtime=0), "Bulk transcriptomics")
        self._attach(study, "broken.h5", b"this is no HDF5 file\n", "Proteomics")
        self._attach(study, "empty.txt", b"", "Document")
        self._attach(study, "unclassified.csv", specimens.csv(12), None)
        self._attach(study, "old-class.csv", specimens.csv(24), "Microarray")  # a class that is no more
        self._blob(study, "lost.bam", None, 4096, {"Data Class": "Other"})  # its bytes are gone from the bucket

    def _draft(self) -> None:
        study = self._make("Draft: fatigue follow-up", {"Study Source": "Lab"}, published=False)
        self._attach(study, "plan.pdf", specimens.pdf(["Plan", "Not published yet"]), "Document")

    def _odd(self) -> None:
        """Names that a file system cannot take as they are, and twins by case and by Unicode form."""
        study = self._make("../../etc", {"Study Source": "Lab"})
        for name in ("..", ".", "a/b", "two\nlines.txt", "caf\u00e9.txt", "cafe\u0301.txt", "CAF\u00c9.txt",
                     "100%2F.txt", " blank ", "", "x" * 300 + ".txt", "nul\0byte.txt", "tab\there.txt", "report.txt",
                     "report.txt", "report [GSF1].txt", 'say "hi".txt'):  # fmt: skip
            self._attach(study, name, f"content of {name!r}\n".encode(), "Other")

    def _many(self) -> None:
        study = self._make("Plate screen with very many files", {"Study Source": "Lab"})
        data = specimens.csv(12)
        blob, when = self._shelf.store.put(data), self._later()

        def rows() -> Iterator[tuple[object, ...]]:
            attributes = json.dumps({"Data Class": "Genetic screens (CRISPR / RNAi)"})
            for index in range(MANY):
                name = f"well-{index:04d}.csv"
                yield (FILE, study, study, name, attributes, OWNER, when, when, blob, len(data))

        self._shelf.store.many(
            "INSERT INTO odm_objects (kind, study, parent, name, attributes, owner, created, changed,"
            " blob, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows(),
        )

    def _large(self) -> None:
        study = self._make("Large things", {"Study Source": "Lab"})
        self._blob(study, "run42.raw.bin", f"made-large-{LARGE_MIB}", LARGE_MIB * MIB, {"Data Class": "Other"})


def _archive() -> bytes:
    """Return a ZIP of two folders, the same at every call."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (
            ("reads/S1.csv", specimens.csv(8)),
            ("reads/S2.csv", specimens.csv(9)),
            ("notes.txt", b"ok\n"),
        ):
            archive.writestr(zipfile.ZipInfo(name, (2026, 2, 2, 9, 30, 0)), data)
    return out.getvalue()
