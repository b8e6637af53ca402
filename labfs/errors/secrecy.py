"""The secrets that this process holds, kept out of sentences, logs and tracebacks.

The first line of defence is not to put a secret there: `http.failures` passes on no library's message that may quote
a request, and the `repr` of an object with a secret shows none. This is the second: a server can send a token back,
and a bug of ours prints any exception's message. So known secrets are removed in every encoding in which a request
sends them, and signatures are removed from addresses.

Tests: mount/test_secrets, unit/test_credentials.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from urllib.parse import quote, quote_plus

LEAST = 6  # characters of a secret that is searched for: a shorter one would match in ordinary words
HIDDEN = "…"

_known: dict[str, tuple[str, ...]] = {}  # secret → its encoded forms
_index: list[dict[str, list[str]]] = []  # one, or none: first characters → forms of all secrets, the longest first
_knowing = threading.Lock()

_LOGIN = re.compile(r"(?<=://)[^/\s@'\"<>“”]+@")
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?'\"<>“”]*\?)[^\s'\"<>“”)]+", re.IGNORECASE)
_SIGNED = re.compile(
    r"\b(signature|sig|x-amz-(?:signature|credential|security-token)|awsaccesskeyid|token|access_token|password)"
    r"=[^&\s'\"<>“”);,]+",
    re.IGNORECASE,
)


def know(secret: str) -> None:
    """Register a secret, to be removed from texts from now on."""
    if secret not in _known:
        with _knowing:
            _known[secret] = tuple(dict.fromkeys(_shapes(secret))) if len(secret) >= LEAST else ()
            _index.clear()  # rebuilt at the next use


def know_headers(credentials: Mapping[str, str]) -> None:
    """Register the values of credential headers as secrets, with and without the scheme before them."""
    for value in credentials.values():
        know(value)
        know(value.rpartition(" ")[2])


def hidden(text: str) -> str:
    """Return a text with its secrets, and the logins, queries and signatures of its addresses, replaced by `HIDDEN`."""
    text = _swept(text)
    if "://" in text:
        text = _QUERY.sub(rf"\1{HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", text))
    return _SIGNED.sub(rf"\1={HIDDEN}", text) if "=" in text else text


def _swept(text: str) -> str:
    """Replace known secrets in a text, in one pass: a site can have a token for each of a thousand projects."""
    forms = _forms()
    kept, begun, at = [], 0, 0
    while at <= len(text) - LEAST:
        found = next((form for form in forms.get(text[at : at + LEAST], ()) if text.startswith(form, at)), None)
        if found is None:
            at += 1
            continue
        kept += [text[begun:at], HIDDEN]
        begun = at = at + len(found)
    return "".join((*kept, text[begun:])) if kept else text


def _forms() -> dict[str, list[str]]:
    with _knowing:
        if not _index:
            made: dict[str, list[str]] = {}
            for form in sorted({form for forms in _known.values() for form in forms}, key=len, reverse=True):
                made.setdefault(form[:LEAST], []).append(form)
            _index.append(made)
        return _index[0]


def _shapes(secret: str) -> Iterator[str]:
    """Yield the forms of a secret in addresses, forms, headers, JSON, HTML, and Python's `repr`."""
    yield secret
    raw = secret.encode("utf-8", "surrogatepass")
    encodings = [raw]
    with suppress(UnicodeEncodeError):
        encodings.append(secret.encode("latin-1"))
    for data in encodings:
        for text in (quote(data, safe=""), quote(data), quote_plus(data)):
            yield text
            yield re.sub("%[0-9A-F]{2}", lambda escape: escape[0].lower(), text)
        yield repr(data)[2:-1]
        yield data.hex()
        yield from _base64(data)
    for ascii_only in (True, False):
        yield json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
    yield repr(secret)[1:-1]
    yield html.escape(secret)
    yield html.escape(secret, quote=False)


def _base64(data: bytes) -> Iterator[str]:
    """Yield the base64 of bytes at each offset modulo 3, such as after a user name and a colon."""
    for before in range(3):
        text = base64.b64encode(bytes(before) + data).decode()
        first, last = -(-before * 4 // 3), len(text.rstrip("=")) - (1 if (before + len(data)) % 3 else 0)
        if last - first >= LEAST:
            yield text[first:last]
            yield text[first:last].replace("+", "-").replace("/", "_")


class Formatter(logging.Formatter):
    """A log formatter that removes secrets, also from tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return hidden(super().format(record))


def guard_tracebacks() -> None:
    """Install hooks by which Python prints the tracebacks of uncaught exceptions without secrets."""

    def show(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
        if sys.stderr is not None:
            sys.stderr.write(hidden("".join(traceback.format_exception(kind, error, where))))

    sys.excepthook = show
    threading.excepthook = lambda args: show(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: show(args.exc_type, args.exc_value, args.exc_traceback)
