"""The older door of the vendor's scripts: a sign-in by token, and what they ask before an import.

Every answer is 200 and JSON: `{"result": …}`, or `{"error": …}` for a method that is not there. A session lives
in a cookie, for as long as the sandbox runs. Source: odm-sdk 1.64.1, `connection.py` and `import_ODM_data.py`.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from labfs.sandbox.odm.shelf import Shelf
from labfs.sandbox.store import Row

INVOKE = "/frontend/endpoint/application/invoke/genestack"
COOKIE = "JSESSIONID"
KINDS = {"authenticateByApiToken": "api-token", "authenticateOAuthAccessToken": "access-token"}
TEMPLATES = [{"accession": "GSF000042", "name": "Default Template", "isDefault": True}]


class SignIn:
    """Handlers of the two applications that the scripts invoke."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._sessions: dict[str, int] = {}  # cookie → user

    def routes(self) -> list[Route]:
        return [
            Route(f"{INVOKE}/signin/{{method}}", self._signin, methods=["POST"]),
            Route(f"{INVOKE}/study-metainfotemplateeditor/listTemplates", self._templates, methods=["POST"]),
        ]

    async def _signin(self, request: Request) -> Response:
        method, values = request.path_params["method"], await _values(request)
        if method in KINDS:
            return self._authenticate(self._owner(KINDS[method], values[0] if values else None))
        if method == "authenticate":
            return self._authenticate(None)  # nobody here has a password
        if method == "whoami":
            user = self._user(request)
            return _result(None if user is None else self._shelf.email(user))
        if method == "signOut":
            self._sessions.pop(request.cookies.get(COOKIE, ""), None)
            return _result(None)
        return JSONResponse({"error": f"There is no method {method}."})

    def _owner(self, kind: str, token: Any) -> Row | None:
        switches = self._shelf.switches
        if not (switches.api_tokens if kind == "api-token" else switches.access_tokens):
            return None
        sql = "SELECT user FROM odm_tokens WHERE token = ? AND kind = ? AND NOT revoked"
        return self._shelf.store.one(sql, str(token), kind)

    def _authenticate(self, row: Row | None) -> Response:
        answer = _result({"authenticated": row is not None})
        if row is not None:
            session = secrets.token_hex(16)
            self._sessions[session] = row["user"]
            answer.set_cookie(COOKIE, session, httponly=True)
        return answer

    def _user(self, request: Request) -> int | None:
        return self._sessions.get(request.cookies.get(COOKIE, ""))

    async def _templates(self, request: Request) -> Response:
        if self._user(request) is None:
            return JSONResponse({"error": "User is not authenticated."}, 401)
        return _result(TEMPLATES)


async def _values(request: Request) -> list[Any]:
    """Return the arguments of an invocation; none for a body that is no list."""
    try:
        found = json.loads(await request.body())
    except ValueError:
        return []
    return found if isinstance(found, list) else []


def _result(result: Any) -> Response:
    return JSONResponse({"result": result, "log": []})
