"""Text from servers, which need not be valid text: no byte of a label may make the rest of an answer unreadable.

A byte that cannot be decoded becomes a lone surrogate, as in PEP 383 for file names: a name with one can be shown
(`names` escapes it), distinguished from others, and sent back as the byte that it was.

Tests: backends/test_texts.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus, urljoin, urlsplit

MARK = "\ufeff"  # the byte order mark
FORM = {"Content-Type": "application/x-www-form-urlencoded"}  # the header of what `urlencoded` makes
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_.:+-]+)", re.IGNORECASE)


def charset(headers: Mapping[str, str]) -> str | None:
    """Return the charset in an answer's Content-Type; None if there is none."""
    found = _CHARSET.search(headers.get("content-type", ""))
    return found[1] if found else None


def decoded(body: bytes, said: str | None = None) -> str:
    """Decode any body. UTF-8 is tried before the charset `said`, which servers give for every answer."""
    try:
        return body.decode(json.detect_encoding(body)).lstrip(MARK)
    except UnicodeDecodeError:
        pass
    try:
        if said is not None and codecs.lookup(said).name != "utf-8":
            return body.decode(said).lstrip(MARK)
    except (LookupError, UnicodeError):
        pass
    return body.decode("utf-8", "surrogateescape").lstrip(MARK)


def json_of(body: bytes, headers: Mapping[str, str]) -> Any:
    """Parse the JSON of a body, also with undecodable bytes and control characters in strings. Raises ValueError."""
    return json.loads(decoded(body, charset(headers)), strict=False)


def encoded(text: str) -> bytes:
    """Return the bytes of a text, also those that could not be decoded."""
    pieces = re.split("([\ud800-\udfff])", text)
    return b"".join(_half(piece) if index % 2 else piece.encode() for index, piece in enumerate(pieces))


def _half(letter: str) -> bytes:
    escaped = "\udc80" <= letter <= "\udcff"
    return letter.encode("utf-8", "surrogateescape" if escaped else "surrogatepass")


def urlencoded(fields: Mapping[str, str | list[str]]) -> str:
    """Return fields in the form of a query or an urlencoded body."""
    pairs = [(name, each) for name, value in fields.items() for each in ([value] if isinstance(value, str) else value)]
    return "&".join(f"{quote_plus(encoded(name))}={quote_plus(encoded(value))}" for name, value in pairs)


def address(url: str) -> str:
    """Return an address in ASCII, with other characters percent-encoded."""
    return url if url.isascii() else re.sub(r"[^\x00-\x7f]", lambda found: quote(encoded(found[0])), url)


def is_upgrade(url: str, other: str) -> bool:
    """Whether `other` is the https address, perhaps on another port, of the http address `url`."""
    asked, there = urlsplit(url), urlsplit(other)
    same = (asked.hostname, asked.path, asked.query) == (there.hostname, there.path, there.query)
    return same and (asked.scheme, there.scheme) == ("http", "https") and "@" not in there.netloc


def upgraded(url: str, asked: str, headers: Mapping[str, str]) -> str | None:
    """Return a site's `url` with https, if a redirect of the address `asked` leads to that address by https."""
    try:
        there = urljoin(asked, headers.get("location", ""))
        if is_upgrade(asked, there):
            return urlsplit(url)._replace(scheme="https", netloc=urlsplit(there).netloc).geturl()
    except ValueError:
        pass
    return None


# -- XML ---------------------------------------------------------------------------------------------------------

# Characters that no XML may contain (XML 1.0, Char), literally or as a numeric reference.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]|&#(?:x([0-9A-Fa-f]{1,8})|([0-9]{1,10}));")
_DECLARED = re.compile(r"""^\s*<\?xml\b[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9_.:-]+)["'][^>]*\?>""")
STAND_INS = 0x100000  # private-use characters that stand for those that no XML may contain


def xml_of(body: bytes, headers: Mapping[str, str]) -> str:
    """Return the text of XML that cannot be parsed as it is, with stand-ins for forbidden characters."""
    start = _DECLARED.match(body[:200].decode("latin-1").lstrip("\xef\xbb\xbf"))
    text = decoded(body, start[1] if start else charset(headers))
    return _UNFIT.sub(_stand_in, re.sub(r"^\s*<\?xml\b[^>]*\?>", "", text))


def _stand_in(match: re.Match[str]) -> str:
    number = int(match[1], 16) if match[1] else int(match[2]) if match[2] else ord(match[0])
    if number > 0x10FFFF or (match[0][0] == "&" and not _UNFIT.fullmatch(chr(number))):
        return match[0]
    return chr(STAND_INS + number)


def meant(text: str) -> str:
    """Return a text of such XML with the stand-ins replaced by the characters they stand for."""
    if text.isascii():
        return text
    return re.sub("[\U00100000-\U0010ffff]", lambda found: chr(ord(found[0]) - STAND_INS), text)
