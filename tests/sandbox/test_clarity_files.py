"""The Clarity stand-in: how files are attached, replaced, deleted and read."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET

import httpx
import pytest
from clarity_stage import DONE, FILE, PROJECT, SAMPLE, STEP, Clarity, local, record, refused
from stage import Sandbox

from labfs.sandbox.clarity.seed import LARGE_MIB
from labfs.sandbox.store import MIB, large_block


@pytest.fixture
def clarity(running: Sandbox) -> Iterator[Clarity]:
    with Clarity(running) as made:
        yield made


# -- attaching -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["projects", "samples", "processes", "artifacts"])
def test_three_requests_attach_a_file(clarity: Clarity, kind: str) -> None:
    limsid = {"projects": PROJECT, "samples": SAMPLE, "processes": STEP, "artifacts": clarity.placeholders()[1]}[kind]
    target = f"{kind}/{limsid}"
    answer = clarity.allocate(f"{target}?state=1", "/home/ada/C232PACXX.csv", "<is-published>true</is-published>")
    assert answer.status_code == 200
    place = ET.fromstring(answer.content)
    assert place.attrib == {}  # no record yet
    assert local(place) == ["attached-to", "content-location", "original-location"]
    assert place.findtext("attached-to") == f"{clarity.url}/api/v2/{target}"
    location = place.findtext("content-location") or ""
    assert location.startswith("sftp://") and location.endswith(".csv")
    made = clarity.post("files", answer.content)
    assert made.status_code == 201
    file = ET.fromstring(made.content)
    assert file.findtext("content-location") == location
    assert file.findtext("original-location") == "/home/ada/C232PACXX.csv"
    assert file.findtext("original-name") == "C232PACXX.csv"
    assert file.findtext("is-published") == "false"
    number = file.get("limsid", "")
    assert number.startswith("40-") and number not in location
    assert clarity.stored(limsid) == [("/home/ada/C232PACXX.csv", None)]
    refused(clarity.http.get(f"files/{number}/download"), 404, "File does not exist")
    done = clarity.upload(number, b"a,b\n1,2\n")
    assert (done.status_code, done.content) == (200, b"")
    assert clarity.stored(limsid) == [("/home/ada/C232PACXX.csv", b"a,b\n1,2\n")]
    assert [link.get("limsid") for link in clarity.get(target).findall(FILE)] == [number]
    got = clarity.http.get(f"files/{number}/download")
    assert (got.status_code, got.content) == (200, b"a,b\n1,2\n")
    assert got.headers["content-type"] == "text/csv"
    assert got.headers["content-length"] == "8"
    assert got.headers["content-disposition"] == 'attachment; filename="C232PACXX.csv"'


def test_storage_ignores_a_clients_own_location_and_a_record_can_be_published(clarity: Clarity) -> None:
    answer = clarity.allocate(f"projects/{PROJECT}", "n.txt", "<content-location>n.txt</content-location>")
    assert b"<content-location>sftp://" in answer.content
    body = answer.text.replace("</original-location>", "</original-location><is-published>true</is-published>")
    file = ET.fromstring(clarity.post("files", body).content)
    assert file.findtext("is-published") == "true"
    # A change sets this flag and nothing else, and a body without it takes it away.
    body = record(f"{clarity.url}/api/v2/projects/ADM1", "other.txt")
    changed = clarity.http.put(f"files/{file.get('limsid')}", content=body, headers={"Content-Type": "application/xml"})
    assert changed.status_code == 200
    root = ET.fromstring(changed.content)
    assert [root.findtext(tag) for tag in ("original-location", "is-published")] == ["n.txt", "false"]
    assert clarity.stored(PROJECT) == [("n.txt", None)]
    body = "<f:file xmlns:f='http://genologics.com/ri/file'><is-published>true</is-published></f:file>"
    changed = clarity.http.put(f"files/{file.get('limsid')}", content=body, headers={"Content-Type": "application/xml"})
    assert clarity.http.get(f"files/{file.get('limsid')}").content == changed.content
    assert ET.fromstring(changed.content).findtext("is-published") == "true"


def test_locations_are_given_once(clarity: Clarity) -> None:
    refused(clarity.post("files", record(f"{clarity.url}/api/v2/projects/{PROJECT}", "x")), 400)
    body = clarity.allocate(f"projects/{PROJECT}", "x").text
    refused(clarity.post("files", body.replace(".0.0.1", ".0.0.2")), 400)
    assert clarity.post("files", body).status_code == 201
    refused(clarity.post("files", body), 400, "in use")
    clarity.switch(bytes_first=True)
    refused(clarity.post("files", clarity.allocate(f"projects/{PROJECT}", "x").content), 400, "File does not exist")


@pytest.mark.parametrize(
    "target", ["containers/27-4011", "artifacts/ADM1A1PA1", "projects/X1", "files/40-117", "projects/ADM1/x", ""]
)
def test_what_files_cannot_be_attached_to(clarity: Clarity, target: str) -> None:
    refused(clarity.allocate(target, "x"), 400)
    body = clarity.allocate(f"projects/{PROJECT}", "x").text.replace(f"projects/{PROJECT}<", f"{target}<")
    refused(clarity.post("files", body), 400)


def test_a_step_is_taken_for_its_process(clarity: Clarity) -> None:
    root = ET.fromstring(clarity.allocate(f"steps/{STEP}", "x").content)
    assert root.findtext("attached-to") == f"{clarity.url}/api/v2/processes/{STEP}"
    clarity.switch(steps_attachable=False)
    refused(clarity.allocate(f"steps/{STEP}", "x"), 400)


def test_an_upload_is_one_part_named_file(clarity: Clarity) -> None:
    limsid = clarity.attach(f"projects/{PROJECT}", "x.bin")
    path = f"files/{limsid}/upload"
    refused(clarity.upload(limsid, b"x", "data"), 400)
    refused(clarity.http.post(path, files=[("file", ("a", b"1")), ("file", ("b", b"2"))]), 400)
    refused(clarity.http.post(path, files={"file": ("a", b"1")}, data={"more": "2"}), 400)
    refused(clarity.http.post(path, content=b"x", headers={"Content-Type": "text/plain"}), 415)
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(clarity.http.post(path, content=b"--x\r\nbroken", headers=broken), 400)
    assert clarity.stored(PROJECT) == [("x.bin", None)]
    assert clarity.upload(limsid, b"").status_code == 200
    assert clarity.stored(PROJECT) == [("x.bin", b"")]
    assert clarity.http.get(f"files/{limsid}/download").headers["content-type"] == "application/octet-stream"


def test_the_upload_limit(clarity: Clarity) -> None:
    limit = {p.get("name"): p.get("value") for p in clarity.get("configuration/properties")}
    assert limit["api.artifacts.max.resultfile.upload.size"] == "10485760"
    limsid = clarity.attach(f"projects/{PROJECT}", "x.bin")
    refused(clarity.upload(limsid, bytes(10_485_761)), 413)
    assert clarity.stored(PROJECT) == [("x.bin", None)]
    assert clarity.upload(limsid, bytes(10_485_760)).status_code == 200
    clarity.switch(upload_limit=3, over_limit_status=400, limit_in_properties=False)
    refused(clarity.upload(limsid, b"four"), 400)
    assert clarity.stored(PROJECT) == [("x.bin", bytes(10_485_760))]
    assert b"max.resultfile" not in clarity.http.get("configuration/properties").content


def test_uploads_to_a_completed_step_are_refused(clarity: Clarity) -> None:
    output = clarity.rows("SELECT limsid FROM clarity_artifacts WHERE process = ? ORDER BY id", DONE)[0]["limsid"]
    clarity.switch(second_attach="refuse")
    refused(clarity.post("files", clarity.allocate(f"artifacts/{output}", "x").content), 400)
    limsid = clarity.attach(f"processes/{DONE}", "x")  # the record can be made all the same
    try:
        refused(clarity.upload(limsid, bytes(5_000_000)), 400, "completed")
        clarity.switch(completed_status=403)
        answer = clarity.upload(limsid, b"x")
        assert (answer.status_code, answer.content) == (403, b"")
        (held,) = clarity.rows("SELECT limsid FROM clarity_files WHERE owner = ?", output)
        assert clarity.upload(held["limsid"], b"x").status_code == 403
        clarity.switch(completed_step="accept")
        assert clarity.upload(limsid, b"x").status_code == 200
    finally:
        clarity.http.delete(f"files/{limsid}")


# -- replacing, deleting, reading ----------------------------------------------------------------------


def test_an_upload_in_place_keeps_the_id_and_the_name(clarity: Clarity) -> None:
    limsid = clarity.put(f"samples/{SAMPLE}", "a.txt", b"one")
    before = clarity.http.get(f"files/{limsid}").content
    assert clarity.upload(limsid, b"other bytes").status_code == 200
    assert clarity.http.get(f"files/{limsid}").content == before
    assert clarity.stored(SAMPLE) == [("a.txt", b"other bytes")]


def test_names_are_not_unique_but_an_artifact_has_one_file(clarity: Clarity) -> None:
    for data in (b"one", b"two"):
        clarity.put(f"projects/{PROJECT}", "same.txt", data)
    assert clarity.stored(PROJECT) == [("same.txt", b"one"), ("same.txt", b"two")]
    output = clarity.placeholders()[0]
    first = clarity.put(f"artifacts/{output}", "one.txt", b"one")
    second = clarity.put(f"artifacts/{output}", "two.txt", b"two")
    assert clarity.stored(output) == [("two.txt", b"two")]
    refused(clarity.http.get(f"files/{first}"), 404)
    clarity.switch(second_attach="refuse")
    refused(clarity.post("files", clarity.allocate(f"artifacts/{output}", "three.txt").content), 400)
    assert [link.get("limsid") for link in clarity.get(f"artifacts/{output}").findall(FILE)] == [second]


def test_deleting_forgets_the_record_and_leaves_the_bytes(clarity: Clarity) -> None:
    limsid = clarity.put(f"projects/{PROJECT}", "a.txt", b"still here")
    (row,) = clarity.rows("SELECT location FROM clarity_files WHERE limsid = ?", limsid)
    answer = clarity.http.delete(f"files/{limsid}")
    assert (answer.status_code, answer.content) == (204, b"")
    refused(clarity.http.delete(f"files/{limsid}"), 404)
    refused(clarity.http.get(f"files/{limsid}/download"), 404)
    assert clarity.get(f"projects/{PROJECT}").find(FILE) is None
    (place,) = clarity.rows("SELECT blob FROM clarity_locations WHERE location = ?", row["location"])
    assert (clarity.directory / "blobs" / place["blob"]).read_bytes() == b"still here"


def test_replacing_one_of_many_equal_files_leaves_the_others(clarity: Clarity) -> None:
    first, second = clarity.ids("files?projectlimsid=MNY401")[:2]
    before = clarity.http.get(f"files/{first}/download").content
    assert clarity.upload(first, b"changed").status_code == 200
    assert clarity.http.get(f"files/{second}/download").content == before
    assert clarity.upload(first, before).status_code == 200


def test_ranges_are_ignored_and_head_answers(clarity: Clarity) -> None:
    limsid = clarity.put(f"projects/{PROJECT}", "a.txt", b"0123456789")
    path = f"files/{limsid}/download"
    whole = clarity.http.get(path, headers={"Range": "bytes=2-4"})
    assert (whole.status_code, whole.content) == (200, b"0123456789")
    assert {"etag", "last-modified", "accept-ranges"}.isdisjoint(whole.headers)
    head = clarity.http.head(path)
    assert (head.status_code, head.headers["content-length"]) == (200, "10")
    clarity.switch(head=False, ranges=True)
    assert clarity.http.head(path).status_code == 405
    part = clarity.http.get(path, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    clarity.switch(missing_status=500)
    limsid = clarity.attach(f"projects/{PROJECT}", "b.txt")
    refused(clarity.http.get(f"files/{limsid}/download"), 500, "File does not exist")


def test_a_large_file_and_a_lost_one(clarity: Clarity) -> None:
    """Larger than an upload may be: it came another way."""
    (large, lost) = (f["limsid"] for f in clarity.rows(
        "SELECT limsid FROM clarity_files WHERE original IN ('run42.raw.bin', 'never-arrived.csv') ORDER BY id"))  # fmt: skip
    with clarity.http.stream("GET", f"files/{large}/download") as answer:
        assert answer.headers["content-length"] == str(LARGE_MIB * MIB)
        assert next(answer.iter_raw(MIB)) == large_block(0)
    refused(clarity.http.get(f"files/{lost}/download"), 404, "File does not exist: sftp://")


def test_the_remote_store_wants_no_credentials(clarity: Clarity) -> None:
    (file,) = clarity.rows("SELECT limsid FROM clarity_files WHERE original = 'panel-design.csv'")
    place = clarity.get(f"files/{file['limsid']}").findtext("content-location") or ""
    assert place.startswith("http://")
    through = clarity.http.get(f"files/{file['limsid']}/download")
    assert httpx.get(place, trust_env=False, verify=False).content == through.content != b""
    assert clarity.http.get(place).status_code == 400
    refused(clarity.upload(file["limsid"], b"x"), 400)
    # A record of what lies there needs no allocation and no upload.
    other = place.replace("panel-design", "not-there-yet")
    more = f"<content-location>{other}</content-location>"
    made = clarity.post("files", record(f"{clarity.url}/api/v2/projects/{PROJECT}", "link.csv", more))
    assert made.status_code == 201
    limsid = ET.fromstring(made.content).get("limsid")
    assert clarity.get(f"files/{limsid}").findtext("content-location") == other
    refused(clarity.http.get(f"files/{limsid}/download"), 404)
    assert httpx.get(other, trust_env=False, verify=False).status_code == 404


@pytest.mark.parametrize("touches", [False, True])
def test_whether_attaching_touches_the_project_is_a_switch(clarity: Clarity, touches: bool) -> None:
    clarity.switch(attach_touches_project=touches)
    clarity.put(f"artifacts/{clarity.placeholders()[2]}", "x", b"x")
    found = clarity.ids("projects?last-modified=2025-01-01T00:00:00Z")
    assert (PROJECT in found) == touches
