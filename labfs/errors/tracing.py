"""What happens at one path: the log records of the tasks, and their threads, that serve a request of the kernel there.

A request's path goes along with its task in a context variable, also into the tasks that it begins: so a request to a
server, made several rooms below, is known to be made for that path. Nothing of this costs anything while nobody looks.

Tests: unit/test_tracing, mount/test_looking.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from labfs.errors.secrecy import Formatter

FORMAT = "%(asctime)s.%(msecs)03d %(message)s"
KEPT = 10_000  # lines that wait to be read

_served: ContextVar[str | None] = ContextVar("served", default=None)
_traces: set[Trace] = set()


class Trace(logging.Handler):
    """Collects the log lines of what serves requests for one path and those below it. `emit` is called in threads."""

    def __init__(self, path: str) -> None:
        super().__init__(logging.DEBUG)
        self._path = path.rstrip("/")
        self._lines: deque[str] = deque(maxlen=KEPT)
        self._dropped = 0
        self.setFormatter(Formatter(FORMAT, "%H:%M:%S"))

    def filter(self, record: logging.LogRecord) -> bool:
        return super().filter(record) is not False and self.is_about(_served.get())

    def is_about(self, path: str | None) -> bool:
        """Whether a path, or the second one of a rename, is the traced one or lies below it."""
        return path is not None and any(f"{each}/".startswith(f"{self._path}/") for each in path.split(" → "))

    def emit(self, record: logging.LogRecord) -> None:
        self._dropped += len(self._lines) == KEPT
        self._lines.append(self.format(record))

    def taken(self) -> list[str]:
        """Return the lines since the last call."""
        lines, dropped, self._dropped = [], self._dropped, 0
        while self._lines:
            lines.append(self._lines.popleft())
        return [*([f"… {dropped} lines were too many, and are not shown."] if dropped else []), *lines]


@contextmanager
def tracing(path: str, logger: logging.Logger) -> Iterator[Trace]:
    """Collect what happens at a path in the block; `logger` must let records of all levels through meanwhile."""
    trace = Trace(path)
    _traces.add(trace)
    logger.addHandler(trace)
    try:
        yield trace
    finally:
        logger.removeHandler(trace)
        _traces.discard(trace)


def is_on() -> bool:
    """Whether anything is traced."""
    return bool(_traces)


@contextmanager
def serving(path: str) -> Iterator[bool]:
    """Mark what is done in the block as done for a path; yields whether that path is traced."""
    before = _served.set(path)
    try:
        yield any(trace.is_about(path) for trace in _traces)
    finally:
        _served.reset(before)
