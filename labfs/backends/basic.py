"""HTTP Basic, for passwords of any script.

Facts used here, with their sources: RFC 7617 names no encoding but UTF-8, which a server may announce; servers of
before read Latin-1 (Tomcat up to version 7, Jetty up to 9.2), and refuse what they misread as they refuse a wrong
password. Several refusals in a row lock an account, so that the other reading is tried once for a password.

Tests: unit/test_credentials.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable, Mapping

UTF_8, LATIN_1 = "utf-8", "latin-1"


class Basic:
    """The header of one login; `username` and `password` are read anew each time."""

    def __init__(self, username: Callable[[], str], password: Callable[[], str]) -> None:
        self._username = username
        self._password = password
        self._pair = ""  # for which the rest is known
        self._charset = UTF_8
        self._tried = False  # the other one

    def __call__(self) -> dict[str, str]:
        pair = unicodedata.normalize("NFC", f"{self._username()}:{self._password()}")
        if pair != self._pair:
            self._pair, self._charset, self._tried = pair, UTF_8, False
        return {"Authorization": f"Basic {base64.b64encode(pair.encode(self._charset)).decode()}"}

    def another(self, refused: Mapping[str, str]) -> bool:
        """Tell whether there is another header than the one that was refused, worth one more request."""
        if self() != refused:
            return True  # somebody else's request was refused before, or the password was renewed
        if self._tried or self._pair.isascii() or not _fits(self._pair):
            self._charset = UTF_8
            return False
        self._tried, self._charset = True, LATIN_1
        return True


def _fits(text: str) -> bool:
    try:
        text.encode(LATIN_1)
    except UnicodeEncodeError:
        return False
    return True
