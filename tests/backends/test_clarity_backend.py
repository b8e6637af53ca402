"""The Clarity backend: the contract suite in each place that takes files, and the system's oddities."""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio
from clarity_stage import DONE, FILE, PROJECT, SAMPLE, STEP, Clarity
from contract import Basket, Bytes, Contract, hurried, noise
from stage import Sandbox

from labfs.backend import Backend, Entry, Target, fetched
from labfs.backends import KINDS
from labfs.backends.clarity.requests import Api
from labfs.backends.common import Settings
from labfs.errors import (
    Barred,
    Denied,
    Exists,
    Invalid,
    LabfsError,
    Malformed,
    NotPermitted,
    TooLarge,
    Unranged,
)
from labfs.http.client import Client
from labfs.tree.scan import scan


@pytest.fixture
def clarity(sandbox: Sandbox) -> Iterator[Clarity]:
    with Clarity(sandbox) as made:
        yield made


def opened(clarity: Clarity, *, timeout_s: float = 4.0, **changes: str) -> Backend:
    known = {**clarity.credentials, "url": clarity.url, **changes}
    settings = Settings(
        name="lims", url=known["url"], options={}, timeout_s=timeout_s,
        secrets={key: (lambda key=key: known[key]) for key in ("username", "password")},
    )  # fmt: skip
    backend: Backend = hurried(KINDS["clarity"].build(settings))
    return backend


@pytest.fixture
async def backend(clarity: Clarity) -> AsyncIterator[Backend]:
    made = opened(clarity)
    try:
        yield made
    finally:
        await made.aclose()


class ClarityGround:
    home = ()

    def __init__(self, backend: Backend, record: Entry, clarity: Clarity, path: str) -> None:
        self.backend = backend
        self.record = self.listed = record
        self._clarity = clarity
        self._path = path
        self._owner = path.partition("/")[2]

    def put(self, path: str, data: bytes) -> str:
        return self._clarity.put(self._path, path, data)

    def stored(self) -> dict[str, bytes]:
        return {name: data or b"" for name, data in self._clarity.stored(self._owner)}

    def uploads(self) -> int:
        return len(self._clarity.stored(self._owner))


PLACES = {
    "project": (f"projects/{PROJECT}/self", f"projects/{PROJECT}"),
    "sample": (f"samples/{SAMPLE}", f"samples/{SAMPLE}"),
    "step": (f"processes/{STEP}", f"processes/{STEP}"),
}


class TestClarity(Contract):
    @pytest.fixture(params=PLACES)
    async def ground(self, request: pytest.FixtureRequest, backend: Backend, clarity: Clarity) -> ClarityGround:
        entry_id, path = PLACES[request.param]
        return ClarityGround(backend, await backend.stat(entry_id), clarity, path)


# -- looking -----------------------------------------------------------------------------------------------


async def shown(backend: Backend, entry_id: str) -> list[str]:
    return [entry.name for entry in await scan(backend, await backend.stat(entry_id))]


def own_files(clarity: Clarity) -> list[str]:
    """Return the ids of the seeded files of a project."""
    return [str(link.get("limsid")) for link in clarity.get("projects/ADM1").findall(FILE)]


LOAD = "24-126453"  # a step with files of its own and in placeholders
IN_LOAD = ["run-notes.pdf", "92-1833858_C232PACXX.csv", "92-1833859_trace.png"]
IN_ADM1 = ["_project", "ADM1A1 SLX-6078", "ADM1A2 SLX-6079", "ADM1A3 SLX-6080", "ADM1A4 SLX-6081",
           "24-126453 MiSeq Load Cartridge", "24-126454 Library QC", "122-126457 Pool Libraries"]  # fmt: skip


@pytest.mark.parametrize(
    "switches",
    [{}, {"host": "http://localhost:9080"}, {"page_size": 3}, {"page_size": 1}, {"embedded_files": True},
     {"shared_type": "SharedResultFile"}, {"original_name": False}, {"unknown_parameter": "refuse"}],
)  # fmt: skip
async def test_a_project_is_shown_alike_whatever_the_server_is_like(
    switches: dict[str, object], backend: Backend, clarity: Clarity
) -> None:
    clarity.switch(**switches)
    assert await shown(backend, "projects/ADM1") == IN_ADM1
    assert sorted(await shown(backend, f"processes/{LOAD}")) == sorted(IN_LOAD)
    assert await shown(backend, "projects/ADM1/self") == [
        "SLX6384.csv", "request form.pdf", "report.txt", "report.txt"
    ]  # fmt: skip
    for parent in ("projects/ADM1", f"processes/{LOAD}", "projects/ADM1/self"):
        for entry in await scan(backend, await backend.stat(parent)):
            assert await backend.stat(entry.id) == entry


async def test_without_processes_the_steps_tell_what_they_can(backend: Backend, clarity: Clarity) -> None:
    clarity.switch(processes_served=False)
    assert await shown(backend, "projects/ADM1") == IN_ADM1
    assert await shown(backend, f"processes/{LOAD}") == IN_LOAD[1:]


async def test_projects_of_one_name_show_their_own_steps(backend: Backend) -> None:
    assert await shown(backend, "projects/ADM2") == ["_project", "ADM2A1 SLX-6078", "24-126455 Library QC"]


async def test_a_step_of_pooled_samples_is_in_each_of_their_projects(backend: Backend) -> None:
    for project in ("ADM1", "WUY236"):
        assert "122-126457 Pool Libraries" in await shown(backend, f"projects/{project}")


async def test_a_project_that_was_renamed_keeps_its_steps(backend: Backend) -> None:
    entry = replace(await backend.stat("projects/WUY236"), name="Tumour panel 2025")
    assert "24-126456 NextSeq 2000 Run" in [e.name for e in await scan(backend, entry)]


async def test_what_is_listed_and_then_deleted_hides_nothing_else(backend: Backend, clarity: Clarity) -> None:
    api = Api(Client("lims", clarity.url, lambda: {"Authorization": clarity.http.auth._auth_header}))  # type: ignore[union-attr]
    ids = own_files(clarity)
    for status in (404, 400):
        clarity.switch(unresolved_status=status)
        found = await api.batch("files", [ids[0], "40-999999", ids[1], "40-999998", ids[2]])
        assert list(found) == ids[:3]
    await api._client.aclose()


async def test_requests_per_listing(backend: Backend, sandbox: Sandbox) -> None:
    base = "/api/v2"
    for entry_id, expected in {
        "projects/MNY400": {"GET {}/samples": 3, "POST {}/samples/batch/retrieve": 5, "GET {}/projects": 1, "GET {}/processes": 1},
        "projects/MNY401/self": {"GET {}/projects/{id}": 1, "POST {}/files/batch/retrieve": 20},
        f"processes/{LOAD}": {"GET {}/processes/{id}": 1, "POST {}/artifacts/batch/retrieve": 1, "POST {}/files/batch/retrieve": 1},
        "samples/KLM300A2": {"GET {}/samples/{id}": 1},
    }.items():  # fmt: skip
        entry = await backend.stat(entry_id)
        sandbox.reset()
        await scan(backend, entry)
        assert sandbox.requests() == {route.replace("{}", base): count for route, count in expected.items()}


async def test_a_step_is_described_with_its_placeholders(backend: Backend, clarity: Clarity) -> None:
    found: Any = await backend.describe(await backend.stat(f"processes/{LOAD}"))
    (sheet,) = clarity.rows("SELECT limsid FROM clarity_files WHERE owner = '92-1833858'")
    assert found["current-state"] == "Record Details"
    assert found["placeholders"][0] == {
        "limsid": "92-1833858", "name": "SampleSheet.csv", "file": sheet["limsid"], "save as": "92-1833858_SampleSheet.csv",
    }  # fmt: skip
    assert [p["file"] for p in found["placeholders"][2:]] == [None] * 3
    for entry_id in ("", "projects/ADM1", "projects/ADM1/self", "samples/ADM1A1", f"files/{own_files(clarity)[0]}"):
        entry = backend.root if not entry_id else await backend.stat(entry_id)
        assert json.dumps(await backend.describe(entry))


# -- bytes -------------------------------------------------------------------------------------------------


async def test_lengths_come_from_head_and_are_not_made_up_without_it(backend: Backend, clarity: Clarity) -> None:
    for name, data in (("f", noise(1000)), ("empty", b"")):
        clarity.put(f"samples/{SAMPLE}", name, data)
    files = await scan(backend, await backend.stat(f"samples/{SAMPLE}"))
    assert [await backend.measure(file) for file in files] == [1000, 0]
    assert backend.capabilities.measured
    clarity.switch(head=False)
    other = opened(clarity)
    try:
        assert await other.measure(files[0]) is None
        assert not other.capabilities.measured
        saved = await other.upload(Target(await other.stat(f"samples/{SAMPLE}"), (), "g"), Bytes(b"12345"))
        assert saved.size == 5
    finally:
        await other.aclose()


@pytest.mark.parametrize("status", [404, 500])
async def test_bytes_that_never_came(status: int, clarity: Clarity) -> None:
    clarity.switch(missing_status=status)
    backend = opened(clarity, timeout_s=0.5)
    try:
        files = await scan(backend, await backend.stat("processes/24-126456"))
        (lost,) = [file for file in files if file.name == "never-arrived.csv"]
        assert await backend.measure(lost) is None
        with pytest.raises(LabfsError, match=r"never reached lims|File does not exist") as caught:
            await backend.content(lost).pour(Basket())
        assert caught.value.errno == errno.EIO
        assert backend.capabilities.measured
    finally:
        await backend.aclose()


async def test_ranges_are_not_asked_for(backend: Backend, clarity: Clarity) -> None:
    clarity.switch(ranges=True)
    assert not backend.capabilities.ranged
    with pytest.raises(Unranged):
        await fetched(backend.content(await backend.stat(f"files/{own_files(clarity)[0]}")), 0, 1)


async def test_a_page_is_no_file_and_no_list(backend: Backend, clarity: Clarity, sandbox: Sandbox) -> None:
    entry = await backend.stat(f"files/{own_files(clarity)[0]}")
    sandbox.faults({"service": "clarity", "action": "html", "times": None})
    with pytest.raises(Malformed, match="page"):
        await backend.content(entry).pour(Basket())
    with pytest.raises(Malformed, match="web page"):
        await backend.page(backend.root, None)


@pytest.mark.parametrize("action", ["cut", "short"])
async def test_a_file_that_was_cut_is_fetched_again(action: str, backend: Backend, clarity: Clarity) -> None:
    clarity.put(f"samples/{SAMPLE}", "f", noise(100_000))
    (entry,) = await scan(backend, await backend.stat(f"samples/{SAMPLE}"))
    clarity.running.faults({"service": "clarity", "route": "*/download", "action": action, "argument": 5000})
    basket = Basket()
    await backend.content(entry).pour(basket)
    assert bytes(basket.data) == noise(100_000)


# -- who asks ----------------------------------------------------------------------------------------------


async def refusal(clarity: Clarity, error: type[LabfsError], **changes: str) -> str:
    backend = opened(clarity, **changes)
    try:
        with pytest.raises(error) as caught:
            await backend.check()
        assert clarity.credentials["password"] not in str(caught.value)
        assert "Basic" not in str(caught.value)
        return str(caught.value)
    finally:
        await backend.aclose()


async def test_logins_that_are_refused_are_told_why(clarity: Clarity) -> None:
    assert "password was refused" in await refusal(clarity, Denied, password="wrong")
    assert "sign in to the API" in await refusal(clarity, Denied, **clarity.credentials["powerless"])
    clarity.switch(https_only=True)
    assert "not by TLS" in await refusal(clarity, Barred), "it asks for https at the address that it has"


@pytest.mark.parametrize("more", ["", "/", "/api", "/api/v2", "/api/v2/"])
async def test_the_address_may_be_the_server_or_its_api(more: str, clarity: Clarity) -> None:
    backend = opened(clarity, url=clarity.url + more)
    try:
        assert await backend.check()
    finally:
        await backend.aclose()


async def test_the_limit_is_learnt_once_by_whatever_comes_first(clarity: Clarity, sandbox: Sandbox) -> None:
    clarity.switch(upload_limit=3_000_000)
    backend = opened(clarity)
    try:
        sandbox.reset()
        for _ in range(2):
            await backend.page(backend.root, None)
        assert backend.capabilities.whole == 3_000_000
        assert sandbox.requests() == {"GET /api/v2/configuration/properties": 1, "GET /api/v2/projects": 2}
    finally:
        await backend.aclose()


async def test_the_limit_of_uploads_is_the_one_that_the_site_shows(backend: Backend, clarity: Clarity) -> None:
    assert backend.capabilities.whole == 10_485_760
    clarity.switch(upload_limit=3_000_000)
    await backend.check()
    assert backend.capabilities.whole == 3_000_000
    clarity.switch(limit_in_properties=False)
    for status in (413, 400):
        other = opened(clarity)
        try:
            await other.check()
            assert other.capabilities.whole == 10_485_760
            step = await other.stat(f"processes/{STEP}")
            clarity.switch(over_limit_status=status)
            with pytest.raises(TooLarge if status == 413 else Invalid, match="limit of 3000000"):
                await other.upload(Target(step, (), "f"), Bytes(noise(3_000_001)))
            assert clarity.stored(STEP) == []
        finally:
            await other.aclose()


# -- saving ------------------------------------------------------------------------------------------------

LOST = [
    {"method": "POST", "route": "*/glsstorage"}, {"method": "POST", "route": "*/files"},
    {"method": "POST", "route": "*/upload"}, {"method": "HEAD", "route": "*/download"},
]  # fmt: skip
WAYS = [
    {"action": "cut", "argument": 5}, {"action": "reset"}, {"action": "html"}, {"action": "status", "argument": 500},
    {"action": "status", "argument": 503}, {"action": "delay_s", "argument": 1.5}, {"action": "short"},
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("request_", LOST, ids=lambda request: str(request["route"]))
async def test_a_lost_answer_makes_neither_a_second_file_nor_half_of_one(
    request_: dict[str, Any], way: dict[str, Any], clarity: Clarity
) -> None:
    backend = opened(clarity, timeout_s=1.0)
    try:
        sample = await backend.stat(f"samples/{SAMPLE}")
        clarity.running.faults({"service": "clarity", **request_, **way})
        try:
            saved = await backend.upload(Target(sample, (), "f"), Bytes(noise(1000)))
        except LabfsError:
            assert clarity.stored(SAMPLE) == []
        else:
            assert clarity.stored(SAMPLE) == [("f", noise(1000))]
            assert [entry.id for entry in await scan(backend, sample)] == [saved.id]
    finally:
        await backend.aclose()


async def test_of_a_file_whose_bytes_are_refused_no_record_stays(backend: Backend, clarity: Clarity) -> None:
    sample = await backend.stat(f"samples/{SAMPLE}")
    refused = {"service": "clarity", "method": "POST", "route": "*/upload", "action": "status", "argument": 400}
    clarity.running.faults(refused)
    with pytest.raises(Invalid):
        await backend.upload(Target(sample, (), "f"), Bytes(b"x"))
    assert clarity.stored(SAMPLE) == []
    # Where the site goes away before it could be deleted, the next save does it.
    gone = {"service": "clarity", "method": "DELETE", "action": "status", "argument": 403}
    clarity.running.faults(refused, gone)
    with pytest.raises(Invalid):
        await backend.upload(Target(sample, (), "f"), Bytes(b"x"))
    assert clarity.stored(SAMPLE) == [("f", None)]
    assert await scan(backend, sample) == [], "it would seem to be a file that somebody else saved"
    clarity.running.faults(gone)
    await backend.upload(Target(sample, (), "g"), Bytes(b"other"))
    assert clarity.stored(SAMPLE) == [("f", None), ("g", b"other")]
    await backend.upload(Target(sample, (), "f"), Bytes(b"again"))
    assert clarity.stored(SAMPLE) == [("g", b"other"), ("f", b"again")]


async def test_a_save_that_is_cancelled_leaves_no_record(backend: Backend, clarity: Clarity) -> None:
    sample = await backend.stat(f"samples/{SAMPLE}")
    clarity.running.faults(
        {"service": "clarity", "method": "POST", "route": "*/upload", "action": "delay_s", "argument": 3}
    )
    with trio.move_on_after(0.5) as scope:
        await backend.upload(Target(sample, (), "f"), Bytes(b"x"))
    assert scope.cancelled_caught
    assert clarity.stored(SAMPLE) == []


async def test_requests_per_save(backend: Backend, clarity: Clarity, sandbox: Sandbox) -> None:
    base = "/api/v2"
    three = {
        "POST {}/glsstorage": 1,
        "POST {}/files": 1,
        "POST {}/files/{id}/upload": 1,
        "HEAD {}/files/{id}/download": 1,
    }
    step, sample = await backend.stat(f"processes/{STEP}"), await backend.stat(f"samples/{SAMPLE}")
    placeholder = f"{clarity.placeholders()[1]}_f.txt"
    for parent, name, more in [
        (sample, "f", {}),
        (step, "f", {"GET {}/steps/{id}": 1}),
        (step, placeholder, {"GET {}/steps/{id}": 1, "GET {}/artifacts/{id}": 1}),
    ]:  # fmt: skip
        sandbox.reset()
        saved = await backend.upload(Target(parent, (), name), Bytes(b"x"))
        assert sandbox.requests() == {route.replace("{}", base): n for route, n in {**three, **more}.items()}
        sandbox.reset()
        again = await backend.upload(Target(parent, (), name, saved), Bytes(b"other"))
        assert again == replace(saved, size=5)
        two = {"GET {}/files/{id}": 1, "POST {}/files/{id}/upload": 1, "HEAD {}/files/{id}/download": 1}
        assert sandbox.requests() == {route.replace("{}", base): n for route, n in {**two, **more}.items()}


async def test_a_name_with_a_placeholders_id_goes_into_it(backend: Backend, clarity: Clarity) -> None:
    step = await backend.stat(f"processes/{STEP}")
    first, second, *_ = clarity.placeholders()
    saved = await backend.upload(Target(step, (), f"{first}_sheet.csv"), Bytes(b"one"))
    assert clarity.stored(first) == [("sheet.csv", b"one")]
    assert clarity.stored(STEP) == []
    assert [e.name for e in await scan(backend, step)] == [f"{first}_sheet.csv"]
    with pytest.raises(Exists, match="holds a file"):
        await backend.upload(Target(step, (), f"{first}_other.csv"), Bytes(b"two"))
    for foreign in ("92-1833858_x", "92-99_x"):
        with pytest.raises(Invalid, match="has no placeholder"):
            await backend.upload(Target(step, (), foreign), Bytes(b"x"))
    assert clarity.stored(first) == [("sheet.csv", b"one")]
    await backend.delete(saved)
    assert clarity.stored(first) == []
    for plain in ("92-5098.html", "24-1_x.txt", f"{second}", "92-_x"):
        await backend.upload(Target(step, (), plain), Bytes(b"x"))
    assert [name for name, _ in clarity.stored(STEP)] == ["92-5098.html", "24-1_x.txt", f"{second}", "92-_x"]


async def completed(backend: Backend) -> tuple[Entry, list[Entry]]:
    step = await backend.stat(f"processes/{DONE}")
    return step, await scan(backend, step)


async def test_a_completed_step_takes_nothing_and_no_byte_is_sent(
    backend: Backend, clarity: Clarity, sandbox: Sandbox
) -> None:
    step, held = await completed(backend)
    before = [clarity.stored(owner) for owner in (DONE, "92-1833863")]
    sandbox.reset()
    for target in [Target(step, (), "new.txt"), *(Target(step, (), file.name, file) for file in held)]:
        with pytest.raises(NotPermitted, match="completed"):
            await backend.upload(target, Bytes(b"x"))
    assert not [route for route in sandbox.requests() if not route.startswith("GET ")]
    assert [clarity.stored(owner) for owner in (DONE, "92-1833863")] == before


@pytest.mark.parametrize("status", [400, 403])
async def test_a_step_that_is_completed_meanwhile_leaves_no_record(
    status: int, backend: Backend, clarity: Clarity
) -> None:
    step, _ = await completed(backend)
    before = clarity.stored(DONE)
    clarity.switch(completed_status=status)
    clarity.running.faults({"service": "clarity", "route": "*/steps/*", "action": "status", "argument": 404})
    with pytest.raises(NotPermitted, match="completed"):
        await backend.upload(Target(step, (), "new.txt"), Bytes(b"x"))
    assert clarity.stored(DONE) == before


async def test_a_link_to_another_store_cannot_be_written_through(backend: Backend, clarity: Clarity) -> None:
    files = await scan(backend, await backend.stat("projects/WUY236/self"))
    (link,) = [file for file in files if file.name == "panel-design.csv"]
    with pytest.raises(NotPermitted, match="link"):
        await backend.upload(Target(await backend.stat("projects/WUY236/self"), (), link.name, link), Bytes(b"x"))
    basket = Basket()
    await backend.content(link).pour(basket)
    assert basket.data


async def test_a_file_that_was_deleted_meanwhile_is_attached_anew(backend: Backend, clarity: Clarity) -> None:
    sample = await backend.stat(f"samples/{SAMPLE}")
    saved = await backend.upload(Target(sample, (), "f"), Bytes(b"x"))
    clarity.http.delete(saved.id).raise_for_status()
    again = await backend.upload(Target(sample, (), "f", saved), Bytes(b"other"))
    assert again.id != saved.id
    assert clarity.stored(SAMPLE) == [("f", b"other")]


@pytest.mark.parametrize("name", ["a/b", "a\\b", "two\nlines", "nul\0", "\x07", "\udc80", "\uffff"])
async def test_names_that_would_not_come_back_are_refused(name: str, backend: Backend, clarity: Clarity) -> None:
    with pytest.raises(Invalid):
        await backend.upload(Target(await backend.stat(f"samples/{SAMPLE}"), (), name), Bytes(b"x"))
    assert clarity.stored(SAMPLE) == []


async def test_what_the_system_cannot_do_is_refused_with_its_errno(backend: Backend, clarity: Clarity) -> None:
    sample, project = await backend.stat(f"samples/{SAMPLE}"), await backend.stat(f"projects/{PROJECT}")
    saved = await backend.upload(Target(sample, (), "f"), Bytes(b"x"))
    other = Target(sample, (), "g")
    for refused, number in [
        (lambda: backend.make(backend.root, "New"), errno.EPERM),
        (lambda: backend.rename(saved, other), errno.EPERM),
        (lambda: backend.upload(replace(other, parent=backend.root), Bytes(b"x")), errno.EPERM),
        (lambda: backend.upload(replace(other, parent=project), Bytes(b"x")), errno.EPERM),
        (lambda: backend.page(saved, None), errno.ENOENT),
        (lambda: backend.stat("containers/27-1"), errno.ENOENT),
        (lambda: backend.stat("files/../40-1"), errno.EIO),
    ]:  # fmt: skip
        with pytest.raises(LabfsError) as caught:
            await refused()
        assert caught.value.errno == number
        assert str(caught.value).endswith((".", "else."))
