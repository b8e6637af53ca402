"""Pages of as many rows as a server makes in a few seconds, by what the page before took; and lists without pages.

Of a page that is long in coming nothing can be shown, and its server looks like one that fell silent; many small ones
are slow where rows cost nothing.

Tests: mount/test_rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from labfs.backend import is_unhurried, unhurried

FIRST = 100  # rows of the first page, which is to be there soon
PAGE_S = 3.0  # that a page is to take
LEAST = 10  # rows, however slow a page was


@dataclass(frozen=True, slots=True)
class Paging:
    """A page about to be asked for: `rows` at most, of which the first is number `offset` of the list.

    The cursor carries all that the next page needs; nothing is remembered.
    """

    offset: int
    rows: int
    began: float  # on trio's clock

    @classmethod
    def at(cls, cursor: str | None) -> Paging:
        offset, _, rows = (cursor or "0").partition("+")
        return cls(int(offset), int(rows or FIRST), trio.current_time())

    def then(self, came: int, total: int, most: int) -> str | None:
        """Return the cursor of the page after this one, which has just come with so many rows; None at the end."""
        end = self.offset + came
        if not came or end >= total:
            return None
        took_s = max(trio.current_time() - self.began, 1e-3)
        return f"{end}+{min(max(int(came * PAGE_S / took_s), LEAST), most)}"


class Usual:
    """What lists took that come in one answer: one that took long is let take long again, whoever asks for it.

    A first listing is given time by the core; a save that needs the same list would take its server for silent.
    """

    def __init__(self, timeout_s: float) -> None:
        self._long_s = timeout_s / 2
        self._took_s: dict[str, float] = {}

    @contextmanager
    def patience(self, name: str) -> Iterator[None]:
        """Ask for a list in here. What it took counts only if it came."""
        began, slow = trio.current_time(), self._took_s.get(name, 0.0) > self._long_s
        with unhurried(slow or is_unhurried()):
            yield
        self._took_s[name] = trio.current_time() - began
