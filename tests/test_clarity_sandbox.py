"""The Clarity stand-in: the rules of its contract, and clients that other people wrote."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest
from stage import Sandbox

RI = "http://genologics.com/ri"
FILE = f"{{{RI}/file}}file"
PROJECT, SAMPLE, STEP = "KLM300", "KLM300A1", "24-126458"  # made to upload to
DONE = "24-126454"  # a completed step
CLIENTS = {"genologics": "2.0.1", "s4-clarity": "1.8.0", "six": "1.17.0", "requests": "2.34.2"}


class Clarity:
    """The running stand-in, seen from plain requests and from its store."""

    def __init__(self, running: Sandbox) -> None:
        self.directory = running.directory
        self.running = running
        known = json.loads((running.directory / "sandbox.json").read_text())
        self.url: str = known["sites"]["clarity"]
        self.credentials = known["credentials"]["clarity"]
        auth = (self.credentials["username"], self.credentials["password"])
        self.http = httpx.Client(base_url=f"{self.url}/api/v2/", auth=auth, trust_env=False, timeout=30)
        self.usual = httpx.get(f"{running.control}/switches", trust_env=False).json()["clarity"]

    def switch(self, **values: Any) -> None:
        answer = httpx.post(f"{self.running.control}/switches", json={"clarity": values}, trust_env=False)
        answer.raise_for_status()

    def calm(self) -> None:
        """The usual switches, no faults, and nothing attached where the tests attach."""
        self.switch(**self.usual)
        self.running.faults()
        owners = self.rows("SELECT limsid FROM clarity_files WHERE owner LIKE ? OR owner = ?", f"{PROJECT}%", STEP)
        owners += self.rows(
            "SELECT f.limsid FROM clarity_files f JOIN clarity_artifacts a ON a.limsid = owner WHERE process = ?", STEP
        )
        for row in owners:
            self.http.delete(f"files/{row['limsid']}").raise_for_status()

    def get(self, path: str, **params: Any) -> ET.Element:
        answer = self.http.get(path, params=params or None)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/xml"
        return ET.fromstring(answer.content)

    def ids(self, path: str) -> list[str]:
        return [str(item.get("limsid")) for item in self.get(path) if item.get("limsid")]

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Ask the store itself."""
        with contextlib.closing(sqlite3.connect(self.directory / "sandbox.sqlite")) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql, values)]

    def stored(self, owner: str) -> list[tuple[str, bytes | None]]:
        """Return name and bytes of what is attached to something, straight from the store."""
        rows = self.rows(
            "SELECT original, blob FROM clarity_files LEFT JOIN clarity_locations USING (location)"
            " WHERE owner = ? ORDER BY id",
            owner,
        )
        blobs = self.directory / "blobs"
        return [(row["original"], (blobs / row["blob"]).read_bytes() if row["blob"] else None) for row in rows]

    def placeholders(self) -> list[str]:
        """Return the empty placeholders of the open step; the first one is shared."""
        rows = self.rows("SELECT limsid FROM clarity_artifacts WHERE process = ? ORDER BY id", STEP)
        return [row["limsid"] for row in rows]

    # -- the three requests ----------------------------------------------------------------------------

    def post(self, path: str, body: str | bytes, content_type: str = "application/xml") -> httpx.Response:
        content = body.encode() if isinstance(body, str) else body
        return self.http.post(path, content=content, headers={"Content-Type": content_type})

    def allocate(self, target: str, name: str, more: str = "") -> httpx.Response:
        return self.post("glsstorage", record(f"{self.url}/api/v2/{target}", name, more))

    def attach(self, target: str, name: str) -> str:
        """Make a file's record, without bytes; return its LIMS ID."""
        answer = self.post("files", self.allocate(target, name).content)
        assert answer.status_code == 201, answer.text
        return str(ET.fromstring(answer.content).get("limsid"))

    def upload(self, limsid: str, data: bytes, part: str = "file") -> httpx.Response:
        return self.http.post(f"files/{limsid}/upload", files={part: ("any name", data)})

    def put(self, target: str, name: str, data: bytes) -> str:
        limsid = self.attach(target, name)
        answer = self.upload(limsid, data)
        assert answer.status_code == 200, answer.text
        return limsid


def record(target: str, name: str, more: str = "") -> str:
    root = ET.Element("{http://genologics.com/ri/file}file")
    ET.SubElement(root, "original-location").text = name
    ET.SubElement(root, "attached-to").text = target
    root.extend(ET.fromstring(f"<x>{more}</x>"))
    return ET.tostring(root, encoding="unicode")


def links(*uris: str) -> str:
    root = ET.Element(f"{{{RI}}}links")
    for uri in uris:
        ET.SubElement(root, "link", uri=uri)
    return ET.tostring(root, encoding="unicode")


def refused(answer: httpx.Response, status: int, words: str = "") -> None:
    """The answer is an exception as the vendor writes them."""
    assert answer.status_code == status, answer.text
    assert "<exc:exception" in answer.text
    root = ET.fromstring(answer.content)
    assert (root.tag, root.get("code")) == (f"{{{RI}/exception}}exception", str(status))
    assert words in (root.findtext("message") or "")


@pytest.fixture(scope="module")
def service(running: Sandbox) -> Iterator[Clarity]:
    made = Clarity(running)
    yield made
    made.http.close()


@pytest.fixture
def clarity(service: Clarity) -> Iterator[Clarity]:
    service.calm()
    yield service
    service.calm()


# -- who asks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api", "/api/v2/projects", "/api/v2/files/40-1/download", "/nonsense"])
def test_every_path_wants_credentials_and_challenges_for_them(clarity: Clarity, path: str) -> None:
    powerless = clarity.credentials["powerless"]
    for auth in (None, ("apiuser", "wrong"), ("nobody", "x")):
        answer = httpx.get(clarity.url + path, auth=auth, trust_env=False)
        assert (answer.status_code, answer.content) == (401, b"")
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
    answer = httpx.get(clarity.url + path, auth=(powerless["username"], powerless["password"]), trust_env=False)
    assert (answer.status_code, answer.content) == (403, b"")


@pytest.mark.parametrize("header", ["Bearer x", "Basic", "Basic !!", "Basic /w=="])
def test_broken_credentials_are_wrong_credentials(clarity: Clarity, header: str) -> None:
    answer = httpx.get(f"{clarity.url}/api/v2", headers={"Authorization": header}, trust_env=False)
    assert answer.status_code == 401


def test_versions_and_index_with_and_without_a_slash(clarity: Clarity) -> None:
    for path in ("/api", "/api/"):
        root = clarity.get(clarity.url + path)
        assert root.tag == f"{{{RI}/version}}versions"
        assert [v.get("major") for v in root.findall("version")] == ["v2"]
    for path in ("/api/v2", "/api/v2/"):
        root = clarity.get(clarity.url + path)
        assert root.tag == f"{{{RI}}}index"
        assert {"projects", "samples", "artifacts", "processes", "files", "glsstorage"} <= {
            str(link.get("rel")) for link in root
        }


def test_unknown_paths_things_and_methods(clarity: Clarity) -> None:
    words = f"Could not find resource for relative : /v2/nonsense of full path: {clarity.url}/api/v2/nonsense"
    refused(clarity.http.get("nonsense"), 404, words)
    refused(clarity.http.get("projects/"), 404)  # no redirect to the path without a slash
    for path in (
        "projects/X1",
        "samples/X1",
        "artifacts/X1",
        "processes/X1",
        "steps/X1/details",
        "files/40-0/download",
    ):
        refused(clarity.http.get(path), 404)
    refused(clarity.http.post("projects"), 405)
    refused(clarity.post("projects/batch/retrieve", links()), 404)


def test_faults_come_in_the_services_own_form(clarity: Clarity) -> None:
    clarity.running.faults(
        {"service": "clarity", "action": "status", "argument": 500},
        {"service": "clarity", "action": "status", "argument": 403},
    )
    refused(clarity.http.get("projects"), 500)
    answer = clarity.http.get("projects")
    assert (answer.status_code, answer.content) == (403, b"")


# -- lists ---------------------------------------------------------------------------------------------


def test_pages_link_to_each_other_and_keep_the_filters(clarity: Clarity) -> None:
    first = clarity.get("samples", projectname="Many samples")
    assert len(first) == 501
    assert first[-1].tag == "next-page"
    assert first[-1].get("uri") == f"{clarity.url}/api/v2/samples?start-index=500&projectname=Many+samples"
    second = clarity.get(f"{first[-1].get('uri')}&projectname=Many+samples")  # one client sends it twice
    assert [item.tag for item in second[-2:]] == ["previous-page", "next-page"]
    assert second[-1].get("uri", "").endswith("samples?start-index=1000&projectname=Many+samples")
    last = clarity.get(str(second[-1].get("uri")))
    assert [item.tag for item in last[-2:]] == ["sample", "previous-page"]
    found = [item.get("limsid") for page in (first, second, last) for item in page.findall("sample")]
    assert found == [f"MNY400A{number}" for number in range(1, 1201)]
    past = clarity.get("samples", **{"start-index": "99999"})
    assert past.findall("sample") == []
    assert past.find("next-page") is None
    refused(clarity.http.get("samples?start-index=x"), 400)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("projects?name=Validation", ["ADM1", "ADM2"]),
        ("projects?name=validation", []),
        ("projects?name=Validation&name=Empty%20project", ["ADM1", "ADM2", "LEI162"]),
        ("projects?name=..&name=a%2Fb&name=two%0Alines", ["ODD1", "ODD2", "ODD3"]),
        ("projects?name=caf%C3%A9", ["ODD4"]),
        ("projects?udf.Application=WGS", ["ADM1"]),
        ("projects?udf.Budget.min=4000", ["ADM1"]),
        ("projects?udf.Budget[max]=4000", []),
        ("projects?udt.name=Billing", ["ADM1"]),
        ("projects?udt.Billing.Cost%20centre=B-17", ["ADM1"]),
        ("projects?open-date=2999-01-01", []),
        ("projects?last-modified=2999-01-01T00%3A00%3A00%2B01%3A00", []),
        ("projects?name=Validation&last-modified=2024-01-01T00:00:00Z", ["ADM1", "ADM2"]),
        ("samples?projectlimsid=ADM1", ["ADM1A1", "ADM1A2", "ADM1A3", "ADM1A4"]),
        ("samples?name=SLX-6078", ["ADM1A1", "ADM2A1"]),
        ("samples?name=SLX-6078&projectlimsid=ADM2", ["ADM2A1"]),
        ("samples?projectname=Validation&name=SLX-6078", ["ADM1A1", "ADM2A1"]),
        ("artifacts?samplelimsid=ADM2A1", ["ADM2A1PA1", "92-1833867"]),
        ("artifacts?samplelimsid=ADM2A1&type=Analyte", ["ADM2A1PA1"]),
        ("artifacts?sample-name=NA12871&process-type=NextSeq%202000%20Run", ["92-1833868"]),
        ("artifacts?name=Pool%207", ["2-501"]),
        ("artifacts?containerlimsid=27-4012", ["ADM2A1PA1"]),
        ("artifacts?containername=Plate%2027-4012&qc-flag=UNKNOWN&working-flag=true", ["ADM2A1PA1"]),
        ("artifacts?containername=Plate%2027-4012&qc-flag=PASSED", []),
        ("processes?projectname=Validation", ["24-126453", "24-126454", "24-126455", "122-126457"]),
        ("processes?projectname=Tumour+panel+2026", ["24-126456", "122-126457"]),
        ("processes?type=Library%20QC&techlastname=Nobody", []),
        ("processes?type=MiSeq+Load+Cartridge&techfirstname=Grace", ["24-126453"]),
        ("processes?inputartifactlimsid=ADM2A1PA1", ["24-126455"]),
    ],
)
def test_filters(clarity: Clarity, path: str, found: list[str]) -> None:
    assert clarity.ids(path) == found


@pytest.mark.parametrize(
    "path",
    ["artifacts?udf.X=1", "artifacts?udf.X=1&type=Analyte&type=ResultFile", "projects?udf.X[like]=1",
     "projects?open-date=yesterday", "projects?last-modified=2024-01-01T00:00:00", "projects?udf.Budget.min=much"],
)  # fmt: skip
def test_filters_that_are_refused(clarity: Clarity, path: str) -> None:
    refused(clarity.http.get(path), 400)


# -- what things look like -----------------------------------------------------------------------------


def local(root: ET.Element) -> list[str]:
    """Return the names of the children without their namespaces, each once."""
    return list(dict.fromkeys(child.tag.rpartition("}")[2] for child in root))


@pytest.mark.parametrize(
    ("path", "root", "children"),
    [
        ("projects/ADM1", "project", ["name", "open-date", "researcher", "type", "field", "file"]),
        ("samples/ADM1A1", "sample", ["name", "date-received", "project", "submitter", "artifact", "file"]),
        ("artifacts/92-1833858", "artifact", ["name", "type", "output-type", "parent-process", "qc-flag",
                                              "working-flag", "sample", "file"]),
        ("processes/24-126453", "process", ["type", "date-run", "technician", "input-output-map", "file"]),
        ("steps/24-126454", "step", ["configuration", "date-started", "date-completed", "setup", "details"]),
        ("steps/24-126453", "step", ["configuration", "date-started", "setup", "details"]),
        ("files/40-117", "file", ["attached-to", "content-location", "original-location", "original-name",
                                  "is-published"]),
    ],
)  # fmt: skip
def test_only_the_root_and_files_and_fields_are_in_a_namespace(
    clarity: Clarity, path: str, root: str, children: list[str]
) -> None:
    found = clarity.get(path)
    assert found.tag == f"{{{RI}/{root}}}{root}"
    assert local(found) == children
    spaces = {child.tag[1:].rpartition("}")[0] for child in found.iter() if child.tag.startswith("{")}
    assert spaces <= {f"{RI}/{root}", f"{RI}/file", f"{RI}/userdefined"}
    assert all(child.tag in (FILE, f"{{{RI}/userdefined}}field", f"{{{RI}/userdefined}}type")
               for child in found if child.tag.startswith("{"))  # fmt: skip


def test_a_step_and_its_process_are_two_views_of_one_thing(clarity: Clarity) -> None:
    process, details = clarity.get("processes/24-126453"), clarity.get("steps/24-126453/details")
    setup, step = clarity.get("steps/24-126453/setup"), clarity.get("steps/24-126453")
    assert step.get("current-state") == "Record Details"
    outputs = process.findall("input-output-map/output")
    shared = [output for output in outputs if output.get("output-generation-type") == "PerAllInputs"]
    assert {output.get("limsid") for output in shared} == {"92-1833858"}
    assert len(shared) == 4  # once for every input
    assert [o.get("type") for o in details.findall("input-output-maps/input-output-map/output")] == ["ResultFile"] * 8
    assert [(f.get("name"), f.get("limsid")) for f in setup.findall("files/file")] == [
        ("SampleSheet.csv", "92-1833858")
    ]
    assert process.find("input-output-map/input").get("post-process-uri").endswith("?state=7903")
    assert details.find(FILE) is None and step.find(FILE) is None
    clarity.switch(shared_type="SharedResultFile", processes_served=False)
    assert clarity.get("artifacts/92-1833858").findtext("output-type") == "SharedResultFile"
    refused(clarity.http.get("processes/24-126453"), 404, "Could not find resource")
    assert clarity.get("steps/24-126453").get("limsid") == "24-126453"


def test_the_links_in_answers_lead_somewhere(clarity: Clarity) -> None:
    """Except to containers, protocols and control types, which have nothing to do with files."""
    seen: set[str] = set()
    waiting = ["", "projects/ADM1", "samples/CTRLA1", "processes/122-126457", "steps/122-126457"]
    while waiting:
        path = waiting.pop()
        for element in clarity.get(path).iter():
            for key in ("uri", "artifact-uri", "post-process-uri"):
                found = element.get(key, "").removeprefix(f"{clarity.url}/api/v2/")
                known = found and not found.startswith(("containers/", "configuration/", "controltypes/", "glsstorage"))
                if known and found not in seen and found.partition("/")[0] not in seen and len(seen) < 80:
                    seen.add(found)
                    waiting.append(found)
    assert {"researchers/1", "processtypes/41"} <= seen
    for path in ("researchers/9", "processtypes/9"):
        refused(clarity.http.get(path), 404)


def test_a_control_sample_has_no_project(clarity: Clarity) -> None:
    sample = clarity.get("samples/CTRLA1")
    assert sample.find("project") is None
    assert sample.find("control-type") is not None


def test_names_come_back_as_they_are(clarity: Clarity) -> None:
    (project,) = clarity.ids("projects?name=Odd+names")
    files = [clarity.get(f"files/{file.get('limsid')}") for file in clarity.get(f"projects/{project}").findall(FILE)]
    names = {file.findtext("original-location"): file.findtext("original-name") for file in files}
    assert names["two\nlines.txt"] == "two\nlines.txt"
    assert names[" blank "] == " blank "
    assert names["C:\\data\\a:b.txt"] == "a:b.txt"
    assert names["../../etc/passwd"] == "passwd"
    assert {"caf\u00e9.txt", "cafe\u0301.txt", "CAF\u00c9.txt", ".."} <= set(names)
    for file in files:
        answer = clarity.http.get(f"files/{file.get('limsid')}/download")
        assert answer.text == f"content of {file.findtext('original-location')!r}\n"
        assert answer.headers["content-disposition"].startswith('attachment; filename="')


# -- several at once -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "space", "ids"),
    [("samples", "sample", ["ADM1A1", "WUY236A2"]), ("artifacts", "artifact", ["ADM1A1PA1", "92-1833858"]),
     ("files", "file", ["40-117", "40-119"])],
)  # fmt: skip
def test_batches_return_whole_things_in_their_namespace(
    clarity: Clarity, kind: str, space: str, ids: list[str]
) -> None:
    uris = [f"http://other.example/api/v2/{kind}/{limsid}" for limsid in reversed(ids)]  # only the path counts
    answer = clarity.post(f"{kind}/batch/retrieve", links(*uris))
    assert answer.status_code == 200
    root = ET.fromstring(answer.content)
    assert root.tag == f"{{{RI}/{space}}}details"
    assert [one.get("limsid") for one in root.findall(f"{{{RI}/{space}}}{space}")] == ids
    assert [one.get("uri", "").startswith(clarity.url) for one in root] == [True, True]
    refused(clarity.post(f"{kind}/batch/retrieve", links(uris[0], uris[0])), 400)
    other = "files" if kind != "files" else "samples"
    refused(clarity.post(f"{kind}/batch/retrieve", links(uris[0], f"{clarity.url}/api/v2/{other}/X")), 400)
    refused(clarity.post(f"{kind}/batch/retrieve", links(uris[0], f"{clarity.url}/api/v2/{kind}/X1")), 404)
    clarity.switch(unresolved_status=400)
    refused(clarity.post(f"{kind}/batch/retrieve", links(f"{clarity.url}/api/v2/{kind}/X1")), 400)


def test_an_artifact_in_two_states_is_one(clarity: Clarity) -> None:
    uris = [f"{clarity.url}/api/v2/artifacts/92-1833858?state={state}" for state in (3, 9)]
    root = ET.fromstring(clarity.post("artifacts/batch/retrieve", links(*uris)).content)
    assert [one.get("uri") for one in root] == [uris[1]]


@pytest.mark.parametrize("body", ["", "<a", "<links/>", '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'])
def test_bodies_that_are_not_what_they_should_be(clarity: Clarity, body: str) -> None:
    for path in ("files/batch/retrieve", "glsstorage", "files"):
        refused(clarity.post(path, body), 400)
    refused(clarity.post("glsstorage", record("x", "y"), "text/plain"), 415)


# -- attaching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["projects", "samples", "processes", "artifacts"])
def test_three_requests_attach_a_file(clarity: Clarity, kind: str) -> None:
    limsid = {"projects": PROJECT, "samples": SAMPLE, "processes": STEP, "artifacts": clarity.placeholders()[1]}[kind]
    target = f"{kind}/{limsid}"
    answer = clarity.allocate(f"{target}?state=1", "/home/ada/C232PACXX.csv", "<is-published>true</is-published>")
    assert answer.status_code == 200
    place = ET.fromstring(answer.content)
    assert place.attrib == {}  # no record yet
    assert local(place) == ["attached-to", "content-location", "original-location"]
    assert place.findtext("attached-to") == f"{clarity.url}/api/v2/{target}"
    location = place.findtext("content-location") or ""
    assert location.startswith("sftp://") and location.endswith(".csv")
    made = clarity.post("files", answer.content)
    assert made.status_code == 201
    file = ET.fromstring(made.content)
    assert file.findtext("content-location") == location
    assert file.findtext("original-location") == "/home/ada/C232PACXX.csv"
    assert file.findtext("original-name") == "C232PACXX.csv"
    assert file.findtext("is-published") == "false"
    number = file.get("limsid", "")
    assert number.startswith("40-") and number not in location
    assert clarity.stored(limsid) == [("/home/ada/C232PACXX.csv", None)]
    refused(clarity.http.get(f"files/{number}/download"), 404, "File does not exist")
    done = clarity.upload(number, b"a,b\n1,2\n")
    assert (done.status_code, done.content) == (200, b"")
    assert clarity.stored(limsid) == [("/home/ada/C232PACXX.csv", b"a,b\n1,2\n")]
    assert [link.get("limsid") for link in clarity.get(target).findall(FILE)] == [number]
    got = clarity.http.get(f"files/{number}/download")
    assert (got.status_code, got.content) == (200, b"a,b\n1,2\n")
    assert got.headers["content-type"] == "text/csv"
    assert got.headers["content-length"] == "8"
    assert got.headers["content-disposition"] == 'attachment; filename="C232PACXX.csv"'


def test_storage_ignores_a_clients_own_location_and_a_record_can_be_published(clarity: Clarity) -> None:
    answer = clarity.allocate(f"projects/{PROJECT}", "n.txt", "<content-location>n.txt</content-location>")
    assert b"<content-location>sftp://" in answer.content
    body = answer.text.replace("</original-location>", "</original-location><is-published>true</is-published>")
    file = ET.fromstring(clarity.post("files", body).content)
    assert file.findtext("is-published") == "true"
    # A change sets this flag and nothing else, and a body without it takes it away.
    body = record(f"{clarity.url}/api/v2/projects/ADM1", "other.txt")
    changed = clarity.http.put(f"files/{file.get('limsid')}", content=body, headers={"Content-Type": "application/xml"})
    assert changed.status_code == 200
    root = ET.fromstring(changed.content)
    assert [root.findtext(tag) for tag in ("original-location", "is-published")] == ["n.txt", "false"]
    assert clarity.stored(PROJECT) == [("n.txt", None)]


def test_locations_are_given_once(clarity: Clarity) -> None:
    refused(clarity.post("files", record(f"{clarity.url}/api/v2/projects/{PROJECT}", "x")), 400)
    body = clarity.allocate(f"projects/{PROJECT}", "x").text
    refused(clarity.post("files", body.replace(".0.0.1", ".0.0.2")), 400)
    assert clarity.post("files", body).status_code == 201
    refused(clarity.post("files", body), 400, "in use")
    clarity.switch(bytes_first=True)
    refused(clarity.post("files", clarity.allocate(f"projects/{PROJECT}", "x").content), 400, "File does not exist")


@pytest.mark.parametrize(
    "target", ["containers/27-4011", "artifacts/ADM1A1PA1", "projects/X1", "files/40-117", "projects/ADM1/x", ""]
)
def test_what_files_cannot_be_attached_to(clarity: Clarity, target: str) -> None:
    refused(clarity.allocate(target, "x"), 400)
    body = clarity.allocate(f"projects/{PROJECT}", "x").text.replace(f"projects/{PROJECT}<", f"{target}<")
    refused(clarity.post("files", body), 400)


def test_a_step_is_taken_for_its_process(clarity: Clarity) -> None:
    root = ET.fromstring(clarity.allocate(f"steps/{STEP}", "x").content)
    assert root.findtext("attached-to") == f"{clarity.url}/api/v2/processes/{STEP}"
    clarity.switch(steps_attachable=False)
    refused(clarity.allocate(f"steps/{STEP}", "x"), 400)


def test_an_upload_is_one_part_named_file(clarity: Clarity) -> None:
    limsid = clarity.attach(f"projects/{PROJECT}", "x.bin")
    path = f"files/{limsid}/upload"
    refused(clarity.upload(limsid, b"x", "data"), 400)
    refused(clarity.http.post(path, files=[("file", ("a", b"1")), ("file", ("b", b"2"))]), 400)
    refused(clarity.http.post(path, files={"file": ("a", b"1")}, data={"more": "2"}), 400)
    refused(clarity.http.post(path, content=b"x", headers={"Content-Type": "text/plain"}), 415)
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(clarity.http.post(path, content=b"--x\r\nbroken", headers=broken), 400)
    assert clarity.stored(PROJECT) == [("x.bin", None)]
    assert clarity.upload(limsid, b"").status_code == 200
    assert clarity.stored(PROJECT) == [("x.bin", b"")]
    assert clarity.http.get(f"files/{limsid}/download").headers["content-type"] == "application/octet-stream"


def test_the_upload_limit(clarity: Clarity) -> None:
    limit = {p.get("name"): p.get("value") for p in clarity.get("configuration/properties")}
    assert limit["api.artifacts.max.resultfile.upload.size"] == "10485760"
    limsid = clarity.attach(f"projects/{PROJECT}", "x.bin")
    refused(clarity.upload(limsid, bytes(10_485_761)), 413)
    assert clarity.stored(PROJECT) == [("x.bin", None)]
    assert clarity.upload(limsid, bytes(10_485_760)).status_code == 200
    clarity.switch(upload_limit=3, over_limit_status=400, limit_in_properties=False)
    refused(clarity.upload(limsid, b"four"), 400)
    assert clarity.stored(PROJECT) == [("x.bin", bytes(10_485_760))]
    assert b"max.resultfile" not in clarity.http.get("configuration/properties").content


def test_uploads_to_a_completed_step_are_refused(clarity: Clarity) -> None:
    output = clarity.rows("SELECT limsid FROM clarity_artifacts WHERE process = ? ORDER BY id", DONE)[0]["limsid"]
    clarity.switch(second_attach="refuse")
    refused(clarity.post("files", clarity.allocate(f"artifacts/{output}", "x").content), 400)
    limsid = clarity.attach(f"processes/{DONE}", "x")  # the record can be made all the same
    try:
        refused(clarity.upload(limsid, b"x"), 400, "completed")
        clarity.switch(completed_status=403)
        answer = clarity.upload(limsid, b"x")
        assert (answer.status_code, answer.content) == (403, b"")
        (held,) = clarity.rows("SELECT limsid FROM clarity_files WHERE owner = ?", output)
        assert clarity.upload(held["limsid"], b"x").status_code == 403
        clarity.switch(completed_step="accept")
        assert clarity.upload(limsid, b"x").status_code == 200
    finally:
        clarity.http.delete(f"files/{limsid}")


# -- replacing, deleting, reading ----------------------------------------------------------------------


def test_an_upload_in_place_keeps_the_id_and_the_name(clarity: Clarity) -> None:
    limsid = clarity.put(f"samples/{SAMPLE}", "a.txt", b"one")
    before = clarity.http.get(f"files/{limsid}").content
    assert clarity.upload(limsid, b"other bytes").status_code == 200
    assert clarity.http.get(f"files/{limsid}").content == before
    assert clarity.stored(SAMPLE) == [("a.txt", b"other bytes")]


def test_names_are_not_unique_but_an_artifact_has_one_file(clarity: Clarity) -> None:
    for data in (b"one", b"two"):
        clarity.put(f"projects/{PROJECT}", "same.txt", data)
    assert clarity.stored(PROJECT) == [("same.txt", b"one"), ("same.txt", b"two")]
    output = clarity.placeholders()[0]
    first = clarity.put(f"artifacts/{output}", "one.txt", b"one")
    second = clarity.put(f"artifacts/{output}", "two.txt", b"two")
    assert clarity.stored(output) == [("two.txt", b"two")]
    refused(clarity.http.get(f"files/{first}"), 404)
    clarity.switch(second_attach="refuse")
    refused(clarity.post("files", clarity.allocate(f"artifacts/{output}", "three.txt").content), 400)
    assert [link.get("limsid") for link in clarity.get(f"artifacts/{output}").findall(FILE)] == [second]


def test_deleting_forgets_the_record_and_leaves_the_bytes(clarity: Clarity) -> None:
    limsid = clarity.put(f"projects/{PROJECT}", "a.txt", b"still here")
    (row,) = clarity.rows("SELECT location FROM clarity_files WHERE limsid = ?", limsid)
    answer = clarity.http.delete(f"files/{limsid}")
    assert (answer.status_code, answer.content) == (204, b"")
    refused(clarity.http.delete(f"files/{limsid}"), 404)
    refused(clarity.http.get(f"files/{limsid}/download"), 404)
    assert clarity.get(f"projects/{PROJECT}").find(FILE) is None
    (place,) = clarity.rows("SELECT blob FROM clarity_locations WHERE location = ?", row["location"])
    assert (clarity.directory / "blobs" / place["blob"]).read_bytes() == b"still here"


def test_replacing_one_of_many_equal_files_leaves_the_others(clarity: Clarity) -> None:
    first, second = clarity.ids("files?projectlimsid=MNY401")[:2]
    before = clarity.http.get(f"files/{first}/download").content
    assert clarity.upload(first, b"changed").status_code == 200
    assert clarity.http.get(f"files/{second}/download").content == before
    assert clarity.upload(first, before).status_code == 200


def test_ranges_are_ignored_and_head_answers(clarity: Clarity) -> None:
    limsid = clarity.put(f"projects/{PROJECT}", "a.txt", b"0123456789")
    path = f"files/{limsid}/download"
    whole = clarity.http.get(path, headers={"Range": "bytes=2-4"})
    assert (whole.status_code, whole.content) == (200, b"0123456789")
    assert {"etag", "last-modified", "accept-ranges"}.isdisjoint(whole.headers)
    head = clarity.http.head(path)
    assert (head.status_code, head.headers["content-length"]) == (200, "10")
    clarity.switch(head=False, ranges=True)
    assert clarity.http.head(path).status_code == 405
    part = clarity.http.get(path, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    clarity.switch(missing_status=500)
    limsid = clarity.attach(f"projects/{PROJECT}", "b.txt")
    refused(clarity.http.get(f"files/{limsid}/download"), 500, "File does not exist")


def test_the_remote_store_wants_no_credentials(clarity: Clarity) -> None:
    (file,) = clarity.rows("SELECT limsid FROM clarity_files WHERE original = 'panel-design.csv'")
    place = clarity.get(f"files/{file['limsid']}").findtext("content-location") or ""
    assert place.startswith("http://")
    through = clarity.http.get(f"files/{file['limsid']}/download")
    assert httpx.get(place, trust_env=False).content == through.content != b""
    assert clarity.http.get(place).status_code == 400
    refused(clarity.upload(file["limsid"], b"x"), 400)
    # A record of what lies there needs no allocation and no upload.
    other = place.replace("panel-design", "not-there-yet")
    more = f"<content-location>{other}</content-location>"
    made = clarity.post("files", record(f"{clarity.url}/api/v2/projects/{PROJECT}", "link.csv", more))
    assert made.status_code == 201
    limsid = ET.fromstring(made.content).get("limsid")
    assert clarity.get(f"files/{limsid}").findtext("content-location") == other
    refused(clarity.http.get(f"files/{limsid}/download"), 404)
    assert httpx.get(other, trust_env=False).status_code == 404


def test_switches_of_what_answers_look_like(clarity: Clarity) -> None:
    clarity.switch(host="http://localhost:9080", embedded_files=True, original_name=False, file_ids="owned")
    file = clarity.get("artifacts/92-1833858").find(FILE)
    assert file is not None
    assert file.get("uri", "").startswith("http://localhost:9080/api/v2/files/40-")
    assert local(file) == ["attached-to", "content-location", "original-location", "is-published"]
    assert clarity.attach(f"projects/{PROJECT}", "x").startswith(f"{PROJECT}-40-")
    clarity.switch(https_only=True)
    answer = clarity.http.get("projects")
    assert (answer.status_code, answer.headers["location"][:8]) == (301, "https://")


def test_switches_of_filters(clarity: Clarity) -> None:
    assert len(clarity.ids("projects?nonsense=1")) > 10
    assert len(clarity.ids("processes?projectlimsid=ADM2")) > 3
    clarity.switch(processes_by_project_id=True, unknown_parameter="refuse", files_project="project", page_size=2)
    assert clarity.ids("processes?projectlimsid=ADM2") == ["24-126455"]
    refused(clarity.http.get("projects?nonsense=1"), 400)
    refused(clarity.http.get("files?projectlimsid=ADM1"), 400)
    assert clarity.ids("files?project=ADM1") == ["40-117", "40-119"]
    clarity.switch(page_size=100)
    assert len(clarity.ids("files?project=ADM1")) == 4 + 2 + 3 + 5 + 1
    assert len(clarity.ids("files?process-type=MiSeq%20Load%20Cartridge")) == 3


@pytest.mark.parametrize("touches", [False, True])
def test_whether_attaching_touches_the_project_is_a_switch(clarity: Clarity, touches: bool) -> None:
    clarity.switch(attach_touches_project=touches)
    clarity.put(f"artifacts/{clarity.placeholders()[2]}", "x", b"x")
    found = clarity.ids("projects?last-modified=2025-01-01T00:00:00Z")
    assert (PROJECT in found) == touches


# -- clients that other people wrote -------------------------------------------------------------------

GENOLOGICS = """
import json, pathlib, sys
import requests
from genologics.entities import Artifact, File, Process, Project, Sample
from genologics.lims import Lims

url, username, password, directory, step, output = sys.argv[1:]
work, found = pathlib.Path(directory), {}
lims = Lims(url, username, password)
lims.check_version()
found["projects"] = [(p.id, p.name) for p in lims.get_projects(name=["Validation", "Empty project"])]
(project,) = lims.get_projects(name="Upload here")
found["open"] = project.open_date
samples = lims.get_samples(projectlimsid="MNY400")
found["samples"] = [samples[0].id, samples[-1].id, len(samples)]
found["batch"] = sorted(s.name for s in lims.get_batch(samples[:20]))
(process,) = lims.get_processes(projectname="Upload here")
found["process"] = [process.id, process.type.name, process.technician.name, len(process.input_output_maps)]
outputs = process.all_outputs(resolve=True)
found["outputs"] = sorted(a.name for a in outputs)[-2:]
found["maps"] = sorted({pair[1]["output-generation-type"] for pair in process.input_output_maps})
found["parents"] = len(Artifact(lims, id=output).input_artifact_list())

text, data = work / "notes é.txt", work / "reads.bin"
text.write_text("first\\n")
data.write_bytes(bytes(range(256)) * 4096)
sample = lims.get_samples(projectlimsid=project.id, name="blank-1")[0]
made = [lims.upload_new_file(target, str(text)) for target in (project, sample, process)]
made.append(lims.upload_new_file(Artifact(lims, id=output), str(data)))
found["made"] = [file.id for file in made]
found["text"] = lims.get_file_contents(id=made[0].id)
found["same"] = lims.get_file_contents(uri=made[3].uri).read() == data.read_bytes()
found["attached"] = [f.attached_to.rpartition("/api/v2/")[2] for f in made]
later = Lims(url, username, password)  # the first one has cached what it saw
found["listed"] = [[f.id for f in thing(later, id=limsid).files] for thing, limsid in
                   [(Project, project.id), (Sample, sample.id), (Process, process.id)]]
published = File(lims, uri=made[0].uri)  # by LIMS ID it cannot
published.get()
published.is_published = "true"
published.put()
found["published"] = File(later, uri=made[0].uri).is_published

text.write_text("second\\n")
lims.delete(made[0].uri)
again = lims.upload_new_file(project, str(text))
found["replaced"] = [again.id, lims.get_file_contents(id=again.id)]
try:
    lims.get_file_contents(id=made[0].id)
except requests.exceptions.HTTPError as problem:
    found["gone"] = str(problem)
try:
    Lims(url, username, "wrong").get_projects()
except requests.exceptions.HTTPError as problem:
    found["wrong"] = problem.response.status_code
print(json.dumps(found))
"""

S4_CLARITY = """
import io, json, pathlib, sys
from s4.clarity import LIMS
from s4.clarity._internal.factory import MultipleMatchingElements
from s4.clarity.exception import ClarityAuthenticationException, ClarityException, FileNotFoundException
from s4.clarity.file import File

url, username, password, directory, step, output = sys.argv[1:]
found = {}

def fresh():
    return LIMS(url + "/api/v2", username, password)

def failure(function):
    try:
        function()
    except ClarityException as problem:
        return [type(problem).__name__, str(problem)]

lims = fresh()
found["versions"] = [v["major"] for v in lims.versions]
found["limit"] = lims.properties["api.artifacts.max.resultfile.upload.size"]
found["projects"] = len(lims.projects.query(prefetch=False))
project = lims.projects.get_by_name("Upload here")
try:
    lims.projects.get_by_name("Validation")
except MultipleMatchingElements:
    found["twins"] = True
samples = lims.samples.query(projectlimsid="MNY400")
found["samples"] = [len(samples), samples[0].name, samples[-1].name, samples[7].project.name]
(run,) = lims.steps.query(prefetch=False, projectname="Upload here")
found["step"] = [run.limsid, run.current_state, run.date_completed, run.name]
found["iomaps"] = [len(run.details.iomaps), len(run.details.outputs), [a.name for a in run.details.shared_outputs]]
process = lims.processes.from_limsid(step)
found["process"] = [process.technician.last_name, len(process.outputs), [a.name for a in process.shared_outputs]]
found["batch"] = sorted(a.name for a in lims.artifacts.batch_get_from_limsids([output, "ADM1A1PA1"]))

names = []
for target, name in ((project, "project.txt"), (lims.samples.from_limsid("KLM300A1"), "sample ü.txt"),
                     (run, "step.txt")):
    file = File.new_empty(target, name=name)
    file.write("text of " + name)
    file.close()
    names.append([file.limsid, file.attached_to.rpartition("/api/v2/")[2]])
found["made"] = names
local = pathlib.Path(directory) / "local.bin"
local.write_bytes(bytes(range(256)))
file = File.new_from_local(project, str(local))
file.mode = "rb"
file.close()
found["local"] = file.limsid

for round, data in enumerate((b"first, the longer one", b"second")):
    with_file = fresh().artifact(output).open_file("wb", name="result.bin")
    with_file.write(data)
    with_file.close()
    found["round %d" % round] = with_file.uri.rpartition("/")[2]  # its limsid stays that of the deleted file
shared = fresh().step(step).open_resultfile("Summary", "w")
shared.write("summary")
shared.close()

def fetched(limsid):
    source, sink = fresh().files.from_limsid(limsid), io.BytesIO()
    source.mode = "rb"
    source.pipe_to(sink)
    return sink.getvalue().decode("latin-1")

found["fetched"] = [fetched(found["round 1"]), fetched(names[1][0])]
found["local back"] = fetched(file.limsid) == local.read_bytes().decode("latin-1")
found["files"] = [f.name for f in fresh().projects.get_by_name("Upload here").files]
found["names"] = sorted(f.name for f in fresh().files.batch_get_from_limsids([n[0] for n in names]))
found["gone"] = failure(lambda: fetched(found["round 0"]))
(lost,) = [f for f in fresh().files.query(**{"process-type": "NextSeq 2000 Run"}) if f.name == "never-arrived.csv"]
found["lost"] = failure(lambda: lost.pipe_to(io.StringIO()))
doomed = fresh()
doomed.files.delete(doomed.files.from_limsid(names[0][0]))
found["wrong"] = failure(lambda: LIMS(url + "/api/v2", username, "wrong").versions)
print(json.dumps(found))
"""


@pytest.fixture(scope="session")
def interpreter() -> Path:
    """Return a Python that has the clients; the environment is made once and kept outside the repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labfs-tests"
    pins = [f"{name}=={version}" for name, version in CLIENTS.items()]
    name = "-".join(
        ["clarity", *(pin.replace("==", "-") for pin in pins), f"py{sys.version_info[0]}.{sys.version_info[1]}"]
    )
    home, python = cache / name, cache / name / "bin" / "python"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            # It asks for Python 3.12 and uses nothing of it.
            subprocess.run([*pip, "--no-deps", "--ignore-requires-python", pins[0]], check=True)
            subprocess.run([*pip, *pins[1:]], check=True)
            (home / "complete").touch()
    return python


@pytest.fixture
def client(clarity: Clarity, interpreter: Path, tmp_path: Path) -> Any:
    """Return a function that runs a client's script and gives back what it found."""

    def run(script: str) -> Any:
        known = clarity.credentials
        given = [clarity.url, known["username"], known["password"], str(tmp_path), STEP, clarity.placeholders()[3]]
        done = subprocess.run([str(interpreter), "-c", script, *given], capture_output=True, text=True, timeout=90)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.timeout(600)  # the first run installs the clients
def test_genologics_does_its_whole_work(clarity: Clarity, client: Any, tmp_path: Path) -> None:
    found = client(GENOLOGICS)
    assert found["projects"] == [["ADM1", "Validation"], ["ADM2", "Validation"], ["LEI162", "Empty project"]]
    assert found["samples"] == ["MNY400A1", "MNY400A1200", 1200]
    assert found["batch"] == [f"well-{number:04d}" for number in range(20)]
    assert found["process"] == [STEP, "Library QC", "Grace Runner", 32]
    assert found["outputs"] == ["Result of KLM300A9", "Summary"]
    assert found["maps"] == ["PerAllInputs", "PerInput"]
    assert found["parents"] == 1
    output = clarity.placeholders()[3]
    assert found["attached"] == [f"projects/{PROJECT}", f"samples/{SAMPLE}", f"processes/{STEP}", f"artifacts/{output}"]
    assert found["listed"] == [[limsid] for limsid in found["made"][:3]]
    assert (found["text"], found["same"], found["published"]) == ("first\n", True, True)
    assert (found["replaced"][1], found["wrong"]) == ("second\n", 401)
    assert found["gone"].startswith("404")
    # The names are whole local paths: that is what this client sends.
    text, data = str(tmp_path / "notes é.txt"), str(tmp_path / "reads.bin")
    assert clarity.stored(PROJECT) == [(text, b"second\n")]
    assert clarity.stored(SAMPLE) == clarity.stored(STEP) == [(text, b"first\n")]
    assert clarity.stored(output) == [(data, bytes(range(256)) * 4096)]


@pytest.mark.timeout(600)
def test_s4_clarity_does_its_whole_work(clarity: Clarity, client: Any, tmp_path: Path) -> None:
    found = client(S4_CLARITY)
    assert (found["versions"], found["limit"], found["twins"]) == (["v2"], "10485760", True)
    assert found["projects"] == 15
    assert found["samples"] == [1200, "well-0000", "well-1199", "Many samples"]
    assert found["step"] == [STEP, "Record Details", None, "Library QC"]
    assert found["process"] == ["Runner", 16, ["Summary"]]
    assert found["iomaps"] == [16, 16, ["Summary"]]
    assert found["batch"] == ["Result of KLM300A3", "SLX-6078"]
    assert [attached for _, attached in found["made"]] == [
        f"projects/{PROJECT}",
        f"samples/{SAMPLE}",
        f"processes/{STEP}",
    ]
    assert found["fetched"] == ["second", "text of sample ü.txt".encode().decode("latin-1")]
    assert found["local back"] is True
    assert found["files"] == ["project.txt", str(tmp_path / "local.bin")]
    assert found["names"] == ["project.txt", "sample ü.txt", "step.txt"]
    assert found["gone"][0] == "ClarityException" and "code: 404" in found["gone"][1]
    assert found["lost"][0] == "FileNotFoundException"
    assert found["wrong"][0] == "ClarityAuthenticationException"
    assert clarity.stored(PROJECT) == [(str(tmp_path / "local.bin"), bytes(range(256)))]
    assert clarity.stored(SAMPLE) == [("sample ü.txt", "text of sample ü.txt".encode())]
    assert clarity.stored(STEP) == [("step.txt", b"text of step.txt")]
    shared, _, _, output, *_ = clarity.placeholders()
    assert clarity.stored(output) == [("result.bin", b"second")]
    assert clarity.stored(shared) == [("Summary", b"summary")]
