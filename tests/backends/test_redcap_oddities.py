"""What is awkward about REDCap: answers that prove nothing, rights that hide, values that lie."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
import trio
import trio.testing
from contract import Basket, Bytes, noise
from redcap_stage import Redcap as Service
from redcap_stage import opened
from stage import Sandbox
from test_redcap_backend import build, field_of, page

from labfs.backend import Accept, Entry, Target
from labfs.backends.redcap.backend import Redcap
from labfs.backends.redcap.saving import DOCUMENT
from labfs.backends.redcap.wire import Rounds
from labfs.errors import (
    Conflict,
    Denied,
    Exists,
    Invalid,
    LabfsError,
    Malformed,
    NoSpace,
    NotFound,
    NotPermitted,
    Stale,
    TooLarge,
    Unanswered,
    Unavailable,
)
from labfs.http.client import Client
from labfs.tree.scan import scan


@pytest.fixture
def service(sandbox: Sandbox) -> Iterator[Service]:
    with opened(sandbox) as service:
        yield service


@pytest.fixture
async def backend(service: Service) -> AsyncIterator[Redcap]:
    backend = build(service)
    yield backend
    await backend.aclose()


@pytest.fixture
def record(service: Service) -> Iterator[str]:
    name = service.record()
    yield name
    service.post("biobank", content="record", action="delete", records=[name])


def paths(entries: tuple[Entry, ...]) -> dict[str, Entry]:
    """Return entries by their path below the project."""
    known = {entry.id: entry for entry in entries}

    def path(entry: Entry) -> str:
        return (path(known[entry.inside]) + " / " if entry.inside else "") + entry.name

    return {path(entry): entry for entry in entries}


async def file_in(backend: Redcap, field: Entry) -> Entry:
    (project,) = [e for e in (await backend.page(backend.root, None)).entries if e.name == "biobank"]
    (file,) = [e for e in await scan(backend, project) if e.inside == field.id]
    return file


async def save(backend: Redcap, field: Entry, name: str, data: bytes, old: Entry | None = None) -> Entry:
    return await backend.upload(Target(field, (), name, old), Bytes(data))


async def poured(backend: Redcap, file: Entry) -> bytes:
    basket = Basket()
    await backend.content(file).pour(basket)
    return bytes(basket.data)


def posts(sandbox: Sandbox) -> int:
    return sandbox.requests()["POST /api/"]


# -- the tree --------------------------------------------------------------------------------------------


async def test_a_project_with_arms_events_and_both_kinds_of_repeats(backend: Redcap) -> None:
    found = paths((await page(backend, "trial")).entries)
    found = {path: entry for path, entry in found.items() if not path.startswith("T-")}  # other tests' records
    assert list(found) == [
        ".repository",
        "1", "1 / baseline_arm_1", "1 / baseline_arm_1 / form_scan", "1 / baseline_arm_1 / form_scan / form.pdf",
        "1 / baseline_arm_1 / imaging-1", "1 / baseline_arm_1 / imaging-1 / image",
        "1 / baseline_arm_1 / imaging-1 / image / scan.png",
        "1 / baseline_arm_1 / imaging-2", "1 / baseline_arm_1 / imaging-2 / image",
        "1 / baseline_arm_1 / imaging-2 / image / scan.png",
        "1 / visit_arm_1", "1 / visit_arm_1 / instance-1", "1 / visit_arm_1 / instance-1 / reads",
        "1 / visit_arm_1 / instance-1 / reads / NA12871_S1_L001_R1_001.fastq.gz",
        "1 / visit_arm_1 / instance-2", "1 / visit_arm_1 / instance-2 / reads",
        "1 / visit_arm_1 / instance-2 / reads / NA12871_S2_L001_R1_001.fastq.gz",
        "2", "2 / baseline_arm_1", "2 / baseline_arm_1 / form_scan", "2 / baseline_arm_1 / form_scan / form.pdf",
        "2 / baseline_arm_1 / imaging-1", "2 / baseline_arm_1 / imaging-1 / image",
        "2 / visit_arm_1", "2 / visit_arm_1 / instance-1", "2 / visit_arm_1 / instance-1 / reads",
        "7", "7 / baseline_arm_2", "7 / baseline_arm_2 / form_scan",
    ]  # fmt: skip
    for path, entry in found.items():
        assert await backend.stat(entry.id) == entry, path
    first = await poured(backend, found["1 / baseline_arm_1 / imaging-1 / image / scan.png"])
    second = await poured(backend, found["1 / baseline_arm_1 / imaging-2 / image / scan.png"])
    assert first != second
    assert first[:4] == second[:4] == b"\x89PNG"
    assert [Accept.DIRECTORY in found[path].takes for path in ("1", "1 / baseline_arm_1", "1 / visit_arm_1")] == [
        False, True, True,
    ]  # fmt: skip


async def test_a_repeating_form_of_a_classic_project(backend: Redcap) -> None:
    found = paths((await page(backend, "plates")).entries)
    assert [path for path in found if path.startswith("2")] == [
        "2", "2 / raw", "2 / run-1", "2 / run-1 / run_table", "2 / run-1 / run_table / run.csv",
        "2 / run-2", "2 / run-2 / run_table", "2 / run-2 / run_table / run.csv",
        "2 / run-3", "2 / run-3 / run_table", "2 / run-3 / run_table / run.csv",
    ]  # fmt: skip
    assert (found["2 / raw"].takes.room, Accept.FILE in found["2 / raw"].takes) == (1, True)


@pytest.mark.parametrize("switches", [{}, {"eav_identity_last": True}, {"record_order": "text"}, {"charset": ""}])
async def test_records_are_in_the_order_of_their_numbers(
    switches: dict[str, Any], backend: Redcap, service: Service
) -> None:
    service.switch(**switches)
    found = [e.name for e in (await page(backend, "biobank")).entries if e.inside is None and e.complete]
    assert [name for name in found if not name.startswith("T-")] == ["1", "2", "3", "10"]


async def test_five_thousand_records_are_two_requests(backend: Redcap, sandbox: Sandbox) -> None:
    await backend.check()  # which asks for each dictionary
    sandbox.reset()
    found = (await page(backend, "wells")).entries
    assert posts(sandbox) == 2
    assert (len(found), len({entry.id for entry in found})) == (15_001, 15_001)


async def test_events_and_repeats_are_asked_for_once(backend: Redcap, sandbox: Sandbox) -> None:
    await page(backend, "trial")
    assert posts(sandbox) == 1 + 2 + 2
    await page(backend, "trial")
    assert posts(sandbox) == 1 + 2 + 2 + 2


async def test_an_export_that_is_too_large_is_made_in_batches(
    backend: Redcap, service: Service, sandbox: Sandbox
) -> None:
    service.switch(memory_rows=6000)
    (project,) = [e for e in (await backend.page(backend.root, None)).entries if e.name == "wells"]
    found = await scan(backend, project)
    assert (len(found), len({entry.id for entry in found})) == (15_001, 15_001)
    assert posts(sandbox) == 1 + 1 + 1 + 2 * 50
    assert await poured(backend, found[-1])


@pytest.mark.parametrize("alias", ["biobank", "trial", "plates", "empty", "wells", "odd"])
async def test_batches_and_all_at_once_are_the_same(
    alias: str, backend: Redcap, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = await page(backend, alias)
    monkeypatch.setattr("labfs.backends.redcap.projects.QUICK_S", 0.0)
    monkeypatch.setattr("labfs.backends.redcap.projects.MOST", 500 if alias == "wells" else 3)
    in_batches = await page(backend, alias)
    assert in_batches == at_once


async def test_a_list_is_read_on_where_its_walk_was_forgotten(
    backend: Redcap, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    monkeypatch.setattr("labfs.backends.redcap.projects.QUICK_S", 0.0)
    (project,) = [e for e in (await backend.page(backend.root, None)).entries if e.name == "wells"]
    walked = [await backend.page(project, None)]
    sandbox.reset()
    while (cursor := walked[-1].cursor) is not None:
        if len(walked) == 4:
            backend._projects._walks.clear()
        walked.append(await backend.page(project, cursor))
        assert len(cursor) < 20
    found = [entry.id for told in walked for entry in told.entries]
    assert (len(found), len(set(found))) == (15_001, 15_001)
    assert posts(sandbox) == 1 + 2 + (len(walked) - 1), "the dictionary, two exports of all, and the batches"


async def test_less_rights_hide_fields_and_not_records(service: Service) -> None:
    backend = build(service, biobank=service.tokens["biobank/deidentified"])
    try:
        found = paths((await page(backend, "biobank")).entries)
    finally:
        await backend.aclose()
    assert "1 / counts / counts.h5" in found
    assert "1 / consent_scan" not in found, "who saved there would replace what cannot be seen"


async def test_a_group_sees_its_own_records(service: Service) -> None:
    backend = build(service, biobank=service.tokens["biobank/north"])
    try:
        found = [e.name for e in (await page(backend, "biobank")).entries if e.complete and e.inside is None]
    finally:
        await backend.aclose()
    assert found == ["1", "2"]


async def test_names_of_old_servers_are_shown_as_they_are(backend: Redcap, service: Service, record: str) -> None:
    service.switch(file_value="document")
    field = await field_of(backend, "biobank", record, "counts")
    entry = await save(backend, field, "f.csv", b"x")
    assert (entry.name, await poured(backend, entry)) == (DOCUMENT, b"x")


async def test_odd_names_are_told_as_they_are(backend: Redcap) -> None:
    found = paths((await page(backend, "odd")).entries)
    assert {".. / attachment / ..", "a/b / attachment / a/b", "R-9 / attachment / [document]"} <= set(found)
    for path in ("R 3 / attachment / nothing.txt", "R 3 / second / error.txt", "R-3 / attachment / two\nlines.txt"):
        expected = b"" if "nothing" in path else b"<error>no error at all</error>\n"
        data = await poured(backend, found[path])
        assert data == expected or data.startswith(b"content of")


@pytest.mark.parametrize(
    "switches",
    [
        {"name_coding": "percent"}, {"name_coding": "latin-1"}, {"length_sent": False}, {"disposition": True},
        {"mime_from": "part"}, {"compression": False},
    ],
)  # fmt: skip
async def test_however_a_server_sends_its_files(
    switches: dict[str, Any], backend: Redcap, service: Service, record: str
) -> None:
    service.switch(**switches)
    field = await field_of(backend, "biobank", record, "counts")
    entry = await save(backend, field, "größe;name=x.html", noise(70_000))
    assert await poured(backend, await file_in(backend, field)) == noise(70_000)
    assert entry == replace(await file_in(backend, field), size=70_000)


# -- changes of the set-up -------------------------------------------------------------------------------


def edit(service: Service, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(service.directory / "sandbox.sqlite", timeout=10)) as db, db:
        db.execute(sql, values)


async def test_a_field_that_is_gone_is_noticed(backend: Redcap, service: Service) -> None:
    await page(backend, "plates")
    (row,) = service.rows("SELECT * FROM redcap_fields WHERE name = 'run_table'")
    edit(service, "DELETE FROM redcap_fields WHERE name = 'run_table'")
    try:
        found = paths((await page(backend, "plates")).entries)
    finally:
        edit(service, "INSERT INTO redcap_fields VALUES (?, ?, ?, ?, ?)", *row.values())
    assert "2 / raw" in found
    assert not any("run_table" in path for path in found)


async def test_a_project_that_gets_repeats_is_noticed(backend: Redcap, service: Service, record: str) -> None:
    await page(backend, "biobank")
    (project,) = service.rows("SELECT id FROM redcap_projects WHERE title = 'Tumour biobank 2026'")
    (event,) = service.rows("SELECT id FROM redcap_events WHERE project = ?", project["id"])
    edit(service, "INSERT INTO redcap_repeating VALUES (?, ?, 'laboratory', '')", project["id"], event["id"])
    try:
        found = paths((await page(backend, "biobank")).entries)
        assert f"{record} / laboratory-1 / counts" in found
    finally:
        edit(service, "DELETE FROM redcap_repeating WHERE project = ?", project["id"])
    found = paths((await page(backend, "biobank")).entries)
    assert f"{record} / counts" in found


# -- answers that prove nothing --------------------------------------------------------------------------


async def test_empty_answers_are_tried_again(backend: Redcap, service: Service) -> None:
    service.switch(empty_answers=2)
    assert len((await page(backend, "biobank")).entries) > 10
    file = paths((await page(backend, "biobank")).entries)["1 / counts / counts.h5"]
    service.switch(empty_answers=2)
    assert (await poured(backend, file))[1:4] == b"HDF"


@pytest.mark.parametrize("action", ["html", "reset", "status"])
async def test_pages_and_failures_are_tried_again(action: str, backend: Redcap, sandbox: Sandbox) -> None:
    file = paths((await page(backend, "biobank")).entries)["1 / counts / counts.h5"]
    sandbox.faults({"service": "redcap", "action": action, "argument": 503, "times": 2})
    assert (await poured(backend, file))[1:4] == b"HDF"
    sandbox.faults({"service": "redcap", "action": action, "argument": 503, "times": 2})
    assert len((await page(backend, "biobank")).entries) > 10


@pytest.mark.parametrize("old", [None, b"before"])
@pytest.mark.parametrize(
    "fault",
    [
        {"action": "reset"}, {"action": "status", "argument": 500}, {"action": "status", "argument": 503},
        {"action": "html"},
    ],
)  # fmt: skip
async def test_an_import_that_failed_is_never_taken_for_a_save(
    fault: dict[str, Any], old: bytes | None, backend: Redcap, service: Service, sandbox: Sandbox, record: str
) -> None:
    field = await field_of(backend, "biobank", record, "counts")
    before = None if old is None else await save(backend, field, "f", old)
    # The first question is what the field holds now; the second is the import.
    sandbox.faults({"service": "redcap", "skip": 1, **fault})
    try:
        await save(backend, field, "f", b"after", before)
    except LabfsError:
        assert service.stored(record) == ({} if old is None else {("counts", 1): ("f", old)})
    else:
        assert service.stored(record) == {("counts", 1): ("f", b"after")}


async def test_an_import_with_an_empty_answer_that_did_nothing_is_found_out(
    backend: Redcap, service: Service, record: str
) -> None:
    field = await field_of(backend, "biobank", record, "counts")
    send = backend._wire.send

    async def send_to_nobody(*args: Any, **more: Any) -> None:
        service.switch(empty_answers=1)
        await send(*args, **more)

    backend._wire.send = send_to_nobody  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="does not hold it"):
        await save(backend, field, "f", b"x")
    assert service.stored(record) == {}


async def test_a_file_that_arrived_short_is_no_save(backend: Redcap, service: Service, record: str) -> None:
    field = await field_of(backend, "biobank", record, "counts")
    send = backend._wire.send

    async def send_less(alias: str, name: str, source: Any, **more: Any) -> None:
        await send(alias, name, Bytes(b"half"), **more)

    backend._wire.send = send_less  # type: ignore[method-assign]
    for sent in (True, False):
        service.switch(length_sent=sent)
        before = await file_in(backend, field) if service.stored(record) else None
        with pytest.raises(Malformed, match="holds 4 bytes of the 8"):
            await save(backend, field, "f", b"half and", before)


@pytest.mark.parametrize("lost", [False, True])
async def test_somebody_elses_file_is_not_taken_for_ours(
    lost: bool, backend: Redcap, service: Service, record: str
) -> None:
    field = await field_of(backend, "biobank", record, "counts")
    old = await save(backend, field, "f", b"old!")

    async def send(*args: Any, **more: Any) -> None:
        if lost:
            service.put("biobank", "f", b"new!", record=record, field="counts")
            raise Unanswered("The answer was lost.")

    backend._wire.send = send  # type: ignore[method-assign]
    with pytest.raises(Conflict if lost else Unavailable):
        await save(backend, field, "f", b"mine", old)
    assert (await file_in(backend, field)).version is not None


@pytest.mark.parametrize("after", [0, 5])
async def test_an_import_whose_answer_was_lost_is_found_and_not_repeated(
    after: int, backend: Redcap, service: Service, sandbox: Sandbox, record: str
) -> None:
    field = await field_of(backend, "biobank", record, "counts")
    first = service.rows("SELECT max(id) AS id FROM redcap_documents")[0]["id"]
    sandbox.faults({"service": "redcap", "skip": 1, "action": "cut", "argument": after})
    entry = await save(backend, field, "f", noise(5000))
    assert service.stored(record) == {("counts", 1): ("f", noise(5000))}
    assert service.rows("SELECT max(id) AS id FROM redcap_documents")[0]["id"] == first + 1
    assert await poured(backend, entry) == noise(5000)


async def test_a_lost_answer_of_the_repository_too(backend: Redcap, service: Service, sandbox: Sandbox) -> None:
    (shelf,) = [e for e in (await page(backend, "biobank")).entries if e.name == ".repository"]
    folder = await backend.make(shelf, f"Lost {id(service)}")
    await save(backend, folder, "f", b"other")
    sandbox.faults({"service": "redcap", "skip": 1, "action": "cut", "argument": 0})
    entry = await save(backend, folder, "f", b"mine")
    assert service.shelved(int(folder.label)) == [("f", b"other"), ("f", b"mine")]
    assert await poured(backend, entry) == b"mine"


async def test_numbers_that_tell_no_versions_are_found_out(backend: Redcap, service: Service, record: str) -> None:
    service.switch(new_id_per_upload=False)
    field = await field_of(backend, "biobank", record, "counts")
    first = await save(backend, field, "f", b"one")
    assert first.version is not None
    second = await save(backend, field, "f", b"two", first)
    assert second.version is None, "or a cache would show the bytes of the first"
    assert (await file_in(backend, field)).version is None
    assert await poured(backend, second) == b"two"
    assert service.stored(record) == {("counts", 1): ("f", b"two")}


# -- other people ----------------------------------------------------------------------------------------


async def test_bytes_of_another_version_are_never_passed_on(backend: Redcap, service: Service, record: str) -> None:
    field = await field_of(backend, "biobank", record, "counts")
    old = await save(backend, field, "f", b"old")
    service.put("biobank", "f", b"new", record=record, field="counts")
    with pytest.raises(Stale, match="replaced"):
        await poured(backend, old)
    service.file("delete", "biobank", record=record, field="counts")
    with pytest.raises(Stale, match="not there any more"):
        await poured(backend, old)


async def test_nobody_elses_file_is_replaced_or_deleted(backend: Redcap, service: Service, record: str) -> None:
    field = await field_of(backend, "biobank", record, "counts")
    service.put("biobank", "theirs", b"1", record=record, field="counts")
    with pytest.raises(Exists, match="already holds a file"):
        await save(backend, field, "mine", b"2")
    opened_then = await file_in(backend, field)
    service.put("biobank", "theirs", b"3", record=record, field="counts")
    with pytest.raises(Stale, match="not replaced"):
        await save(backend, field, "theirs", b"4", opened_then)
    with pytest.raises(Stale, match="not deleted"):
        await backend.delete(opened_then)
    assert service.stored(record) == {("counts", 1): ("theirs", b"3")}


async def test_the_same_name_again_in_the_repository_replaces_only_its_own(backend: Redcap, service: Service) -> None:
    (shelf,) = [e for e in (await page(backend, "biobank")).entries if e.name == ".repository"]
    folder = await backend.make(shelf, f"Twins {id(service)}")
    first, _ = await save(backend, folder, "f", b"1"), await save(backend, folder, "f", b"2")
    await save(backend, folder, "f", b"3", first)
    assert service.shelved(int(folder.label)) == [("f", b"1"), ("f", b"2"), ("f", b"3")], "the core deletes the old one"


# -- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "name", "kind", "words"),
    [
        ({}, "virus.exe", NotPermitted, "extension"),
        ({"blocked_text": "The extension .exe is blocked"}, "virus.EXE", NotPermitted, "extension"),
        ({"largest_upload": 1000}, "f", TooLarge, "maximum"),
        ({"largest_upload": 1000, "too_large": "lost"}, "f", TooLarge, "too large"),
        ({"too_large_text": "The project's storage quota is used up", "largest_upload": 9}, "f", NoSpace, "quota"),
        ({}, 'a"b', Invalid, "quotes"),
        ({}, "a\\b", Invalid, "slashes"),
    ],
)
async def test_files_that_are_refused(
    switches: dict[str, Any], name: str, kind: type[LabfsError], words: str, backend: Redcap, service: Service,
    record: str,
) -> None:  # fmt: skip
    if "too_large" in switches:
        switches = {**switches, "largest_repository_upload": 1000}
    field = await field_of(backend, "biobank", record, "counts")
    service.switch(**switches)
    with pytest.raises(kind, match=words) as caught:
        await save(backend, field, name, noise(2_000_000))
    assert type(caught.value) is kind
    assert service.stored(record) == {}


async def test_locked_records_and_signatures_take_nothing(backend: Redcap) -> None:
    field = await field_of(backend, "biobank", "10", "counts")
    with pytest.raises(NotPermitted, match="locked"):
        await save(backend, field, "f", b"x")
    signature = await field_of(backend, "biobank", "1", "consent_signature")
    assert (signature.takes.kinds, signature.takes.room) == (frozenset(), 1)
    assert "signature" in str(signature.read_only)
    with pytest.raises(NotPermitted, match="signature"):
        await save(backend, signature, "f", b"x", await file_in(backend, signature))


@pytest.mark.parametrize("user", ["reader", "writer", "nobody", "no-data"])
async def test_rights_that_are_missing_are_named(user: str, service: Service) -> None:
    token = service.tokens[f"biobank/{user}"]
    backend = build(service, biobank=token)
    try:
        with pytest.raises(Denied, match=r"biobank.*REDCap says: You do not have") as caught:
            await save(backend, await field_of(backend, "biobank", "3", "counts"), "f", b"x")
        assert token not in str(caught.value)
    finally:
        await backend.aclose()


async def test_a_wrong_token_is_denied_and_not_shown(service: Service) -> None:
    backend = build(service, biobank="0" * 32, trial="none")
    try:
        with pytest.raises(Denied, match=r"biobank|trial") as caught:
            await backend.check()
        assert "0" * 32 not in str(caught.value)
    finally:
        await backend.aclose()


async def test_an_address_that_is_banned_is_told_so(service: Service, backend: Redcap) -> None:
    service.switch(requests_per_minute=1)
    service.post("biobank", content="version")
    with pytest.raises(Denied, match="administrator"):
        await page(backend, "biobank")
    service.switch(requests_per_minute=0)
    service.post("biobank", content="version")


async def test_a_wrong_path_is_not_an_empty_drive(service: Service) -> None:
    backend = Redcap(Client("redcap", f"{service.site}/elsewhere/", dict), {"a": lambda: "0" * 32})
    try:
        with pytest.raises(Malformed, match="no API at the site's url"):
            await page(backend, "a")
    finally:
        await backend.aclose()


# -- making ----------------------------------------------------------------------------------------------


async def test_records_instances_and_folders_are_made(backend: Redcap, service: Service) -> None:
    made = {}
    for alias, path, name in [
        ("biobank", None, f"M {id(service)}"), ("trial", None, f"M {id(service)}"), ("plates", "2", "run-7"),
        ("trial", "2 / baseline_arm_1", "imaging-4"), ("trial", "2 / visit_arm_1", "instance-3"),
        ("empty", ".repository", f"M {id(service)}"),
    ]:  # fmt: skip
        found = paths((await page(backend, alias)).entries)
        (project,) = [e for e in (await backend.page(backend.root, None)).entries if e.name == alias]
        parent = found[path] if path else project
        entry = made[alias, path] = await backend.make(parent, name)
        if path != ".repository":
            again = paths((await page(backend, alias)).entries)
            assert again[f"{path} / {name}" if path else name] == entry
        with pytest.raises(Exists):
            await backend.make(parent, name)
    for alias in ("biobank", "trial"):
        service.post(alias, content="record", action="delete", records=[made[alias, None].name])
    sql = "DELETE FROM redcap_values WHERE record = '2' AND instance = ? AND field IN (?, ?, 'record_id')"
    edit(service, sql, 7, "run_complete", "")
    edit(service, sql, 4, "imaging_complete", "")
    edit(service, sql, 3, "sequencing_complete", "")


@pytest.mark.parametrize("name", ["run", "run-0", "run-x", "plate-2", "other-1", "instance-1", "run-1000000"])
async def test_other_directories_are_not_made(name: str, backend: Redcap) -> None:
    record = paths((await page(backend, "plates")).entries)["2"]
    with pytest.raises(NotPermitted, match="run-2"):
        await backend.make(record, name)


# -- rounds ----------------------------------------------------------------------------------------------


async def test_a_question_serves_only_those_who_asked_before_it_was_put() -> None:
    put: list[list[str]] = []
    gate = trio.Event()

    async def ask(about: Any) -> int:
        put.append(list(about))
        if len(put) == 1:
            await gate.wait()
        return len(put)

    rounds, got = Rounds(ask), {}

    async def wonder(name: str) -> None:
        got[name] = await rounds.answer(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wonder, "a")
        await trio.testing.wait_all_tasks_blocked()
        for name in "bcd":
            nursery.start_soon(wonder, name)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
    assert (put[0], sorted(put[1]), len(put)) == (["a"], ["b", "c", "d"], 2)
    assert got == {"a": 1, "b": 2, "c": 2, "d": 2}


async def test_a_round_survives_whoever_is_cancelled_and_fails_for_all() -> None:
    tries = 0

    async def ask(about: Any) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            await trio.sleep_forever()
        if tries == 2:
            raise Unavailable("down")
        return tries

    rounds, failed = Rounds(ask), []

    async def wonder(scope: trio.CancelScope) -> None:
        with scope:
            try:
                await rounds.answer("x")
            except Unavailable:
                failed.append(1)

    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()
        nursery.start_soon(wonder, first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wonder, trio.CancelScope())
        nursery.start_soon(wonder, trio.CancelScope())
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
    assert (failed, tries) == ([1, 1], 2)
    assert await rounds.answer("y") == 3


# -- hostile answers -------------------------------------------------------------------------------------

Answers = Callable[[dict[str, str]], Any]
DICTIONARY = [
    {"field_name": "id", "form_name": "f", "field_type": "text"},
    {"field_name": "scan", "form_name": "f", "field_type": "file"},
]
JUNK: list[Any] = [
    None, 0, 2**63, "", "x", [], {}, [None], [[]], [{}], ["x"], [{"id": None}], [{"id": {}}], [{"id": "\ud800"}],
    [{"id": "1", "scan": []}], [{"id": "1", "redcap_repeat_instance": "9" * 5000}], [{"field_type": "file"}],
    [{"field_name": [], "form_name": 1, "field_type": "file"}], [{"name": "x", "doc_id": "-1"}],
    [{"name": "x", "folder_id": 2**70}], [{"record": "1", "field_name": [], "value": "1"}],
    [{"record": "1", "field_name": "scan", "value": 1e300}], [{"unique_event_name": {}, "arm_num": 1, "form": ""}],
    "[" * 5000,
]  # fmt: skip


async def ask_all(answers: Answers) -> None:
    """Ask everything of a server that answers so; nothing but our errors may come of it."""

    def answer(request: httpx.Request) -> httpx.Response:
        form = {key: values[0] for key, values in parse_qs(request.content.decode()).items()}
        if "content" not in form:  # a file that is imported
            return httpx.Response(200)
        found = answers(form)
        text = found if isinstance(found, str) and found.startswith("[[") else json.dumps(found)
        return httpx.Response(200, content=text.encode(), headers={"Content-Type": "application/json"})

    transport = httpx.MockTransport(answer)
    client = Client("redcap", "http://127.0.0.1:9/", dict, timeout_s=0.1, transport=transport, bulk_transport=transport)
    backend = Redcap(client, {"a": lambda: "0" * 32})
    (project,) = (await backend.page(backend.root, None)).entries
    found = [project]
    with suppress(LabfsError):
        found += await scan(backend, project)
    for entry in found[:6]:
        for act in (lambda e: backend.stat(e.id), backend.describe, backend.delete, lambda e: backend.make(e, "n"),
                    lambda e: backend.page(e, None), lambda e: poured(backend, e),
                    lambda e: save(backend, e, "n", b"x")):  # fmt: skip
            with trio.move_on_after(5):
                with suppress(LabfsError):
                    await act(entry)
    await backend.aclose()


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: repr(junk)[:30])
@pytest.mark.parametrize("where", ["metadata", "flat", "eav", "fileRepository", "formEventMapping"])
async def test_nothing_that_a_server_says_raises_anything_else(
    where: str, junk: Any, autojump_clock: trio.testing.MockClock
) -> None:
    row = {"id": "1", "scan": "f"}
    if where == "formEventMapping":
        row |= {"redcap_event_name": "e", "redcap_repeat_instrument": "f", "redcap_repeat_instance": "1"}

    def answers(form: dict[str, str]) -> Any:
        content = form["content"]
        if where in (content, form.get("type")) or (where == "formEventMapping" and content == "repeatingFormsEvents"):
            return junk
        if content == "metadata":
            return DICTIONARY
        if content == "record":
            eav = {"record": "1", "field_name": "scan", "value": "7"}
            return [eav] if form.get("type") == "eav" else [row]
        return []

    await ask_all(answers)


async def test_one_row_that_makes_no_sense_does_not_hide_the_others() -> None:
    rows = [{"id": "1", "scan": "a"}, {"id": None}, "x", {"id": "2", "scan": [1]}, {"id": "3", "scan": "b"}]

    def answer(request: httpx.Request) -> httpx.Response:
        form = {key: values[0] for key, values in parse_qs(request.content.decode()).items()}
        eav = [{"record": str(n), "field_name": "scan", "value": str(n)} for n in (1, 2, 3)]
        found = DICTIONARY if form["content"] == "metadata" else eav if form["type"] == "eav" else rows
        return httpx.Response(200, json=found)

    client = Client("redcap", "http://127.0.0.1:9/", dict, transport=httpx.MockTransport(answer))
    backend = Redcap(client, {"a": lambda: "0" * 32})
    found = await page(backend, "a")
    assert list(paths(found.entries)) == [
        ".repository",
        "1",
        "1 / scan",
        "1 / scan / a",
        "3",
        "3 / scan",
        "3 / scan / b",
    ]
    assert found.left_out == 3
    await backend.aclose()


@pytest.mark.parametrize("text", ["", "x", "[]", "{}", "null", "[1]", '["file"]', '["file","a"]', '["record","a",1]',
                                  '["project","other"]', "[" * 9000, '["folder","a",true,1]'])  # fmt: skip
async def test_ids_of_nothing_are_not_found(text: str, backend: Redcap) -> None:
    with pytest.raises(NotFound):
        await backend.stat(text)
