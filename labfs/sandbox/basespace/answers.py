"""What the BaseSpace stand-in answers: envelopes, errors, and how a request is read.

Tests: sandbox/test_basespace_sandbox, sandbox/test_guide.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

MIB = 1024 * 1024

FORBIDDEN = "BASESPACE.COMMON.INSUFFICIENT_RESOURCE_PERMISSIONS"
UNKNOWN = (
    "This isn't a recognized path. Please refer to the API documentation at"
    " https://developer.basespace.illumina.com/docs for the available resources."
)
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
USUAL = {  # headers of every recorded answer
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
    "X-Content-Type-Options": "nosniff",
    "X-BaseSpace-Source": "master/readonly",
    "Strict-Transport-Security": "max-age=10886400; includeSubDomains; preload",
}


class Compact(JSONResponse):
    """JSON without spaces and, as the real service sends it, without a Content-Length."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers({**USUAL, "X-Request-ID": "sandbox", **(headers or {})})
        if self.status_code < 400:
            self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]


def error(status: int, message: str = "Internal Server Error", code: str | None = None) -> Response:
    answer: dict[str, Any] = {"Message": message}
    if code:
        answer["ErrorCode"] = code
    body = {"ResponseStatus": answer, "Notifications": [{"Type": "error", "Item": message}]}
    return Compact(body, status, media_type="application/json; charset=utf-8")


def single(found: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Compact({"Response": found, "ResponseStatus": {}, "Notifications": []}, status, headers)


def moment(seconds: float | None, digits: int = 7) -> str:
    """Return an ISO time that shows seven digits of a second and knows the first ones of them."""
    if seconds is None:
        return "0001-01-01T00:00:00.0000000Z"
    utc = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond:06d}0"[:digits].ljust(7, "0") + "Z"


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def query_of(request: Request) -> dict[str, str]:
    """Return the query with its names in lower case: the service does not mind theirs."""
    return {name.lower(): value for name, value in request.query_params.items()}


async def fields_of(request: Request) -> dict[str, Any]:
    """Return what a body says, by name in lower case: it is JSON, or a form of either encoding."""
    body = await request.body()
    # Some clients send JSON and call it a form, as curl does by itself.
    if request.headers.get("content-type", "").startswith(FORMS) and not body.lstrip().startswith(b"{"):
        async with request.form() as form:
            return {name.lower(): value for name, value in form.items() if isinstance(value, str)}
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        raise Refusal(400, "The body is not valid JSON.", "BASESPACE.COMMON.BAD_REQUEST") from None
    if not isinstance(found, dict):
        raise Refusal(400, "The body is not a JSON object.", "BASESPACE.COMMON.BAD_REQUEST")
    return {name.lower(): value for name, value in found.items()}


async def body_of(request: Request) -> AsyncIterator[bytes]:
    """Yield the bytes of the file: the body, or the first file of a form."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        async for chunk in request.stream():
            yield chunk
        return
    async with request.form() as form:
        for value in form.values():
            if not isinstance(value, str):
                while chunk := await value.read(MIB):
                    yield chunk
                return


def check_md5(header: str | None, found: str, status: int) -> None:
    if header is None:
        return
    try:
        wanted = base64.b64decode(header, validate=True).hex()
    except binascii.Error:
        wanted = ""
    if wanted != found:
        raise Refusal(status, "The Content-MD5 does not match the body.", "BASESPACE.FILES.BAD_DIGEST")


def paging(shown: int, total: int, offset: int, limit: int, by: str) -> dict[str, Any]:
    return {"DisplayedCount": shown, "TotalCount": total, "Offset": offset, "Limit": limit,
            "SortDir": "Asc", "SortBy": by}  # fmt: skip


def v2(found: dict[str, Any]) -> dict[str, Any]:
    return {"Items": found.pop("Items"), "Paging": found}


async def refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    if request.url.path.startswith("/v2/"):
        body: dict[str, Any] = {
            "ErrorCode": refusal.code,
            "ErrorMessage": refusal.message,
            "RequestId": "sandbox",
            "AdditionalData": {},
        }
        return Compact(body, refusal.status)
    return error(refusal.status, refusal.message, refusal.code)


async def unknown(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return Compact({"ResponseStatus": {"Message": UNKNOWN}, "Notifications": []}, problem.status_code)
