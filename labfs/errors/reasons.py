"""The reasons of failures, as plain sentences, stored by path for later queries.

Tests: mount/test_trouble.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from cachetools import LRUCache

from labfs.errors import sentence

KEPT = 1000  # paths


@dataclass(frozen=True, slots=True)
class Reason:
    path: str
    sentence: str
    when_s: float  # since 1970
    number: int  # grows, also while the clock goes back

    def __str__(self) -> str:
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(self.when_s))} {self.sentence}"


class Reasons:
    """The last error of each path, in an LRU cache."""

    def __init__(self) -> None:
        self._by_path: LRUCache[str, Reason] = LRUCache(maxsize=KEPT)
        self._count = 0

    def record(self, path: str, error: BaseException) -> None:
        self._count += 1
        self._by_path[path] = Reason(path, sentence(error) or type(error).__name__, time.time(), self._count)

    def forget(self, path: str) -> None:
        self._by_path.pop(path, None)

    def of(self, path: str) -> str | None:
        """Return date and sentence of the last error at a path."""
        # A path with a name that is not UTF-8 is stored as it is shown.
        reason = self._by_path.get(path.encode(errors="surrogateescape").decode(errors="backslashreplace"))
        return None if reason is None else str(reason)

    def latest(self, count: int = 20) -> list[Reason]:
        return sorted(self._by_path.values(), key=lambda reason: -reason.number)[:count]
