"""One whole answer of a service: what it says of itself, of the time, and of the file that it is about.

Tests: unit/test_client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from labfs.errors import Malformed
from labfs.http.codings import told
from labfs.http.failures import now_s
from labfs.http.texts import json_of

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
        """The size in bytes of the file that a HEAD was about; None where its answer does not tell it."""
        return told(200, self.headers)

    @property
    def now_s(self) -> float:
        """The server's time, in seconds since 1970."""
        return now_s(self.headers)

    def since_s(self, wall_s: float, clock_s: float) -> float:
        """Return on the server's clock, or a little earlier, a moment that both of ours told.

        The first of ours can jump and the second stands still while the machine sleeps; where the answer has no
        date, theirs may differ from ours.
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
