"""The ODM stand-in: who may read what and how, and the vendor's own clients at work on it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import odm_stage
import pytest
from odm_stage import CELLS, DRAFT, EMPTY, GUT, LARGE, MANY, NULL_TITLE, PDF, Service, names, opened, quick, refused
from stage import Sandbox


@pytest.fixture
def odm(sandbox: Sandbox) -> Iterator[Service]:
    with quick(sandbox) as service:
        yield service


@pytest.fixture
def shop() -> Iterator[str]:
    with opened() as url:
        yield url


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
    assert "signature not found" in inside["broken.h5"]["error"]
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


# -- clients that others wrote ---------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_the_generated_client_lists_reads_imports_and_deletes(odm: Service, odm_programs: Path) -> None:
    odm.switch(job_s=0.3)
    before = odm.blobs()
    command = [
        odm_programs / "python",
        Path(odm_stage.__file__).with_name("odm_client.py"),
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
def test_the_import_script_attaches_a_link(odm: Service, odm_programs: Path, shop: str) -> None:
    command = [odm_programs / "odm-import-data", "-srv", odm.url, "-t", odm.tokens["token"], "-sa", EMPTY,
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


def test_the_import_script_makes_a_study_with_samples(odm: Service, odm_programs: Path, shop: str) -> None:
    command = [odm_programs / "odm-import-data", "-srv", odm.url, "-t", odm.tokens["token"], "-s", f"{shop}/script.tsv",
               "-sm", f"{shop}/samples.tsv"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    (study,) = odm.rows("SELECT number FROM odm_objects WHERE kind = 'STUDY' AND name = 'By script' AND gone IS NULL")
    accession = f"GSF{study['number']}"
    assert f"study {accession} was added successfully" in done.stdout
    assert "Successfully linked: [samples_to_study]" in done.stdout
    listed = odm.get(f"as-curator/integration/link/samples/by/study/{accession}")["data"]
    assert [row["genestack:name"] for row in listed] == ["T1", "T2"]
    odm.ask("DELETE", f"manage-data/data?accessions={accession}")
