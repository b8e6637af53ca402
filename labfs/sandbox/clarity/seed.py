"""What a new Clarity stand-in holds: believable lab work, and the awkward things that real sites have.

Tests: sandbox/test_clarity_sandbox, clients/test_clarity_clients.
"""

from __future__ import annotations

from labfs.sandbox import specimens
from labfs.sandbox.clarity.seeder import ADA, GRACE, Seeder
from labfs.sandbox.clarity.shelf import UNDER_REVIEW, Shelf

USERNAME, POWERLESS = "apiuser", "labuser"
PASSWORD = "sandbox-clarity-password"  # noqa: S105, it opens nothing but a sandbox
MANY_SAMPLES, MANY_FILES = 1200, 2000
LARGE_MIB = 64

# The last number used of each series of LIMS IDs.
SERIES = {"file": 115, "process": 126452, "result": 1833857, "analyte": 500, "container": 4010, "state": 10}


def seed(shelf: Shelf) -> None:
    """Fill an empty service; does nothing to one that has users."""
    store = shelf.store
    if store.count("SELECT count(*) FROM clarity_users"):
        return
    with store.transaction():
        for username, api in ((USERNAME, 1), (POWERLESS, 0)):
            store.run("INSERT INTO clarity_users VALUES (?, ?, ?)", username, PASSWORD, api)
        for number, first, last in ((ADA, "Ada", "Lab"), (GRACE, "Grace", "Runner")):
            store.run("INSERT INTO clarity_researchers VALUES (?, ?, ?)", number, first, last)
        for series, last_number in SERIES.items():
            store.run("INSERT INTO clarity_numbers VALUES (?, ?)", series, last_number)
        seeder = Seeder(shelf)
        validation = _validation(seeder)
        panel = _panel(shelf, seeder)
        _pooled(seeder, [*validation, *panel])
        seeder.project("LEI162", "Empty project")
        _upload_here(seeder)
        _many(shelf, seeder)
        _odd(seeder)
        _watched(seeder)


def _validation(seeder: Seeder) -> list[str]:
    """Two projects of one name; returns the samples of the first."""
    project = seeder.project("ADM1", "Validation", Application="WGS", Budget="4200")
    seeder.field(project, "Cost centre", "B-17", udt="Billing")
    seeder.file("projects", project, "SLX6384.csv", specimens.csv())
    form = specimens.pdf(["Request form", "Validation of the new sequencer"])
    seeder.file("projects", project, "C:\\Users\\ada\\Desktop\\request form.pdf", form)
    for version in (1, 2):
        seeder.file("projects", project, "report.txt", f"Report, version {version}\n".encode())
    samples = seeder.samples(project, [f"SLX-{6078 + index}" for index in range(4)])
    for sample in samples[:2]:
        seeder.file("samples", sample, "consent.pdf", specimens.pdf([f"Consent for {sample}"]))

    load = seeder.step(19, "MiSeq Load Cartridge")
    sheet = seeder.placeholder(load, "SampleSheet.csv", samples, shared=True)
    seeder.file("artifacts", sheet, "/opt/gls/tmp/C232PACXX.csv", specimens.csv(24))
    for index, sample in enumerate(samples):
        trace = seeder.placeholder(load, "Trace", [sample])
        if index == 0:
            seeder.file("artifacts", trace, "trace.png", specimens.png())
    seeder.file("processes", load, "run-notes.pdf", specimens.pdf(["Run notes", "No bubbles."]))

    quality = seeder.step(23, "Library QC", "Completed")
    for sample in samples:
        counts = seeder.placeholder(quality, "Counts", [sample])
        seeder.file("artifacts", counts, f"{sample}.counts.h5", specimens.hdf5())
    seeder.file("processes", quality, "signed.pdf", specimens.pdf(["Signed: A. Lab"]))

    twin = seeder.project("ADM2", "Validation")
    other = seeder.samples(twin, ["SLX-6078"])
    seeder.placeholder(seeder.step(23, "Library QC"), "Counts", other)
    return samples


def _panel(shelf: Shelf, seeder: Seeder) -> list[str]:
    """Sequencing files, one of them large, one linked, one lost, one with an ID of the old kind."""
    project = seeder.project("WUY236", "Tumour panel 2026", Application="Panel")
    samples = seeder.samples(project, ["NA12871", "NA12872"])
    run = seeder.step(31, "NextSeq 2000 Run", "Completed")
    for sample, name in zip(samples, ("S1", "S2"), strict=True):
        calls = seeder.placeholder(run, "Variant calls", [sample])
        seeder.file("artifacts", calls, f"{name}.variants.vcf.gz", specimens.vcf_gz(name))
        for mate in (1, 2):
            reads = f"{name}_L001_R{mate}_001.fastq.gz"
            seeder.file("samples", sample, reads, specimens.fastq_gz(name, mate))
    seeder.stored("processes", run, "run42.raw.bin", f"made-large-{LARGE_MIB}")
    seeder.file("processes", run, "never-arrived.csv", None)
    seeder.linked("projects", project, "panel-design.csv", specimens.csv(48))
    old = seeder.file("projects", project, "old server.txt", b"Attached before the server was renewed.\n")
    shelf.store.run("UPDATE clarity_files SET limsid = ? WHERE limsid = ?", f"{project}-{old}", old)
    return samples


def _pooled(seeder: Seeder, samples: list[str]) -> None:
    """Make a step whose inputs come from several projects, and from none."""
    pooling = seeder.step(41, "Pool Libraries", "Completed", way="pooling")
    samples = [*samples, seeder.control("PhiX v3")]
    seeder.pool(pooling, "Pool 7", samples)
    volumes = seeder.placeholder(pooling, "Volumes", samples, shared=True)
    seeder.file("artifacts", volumes, "volumes.csv", specimens.csv(6))


def _upload_here(seeder: Seeder) -> None:
    project = seeder.project("KLM300", "Upload here")
    samples = seeder.samples(project, [f"blank-{index + 1}" for index in range(16)])
    step = seeder.step(23, "Library QC")
    seeder.placeholder(step, "Summary", samples, shared=True)
    for sample in samples:
        seeder.placeholder(step, f"Result of {sample}", [sample])


def _many(shelf: Shelf, seeder: Seeder) -> None:
    seeder.samples(seeder.project("MNY400", "Many samples"), [f"well-{n:04d}" for n in range(MANY_SAMPLES)])
    archive, blob = seeder.project("MNY401", "Archive"), shelf.store.put(specimens.csv(12))
    for number in range(MANY_FILES):
        seeder.stored("projects", archive, f"plate-{number:04d}.csv", blob)


def _odd(seeder: Seeder) -> None:
    """Names that a file system cannot take as they are, and twins by case and by Unicode form."""
    for number, name in enumerate(["..", "a/b", "two\nlines", "caf\u00e9", "cafe\u0301", "Prüfung – ß 試験", "CON"]):
        seeder.project(f"ODD{number + 1}", name)
    project = seeder.project("ODD100", "Odd names")
    seeder.samples(project, ["../../etc", ".hidden", " blank ", "x" * 200, "-", "-"])
    for original in ("two\nlines.txt", "caf\u00e9.txt", "cafe\u0301.txt", "CAF\u00c9.txt", "100%2F.txt", " blank ",
                     "..", "x" * 300 + ".txt", "C:\\data\\a:b.txt", "../../etc/passwd", 'quo"te.txt', "試験.csv",
                     "92-5098.html"):  # fmt: skip
        seeder.file("projects", project, original, f"content of {original!r}\n".encode())


def _watched(seeder: Seeder) -> None:
    """Make steps that the automation attached to, and that a manager reviews."""
    samples = seeder.samples(seeder.project("RVW500", "Automation and review"), ["QC-1", "QC-2"])
    attached = seeder.step(51, "Automated QC")
    for sample in samples:  # files that the automation attached are named after their placeholder
        report = seeder.placeholder(attached, "Report", [sample])
        seeder.file("artifacts", report, f"{report}_report.csv", specimens.csv(4))
    reviewed = seeder.step(52, "Manager review", UNDER_REVIEW)
    decision = seeder.placeholder(reviewed, "Decision", samples, shared=True)
    seeder.file("artifacts", decision, "draft.txt", b"to decide\n")
    seeder.placeholder(reviewed, "Remarks", samples)
