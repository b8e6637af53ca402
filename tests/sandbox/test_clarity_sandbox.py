"""The Clarity stand-in: who may ask, lists, what things look like, and several at once."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest
from clarity_stage import FILE, PROJECT, RI, Clarity, links, local, record, refused
from stage import Sandbox

from labfs.sandbox.blobs import Blobs
from labfs.sandbox.clarity import Clarity as Service
from labfs.sandbox.store import Store


@pytest.fixture
def clarity(running: Sandbox) -> Iterator[Clarity]:
    with Clarity(running) as made:
        yield made


# -- who asks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api", "/api/v2/projects", "/api/v2/files/40-1/download", "/nonsense"])
def test_every_path_wants_credentials_and_challenges_for_them(clarity: Clarity, path: str) -> None:
    powerless = clarity.credentials["powerless"]
    for auth in (None, ("apiuser", "wrong"), ("nobody", "x")):
        answer = httpx.get(clarity.url + path, auth=auth, trust_env=False, verify=False)
        assert (answer.status_code, answer.content) == (401, b"")
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
    answer = httpx.get(
        clarity.url + path, auth=(powerless["username"], powerless["password"]), trust_env=False, verify=False
    )
    assert (answer.status_code, answer.content) == (403, b"")


@pytest.mark.parametrize("header", ["Bearer x", "Basic", "Basic !!", "Basic /w=="])
def test_broken_credentials_are_wrong_credentials(clarity: Clarity, header: str) -> None:
    answer = httpx.get(f"{clarity.url}/api/v2", headers={"Authorization": header}, trust_env=False, verify=False)
    assert answer.status_code == 401


def test_a_client_that_waits_for_the_challenge(clarity: Clarity) -> None:
    known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    known.add_password(None, clarity.url, clarity.credentials["username"], clarity.credentials["password"])
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(known)
    with urllib.request.build_opener(*handlers).open(f"{clarity.url}/api/v2/projects/ADM1") as answer:
        assert answer.status == 200


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
    clarity.switch(shared_type="ResultFile", processes_served=False)
    assert clarity.get("artifacts/92-1833858").findtext("output-type") == "ResultFile"
    refused(clarity.http.get("processes/24-126453"), 404, "Could not find resource")
    assert clarity.get("steps/24-126453").get("limsid") == "24-126453"


def test_the_links_in_answers_lead_somewhere(clarity: Clarity) -> None:
    """Except to the steps of protocols, which have nothing to do with files."""
    seen: set[str] = set()
    waiting = ["", "projects/ADM1", "samples/CTRLA1", "processes/122-126457", "steps/122-126457"]
    while waiting:
        path = waiting.pop()
        for element in clarity.get(path).iter():
            for key in ("uri", "artifact-uri", "post-process-uri"):
                found = element.get(key, "").removeprefix(f"{clarity.url}/api/v2/")
                known = found and not found.startswith(("configuration/", "glsstorage"))
                if known and found not in seen and found.partition("/")[0] not in seen and len(seen) < 80:
                    seen.add(found)
                    waiting.append(found)
    assert {"researchers/1", "processtypes/41", "controltypes/1"} <= seen
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


# -- switches ------------------------------------------------------------------------------------------


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


def test_a_new_store_is_filled_once_and_fast(tmp_path: Path) -> None:
    store = Store(tmp_path)
    service = Service(store, Blobs(store, b"secret"))
    started = time.perf_counter()
    service.seed()
    assert time.perf_counter() - started < 3  # a fraction of a second where nothing else runs
    count = store.count("SELECT count(*) FROM clarity_files")
    service.seed()
    assert store.count("SELECT count(*) FROM clarity_files") == count > 2000
