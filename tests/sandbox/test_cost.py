"""The cost of a row in the stand-ins of BaseSpace, ODM, Clarity and REDCap; the Portal's is in test_portal_truths.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import clarity_stage
import odm_stage
import pytest
import redcap_stage
from stage import Sandbox

ANSWER_S = 0.4


def seconds(act: Callable[[], Any]) -> float:
    started = time.monotonic()
    act()
    return time.monotonic() - started


def costs(service: Any, act: Callable[[], Any], rows: int) -> bool:
    """Tell whether an answer takes the time of its rows, and no time without the switch."""
    service.switch(row_s=ANSWER_S / rows)
    slow = seconds(act)
    service.switch(row_s=0.0)
    return slow >= ANSWER_S and seconds(act) < slow


@pytest.fixture
def odm(sandbox: Sandbox) -> Iterator[odm_stage.Service]:
    with odm_stage.quick(sandbox) as service:
        yield service


@pytest.fixture
def clarity(sandbox: Sandbox) -> Iterator[clarity_stage.Clarity]:
    with clarity_stage.Clarity(sandbox) as service:
        yield service


@pytest.fixture
def redcap(sandbox: Sandbox) -> Iterator[redcap_stage.Redcap]:
    with redcap_stage.opened(sandbox) as service:
        yield service


def test_files_and_studies_of_odm(odm: odm_stage.Service) -> None:
    for path, rows in (
        (f"as-curator/integration/link/files/by/study/{odm_stage.GUT}", 8),
        ("as-curator/studies", 10),
        ("as-curator/files", 30),
    ):
        assert costs(odm, lambda path=path: odm.get(path, pageLimit=30), rows), path
    odm.switch(row_s=10.0)
    assert seconds(lambda: odm.get(f"as-curator/studies/{odm_stage.GUT}")) < 5, "one thing is no list"


def test_pages_and_batches_of_clarity(clarity: clarity_stage.Clarity) -> None:
    clarity.switch(page_size=30)
    assert costs(clarity, lambda: clarity.get("samples"), 30)
    assert costs(clarity, lambda: clarity.get("containers"), len(clarity.get("containers")))
    uris = [f"{clarity.url}/api/v2/samples/MNY400A{number}" for number in range(1, 21)]
    assert costs(clarity, lambda: clarity.post("samples/batch/retrieve", clarity_stage.links(*uris)), 20)
    clarity.switch(row_s=10.0)
    assert seconds(lambda: clarity.get("samples/MNY400A1")) < 5


def test_records_of_redcap(redcap: redcap_stage.Redcap) -> None:
    names = sorted({row["record_id"] for row in redcap.ask("biobank", "record", fields=["record_id"])})
    assert costs(redcap, lambda: redcap.ask("biobank", "record"), len(names))
    assert costs(redcap, lambda: redcap.ask("biobank", "record", type="eav", records=names[:3]), 3)
    redcap.switch(row_s=10.0)
    assert seconds(lambda: redcap.ask("biobank", "metadata")) < 5


def test_pages_of_basespace(sandbox: Sandbox) -> None:
    projects = sandbox.api("GET", "users/current/projects?Limit=1024")["Items"]
    large = next(item["Id"] for item in projects if item["Name"] == "Large things")
    many = sandbox.api("GET", f"projects/{large}/appresults?SortBy=Name")["Items"][0]["Id"]
    try:
        for path, rows in ((f"appresults/{many}/files?Limit=40", 40), ("users/current/projects?Limit=3", 3)):
            assert costs(sandbox, lambda path=path: sandbox.api("GET", path), rows), path
        sandbox.switch(row_s=10.0)
        assert seconds(lambda: sandbox.api("GET", f"appresults/{many}")) < 5, "one thing is no list"
    finally:
        sandbox.calm()


def test_requests_wait_for_a_worker(odm: odm_stage.Service) -> None:
    def both() -> float:
        with ThreadPoolExecutor(2) as pool:
            return seconds(lambda: list(pool.map(lambda path: odm.get(path, pageLimit=30), ["as-curator/files"] * 2)))

    odm.switch(row_s=ANSWER_S / 30, workers=1)
    one_by_one = both()
    odm.switch(workers=2)
    assert (one_by_one >= 2 * ANSWER_S, both() < one_by_one) == (True, True)
