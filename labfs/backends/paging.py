"""Pages of as many rows as a server makes in a few seconds, by what the page before took.

Of a page that is long in coming nothing can be shown, and its server looks like one that fell silent; many small ones
are slow where rows cost nothing. The cursor carries all that the next page needs: nothing is remembered here.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

FIRST = 100  # rows of the first page, which is to be there soon
PAGE_S = 3.0  # that a page is to take
LEAST = 10  # rows, however slow a page was


@dataclass(frozen=True, slots=True)
class Paging:
    """A page about to be asked for: `rows` at most, of which the first is number `offset` of the list."""

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
