"""A listing that several tasks wait for: its progress, its outcome, and when the next may begin.

A server may take long over a list, and works on after the client has disconnected. So a listing outlives the tasks
that wait for it, the entries found so far can be shown before its end, and after one that timed out without an
answer no request is sent for a while.

Tests: core/test_slow_lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

import trio

from labfs.errors import LabfsError, Unanswered
from labfs.read.flight import Flight
from labfs.tree.scan import Progress

T = TypeVar("T")

MANY = 5000  # entries: more are laid out in a thread, so as not to block other tasks
ANSWER_S = 1.5  # left before a caller's deadline for the answer
PAUSE_S = 5.0  # after a failure, while the known entries are shown
LONG_S = 10.0  # a request that failed after this time may still be under way at the server
LONGEST_REST_S = 120.0
LATELY_S = 600.0


class Known(Enum):
    """How much is known of a directory."""

    NOTHING = "nothing"
    PART = "part"  # the entries that its first listing has found so far
    KEPT = "kept"  # as an earlier mount listed it
    SHARED = "shared"  # as another machine listed it a moment ago: enough to look and to read, not to change
    WHOLE = "whole"  # as this mount listed it, perhaps a while ago


class Listing(Flight):
    """A listing under way, and afterwards its outcome."""

    def __init__(self, progress: Progress | None = None) -> None:
        super().__init__()
        self._begin(progress or Progress())
        self.shown = trio.Event()  # there are entries to show, or the listing is done

    def _begin(self, progress: Progress) -> None:
        self.progress = progress
        self.began, self.since_s = trio.current_time(), time.time()
        self.scope = trio.CancelScope()  # cancelled when a person wants the directory listed anew

    def begin_anew(self) -> None:
        """Restart from the first page, for all tasks that wait already."""
        self._begin(Progress())


class Rest:
    """The pause after a directory's listing failed, in which it is not listed again; grows with each silence."""

    def __init__(self) -> None:
        self.error: LabfsError | None = None
        self._began = self._until = float("-inf")
        self._silences = 0

    def begin(self, error: LabfsError, took_s: float, pause_s: float) -> None:
        """Begin a pause of `pause_s`, or a longer one if the server may still work on the request that failed."""
        self.error = error
        if isinstance(error, Unanswered) and error.lost and (error.silent or took_s >= LONG_S):
            pause_s = min(PAUSE_S * 2.0 ** min(self._silences, 10), LONGEST_REST_S)
            self._silences += 1
        self._began = trio.current_time()
        self._until = self._began + pause_s

    def end(self) -> None:
        """End the pause: the directory was listed."""
        self._silences, self.error = 0, None
        self._until = float("-inf")

    def cut(self) -> None:
        """End the pause, unless the server may still work on the last request."""
        if not self._silences:
            self._until = float("-inf")

    @property
    def lately(self) -> bool:
        """Whether the failure is so recent that the listing can be resumed from its last page."""
        return trio.current_time() - self._began < LATELY_S

    @property
    def needed(self) -> bool:
        """Whether a pause is on because the server may still work on the last request."""
        return self.on and self._silences > 0

    @property
    def on(self) -> bool:
        return trio.current_time() < self._until


def answer_by() -> float:
    """Return when to answer the caller, on trio's clock: `ANSWER_S` before the deadline of the current task."""
    return trio.current_effective_deadline() - ANSWER_S


def unfinished(path: str, listing: Listing | None) -> str:
    """Return a sentence that a directory is still being listed, with the number of entries found so far."""
    if listing is None:
        return f"{path} has been listed in part only; try again in a while."
    count = len(listing.progress.found)
    since = time.strftime("%H:%M:%S", time.localtime(listing.since_s))
    far = f"{count:,} found so far" if count else "no answer yet"
    return f"{path} is being listed since {since}, {far}; try again in a while."


async def aside(entries: int, work: Callable[[], T]) -> T:
    """Run `work` on so many entries, in a thread if there are `MANY`, and return its result."""
    return work() if entries < MANY else await trio.to_thread.run_sync(work)
