"""The Resources Portal's contract against the sandbox: its documentation by curl, and each rule by plain requests."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from stage import Sandbox, run, start_sandbox

from labfs.sandbox import specimens
from labfs.sandbox.portal.bucket import NAME
from labfs.sandbox.portal.shelf import Switches

MIB = 1024 * 1024
BOTOCORE = "1.44.5"
SUMMARY = [
    "id", "filename", "description", "download_url", "s3_resource_deleted", "created_at", "updated_at",
    "sequence_map_for", "mta_materials", "requests_signed_mta", "requests_irb", "requests_executed_mta",
    "owned_by_org", "owned_by_user",
]  # fmt: skip


class Portal:
    """The service as a client sees it, and its store as nobody else does."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.directory = sandbox.directory
        known = json.loads((sandbox.directory / "sandbox.json").read_text())
        self.known: dict[str, str] = known["credentials"]["portal"]
        self.root = known["sites"]["portal"]
        self.blobs: str = known["blobs"]
        self._control = known["control"]
        self.http = httpx.Client(base_url=f"{self.root}/v1/", trust_env=False, verify=False, timeout=30)
        self.team = self._team("Tumour bank")

    def switch(self, **values: Any) -> None:
        self.http.post(f"{self._control}/switches", json={"portal": values}).raise_for_status()

    def ask(self, method: str, path: str, who: str = "token", **options: Any) -> httpx.Response:
        token = {"Authorization": f"Token {self.known[who]}"} if who else {}
        return self.http.request(method, path, headers={**token, **options.pop("headers", {})}, **options)

    def get(self, path: str, who: str = "token", **params: Any) -> Any:
        answer = self.ask("GET", path, who, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, name: str = "f.txt", data: bytes = b"0123456789", who: str = "token", **fields: Any) -> Any:
        answer = self.ask("POST", "attachments/", who, files={"file": (name, data)}, data=fields)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def patch(self, number: int, who: str = "token", **fields: Any) -> httpx.Response:
        return self.ask("PATCH", f"attachments/{number}/", who, data=fields)

    def _team(self, name: str) -> int:
        (found,) = [team["id"] for team in self.get("organizations/", limit=1000)["results"] if team["name"] == name]
        return int(found)

    def material(self, title: str) -> int:
        (found,) = [each["id"] for each in self.get("materials", limit=1000)["results"] if each["title"] == title]
        return int(found)

    # -- behind it

    def rows(self, where: str = "1") -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.directory / "sandbox.sqlite")) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(f"SELECT * FROM portal_attachments WHERE {where} ORDER BY id")]

    def stored(self, number: int) -> bytes:
        (row,) = self.rows(f"id = {number}")
        return (self.directory / "blobs" / row["blob"]).read_bytes()

    @property
    def last(self) -> dict[str, Any]:
        return self.rows()[-1]

    @property
    def secret(self) -> str:
        with contextlib.closing(sqlite3.connect(self.directory / "sandbox.sqlite")) as db:
            return str(db.execute("SELECT value FROM portal_secrets").fetchone()[0])


@pytest.fixture
def portal(running: Sandbox) -> Iterator[Portal]:
    portal = Portal(running)
    portal.switch(**dataclasses.asdict(Switches()))
    yield portal
    portal.switch(**dataclasses.asdict(Switches()))
    portal.http.close()


@pytest.fixture(params=["s3", "local"])
def mode(portal: Portal, request: pytest.FixtureRequest) -> str:
    portal.switch(mode=request.param)
    return str(request.param)


def refused(answer: httpx.Response, status: int, body: Any) -> None:
    assert (answer.status_code, answer.json()) == (status, body)


def broken(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.text) == (500, "<h1>Server Error (500)</h1>")
    assert answer.headers["content-type"].startswith("text/html")


# -- the documentation's own calls -----------------------------------------------------------------------

ADD = """curl -v -H "Authorization: Token TOKEN" -X POST ROOT/attachments/ \
-F file=@nerd_sniping.png -F filename=nerd_sniping.png -F "description=A file for testing" -F owned_by_org=3"""
SHOW = """curl -v -H "Authorization: Token TOKEN" ROOT/attachments/5"""
LIST = """curl -v -H "Authorization: Token STAFF" ROOT/attachments/?limit=1000000"""
RENAME = """curl -v -H "Authorization: Token TOKEN" -X PATCH ROOT/attachments/5 -d filename=renamed.png"""
LINK = """curl -v -H "Authorization: Token TOKEN" -X PATCH ROOT/attachments/5/ -d sequence_map_for=MATERIAL"""
DELETE = """curl -v -H "Authorization: Token TOKEN" -X DELETE ROOT/attachments/5"""
DOWNLOAD = """curl -v -o got.png 'URL'"""


def test_the_documented_calls_by_curl(portal: Portal, mode: str, tmp_path: Path) -> None:
    portal.switch(newline_in_local_url="quote")  # or the seeded name that has one breaks the list of all
    image = specimens.png(80, 60)
    (tmp_path / "nerd_sniping.png").write_bytes(image)
    material = portal.material("pcDNA3-TP53")

    def curl(command: str, number: int = 5, url: str = "") -> tuple[str, Any]:
        for old, new in [("TOKEN", portal.known["token"]), ("STAFF", portal.known["staff_token"]),
                         ("ROOT", f"{portal.root}/v1"), ("attachments/5", f"attachments/{number}"), ("URL", url),
                         ("owned_by_org=3", f"owned_by_org={portal.team}"), ("MATERIAL", str(material))]:  # fmt: skip
            command = command.replace(old, new)
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stderr
        (status,) = [line for line in done.stderr.splitlines() if line.startswith("< HTTP/1.1") and " 100 " not in line]
        return status.removeprefix("< HTTP/1.1 ").strip(), json.loads(done.stdout) if done.stdout else None

    status, made = curl(ADD)
    assert status == "201 Created"
    number, url = made["id"], made["download_url"]
    printed = {
        "filename": "nerd_sniping.png",
        "description": "A file for testing",
        "s3_resource_deleted": False,
        "sequence_map_for": None,  # the documentation prints "None"
        "owned_by_org": portal.team,
        "owned_by_user": portal.known["user_id"],
    }
    assert list(made) == SUMMARY
    assert made | printed == made
    assert urlsplit(url).path.endswith(f"/attachment_{number}/nerd_sniping.png")
    assert url.startswith(f"{portal.root}/v1/uploaded-file/" if mode == "local" else f"{portal.blobs}/{NAME}/")
    assert portal.stored(number) == image

    assert curl(DOWNLOAD, url=url)[0] == "200 OK"
    assert (tmp_path / "got.png").read_bytes() == image
    status, shown = curl(SHOW, number)
    assert (status, list(shown), shown["owned_by_org"]["name"]) == ("200 OK", SUMMARY, "Tumour bank")
    status, listed = curl(LIST)
    assert status == "200 OK"
    assert number in [each["id"] for each in listed["results"]]

    status, linked = curl(LINK, number)
    assert (status, linked["sequence_map_for"]) == ("200 OK", material)
    assert number in [each["id"] for each in portal.get(f"materials/{material}")["sequence_maps"]]
    status, renamed = curl(RENAME, number)
    assert (status, renamed["filename"], portal.stored(number)) == ("200 OK", "renamed.png", image)
    # The object keeps its key; the server's disk keeps the name that the address no longer has.
    expected = ("200 OK", "nerd_sniping.png") if mode == "s3" else ("500 Internal Server Error", "renamed.png")
    assert urlsplit(renamed["download_url"]).path.rsplit("/", 1)[1] == expected[1]
    assert curl(DOWNLOAD, url=renamed["download_url"])[0] == expected[0]

    # To replace is to add and to delete.
    (tmp_path / "nerd_sniping.png").write_bytes(b"new")
    status, second = curl(ADD)
    assert (status, second["id"] > number, portal.stored(second["id"])) == ("201 Created", True, b"new")
    assert curl(DELETE, number) == ("204 No Content", None)
    assert curl(SHOW, number) == ("404 Not Found", {"detail": "Not found."})
    assert portal.rows(f"id = {number}")[0]["removed"] == 1
    assert portal.stored(number) == image
    assert curl(DOWNLOAD, url=url)[0] == "200 OK"  # what was given out lives on


# -- who asks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        (None, "Authentication credentials were not provided."),
        ("Bearer x", "Authentication credentials were not provided."),
        ("Token no", "Invalid Token"),
        ("Token", "Invalid token header. No credentials provided."),
        ("Token a b", "Invalid token header. Token string should not contain spaces."),
    ],
)
def test_refused_credentials(portal: Portal, header: str | None, detail: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = portal.http.get("organizations/", headers=headers)
    refused(answer, 401, {"detail": detail})
    assert answer.headers["www-authenticate"] == "Token"
    open_to_all = portal.http.get("materials/", headers=headers)  # a bad token spoils this one too
    assert open_to_all.status_code == (200 if detail.startswith("Auth") else 401)


def test_an_expired_token_is_replaced_and_only_a_login_tells_by_what(portal: Portal) -> None:
    refused(portal.ask("GET", "users/", "inactive_token"), 401, {"detail": "User is not active"})
    refused(portal.ask("GET", "users/", "expired_token"), 401, {"detail": "The Token is expired"})
    refused(portal.ask("GET", "users/", "expired_token"), 401, {"detail": "Invalid Token"})
    asked = {"orcid": portal.known["expired_orcid"], "access_token": portal.known["expired_orcid_token"]}
    answer = portal.http.post("login/", json=asked)
    refused(answer, 400, {"error": "refresh_token parameter was not found in the request."})
    broken(portal.http.post("login/", json={**asked, "access_token": "wrong", "refresh_token": "r"}))
    found = portal.http.post("login/", json={**asked, "refresh_token": "r"}).json()
    assert (list(found), len(found["token"])) == (["user_id", "token", "expires"], 50)
    assert portal.http.get("users/", headers={"Authorization": f"Token {found['token']}"}).status_code == 200


def test_who_may_do_what_to_an_attachment(portal: Portal) -> None:
    forbidden = {"detail": "You do not have permission to perform this action."}
    number = portal.put(owned_by_org=portal.team)["id"]
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        refused(portal.ask(method, f"attachments/{number}/", "other_token"), 403, forbidden)
        refused(
            portal.ask(method, f"attachments/{number}/", ""),
            401,
            {"detail": "Authentication credentials were not provided."},
        )
    refused(portal.ask("GET", "attachments/"), 403, forbidden)
    assert portal.ask("GET", f"attachments/{number}", "staff_token").status_code == 200
    # … but the team's own page shows it to everybody who is signed in, and takes files from them.
    assert number in [each["id"] for each in portal.get(f"organizations/{portal.team}", "other_token")["attachments"]]
    planted = portal.put(who="other_token", owned_by_org=portal.team)
    assert (planted["owned_by_org"], planted["owned_by_user"]) == (portal.team, portal.known["other_user_id"])
    assert portal.ask("DELETE", f"attachments/{planted['id']}").status_code == 204  # a member may


# -- uploads ---------------------------------------------------------------------------------------------


def test_names_are_kept_as_they_come(portal: Portal) -> None:
    assert portal.put("dir/sub\\a.txt")["filename"] == "a.txt"
    assert portal.put("R&amp;D.txt")["filename"] == "R&D.txt"
    assert portal.put("y" * 300 + ".txt", filename="short")["filename"] == "short"
    portal.switch(long_key="accept")
    assert portal.put("y" * 300 + ".txt")["filename"] == "y" * 251 + ".txt"
    assert portal.put(filename="")["filename"] is None
    first, second = (portal.put("same.txt", owned_by_org=portal.team) for _ in range(2))
    assert first["id"] != second["id"]
    for name in ("..", "a/b", "../../etc/passwd", "two\nlines", "café", "cafe\u0301", "100%2F"):
        assert portal.put(filename=name)["filename"] == name
        assert portal.last["filename"] == name
        assert portal.patch(portal.last["id"], filename=f"{name}x").json()["filename"] == f"{name}x"
    assert portal.put(filename=" blank ")["filename"] == "blank"
    portal.switch(trim_names=False)
    assert portal.put(filename=" blank ")["filename"] == " blank "


def test_the_owner_is_the_caller_and_empty_files_are_files(portal: Portal, mode: str) -> None:
    made = portal.put("empty", b"", owned_by_user=portal.known["other_user_id"])
    assert made["owned_by_user"] == portal.known["user_id"]
    assert (portal.stored(made["id"]), httpx.get(made["download_url"]).content) == (b"", b"")
    assert made["created_at"][-8:-1].isdecimal() or "." in made["created_at"]
    assert made["created_at"].endswith("Z")


def test_uploads_that_the_program_breaks_on(portal: Portal) -> None:
    before = len(portal.rows())
    broken(portal.ask("POST", "attachments/"))
    broken(portal.ask("POST", "attachments/", files={"other": ("f", b"x")}))
    broken(portal.ask("POST", "attachments/", data={"file": "x"}))
    form = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nchunked\r\n--B--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    broken(portal.ask("POST", "attachments/", headers=headers, content=iter([form])))
    portal.switch(largest_file=9)
    broken(portal.ask("POST", "attachments/", files={"file": ("f", b"0123456789")}))
    broken(portal.ask("POST", "attachments/", files={"file": ("f", b"")}, data={"filename": "x" * 250}))
    assert len(portal.rows()) == before
    portal.switch(proxy_buffers=True, long_key="accept", largest_file=10**9)
    assert portal.ask("POST", "attachments/", headers=headers, content=iter([form])).status_code == 201
    assert portal.stored(portal.last["id"]) == b"chunked"
    assert portal.put(filename="x" * 250)["filename"] == "x" * 250


def test_other_kinds_of_body(portal: Portal) -> None:
    number = portal.put()["id"]
    for method, path in (("POST", "attachments/"), ("PATCH", f"attachments/{number}")):
        refused(
            portal.ask(method, path, json={"a": 1}),
            415,
            {"detail": 'Unsupported media type "application/json" in request.'},
        )
    truncated = {"headers": {"Content-Type": "multipart/form-data; boundary=B"}, "content": b"--B\r\nContent-Disp"}
    broken(portal.ask("POST", "attachments", **truncated))  # for the framework an empty form
    assert portal.ask("PATCH", f"attachments/{number}", **truncated).json()["filename"] == "f.txt"


def test_the_proxy_of_production_turns_large_bodies_away(portal: Portal, mode: str) -> None:
    answer = portal.ask("POST", "attachments/", files={"file": ("f", bytes(MIB))})
    assert answer.status_code == (413 if mode == "s3" else 201)
    portal.switch(body_limit=0)
    assert portal.ask("POST", "attachments/", files={"file": ("f", bytes(MIB))}).status_code == 201


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"owned_by_org": "999"}, {"owned_by_org": ['Invalid pk "999" - object does not exist.']}),
        ({"sequence_map_for": '{"id": 1}'}, {"sequence_map_for": ["Incorrect type. Expected pk value, received str."]}),
        ({"mta_materials": "999"}, {"mta_materials": ['Invalid pk "999" - object does not exist.']}),
        ({"s3_resource_deleted": "perhaps"}, {"s3_resource_deleted": ["Must be a valid boolean."]}),
    ],
)
def test_fields_that_are_wrong(portal: Portal, fields: dict[str, str], problem: Any) -> None:
    before = len(portal.rows())
    refused(portal.ask("POST", "attachments/", files={"file": ("f", b"x")}, data=fields), 400, problem)
    assert len(portal.rows()) == before
    refused(portal.patch(portal.put()["id"], **fields), 400, problem)


# -- changes ---------------------------------------------------------------------------------------------


def test_patch_changes_what_it_names_and_never_bytes(portal: Portal) -> None:
    number = portal.put("f.txt", b"old", description="d", owned_by_org=portal.team, sequence_map_for=1)["id"]
    answer = portal.ask("PATCH", f"attachments/{number}/", files={"file": ("g", b"new")}, data={"description": "e"})
    assert (answer.status_code, answer.json()["description"], answer.json()["filename"]) == (200, "e", "f.txt")
    assert portal.stored(number) == b"old"
    cleared = portal.patch(number, sequence_map_for="", owned_by_org="").json()
    assert (cleared["sequence_map_for"], cleared["owned_by_org"], cleared["description"]) == (None, None, "e")
    gone = portal.patch(number, s3_resource_deleted="true").json()
    assert portal.patch(number, s3_resource_deleted="").json()["s3_resource_deleted"] is True
    assert (gone["s3_resource_deleted"], gone["download_url"]) == (True, None)
    assert portal.patch(number, owned_by_user=portal.known["other_user_id"]).status_code == 200
    assert portal.patch(number).status_code == 403


def test_put_needs_an_owner_and_erases_links(portal: Portal) -> None:
    number = portal.put(owned_by_org=portal.team)["id"]
    materials = [portal.material("pcDNA3-TP53"), portal.material("Two thousand plates")]
    for material in materials:
        answer = portal.ask("PATCH", f"materials/{material}/", json={"mta_attachment": number})
        assert (answer.status_code, answer.json()["mta_attachment"]) == (200, number)
    assert portal.patch(number, description="d").json()["mta_materials"] == materials
    path = f"attachments/{number}/"
    refused(portal.ask("PUT", path, data={"filename": "g"}), 400, {"owned_by_user": ["This field is required."]})
    done = portal.ask("PUT", path, data={"filename": "g", "owned_by_user": portal.known["user_id"]})
    assert (done.status_code, done.json()["mta_materials"], done.json()["filename"]) == (200, [], "g")
    assert portal.get(f"materials/{materials[0]}")["mta_attachment"] is None


def test_a_deleted_mta_still_shows_and_a_deleted_map_does_not(portal: Portal) -> None:
    material = portal.material("Kelly")
    map_, mta = (portal.put(who="other_token", sequence_map_for=material)["id"], portal.put(who="other_token")["id"])
    path = f"materials/{material}"
    assert portal.ask("PATCH", path, "other_token", json={"mta_attachment": mta}).status_code == 200
    for number in (map_, mta):
        assert portal.ask("DELETE", f"attachments/{number}", "other_token").status_code == 204
        assert portal.ask("DELETE", f"attachments/{number}", "other_token").status_code == 404
    found = portal.get(path)
    assert (found["mta_attachment"]["id"], found["needs_mta"]) == (mta, True)
    assert found["mta_attachment"]["download_url"]
    assert map_ not in [each["id"] for each in found["sequence_maps"]]
    own = portal.get(f"users/{portal.known['other_user_id']}", "other_token")["owned_attachments"]
    assert not {map_, mta} & {each["id"] for each in own}
    refused(
        portal.ask("PATCH", path, json={"mta_attachment": None}),
        403,
        {"detail": "You do not have permission to perform this action."},
    )
    assert portal.ask("PATCH", path, "other_token", json={"mta_attachment": None}).json()["needs_mta"] is False


def test_maps_follow_their_material_to_another_team(portal: Portal) -> None:
    teams = [team["id"] for team in portal.get(f"users/{portal.known['user_id']}/organizations", limit=99)["results"]]
    material = portal.material("Expression after knock-down of TP53")
    other = next(team for team in teams if team != portal.team)
    number = portal.put(sequence_map_for=material, owned_by_org=portal.team)["id"]
    for team in (other, portal.team):
        assert portal.ask("PATCH", f"materials/{material}/", json={"organization": team}).status_code == 200
        assert portal.rows(f"id = {number}")[0]["organization"] == team


def test_copy_works_in_one_mode_and_breaks_with_a_row_left_in_the_other(portal: Portal, mode: str) -> None:
    number = portal.put("f.txt", b"copied", sequence_map_for=1, owned_by_org=portal.team)["id"]
    path = f"attachments/{number}/copy"
    assert portal.ask("POST", f"{path}/").status_code == 404
    assert portal.ask("GET", path).status_code == 405
    for who in ("other_token", "staff_token"):
        answer = portal.ask("POST", path, who)
        assert (answer.status_code, answer.content) == (403, b"")
    broken(portal.ask("POST", "attachments/999999/copy"))
    assert portal.last["id"] == number
    answer = portal.ask("POST", path)
    assert portal.last["id"] > number
    if mode == "local":
        assert (answer.status_code, list(answer.json())) == (201, SUMMARY)
        assert answer.json()["sequence_map_for"]["id"] == 1
        assert portal.stored(portal.last["id"]) == b"copied"
        portal.patch(number, filename="g.txt")
        answer = portal.ask("POST", path)
    broken(answer)
    assert portal.last["blob"] is None
    if mode == "s3":
        assert portal.get(f"attachments/{portal.last['id']}")["download_url"] is None


# -- downloads -------------------------------------------------------------------------------------------


def test_presigned_addresses(portal: Portal) -> None:
    made = portal.put("w s#é.txt", b"0123456789")
    number, url = made["id"], made["download_url"]
    assert f"/attachment_{number}/w%20s%23%C3%A9.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&" in url
    plain = httpx.get(url)
    assert (plain.status_code, plain.content, plain.headers["content-type"]) == (
        200,
        b"0123456789",
        "binary/octet-stream",
    )
    assert plain.headers["etag"] == f'"{hashlib.md5(b"0123456789").hexdigest()}"'
    assert "content-disposition" not in plain.headers
    partial = httpx.get(url, headers={"Range": "bytes=2-4"})
    assert (partial.status_code, partial.content, partial.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    assert httpx.head(url).status_code == 403
    assert httpx.get(url, headers={"If-Match": '"other"'}).status_code == 412
    twice = httpx.get(url, headers={"Authorization": f"Token {portal.known['token']}"})
    assert (twice.status_code, b"<Code>InvalidArgument" in twice.content) == (400, True)
    for old, new in (
        (f"_{number}/", f"_{number - 1}/"),
        ("Expires=86400", "Expires=99999"),
        ("Signature=", "Signature=0"),
    ):
        forged = httpx.get(url.replace(old, new))
        assert (forged.status_code, b"SignatureDoesNotMatch" in forged.content) == (403, True)
    assert httpx.get(url.partition("?")[0]).status_code == 403
    empty = portal.put("empty", b"")["download_url"]
    assert httpx.get(empty, headers={"Range": "bytes=0-0"}).status_code == 416
    portal.switch(url_life_s=-1)
    late = httpx.get(portal.get(f"attachments/{number}")["download_url"])
    assert (late.status_code, b"Request has expired" in late.content) == (403, True)
    time.sleep(1.1)  # seconds are the grain of the signature
    portal.switch(url_life_s=86400.0)
    assert portal.get(f"attachments/{number}")["download_url"] != url


def test_an_object_that_went_up_in_parts_has_a_tag_of_parts(portal: Portal) -> None:
    portal.switch(body_limit=0)
    data = os.urandom(MIB) * 9
    tag = httpx.get(portal.put("large", data)["download_url"]).headers["etag"]
    outer = hashlib.md5(hashlib.md5(data[: 8 * MIB]).digest() + hashlib.md5(data[8 * MIB :]).digest())
    assert tag == f'"{outer.hexdigest()}-2"'


def test_a_missing_object_is_a_switch(portal: Portal) -> None:
    number = portal.put()["id"]
    with contextlib.closing(sqlite3.connect(portal.directory / "sandbox.sqlite")) as db, db:
        db.execute("UPDATE portal_attachments SET object = NULL WHERE id = ?", (number,))
    url = portal.get(f"attachments/{number}")["download_url"]
    assert b"NoSuchKey" in httpx.get(url).content
    portal.switch(missing_object_status=403)
    assert httpx.get(url).status_code == 403


def test_local_downloads(portal: Portal) -> None:
    portal.switch(mode="local")
    made = portal.put("w s#é.txt", b"0123456789")
    number, url = made["id"], made["download_url"]
    assert url == f"{portal.root}/v1/uploaded-file/attachment_{number}/w%20s%23%C3%A9.txt"
    assert portal.get(f"attachments/{number}")["download_url"] == url
    for headers in ({}, {"Authorization": "Token nonsense"}, {"Range": "bytes=2-4"}):
        answer = httpx.get(url, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert not {"etag", "last-modified", "accept-ranges"} & answer.headers.keys()
    assert httpx.head(url).headers["content-length"] == "10"
    assert 'attachment; filename="' in answer.headers["content-disposition"]
    broken(httpx.get(portal.put("part.txt", b"x", filename="field.txt")["download_url"]))
    broken(httpx.get(f"{portal.root}/v1/uploaded-file/attachment_1/{quote('no such')}"))
    portal.ask("DELETE", f"attachments/{number}")
    assert httpx.get(url).content == b"0123456789"
    portal.switch(mode="s3")
    assert httpx.get(url).status_code == 404


def test_a_line_end_in_a_name_breaks_local_lists(portal: Portal) -> None:
    portal.switch(mode="local")
    before = len(portal.rows())
    broken(portal.ask("POST", "attachments/", files={"file": ("f", b"x")}, data={"filename": "two\nlines"}))
    assert len(portal.rows()) == before
    portal.switch(newline_in_local_url="quote")
    assert portal.put(filename="two\nlines")["download_url"].endswith("/two%0Alines")
    portal.patch(portal.last["id"], filename="one line")


# -- the tree --------------------------------------------------------------------------------------------


def test_pages(portal: Portal) -> None:
    whole = portal.get("materials/", "", limit=100000)
    assert (whole["count"], len(whole["results"]), whole["next"], whole["previous"]) == (17, 17, None, None)
    first = portal.get("materials", "")
    assert (len(first["results"]), first["previous"]) == (10, None)
    assert first["next"] == f"{portal.root}/v1/materials?limit=10&offset=10"
    second = httpx.get(first["next"]).json()
    assert (second["results"], second["next"]) == (whole["results"][10:], None)
    assert second["previous"] == f"{portal.root}/v1/materials?limit=10"
    for senseless in (0, -3, "many"):
        assert len(portal.get("materials", "", limit=senseless)["results"]) == 10
    assert portal.get("materials", "", offset=99)["results"] == []


def test_only_the_callers_own_entry_is_whole(portal: Portal) -> None:
    private = {
        "owned_attachments",
        "addresses",
        "material_requests",
        "assignments",
        "invitations",
        "viewed_notifications_at",
    }
    users = portal.get("users/", limit=99)["results"]
    (own,) = [user for user in users if "owned_attachments" in user]
    assert (own["id"], private <= own.keys()) == (portal.known["user_id"], True)
    assert not any(private & user.keys() for user in users if user is not own)
    assert portal.get(f"users/{own['id']}/")["owned_organizations"]
    refused(portal.ask("GET", "users/nobody"), 404, {"detail": "Not found."})


def test_organizations_show_their_attachments(portal: Portal) -> None:
    listed = next(each for each in portal.get("organizations", limit=99)["results"] if each["id"] == portal.team)
    detail = portal.get(f"organizations/{portal.team}/", "other_token")
    assert list(detail) == list(listed)
    assert (listed["owner"], detail["owner"]["username"]) == (portal.known["user_id"], "AdaLab")
    assert [each["id"] for each in detail["attachments"]] == listed["attachments"]
    assert all(list(each) == SUMMARY and each["owned_by_org"] == portal.team for each in detail["attachments"])
    assert all(row["removed"] == 0 for row in portal.rows(f"id IN ({','.join(map(str, listed['attachments']))})"))
    assert detail["grants"][0]["funder_id"] == "ALSF-42"
    short = portal.get(f"organizations/{portal.team}/materials", "", limit=99)["results"]
    assert [each["id"] for each in short] == sorted(listed["materials"], reverse=True)
    assert "mta_attachment" not in short[0]
    assert portal.get("organizations/999/materials", "")["count"] == 0
    inner = f"organizations/{portal.team}/materials/{short[0]['id']}"
    assert [portal.ask("GET", path).status_code for path in (inner, f"{inner}99")] == [405, 404]
    teams = portal.get(f"users/{portal.known['user_id']}/organizations/", "other_token", limit=99)["results"]
    assert [team["id"] for team in teams] == sorted((team["id"] for team in teams), reverse=True)


def test_one_mta_serves_seven_materials_and_a_request_shows_its_documents(portal: Portal) -> None:
    (mta,) = [
        each
        for each in portal.get(f"organizations/{portal.team}")["attachments"]
        if each["filename"] == "TumourBankMTA.pdf"
    ]
    assert len(mta["mta_materials"]) == 7
    material = mta["mta_materials"][0]
    for path in ("material-requests/", f"materials/{material}/requests"):
        (found,) = portal.get(path, "other_token")["results"]
        documents = ("irb_attachment", "requester_signed_mta_attachment", "executed_mta_attachment")
        assert [found[name]["filename"] for name in documents] == [
            "SignedIRB.pdf",
            "RequesterSignedMTA.pdf",
            "ExecutedMTA.pdf",
        ]
    assert portal.get(f"attachments/{found['irb_attachment']['id']}")["requests_irb"][0]["id"] == found["id"]
    assert portal.ask("GET", f"materials/{material}/requests/").status_code == 404
    assert portal.get("material-requests", "staff_token")["count"] == 0
    assert portal.ask("GET", f"material-requests/{found['id']}", "staff_token").status_code == 403
    assert "requests" not in portal.get(f"materials/{material}", "")
    assert portal.get(f"materials/{material}")["requests"][0]["irb_attachment"] == found["irb_attachment"]["id"]
    assert portal.get(f"materials/{material}", "staff_token")["requests"] == []


def test_filters(portal: Portal) -> None:
    found = portal.get("materials", "", organization__id=portal.team, limit=1000)["results"]
    assert {each["organization"] for each in found} == {portal.team}
    assert portal.get("materials", "", category="PDX", needs_irb="true")["count"] == 7
    assert portal.get("materials", "", needs_irb="1")["count"] == 7
    assert portal.get("materials", "", is_archived="perhaps", unknown="x")["count"] == 17
    assert portal.get("material-requests", status="OPEN")["count"] == 0
    assert portal.get("material-requests", requester__id=portal.known["other_user_id"])["count"] == 1
    for name, value, text in [
        ("organization__id", "x", "Enter a number."),
        ("category", "X", "Select a valid choice. X is not one of the available choices."),
    ]:
        refused(portal.ask("GET", "materials", params={name: value}), 400, {name: [text]})


def test_formats_methods_and_paths(portal: Portal) -> None:
    assert "<html>" in portal.ask("GET", "materials", headers={"Accept": "text/html,*/*;q=0.8"}).text
    assert portal.ask("GET", "materials", headers={"Accept": "*/*"}).headers["content-type"] == "application/json"
    wrong = portal.ask("GET", "materials", headers={"Accept": "image/png"})
    refused(wrong, 406, {"detail": "Could not satisfy the request Accept header."})
    refused(portal.ask("POST", "organizations/"), 405, {"detail": 'Method "POST" not allowed.'})
    answer = portal.ask("GET", "organizations/")
    assert answer.headers["vary"] == "Accept, Origin"
    assert not {"etag", "last-modified", "cache-control"} & answer.headers.keys()
    assert portal.ask("HEAD", "organizations/").headers["content-length"] == answer.headers["content-length"]
    assert portal.ask("OPTIONS", "attachments").json()["actions"]["POST"]["download_url"]["read_only"] is True
    broken(portal.ask("GET", "materials/x"))
    for path in ("attachments/x", "attachments/999999", "organizations/x"):
        refused(portal.ask("GET", path), 404, {"detail": "Not found."})
    for path in ("nonsense", "", "attachments/1.5"):
        answer = portal.ask("GET", path)
        assert (answer.status_code, answer.text[:18]) == (404, "<h1>Not Found</h1>")
    front = httpx.get(f"{portal.root}/")
    assert (front.status_code, front.headers["location"]) == (302, "/v1/search/")


def test_search(portal: Portal) -> None:
    assert list(portal.get("search/", "")) == ["materials", "organizations", "users"]
    assert portal.get("search/materials/", "", search="sarcoma")["count"] == 2 + 1  # two of bone, one of muscle
    assert portal.get("search/organizations/", "", search="tumour")["results"][0]["id"] == portal.team
    assert portal.ask("GET", "search/users/", "").status_code == 401
    portal.switch(search_users_open=True)
    assert portal.get("search/users/", "", search="ada")["results"][0]["id"] == portal.known["user_id"]


def test_the_seed_holds_what_real_life_does(portal: Portal, tmp_path: Path) -> None:
    teams = portal.get("organizations", limit=99)["results"]
    assert [team["name"] for team in teams].count("Neuroblastoma cell lines") == 2
    assert [len(team["attachments"]) for team in teams if team["name"] == "Empty team"] == [0]
    archive = next(team for team in teams if team["name"] == "Plate reader archive")
    files = portal.get(f"organizations/{archive['id']}")["attachments"]
    assert len(files) >= 2000
    assert httpx.get(files[1999]["download_url"]).content == specimens.csv(12)
    (odd,) = [portal.get(f"organizations/{team['id']}")["attachments"] for team in teams if "Odd" in team["name"]]
    assert {"..", "a/b", "two\nlines.txt", None} <= {each["filename"] for each in odd}


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    number, rows = 0, 0
    for round_ in (1, 2):
        process, sandbox = start_sandbox(tmp_path)
        portal = Portal(sandbox)
        try:
            if round_ == 1:
                number, rows = portal.put("kept.txt", b"kept")["id"], len(portal.rows())
                assert "sites.portal" in sandbox.config.read_text()
            else:
                assert len(portal.rows()) == rows  # seeded once
                assert httpx.get(portal.get(f"attachments/{number}")["download_url"]).content == b"kept"
        finally:
            portal.http.close()
            sandbox.close()
            process.terminate()
            assert process.wait(10) == 0
            assert process.stdout is not None
            process.stdout.close()


def test_faults_have_the_portals_own_form(portal: Portal, running: Sandbox) -> None:
    running.faults(*({"action": "status", "service": "portal", "argument": status} for status in (401, 500, 503)))
    answers = [portal.ask("GET", "organizations") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [401, 500, 503]
    assert answers[0].headers["www-authenticate"] == "Token"
    broken(answers[1])
    assert "nginx" in answers[2].text
    assert answers[2].headers["retry-after"] == "1"
    running.faults()


# -- the signature, by the storage service's own library ---------------------------------------------------

SIGN = """
import sys
from botocore.config import Config
from botocore.session import Session
endpoint, bucket, key, access, secret = sys.argv[1:]
client = Session().create_client(
    "s3", region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id=access, aws_secret_access_key=secret,
    config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
)
print(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=86400))
"""


@pytest.fixture(scope="session")
def botocore() -> Path:
    """The interpreter of an environment with the library, made once for all runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "labfs-tests" / f"portal-botocore-{BOTOCORE}"
    python, whole = home / "bin" / "python", home / "installed"
    if not whole.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"botocore=={BOTOCORE}"], check=True)
        whole.touch()
    return python


def test_addresses_signed_by_botocore_are_taken(portal: Portal, botocore: Path) -> None:
    for name in ("plain.txt", "w s#é~+&'.txt", "a/b (1).txt"):
        made = portal.put(data=name.encode(), filename=name)
        values = [portal.blobs, NAME, f"attachment_{made['id']}/{name}", "SANDBOXACCESSKEY"]
        done = subprocess.run(
            [botocore, "-c", SIGN, *values, portal.secret], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        theirs = done.stdout.strip()
        assert httpx.get(theirs).content == name.encode()
        parts, query = urlsplit(theirs), urlsplit(made["download_url"]).query
        assert (parts.path, len(parts.query)) == (urlsplit(made["download_url"]).path, len(query))
