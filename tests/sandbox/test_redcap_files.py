"""REDCap's stand-in by plain requests and curl: file fields and the repository."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redcap_stage import Redcap, opened
from stage import Sandbox

FIELD_ERROR = "The field 'mugshott' does not exist or is not a 'file' field"


@pytest.fixture
def redcap(sandbox: Sandbox) -> Iterator[Redcap]:
    with opened(sandbox) as redcap:
        yield redcap


# -- file fields ---------------------------------------------------------------------------------------------


def test_a_file_comes_with_its_type_and_name_in_one_header(redcap: Redcap) -> None:
    record = redcap.record()
    slot = {"record": record, "field": "counts"}
    put = redcap.put("biobank", "test_upload.txt", b"test upload\n", **slot)
    assert (put.status_code, put.content, put.headers["content-type"]) == (200, b"", "text/html; charset=UTF-8")
    got = redcap.file("export", "biobank", **slot, headers={"Range": "bytes=0-3", "Accept-Encoding": "identity"})
    assert (got.status_code, got.content, got.headers["content-length"]) == (200, b"test upload\n", "12")
    assert got.headers["content-type"] == 'text/plain; name="test_upload.txt";charset=UTF-8'
    assert not {"etag", "last-modified", "accept-ranges", "content-disposition"} & set(got.headers)
    image = redcap.file("export", "biobank", record="1", field="slide_image")
    assert image.headers["content-type"] == 'image/png; name="S1 H&E.png"'
    signature = redcap.file("export", "biobank", record="1", field="consent_signature")
    assert (signature.status_code, signature.content[:4]) == (200, b"\x89PNG")


def test_an_empty_file_is_told_from_a_lost_answer_by_its_name_alone(redcap: Redcap) -> None:
    slot = {"record": "R 3", "field": "attachment"}
    empty = redcap.file("export", "odd", **slot)
    assert (empty.status_code, empty.content) == (200, b"")
    assert empty.headers["content-type"] == 'text/plain; name="nothing.txt";charset=UTF-8'
    redcap.switch(empty_answers=1)
    lost = redcap.file("export", "odd", **slot)
    assert (lost.status_code, lost.content, "name=" in lost.headers["content-type"]) == (200, b"", False)


def test_names_are_no_way_to_more_headers(redcap: Redcap) -> None:
    for record, shown in (("R-3", "two lines.txt"), ("R-10", 'semi;colon="x".txt'), ("a/b", "a/b")):
        kind = redcap.file("export", "odd", record=record, field="attachment").headers["content-type"]
        assert f'; name="{shown}"' in kind


def test_headers_of_a_file_differ_by_site(redcap: Redcap) -> None:
    slot = {"record": "1", "field": "consent_scan"}
    name = "Einverständnis.pdf"

    def header() -> bytes:
        return dict(redcap.file("export", "biobank", **slot).headers.raw)[b"content-type"]

    assert header() == f'application/pdf; name="{name}"'.encode()
    redcap.switch(name_coding="latin-1")
    assert header() == f'application/pdf; name="{name}"'.encode("latin-1")
    redcap.switch(name_coding="percent", disposition=True, length_sent=False)
    got = redcap.file("export", "biobank", **slot, headers={"Accept-Encoding": "identity"})
    assert got.headers["content-disposition"] == 'attachment; filename="Einverst%C3%A4ndnis.pdf"'
    assert ("content-length" in got.headers, got.headers["transfer-encoding"]) == (False, "chunked")


def test_who_accepts_gzip_gets_no_length(redcap: Redcap) -> None:
    slot = {"record": "1", "field": "counts"}
    packed = redcap.file("export", "biobank", **slot, headers={"Accept-Encoding": "gzip"})
    assert (packed.headers["content-encoding"], "content-length" in packed.headers) == ("gzip", False)
    plain = redcap.file("export", "biobank", **slot, headers={"Accept-Encoding": "identity"})
    assert packed.content == plain.content
    redcap.switch(compression=False)
    answer = redcap.file("export", "biobank", **slot, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers


def test_a_field_holds_one_file_and_each_upload_is_a_new_document(redcap: Redcap) -> None:
    record = redcap.record()
    slot = {"record": record, "field": "counts"}

    def number() -> str:
        return str(redcap.ask("biobank", "record", records=[record], fields=["counts"], type="eav")[0]["value"])

    redcap.put("biobank", "a.txt", b"one", **slot)
    first = number()
    redcap.put("biobank", "b.bin", b"two", **slot)
    assert redcap.stored(record) == {("counts", 1): ("b.bin", b"two")}
    second = number()
    assert second != first
    redcap.switch(new_id_per_upload=False, mime_from="part")
    redcap.file("import", "biobank", files={"file": ("c.txt", b"three", "x/y")}, **slot)
    assert (number(), redcap.stored(record)) == (second, {("counts", 1): ("c.txt", b"three")})
    assert redcap.file("export", "biobank", **slot).headers["content-type"] == 'x/y; name="c.txt"'


def test_deleting_a_file_answers_nothing_and_cannot_be_undone(redcap: Redcap) -> None:
    record = redcap.record()
    slot = {"record": record, "field": "counts"}
    redcap.put("biobank", "a.txt", b"one", **slot)
    deleted = redcap.file("delete", "biobank", **slot)
    assert (deleted.status_code, deleted.content, redcap.stored(record)) == (200, b"", {})
    text = redcap.refusal(400, "biobank", content="file", action="export", **slot)
    assert text == "There is no file to download for this record"
    assert redcap.file("delete", "biobank", **slot).status_code == 200
    redcap.switch(delete_needs_record_right=True)
    redcap.refusal(403, "biobank/keeper", content="file", action="delete", **slot)
    redcap.switch(delete_empty="refuse")
    redcap.refusal(400, "biobank", content="file", action="delete", **slot)


def test_a_slot_is_told_exactly(redcap: Redcap) -> None:
    for field in ("mugshott", "tissue"):
        text = redcap.refusal(400, "biobank", content="file", action="export", record="1", field=field)
        assert text == FIELD_ERROR.replace("mugshott", field)
    text = redcap.refusal(400, "biobank", content="file", action="export", record="-1", field="counts")
    assert text == 'The record "-1" does not exist'
    redcap.refusal(400, "trial", content="file", action="export", record="1", field="form_scan")
    redcap.refusal(400, "trial", content="file", action="export", record="1", field="reads", event="baseline_arm_1")
    slot = {"record": "1", "field": "image", "event": "baseline_arm_1"}
    first = redcap.file("export", "trial", **slot).content
    assert first == redcap.file("export", "trial", **slot, repeat_instance=1).content
    assert first != redcap.file("export", "trial", **slot, repeat_instance="2").content
    redcap.refusal(400, "trial", content="file", action="export", **slot, repeat_instance="x")


def test_an_upload_makes_the_instance_and_never_the_record(redcap: Redcap) -> None:
    record = redcap.record("plates")
    redcap.put("plates", "r.csv", b"r", record=record, field="run_table", repeat_instance=4)
    assert redcap.stored(record) == {("run_table", 4): ("r.csv", b"r")}
    rows = redcap.ask("plates", "record", records=[record], fields=["record_id", "run_table"])
    assert [row["redcap_repeat_instance"] for row in rows] == ["", 4]
    new = f"T-{secrets.token_hex(4)}"
    assert redcap.put("plates", "r.csv", b"r", record=new, field="raw").status_code == 400
    redcap.switch(missing_record="create")
    assert redcap.put("plates", "r.csv", b"r", record=new, field="raw").status_code == 200
    assert redcap.stored(new) == {("raw", 1): ("r.csv", b"r")}


def test_uploads_that_are_refused(redcap: Redcap) -> None:
    record = redcap.record()
    slot = {"record": record, "field": "counts"}
    assert redcap.file("import", "biobank", **slot).status_code == 400
    assert redcap.put("biobank", "x.EXE", b"MZ", **slot).status_code == 400
    assert redcap.put("biobank", "s.png", b"s", record=record, field="consent_signature").status_code == 400
    assert redcap.put("biobank", "a", b"a", record="10", field="counts").status_code == 400, "it is locked"
    redcap.switch(largest_upload=9)
    assert redcap.put("biobank", "ten.bin", bytes(10), **slot).status_code == 400
    assert redcap.stored(record) == {}
    assert redcap.put("biobank", "nine.bin", bytes(9), **slot).status_code == 200
    redcap.switch(too_large="lost", largest_repository_upload=9)
    assert redcap.put("biobank", "ten.bin", bytes(10), **slot).status_code == 401, "the whole form is lost"


def test_names_of_uploads_lose_their_folders(redcap: Redcap) -> None:
    record = redcap.record()
    slot = {"record": record, "field": "counts"}
    redcap.put("biobank", "up/../größe.txt", b"a", **slot)
    assert redcap.stored(record) == {("counts", 1): ("größe.txt", b"a")}
    redcap.switch(upload_basename=False)
    redcap.put("biobank", "up/b.txt", b"a", **slot)
    assert redcap.stored(record) == {("counts", 1): ("up/b.txt", b"a")}


def test_curl_uploads_and_downloads_as_documented(redcap: Redcap, tmp_path: Path) -> None:
    record = redcap.record()
    data = secrets.token_bytes(3_000_000)  # enough for it to ask for a 100 Continue
    (tmp_path / "data.bin").write_bytes(data)
    form = {"token": redcap.tokens["biobank"], "content": "file", "record": record, "field": "counts"}
    command = ["curl", "-sS", "-w", "%{http_code}"]
    for name, value in {**form, "action": "import", "file": f"@{tmp_path}/data.bin"}.items():
        command += ["-F", f"{name}={value}"]
    done = subprocess.run([*command, redcap.url], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("200", "")
    assert redcap.stored(record) == {("counts", 1): ("data.bin", data)}
    command = ["curl", "-sS", "-o", f"{tmp_path}/back.bin"]
    for name, value in {**form, "action": "export"}.items():
        command += ["-d", f"{name}={value}"]
    assert subprocess.run([*command, redcap.url], timeout=60).returncode == 0
    assert (tmp_path / "back.bin").read_bytes() == data


# -- the repository ------------------------------------------------------------------------------------------


def folder(redcap: Redcap, alias: str = "biobank", **fields: Any) -> int:
    name = f"T-{secrets.token_hex(4)}"
    (made,) = redcap.ask(alias, "fileRepository", action="createFolder", name=name, **fields)
    return int(made["folder_id"])


def test_a_repository_lists_one_level_folders_first_and_no_sizes(redcap: Redcap) -> None:
    rows = redcap.ask("biobank", "fileRepository", action="list")
    kinds = ["folder_id" in row for row in rows]
    assert kinds == sorted(kinds, reverse=True)
    assert [row["name"] for row in rows].count("consent.pdf") == 2, "names are not unique"
    north = next(row for row in rows if row["name"] == "North only")
    assert list(north) == ["folder_id", "name", "dag"]
    assert not any(row["name"] == "Data Export Files" for row in rows)
    protocols = next(row["folder_id"] for row in rows if row["name"] == "Protocols")
    inner = redcap.ask("biobank", "fileRepository", action="list", folder_id=protocols)
    assert [row["name"] for row in inner] == ["2025", "plate layout.csv"]

    def columns() -> str:
        return redcap.post("biobank", content="fileRepository", action="list", format="csv").text.split("\n")[0]

    assert columns() == "folder_id,doc_id,name,role,dag"
    redcap.switch(version="14.9.1", system_folders=True)
    assert columns() == "folder_id,doc_id,name"
    rows = redcap.ask("biobank", "fileRepository", action="list")
    assert any(row["name"] == "Data Export Files" for row in rows)


def test_a_repository_takes_gives_and_deletes_documents(redcap: Redcap) -> None:
    number = folder(redcap)
    call = {"content": "fileRepository", "folder_id": number}
    for data in (b"one", b"two"):
        put = redcap.post("biobank", **call, action="import", files={"file": ("same.txt", data)})
        assert (put.status_code, put.content) == (200, b"")
    assert redcap.shelved(number) == [("same.txt", b"one"), ("same.txt", b"two")]
    first, second = (row["doc_id"] for row in redcap.ask("biobank", "fileRepository", action="list", folder_id=number))
    got = redcap.post("biobank", content="fileRepository", action="export", doc_id=second)
    assert (got.content, got.headers["content-type"]) == (b"two", 'text/plain; name="same.txt";charset=UTF-8')
    gone = redcap.post("biobank", content="fileRepository", action="delete", doc_id=first)
    assert (gone.status_code, gone.content, redcap.shelved(number)) == (200, b"", [("same.txt", b"two")])
    for action in ("export", "delete"):
        redcap.refusal(400, "biobank", content="fileRepository", action=action, doc_id=first)
    redcap.refusal(400, "trial", content="fileRepository", action="export", doc_id=second)
    blocked = redcap.post("biobank", **call, action="import", files={"file": ("x.bat", b"x")})
    assert blocked.status_code == 400


def test_folders_have_rules(redcap: Redcap) -> None:
    text = redcap.refusal(400, "biobank", content="fileRepository", action="list", folder_id=99)
    assert text.startswith("The File Repository folder folder_id=99 does not exist or else you do not have permission")
    outer = folder(redcap)
    inner = folder(redcap, folder_id=outer)
    assert redcap.ask("biobank", "fileRepository", action="list", folder_id=outer)[0]["folder_id"] == inner
    redcap.refusal(400, "biobank", content="fileRepository", action="createFolder", name="x" * 151)
    redcap.refusal(400, "biobank", content="fileRepository", action="createFolder", name="")
    south = folder(redcap, dag_id=701)
    redcap.refusal(400, "biobank/north", content="fileRepository", action="list", folder_id=south)
    redcap.refusal(400, "biobank", content="fileRepository", action="createFolder", name="x", dag_id=1)
