"""The ODM stand-in: imports as jobs, deletion, versions, links, and what is left of it all."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from odm_stage import EMPTY, GUT, ODD, PDF, Service, names, opened, quick, refused
from stage import Sandbox

from labfs.sandbox.blobs import Blobs
from labfs.sandbox.odm import Odm, contents
from labfs.sandbox.odm.shelf import CLASSES
from labfs.sandbox.store import Store


@pytest.fixture
def odm(sandbox: Sandbox) -> Iterator[Service]:
    with quick(sandbox) as service:
        yield service


@pytest.fixture
def shop() -> Iterator[str]:
    with opened() as url:
        yield url


# -- imports ---------------------------------------------------------------------------------------------


def test_an_import_is_a_job_with_a_life(odm: Service) -> None:
    odm.switch(job_s=0.8)
    job = odm.send(EMPTY, "report.txt", b"report").json()
    assert (job["status"], job["startedBy"], job["jobName"]) == ("STARTING", "ada@lab.example", "IMPORT_FILE")
    assert time.strptime(job["createTime"], "%Y-%m-%d %H:%M:%S")
    assert "endTime" not in job
    number = job["jobExecId"]
    assert odm.get(f"jobs/{number}/output") == {"status": "STARTING"}
    assert names(odm.get(f"as-user/integration/link/files/by/study/{EMPTY}")) == []
    odm.switch(early_output_status=404)
    refused(odm.ask("GET", f"jobs/{number}/output"), 404)
    time.sleep(0.4)
    assert odm.get(f"jobs/{number}/info")["status"] == "RUNNING"
    output = odm.finished(number)
    assert odm.get(f"jobs/{number}/info")["endTime"] >= job["createTime"]
    accession = output["result"]["accession"]
    assert output == {"status": "COMPLETED", "result": {"accession": accession}}
    assert odm.stored(accession)["data"] == b"report"
    assert odm.ask("PUT", f"jobs/{number}/stop").json()["status"] == "COMPLETED"
    refused(odm.ask("GET", "jobs/1/info"), 404)
    refused(odm.ask("GET", f"jobs/{10**30}/info"), 404)
    refused(odm.ask("GET", f"jobs/{number}/info", None), 401)
    odm.ask("DELETE", f"manage-data/data?accessions={accession}")


@pytest.mark.parametrize("end", ["FAILED", "STOPPED", "ABANDONED"])
def test_a_job_that_fails_leaves_nothing(odm: Service, end: str) -> None:
    before = odm.blobs()
    odm.switch(job_end=end)
    output = odm.finished(odm.send(EMPTY, "report.txt", b"report").json()["jobExecId"])
    assert output["status"] == end
    assert ("errors" in output) is (end == "FAILED")
    assert odm.get(f"as-user/integration/link/files/by/study/{EMPTY}") == []
    assert odm.blobs() == before


def test_the_index_lags_behind(odm: Service) -> None:
    odm.switch(index_lag_s=0.6)
    accession = odm.put(EMPTY, "late.txt", b"late")
    by_name, of_study = {"filter": '"genestack:name"=late.txt'}, f"as-user/integration/link/files/by/study/{EMPTY}"
    assert names(odm.get("as-user/files", **by_name)) == []
    assert odm.get(f"tasks/{accession}")["status"] == "RUNNING"
    assert odm.get(f"as-user/files/{accession}")["genestack:name"] == "late.txt"
    assert names(odm.get(of_study)) == ["late.txt"]
    odm.switch(links_lag=True)
    assert names(odm.get(of_study)) == []
    time.sleep(0.7)
    assert names(odm.get(of_study)) == names(odm.get("as-user/files", **by_name)) == ["late.txt"]
    assert odm.get(f"tasks/{accession}")["status"] == "DONE"
    odm.ask("DELETE", f"manage-data/data?accessions={accession}")


def raw_form(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """Return a form of parts, each the rest of a Content-Disposition and a body, in just this order."""
    body = b"".join(
        b"--B\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), data) for head, data in parts
    )
    return body + b"--B--\r\n", {"Content-Type": "multipart/form-data; boundary=B"}


STUDY = ('name="studyAccession"', EMPTY.encode())
CLASS = ('name="dataClass"', b"Document")
FILE = ('name="file"; filename="f.txt"', b"data")


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((STUDY, FILE, CLASS), "before"),
        ((STUDY, CLASS), "no part"),
        ((STUDY, CLASS, ('name="file"', b"data")), "no part"),
        ((STUDY, CLASS, FILE, FILE), "more than one"),
        ((CLASS, FILE), "studyAccession"),
        ((STUDY, FILE), "dataClass"),
        ((STUDY, ('name="dataClass"', b"Documents"), FILE), "dataClass"),
        ((('name="studyAccession"', b"GSF999"), CLASS, FILE), "GSF999"),
        ((('name="studyAccession"', PDF.encode()), CLASS, FILE), PDF),
        ((STUDY, CLASS, ('name="transformationName"', b"x"), FILE), "transformationName"),
        ((STUDY, CLASS, ('name="metadataFile"; filename="m"', b"a\tb\n1\t2\n3\t4\n"), FILE), "single record"),
        ((STUDY, CLASS, ('name="metadataFile"; filename="m"', b"\xff\tb\n1\t2\n"), FILE), "UTF-8"),
    ],
)  # fmt: skip
def test_forms_that_are_refused(odm: Service, parts: tuple[tuple[str, bytes], ...], why: str) -> None:
    before = odm.blobs()
    body, headers = raw_form(*parts)
    answer = odm.ask("POST", "jobs/import/file/multipart", content=body, headers=headers)
    refused(answer, 400)
    assert why in answer.json()["error"]["message"]
    assert odm.blobs() == before


def test_forms_that_are_broken_or_too_large(odm: Service) -> None:
    body, headers = raw_form(STUDY, CLASS, FILE)
    before = odm.blobs()
    for content, sent in ((body[:-6], headers), (body, {"Content-Type": "multipart/form-data"}), (b"{}", {})):
        refused(odm.ask("POST", "jobs/import/file/multipart", content=content, headers=sent), 400)
    odm.switch(largest_upload=3)
    refused(odm.ask("POST", "jobs/import/file/multipart", content=body, headers=headers), 413)
    assert odm.blobs() == before


def test_what_an_import_checks_and_stores_is_switched(odm: Service) -> None:
    body, headers = raw_form(STUDY, FILE, CLASS, ('name="transformationName"', b"x"))

    def post() -> dict[str, Any]:
        answer = odm.ask("POST", "jobs/import/file/multipart", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return odm.finished(answer.json()["jobExecId"])

    odm.switch(late_field="accept", pipeline_fields="ignore")
    accession = post()["result"]["accession"]
    odm.switch(bucket=False)
    assert "bucket" in post()["errors"][0]["stack"][0]["message"]
    odm.switch(bucket=True, bad_import="fail", pipeline_fields="refuse")
    assert "transformationName" in post()["errors"][0]["stack"][0]["message"]
    odm.switch(stored_name="basename")
    other = odm.put(EMPTY, "deep/down.txt", b"")
    assert odm.stored(other)["name"] == "down.txt"
    quoted = odm.put(EMPTY, 'say "hi".txt', b"")
    assert odm.stored(quoted)["name"] == "say %22hi%22.txt"  # as the form escaped it
    odm.switch(decoded_names=True)
    plain = odm.put(EMPTY, 'say "hi".txt', b"")
    assert odm.stored(plain)["name"] == 'say "hi".txt'
    odm.ask("DELETE", f"manage-data/data?accessions={accession},{other},{quoted},{plain}")


def test_metadata_becomes_attributes_of_guessed_types(odm: Service) -> None:
    table = "Tool\tDepth\tOk\tNone\tCode\tgenestack:accession\nMeta\t4.5\ttrue\t\t007\tGSF1\n"
    files = {"metadataFile": ("m.tsv", table), "file": ("f.txt", b"x")}
    fields = {"studyAccession": EMPTY, "dataClass": "Microbiome / Metagenomics"}
    job = odm.ask("POST", "jobs/import/file/multipart", data=fields, files=files).json()["jobExecId"]
    accession = odm.finished(job)["result"]["accession"]
    assert odm.get(f"as-user/files/{accession}") == {
        "genestack:accession": accession, "genestack:name": "f.txt", "Tool": "Meta", "Depth": 4.5, "Ok": True,
        "None": None, "Code": "007", "Data Class": "Microbiome / Metagenomics",
    }  # fmt: skip
    odm.ask("DELETE", f"manage-data/data?accessions={accession}")


def test_all_28_classes_twins_and_names_as_they_come(odm: Service) -> None:
    assert len(set(CLASSES)) == 28
    made = [odm.put(EMPTY, "twin.bin", bytes([index]), name) for index, name in enumerate(CLASSES)]
    assert len(set(made)) == 28
    for name in ("..", "a/b", "Müdigkeit 血液.pdf", "x" * 300):
        made.append(odm.put(EMPTY, name, b"odd"))
        assert odm.get(f"as-user/files/{made[-1]}")["genestack:name"] == name
    assert {item["genestack:accession"] for item in odm.get(f"as-user/integration/link/files/by/study/{EMPTY}")} == set(
        made
    )
    odm.ask("DELETE", "manage-data/data", params={"accessions": ",".join(made)})


def test_a_large_file_goes_through_in_pieces(odm: Service) -> None:
    data = secrets.token_bytes(1 << 20) * 24
    accession = odm.put(EMPTY, "large.bin", data)
    assert odm.stored(accession)["data"] == data
    assert odm.ask("GET", f"as-user/files/{accession}/download").content == data
    odm.ask("DELETE", f"manage-data/data?accessions={accession}")


def test_a_link_is_fetched_by_the_server(odm: Service, shop: str) -> None:
    def post(**values: Any) -> httpx.Response:
        return odm.ask(
            "POST", "jobs/import/file", json={"studyAccession": EMPTY, "dataClass": "Cell imaging", **values}
        )

    link = f"{shop}/in/gel%20image.png"
    answer = post(dataLink=link, metadataLink=f"{shop}/m.tsv", source="HTTP")
    accession = odm.finished(answer.json()["jobExecId"])["result"]["accession"]
    stored = odm.stored(accession)
    assert (stored["name"], stored["data"], json.loads(stored["attributes"])["Tool"]) == (
        "gel image.png",
        b"PNG",
        "ImageJ",
    )
    for bad in (f"{shop}/absent", "s3://bucket/key", "http://192.0.2.1/far", "http://127.0.0.1:x/"):
        output = odm.finished(post(dataLink=bad).json()["jobExecId"])
        assert output["errors"][0]["stack"][0]["message"]
    refused(post(dataLink="gopher://x/y"), 400)
    refused(post(dataLink="http://[broken"), 400)
    refused(post(), 400)
    odm.switch(repeated_file_link="conflict")
    again = post(dataLink=link)
    refused(again, 409)
    assert again.json()["error"]["message"].endswith(f"jobExecId={answer.json()['jobExecId']}")
    odm.ask("DELETE", f"manage-data/data?accessions={accession}")


def test_a_study_comes_from_a_link_and_not_twice(odm: Service, shop: str) -> None:
    link = {"metadataLink": f"{shop}/s.tsv"}
    job = odm.ask("POST", "jobs/import/study", json=link).json()
    result = odm.finished(job["jobExecId"])["result"]
    accession = result["groupAccession"]
    assert result == {"accession": accession, "groupAccession": accession}, "the sources differ, so both"
    assert odm.get(f"as-curator/studies/{accession}", returnedMetadataFields="minimal_data")["Study Title"] == "Linked"
    refused(odm.ask("GET", f"as-user/studies/{accession}"), 404)  # a draft at first
    refused(odm.ask("POST", "jobs/import/study", json=link), 409)
    twin = odm.ask("POST", "jobs/import/study?allow_dups=true", json=link)
    other = odm.finished(twin.json()["jobExecId"])["result"]["groupAccession"]
    odm.switch(study_result="accession")
    third = odm.ask("POST", "jobs/import/study?allow_dups=true", json=link)
    (last,) = odm.finished(third.json()["jobExecId"])["result"].items()
    assert (last[0], odm.get(f"as-curator/studies/{last[1]}")["Study Title"]) == ("accession", "Linked")
    assert odm.ask("DELETE", f"manage-data/data?accessions={last[1]}").status_code == 202
    assert odm.ask("DELETE", f"manage-data/data?accessions={accession},{other}").status_code == 202


def test_samples_come_from_a_link_and_then_into_a_study(odm: Service, shop: str) -> None:
    refused(odm.ask("POST", "jobs/import/samples", json={"metadataLink": f"{shop}/nowhere"}, token="user"), 403)
    lost = odm.ask("POST", "jobs/import/samples", json={"metadataLink": f"{shop}/nowhere"}).json()
    assert odm.finished(lost["jobExecId"])["status"] == "FAILED"
    job = odm.ask("POST", "jobs/import/samples", json={"metadataLink": f"{shop}/samples.tsv"}).json()
    assert job["jobName"] == "IMPORT_SAMPLES_TSV"
    group = odm.finished(job["jobExecId"])["result"]["groupAccession"]
    study = odm.finished(
        odm.ask("POST", "jobs/import/study?allow_dups=true", json={"metadataLink": f"{shop}/s.tsv"}).json()["jobExecId"]
    )["result"]["accession"]
    path = f"as-curator/integration/link/samples/by/study/{study}"
    assert odm.get(path)["data"] == []
    adopt = f"as-curator/integration/link/sample/group/{group}/to/study/{study}"
    assert odm.ask("POST", adopt).status_code in (200, 201)
    assert [(row["genestack:name"], row["Tissue"]) for row in odm.get(path)["data"]] == [
        ("T1", "stool"),
        ("T2", "blood"),
    ]
    refused(odm.ask("POST", adopt), 409)
    refused(odm.ask("POST", adopt.replace(group, EMPTY)), 404)
    assert odm.ask("DELETE", f"manage-data/data?accessions={study}").status_code == 202


def test_a_link_record_brings_samples_into_a_study_too(odm: Service, shop: str) -> None:
    links = {"metadataLink": f"{shop}/samples.tsv"}, {"metadataLink": f"{shop}/s.tsv"}
    jobs = [
        odm.ask("POST", f"jobs/import/{kind}?allow_dups=true", json=link).json()["jobExecId"]
        for kind, link in zip(("samples", "study"), links, strict=True)
    ]
    group, study = (odm.finished(job)["result"]["groupAccession"] for job in jobs)
    record = {"firstId": group, "firstType": "sampleGroup", "secondId": study, "secondType": "study"}
    assert odm.ask("POST", "as-curator/links", json=[record]).status_code in (200, 201)
    assert len(odm.get(f"as-curator/integration/link/samples/by/study/{study}")["data"]) == 2
    odm.ask("DELETE", f"manage-data/data?accessions={study}")


def test_the_older_door_signs_in_by_token(odm: Service) -> None:
    def invoke(method: str, *values: Any, application: str = "signin") -> Any:
        path = f"{odm.url}/frontend/endpoint/application/invoke/genestack/{application}/{method}"
        return odm.http.post(path, json=list(values))

    templates = "study-metainfotemplateeditor"
    assert invoke("listTemplates", application=templates).status_code == 401
    for method, token in (
        ("authenticateByApiToken", "wrong"),
        ("authenticateByApiToken", odm.tokens["revoked"]),
        ("authenticateByApiToken", odm.tokens["access_token"]),
    ):
        assert invoke(method, token).json()["result"] == {"authenticated": False}
    assert invoke("authenticate", "ada@lab.example", "x").json()["result"] == {"authenticated": False}
    assert invoke("whoami").json()["result"] is None
    for method, key in (("authenticateByApiToken", "token"), ("authenticateOAuthAccessToken", "access_token")):
        assert invoke(method, odm.tokens[key]).json()["result"] == {"authenticated": True}
        assert invoke("whoami").json()["result"] == "ada@lab.example"
        assert [each["isDefault"] for each in invoke("listTemplates", application=templates).json()["result"]] == [True]
        assert invoke("signOut").status_code == 200
        assert invoke("listTemplates", application=templates).status_code == 401
    assert "error" in invoke("nonsense").json()
    odm.switch(api_tokens=False)
    assert invoke("authenticateByApiToken", odm.tokens["token"]).json()["result"] == {"authenticated": False}


# -- other changes ---------------------------------------------------------------------------------------


def test_deletion_is_all_or_nothing_and_takes_its_time(odm: Service) -> None:
    one, two = odm.put(EMPTY, "one", b"1"), odm.put(EMPTY, "two", b"2")
    refused(odm.ask("DELETE", f"manage-data/data?accessions={one},GSF999"), 404)
    refused(odm.ask("DELETE", "manage-data/data"), 400)
    (library,) = odm.rows("SELECT number FROM odm_objects WHERE kind = 'LIBRARY_OBJECT' LIMIT 1")
    refused(odm.ask("DELETE", f"manage-data/data?accessions={one},GSF{library['number']}"), 406)
    odm.switch(removal_s=0.5)
    answer = odm.ask("DELETE", f"manage-data/data?accessions={one},{two}")
    assert answer.status_code == 202
    assert [each["genestack:accession"] for each in answer.json()] == [one, two]
    assert answer.json()[0]["objectType"] == "FILE"
    assert answer.json()[0]["ownerEmail"] == "ada@lab.example"
    assert odm.ask("GET", f"as-user/files/{one}").status_code == 200  # accepted, not yet gone
    time.sleep(0.6)
    refused(odm.ask("GET", f"as-user/files/{one}"), 404)
    refused(odm.ask("GET", f"as-user/files/{two}/download"), 404)
    assert odm.get(f"as-user/integration/link/files/by/study/{EMPTY}") == []
    blob = odm.stored(one)["blob"]
    three = odm.put(EMPTY, "three", b"3")
    odm.ask("DELETE", "manage-data/data", json={"accessions": [three]})  # as one page of the documentation has it
    assert (odm.stored(one)["blob"], blob in odm.blobs()) == (None, False)


def test_deleting_one_of_many_files_with_the_same_bytes_spares_the_others(odm: Service) -> None:
    one, two = odm.rows("SELECT * FROM odm_objects WHERE name IN ('well-0001.csv', 'well-0002.csv')")
    assert one["blob"] == two["blob"]
    odm.ask("DELETE", f"manage-data/data?accessions=GSF{one['number']}")
    odm.ask("DELETE", f"manage-data/data?accessions={odm.put(EMPTY, 'x', b'x')}")  # sweeps
    assert odm.ask("GET", f"as-user/files/GSF{two['number']}/download").status_code == 200


def test_studies_have_versions_and_take_changes(odm: Service) -> None:
    path = f"as-curator/studies/{ODD}"
    first = odm.get(f"as-user/studies/{ODD}/versions")
    changed = odm.ask("PATCH", path, json={"Year": "2031", "Contributor": "A. Lab", "Study Source": None})
    assert changed.status_code == 200
    item = odm.get(path)
    assert (item["Year"], item["Contributor"], item["Study Source"]) == (2031, "A. Lab", None)
    newest, *rest = odm.get(f"as-user/studies/{ODD}/versions")
    assert (rest, newest["author"], newest["timestamp"] > 1.6e12) == (first, "ada@lab.example", True)
    assert odm.get(f"as-user/studies/{ODD}/versions/{first[0]['version']}")["Study Source"] == "Lab"
    refused(odm.ask("GET", f"as-user/studies/{ODD}/versions/99"), 404)
    refused(odm.ask("PATCH", path, json=["Year"]), 400)
    refused(odm.ask("PATCH", path, json={"genestack:accession": "GSF1"}), 400)
    refused(odm.ask("PATCH", f"as-user/studies/{ODD}", json={}), 405)


def test_samples_libraries_and_links(odm: Service) -> None:
    samples = odm.get(f"as-user/integration/link/samples/by/study/{GUT}", pageLimit=4)
    assert samples["meta"]["pagination"] == {"count": 4, "total": 6, "offset": 0, "limit": 4}
    sample = samples["data"][0]["genestack:accession"]
    for one, many in (("library", "libraries"), ("preparation", "preparations")):
        (group,) = odm.get(f"as-user/integration/link/{one}/group/by/study/{GUT}")
        members = odm.get(f"as-user/{many}/by/group/{group['itemId']}")["data"]
        assert odm.get(f"as-user/integration/link/{one}/by/sample/{sample}") == members[:1]
    last = odm.get(f"as-user/integration/link/samples/by/study/{GUT}", pageOffset=5)["data"][0]["genestack:accession"]
    link = {
        "firstId": members[0]["genestack:accession"],
        "firstType": "preparation",
        "secondId": last,
        "secondType": "sample",
    }
    assert odm.ask("POST", "as-curator/links", json=[link]).status_code == 201
    refused(odm.ask("POST", "as-curator/links", json=[link]), 409)
    refused(odm.ask("POST", "as-curator/links", json=[link | {"firstType": "library"}]), 400)
    refused(odm.ask("POST", "as-curator/links", json=[{**link, "secondId": PDF, "secondType": "file"}]), 400)
    found = odm.get("as-user/links", firstId=link["firstId"], secondType="sample")
    assert (found["meta"]["pagination"]["limit"], link in found["data"]) == (1000, True)
    files = odm.get("as-user/links", firstId=GUT, firstType="study", secondType="file")
    assert PDF in [each["secondId"] for each in files["data"]]
    refused(odm.ask("GET", "as-user/links"), 400)


def test_reading_is_audited(odm: Service) -> None:
    def events() -> int:
        return int(odm.rows("SELECT count(*) AS n FROM odm_audit")[0]["n"])

    before = events()
    listed = odm.get("as-user/studies")["meta"]["pagination"]["count"]
    assert events() == before + listed
    for start in (0, 4, 8):
        odm.ask("GET", f"as-curator/files/{PDF}/download", headers={"Range": f"bytes={start}-{start + 3}"})
    assert events() == before + listed + 3
    odm.get(f"as-user/studies/{GUT}")
    odm.ask("GET", f"as-user/files/{PDF}/download")
    odm.switch(audit_listing=False)
    odm.get("as-user/studies")
    assert events() == before + listed + 3
    odm.switch(audit_user_downloads=True)
    odm.ask("GET", f"as-user/files/{PDF}/download")
    assert events() == before + listed + 4


def test_errors_have_the_form_that_is_set(odm: Service, sandbox: Sandbox) -> None:
    path = "as-user/files/GSF999"
    odm.switch(error_body="problem")
    answer = odm.ask("GET", path)
    assert (answer.headers["content-type"], answer.json()["status"]) == ("application/problem+json", 404)
    odm.switch(error_body="text")
    assert "GSF999" in odm.ask("GET", path).text
    odm.switch(error_body="empty")
    assert odm.ask("GET", path).content == b""
    odm.switch(error_body="message")
    sandbox.faults({"service": "odm", "action": "status", "argument": 503})
    refused(odm.ask("GET", path), 503)
    refused(odm.ask("GET", "as-user/nonsense"), 404)
    refused(odm.ask("POST", f"as-user/files/{PDF}"), 405)


def test_the_older_addresses_lead_to_the_same(odm: Service) -> None:
    def old(path: str) -> httpx.Response:
        headers = {"Genestack-API-Token": odm.tokens["token"]}
        return odm.http.get(f"{odm.url}/frontend/rs/genestack/{path}", headers=headers)

    assert old(f"studyUser/default-released/studies/{GUT}").json() == odm.get(f"as-user/studies/{GUT}")
    found = old(f"integrationCurator/default-released/integration/link/files/by/study/{GUT}")
    assert found.json() == odm.get(f"as-curator/integration/link/files/by/study/{GUT}")
    refused(old("nothing/default-released/studies"), 404)


def test_state_survives_a_restart_and_a_fetch_under_way_does_not(tmp_path: Path) -> None:
    def start() -> tuple[Store, Odm]:
        store = Store(tmp_path)
        return store, Odm(store, Blobs(store, b"secret"))

    store, service = start()
    begun = time.monotonic()
    service.seed()
    assert time.monotonic() - begun < 1
    count = store.count("SELECT count(*) FROM odm_objects")
    store.run("INSERT INTO odm_jobs (id, name, user, created) VALUES (1, 'IMPORT_FILE', 1, 0)")
    again, service = start()
    service.seed()
    assert again.count("SELECT count(*) FROM odm_objects") == count
    assert again.count("SELECT count(*) FROM odm_jobs WHERE outcome = 'ABANDONED'") == 1


def test_what_is_no_hdf5_file_is_unreadable_and_nothing_worse(tmp_path: Path) -> None:
    from labfs.sandbox import specimens

    data, file = specimens.hdf5(), tmp_path / "counts.h5"
    for cut in range(0, len(data), 7):
        for changed in (data[:cut], data[:cut] + b"\xff" + data[cut + 1 :]):
            file.write_bytes(changed)
            assert contents.of(file, file.name, "tree").keys() & {"error", "children"}
