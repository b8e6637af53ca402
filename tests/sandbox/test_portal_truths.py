"""What the real Portal was seen to do when it was run: the cost of rows, the proxy, odd names, connections."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from portal_stage import ADA, BEN, Service
from stage import Sandbox

LARGE = b"x" * 900_000  # below the proxy's limit, above what connections hold of themselves


@pytest.fixture
def service(running: Sandbox) -> Iterator[Service]:
    service = Service(running)
    service.calm()
    before = service.counters()
    yield service
    running.faults()
    service.calm()
    service.forget(before)
    service.close()


def seconds(service: Service, path: str, who: str = "token", **params: Any) -> float:
    started = time.monotonic()
    service.get(path, who, **params)
    return time.monotonic() - started


def broken(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.text) == (500, "<h1>Server Error (500)</h1>")


# -- the cost of rows --------------------------------------------------------------------------------------


def test_an_attachment_that_is_prepared_costs_time(service: Service) -> None:
    mine = len(service.get(f"users/{ADA}/")["owned_attachments"])
    theirs = len(service.rows("user = ? AND NOT removed", BEN))
    assert (mine > 2000, theirs > 15) == (True, True)
    archive = service.team("Plate reader archive")
    (material,) = service.get(f"organizations/{archive}/materials/", "")["results"]
    bank = service.team("Tumour bank")
    attached = len(service.get(f"organizations/{bank}/")["attachments"])

    others = [index for index, each in enumerate(service.get("users/", limit=1000)["results"]) if each["id"] == BEN]

    service.switch(row_s=0.0003)
    assert seconds(service, "users/", limit=1000) > (mine + theirs) * 0.0003
    assert seconds(service, f"users/{ADA}/", "other_token") > mine * 0.0003
    assert seconds(service, f"materials/{material['id']}/", "") > 2000 * 0.0003
    service.switch(row_s=0.02)
    assert seconds(service, f"organizations/{bank}/") > attached * 0.02
    assert seconds(service, "users/", limit=1, offset=others[0]) > theirs * 0.02
    service.switch(row_s=5.0)
    free = [f"users/{ADA}/organizations/", f"organizations/{archive}/materials/", "organizations/"]
    assert all(seconds(service, path, limit=1000) < 5 for path in free)


def test_the_old_list_of_users_prepares_what_it_shows(service: Service) -> None:
    service.switch(row_s=0.005, users_prepare="own")
    assert seconds(service, "users/", "other_token", limit=1000) < 5


def test_an_abandoned_request_keeps_its_worker(service: Service, running: Sandbox) -> None:
    service.switch(workers=1, row_s=0.001)
    with pytest.raises(httpx.ReadTimeout):
        service.ask("GET", f"users/{ADA}/", timeout=0.2)
    started = time.monotonic()
    assert service.ask("GET", "organizations/", params={"limit": 1}).status_code == 200
    assert time.monotonic() - started > 1, "it waited for the one that nobody waits for"
    service.switch(workers=2)
    with pytest.raises(httpx.ReadTimeout):
        service.ask("GET", f"users/{ADA}/", timeout=0.2)
    assert seconds(service, "organizations/", limit=1) < 1.5, "the other worker is free"


# -- the proxy ---------------------------------------------------------------------------------------------


def test_the_proxy_gives_up_and_the_program_does_not(service: Service) -> None:
    service.switch(gateway_s=0.2, late_s=0.8)
    before = service.counters()["portal_attachments"]
    answer = service.ask("POST", "attachments/", files={"file": ("late.txt", b"late")})
    assert (answer.status_code, "504 Gateway Time-out" in answer.text, "nginx" in answer.text) == (504, True, True)
    assert service.rows("id > ?", before) == []
    for _ in range(100):
        if service.rows("id > ?", before):
            break
        time.sleep(0.05)
    assert [row["data"] for row in service.rows("id > ?", before)] == [b"late"]
    service.switch(late_s=0.0, gateway_s=10.0)
    assert service.ask("POST", "attachments/", files={"file": ("soon.txt", LARGE)}).status_code == 201
    assert service.get(f"users/{ADA}/organizations/")["count"] > 0


def test_a_slow_list_is_given_up_as_well(service: Service) -> None:
    service.switch(gateway_s=0.2, row_s=0.0005)
    assert service.ask("GET", f"users/{ADA}/").status_code == 504


# -- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["s3", "local"])
@pytest.mark.parametrize("name", [".", "..", "x/", "d/.", "d\\.."])
def test_parts_whose_names_are_none(service: Service, name: str, mode: str) -> None:
    service.switch(mode=mode)
    before = service.counters()
    fields = {"filename": "plain.txt"}
    broken(service.ask("POST", "attachments/", files={"file": (name, b"x")}, data=fields))
    assert service.counters() == before
    service.switch(dot_names="accept")
    assert service.ask("POST", "attachments/", files={"file": (name, b"x")}, data=fields).status_code == 201


@pytest.mark.parametrize("mode", ["s3", "local"])
def test_a_name_with_a_del_works(service: Service, mode: str) -> None:
    service.switch(mode=mode)
    name = "a\x7fb.txt"
    made = service.ask("POST", "attachments/", files={"file": (name, b"with DEL")}, data={"filename": name})
    assert (made.status_code, made.json()["filename"]) == (201, name)
    assert httpx.get(made.json()["download_url"], trust_env=False, verify=False).content == b"with DEL"


def test_a_raw_del_in_a_parts_name_works(service: Service) -> None:
    """A client that does not encode names sends the byte as it is."""
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a\x7fb.txt"\r\n\r\nwith DEL\r\n--b--\r\n'
    headers = {"Authorization": f"Token {service.known['token']}", "Content-Type": "multipart/form-data; boundary=b"}
    made = service.http.post("attachments/", content=body, headers=headers)
    assert (made.status_code, made.json()["filename"]) == (201, "a\x7fb.txt")


def test_blanks_at_the_ends_of_a_local_name_lose_the_bytes(service: Service) -> None:
    service.switch(mode="local")
    files = {"file": (" blank.txt ", b"x")}
    made = service.ask("POST", "attachments/", files=files, data={"filename": " blank.txt "}).json()
    broken(httpx.get(made["download_url"], trust_env=False, verify=False))
    service.switch(blank_ends_in_local="found")
    made = service.ask("POST", "attachments/", files=files, data={"filename": " blank.txt "}).json()
    assert httpx.get(made["download_url"], trust_env=False, verify=False).content == b"x"


def test_a_line_end_in_a_local_name_breaks_the_users_for_everybody(service: Service) -> None:
    service.switch(mode="local", newline_in_local_url="quote")
    number = service.put("plain.txt", b"x", "staff_token")
    service.switch(newline_in_local_url="error")
    with service.store() as db:  # the seed has one, of another user's
        db.execute("UPDATE portal_attachments SET removed = 1 WHERE filename LIKE ?", ("%\n%",))
    try:
        assert service.ask("GET", "users/", "other_token", params={"limit": 99}).status_code == 200
        service.ask("PATCH", f"attachments/{number}/", "staff_token", data={"filename": "two\nlines"})
        with service.store() as db:
            db.execute("UPDATE portal_attachments SET filename = ? WHERE id = ?", ("two\nlines", number))
        broken(service.ask("GET", "users/", "other_token", params={"limit": 99}))
        assert service.ask("GET", f"users/{ADA}/").status_code == 200
    finally:
        with service.store() as db:
            db.execute("UPDATE portal_attachments SET removed = 0 WHERE filename LIKE ?", ("%\n%",))


def test_organizations_of_who_is_no_user(service: Service) -> None:
    broken(service.ask("GET", "users/nobody/organizations/"))
    assert service.get("users/99999999-0f5a-4165-b518-b2386a753d6f/organizations/")["count"] == 0


# -- connections -------------------------------------------------------------------------------------------


def connection(service: Service) -> socket.socket:
    parts = urlsplit(service.url)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10)


def head(service: Service, method: str = "GET", path: str = "organizations/?limit=1", **more: str) -> bytes:
    headers = {"Host": "x", "Authorization": f"Token {service.known['token']}", **more}
    lines = [f"{method} /v1/{path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def answer_of(wire: socket.socket, patience_s: float = 5.0) -> tuple[bytes, bytes | None]:
    """Return an answer and what comes when the next one is awaited: None for a reset."""
    found = wire.recv(65536)
    length = int(found.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    while len(found.partition(b"\r\n\r\n")[2]) < length:
        found += wire.recv(65536)
    wire.settimeout(patience_s)
    try:
        return found, wire.recv(1)
    except ConnectionResetError:
        return found, None


@pytest.mark.parametrize(("status", "more"), [(b"401", {"Authorization": "Token wrong"}),
                                              (b"415", {"Content-Type": "application/json"})])  # fmt: skip
def test_an_early_refusal_of_a_large_body_ends_in_a_reset(
    service: Service, status: bytes, more: dict[str, str]
) -> None:
    def asked(length: int, patience_s: float = 5.0) -> tuple[bytes, bytes | None]:
        with connection(service) as wire:
            wire.sendall(head(service, "POST", "attachments/", **{"Content-Length": str(length), **more}))
            return answer_of(wire, patience_s)

    answer, after = asked(len(LARGE))
    assert (answer.split()[1], after) == (status, None)
    with pytest.raises(TimeoutError):
        asked(100, 0.3)  # the connection waits for the rest
    service.switch(early_reset=False)
    with pytest.raises(TimeoutError):
        asked(len(LARGE), 0.3)


def test_an_early_refusal_seen_by_a_client_that_sends_on(service: Service) -> None:
    """It may see the refusal or only the end of its connection; nothing is made in either case."""
    before = service.counters()
    headers = {"Authorization": "Token wrong"}
    with contextlib.suppress(httpx.TransportError):
        assert service.http.post("attachments/", files={"file": ("f", LARGE)}, headers=headers).status_code == 401
    assert service.counters() == before


def test_answers_without_date_and_connections_that_do_not_last(service: Service) -> None:
    def asked(patience_s: float = 5.0) -> tuple[bytes, bytes | None]:
        with connection(service) as wire:
            wire.sendall(head(service))
            return answer_of(wire, patience_s)

    with pytest.raises(TimeoutError):
        asked(0.3)
    service.switch(keep_alive="refused")
    answer, after = asked()
    assert (b"\r\nconnection: close" in answer.lower(), b"\r\ndate: " in answer.lower(), after) == (True, True, b"")
    service.switch(keep_alive="cut", dated=False)
    answer, after = asked()
    assert (b"\r\nconnection:" in answer.lower(), b"\r\ndate: " in answer.lower(), after) == (False, False, b"")
    service.switch(keep_alive="kept")
    assert "date" not in service.ask("GET", "organizations/").headers
    service.switch(dated=True)
    assert "date" in service.ask("GET", "organizations/").headers


# -- people and requests -----------------------------------------------------------------------------------


def test_nobody_is_among_the_users(service: Service) -> None:
    users = service.get("users/", limit=99)["results"]
    (nobody,) = [user for user in users if user["username"] == "AnonymousUser"]
    assert [nobody[name] for name in ("first_name", "last_name", "email")] == ["", "", ""]
    assert (nobody["personal_organization"], nobody["organizations"]) == (None, [])
    service.switch(anonymous_user=False)
    left = [user["id"] for user in service.get("users/", limit=99)["results"]]
    assert left == [user["id"] for user in users if user is not nobody]


def test_members_of_an_organization(service: Service) -> None:
    team = service.new_team(ADA, BEN).number
    found = service.get(f"organizations/{team}/members/")
    assert [each["id"] for each in found["results"]] == [BEN, ADA], "newest first"
    assert list(found["results"][0])[:3] == ["id", "username", "first_name"]
    assert service.ask("GET", f"organizations/{team}/members/", "staff_token").status_code == 403
    broken(service.ask("GET", "organizations/99999/members/"))
    one = service.ask("GET", f"organizations/{team}/members/{BEN}/")
    assert (one.status_code, one.json()) == (405, {"detail": "Cannot get single User by Organization."})
    assert service.ask("DELETE", f"organizations/{team}/members/{ADA}/").status_code == 400
    assert service.ask("DELETE", f"organizations/{team}/members/{ADA}/", "other_token").status_code == 400
    assert service.ask("DELETE", f"organizations/{team}/members/{BEN}/", "other_token").status_code == 204
    assert service.ask("GET", f"organizations/{team}/members/", "other_token").status_code == 403


def test_a_request_points_at_a_deleted_document_until_its_requester_changes_it(service: Service) -> None:
    (request,) = service.get("material-requests/", "other_token")["results"]
    path, old = f"material-requests/{request['id']}/", request["irb_attachment"]["id"]

    def change(who: str, **fields: Any) -> httpx.Response:
        return service.ask("PATCH", path, who, json=fields)

    try:
        assert service.ask("DELETE", f"attachments/{old}/", "other_token").status_code == 204
        for shown in (service.get(path, "other_token"), service.get("material-requests/")["results"][0]):
            assert (shown["irb_attachment"]["id"], bool(shown["irb_attachment"]["download_url"])) == (old, True)
        assert service.ask("GET", f"attachments/{old}/", "other_token").status_code == 404

        new = service.put("new IRB.pdf", b"signed", "other_token")
        assert change("token", irb_attachment=new).status_code == 403, "the sharer may not"
        assert change("staff_token", irb_attachment=new).status_code == 403
        broken(change("other_token", irb_attachment=None))
        assert change("other_token", executed_mta_attachment=new).status_code == 403
        assert change("other_token", irb_attachment=old).status_code == 400, "that one is deleted"
        assert change("other_token", irb_attachment=new).json()["irb_attachment"]["id"] == new
        assert service.rows("id = ?", new)[0]["organization"] == request["material"]["organization"]["id"]
        service.switch(null_document="accept")
        assert change("other_token", irb_attachment=None).json()["irb_attachment"] is None
    finally:
        with service.store() as db:
            db.execute("UPDATE portal_attachments SET removed = 0 WHERE id = ?", (old,))
            db.execute("UPDATE portal_requests SET irb = ? WHERE id = ?", (old, request["id"]))
