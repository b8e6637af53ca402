"""The device flow, by which a person lets a program have a token without showing it one.

Facts used here, with their sources: both requests are forms, and a poll every 5 s is usual; while the person has not
answered, the answer is 400 with the error `authorization_pending` (contract of the vendor's clients). A program of its
own is registered in the developer portal, and has a `client_id` and a `client_secret`.

Tests: mount/test_login.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import trio

from labfs.backends.basespace.entries import API
from labfs.backends.common import Settings
from labfs.errors import Denied, Invalid, LabfsError, Malformed, TimedOut
from labfs.errors.secrecy import know
from labfs.http.client import Answer, Client, Request

POLL_S = 5.0
LONGEST_S = 1800.0  # for a person to answer
SCOPES = ("BROWSE GLOBAL", "READ GLOBAL", "CREATE GLOBAL", "WRITE GLOBAL")


def build(settings: Settings, client_id: str, client_secret: str) -> Device:
    know(client_secret)
    client = Client(
        settings.name,
        settings.url,
        dict,
        timeout_s=settings.timeout_s,
        proxy=settings.proxy,
        ca=settings.ca,
        explain=_explain,
    )
    return Device(client, client_id, client_secret)


class Device:
    """One request of a program for a token."""

    def __init__(self, client: Client, client_id: str, client_secret: str) -> None:
        self._client = client
        self._id, self._secret = client_id, client_secret
        self._code = ""

    async def begin(self) -> str:
        """Ask for a token; return the address at which a person allows that."""
        form = {"client_id": self._id, "scope": ",".join(SCOPES), "response_type": "device_code"}
        found = await self._post("deviceauthorization", form)
        self._code, page = str(found.get("device_code") or ""), str(found.get("verification_with_code_uri") or "")
        if not self._code or urlsplit(page).scheme not in ("http", "https"):
            raise Malformed(f"{self._client.site} did not say where to allow labfs; use a token of your own.")
        know(self._code)
        return page

    async def token(self) -> str:
        """Wait until the person has allowed it; return the token. Raises Denied if he refuses, TimedOut."""
        form = {"client_id": self._id, "client_secret": self._secret, "code": self._code, "grant_type": "device"}
        with trio.move_on_after(LONGEST_S):
            while True:
                try:
                    token = str((await self._post("token", form)).get("access_token") or "")
                except Invalid as error:
                    if "access_denied" in str(error):
                        raise Denied(f"{self._client.site}: the request was refused on the page.") from error
                    if "authorization_pending" not in str(error):
                        raise
                else:
                    know(token)
                    return token
                await trio.sleep(POLL_S)
        raise TimedOut(f"{self._client.site}: nobody allowed it within {LONGEST_S / 60:.0f} minutes.")

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _post(self, path: str, form: dict[str, str]) -> dict[str, Any]:
        found = (await self._client.call(Request("POST", f"{API}/oauthv2/{path}", form=form))).json()
        return found if isinstance(found, dict) else {}


def _explain(answer: Answer) -> str:
    try:
        body = answer.json()
        return f"{answer.what}: {body['error']} ({body.get('error_description') or 'without more words'})"
    except (LabfsError, KeyError, TypeError, AttributeError):
        return ""
