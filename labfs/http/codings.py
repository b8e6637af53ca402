"""Whether a body is a file's stored bytes, whatever its Content-Encoding header says.

Object stores return that header as it was stored with the file, also to clients that accept no coding (S3 and GCS
user metadata), and web servers derive it from the name of a file (`AddEncoding x-gzip .gz`). Such a body is the
file. A body that was compressed on its way, although `identity` was requested, is not: its length differs.

Tests: mount/test_codings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

CODINGS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})  # IANA, and their aliases


def is_labelled(headers: Mapping[str, str]) -> bool:
    """Whether Content-Encoding names a coding; values that are none, such as `utf-8` or `aws-chunked`, are ignored."""
    return any(name.strip().lower() in CODINGS for name in headers.get("content-encoding", "").split(","))


def total(status: int, headers: Mapping[str, str]) -> int | None:
    """Return the length in bytes of the whole that an answer is a part of, by its headers; None if not told."""
    text = headers.get("content-range", "").rpartition("/")[2] if status == 206 else headers.get("content-length", "")
    return _number(text)


def is_stored(status: int, headers: Mapping[str, str], size: int | None) -> bool | None:
    """Whether a body, or the requested range of one, has the stored bytes of a file of `size` bytes.

    None: only the length of the whole body will show. If the size is not known, an announced length is the file's,
    unless the server says that it chooses the coding.
    """
    if not is_labelled(headers):
        return True
    told, length = total(status, headers), _number(headers.get("content-length", ""))
    if told is None or (size is not None and told != size):
        return None if status != 206 and told is None and size is not None else False
    if status == 206:
        return None if length is None else length == _part(headers)  # a range can be compressed by itself
    return size is not None or "accept-encoding" not in headers.get("vary", "").lower()


def ends_surely(version: str, headers: Mapping[str, str]) -> bool:
    """Whether a truncated body would be noticed: not if only the end of the connection ends the body."""
    framed = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
    return framed or not version.startswith(("HTTP/0", "HTTP/1"))


def stated_size(status: int, headers: Mapping[str, str]) -> int | None:
    """Return the size in bytes of the file that an answer is about; None if not told."""
    return total(status, headers) if is_stored(status, headers, None) else None


def _part(headers: Mapping[str, str]) -> int | None:
    """Return the number of bytes in the Content-Range of an answer; None if it has none."""
    found = re.match(r"bytes ([0-9]{1,18})-([0-9]{1,18})/", headers.get("content-range", ""))
    return int(found[2]) - int(found[1]) + 1 if found else None


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
