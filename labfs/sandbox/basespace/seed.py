"""What a new BaseSpace stand-in holds: believable projects, and the awkward things that real ones have.

Tests: sandbox/test_basespace_sandbox, sandbox/test_guide.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json

from labfs.sandbox import specimens
from labfs.sandbox.basespace.shelf import Shelf
from labfs.sandbox.store import MIB

USER, STRANGER = 9319322, 9319400
TOKEN = "sandbox-basespace-token"  # noqa: S105, it opens nothing but a sandbox
LARGE_MIB = 256
# Entity tag of the large file: MD5 over the MD5s of its 32 parts of 8 MiB (a test computes it anew).
LARGE_ETAG = "e5bdd679dfcefd901bcb17c8b3b432b5-32"
MANY = 5000

TYPES = {
    "gz": "application/gzip", "csv": "text/csv", "png": "image/png", "pdf": "application/pdf",
    "h5": "application/x-hdf5", "txt": "text/plain", "bin": "application/octet-stream",
}  # fmt: skip


def seed(shelf: Shelf) -> None:
    """Fill an empty service; does nothing to one that has users."""
    store = shelf.store
    if store.count("SELECT count(*) FROM users"):
        return
    with store.transaction():
        for number, name in ((USER, "Ada Lab"), (STRANGER, "Somebody Else")):
            store.run("INSERT INTO users VALUES (?, ?, ?)", number, name, f"{name.split()[0].lower()}@lab.example")
        scopes = ["READ GLOBAL", "CREATE GLOBAL", "BROWSE GLOBAL", "MOVETOTRASH GLOBAL", "WRITE GLOBAL"]
        store.run("INSERT INTO tokens VALUES (?, ?, ?)", TOKEN, USER, json.dumps(scopes))
        # Ids as long as real ones, and above those that the guide's examples name.
        for table, least in (("projects", 257330072), ("records", 38041), ("sessions", 61000), ("files", 11761995732)):
            store.run("INSERT OR REPLACE INTO sqlite_sequence (name, seq) VALUES (?, ?)", table, least)
        _Seeder(shelf).run()


class _Seeder:
    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._now = dt.datetime(2026, 3, 2, 9, 30, tzinfo=dt.UTC).timestamp()

    def _later(self) -> float:
        self._now += 3600
        return self._now

    def run(self) -> None:
        self._panel()
        self._exome()
        self._project("Empty project")
        self._large()
        self._odd()
        self._workflow()
        self._run()

    def _project(self, name: str, user: int = USER) -> int:
        return self._shelf.add_project(user, name, self._later())

    def _result(self, project: int, name: str, status: str = "Running") -> int:
        session = self._shelf.add_session(USER, name, status, self._later())
        return self._shelf.add_record("appresults", project, name, session, created=self._later())

    def _sample(self, project: int, name: str) -> int:
        session = self._shelf.add_session(USER, name, "Complete", self._later())
        return self._shelf.add_record("samples", project, name, session, created=self._later())

    def _file(self, record: int, path: str, data: bytes, *, archived: bool = False) -> int:
        etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        kind = TYPES.get(path.rsplit(".", 1)[-1], "application/octet-stream")
        blob = self._shelf.store.put(data)
        return self._shelf.add_file(record, path, blob, len(data), etag, kind, self._later(), archived)

    def _panel(self) -> None:
        project = self._project("Tumour panel 2026")
        for sample in ("S1", "S2"):
            record = self._result(project, f"Variant calls {sample}")
            self._file(record, f"{sample}.variants.vcf.gz", specimens.vcf_gz(sample))
            self._file(record, "qc/metrics.csv", specimens.csv())
            self._file(record, "qc/coverage.png", specimens.png())
            self._file(record, "qc/counts.h5", specimens.hdf5())
            text = ["Tumour panel, sample " + sample, "Two variants of interest in TP53.", "Signed: A. Lab"]
            self._file(record, "report.pdf", specimens.pdf(text))
        samples = []
        for read in (1, 2):
            reads = self._sample(project, f"NA1287{read}")
            samples.append(f"v1pre3/samples/{reads}")
            for mate in (1, 2):
                name = f"NA1287{read}_S{read}_L001_R{mate}_001.fastq.gz"
                self._file(reads, f"Data/Intensities/BaseCalls/{name}", specimens.fastq_gz(f"S{read}", mate))
        closed = self._result(project, "Signed off", "Complete")
        given = {"name": "Input.Samples", "type": "sample[]", "items": samples}
        self._shelf.set_property(f"appresults/{closed}", given)
        self._file(closed, "final.csv", specimens.csv(24))
        self._result(project, "Upload here")

    def _exome(self) -> None:
        """Real projects have such names, and app results in pairs of one name."""
        name = "NextSeq2000: Illumina DNA Prep with Enrichment - Exome Germline (Twist/RefSeq Panel)"
        project = self._project(name)
        for repetition in (1, 2):
            record = self._result(project, "HD753 rep7")
            self._file(record, "rep7.counts.txt", f"gene\tcount\nTP53\t{41 + repetition}\n".encode())
        self._file(record, "cold.bam", specimens.csv(500), archived=True)

    def _large(self) -> None:
        project = self._project("Large things")
        record = self._result(project, "One large file")
        size = LARGE_MIB * MIB
        self._shelf.add_file(
            record, "run42.raw.bin", f"made-large-{LARGE_MIB}", size, LARGE_ETAG, TYPES["bin"], self._later()
        )
        many = self._result(project, "Five thousand files")
        blob, size = self._shelf.store.put(specimens.csv(12)), len(specimens.csv(12))
        etag = hashlib.md5(specimens.csv(12), usedforsecurity=False).hexdigest()
        created = self._later()
        for index in range(MANY):
            self._shelf.add_file(many, f"well-{index:04d}.csv", blob, size, etag, TYPES["csv"], created)

    def _odd(self) -> None:
        """Names that a file system cannot take as they are, and twins by case and by Unicode form."""
        project = self._project("Odd names")
        record = self._result(project, "../../etc")
        for path in ("two\nlines.txt", "caf\u00e9.txt", "cafe\u0301.txt", "CAF\u00c9.txt", "100%2F.txt", " blank ",
                     "x" * 300 + ".txt", "..", "report.txt", "report.txt", "folder/report.txt", "folder"):  # fmt: skip
            self._file(record, path, f"content of {path!r}\n".encode())

    def _workflow(self) -> None:
        """What today's workflows make: biosamples, and a dataset for each lane, which only v2 lists."""
        project = self._project("Germline biosamples")
        for sample in ("HG001", "HG002"):
            biosample = self._shelf.add_biosample(project, sample, self._later())
            session = self._shelf.add_session(USER, f"FASTQ Generation {sample}", "Complete", self._later())
            for lane in (1, 2):
                name, created = f"{sample}_L00{lane}", self._later()
                record = self._shelf.add_record("datasets", project, name, session, "", created, biosample)
                self._file(record, f"{sample}_S1_L00{lane}_R1_001.fastq.gz", specimens.fastq_gz(sample, lane))
        both = self._shelf.add_session(USER, "Germline calls", "Complete", self._later())
        record = self._shelf.add_record("appresults", project, "HG001 calls", both, "", self._later(), biosample - 1)
        self._file(record, "HG001.variants.vcf.gz", specimens.vcf_gz("HG001"))

    def _run(self) -> None:
        record = self._shelf.add_record("runs", None, "260301_SBX001_0042_AHFLOWCELL", None, created=self._later())
        self._file(record, "SampleSheet.csv", b"[Header]\nFileFormatVersion,2\n")
        self._file(record, "RunInfo.xml", b'<?xml version="1.0"?>\n<RunInfo Version="6"/>\n')
        self._file(record, "InterOp/QMetricsOut.bin", bytes(range(256)) * 16)
