"""The five systems as the campaign sees them: their own APIs, and the requests that are worth a kill.

A name is a path below the place that the system gives, `report.txt` or `T-1/counts/report.txt`; a directory is
what stands before its last slash.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import clarity_stage
import httpx
import odm_stage
import portal_stage
import redcap_stage
from stage import Sandbox

KIB = 1024
HEAD = 64 * KIB  # bytes of a file that are kept to tell what it is
SMALL = (700, 9 * KIB, 70 * KIB, 500 * KIB)
NAMES = ("alpha.txt", "beta counts.csv", "gamma.dat", "delta.bin", "Übersicht.tsv", "zeta.fastq")


@dataclass(frozen=True)
class Stored:
    """One file that a system holds. A record without any bytes has the digest "" and a size of -1."""

    id: str
    digest: str
    size: int
    head: bytes  # its first bytes
    made: float = 0.0  # seconds since 1970, where the system tells


def stored(number: str, data: bytes | None, made: float = 0.0) -> Stored:
    if data is None:
        return Stored(number, "", -1, b"", made)
    return Stored(number, hashlib.sha256(data).hexdigest(), len(data), data[:HEAD], made)


@dataclass(frozen=True)
class Aim:
    """A request to spoil or to kill in: by method and path, or the n-th one where all look alike."""

    what: str
    method: str = "*"
    route: str = "*"
    skip: int = 0


@dataclass
class System:
    """A place in one of the systems; `stored` asks its API for the files of a directory by name."""

    sandbox: Sandbox
    name: str = ""
    title: str = ""  # the path of the place, below a mount point
    names: tuple[str, ...] = NAMES
    sizes: tuple[int, ...] = SMALL
    versions: bool = False  # a save is a newer version and nothing is removed
    in_place: bool = False  # a save destroys the bytes that were there
    checksums: bool = False
    renames: bool = False
    uploads: tuple[Aim, ...] = ()  # of one save, its first steps
    seconds: tuple[Aim, ...] = ()  # and those that must not be the last
    blobs: str = ""  # the service that sends bytes
    stack: ExitStack = field(default_factory=ExitStack)
    kept: dict[str, Stored] = field(default_factory=dict)  # by an id whose bytes never change

    def stored(self, directory: str) -> dict[str, list[Stored]]:
        raise NotImplementedError

    def adorn(self, directory: str, name: str) -> None:
        """Let something point at a file, where the system has such things."""

    def once(self, number: str, made: float, ask: Callable[[], bytes | None]) -> Stored:
        """Return a file whose bytes never change, asked for once."""
        if number not in self.kept:
            self.kept[number] = stored(number, ask(), made)
        return self.kept[number]

    def refusals(self) -> list[dict[str, Any]]:
        """Return the faults that refuse every upload, for good."""
        return [{"service": self.name, "method": "POST", "times": None, "action": "status", "argument": 400}]

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse every upload, for good, where no fault can tell them from other requests."""
        yield

    def replaces_in_place(self, name: str) -> bool:
        return self.in_place

    def fresh(self, name: str, number: int) -> str:
        """Return another name, for one that is given up."""
        return re.sub(r"(-\d+)?(\.\w+)$", rf"-{number}\2", name)


class BaseSpace(System):
    def __init__(self, sandbox: Sandbox) -> None:
        folder = sandbox.fresh()
        self._folder = folder
        upload = Aim("upload", "POST", "*/appresults/*/files")
        super().__init__(
            sandbox, "basespace", f"basespace/{folder.project}/{folder.name}", versions=True, checksums=True, blobs="blobs",
            uploads=(upload,), seconds=(Aim("part", "PUT", "*/parts/*"), Aim("completion", "POST", "*/v1pre3/files/*")),
        )  # fmt: skip
        self.large = 27 * KIB * KIB

    def stored(self, directory: str) -> dict[str, list[Stored]]:
        found: dict[str, list[Stored]] = {}
        path = f"appresults/{self._folder.record}/files"
        for item in self._pages(path):
            made = datetime.fromisoformat(item["DateCreated"]).timestamp()
            found.setdefault(item["Path"], []).append(self.once(item["Id"], made, partial(self._bytes, item["Id"])))
        return found

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            answer = self.sandbox.api("GET", path, params={"limit": 1000, "offset": offset, "sortby": "Path"})
            yield from answer["Items"]
            offset += len(answer["Items"])
            if not answer["Items"] or offset >= answer["TotalCount"]:
                return

    def _bytes(self, number: str) -> bytes:
        headers = {"x-access-token": self.sandbox.token}
        url = f"{self.sandbox.url}/v1pre3/files/{number}/content"
        address = httpx.get(url, headers=headers, trust_env=False, verify=False, timeout=30).headers["location"]
        return httpx.get(address, trust_env=False, verify=False, timeout=30).raise_for_status().content


class Clarity(System):
    def __init__(self, sandbox: Sandbox) -> None:
        files = "*/api/v2/files"
        super().__init__(
            sandbox, "clarity", "clarity/Upload here/_project", in_place=True, blobs="clarity",
            uploads=(Aim("storage", "POST", "*/glsstorage"), Aim("record", "POST", files)),
            seconds=(Aim("upload", "POST", f"{files}/*/upload"), Aim("deletion", "DELETE", f"{files}/*")),
        )  # fmt: skip
        self._service = self.stack.enter_context(clarity_stage.Clarity(sandbox))

    def stored(self, directory: str) -> dict[str, list[Stored]]:
        found: dict[str, list[Stored]] = {}
        project = self._service.get(f"projects/{clarity_stage.PROJECT}")
        for number in [str(item.get("limsid")) for item in project if item.tag == clarity_stage.FILE]:
            name = self._service.get(f"files/{number}").findtext("original-location") or ""
            answer = self._service.http.get(f"files/{number}/download")
            data = answer.content if answer.status_code == 200 else None
            found.setdefault(name, []).append(stored(number, data))
        return found


class Odm(System):
    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(
            sandbox, "odm", blobs="odm",
            uploads=(Aim("import", "POST", "*/jobs/import/file/multipart"), Aim("job", "GET", "*/jobs/*")),
            seconds=(Aim("deletion", "DELETE", "*/manage-data/data"), Aim("size", "HEAD", "*/download")),
        )  # fmt: skip
        self._service = self.stack.enter_context(odm_stage.quick(sandbox))
        self._service.clear(odm_stage.EMPTY)
        self.stack.callback(self._service.clear, odm_stage.EMPTY)
        self.title = f"odm/{self._service.title(odm_stage.EMPTY)}/Document"

    def stored(self, directory: str) -> dict[str, list[Stored]]:
        found: dict[str, list[Stored]] = {}
        for item in self._service.get(f"as-curator/integration/link/files/by/study/{odm_stage.EMPTY}"):
            number = item["genestack:accession"]
            file = self.once(number, 0.0, partial(self._bytes, number))
            found.setdefault(item["genestack:name"], []).append(file)
        return found

    def _bytes(self, number: str) -> bytes:
        return self._service.ask("GET", f"as-curator/files/{number}/download").raise_for_status().content


class Portal(System):
    def __init__(self, sandbox: Sandbox) -> None:
        attachments = "/v1/attachments/"
        super().__init__(
            sandbox, "portal", renames=True, blobs="blobs",
            uploads=(Aim("upload", "POST", attachments), Aim("row", "GET", f"{attachments}*")),
            seconds=(Aim("deletion", "DELETE", f"{attachments}*"), Aim("links", "PATCH", f"{attachments}*")),
        )  # fmt: skip
        service = self.stack.enter_context(portal_stage.opened(sandbox))
        service.switch(body_limit=0)
        self._service, self._team = service, service.new_team(portal_stage.ADA)
        self.title = f"portal/{self._team.name}/_attachments"

    def stored(self, directory: str) -> dict[str, list[Stored]]:
        found: dict[str, list[Stored]] = {}
        for row in self._rows():
            made = datetime.fromisoformat(row["created_at"]).timestamp()
            file = self.once(str(row["id"]), made, partial(self._bytes, row["download_url"]))
            found.setdefault(row["filename"], []).append(file)
        return found

    def _bytes(self, address: str) -> bytes | None:
        answer = httpx.get(address, trust_env=False, verify=False, timeout=30)
        return answer.content if answer.status_code == 200 else None

    def _rows(self) -> list[dict[str, Any]]:
        listed = self._service.get(f"organizations/{self._team.number}/")["attachments"]
        return [row for row in listed if row.get("sequence_map_for") is None]

    def adorn(self, directory: str, name: str) -> None:
        """Make a file the agreement of the team's material: saving over it has one request more."""
        numbers = [row["id"] for row in self._rows() if row["filename"] == name]
        if numbers:
            self._service.ask("PATCH", f"materials/{self._team.material}/", json={"mta_attachment": numbers[0]})


class Redcap(System):
    """A folder of the repository, where a save is a new file; and fields, which are replaced in place."""

    def __init__(self, sandbox: Sandbox) -> None:
        steps = tuple(Aim(f"request {n + 1}", "POST", skip=n) for n in range(7))
        super().__init__(sandbox, "redcap", blobs="redcap", sizes=SMALL[:3], uploads=steps[:3], seconds=steps[2:])
        self._service = self.stack.enter_context(redcap_stage.opened(sandbox))
        folder = f"Campaign {secrets.token_hex(3)}"
        (made,) = self._service.ask("biobank", "fileRepository", action="createFolder", name=folder)
        self._folder, self._shelf = made["folder_id"], f".repository/{folder}"
        self.title = "redcap/biobank"
        fields = tuple(f"{self._record()}/counts/{name}" for name in ("field.csv", "form.dat"))
        self.names = (*(f"{self._shelf}/{name}" for name in NAMES[:4]), *fields)

    def _record(self) -> str:
        record = self._service.record()
        delete = {"content": "record", "action": "delete", "records": [record]}
        self.stack.callback(self._service.post, "biobank", **delete)
        return record

    def refusals(self) -> list[dict[str, Any]]:
        return []

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        usual = {"largest_upload": 1 << 30, "largest_repository_upload": 1 << 30}
        self._service.switch(**dict.fromkeys(usual, 1))
        try:
            yield
        finally:
            self._service.switch(**usual)

    def replaces_in_place(self, name: str) -> bool:
        return not name.startswith(".repository/")

    def fresh(self, name: str, number: int) -> str:
        if not self.replaces_in_place(name):
            return super().fresh(name, number)
        return f"{self._record()}/counts/{name.rpartition('/')[2]}"

    def stored(self, directory: str) -> dict[str, list[Stored]]:
        return self._shelved() if directory.startswith(".repository/") else self._filled(directory.partition("/")[0])

    def _shelved(self) -> dict[str, list[Stored]]:
        found: dict[str, list[Stored]] = {}
        for item in self._service.ask("biobank", "fileRepository", action="list", folder_id=self._folder):
            if "doc_id" not in item:
                continue
            number = str(item["doc_id"])
            found.setdefault(item["name"], []).append(self.once(number, 0.0, partial(self._bytes, number)))
        return found

    def _bytes(self, number: str) -> bytes:
        return self._service.post("biobank", content="fileRepository", action="export", doc_id=number).content

    def _filled(self, record: str) -> dict[str, list[Stored]]:
        answer = self._service.file("export", "biobank", record=record, field="counts")
        if answer.status_code != 200:
            return {}
        name = re.search(r'name="([^"]*)"', answer.headers["content-type"])
        assert name is not None, answer.headers
        return {name[1]: [stored(record, answer.content)]}


SYSTEMS: dict[str, type[Any]] = {
    "basespace": BaseSpace, "clarity": Clarity, "odm": Odm, "portal": Portal, "redcap": Redcap,
}  # fmt: skip


@contextlib.contextmanager
def opened(name: str, sandbox: Sandbox) -> Iterator[System]:
    """Give a place of its own in a system, and take it away."""
    system: System = SYSTEMS[name](sandbox)
    with system.stack:
        yield system


def place(system: System, mountpoint: Path) -> Path:
    return mountpoint / system.title
