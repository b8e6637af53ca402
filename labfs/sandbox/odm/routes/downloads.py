"""The bytes of an attached file: whole, or one range of them.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from labfs.sandbox.odm.answers import Refusal
from labfs.sandbox.odm.shelf import Shelf
from labfs.sandbox.odm.switches import Switches
from labfs.sandbox.store import MIB, Row

BINARY = "application/octet-stream"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def answer(request: Request, shelf: Shelf, row: Row) -> Response:
    """Answer GET or HEAD. Raises Refusal where the bytes are lost or the range cannot be had."""
    switches, size = shelf.switches, int(row["size"])
    path = shelf.store.path(row["blob"]) if row["blob"] else None
    if path is None or not path.exists():
        raise Refusal(400, f"File GSF{row['number']} cannot be retrieved.")
    headers = _descriptive(row) if switches.descriptive_headers else {}
    if request.method == "HEAD":
        if switches.head_length:
            headers["Content-Length"] = str(size)
        return StreamingResponse(_read(path, 0, 0), 200, headers, BINARY)
    bounds = _bounds(request.headers.get("range"), size, switches)
    if bounds is None:
        return _whole(request, switches, path, size, headers)
    start, stop = bounds
    total = {"size": f"/{size}", "star": "/*"}.get(switches.range_total)
    if total is not None and start < stop:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}{total}"
    headers["Content-Length"] = str(stop - start)
    return StreamingResponse(_read(path, start, stop), 206, headers, BINARY)


def _whole(request: Request, switches: Switches, path: Path, size: int, headers: dict[str, str]) -> Response:
    body = _read(path, 0, size)
    if switches.compress and "gzip" in request.headers.get("accept-encoding", ""):
        return StreamingResponse(_gzip(body), 200, {**headers, "Content-Encoding": "gzip"}, BINARY)
    if switches.whole_length:
        headers["Content-Length"] = str(size)
    return StreamingResponse(body, 200, headers, BINARY)


def _descriptive(row: Row) -> dict[str, str]:
    return {
        "ETag": f'"{row["blob"]}"',
        "Last-Modified": formatdate(row["created"], usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="GSF{row["number"]}"',
    }


def _bounds(header: str | None, size: int, switches: Switches) -> tuple[int, int] | None:
    """Return the half-open range that a header asks for; None for the whole file. Raises Refusal."""
    if header is None or not switches.ranges:
        return None
    if "," in header:
        if switches.many_ranges_status == 200:
            return None
        raise Refusal(switches.many_ranges_status, "Supplying several ranges is not supported.")
    found = _RANGE.fullmatch(header.strip())
    if found is None or not (found[1] or found[2]):
        return None  # a header that makes no sense is as good as none
    if not found[1]:
        start, stop = max(size - int(found[2]), 0), size
    else:
        start, stop = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start < stop:
        return start, stop
    if switches.past_end_status == 206:
        return 0, 0
    if switches.past_end_status == 200:
        return None
    raise Refusal(switches.past_end_status, f"The file has {size} bytes.")


async def _gzip(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    async for chunk in body:
        yield packer.compress(chunk)
    yield packer.flush()


async def _read(path: Path, start: int, stop: int) -> AsyncIterator[bytes]:
    # Read where it is called: the bytes are in the page cache, and a thread for each MiB costs more.
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while start < stop:
            chunk = file.read(min(MIB, stop - start))
            if not chunk:
                return
            start += len(chunk)
            yield chunk
