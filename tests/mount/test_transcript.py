"""All that the contracts of the systems call an error or impossible, through a mount: errno, sentence, what to do.

`transcript.txt` is for people to read: every message of the product in one place. LABFS_WRITE_TRANSCRIPT=1 writes it
anew. What takes minutes, a save whose answer is lost, is in `transcript_lost.txt` and played with LABFS_SOAK=1.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import clarity_stage
import five_stage
import portal_stage
import pytest
from failures import FAST, Call, Failure, Seen, Theatre
from five_stage import SITES, Lab
from stage import Mount, Sandbox, typed
from test_secrets import Evidence, secrets_of

pytestmark = [pytest.mark.mount, pytest.mark.timeout(180)]

HERE = Path(__file__).parent
MIB = 1024 * 1024
LARGE = "x" * 256
SECONDS, HASTY_S = 2.0, 0.5  # of silence, after which a site is given up


def _listed(path: Path) -> list[str]:
    """List a folder; of one that is listed in part so far, wait for the rest."""
    for _ in range(100):
        try:
            return os.listdir(path)
        except BlockingIOError:
            time.sleep(0.1)
    return os.listdir(path)


LIST, READ = Call("list", _listed, looks=True), Call("read", Path.read_bytes, looks=True)
SAVE = Call("save", lambda path: path.write_bytes(b"new\n"))
MAKE, REMOVE, REMOVE_FOLDER = Call("mkdir", os.mkdir), Call("remove", os.unlink), Call("rmdir", os.rmdir)


def save(size: int, name: str) -> Call:
    return Call(f"save {name}", lambda path: path.write_bytes(bytes(size)))


def move(target: str) -> Call:
    """Rename to another name in the same folder, or to a path from there."""
    return Call(f"rename to {target}", lambda path: os.rename(path, path.parent / target))


def fault(service: str, action: str, argument: Any = None, route: str = "*", method: str = "*") -> dict[str, Any]:
    return {"service": service, "action": action, "argument": argument, "route": route, "method": method}


def hasty(place: Path) -> Path:
    """Return a place of a site, as a place of the site that is given up soon."""
    return Path(place.parts[0] + FAST, *place.parts[1:])


# -- every system --------------------------------------------------------------------------------------------------

LOOKS = {
    400: "the server takes a question for wrong",
    403: "the account may not look at this",
    404: "the server knows nothing there",
    410: "it was removed on the server",
    401: "the credentials are refused",
}
LOSSES: tuple[tuple[str, Any, str], ...] = (
    ("status", {"status": 429, "retry_after": 60}, "the server asks for fewer requests (429)"),
    ("status", 500, "the server fails over a question (500)"),
    ("status", 502, "a proxy has no answer of the server (502)"),
    ("status", {"status": 503, "retry_after": 60}, "the server asks for a pause (503)"),
    ("status", 504, "a proxy has waited too long (504)"),
    ("html", None, "a page of a gateway instead of an answer"),
    ("reset", None, "the connection is reset"),
    ("short", 1, "the answer ends early"),
    ("stall", 0, "the server falls silent"),
)
SAVES = {
    400: "the server takes a save for wrong",
    403: "the account may not save there",
    404: "the place to save to is gone",
    409: "the server has something there already",
    507: "the server has no room",
    401: "the credentials are refused as a file is saved",
    413: "the file is larger than the server takes",
}
SAVING = {  # the route of the request that sends a file, where it has one of its own
    "basespace": "*/files",
    "clarity": "*/upload",
    "odm": "*/multipart",
    "portal": "*/attachments/",
}
LISTING = {"odm": "*/by/study/*", "portal": "/v1/organizations/*"}  # of the folder alone: its own is asked for by id
NEVER = {
    "clarity": {401},
    "portal": {507},
    "redcap": {410},
}  # statuses that a stand-in's faults cannot give in its system's form


def looks(site: str, place: Path) -> list[Failure]:
    """Return what a site answers to whoever looks for a name of which nobody knows whether it is there.

    Where a site is asked slowly each status has a record of its own: the kernel repeats a look that was slow.
    """
    never = NEVER.get(site, set())
    records = dict(zip(LOOKS, ("1", "2", "3", "", "10"), strict=True))
    told = [
        Failure(
            cause=f"{cause} ({status})",
            call=READ,
            at=(Path("redcap", "biobank", records[status]) if site == "redcap" else place) / f"look-{status}.txt",
            faults=(fault(site, "status", status, LISTING.get(site, "*")),),
        )
        for status, cause in LOOKS.items()
        if status not in never
    ]
    lost = [
        Failure(cause=cause, call=READ, at=hasty(place) / f"lost-{number}.txt", faults=(fault(site, action, argument),))
        for number, (action, argument, cause) in enumerate(LOSSES)
    ]
    return told + lost


def saves(site: str, place: Path) -> list[Failure]:
    """Return what a site answers to whoever saves. The hasty site learns a limit, and keeps that for itself."""
    if site not in SAVING:
        return []
    large = Failure(
        cause="it is as large as one that was refused", call=save(80_000, "80 kB"), at=hasty(place) / "save-large.txt"
    )
    told = [
        Failure(
            cause=f"{cause} ({status})",
            call=save(70_000, "70 kB"),
            at=(hasty(place) if status == 413 else place) / f"save-{status}.txt",
            faults=(fault(site, "status", status, SAVING[site], "POST"),),
        )
        for status, cause in SAVES.items()
        if status not in NEVER.get(site, set())
    ]
    return [*told, large]


def lost_saves(site: str, place: Path) -> list[Failure]:
    """Return what becomes of saves whose answer is lost: labfs looks for them, again and again."""
    kinds = (
        ("reset", None, "the connection is reset as a file is saved", "save-reset"),
        ("status", 502, "a proxy has no answer to a save (502)", "save-502"),
        ("html", None, "a page of a gateway instead of an answer to a save", "save-page"),
    )
    return [
        Failure(
            cause=cause,
            call=SAVE,
            at=hasty(place) / f"{name}.txt",
            faults=(fault(site, action, argument, SAVING[site], "POST"),),
        )
        for action, argument, cause, name in kinds
    ]


# -- the mount -----------------------------------------------------------------------------------------------------


def of_the_mount(lab: Lab) -> list[Failure]:
    """Return what no system has anything to do with."""
    place, other = lab.places["basespace"], lab.places["clarity"]
    away = str(Path(*[".."] * len(place.parts)) / other / "there.txt")
    calls = [
        ("there is no such file", READ, "nothing.txt"),
        ("there is no such folder", READ, "nowhere/nothing.txt"),
        ("a symbolic link", Call("symlink", lambda path: path.symlink_to("there.txt")), "one.lnk"),
        ("a hard link", Call("link to other.txt", lambda path: os.link(path.parent / "other.txt", path)), "other.lnk"),
        ("a pipe, socket or device", Call("mkfifo", os.mkfifo), "pipe"),
        ("a pipe, socket or device", Call("bind", _bind), "socket"),
        ("an attribute is set", Call("setxattr", lambda path: os.setxattr(path, "user.mine", b"x")), "set.txt"),
        ("an attribute goes", Call("removexattr", lambda path: os.removexattr(path, "user.mine")), "gone.txt"),
        ("a name of 256 bytes", SAVE, LARGE),
        ("a name with a line end", SAVE, "two\nlines.txt"),
        ("a name that is not UTF-8", SAVE, os.fsdecode(b"caf\xe9.txt")),
        ("a name that stands for none", SAVE, "%"),
        ("a folder is not empty", REMOVE_FOLDER, "full"),
        ("from one system to another", move(away), "there.txt"),
        ("labfs's own view is changed", SAVE, ".meta.json"),
        ("labfs's own view is removed", REMOVE, ".meta.json"),
        ("labfs's own view is renamed", move("view.json"), ".meta.json"),
        ("two names are exchanged", Call("exchange with other.txt", _exchange), "first.txt"),
    ]
    made = {"set.txt", "gone.txt", "first.txt", "other.txt"}
    for name in made:
        lab.put("basespace", name, b"there\n")
    rows = [Failure(cause=cause, call=call, at=place / name) for cause, call, name in calls]
    for row in rows:
        if row.at.name == "full":
            lab.put("basespace", "full/of/files.txt", b"there\n")
    sites = Failure(cause="sites come from the configuration", call=MAKE, at=Path("new"))
    return [sites, *rows]


def _bind(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def _exchange(path: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    here, exchange = -100, 2
    if library.renameat2(here, bytes(path), here, bytes(path.with_name("other.txt")), exchange):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# -- each system ---------------------------------------------------------------------------------------------------


def of_basespace(lab: Lab) -> list[Failure]:
    place, panel, it = lab.places["basespace"], Path("basespace", "Tumour panel 2026"), "basespace"
    exome = Path("basespace", "NextSeq2000: Illumina DNA Prep with Enrichment - Exome Germline (Twist%2FRefSeq Panel)")

    def stored(name: str) -> Any:
        return lambda _: lab.put(it, name, name.encode())

    def read(cause: str, name: str, *faults: dict[str, Any], at: Path = place) -> Failure:
        return Failure(cause=cause, call=READ, at=at / name, before=stored(name), faults=faults)

    def can(cause: str, call: Call, at: Path, **more: Any) -> Failure:
        return Failure(cause=cause, call=call, at=at, **more)

    twice = {"switches": {it: {"same_path": "conflict"}}, "before": stored("twice.txt")}
    return [
        can("an archived file", READ, exome / f"HD753 rep7 [{_second(lab)}]" / "cold.bam"),
        can("a file is deleted where none can be", REMOVE, place / "there.txt"),
        can("a rename where there is none", move("other.txt"), place / "first.txt"),
        can("a rename where there is none", move("Other"), place),
        can("a record is removed", REMOVE_FOLDER, panel / "Upload here"),
        can("the analysis is complete", SAVE, panel / "Signed off" / "new.txt"),
        can("a sample", SAVE, panel / "NA12871" / "new.txt"),
        can("runs", SAVE, Path(it, "_runs", "new.txt")),
        can("a file outside of records", SAVE, panel / "new.txt"),
        can("a name with a slash", SAVE, place / "a%2Fb.txt"),
        can("the path has a file already", SAVE, place / "twice.txt", **twice),
        read("the content is refused", "content-403.txt", fault(it, "status", 403, "*/content")),
        read("the content was removed", "content-410.txt", fault(it, "status", 410, "*/content")),
        read("the store refuses the address", "store-403.txt", fault("blobs", "status", 403, route="*store-403.txt")),
        read("the store has no bytes", "store-404.txt", fault("blobs", "status", 404, route="*store-404.txt")),
        read("the bytes are not those of the checksum", "corrupt.txt", fault("blobs", "corrupt", 2, route="*corrupt.txt"), at=hasty(place)),
        read("the store is away", "store-reset.txt", fault("blobs", "reset", route="*store-reset.txt"), at=hasty(place)),
        read("the store sends less", "store-short.txt", fault("blobs", "short", 2, route="*store-short.txt"), at=hasty(place)),
        can("parts arrive damaged", save(5 * MIB + 1, "5 MiB"), hasty(place) / "parts.bin",
            faults=(fault(it, "status", 400, "*/parts/*", "PUT"),)),
        can("another size arrived", SAVE, place / "size.txt",
            faults=(fault(it, "rewrite", [['"Size":4', '"Size":3']], "*/files/*", "GET"),)),
        can("a list makes no sense", LIST, Path(it, "Odd names", "..%2F..%2Fetc"),
            faults=(fault(it, "rewrite", [["Items", "Jtems"]]),)),
    ]  # fmt: skip


def _second(lab: Lab) -> str:
    """Return the id of the younger of two records of one name."""
    (project,) = [p for p in lab.sandbox.api("GET", "users/current/projects", params={"Limit": 1024})["Items"]
                  if p["Name"].startswith("NextSeq2000")]  # fmt: skip
    found = lab.sandbox.api("GET", f"projects/{project['Id']}/appresults")["Items"]
    return str(max(found, key=lambda each: each["DateCreated"])["Id"])


def of_clarity(lab: Lab) -> list[Failure]:
    project, panel, it = Path("clarity", "Upload here"), Path("clarity", "Tumour panel 2026"), "clarity"
    sample, step = lab.places["clarity"], project / f"{clarity_stage.STEP} Library QC"
    done = Path("clarity", "Validation", f"{clarity_stage.DONE} Library QC")
    review = Path("clarity", "Automation and review", "24-126460 Manager review")
    holder = lab.clarity.placeholders()[1]
    rows: list[tuple[str, Call, Path]] = [
        ("the step is completed", SAVE, done / "new.txt"),
        ("samples of the step are under review", SAVE, review / "new.txt"),
        ("there is no such placeholder", SAVE, step / "92-99_x.txt"),
        ("the placeholder is taken", SAVE, step / f"{holder}_b.txt"),
        ("a name that XML cannot hold", SAVE, sample / "a\\b.txt"),
        ("neither file nor folder goes there", SAVE, project / "new.txt"),
        ("a project is made", MAKE, Path("clarity", "New")),
        ("neither file nor folder goes there", MAKE, project / "New"),
        ("a folder in a sample", MAKE, sample / "New"),
        ("a record is removed", REMOVE_FOLDER, sample),
        ("a rename where there is none", move("other.txt"), sample / "there.txt"),
        ("a file is a link to elsewhere", SAVE, panel / "_project" / "panel-design.csv"),
        ("the bytes of a file never came", READ, panel / "24-126456 NextSeq 2000 Run" / "never-arrived.csv"),
        ("the file is larger than the property says", save(10 * MIB + 1, "10 MiB"), sample / "large.bin"),
    ]
    lab.clarity.put(f"artifacts/{holder}", "a.txt", b"a")
    length = {"faults": (fault(it, "status", 500, "*/download", "*"),)}
    return [
        *[Failure(cause=cause, call=call, at=at) for cause, call, at in rows],
        Failure(cause="the lengths of files are not told", call=READ, at=hasty(sample) / "there.txt", **length),
        Failure(cause="the answer is something else", call=READ, at=sample / "else.txt",
                faults=(fault(it, "rewrite", [["smp:sample", "smp:simple"]]),)),
        Failure(cause="the credentials are refused (401)", call=READ, at=sample / "password.txt",
                switches={it: {"password": "another"}}),
        Failure(cause="another system is at the address", call=READ, at=sample / "gateway.txt",
                faults=(fault(it, "status", 401),)),
    ]  # fmt: skip


def of_odm(lab: Lab) -> list[Failure]:
    place, study, it = lab.places["odm"], lab.places["odm"].parent, "odm"
    ends = {
        "FAILED": "the import fails",
        "STOPPED": "somebody stops the import",
        "ABANDONED": "the server gives the import up",
    }

    def stored(name: str) -> Any:
        return lambda _: lab.put(it, name, name.encode())

    def read(status: int, cause: str) -> Failure:
        name = f"read-{status}.txt"
        return Failure(cause=cause, call=READ, at=place / name, before=stored(name),
                       faults=(fault(it, "status", status, "*/download", "GET"),))  # fmt: skip

    def switched(cause: str, name: str, **switches: Any) -> Failure:
        return Failure(cause=cause, call=SAVE, at=place / name, switches={it: switches})

    return [
        *[switched(cause, f"{end.lower()}.txt", job_end=end) for end, cause in ends.items()],
        switched("there is no bucket", "bucket.txt", bucket=False),
        Failure(cause="a rename where there is none", call=move("other.txt"), at=place / "there.txt"),
        Failure(cause="a study is made", call=MAKE, at=Path(it, "New study")),
        Failure(cause="it is in none of the classes", call=MAKE, at=study / "Photographs"),
        Failure(cause="it is in none of the classes", call=SAVE, at=study / "new.txt"),
        Failure(cause="a record is removed", call=REMOVE_FOLDER, at=study),
        Failure(cause="the account may not delete", call=REMOVE, at=place / "delete-403.txt",
                before=stored("delete-403.txt"), faults=(fault(it, "status", 403, "*/manage-data/*"),)),
        Failure(cause="what it is cannot be deleted (406)", call=REMOVE, at=place / "delete-406.txt",
                before=stored("delete-406.txt"), faults=(fault(it, "status", 406, "*/manage-data/*"),)),
        read(400, "the file cannot be retrieved (400)"),
        read(406, "the file cannot be downloaded (406)"),
        read(404, "the file is gone (404)"),
        Failure(cause="files for curators alone", call=SAVE, at=Path("odm-reader", *place.parts[1:], "new.txt")),
        Failure(cause="the site is for reading", call=SAVE, at=Path("odm-reading", *place.parts[1:], "new.txt")),
    ]  # fmt: skip


def of_portal(lab: Lab) -> list[Failure]:
    place, team, it = lab.places["portal"], lab.team, "portal"
    local, others = {"portal": {"mode": "local"}}, lab.portal.new_team(portal_stage.BEN)

    def stored(name: str) -> Any:
        return lambda _: team.put(name, name.encode(), team.material)

    return [
        Failure(cause="neither file nor folder goes there", call=MAKE, at=place.parent / "New"),
        Failure(cause="an organization is made", call=MAKE, at=Path(it, "New")),
        Failure(cause="a folder in a material", call=MAKE, at=place / "New"),
        Failure(cause="neither file nor folder goes there", call=SAVE, at=place.parent / "new.txt"),
        Failure(cause="a record is removed", call=REMOVE_FOLDER, at=place),
        Failure(cause="a rename where there is none", call=move("Other"), at=place),
        Failure(cause="blanks at the ends of a name", call=SAVE, at=place / " blank.txt"),
        Failure(cause="a name that leads elsewhere", call=SAVE, at=place / "..%2Fup.txt"),
        Failure(cause="the account may not delete", call=REMOVE, at=place / "delete-403.txt",
                before=stored("delete-403.txt"), faults=(fault(it, "status", 403, "*/attachments/*", "DELETE"),)),
        Failure(cause="the program fails over it", call=SAVE, at=place / "program.bin",
                switches={it: {"largest_file": 3}}),
        Failure(cause="the server's disk has lost the bytes", call=READ, at=place / "there.txt", switches=local),
        Failure(cause="a rename loses the bytes", call=move("other.txt"), at=place / "there.txt", switches=local),
        Failure(cause="a name that the server's disk cannot find", call=SAVE, at=place / "a&amp;b.txt", switches=local),
        Failure(cause="the portal calls the bytes deleted", call=READ, at=place / "deleted.txt",
                before=lambda _: _deleted(lab, "deleted.txt")),
        Failure(cause="the organization is another's", call=SAVE, at=Path("portal-all", others.name, "Material", "x.txt")),
        # Here the blob store's faults are no other system's.
        Failure(cause="a row of a list tells no address", call=READ, at=place / "nowhere.txt",
                before=stored("nowhere.txt"),
                faults=(fault(it, "rewrite", [['"download_url":"http', '"download_url":"ftp']]),)),
        Failure(cause="the bucket has lost the bytes", call=READ, at=place / "lost.txt", before=stored("lost.txt"),
                faults=(fault("blobs", "status", 404, "*lost.txt"),)),
    ]  # fmt: skip


def _deleted(lab: Lab, name: str) -> None:
    number = lab.team.put(name, b"bytes", lab.team.material)
    lab.portal.ask("PATCH", f"attachments/{number}/", data={"s3_resource_deleted": "true"}).raise_for_status()


def of_redcap(lab: Lab) -> list[Failure]:
    place, record, it = lab.places["redcap"], lab.places["redcap"].parent, "redcap"
    biobank, rights = Path(it, "biobank"), Path("redcap-rights")
    fill, shelf = record / "variants", biobank / ".repository"

    def put(name: str, field: str) -> Any:
        return lambda _: lab.redcap.put("biobank", name, b"there", record=lab.record, field=field)

    rows: list[tuple[str, Call, Path]] = [
        ("the record is locked", SAVE, biobank / "10" / "counts" / "new.txt"),
        ("a file with a forbidden extension", SAVE, fill / "tool.exe"),
        ("the field holds a file", SAVE, place / "second.txt"),
        ("a field of signatures", SAVE, record / "consent_signature" / "new.txt"),
        ("quotes in a name", SAVE, fill / 'a"b.txt'),
        ("neither file nor folder goes there", SAVE, record / "new.txt"),
        ("neither file nor folder goes there", MAKE, record / "New"),
        ("a project is made", MAKE, Path(it, "New")),
        ("what does not repeat is made", MAKE, Path(it, "trial", "1", "visit_arm_1", "other-2")),
        ("a record is removed", REMOVE_FOLDER, record),
        ("a folder's name is too long", MAKE, shelf / ("x" * 160)),
        ("a rename where there is none", move("other.txt"), place / "there.txt"),
        ("somebody else saved meanwhile", Call("append", lambda path: _overtaken(lab, path)), place / "there.txt"),
        ("the token may not import", SAVE, rights / "reader" / lab.record / "variants" / "new.txt"),
        ("the token may not export", LIST, rights / "writer"),
        ("the token is not known", LIST, rights / "unknown"),
    ]
    return [
        *[Failure(cause=cause, call=call, at=at) for cause, call, at in rows],
        Failure(cause="the file is larger than a field takes", call=SAVE, at=record / "slide_image" / "large.txt",
                switches={it: {"largest_upload": 3}}),
        Failure(cause="the token may not delete", call=REMOVE, at=rights / "keeper" / "1" / "counts" / "counts.h5",
                switches={it: {"delete_needs_record_right": True}}),
        Failure(cause="the server runs out of memory", call=LIST, at=Path(it, "plates"),
                switches={it: {"memory_rows": 1}}),
        Failure(cause="the server answers with nothing", call=LIST, at=Path(f"redcap{FAST}", "wells"),
                switches={it: {"empty_answers": 1000}}),
        Failure(cause="the file was removed since it was listed", at=record / "pathology_report" / "gone.txt",
                call=Call("read", lambda path: _removed(lab, path)), before=put("gone.txt", "pathology_report")),
        Failure(cause="the machine is banned", call=LIST, at=Path(it, "empty"),
                switches={it: {"requests_per_minute": 1}}),
        Failure(cause="below a folder that fails", call=LIST, at=Path(it, "odd"), ask=Path(it, "odd", "R 3", "file.txt"),
                faults=(fault(it, "status", 403),)),
        Failure(cause="above a file that fails", call=SAVE, at=record / "consent_scan" / "b\\c.txt",
                ask=record / "consent_scan"),
    ]  # fmt: skip


def _removed(lab: Lab, path: Path) -> None:
    os.stat(path)
    lab.redcap.file("delete", "biobank", record=lab.record, field=path.parent.name)
    path.read_bytes()


def _overtaken(lab: Lab, path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"mine")
        lab.put("redcap", "there.txt", b"theirs, which is longer")


# -- the play ------------------------------------------------------------------------------------------------------


def configured(lab: Lab, path: Path) -> Path:
    """Write a configuration of the five sites, of the same with less patience, and of some with fewer rights."""
    head, *sections = lab.sandbox.config.read_text().replace("xattrs = true", "").split("[sites.")
    known = {section.partition("]")[0]: section.partition("]")[2] for section in sections}
    tokens = lab.redcap.tokens
    rights = {
        "keeper": tokens["biobank/keeper"],
        "reader": tokens["biobank/reader"],
        "writer": tokens["biobank/writer"],
        "unknown": "0" * 32,
    }
    projects = ", ".join(f'"{alias}" = {{ token = "{token}" }}' for alias, token in rights.items())
    found = {site: f"{text}\ntimeout_s = {SECONDS}\n" for site, text in known.items()}
    found |= {f"{site}{FAST}": f"{text}\ntimeout_s = {HASTY_S}\n" for site, text in known.items()}
    found["odm-reader"] = f'{known["odm"]}\naudience = "as-user"\n'
    found["odm-reading"] = known["odm"].replace('"full"', '"read"')
    found["portal-all"] = f'{known["portal"]}\norganizations = "all"\n'
    found["redcap-rights"] = re.sub(r"projects = .*", f"projects = {{ {projects} }}", known["redcap"])
    path.write_text(head + "".join(f"[sites.{site}]{text}" for site, text in found.items()))
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        for site in SITES:
            made.put(site, "there.txt", b"what is there\n")
        yield made


@pytest.fixture(scope="module")
def mount(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    base = tmp_path_factory.mktemp("transcript")
    mount = Mount(base, configured(lab, base / "labfs.toml"))
    try:
        mount.start()
        for place in lab.places.values():
            for each in (place, hasty(place)):
                os.listdir(mount.path / each)
        yield mount
    finally:
        mount.clean_up()


@pytest.fixture(scope="module")
def theatre(lab: Lab, mount: Mount) -> Iterator[Theatre]:
    names = {lab.basespace.project: "PROJECT", lab.team.name: "TEAM", lab.record: "RECORD"}
    theatre = Theatre(lab.sandbox, mount, names)
    yield theatre
    theatre.close()


@pytest.fixture(scope="module")
def seen(lab: Lab, theatre: Theatre) -> list[Seen]:
    own = (of_basespace, of_clarity, of_odm, of_portal, of_redcap)
    tables = {
        site: looks(site, lab.places[site]) + table(lab) + saves(site, lab.places[site])
        for site, table in zip(SITES, own, strict=True)
    }
    return theatre.play({"mount": of_the_mount(lab)}) + theatre.play(tables)


def compare(text: str, name: str) -> None:
    if os.environ.get("LABFS_WRITE_TRANSCRIPT"):
        (HERE / name).write_text(text)
    assert text == (HERE / name).read_text(), "LABFS_WRITE_TRANSCRIPT=1 writes it anew; then read what has changed"


def test_the_transcript_is_what_the_product_says(seen: list[Seen], theatre: Theatre) -> None:
    compare(theatre.written(seen), "transcript.txt")


def test_no_two_causes_share_a_sentence(seen: list[Seen]) -> None:
    causes = defaultdict(set)
    for each in seen:
        causes[each.said.splitlines()[0].replace(each.failure.at.name, "NAME")].add(each.failure.cause)
    shared = [f"{said}: {', '.join(sorted(found))}" for said, found in causes.items() if len(found) > 1]
    assert not shared, "\n".join(shared)


FOREIGN = re.compile(  # a library's words, and sentences that run together
    r"Traceback|Errno|\b\w+(?:Error|Exception)\b|httpx|pyreqwest|trio\b|by peer|end of file|\.\.$|\.\. |None\b|\.\)$|[a-z)]\n[A-Z]",
    re.MULTILINE,
)
STEPS = (
    r"labfs \w+", "[Tt]ry again", "[Oo]pen it again", "choose", "copy", "save", "remove", "rename", "restore", "[Gg]ive it",
    "[Aa]sk", "owner", "[Ww]hoever", "Those who", "administrator", "pages", "web application", "configuration", "made (?:in|on|by)",
    "[Ff]iles? (?:goes|are saved)", "app result does", "such as", "smaller", r"\?",
)  # fmt: skip
STEP = re.compile("|".join(STEPS))
FINAL = {  # where nothing is to be done
    "there is no such file",
    "there is no such folder",
    "a pipe, socket or device",
    "an attribute is set",
    "an attribute goes",
    "labfs's own view is changed",
    "labfs's own view is removed",
    "labfs's own view is renamed",
}


def test_each_failure_has_an_errno_a_reason_and_a_step(seen: list[Seen]) -> None:
    poor = []
    for each in seen:
        unexplained = each.number is None or "Nothing has failed there" in each.said
        unended = not all(line.endswith((".", "?")) for line in each.said.splitlines())
        stepless = not STEP.search(each.said) and each.failure.cause not in FINAL
        if unexplained or unended or stepless or FOREIGN.search(each.said):
            poor.append(f"{each.system}: {each.failure.cause}: {each.code} {each.said}")
    assert not poor, "\n".join(poor)


def test_no_secret_is_in_any_message(seen: list[Seen], lab: Lab, mount: Mount) -> None:
    evidence = Evidence(secrets_of(lab.sandbox))
    for each in seen:
        evidence.add(each.failure.cause, each.said)
    evidence.add("log", mount.log)
    evidence.add("status", json.dumps(mount.status()))
    evidence.add("outbox", typed("outbox", "list", env=mount.env).stdout)
    assert evidence.found() == []


@pytest.mark.skipif(not os.environ.get("LABFS_SOAK"), reason="takes minutes: LABFS_SOAK=1")
def test_a_save_whose_answer_is_lost_is_told_too(lab: Lab, theatre: Theatre) -> None:
    found = theatre.play({site: lost_saves(site, lab.places[site]) for site in SAVING})
    compare(theatre.written(found), "transcript_lost.txt")
