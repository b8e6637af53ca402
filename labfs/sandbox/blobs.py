"""The blob origin: an object store that serves presigned addresses and nothing else.

Strict as the real one: a signature for each object, an end to its life, no `Authorization` besides it. A token
in a header or a field that the store does not know is nothing to it.

Tests: sandbox/test_sandbox_faults, sandbox/test_cost.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable
from email.utils import formatdate
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from labfs.sandbox.store import Row, Store

CHUNK = 1024 * 1024
ACCESS_KEY = "SANDBOXACCESSKEY"
ENCRYPTION = {
    "": {"x-amz-server-side-encryption": "AES256"},
    "told": {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:us-east-1:000000000000:key/sandbox",
    },
    "silent": {},
}


def error(status: int, code: str = "InternalError", message: str = "We encountered an internal error.") -> Response:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>SANDBOX</RequestId></Error>"
    )
    return Response(body, status, media_type="application/xml")


class Blobs:
    """Signs addresses for services, and serves them."""

    def __init__(self, store: Store, secret: bytes) -> None:
        self._store = store
        self._secret = secret
        self.url = ""  # of this origin, known once it listens
        store.script("CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, blob TEXT, etag TEXT, modified REAL)")
        store.column("objects", "kms", "TEXT NOT NULL DEFAULT ''")
        self.refuses_tokens: Callable[[], bool] = lambda: False  # a service may decide it
        self.app = Starlette(
            routes=[
                Route("/{key}/{name:path}", self._get, methods=["GET", "HEAD"]),
                Route("/{key}/{name:path}", self._put, methods=["PUT"]),
            ]
        )

    def add(self, blob: str, etag: str, kms: str = "") -> str:
        """Make a blob reachable; return its key. Encrypted by KMS, it says so (`told`) or does not (`silent`)."""
        key = hashlib.md5(blob.encode(), usedforsecurity=False).hexdigest()
        columns = "key, blob, etag, modified, kms"
        sql = f"INSERT OR REPLACE INTO objects ({columns}) VALUES (?, ?, ?, ?, ?)"
        self._store.run(sql, key, blob, etag, time.time(), kms)
        return key

    def address(self, key: str, name: str, content_type: str, life_s: float) -> tuple[str, float]:
        """Return a presigned address and when it ends, in seconds since 1970."""
        until = time.time() + life_s
        path = f"/{key}/{quote(name if name.isprintable() and name.strip('.') else 'file')}"
        query = {
            "AWSAccessKeyId": ACCESS_KEY,
            "Expires": f"{until:.3f}" if life_s < 10 else str(int(until)),
            "response-content-disposition": f"filename={quote(name)}",
            "response-content-type": content_type,
        }
        query["Signature"] = self._sign(key, query["Expires"])
        return f"{self.url}{path}?{urlencode(query)}", until

    def place(self, key: str, name: str, life_s: float, kms: str, encryption: str) -> str:
        """Return a presigned address to put an object to; the request must name the `encryption`."""
        expires = str(int(time.time() + life_s))
        query = {"AWSAccessKeyId": ACCESS_KEY, "Expires": expires, "kms": kms, "encryption": encryption}
        query["Signature"] = self._sign(key, f"PUT {expires} {kms} {encryption}")
        path = f"/{key}/{quote(name if name.isprintable() and name.strip('.') else 'file')}"
        return f"{self.url}{path}?{urlencode(query)}"

    def held(self, key: str) -> Row | None:
        """Return the object of a key: its blob, tag and encryption."""
        return self._store.one("SELECT * FROM objects WHERE key = ?", key)

    async def _put(self, request: Request) -> Response:
        key, query = request.path_params["key"], request.query_params
        kms, encryption = query.get("kms", ""), query.get("encryption", "")
        refusal = self._refusal(request, key, f"PUT {query.get('Expires', '')} {kms} {encryption}")
        if refusal is not None:
            return refusal
        if request.headers.get("x-amz-server-side-encryption") != encryption:
            return error(403, "AccessDenied", "There were headers signed which were not present in the request")
        if "content-length" not in request.headers:
            return error(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        blob, _, md5 = await self._store.receive(request.stream())
        etag = md5 if not kms else hashlib.md5(f"kms {blob}".encode(), usedforsecurity=False).hexdigest()
        sql = "INSERT OR REPLACE INTO objects (key, blob, etag, modified, kms) VALUES (?, ?, ?, ?, ?)"
        self._store.run(sql, key, blob, etag, time.time(), kms)
        return Response(headers={"ETag": f'"{etag}"', **ENCRYPTION[kms]})

    def _sign(self, key: str, expires: str) -> str:
        digest = hmac.new(self._secret, f"{key}\n{expires}".encode(), hashlib.sha1).digest()
        return base64.b64encode(digest).decode()

    def _refusal(self, request: Request, key: str, meant: str | None = None) -> Response | None:
        query = request.query_params
        meant = query.get("Expires", "") if meant is None else meant
        token = "x-access-token" in request.headers or "access_token" in query
        if "authorization" in request.headers or (token and self.refuses_tokens()):
            text = "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string"
            return error(400, "InvalidArgument", text + " parameter or the Authorization header should be specified")
        if not hmac.compare_digest(query.get("Signature", ""), self._sign(key, meant)):
            return error(403, "SignatureDoesNotMatch", "The request signature does not match.")
        if time.time() > float(query["Expires"]):
            return error(403, "AccessDenied", "Request has expired")
        return None

    async def _get(self, request: Request) -> Response:
        key = request.path_params["key"]
        refusal = self._refusal(request, key)
        if refusal is not None:
            return refusal
        row = self._store.one("SELECT * FROM objects WHERE key = ?", key)
        if row is None:
            return error(404, "NoSuchKey", "The specified key does not exist.")
        path = self._store.path(row["blob"])
        size = path.stat().st_size
        headers = {
            "ETag": f'"{row["etag"]}"',
            "Accept-Ranges": "bytes",
            "Last-Modified": formatdate(row["modified"], usegmt=True),
            "Content-Disposition": request.query_params.get("response-content-disposition", ""),
            **ENCRYPTION[row["kms"]],
        }
        media_type = request.query_params.get("response-content-type", "application/octet-stream")
        wanted = request.headers.get("if-match")
        if wanted is not None and wanted not in ("*", headers["ETag"]):
            return error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        start, stop, status = 0, size, 200
        bounds = _range(request.headers.get("range"), size)
        if bounds is not None:
            start, stop = bounds
            if start >= size:
                refused = error(416, "InvalidRange", "The requested range is not satisfiable")
                refused.headers["Content-Range"] = f"bytes */{size}"
                return refused
            status = 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        headers["Content-Length"] = str(stop - start)
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=media_type)
        return StreamingResponse(_read(str(path), start, stop), status, headers, media_type)


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the half-open range of a `bytes=` header; None for a header that is ignored."""
    if header is None or not header.startswith("bytes=") or "," in header:
        return None
    first, _, last = header.removeprefix("bytes=").partition("-")
    try:
        if not first:
            return max(size - int(last), 0), size
        start = int(first)
        end = int(last) if last else max(size - 1, start)
    except ValueError:
        return None
    return None if end < start else (start, min(end + 1, size))


async def _read(path: str, start: int, stop: int) -> AsyncIterator[bytes]:
    # Read where it is called: the bytes are in the page cache, and a thread for each MiB costs more.
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while start < stop:
            chunk = file.read(min(CHUNK, stop - start))
            if not chunk:
                return
            start += len(chunk)
            yield chunk
