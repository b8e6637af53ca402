"""How much a request is worth, for whoever sends it below: marks that go along with a task and those it begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_DISPENSABLE: ContextVar[bool] = ContextVar("dispensable", default=False)


@contextmanager
def dispensable() -> Iterator[None]:
    """Mark what is asked in here, and in tasks begun in here, as something that can be done without."""
    before = _DISPENSABLE.set(True)
    try:
        yield
    finally:
        _DISPENSABLE.reset(before)


def is_dispensable() -> bool:
    """Whether a request made now is worth no more than a second try."""
    return _DISPENSABLE.get()


_UNHURRIED: ContextVar[bool] = ContextVar("unhurried", default=False)


@contextmanager
def unhurried(yes: bool = True) -> Iterator[None]:
    """Mark what is asked in here as something that a server may take long over, and that nobody asks for twice."""
    before = _UNHURRIED.set(yes)
    try:
        yield
    finally:
        _UNHURRIED.reset(before)


def is_unhurried() -> bool:
    """Whether a request made now is let go on for as long as its server may be at work on it."""
    return _UNHURRIED.get() and not is_dispensable()
