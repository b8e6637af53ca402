"""The largest body that a site accepts, learnt from the bodies it refused (413) and accepted: no service tells it.

A body as large as the smallest refused one is not sent. Between the largest accepted and the smallest refused size, a
body in the lower half of the interval is sent; a larger one is refused here once, with a sentence, and sent when it is
retried. A refusal of a body so small that no server can mean it, a firewall's or an error's, is ignored; and the limit
is forgotten after `BELIEVED_S`, since limits are raised.

Tests: unit/test_client.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from labfs.errors import TooLarge

LEAST = 64 * 1024  # bytes of a body that any server accepts
BELIEVED_S = 600.0
SMALLER = "A smaller file may do; where the limit was raised since, ten minutes later it is tried again."


class Limit:
    """The bounds known of one site's limit, in bytes of a body."""

    def __init__(self, site: str) -> None:
        self._site = site
        self._taken = 0  # the largest size accepted
        self._refused: int | None = None  # the smallest size refused
        self._held: set[int] = set()  # sizes between them that were refused here once
        self._since = 0.0  # when the smallest was refused

    def most(self, size: int) -> int:
        """Return the largest size of a body that may be accepted, `size` at most."""
        self._forget()
        return size if self._refused is None else max(min(size, self._refused - 1), 0)

    @contextmanager
    def learning(self, size: int | None) -> Iterator[None]:
        """Check a body of `size` bytes, if any, before the block, and learn from its outcome. Raises TooLarge."""
        if size is None:
            yield
            return
        self.check(size)
        try:
            yield
        except TooLarge as error:
            if size < LEAST:
                raise
            raise TooLarge(f"{error.said} {self.refused(size)}").advised(error.remedy) from error
        self.taken(size)

    def check(self, size: int) -> None:
        """Raises TooLarge for a body that would surely, or probably, be refused."""
        self._forget()
        if self._refused is None or size <= (self._taken + self._refused) // 2:
            return
        if size >= self._refused:
            raise TooLarge(f"{self._known()} {size:,} bytes were not sent.").advised(SMALLER)
        if size not in self._held:
            self._held.add(size)
            raise TooLarge(f"{self._known()} {size:,} bytes are in between, and were not sent; saved again, they are.")

    def _forget(self) -> None:
        if self._refused is not None and time.monotonic() - self._since > BELIEVED_S:
            self._refused = None
            self._held.clear()

    def _known(self) -> str:
        taken = f"; {self._taken:,} were taken" if self._taken else ""
        return f"{self._site} takes less than {self._refused:,} bytes at a time{taken}."

    def refused(self, size: int) -> str:
        """Record a refusal; return the known limit as a sentence."""
        self._refused, self._since = min(size, self._refused or size), time.monotonic()
        self._taken = min(self._taken, self._refused - 1)  # the limit was lowered meanwhile
        return self._known()

    def taken(self, size: int) -> None:
        self._taken = max(size, self._taken)
        if self._refused is not None and self._refused <= size:
            self._refused = None  # the limit was raised meanwhile
