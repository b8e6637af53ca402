"""Reading a whole list, page by page: the entries found so far, and resuming after an interruption.

Tests: core/test_hostile, core/test_slow_lists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from labfs.backend import Backend, Entry, Page
from labfs.errors import Unavailable

# A live list can shift while it is read page by page; after three scans that fail by this, give up.
SCANS = 3


@dataclass(slots=True)
class Progress:
    """How far a list was read: the entries found, and the cursor to resume at after an interruption."""

    found: dict[tuple[str, str | None], Entry] = field(default_factory=dict)  # one file may be in several directories
    left_out: int = 0
    remark: str | None = None  # why the list may be incomplete
    lacking: bool = False  # … and it is so for a while only
    cursor: str | None = None  # of the next page
    cursors: set[str] = field(default_factory=set)  # cursors that were returned so far

    def add(self, page: Page, parent: Entry) -> None:
        self.found.update(((entry.id, entry.inside), _possible(entry)) for entry in page.entries)
        self.left_out += page.left_out
        self.remark, self.lacking = page.remark or self.remark, page.lacking or self.lacking
        if page.cursor is not None and page.cursor in self.cursors:
            raise Unavailable(f"The list of “{parent.name}” leads back to where it has been.")
        self.cursors |= {page.cursor} if page.cursor is not None else set()
        self.cursor = page.cursor

    def restart(self) -> None:
        """Go back to the first page, and drop the entries found, which may be gone."""
        self.found, self.left_out, self.cursor, self.cursors = {}, 0, None, set()
        self.remark, self.lacking = None, False


async def scan(
    backend: Backend,
    parent: Entry,
    progress: Progress | None = None,
    told: Callable[[], None] = lambda: None,
) -> list[Entry]:
    """Return all entries in `parent`, each id once per directory, even if the list shifts between its pages.

    Resumes at `progress`; `told` is called after each page but the last. Raises Unavailable when three scans in a
    row came out shorter than the server's own count.
    """
    progress = progress or Progress()
    for _ in range(SCANS):
        while True:
            page = await backend.page(parent, progress.cursor)
            progress.add(page, parent)
            if progress.cursor is None:
                break
            told()
        if page.total is None or len(progress.found) + progress.left_out >= page.total:
            return list(progress.found.values())
        progress.restart()
    raise Unavailable(f"The list of “{parent.name}” kept changing while it was read.")


LARGEST = 2**63 - 1  # bytes or nanoseconds: the limit of a file system's attributes


def _possible(entry: Entry) -> Entry:
    """Return an entry with an impossible date removed, and with an impossible size marked as unreadable."""
    if entry.modified_ns is not None and not 0 <= entry.modified_ns <= LARGEST:
        entry = replace(entry, modified_ns=None)
    if entry.size is not None and not 0 <= entry.size <= LARGEST:
        sentence = f"The system says that “{entry.name}” has {entry.size} bytes, which no file can have."
        entry = replace(entry, size=0, unreadable=entry.unreadable or sentence)
    return entry
