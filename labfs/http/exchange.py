"""A request as a value, and its whole answer: status, headers and body, the server's time, and a file's size.

Tests: unit/test_client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import trio

from labfs.backend import Source
from labfs.errors import Malformed, Unanswered
from labfs.http.codings import stated_size
from labfs.http.failures import is_page, now_s
from labfs.http.pace import Patience
from labfs.http.texts import FORM, json_of, urlencoded

LONGEST_ANSWER = 64 * 1024 * 1024  # bytes of JSON or XML; more is an attack or a mistake
SLACK_S, CLOCKS_S = 60.0, 3600.0  # by which the clocks of one system differ, and theirs from ours


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of at most `LONGEST_ANSWER` bytes; `what` names the request for messages."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    what: str

    @property
    def announced(self) -> int | None:
        """The size in bytes of the file, from the answer to a HEAD; None if not told."""
        return stated_size(200, self.headers)

    @property
    def now_s(self) -> float:
        """The server's time, in seconds since 1970."""
        return now_s(self.headers)

    def since_s(self, wall_s: float, clock_s: float) -> float:
        """Convert a moment, by this machine's wall clock and by trio's, to the server's clock, or a little earlier.

        The wall clock can jump, and trio's stands still while the machine sleeps; if the answer has no date, the
        server's clock may differ from ours.
        """
        slack_s = SLACK_S if "date" in self.headers else CLOCKS_S
        return min(wall_s, self.now_s - (trio.current_time() - clock_s)) - slack_s

    def json(self) -> Any:
        """Return the body's JSON. Raises Malformed for anything else, a web page above all."""
        try:
            return json_of(self.body, self.headers)
        except (ValueError, RecursionError) as error:
            kind = self.headers.get("content-type", "")
            page = "html" in kind or self.body.lstrip()[:1] == b"<"
            found = "a web page" if page else "something that is not JSON"
            raise Malformed(f"{self.what} answered with {found}; is the site's url right?") from error


def _any_answer(answer: Answer) -> None:
    """Accept every 2xx answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a site's API, and how it may be sent.

    The body is one of `form`, `json`, `body` (bytes) and `source` (bytes on disk). A request that is not `repeatable`
    is retried only if it surely was not carried out. `check` raises if a 2xx answer is no success after all:
    Unavailable has the request retried as any other.
    """

    method: str
    path: str  # or a whole address; relative to the site's
    params: Mapping[str, str] | None = None
    form: Mapping[str, str | list[str]] | None = field(default=None, repr=False)  # which may hold a token
    json: Any = field(default=None, repr=False)
    body: bytes | None = field(default=None, repr=False)
    source: Source | None = None
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    patience: Patience = Patience.PROMPT
    repeatable: bool = True
    signed: bool = False  # the address carries its own signature: sent without the site's credentials
    check: Callable[[Answer], None] = _any_answer

    @property
    def asks(self) -> bool:
        """Whether the request is a GET or a HEAD, which change nothing."""
        return self.method in ("GET", "HEAD")

    @property
    def content(self) -> bytes | str | None:
        return self.body if self.form is None else urlencoded(self.form)

    @property
    def may_be_lost(self) -> bool:
        """Whether the request may use a kept connection, and be lost: no change that must not be made twice may."""
        stored = self.source is not None
        return self.asks or (self.repeatable and (stored or self.patience is not Patience.PERSISTENT))

    def address(self, base: str) -> str:
        return urljoin(base, self.path) + (f"?{urlencoded(self.params)}" if self.params else "")

    def headers_with(self, credentials: Mapping[str, str]) -> Mapping[str, str]:
        return {**({} if self.form is None else FORM), **credentials, **(self.headers or {})}

    def accept(self, answer: Answer) -> None:
        """Raise if a 2xx answer does not mean that the request was carried out.

        A web page is no answer to a change: a proxy or gateway sent it, and the change may have been carried out
        behind that.
        """
        self.check(answer)
        if not self.asks and is_page(answer.headers, answer.body):
            raise Unanswered(
                f"{answer.what} answered with a web page; is the site under maintenance, or its url wrong?"
            )
