"""Presigned addresses in the way of S3, signature version 4, on the blob origin.

The bucket is one more folder of the blob origin: it checks what S3 checks of such an address and lets the
origin serve the bytes. The signature covers the method, so an address for GET refuses HEAD.
Source: Amazon S3, "Authenticating Requests: Using Query Parameters".

Tests: sandbox/test_portal_sandbox, sandbox/test_portal_truths.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from datetime import UTC, datetime
from functools import lru_cache
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.convertors import PathConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from labfs.sandbox import blobs as origin
from labfs.sandbox.blobs import ACCESS_KEY, Blobs
from labfs.sandbox.portal.shelf import Shelf

NAME = hashlib.md5(b"resources portal", usedforsecurity=False).hexdigest()
REGION = "us-east-1"
ALGORITHM = "AWS4-HMAC-SHA256"
INNER_LIFE_S = 60.0


class _Key(PathConvertor):
    """A key of the bucket: unlike a path, it may hold line ends."""

    regex = "(?s:.*)"


register_url_convertor("key", _Key())


class Bucket:
    """Signs keys of the bucket, and serves the addresses so made."""

    def __init__(self, shelf: Shelf, blobs: Blobs) -> None:
        self._shelf = shelf
        self._blobs = blobs
        row = shelf.store.one("SELECT value FROM portal_secrets WHERE name = 'signing'")
        assert row is not None
        self._secret: str = row["value"]
        # Before the origin's own route, whose pattern is as wide.
        blobs.app.router.routes.insert(0, Route(f"/{NAME}/{{key:key}}", self))

    def address(self, key: str) -> str:
        """Return a new address of a key, good for GET alone."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        query = _promise(stamp, int(self._shelf.switches.url_life_s))
        path = f"/{NAME}/{_encoded(key)}"
        signature = self._sign("GET", urlsplit(self._blobs.url).netloc, path, query, stamp, _scope(stamp))
        return f"{self._blobs.url}{path}?{query}&X-Amz-Signature={signature}"

    def _sign(self, method: str, host: str, path: str, query: str, stamp: str, scope: str) -> str:
        """Return the signature, in hex, of a request with no signed header but Host."""
        asked = "\n".join([method, path, query, f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"])
        digest = hashlib.sha256(asked.encode()).hexdigest()
        text = "\n".join([ALGORITHM, stamp, scope, digest])
        return hmac.new(_key(self._secret, scope), text.encode(), hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        refusal = self._refusal(request)
        row = None
        if refusal is None:
            sql = "SELECT * FROM portal_attachments WHERE s3_key = ? AND object IS NOT NULL"
            row = self._shelf.store.one(sql, request.path_params["key"])
        if row is None:
            await (refusal or self._missing())(scope, receive, send)
            return
        inner = urlsplit(self._blobs.address(row["object"], "object", "binary/octet-stream", INNER_LIFE_S)[0])
        changed = {"path": inner.path, "raw_path": inner.path.encode(), "query_string": inner.query.encode()}
        await self._blobs.app({**scope, **changed}, receive, _without_disposition(send))

    def _refusal(self, request: Request) -> Response | None:
        query = dict(parse_qsl(request.url.query, keep_blank_values=True))
        given = query.pop("X-Amz-Signature", None)
        if given is None or not {"X-Amz-Date", "X-Amz-Credential", "X-Amz-Expires"} <= query.keys():
            return origin.error(403, "AccessDenied", "Access Denied")
        if "authorization" in request.headers:
            return origin.error(400, "InvalidArgument", "Only one auth mechanism allowed")
        host, path = request.headers.get("host", ""), _encoded(request.scope["path"])
        stamp, scope = query["X-Amz-Date"], query["X-Amz-Credential"].partition("/")[2]
        if not hmac.compare_digest(given, self._sign(request.method, host, path, _query(query), stamp, scope)):
            text = "The request signature we calculated does not match the signature you provided."
            return origin.error(403, "SignatureDoesNotMatch", text)
        signed = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if time.time() > signed + int(query["X-Amz-Expires"]):
            return origin.error(403, "AccessDenied", "Request has expired")
        return None

    def _missing(self) -> Response:
        if self._shelf.switches.missing_object_status == 403:
            return origin.error(403, "AccessDenied", "Access Denied")
        return origin.error(404, "NoSuchKey", "The specified key does not exist.")


def _without_disposition(send: Send) -> Send:
    """Return `send` less the one header that this bucket's objects do not have."""

    async def passed(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message["headers"] if pair[0] != b"content-disposition"]
            message = {**message, "headers": kept}
        await send(message)

    return passed


def _encoded(path: str) -> str:
    return quote(path, safe="/~")


def _query(query: dict[str, str]) -> str:
    return "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in sorted(query.items()))


def _scope(stamp: str) -> str:
    return f"{stamp[:8]}/{REGION}/s3/aws4_request"


# A list of thousands has as many addresses: all of one second share these two.
@lru_cache(maxsize=16)
def _promise(stamp: str, life_s: int) -> str:
    """Return all of a query but its signature."""
    return _query(
        {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{ACCESS_KEY}/{_scope(stamp)}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(life_s),
            "X-Amz-SignedHeaders": "host",
        }
    )


@lru_cache(maxsize=16)
def _key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return key
