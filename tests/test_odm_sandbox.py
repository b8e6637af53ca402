"""The ODM stand-in: the rules of its contract, and the vendor's own clients at work on it."""

from __future__ import annotations

import contextlib
import fcntl
import http.server
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from stage import Sandbox

from labfs.sandbox.blobs import Blobs
from labfs.sandbox.odm import Odm, hdf5
from labfs.sandbox.odm.shelf import CLASSES
from labfs.sandbox.store import Store

CLIENTS = ("odm-api==1.64.1", "odm-sdk==1.64.1")
GUT, NULL_TITLE, EMPTY, CELLS = "GSF282799", "GSF282812", "GSF282864", "GSF282877"
DRAFT, ODD, MANY, LARGE = "GSF282890", "GSF282903", "GSF282916", "GSF282929"
PDF = "GSF1283030"


class Service:
    """The running stand-in, seen by plain HTTP and straight in its store."""

    def __init__(self, sandbox: Sandbox) -> None:
        known = json.loads((sandbox.directory / "sandbox.json").read_text())
        self.url: str = known["sites"]["odm"]
        self.tokens: dict[str, str] = known["credentials"]["odm"]
        self.directory = sandbox.directory
        self._control: str = known["control"]
        self.http = httpx.Client(trust_env=False, timeout=30)
        self._usual = self.http.get(f"{self._control}/switches").json()["odm"]

    def close(self) -> None:
        self.switch(**self._usual)
        self.http.close()

    def switch(self, **values: Any) -> None:
        self.http.post(f"{self._control}/switches", json={"odm": values}).raise_for_status()

    def ask(self, method: str, path: str, token: str | None = "token", **options: Any) -> httpx.Response:
        headers = {} if token is None else {"Genestack-API-Token": self.tokens[token]}
        headers |= options.pop("headers", {})
        return self.http.request(method, f"{self.url}/api/v1/{path}", headers=headers, **options)

    def get(self, path: str, **params: Any) -> Any:
        answer = self.ask("GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, study: str, name: str, data: bytes, data_class: str = "Document", **more: Any) -> httpx.Response:
        fields = {"studyAccession": study, "dataClass": data_class, **more}
        return self.ask("POST", "jobs/import/file/multipart", data=fields, files={"file": (name, data)})

    def finished(self, job: int) -> dict[str, Any]:
        """Poll a job to its end and return its output."""
        for _ in range(500):
            status = self.get(f"jobs/{job}/info")["status"]
            assert status != "STARTED", "no state of the schema"
            if status not in ("STARTING", "RUNNING"):
                output: dict[str, Any] = self.get(f"jobs/{job}/output")
                assert output["status"] == status
                return output
            time.sleep(0.02)
        raise AssertionError("the job does not end")

    def put(self, study: str, name: str, data: bytes, data_class: str = "Document") -> str:
        """Attach a file and wait for it; return its accession."""
        answer = self.send(study, name, data, data_class)
        assert answer.status_code == 200, answer.text
        return str(self.finished(answer.json()["jobExecId"])["result"]["accession"])

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.directory / "sandbox.sqlite")) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql, values)]

    def stored(self, accession: str) -> dict[str, Any]:
        """Return the row of an object, with its bytes from the blob store as `data`."""
        (row,) = self.rows("SELECT * FROM odm_objects WHERE number = ?", int(accession.removeprefix("GSF")))
        return row | {"data": (self.directory / "blobs" / row["blob"]).read_bytes() if row["blob"] else None}

    def blobs(self) -> set[str]:
        return {path.name for path in (self.directory / "blobs").iterdir()}


@pytest.fixture
def odm(sandbox: Sandbox) -> Iterator[Service]:
    service = Service(sandbox)
    service.switch(job_s=0.0, index_lag_s=0.0, removal_s=0.0)
    yield service
    service.close()


def refused(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]["message"]


def names(listing: Any) -> list[str]:
    return [item["genestack:name"] for item in (listing["data"] if isinstance(listing, dict) else listing)]


# -- who asks --------------------------------------------------------------------------------------------


def test_one_token_of_either_kind(odm: Service) -> None:
    def ask(**headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return odm.ask("GET", f"as-user/files/{PDF}", None, headers=named)

    api, access = odm.tokens["token"], odm.tokens["access_token"]
    assert ask(Genestack_API_Token=api).status_code == 200
    assert ask(Authorization=f"Bearer {access}").status_code == 200
    assert ask(authorization=f"bearer {access}").status_code == 200
    refused(ask(), 401)
    refused(ask(Genestack_API_Token="no"), 401)
    refused(ask(Genestack_API_Token=odm.tokens["revoked"]), 401)
    refused(ask(Genestack_API_Token=access), 401)  # each kind has its header
    refused(ask(Authorization=f"Bearer {api}"), 401)
    refused(ask(Authorization=access), 401)
    refused(ask(Genestack_API_Token=api, Authorization=f"Bearer {access}"), 401)
    odm.switch(bare_authorization="accept", both_kinds="api-token")
    assert ask(Authorization=access).status_code == 200
    assert ask(Genestack_API_Token=api, Authorization="Bearer no").status_code == 200
    odm.switch(api_tokens=False)
    refused(ask(Genestack_API_Token=api), 401)


def test_every_audience_has_its_own_door(odm: Service) -> None:
    refused(odm.ask("GET", "as-curator/files", "user"), 403)
    refused(odm.ask("POST", "jobs/import/file/multipart", "user"), 403)
    refused(odm.ask("DELETE", f"manage-data/data?accessions={PDF}", "user"), 403)
    refused(odm.ask("DELETE", f"manage-data/data?accessions={PDF}", "curator"), 403)
    refused(odm.ask("GET", "as-nobody/files"), 404)
    assert odm.ask("GET", "as-user/files?pageLimit=1", "user").status_code == 200
    odm.switch(forbidden_status=401)
    refused(odm.ask("GET", "as-curator/files", "user"), 401)


def test_drafts_are_for_curators(odm: Service) -> None:
    (plan,) = odm.get(f"as-curator/integration/link/files/by/study/{DRAFT}")
    accession = plan["genestack:accession"]
    for path in (f"studies/{DRAFT}", f"files/{accession}", f"files/{accession}/download",
                 f"integration/link/files/by/study/{DRAFT}"):  # fmt: skip
        refused(odm.ask("GET", f"as-user/{path}"), 404)
        assert odm.ask("GET", f"as-curator/{path}").status_code == 200
    for audience, seen in (("as-user", False), ("as-curator", True)):
        listed = odm.get(f"{audience}/studies", returnedMetadataFields="minimal_data")["data"]
        assert (DRAFT in [item["genestack:accession"] for item in listed]) is seen
        assert bool(odm.get(f"{audience}/files", filter='"genestack:name"=plan.pdf')["data"]) is seen


# -- lists -----------------------------------------------------------------------------------------------


def test_pages_count_items_up_to_2000(odm: Service) -> None:
    first = odm.get("as-user/files")
    total = first["meta"]["pagination"]["total"]
    assert first["meta"]["pagination"] == {"count": 2000, "total": total, "offset": 0, "limit": 2000}
    second = odm.get("as-user/files", pageOffset=2000)
    assert second["meta"]["pagination"] == {"count": total - 2000, "total": total, "offset": 2000, "limit": 2000}
    accessions = {item["genestack:accession"] for item in first["data"] + second["data"]}
    assert len(accessions) == total > 2500
    none = odm.get("as-user/files", pageLimit=0)
    assert (none["data"], none["meta"]["pagination"]["total"]) == ([], total)
    past = odm.get("as-user/studies", pageOffset=9999)
    assert (past["data"], past["meta"]["pagination"]["count"]) == ([], 0)
    for params in (
        {"pageLimit": 2001},
        {"pageOffset": 10**30},
        {"pageLimit": -1},
        {"pageOffset": -1},
        {"pageLimit": "many"},
    ):
        refused(odm.ask("GET", "as-user/files", params=params), 400)
    odm.switch(over_limit="clamp", exhausted_key=True)
    clamped = odm.get("as-user/files", pageLimit=2001)
    assert (clamped["meta"]["pagination"]["limit"], clamped["resultsExhausted"]) == (2000, False)


def test_files_come_in_no_order_but_always_in_the_same(odm: Service) -> None:
    def numbers() -> list[int]:
        found = odm.get(f"as-user/integration/link/files/by/study/{MANY}")
        return [int(item["genestack:accession"].removeprefix("GSF")) for item in found]

    scattered = numbers()
    held = odm.rows(
        "SELECT count(*) AS n FROM odm_objects WHERE study = ? AND kind = 'FILE' AND gone IS NULL", int(MANY[3:])
    )
    assert len(scattered) == held[0]["n"] > 2000  # a bare array, and no page of it
    assert scattered == numbers() != sorted(scattered)
    odm.switch(file_order="descending")
    assert numbers() == sorted(scattered, reverse=True)


def test_a_file_is_a_flat_map_without_size_or_date(odm: Service) -> None:
    one = odm.get(f"as-user/files/{PDF}")
    assert one == {
        "genestack:accession": PDF, "genestack:name": "AsnicarF_2017_sample.pdf", "Data Class": "Other",
    }  # fmt: skip
    assert one in odm.get(f"as-user/integration/link/files/by/study/{GUT}")
    assert odm.get(f"as-user/integration/link/files/by/study/{EMPTY}") == []
    refused(odm.ask("GET", "as-user/integration/link/files/by/study/GSF999"), 404)
    refused(odm.ask("GET", f"as-user/integration/link/files/by/study/{PDF}"), 404)
    refused(odm.ask("GET", f"as-user/files/{GUT}"), 404)
    refused(odm.ask("GET", "as-user/files/1283030"), 400)
    odm.switch(wrong_kind_status=400, bad_id_status=404)
    refused(odm.ask("GET", f"as-user/files/{GUT}"), 400)
    refused(odm.ask("GET", "as-user/files/1283030"), 404)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"genestack:name"=species.csv', {"species.csv"}),
        ('"genestack:name"="spec??s.*" && "Data Class"!=Other', {"species.csv"}),
        ('Depth>4 AND Depth<5', {"species.csv"}),
        ('Depth<4', set()),
        ('(Tool=MetaPhlAn || "Image/Channel: main"=DAPI) && NOT Depth=4.5', {"coverage.png"}),
        (r'"genestack:name"="say \"hi\".txt"', {'say "hi".txt'}),
        ('"Data Class"="Microbiome / Metagenomics" && "genestack:name"!="r*"', {"species.csv"}),
        ('"Data Class"="Cell imaging" OR "Data Class"=Proteomics', {"coverage.png", "broken.h5"}),
    ],
)  # fmt: skip
def test_filters(odm: Service, text: str, found: set[str]) -> None:
    assert set(names(odm.get("as-user/files", filter=text))) == found


@pytest.mark.parametrize(
    "text", ["=x", "Tool=", "(Tool=x", "Tool~x", 'Tool="x', "Depth>many", "a=b c=d", "Tool=x &&", "(" * 999]
)
def test_filters_that_are_none(odm: Service, text: str) -> None:
    refused(odm.ask("GET", "as-user/files", params={"filter": text}), 400)


def test_queries_find_words_and_what_means_the_same(odm: Service) -> None:
    def found(query: str, **more: Any) -> list[str]:
        listed = odm.get("as-user/studies", query=query, returnedMetadataFields="minimal_data", **more)["data"]
        return [item["genestack:accession"] for item in listed]

    assert found("human") == found('"homo sapiens"') == [GUT, CELLS]
    assert found("feces infants") == [GUT]
    assert found("human && NOT feces") == [CELLS]
    assert found("fant") == []
    assert found('"mammal"') == []
    assert found('"mammal"', searchSpecificTerms="true") == [GUT, CELLS]
    by_files = odm.get("as-user/integration/link/studies/by/files", query="metaphlan")
    assert [item["genestack:accession"] for item in by_files["data"]] == [GUT]
    body = {"filters": [{"type": "FULL_TEXT", "match": "atlas", "mode": "STRICT"}], "page": {"offset": 1, "limit": 1}}
    answer = odm.ask("POST", "as-user/integration/fulltext/search/studies", json=body).json()["objectsPage"]
    assert (answer["filteredCount"], [each["name"] for each in answer["content"]]) == (2, ["Lung atlas"])
    refused(odm.ask("POST", "as-user/integration/fulltext/search/studies", json={"filters": [{"type": "X"}]}), 400)


def test_studies_are_sorted_and_cut_down(odm: Service) -> None:
    def order(sort: str) -> list[str]:
        return [item["genestack:accession"] for item in odm.get("as-user/studies", sort=sort)["data"]]

    assert order("id") == order("+id") == list(reversed(order("-id")))
    assert order("-creation")[0] == LARGE
    assert order("name") != order("id")
    refused(odm.ask("GET", "as-user/studies?sort=size"), 400)
    refused(odm.ask("GET", "as-user/studies?returnedMetadataFields=all"), 400)
    minimal = {"genestack:accession": NULL_TITLE, "Study Title": None, "Study Source": "GEO"}
    assert odm.get(f"as-user/studies/{NULL_TITLE}", returnedMetadataFields="minimal_data") == minimal
    assert set(odm.get(f"as-curator/studies/{NULL_TITLE}")) > set(odm.get(f"as-user/studies/{NULL_TITLE}"))
    found = odm.get(f"as-user/integration/link/study/by/file/{PDF}", returnedMetadataFields="minimal_data")
    assert found["genestack:accession"] == GUT
    refused(odm.ask("GET", "as-user/integration/link/study/by/file/GSF999"), 400)


def test_lists_as_tsv(odm: Service) -> None:
    wanted = {"Accept": "text/tab-separated-values"}
    path = f"as-user/integration/link/files/by/study/{CELLS}"
    answer = odm.ask("GET", path, headers=wanted)
    head, *lines = answer.text.splitlines()
    assert answer.headers["content-type"].startswith("text/tab-separated-values")
    assert head.split("\t") == ["genestack:accession", "genestack:name", "Data Class"]
    assert len(lines) == len(odm.get(path))
    assert any(line.endswith("\tunclassified.csv\t") for line in lines)
    odm.switch(tsv_missing="-", tsv_columns="sorted")
    assert odm.ask("GET", path, headers=wanted).text.startswith("Data Class\tgenestack:accession\t")
    assert odm.ask("GET", f"as-user/files/{PDF}", headers=wanted).json()["Data Class"] == "Other"


def test_contents_of_containers(odm: Service) -> None:
    inside = {
        item["genestack:name"]: item.get("contents", "absent")
        for study in (GUT, CELLS)
        for item in odm.get(f"as-user/integration/link/files/by/study/{study}", includeContents="true")
    }
    shapes = {child["name"]: child["shape"] for child in inside["counts.h5ad"]["children"]}
    assert shapes == {"counts": [2, 3], "genes": [2], "cells": [3]}
    assert inside["counts.h5.gz"] == inside["counts.h5ad"]
    assert [child["name"] for child in inside["reads.zip"]["children"]] == ["reads", "notes.txt"]
    assert inside["S1_R1.fastq.gz"]["children"] == [{"name": "S1_R1.fastq", "type": "file"}]
    assert "not an HDF5 file" in inside["broken.h5"]["error"]
    assert inside["protocol.txt"] == "absent"
    assert "contents" not in odm.get(f"as-user/files/{PDF}", includeContents="false")
    refused(odm.ask("GET", "as-user/files?includeContents=yes"), 400)
    odm.switch(contents_form="flat", other_contents="null")
    (zipped,) = odm.get("as-user/files", filter='"genestack:name"=reads.zip', includeContents="true")["data"]
    assert zipped["contents"] == ["/reads", "/reads/S1.csv", "/reads/S2.csv", "/notes.txt"]
    assert odm.get(f"as-user/files/{PDF}", includeContents="true")["contents"] is None


# -- bytes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status", "body"),
    [
        ("bytes=0-3", 206, b"0123"), ("bytes=7-", 206, b"789"), ("bytes=-2", 206, b"89"), ("bytes=8-99", 206, b"89"),
        ("bytes=0-0,2-3", 400, None), ("bytes=10-", 416, None), ("bytes=5-4", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)  # fmt: skip
def test_ranges(odm: Service, header: str, status: int, body: bytes | None) -> None:
    accession = odm.put(EMPTY, "digits", b"0123456789")
    path = f"as-user/files/{accession}/download"
    answer = odm.ask("GET", path, headers={"Range": header})
    assert answer.status_code == status
    if body is None:
        refused(answer, status)
    else:
        assert answer.content == body
        assert answer.headers["content-type"] == "application/octet-stream"
        assert ("content-range" in answer.headers) is (status == 206)
    head = odm.ask("HEAD", path)
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")
    odm.ask("DELETE", f"manage-data/data?accessions={accession}")


def test_what_a_download_may_look_like_is_switched(odm: Service) -> None:
    accession = odm.put(EMPTY, "digits", b"0123456789")
    path, part = f"as-user/files/{accession}/download", {"Range": "bytes=2-4"}
    assert odm.ask("GET", path, headers=part).headers["content-range"] == "bytes 2-4/10"
    odm.switch(range_total="star")
    assert odm.ask("GET", path, headers=part).headers["content-range"] == "bytes 2-4/*"
    odm.switch(range_total="absent", head_length=False, whole_length=False)
    assert "content-range" not in odm.ask("GET", path, headers=part).headers
    assert "content-length" not in odm.ask("HEAD", path).headers
    assert "content-length" not in odm.ask("GET", path, headers={"Accept-Encoding": "identity"}).headers
    odm.switch(ranges=False, compress=True, descriptive_headers=True)
    answer = odm.ask("GET", path, headers=part)
    assert (answer.status_code, answer.content, answer.headers["content-encoding"]) == (200, b"0123456789", "gzip")
    assert answer.headers["etag"]
    odm.switch(ranges=True)
    for status, length in ((206, 0), (200, 10)):
        odm.switch(past_end_status=status)
        answer = odm.ask("GET", path, headers={"Range": "bytes=10-"})
        assert (answer.status_code, len(answer.content)) == (status, length)
    odm.ask("DELETE", f"manage-data/data?accessions={accession}")


def test_what_cannot_be_downloaded(odm: Service) -> None:
    (lost,) = odm.get("as-user/files", filter='"genestack:name"=lost.bam')["data"]
    for method in ("GET", "HEAD"):
        assert odm.ask(method, f"as-user/files/{lost['genestack:accession']}/download").status_code == 400
        assert odm.ask(method, f"as-user/files/{GUT}/download").status_code == 406
        assert odm.ask(method, "as-user/files/GSF999/download").status_code == 404
        assert odm.ask(method, f"as-user/files/{PDF}/download", None).status_code == 401
    (empty,) = odm.get("as-user/files", filter='"genestack:name"=empty.txt')["data"]
    answer = odm.ask("GET", f"as-user/files/{empty['genestack:accession']}/download")
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")


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


class Shop(http.server.BaseHTTPRequestHandler):
    """What a link leads to."""

    def do_GET(self) -> None:
        bodies = {
            "/in/gel%20image.png": b"PNG",
            "/m.tsv": b"Tool\nImageJ\n",
            "/s.tsv": b"Study Title\tYear\nLinked\t2024\n",
        }
        body = bodies.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def shop() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


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
    accession = odm.finished(job["jobExecId"])["result"]["groupAccession"]
    assert odm.get(f"as-curator/studies/{accession}", returnedMetadataFields="minimal_data")["Study Title"] == "Linked"
    refused(odm.ask("GET", f"as-user/studies/{accession}"), 404)  # a draft at first
    refused(odm.ask("POST", "jobs/import/study", json=link), 409)
    twin = odm.ask("POST", "jobs/import/study?allow_dups=true", json=link)
    other = odm.finished(twin.json()["jobExecId"])["result"]["groupAccession"]
    assert odm.ask("DELETE", f"manage-data/data?accessions={accession},{other}").status_code == 202


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


def test_what_is_no_hdf5_file_is_unreadable_and_nothing_worse() -> None:
    from labfs.sandbox import specimens

    data = specimens.hdf5()
    for cut in range(0, len(data), 7):
        for changed in (data[:cut], data[:cut] + b"\xff" + data[cut + 1 :]):
            with contextlib.suppress(hdf5.Unreadable):
                hdf5.tree(changed)


# -- clients that others wrote ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def environment() -> Path:
    """The directory of programs of an environment with the vendor's clients, made once for all runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labfs-tests"
    made = cache / "odm-1.64.1"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "odm-1.64.1.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at the same time make it once
        if not (made / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", made], check=True)
            pip = [made / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *CLIENTS], check=True)
            (made / "complete").touch()
    return made / "bin"


@pytest.mark.timeout(300)
def test_the_generated_client_lists_reads_imports_and_deletes(odm: Service, environment: Path) -> None:
    odm.switch(job_s=0.3)
    before = odm.blobs()
    command = [
        environment / "python",
        Path(__file__).with_name("odm_client.py"),
        odm.url,
        odm.tokens["token"],
        odm.tokens["access_token"],
        EMPTY,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    data = bytes(range(256)) * 40
    assert seen["page"] == {"count": 3, "total": seen["page"]["total"], "offset": 1, "limit": 3}
    assert len(seen["page_names"]) == 3
    assert GUT in seen["studies"]
    assert DRAFT not in seen["studies"]
    assert seen["job"] == {"status": "STARTING", "name": "IMPORT_FILE", "by": "ada@lab.example"}
    accession = seen["accession"]
    assert seen["one"] == {
        "genestack:accession": accession, "genestack:name": "Übersicht.bin", "Tool": "MetaPhlAn", "Depth": 4.5,
        "Data Class": "Document",
    }  # fmt: skip
    assert (seen["in_study"], seen["head"], seen["whole"]) == (True, len(data), True)
    assert (seen["part"], seen["part_status"]) == (data[250:260].hex(), 206)
    assert [each["genestack:accession"] for each in seen["deleted"]] == [accession]
    assert (seen["after"], seen["absent"]) == (404, 404)
    assert (seen["bearer"], seen["bare"]) == (0, 401)
    stored = odm.stored(accession)
    assert (stored["kind"], stored["study"], stored["size"]) == ("FILE", int(EMPTY[3:]), len(data))
    assert stored["gone"] <= time.time()
    (blob,) = odm.blobs() - before
    assert (odm.directory / "blobs" / blob).read_bytes() == data  # until the next deletion sweeps


@pytest.mark.timeout(300)
def test_the_import_script_attaches_a_link(odm: Service, environment: Path, shop: str) -> None:
    command = [environment / "odm-import-data", "-srv", odm.url, "-t", odm.tokens["token"], "-sa", EMPTY,
               "-fl", f"{shop}/in/gel%20image.png", "-flm", f"{shop}/m.tsv", "-dc", "Cell imaging"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (row,) = odm.rows(
        "SELECT number FROM odm_objects WHERE study = ? AND kind = 'FILE' AND gone IS NULL", int(EMPTY[3:])
    )
    accession = f"GSF{row['number']}"
    assert f"file {accession} was attached successfully to study {EMPTY}" in done.stdout
    stored = odm.stored(accession)
    assert (stored["name"], stored["data"]) == ("gel image.png", b"PNG")
    assert json.loads(stored["attributes"]) == {"Tool": "ImageJ", "Data Class": "Cell imaging"}
    odm.ask("DELETE", f"manage-data/data?accessions={accession}")
