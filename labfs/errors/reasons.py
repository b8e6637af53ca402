"""The reasons of failures, as plain sentences: stored by path, found from below it, and dropped once they have passed.

A failure to look at a directory explains what is missing below it; the failure of a change, a rename say, explains the
path itself alone. What every program provokes (a name that is not there) is stored apart, so that it displaces nothing.

Tests: unit/test_reasons, mount/test_why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cachetools import LRUCache

from labfs.errors import TimedOut, Unauthorized, Unavailable, sentence

KEPT = 1000  # paths
INSIDE = 5  # reasons that are shown of what is in a directory
NAMING = frozenset({"lookup", "getattr"})
LISTING = frozenset({"opendir", "readdir"})
LOOKING = NAMING | LISTING
READING = frozenset({"open", "read"})
SAVE = "save"  # what a reason belongs to that a server's answer to a save gave
SAVING = frozenset({SAVE, "write", "flush", "fsync", "release"})  # whose reason holds until the file is saved


@dataclass(frozen=True, slots=True)
class Reason:
    path: str
    sentence: str
    when_s: float  # since 1970
    number: int  # grows, also while the clock goes back
    request: str = SAVE  # that failed
    cause: str = ""  # the class of the error
    of_site: bool = False  # the site did not answer, or refused the credentials: any path there would have failed
    at_s: float = 0.0  # on the monotonic clock

    def __str__(self) -> str:
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.when_s))} {self.sentence}"

    @property
    def site(self) -> str:
        return self.path.lstrip("/").partition("/")[0]


class Reasons:
    """The last error of each path, in two LRU caches: `heard` is called with each one that is news to a person."""

    def __init__(self) -> None:
        self._by_path: LRUCache[str, Reason] = LRUCache(maxsize=KEPT)
        self._usual: LRUCache[str, Reason] = LRUCache(maxsize=KEPT)  # that programs provoke all the time
        self._count = 0
        self.heard: Callable[[Reason], None] = lambda reason: None

    @property
    def any(self) -> bool:
        """Whether a reason is stored at all."""
        return bool(self._by_path or self._usual)

    def record(self, path: str, error: BaseException, request: str = SAVE, *, usual: bool = False) -> None:
        """Store the error of a request; a `usual` one does not replace one that is none."""
        if usual and path in self._by_path:
            return
        self._count += 1
        of_site = isinstance(error, Unauthorized | TimedOut | TimeoutError)
        of_site = of_site or (isinstance(error, Unavailable) and error.silent)
        reason = Reason(
            path, sentence(error) or type(error).__name__, time.time(), self._count, request, type(error).__name__,
            of_site, time.monotonic(),
        )  # fmt: skip
        (self._usual if usual else self._by_path)[path] = reason
        if not usual:
            self._usual.pop(path, None)
            self.heard(reason)

    def forget(self, path: str) -> None:
        """Drop the reason of a path: the file was saved."""
        self._by_path.pop(path, None)
        self._usual.pop(path, None)

    def passed(self, path: str, request: str) -> None:
        """Drop what failed at a path by such a request as has succeeded now, and below it if it was listed."""
        for kept in (self._by_path, self._usual):
            reason = kept.get(path)
            if reason is not None and _is_like(reason.request, request):
                del kept[path]
        if request == "opendir":
            self._drop(lambda reason: _is_inside(reason.path, path) and reason.request in LOOKING)

    def recovered(self, site: str, at_s: float) -> None:
        """Drop what failed because a site did not answer or refused the credentials, before it answered at `at_s`."""
        self._drop(lambda reason: reason.of_site and reason.request not in SAVING and reason.site == site
                   and reason.at_s < at_s)  # fmt: skip

    def _drop(self, gone: Callable[[Reason], bool]) -> None:
        for path in [path for path, reason in self._by_path.items() if gone(reason)]:
            del self._by_path[path]

    def of(self, path: str) -> str | None:
        """Return date and sentence of the last error at a path."""
        # A path with a name that is not UTF-8 is stored as it is shown.
        reason = self._by_path.get(path.encode(errors="surrogateescape").decode(errors="backslashreplace"))
        return None if reason is None else str(reason)

    def about(self, path: str) -> Reason | None:
        """Return the reason of a path, else the latest of the directories above it that could not be looked at."""
        path = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
        if path in self._by_path:
            return self._by_path[path]
        found = [
            reason
            for place in _upwards(path)
            for kept in (self._by_path, self._usual)
            if (reason := kept.get(place)) is not None and (place == path or reason.request in LOOKING)
        ]
        return max(found, key=lambda reason: reason.number, default=None)

    def inside(self, folder: str) -> list[Reason]:
        """Return the latest reasons of paths directly in a directory, without those that programs provoke."""
        return [reason for reason in self.latest(KEPT) if _is_inside(reason.path, folder)][:INSIDE]

    def is_usual(self, reason: Reason) -> bool:
        """Whether a reason is of those that programs provoke all the time."""
        return self._usual.get(reason.path) is reason

    def latest(self, count: int = 20) -> list[Reason]:
        return sorted(self._by_path.values(), key=lambda reason: -reason.number)[:count]


def _is_like(failed: str, request: str) -> bool:
    """Whether the success of a request shows that what failed before would succeed now."""
    if failed == request:
        return failed not in SAVING  # a save's own end tells that
    return any(failed in group and request in group for group in (NAMING, LISTING, READING))


def _is_inside(path: str, folder: str) -> bool:
    """Whether a path lies directly in a directory."""
    return path.rpartition("/")[0] == folder.rstrip("/")


def _upwards(path: str) -> Iterator[str]:
    path = path.rstrip("/")
    while path:
        yield path
        path = path.rpartition("/")[0]
    yield "/"
