"""The device flow of the stand-in, as the contract has it: forms, statuses and words, seen with plain HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from stage import Sandbox


@pytest.fixture
def ask(sandbox: Sandbox) -> Iterator[Any]:
    known = json.loads((sandbox.directory / "sandbox.json").read_text())["credentials"]["basespace"]
    own = {key: known[key] for key in ("client_id", "client_secret")}
    with httpx.Client(trust_env=False) as client:

        def post(path: str, **fields: str) -> tuple[int, Any]:
            form = {key: value for key, value in {**own, **fields}.items() if value}
            answer = client.post(f"{sandbox.url}/v1pre3/oauthv2/{path}", data=form)
            return answer.status_code, answer.json()

        yield post


BEGIN = {"scope": "browse global,read global", "response_type": "device_code"}


def test_a_token_is_given_once_when_it_is_allowed(sandbox: Sandbox, ask: Any) -> None:
    status, begun = ask("deviceauthorization", **BEGIN)
    assert (status, set(begun)) == (200, {"device_code", "verification_with_code_uri"})
    wait = {"code": begun["device_code"], "grant_type": "device"}
    status, answer = ask("token", **wait)
    assert (status, answer["error"], set(answer)) == (400, "authorization_pending", {"error", "error_description"})
    page = begun["verification_with_code_uri"]
    assert "browse global" in httpx.get(page, trust_env=False).text
    httpx.post(page, data={"answer": "allow"}, trust_env=False).raise_for_status()
    status, answer = ask("token", **wait)
    assert (status, set(answer)) == (200, {"access_token"})
    headers = {"x-access-token": answer["access_token"]}
    url = f"{sandbox.url}/v1pre3/oauthv2/token/current"
    token = httpx.get(url, headers=headers, trust_env=False).json()["Response"]
    assert token["Scopes"] == ["BROWSE GLOBAL", "READ GLOBAL"]
    assert ask("token", **wait)[1]["error"] == "invalid_grant"
    revoked = httpx.delete(f"{sandbox.url}/v2/oauthv2tokens/current", headers=headers, trust_env=False)
    assert revoked.status_code == 200
    assert httpx.get(url, headers=headers, trust_env=False).status_code == 401
    assert sandbox.api("GET", "users/current")["Name"] == "Ada Lab", "another token of the same user lives on"


@pytest.mark.parametrize(
    ("path", "fields", "error"),
    [
        ("deviceauthorization", {**BEGIN, "scope": "peek global"}, "invalid_scope"),
        ("deviceauthorization", {**BEGIN, "client_id": "somebody"}, "invalid_client"),
        ("deviceauthorization", {**BEGIN, "response_type": "code"}, "unsupported_response_type"),
        ("token", {"code": "none", "grant_type": "device"}, "invalid_grant"),
        ("token", {"code": "none", "grant_type": "device", "client_secret": "wrong"}, "invalid_client"),
    ],
)
def test_what_is_not_in_order_is_refused(ask: Any, path: str, fields: dict[str, str], error: str) -> None:
    status, answer = ask(path, **fields)
    assert (status, answer["error"]) == (400, error)


def test_a_person_can_refuse(ask: Any) -> None:
    begun = ask("deviceauthorization", **BEGIN)[1]
    httpx.post(begun["verification_with_code_uri"], data={"answer": "refuse"}, trust_env=False)
    status, answer = ask("token", code=begun["device_code"], grant_type="device")
    assert (status, answer["error"]) == (400, "access_denied")
