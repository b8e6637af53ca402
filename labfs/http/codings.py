"""Whether a body is a file's stored bytes, whatever a Content-Encoding header calls them.

Object stores give that header back as it was put in beside the file, to clients that accept no coding as well (S3
and GCS user metadata), and web servers derive it from the name of a file (`AddEncoding x-gzip .gz`). Such a body is
the file. One that something packs on its way, although asked not to, is not: its length is another one.

Tests: mount/test_codings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

CODINGS = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})  # IANA, and their aliases


def is_labelled(headers: Mapping[str, str]) -> bool:
    """Return whether a body is labelled with a content coding; `utf-8` and `aws-chunked` are none."""
    return any(name.strip().lower() in CODINGS for name in headers.get("content-encoding", "").split(","))


def total(status: int, headers: Mapping[str, str]) -> int | None:
    """Return the length in bytes of all that an answer is a part of, as it says; None where it does not."""
    text = headers.get("content-range", "").rpartition("/")[2] if status == 206 else headers.get("content-length", "")
    return _number(text)


def is_stored(status: int, headers: Mapping[str, str], size: int | None) -> bool | None:
    """Return whether a body, or the requested part of one, is the file of `size` bytes as stored; None where unknown.

    None: that shows when the body has come to its end, by its length. Where the size is not known, a length that is
    announced is the file's, unless the server says that it chooses the coding.
    """
    if not is_labelled(headers):
        return True
    told, length = total(status, headers), _number(headers.get("content-length", ""))
    if told is None or (size is not None and told != size):
        return None if status != 206 and told is None and size is not None else False
    if status == 206:
        return None if length is None else length == _part(headers)  # a part can be packed for itself
    return size is not None or "accept-encoding" not in headers.get("vary", "").lower()


def ends_surely(version: str, headers: Mapping[str, str]) -> bool:
    """Return whether truncation of a body would be noticed: not where the end of the connection ends the body."""
    framed = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower()
    return framed or not version.startswith(("HTTP/0", "HTTP/1"))


def stated_size(status: int, headers: Mapping[str, str]) -> int | None:
    """Return the size in bytes of the file that an answer is about; None where it is not told."""
    return total(status, headers) if is_stored(status, headers, None) else None


def _part(headers: Mapping[str, str]) -> int | None:
    """Return how many bytes of the whole a part has."""
    found = re.match(r"bytes ([0-9]{1,18})-([0-9]{1,18})/", headers.get("content-range", ""))
    return int(found[2]) - int(found[1]) + 1 if found else None


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
