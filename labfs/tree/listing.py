"""A listing that several wait for: how far it is, what became of it, and when there may be another.

A server may take long over a list, and goes on with it when nobody listens any more. So a listing belongs to
nobody who waits for it, what it has found so far can be shown before its end, and after one that was given up in
silence the server is left alone for a while.

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

MANY = 5000  # entries, which take too long to lay out while others wait
ANSWER_S = 1.5  # left of a caller's deadline to answer in
PAUSE_S = 5.0  # after a failure, while what is known is shown
LONG_S = 10.0  # what failed after this may still be under way at the server
LONGEST_REST_S = 120.0
LATELY_S = 600.0


class Known(Enum):
    """How much is known of a directory."""

    NOTHING = "nothing"
    PART = "part"  # what its first listing found so far
    KEPT = "kept"  # as an earlier mount listed it
    WHOLE = "whole"  # as this mount listed it, perhaps a while ago


class Listing(Flight):
    """A listing under way, and afterwards what became of it."""

    def __init__(self, progress: Progress | None = None) -> None:
        super().__init__()
        self._begin(progress or Progress())
        self.shown = trio.Event()  # there is something to show, or it is done

    def _begin(self, progress: Progress) -> None:
        self.progress = progress
        self.began, self.since_s = trio.current_time(), time.time()
        self.scope = trio.CancelScope()  # cancelled when a person wants the directory asked for anew

    def begin_anew(self) -> None:
        """Ask for the first page again, on behalf of all who wait already."""
        self._begin(Progress())


class Rest:
    """For how long a directory is not asked for again after its listing failed, longer from time to time."""

    def __init__(self) -> None:
        self.error: LabfsError | None = None
        self._began = self._until = float("-inf")
        self._silences = 0

    def begin(self, error: LabfsError, took_s: float, pause_s: float) -> None:
        """Begin the pause after a failure; a longer one where the server may still be at work."""
        self.error = error
        if isinstance(error, Unanswered) and error.lost and (error.silent or took_s >= LONG_S):
            pause_s = min(PAUSE_S * 2.0 ** min(self._silences, 10), LONGEST_REST_S)
            self._silences += 1
        self._began = trio.current_time()
        self._until = self._began + pause_s

    def end(self) -> None:
        """Record a successful listing."""
        self._silences, self.error = 0, None
        self._until = float("-inf")

    def cut(self) -> None:
        """End the pause, unless the server may still be at work on the last request."""
        if not self._silences:
            self._until = float("-inf")

    @property
    def lately(self) -> bool:
        """Whether the failure is recent enough to resume the list from where it broke off."""
        return trio.current_time() - self._began < LATELY_S

    @property
    def needed(self) -> bool:
        """Whether the server may still be at work on the last request."""
        return self.on and self._silences > 0

    @property
    def on(self) -> bool:
        return trio.current_time() < self._until


def answer_by() -> float:
    """Return when whoever asks now must have an answer, on trio's clock: a moment before the deadline that he has."""
    return trio.current_effective_deadline() - ANSWER_S


def unfinished(path: str, listing: Listing | None) -> str:
    """Return the sentence for a directory that is still being listed, with the progress."""
    if listing is None:
        return f"{path} has been listed in part only; try again in a while."
    count = len(listing.progress.found)
    since = time.strftime("%H:%M:%S", time.localtime(listing.since_s))
    far = f"{count:,} found so far" if count else "no answer yet"
    return f"{path} is being listed since {since}, {far}; try again in a while."


async def aside(entries: int, work: Callable[[], T]) -> T:
    """Run work over so many entries, in a thread where that would block the event loop too long."""
    return work() if entries < MANY else await trio.to_thread.run_sync(work)
