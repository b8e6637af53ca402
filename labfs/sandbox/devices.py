"""OAuth's device flow: a program shows an address, a person allows it there, and the program is given a token.

The two answers that programs see have the fields that the contract documents, and no others. The page is the
sandbox's own.

Tests: sandbox/test_basespace_device.
"""

from __future__ import annotations

import html
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

CLIENT_ID, CLIENT_SECRET = "sandbox-client", "sandbox-client-secret"
ACCESSES = ("BROWSE", "READ", "CREATE", "WRITE", "MOVETOTRASH", "EMPTY", "AUDIT")  # the first word of a scope
PAGE = """<!doctype html><title>Sandbox: allow a program</title><h1>Allow this program?</h1>
<p>It asks for: {scope}</p>
<form method="post"><button name="answer" value="allow">Allow</button>
<button name="answer" value="refuse">Refuse</button></form>"""


@dataclass(slots=True)
class Asked:
    scope: str
    answer: str = ""  # of the person: "allow", "refuse", or none yet


class Devices:
    """Programs that wait for a person. `give` makes a token of scopes; `url` is that of the service."""

    def __init__(self, url: Callable[[], str], give: Callable[[list[str]], str]) -> None:
        self._url = url
        self._give = give
        self._asked: dict[str, Asked] = {}  # by device code

    def routes(self, root: str) -> list[Route]:
        return [
            Route(f"{root}/oauthv2/deviceauthorization", self._begin, methods=["POST"]),
            Route(f"{root}/oauthv2/token", self._token, methods=["POST"]),
            Route("/oauth/device", self._page, methods=["GET", "POST"]),
        ]

    async def _begin(self, request: Request) -> Response:
        async with request.form() as form:
            said = {name: str(value) for name, value in form.items()}
        if said.get("client_id") != CLIENT_ID:
            return _no("invalid_client", "The client is not known.")
        if said.get("response_type") != "device_code":
            return _no("unsupported_response_type", "The response_type must be device_code.")
        scope = said.get("scope", "")
        if not scope or any(part.split()[0] not in ACCESSES for part in scope.upper().split(",") if part.strip()):
            return _no("invalid_scope", "The scope is not valid.")
        code = secrets.token_hex(16)
        self._asked[code] = Asked(scope)
        return JSONResponse(
            {"device_code": code, "verification_with_code_uri": f"{self._url()}/oauth/device?code={code}"}
        )

    async def _page(self, request: Request) -> Response:
        asked = self._asked.get(request.query_params.get("code", ""))
        if asked is None:
            return HTMLResponse("<!doctype html><p>This code is not known.", 404)
        if request.method == "POST":
            async with request.form() as form:
                asked.answer = str(form.get("answer", ""))
            return HTMLResponse("<!doctype html><p>Thank you. You can close this page.")
        return HTMLResponse(PAGE.format(scope=html.escape(asked.scope)))

    async def _token(self, request: Request) -> Response:
        async with request.form() as form:
            said = {name: str(value) for name, value in form.items()}
        if (said.get("client_id"), said.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return _no("invalid_client", "The client is not known, or its secret is wrong.")
        asked = self._asked.get(said.get("code", ""))
        if asked is None or said.get("grant_type") != "device":
            return _no("invalid_grant", "The code is not known.")
        if not asked.answer:
            return _no("authorization_pending", "User has not yet approved the request.")
        del self._asked[said["code"]]
        if asked.answer != "allow":
            return _no("access_denied", "The user refused the request.")
        return JSONResponse({"access_token": self._give([part.strip() for part in asked.scope.upper().split(",")])})


def _no(error: str, description: str) -> Response:
    return JSONResponse({"error": error, "error_description": description}, 400)
