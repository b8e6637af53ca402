"""BaseSpace as its accounts are today: biosamples' datasets beside samples and app results, and runs beside projects."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from contract import MIB, Bytes, hurried, noise
from stage import Mount, Sandbox, labfs, row_of, run

from labfs.backend import Accept, Entry, Target, fetched
from labfs.backends import KINDS
from labfs.backends.basespace import entries
from labfs.backends.basespace.backend import BaseSpace
from labfs.backends.common import Settings
from labfs.errors import Denied, Malformed
from labfs.http.client import Answer, Request
from labfs.tree.scan import Progress, scan

PROJECT = "Germline biosamples"
LANES = {f"{sample}_L00{lane}" for sample in ("HG001", "HG002") for lane in (1, 2)}


@pytest.fixture
async def hub(sandbox: Sandbox) -> AsyncIterator[BaseSpace]:
    backend: BaseSpace = hurried(KINDS["basespace"].build(
        Settings(name="hub", url=sandbox.url, secrets={"token": lambda: sandbox.token}, options={}, timeout_s=8.0)
    ))  # fmt: skip
    yield backend
    sandbox.switch(v2="on", v2_joined=True, blob_tokens="ignore")
    await backend.aclose()


async def project(hub: BaseSpace, name: str = PROJECT) -> Entry:
    return next(entry for entry in await scan(hub, hub.root) if entry.name == name)


async def records(hub: BaseSpace, name: str = PROJECT) -> tuple[list[Entry], str | None]:
    progress = Progress()
    return await scan(hub, await project(hub, name), progress), progress.remark


async def test_a_project_shows_every_record_once(hub: BaseSpace) -> None:
    found, remark = await records(hub)
    assert sorted(entry.name for entry in found) == sorted([*LANES, "HG001 calls"])
    assert remark is None
    panel, _ = await records(hub, "Tumour panel 2026")
    assert len({entry.name for entry in panel}) == len(panel), "what both versions list is one record"
    assert not [entry for entry in panel if entry.id.startswith("datasets/")]


async def test_what_tells_no_first_id_is_joined_by_no_guess(hub: BaseSpace, sandbox: Sandbox) -> None:
    sandbox.switch(v2_joined=False)
    found, _ = await records(hub)
    assert sorted(entry.name for entry in found) == sorted([*LANES, "HG001 calls", "HG001 calls"])


async def test_pages_of_datasets(hub: BaseSpace, sandbox: Sandbox) -> None:
    sandbox.switch(short_pages=1)
    try:
        assert len((await records(hub))[0]) == 5
    finally:
        sandbox.switch(short_pages=0)


@pytest.mark.parametrize(("how", "word"), [("absent", "version 2"), ("forbidden", "version 2"), ("down", "version 2")])
async def test_without_the_second_version_the_first_is_left(
    how: str, word: str, hub: BaseSpace, sandbox: Sandbox
) -> None:
    sandbox.switch(v2=how)
    found, remark = await records(hub)
    assert [entry.name for entry in found] == ["HG001 calls"]
    assert remark is not None
    assert word in remark


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 500, 503])
async def test_no_answer_of_the_second_version_hides_what_the_first_lists(
    status: int, hub: BaseSpace, sandbox: Sandbox
) -> None:
    there, progress = await project(hub), Progress()
    sandbox.faults(
        {"service": "basespace", "route": "*/datasets", "action": "status", "argument": status, "times": None}
    )
    try:
        assert [entry.name for entry in await scan(hub, there, progress)] == ["HG001 calls"]
        assert (progress.remark is not None, progress.lacking) == (True, status >= 500)
    finally:
        sandbox.calm()


@pytest.mark.parametrize("body", [b"<html>maintenance</html>", b"[]", b"{}", b'{"Items": 3, "Paging": {}}'])
async def test_what_is_no_list_hides_nothing_either(
    body: bytes, hub: BaseSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, call = await project(hub), hub._client.call

    async def odd(request: Request) -> Answer:
        answer = await call(request)
        return Answer(200, answer.headers, body, answer.what) if request.path.startswith("v2/") else answer

    monkeypatch.setattr(hub._client, "call", odd)
    progress = Progress()
    assert [entry.name for entry in await scan(hub, there, progress)] == ["HG001 calls"]
    assert progress.remark is not None


async def test_files_of_a_dataset_come_with_their_addresses(hub: BaseSpace, sandbox: Sandbox) -> None:
    found, _ = await records(hub)
    dataset = next(entry for entry in found if entry.name == "HG001_L001")
    (file,) = await scan(hub, dataset)
    await trio.sleep(0.5)  # an answer is counted a moment after it is sent
    sandbox.reset()
    content = hub.content(file)
    assert file.size is not None
    data = await fetched(content, 0, file.size)
    assert bytes(data[:2]) == b"\x1f\x8b"
    await trio.sleep(0.5)
    assert set(sandbox.requests()) == {"GET /{blob}"}, "one round trip to the first byte"
    assert bytes(await fetched(hub.content(file), 0, file.size)) == bytes(data), "the usual way, once that is used up"
    assert await hub.stat(dataset.id) == dataset
    told = await hub.describe(dataset)
    assert (told["DatasetType"]["Id"], told["QcStatus"]) == ("illumina.fastq.v1.8", "Undefined")
    assert told["AppSession"]["Name"] == "FASTQ Generation HG001"
    assert told["Properties"]["Items"][0]["Items"][0]["BioSampleName"] == "HG001"


@pytest.mark.parametrize("number", ["12", "ds.x", "ds." + "0" * 31, "ds." + "0" * 32 + "/files", "../projects/1"])
def test_an_id_that_no_dataset_has_is_left_out(number: str) -> None:
    with pytest.raises(ValueError):
        entries.dataset({"Id": number, "Name": "x"})


@pytest.mark.parametrize("told", [None, "", "sample.", "sample.x", "run.1", 7, {"a": 1}, "sample.1.2"])
def test_a_first_id_that_is_none_joins_nothing(told: object) -> None:
    assert entries.first_id({"V1pre3Id": told}) is None


# -- saving ------------------------------------------------------------------------------------------------


def target(dataset: Entry, name: str = "f", *folders: str) -> Target:
    return Target(dataset, folders, name)


async def test_a_save_into_a_dataset_goes_to_the_store_and_is_reported(
    hub: BaseSpace, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    folder = sandbox.fresh("datasets")
    dataset = await hub.stat(f"datasets/{folder.record}")
    assert (Accept.FILE in dataset.takes, dataset.read_only, dataset.takes.whole) == (True, None, 5 << 30)
    sandbox.switch(blob_tokens="refuse")  # which credentials that went along would show
    sandbox.reset()
    entry = await hub.upload(target(dataset, "x.txt", "a", "b"), Bytes(noise(7 * MIB)))
    await trio.sleep(0.5)
    assert folder.stored == {"a/b/x.txt": noise(7 * MIB)}
    assert (entry.name, entry.folders, entry.size) == ("x.txt", ("a", "b"), 7 * MIB)
    assert dict(sandbox.requests()) == {
        "GET /v2/datasets/{id}/file-upload-info": 1,
        "PUT /{blob}": 1,
        "POST /v2/datasets/{id}/file-upload-info": 1,
        "GET /v1pre3/files/{id}": 1,
    }
    told = [record.getMessage() for record in caplog.records if record.name.startswith("labfs")]
    assert told
    assert not [line for line in told if "Signature" in line], "whoever has the address may write there"


@pytest.mark.parametrize("status", ["complete", "aborted"])
async def test_a_dataset_whose_analysis_is_over_takes_no_files(status: str, hub: BaseSpace, sandbox: Sandbox) -> None:
    folder = sandbox.fresh("datasets")
    open_one = await hub.stat(f"datasets/{folder.record}")
    session = sandbox.second("GET", f"datasets/{folder.record}")["AppSession"]["Id"]
    sandbox.api("POST", f"appsessions/{session}", json={"status": status})
    closed = await hub.stat(f"datasets/{folder.record}")
    assert (closed.takes.kinds, status in (closed.read_only or "")) == (frozenset(), True)
    with pytest.raises(Denied, match="WRITE access"):  # it was open when somebody began
        await hub.upload(target(open_one), Bytes(b"late"))
    assert folder.stored == {}


@pytest.mark.parametrize(
    ("item", "word"),
    [
        ({}, "tells no state"),
        ({"AppSession": {"ExecutionStatus": "Running"}, "UploadStatus": "Completed"}, "complete"),
        ({"AppSession": {"ExecutionStatus": "PendingExecution"}}, "pendingexecution"),
        ({"AppSession": None, "UploadStatus": 7}, "tells no state"),
    ],
)
def test_a_dataset_that_does_not_say_that_it_is_open_is_not(item: dict[str, object], word: str) -> None:
    told = entries.dataset({"Id": "ds." + "0" * 32, "Name": "x", **item})
    assert word in (told.read_only or "")


async def test_an_offer_without_an_address_sends_nothing(
    hub: BaseSpace, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, call = sandbox.fresh("datasets"), hub._client.call
    dataset = await hub.stat(f"datasets/{folder.record}")

    async def odd(request: Request) -> Answer:
        assert request.method == "GET", "nothing is sent"
        answer = await call(request)
        return Answer(200, answer.headers, b'{"MultipartTemplate": "https://x/{part}"}', answer.what)

    monkeypatch.setattr(hub._client, "call", odd)
    with pytest.raises(Malformed, match="where the file goes"):
        await hub.upload(target(dataset), Bytes(b"x"))


def test_a_dataset_on_a_mount_is_written_and_refuses(drive: Mount, sandbox: Sandbox) -> None:
    made = sandbox.fresh("datasets")
    drive.refresh(drive.path / "basespace")
    place = made.at(drive.path)
    done = run(
        f"mkdir -p '{place}/qc' && cp /bin/ls '{place}/qc/ls' && mv '{place}/qc/ls' '{place}/qc/ls2'; ls '{place}/qc'"
    )
    assert made.stored["qc/ls"] == Path("/bin/ls").read_bytes()
    assert "ls" in done.stdout
    closed = drive.path / "basespace" / PROJECT / "HG001_L001"
    assert "Read-only file system" in run(f"cp /bin/ls '{closed}/ls'").stderr
    assert "takes no more files" in labfs("why", closed / "ls", env=drive.env).stdout


# -- many, equal, archived, gone ------------------------------------------------------------------------------


def copied(sandbox: Sandbox, dataset: str, count: int, name: str) -> None:
    """Make `count` datasets more like one, each with its file, without a request."""
    with contextlib.closing(sqlite3.connect(sandbox.directory / "sandbox.sqlite", timeout=30)) as db:
        db.row_factory = sqlite3.Row
        record = dict(db.execute("SELECT * FROM records WHERE id = ?", (row_of(dataset),)).fetchone())
        file = dict(db.execute("SELECT * FROM files WHERE record = ?", (row_of(dataset),)).fetchone())
        for index in range(count):
            row = {**record, "id": 700_000_000 + index + 1_000_000 * int(dataset[-3:], 16), "name": name.format(index)}
            insert(db, "records", row)
            insert(db, "files", {**file, "id": row["id"], "record": row["id"]})
        db.commit()


def insert(db: sqlite3.Connection, table: str, row: dict[str, object]) -> None:
    marks = ", ".join("?" * len(row))
    db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))


def test_ten_thousand_biosamples_are_shown_once_each_at_a_request_a_page(drive: Mount, sandbox: Sandbox) -> None:
    drive.refresh(drive.path / "basespace")
    os.listdir(drive.path / "basespace")
    made = sandbox.fresh("datasets")
    made.put("reads.fastq.gz", b"reads")
    copied(sandbox, made.record, 10_000, "HG{:05d}_L001")
    project = made.at(drive.path).parent
    drive.refresh(drive.path / "basespace")
    sandbox.reset()
    assert len(set(os.listdir(project))) == 10_001
    time.sleep(0.5)
    asked = sandbox.requests()
    pages = asked["GET /v2/projects/{id}/datasets"]
    assert 40 <= pages <= 50, "a first one of 100, then 256 at most: each has up to 12 kB with what it came from"
    within = {route: count for route, count in asked.items() if "/projects/{id}/" in route}
    assert sum(within.values()) == pages + 2, "app results and samples: a page each"
    sandbox.reset()
    found = run(f"find '{project}'/HG0000?_L001 -type f").stdout.splitlines()
    assert len(found) == len(set(found)) == 10
    time.sleep(0.5)
    assert dict(sandbox.requests()) == {"GET /v2/datasets/{id}/files": 10}, "a folder costs no request for each file"


def test_equal_names_by_the_dozen(drive: Mount, sandbox: Sandbox) -> None:
    made = sandbox.fresh("datasets")
    made.put("reads.fastq.gz", b"reads")
    copied(sandbox, made.record, 12, "Record")
    drive.refresh(drive.path / "basespace")
    names = os.listdir(made.at(drive.path).parent)
    assert (len(set(names)), sum(name.startswith("Record") for name in names)) == (13, 13)
    found = run(f"find '{made.at(drive.path).parent}' -type f").stdout.splitlines()
    assert len(set(found)) == 13


def test_what_is_archived_says_so_and_what_is_in_the_trash_is_gone(drive: Mount, sandbox: Sandbox) -> None:
    made = sandbox.fresh("datasets")
    made.put("reads.fastq.gz", b"reads")
    with contextlib.closing(sqlite3.connect(sandbox.directory / "sandbox.sqlite", timeout=30)) as db:
        db.execute("UPDATE files SET archived = 1 WHERE record = ?", (row_of(made.record),))
        db.commit()
    place = made.at(drive.path)
    drive.refresh(drive.path / "basespace")
    assert (place / "reads.fastq.gz").stat().st_size == 5
    with pytest.raises(OSError) as caught:
        (place / "reads.fastq.gz").read_bytes()
    assert caught.value.errno == errno.EAGAIN
    assert "archived" in labfs("why", place / "reads.fastq.gz", env=drive.env).stdout
    session = sandbox.second("GET", f"datasets/{made.record}")["AppSession"]["Id"]
    sandbox.second("DELETE", f"appsessions/{session}")
    drive.refresh(place.parent)
    assert os.listdir(place.parent) == []


def test_runs_are_a_branch_beside_the_projects(drive: Mount, sandbox: Sandbox) -> None:
    top = drive.path / "basespace"
    drive.refresh(top)
    sandbox.reset()
    assert "_runs" in {path.name for path in top.iterdir()}
    assert not [route for route in sandbox.requests() if "runs" in route], "nobody has looked into it"
    (place,) = (top / "_runs").iterdir()
    assert (place / "SampleSheet.csv").read_text().startswith("[Header]")
    assert (place / "InterOp/QMetricsOut.bin").read_bytes() == bytes(range(256)) * 16
    done = run(f"touch '{place}/new'; mkdir '{top}/_runs/mine'")
    assert "Read-only file system" in done.stderr
    assert done.returncode != 0


def test_a_project_of_today_on_a_mount(drive: Mount, sandbox: Sandbox) -> None:
    top = drive.path / "basespace" / PROJECT
    drive.refresh(top)
    found = run(f"find '{top}' -type f").stdout.splitlines()
    assert len(found) == len({Path(path).name for path in found}) == 5
    assert run(f"gzip -t '{top}/HG002_L002/HG002_S1_L002_R1_001.fastq.gz'").returncode == 0
    meta = json.loads((top / "HG001_L001/.meta.json").read_text())
    assert meta["AppSession"]["ExecutionStatus"] == "Complete"
    sandbox.switch(v2="down")
    try:
        drive.refresh(top)
        assert {path.name for path in top.iterdir()} == {*LANES, "HG001 calls"}, (
            "what was there is not known to be gone"
        )
        done = labfs("why", top, env=drive.env)
        assert "version 2" in done.stdout
        with pytest.raises(OSError) as caught:
            (top / "HG009_L001").stat()
        assert caught.value.errno == errno.EIO, "nor is anything known to be absent"
    finally:
        sandbox.switch(v2="absent")
    try:
        drive.refresh(top)
        assert [path.name for path in top.iterdir()] == ["HG001 calls"]
        with pytest.raises(FileNotFoundError):
            (top / "HG009_L001").stat()
    finally:
        sandbox.switch(v2="on")
        drive.refresh(top)
