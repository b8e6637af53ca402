"""The Clarity backend against servers that lie, attack, or are only odd: answers made up here, without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
from contract import Bytes, hurried

from labfs.backend import Content, Entry, Target
from labfs.backends.clarity.backend import Clarity
from labfs.backends.clarity.entries import explain
from labfs.errors import LabfsError, Malformed
from labfs.http.client import Client
from labfs.tree.scan import scan

RI = "http://genologics.com/ri"
BOMB = b"""<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>
<projects><project limsid="A1"><name>&c;</name></project></projects>"""
OUTSIDE = b"""<!DOCTYPE l [<!ENTITY f SYSTEM "file:///etc/passwd">]><projects><project limsid="A1"><name>&f;</name></project></projects>"""

Answers = Callable[[httpx.Request], Any]


def served(answers: Answers, heads: dict[str, str] | None = None) -> Clarity:
    """Return a backend whose server answers with texts, statuses or whole responses."""

    def handle(request: httpx.Request) -> httpx.Response:
        found = answers(request)
        if isinstance(found, httpx.Response):
            return found
        if isinstance(found, int):
            return httpx.Response(found)
        return httpx.Response(200, content=found, headers={"content-type": "application/xml"})

    client = Client(
        "lims", "https://lims.example/", lambda: {"Authorization": "Basic dTpwdw=="}, explain=explain, timeout_s=1.0,
        transport=httpx.MockTransport(handle), bulk_transport=httpx.MockTransport(handle),
    )  # fmt: skip
    return hurried(Clarity(client, lambda: "apiuser"))


def route(**by_path: Any) -> Answers:
    """Answer by the path below the base, with `__` for a slash; what is not named is not found."""

    def answers(request: httpx.Request) -> Any:
        path = request.url.path.removeprefix("/api/v2/").replace("/", "__").replace("-", "_")
        found = by_path.get(path, 404)
        return found(request) if callable(found) else found

    return answers


def directory(entry_id: str) -> Entry:
    return Entry(id=entry_id, name="x", is_dir=True)


ATTACKS = [
    BOMB, OUTSIDE, b"<!DOCTYPE projects><projects/>", b"", b"\0", b"<", b"<projects>", b"[1]", b"<html><body>Sign in</body></html>", b"<containers/>",
    b"\xff\xfe<\0p\0", b"<projects>" + b"<a>" * 3000 + b"</a>" * 3000,
    f'<projects xmlns="{RI}/project"><next-page uri="https://x/projects?start-index=0"/></projects>'.encode(),
    b'<projects><next-page uri="https://x/projects?start-index=99999999999999999999"/></projects>',
    b'<projects><next-page uri="//["/></projects>', b"<projects><next-page/></projects>",
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: repr(attack[:30]))
async def test_an_attack_is_malformed_and_nothing_else(attack: bytes) -> None:
    backend = served(lambda _: attack)
    with pytest.raises(LabfsError) as caught:
        await scan(backend, backend.root)
    assert isinstance(caught.value, Malformed)
    assert "root:" not in str(caught.value)
    for work in (
        backend.check, lambda: backend.stat("projects/A1"), lambda: backend.stat("files/40-1"),
        lambda: backend.page(directory("projects/A1/self"), None), lambda: backend.page(directory("projects/A1"), "0"),
        lambda: backend.page(directory("projects/A1"), "steps"), lambda: backend.page(directory("processes/24-1"), None),
        lambda: backend.describe(directory("processes/24-1")),
        lambda: backend.upload(Target(directory("samples/A1A1"), (), "f"), Bytes(b"x")),
    ):  # fmt: skip
        with pytest.raises(LabfsError):
            await work()


async def test_what_makes_no_sense_hides_no_sibling() -> None:
    links = (
        b'<projects><project limsid="../../x"><name>a</name></project><project/><project uri="https://evil.example/api/v2/'
        b'projects/B2?state=1"><name/></project><project limsid="A1"><name>good</name><name>two</name></project>'
        b'<project limsid="' + b"9" * 5000 + b'"/><other/></projects>'
    )
    backend = served(route(projects=links))
    page = await backend.page(backend.root, None)
    assert [(e.id, e.name, e.age) for e in page.entries] == [("projects/B2", "B2", 2), ("projects/A1", "good", 1)]
    assert page.left_out == 3


async def test_files_without_what_they_should_have_are_shown_by_what_they_have() -> None:
    def file(limsid: str, inner: str) -> str:
        return f'<file limsid="{limsid}">{inner}</file>'

    project = (
        "<project limsid='A1'>" + "".join(file(f"40-{n}", "") for n in range(1, 7)) + file("../x", "") + "</project>"
    )
    details = "<details>" + "".join([
        file("40-1", "<original-location>C:\\a\\b.txt</original-location>"),
        file("40-2", "<original-location>/tmp/</original-location>"),
        file("40-3", "<original-location>x</original-location><attached-to>https://h/api/v2/artifacts/92-7?state=3</attached-to>"),
        file("40-4", "<original-location>y</original-location><attached-to>https://h/artifacts/..</attached-to>"),
        file("40-5", "<original-location>z</original-location><attached-to>//[</attached-to>"),
        file("40-99", "<original-location>never asked for</original-location>"),
    ]) + "</details>"  # fmt: skip
    backend = served(route(projects__A1=project, files__batch__retrieve=details))
    page = await backend.page(directory("projects/A1/self"), None)
    assert [(e.label, e.name) for e in page.entries] == [("40-1", "b.txt"), ("40-2", "40-2"), ("40-3", "92-7_x")]
    assert page.left_out == 2


def process(limsid: str, kind: str) -> str:
    return f'<process limsid="{limsid}"><type>{kind}</type></process>'


@pytest.mark.parametrize("filter_works", [True, False])
async def test_types_of_many_steps_are_asked_for_by_type_unless_the_filter_lies(filter_works: bool) -> None:
    kinds = {f"24-{n}": f"Type {n % 3}" for n in range(60)}
    asked: list[str] = []

    def answers(request: httpx.Request) -> Any:
        path = request.url.path.removeprefix("/api/v2/")
        asked.append(path)
        if path == "projects":
            return '<projects><project limsid="A1"/></projects>'
        if path == "processes":
            wanted = request.url.params.get("type") if filter_works else None
            found = [limsid for limsid, kind in kinds.items() if wanted in (None, kind)]
            return "<processes>" + "".join(f'<process limsid="{limsid}"/>' for limsid in found) + "</processes>"
        return process(path.rpartition("/")[2], kinds[path.rpartition("/")[2]])

    page = await served(answers).page(directory("projects/A1"), "steps")
    assert [entry.name for entry in page.entries] == [f"{limsid} {kind}" for limsid, kind in kinds.items()]
    assert len(asked) == (2 + 3 * 3 if filter_works else 2 + 3 + 60)


async def test_a_step_that_is_gone_and_one_that_fails() -> None:
    good = {
        "projects": '<projects><project limsid="A1"/></projects>',
        "processes": '<processes><process limsid="24-1"/><process limsid="24-2"/></processes>',
        "processes__24_2": process("24-2", "QC"),
    }
    page = await served(route(**good)).page(directory("projects/A1"), "steps")
    assert [entry.name for entry in page.entries] == ["24-2 QC"]
    with pytest.raises(LabfsError):
        await served(route(**good, processes__24_1=500)).page(directory("projects/A1"), "steps")


@pytest.mark.parametrize("value", ["-1", "0", "x", "", str(2**63), "9" * 30])
async def test_a_limit_that_is_none_is_not_taken(value: str) -> None:
    name = "api.artifacts.max.resultfile.upload.size"
    backend = served(route(configuration__properties=f'<properties><property name="{name}" value="{value}"/></properties>',
                           **{"": "<index/>"}))  # fmt: skip
    assert await backend.check()
    assert backend.capabilities.whole == 10_485_760


@pytest.mark.parametrize(
    ("head", "body", "size"),
    [({"content-length": "7"}, b"content", 7), ({"content-length": "0"}, b"", 0), ({"content-length": "0"}, b"content", None),
     ({}, b"content", None), ({"content-length": "-5"}, b"content", None), ({"content-length": str(2**70)}, b"content", None)],
)  # fmt: skip
async def test_a_length_that_head_makes_up_is_not_believed(head: dict[str, str], body: bytes, size: int | None) -> None:
    def answers(request: httpx.Request) -> Any:
        if request.method == "HEAD":
            return httpx.Response(200, headers=head)
        return httpx.Response(200, content=body, headers={"content-disposition": 'attachment; filename="f"'})

    backend = served(answers)
    file = Entry(id="files/40-1", name="f", is_dir=False, label="40-1")
    assert await backend.measure(file) == size
    assert backend.capabilities.measured == (size is not None)


@pytest.mark.parametrize("broken", ["glsstorage", "files", "upload", "length"])
async def test_a_save_that_the_server_muddles_is_no_success(broken: str) -> None:
    deleted: list[str] = []
    place = "<file><content-location>sftp://h/1</content-location></file>"
    made = "<file limsid='40-1'><original-location>f</original-location><attached-to>https://h/samples/A1A1</attached-to></file>"

    def answers(request: httpx.Request) -> Any:
        path = request.url.path.removeprefix("/api/v2/")
        if request.method == "DELETE":
            deleted.append(path)
            return 204
        if request.method == "HEAD":
            return httpx.Response(200, headers={"content-length": "3" if broken == "length" else "1"})
        return {
            "glsstorage": "<file/>" if broken == "glsstorage" else place,
            "files": "<file/>" if broken == "files" else made,
            "files/40-1/upload": 400 if broken == "upload" else 200,
            "samples/A1A1": "<sample limsid='A1A1'/>",
        }.get(path, 404)

    backend = served(answers)
    with trio.fail_after(30), pytest.raises(LabfsError):
        await backend.upload(Target(directory("samples/A1A1"), (), "f"), Bytes(b"x"))
    assert deleted == ([] if broken in ("glsstorage", "files") else ["files/40-1"])


async def test_another_name_is_refused_before_a_byte_is_sent() -> None:
    sent: list[str] = []

    def answers(request: httpx.Request) -> Any:
        sent.append(f"{request.method} {request.url.path.removeprefix('/api/v2/')}")
        if request.method == "DELETE":
            return 204
        return "<file limsid='40-1'><content-location>x</content-location><original-name>92-5098.html</original-name></file>"

    with pytest.raises(LabfsError, match=r"would call this file “92-5098.html”"):
        await served(answers).upload(Target(directory("samples/A1A1"), (), "f"), Bytes(b"x"))
    assert sent == ["POST glsstorage", "POST files", "DELETE files/40-1"]


async def test_an_error_document_is_read_and_a_hostile_one_survived() -> None:
    said = f'<exc:exception xmlns:exc="{RI}/exception"><message>No.</message><suggested-actions>Ask.</suggested-actions></exc:exception>'
    with pytest.raises(LabfsError, match=r"No\. Ask\."):
        await served(lambda _: httpx.Response(400, content=said)).check()
    for body in (BOMB, b"\xff", b"<exception>" + b"<message>" * 500, b"x" * 100_000):
        with pytest.raises(LabfsError) as caught:
            await served(lambda _, body=body: httpx.Response(400, content=body)).check()
        assert len(str(caught.value)) < 700


async def test_a_description_of_anything_is_data() -> None:
    deep = "<project limsid='A1'>" + "<a b='c'>" * 500 + "x" + "</a>" * 500 + "<!-- c --><?pi x?></project>"
    backend = served(route(projects__A1=deep))
    assert json.dumps(await backend.describe(directory("projects/A1")))


async def test_bytes_are_asked_for_at_our_own_address_whatever_the_record_says() -> None:
    seen: list[str] = []

    def answers(request: httpx.Request) -> Any:
        seen.append(str(request.url))
        return httpx.Response(302, headers={"location": "https://evil.example/steal"})

    content: Content = served(answers).content(Entry(id="files/40-1", name="f", is_dir=False, label="40-1"))
    with pytest.raises(LabfsError):
        await content.pour(_Bin())
    assert seen[0] == "https://lims.example/api/v2/files/40-1/download"


class _Bin:
    received = 0

    def begin(self, size: int | None) -> None: ...

    def write(self, data: Any) -> None: ...
