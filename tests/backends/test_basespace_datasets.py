"""BaseSpace as its accounts are today: biosamples' datasets beside samples and app results, and runs beside projects."""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from contract import hurried
from stage import Mount, Sandbox, labfs, run

from labfs.backend import Entry
from labfs.backends import KINDS
from labfs.backends.basespace import entries
from labfs.backends.basespace.backend import BaseSpace
from labfs.backends.common import Settings
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
    sandbox.switch(v2="on", v2_joined=True)
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
    data = await content.read(0, file.size)
    assert bytes(data[:2]) == b"\x1f\x8b"
    await trio.sleep(0.5)
    assert set(sandbox.requests()) == {"GET /{blob}"}, "one round trip to the first byte"
    assert bytes(await hub.content(file).read(0, file.size)) == bytes(data), "the usual way, once that is used up"
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
