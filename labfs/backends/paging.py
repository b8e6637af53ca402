"""Pages of as many rows as a server makes in a few seconds, by what the page before took; and lists without pages.

Of a page that is long in coming nothing can be shown, and its server looks like one that fell silent; many small ones
are slow where rows cost nothing. Where a server makes its largest page in time, several are asked for at once: what one
page after the other costs far away is round trips.

Tests: unit/test_paging, mount/test_rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import trio

from labfs.backend import is_unhurried, unhurried
from labfs.errors import ungrouped

FIRST = 100  # rows of the first page, which is to be there soon
PAGE_S = 3.0  # that a page is to take
LEAST = 10  # rows, however slow a page was
AT_ONCE = 8  # pages, where each is as large as it may be and comes in time


Rows = tuple[list[Any], int]  # of a page, and how many the list has in all


@dataclass(frozen=True, slots=True)
class Paging:
    """A page about to be asked for: `rows` at most, of which the first is number `offset` of the list.

    The cursor carries all that the next page needs; nothing is remembered.
    """

    offset: int
    rows: int
    pages: int  # that are asked for at once, one behind the other
    began: float  # on trio's clock

    @classmethod
    def at(cls, cursor: str | None) -> Paging:
        offset, _, size = (cursor or "0").partition("+")
        rows, _, pages = size.partition("*")
        return cls(int(offset), int(rows or FIRST), int(pages or 1), trio.current_time())

    def then(self, came: int, total: int, most: int) -> str | None:
        """Return the cursor of what follows the rows that have just come, so many of all pages; None at the end."""
        end = self.offset + came
        if not came or end >= total:
            return None
        took_s = max(trio.current_time() - self.began, 1e-3)
        rows = min(max(int(came / self.pages * PAGE_S / took_s), LEAST), most)
        pages = min(-(-(total - end) // rows), AT_ONCE) if rows == most else 1
        return f"{end}+{rows}" if pages == 1 else f"{end}+{rows}*{pages}"

    async def joined(self, ask: Callable[[int, int], Awaitable[Rows]]) -> Rows:
        """Return the rows of all pages, and the total that was told; `ask` is given offset and number of a page's rows.

        A page that came short, but for the last, ends them: what lies behind the gap is asked for again.
        """
        if self.pages == 1:
            return await ask(self.offset, self.rows)
        came: dict[int, Rows] = {}

        async def one(number: int) -> None:
            came[number] = await ask(self.offset + number * self.rows, self.rows)

        try:
            async with trio.open_nursery() as nursery:
                for number in range(self.pages):
                    nursery.start_soon(one, number)
        except BaseExceptionGroup as group:
            raise ungrouped(group) from None
        rows: list[Any] = []
        for number in range(self.pages):
            found, total = came[number]
            rows += found
            if len(found) < self.rows:
                break
        return rows, total


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
