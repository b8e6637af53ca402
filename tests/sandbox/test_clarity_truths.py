"""The Clarity stand-in: what other people's production code expects of a server."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from clarity_stage import RI, Clarity, refused
from stage import Sandbox

from labfs.sandbox.clarity.others import KINDS
from labfs.sandbox.clarity.shelf import Switches


@pytest.fixture
def clarity(running: Sandbox) -> Iterator[Clarity]:
    with Clarity(running) as made:
        yield made


def only(clarity: Clarity, sql: str, *values: object) -> str:
    (row,) = clarity.rows(sql, *values)
    return str(row["limsid"])


def test_a_shared_placeholder_says_so_in_every_form(clarity: Clarity) -> None:
    shared, single, *_ = clarity.placeholders()
    step = only(clarity, "SELECT process AS limsid FROM clarity_artifacts WHERE limsid = ?", shared)
    types = {out.get("limsid"): out.get("output-type") for out in clarity.get(f"processes/{step}").iter("output")}
    assert (types[shared], types[single]) == ("SharedResultFile", "ResultFile")
    assert clarity.get(f"artifacts/{shared}").findtext("output-type") == "SharedResultFile"
    inner = {out.get("limsid"): out.get("type") for out in clarity.get(f"steps/{step}/details").iter("output")}
    assert (inner[shared], inner[single]) == ("ResultFile", "ResultFile"), "one client reads no other here"
    clarity.switch(shared_step_type="SharedResultFile")
    inner = {out.get("limsid"): out.get("type") for out in clarity.get(f"steps/{step}/details").iter("output")}
    assert (inner[shared], inner[single]) == ("SharedResultFile", "ResultFile")
    clarity.switch(shared_type="ResultFile")
    assert clarity.get(f"artifacts/{shared}").findtext("output-type") == "ResultFile"


def test_uploads_are_refused_while_samples_are_under_review(clarity: Clarity) -> None:
    step = only(clarity, "SELECT limsid FROM clarity_processes WHERE type = 'Manager review'")
    root = clarity.get(f"steps/{step}")
    assert (root.get("current-state"), root.find("date-completed")) == ("Under Review", None)
    empty = only(clarity, "SELECT limsid FROM clarity_artifacts WHERE process = ? AND name = 'Remarks'", step)
    made = [clarity.attach(f"processes/{step}", "late.txt"), clarity.attach(f"artifacts/{empty}", "late.txt")]
    try:
        for limsid in made:
            refused(clarity.upload(limsid, b"x"), 400, "UNDER_REVIEW")
        clarity.switch(completed_status=403)
        assert clarity.upload(made[0], b"x").status_code == 403
        clarity.switch(completed_step="accept", completed_status=400)
        refused(clarity.upload(made[0], b"x"), 400, "UNDER_REVIEW")
        clarity.switch(review="accept")
        assert clarity.upload(made[0], b"x").status_code == 200
    finally:
        for limsid in made:
            clarity.http.delete(f"files/{limsid}").raise_for_status()


def test_the_automation_names_files_after_their_placeholders(clarity: Clarity) -> None:
    sql = "SELECT f.* FROM clarity_files f JOIN clarity_artifacts a ON a.limsid = owner JOIN clarity_processes p"
    rows = clarity.rows(f"{sql} ON p.limsid = a.process WHERE p.type = 'Automated QC'")
    assert len(rows) == 2
    for row in rows:
        assert clarity.get(f"files/{row['limsid']}").findtext("original-name") == f"{row['owner']}_report.csv"


def test_a_second_file_replaces_the_first_of_a_placeholder(clarity: Clarity) -> None:
    assert Switches().second_attach == "replace"
    target = f"artifacts/{clarity.placeholders()[1]}"
    first, second = clarity.put(target, "a.txt", b"first"), clarity.put(target, "b.txt", b"second")
    assert [link.get("limsid") for link in clarity.get(target).iter(f"{{{RI}/file}}file")] == [second]
    refused(clarity.http.get(f"files/{first}"), 404)
    assert clarity.stored(target.partition("/")[2]) == [("b.txt", b"second")]


@pytest.mark.parametrize("name", KINDS)
def test_lists_without_files_exist(clarity: Clarity, name: str) -> None:
    root = clarity.get(name)
    assert root.tag.startswith(f"{{{RI}/")
    items = [item for item in root if item.get("uri") and "page" not in item.tag]
    for item in items[:2]:
        assert item.get("uri", "").startswith(f"{clarity.url}/api/v2/{name}/")
        clarity.get(item.get("uri", ""))
    refused(clarity.http.get(f"{name}/9999999"), 404)
    assert name in {link.get("rel") for link in clarity.get("")}


def test_the_other_lists_have_pages_and_filters(clarity: Clarity) -> None:
    assert [item.findtext("first-name") for item in clarity.get("researchers")] == ["Ada", "Grace"]
    assert [item.findtext("last-name") for item in clarity.get("researchers", firstname="Grace")] == ["Runner"]
    assert [item.get("name") for item in clarity.get("processtypes", displayname="Library QC")] == ["Library QC"]
    plates = clarity.get("containers").findall("container")
    assert plates[0].findtext("name") == f"Plate {plates[0].get('limsid')}"
    clarity.switch(page_size=2)
    pages = [clarity.get("containers", **{"start-index": str(start)}) for start in (0, 2)]
    assert [item.tag for item in pages[0]] == ["container", "container", "next-page"]
    assert [item.tag for item in pages[1]][2] == "previous-page"
    found = [item.get("limsid") for page in pages for item in page.findall("container")]
    assert found == [plate.get("limsid") for plate in plates[:4]]
    assert dataclasses.asdict(Switches())["page_size"] == 500
