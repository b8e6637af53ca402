"""What a new Portal stand-in holds: three researchers, their teams and materials, and awkward things of real life.

Tests: sandbox/test_portal_sandbox, sandbox/test_portal_truths.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from labfs.sandbox import specimens
from labfs.sandbox.blobs import Blobs
from labfs.sandbox.portal.shelf import WEEK_S, Shelf

ADA = "10000000-0f5a-4165-b518-b2386a753d6f"
BEN = "20000000-a55d-42b7-b53e-056956e18b8c"
SAM = "30000000-4b1e-4c1d-9f6a-3f0f5f0c7a11"  # staff
LOU = "40000000-77aa-4e0b-8c43-d3a0b1c9e522"  # whose token is too old
FAY = "50000000-1c2d-4d5e-9a6b-7c8d9e0f1a33"  # who has left
NOBODY = "60000000-2b3c-4d5e-8f6a-5b4c3d2e1f00"  # whom the library of permissions makes, before all others
MANY = 2000


def _key(word: str) -> str:
    return hashlib.sha256(f"portal {word}".encode()).hexdigest()[:50]


CREDENTIALS: dict[str, str] = {
    "token": _key("ada"),
    "user_id": ADA,
    "other_token": _key("ben"),
    "other_user_id": BEN,
    "staff_token": _key("sam"),
    "expired_token": _key("lou"),
    "inactive_token": _key("fay"),
    "expired_orcid": "0000-0002-1825-0004",
    "expired_orcid_token": "sandbox-orcid-token-4",
}
PEOPLE = (
    (ADA, "Ada", "Lab", "token", 0, 1),
    (BEN, "Ben", "Bench", "other_token", 0, 1),
    (SAM, "Sam", "Staff", "staff_token", 1, 1),
    (LOU, "Lou", "Late", "expired_token", 0, 1),
    (FAY, "Fay", "Former", "inactive_token", 0, 0),
)
ODD_NAMES = (
    "..", ".", "a/b", "../../etc/passwd", "two\nlines.txt", "café.txt", "cafe\u0301.txt", "CAFÉ.txt", "100%2F.txt",
    "w s#é?.txt", "x" * 230 + ".txt", "folder", "folder/report.txt", "report.txt", "report.txt", None,
)  # fmt: skip


def seed(shelf: Shelf, blobs: Blobs) -> None:
    """Fill an empty service; does nothing to one that has users."""
    if not shelf.store.count("SELECT count(*) FROM portal_users"):
        with shelf.store.transaction():
            _Seeder(shelf, blobs).run()


class _Seeder:
    def __init__(self, shelf: Shelf, blobs: Blobs) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._blobs = blobs
        self._now = int(dt.datetime(2026, 3, 2, 9, 30, 0, 250_000, dt.UTC).timestamp() * 1e6)

    def _later(self) -> int:
        self._now += 3_600_000_017
        return self._now

    def run(self) -> None:
        self._shelf.insert(
            "users", self._now, id=NOBODY, first="", last="", email="", orcid=None, orcid_token=None, staff=0, active=1,
            personal=None,
        )  # fmt: skip
        for number, (user, first, last, token, staff, active) in enumerate(PEOPLE, 1):
            self._shelf.insert(
                "users", self._later(), id=user, first=first, last=last, email=f"{first.lower()}@lab.example",
                orcid=f"0000-0002-1825-000{number}", orcid_token=f"sandbox-orcid-token-{number}",
                staff=staff, active=active,
            )  # fmt: skip
            age_s = 27 * WEEK_S if token == "expired_token" else 0.0  # noqa: S105, a name of one
            self._shelf.add_token(user, CREDENTIALS[token], age_s)
            personal = self._team(f"{first} {last}", user, personal=True)
            self._store.run("UPDATE portal_users SET personal = ? WHERE id = ?", personal, user)
        self._bank()
        for _ in range(2):  # teams have no unique names
            team = self._team("Neuroblastoma cell lines", ADA)
            self._material(team, "SK-N-BE(2)", "CELL_LINE")
        self._team("Empty team", ADA)
        self._many()
        self._odd()
        self._stranger()

    def _team(self, name: str, *members: str, personal: bool = False) -> int:
        number = self._shelf.insert(
            "organizations", self._later(), name=name, description="", personal=personal, owner=members[0]
        )
        for member in members:
            self._store.run("INSERT INTO portal_members VALUES (?, ?)", number, member)
        return number

    def _material(self, team: int, title: str, category: str, contact: str = ADA, **details: Any) -> int:
        mta = details.pop("mta", None)
        return self._shelf.insert(
            "materials", self._later(), organization=team, contact=contact, category=category, title=title, mta=mta,
            details=json.dumps(details),
        )  # fmt: skip

    def _attach(
        self, name: str | None, data: bytes, team: int | None, material: int | None = None, user: str = ADA,
        text: str = "",
    ) -> int:  # fmt: skip
        """Make an attachment whose bytes are in both modes' places."""
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        blob = self._store.put(data)
        number = self._shelf.insert(
            "attachments", self._later(), filename=name, description=text, user=user, organization=team,
            material=material, blob=blob, object=self._blobs.add(blob, etag), local_name=name,
        )  # fmt: skip
        sql = "UPDATE portal_attachments SET s3_key = ? WHERE id = ?"
        self._store.run(sql, f"attachment_{number}/{name}", number)
        return number

    def _bank(self) -> None:
        """One MTA for seven materials, sequence maps, and a request with all its documents."""
        team = self._team("Tumour bank", ADA, LOU)
        lines = ["Material transfer agreement", "Tumour bank"]
        mta = self._attach("TumourBankMTA.pdf", specimens.pdf(lines), team, text="The MTA of the tumour bank.")
        titles = ["Diffuse midline glioma", "Ewing sarcoma", "Wilms tumour", "Osteosarcoma", "Hepatoblastoma",
                  "Medulloblastoma", "Rhabdomyosarcoma"]  # fmt: skip
        models = [self._material(team, f"{title} xenograft", "PDX", mta=mta, needs_irb=True) for title in titles]
        plasmid = self._material(
            team, "pcDNA3-TP53", "PLASMID", organisms=["Homo sapiens"], url="https://example.org/pcDNA3-TP53",
            additional_metadata={"plasmid_name": "pcDNA3-TP53", "purpose": "Expression"}, pubmed_id="12345678",
        )  # fmt: skip
        self._attach("pcDNA3-TP53.png", specimens.png(), team, plasmid, text="Map of the plasmid")
        self._attach("pcDNA3-TP53.vcf.gz", specimens.vcf_gz("S1"), team, plasmid)
        dataset = self._material(team, "Expression after knock-down of TP53", "DATASET")
        reads = specimens.fastq_gz("S1", 1)
        for name, data in (
            ("counts.h5", specimens.hdf5()),
            ("metrics.csv", specimens.csv()),
            ("metrics.csv", specimens.csv(24)),
            ("S1_R1.fastq.gz", reads),
            ("empty.txt", b""),
        ):
            self._attach(name, data, team, dataset)
        for _ in range(2):
            self._material(team, "Extraction of DNA from frozen tissue", "PROTOCOL")
        self._attach("Bank rules.pdf", specimens.pdf(["Rules of the tumour bank"]), team)
        self._attach("My notes.txt", "Ideas for the next grant: naïve T cells\n".encode(), None)
        self._request(models[0], team)
        grant = self._shelf.insert(
            "grants", self._later(), title="Models of childhood cancer", year=2026, funder="ALSF-42", user=ADA
        )
        for kind, target in (("organization", team), ("material", models[0]), ("material", plasmid)):
            self._store.run("INSERT INTO portal_grant_links VALUES (?, ?, ?)", grant, kind, target)

    def _request(self, material: int, team: int) -> None:
        documents = {
            column: self._attach(f"{name}.pdf", specimens.pdf([name]), team, user=BEN)
            for column, name in (("signed", "RequesterSignedMTA"), ("executed", "ExecutedMTA"), ("irb", "SignedIRB"))
        }
        self._shelf.insert(
            "requests", self._later(), material=material, requester=BEN, assigned=ADA, status="IN_FULFILLMENT",
            abstract="We want to test a new inhibitor.", **documents,
        )  # fmt: skip

    def _many(self) -> None:
        team = self._team("Plate reader archive", ADA)
        material = self._material(team, "Two thousand plates", "DATASET")
        blob, created = self._store.put(specimens.csv(12)), self._later()
        target = self._blobs.add(blob, hashlib.md5(specimens.csv(12), usedforsecurity=False).hexdigest())

        def rows() -> Iterator[tuple[object, ...]]:
            for index in range(MANY):
                name = f"plate-{index:04d}.csv"
                yield (name, "", ADA, team, material, blob, target, name, created, created)

        self._store.many(
            "INSERT INTO portal_attachments (filename, description, user, organization, material, blob, object,"
            " local_name, created, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows(),
        )
        sql = "UPDATE portal_attachments SET s3_key = 'attachment_' || id || '/' || filename WHERE material = ?"
        self._store.run(sql, material)

    def _odd(self) -> None:
        """Names that a file system cannot take as they are. They are another's: in local mode the line end
        in one of them breaks each list that shows it."""
        team = self._team("../Odd: names \u2028 (Ünïcode)", ADA, BEN)
        material = self._material(team, "a/b\n..", "OTHER")
        self._material(team, "..", "OTHER")
        for name in ODD_NAMES:
            self._attach(name, f"content of {name!r}\n".encode(), team, material, BEN)

    def _stranger(self) -> None:
        team = self._team("Bench group", BEN)
        line = self._material(team, "Kelly", "CELL_LINE", BEN)
        self._attach("kelly-karyotype.png", specimens.png(32, 32), team, line, BEN)
