"""Answers to the kernel: each in time, an errno for every failure, and the same errno when the kernel repeats itself.

The kernel asks a second time for what failed: a page of a read-ahead by itself, a name whose entry it wanted to
renew. Two full deadlines would then pass in one call of a program. So a failure that took long is remembered for
a moment, and its repetition is answered with it at once.

Tests: mount/test_patience.
"""

from __future__ import annotations

import errno
import functools
import logging
import stat
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import pyfuse3
import trio
from cachetools import LRUCache
from pyfuse3 import FUSEError, InodeT, ModeT

from labfs.errors import LabfsError
from labfs.vfs import Attributes

log = logging.getLogger(__name__)

DEADLINE_S = 17.0
REPEATED_S = 1.0  # after a failure, in which the same question is the kernel's; a program that tries again takes longer
STEP_S = 0.05  # between two steps along a path
MOST_TASKS = 10_000
VALID_S = 1.0  # for which the kernel believes names and attributes without asking
LONG_S = 0.5  # what failed faster than this may as well be tried again


class Door(Protocol):
    """What the `answered` decorator needs of the class with the handlers."""

    repeats: Repeats

    def failure(self, request: str, args: tuple[Any, ...], number: int, error: BaseException) -> FUSEError:
        """Return the answer to a request that failed."""
        ...

    def began(self, request: str, args: tuple[Any, ...]) -> float:
        """Return when the call of the program began that a request is part of, on trio's clock."""
        ...

    def subject(self, request: str, args: tuple[Any, ...]) -> tuple[Hashable, range] | None:
        """Return what a request asks for, if the kernel may repeat it: a thing, and the bytes of it."""
        ...


P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound=Door)
Handler = Callable[Concatenate[D, P], Awaitable[R]]
Answer = Callable[Concatenate[D, P], Coroutine[Any, Any, R]]


def answered(deadline_s: float | None = DEADLINE_S) -> Callable[[Handler[D, P, R]], Answer[D, P, R]]:
    """Make a handler answer in time, and with an errno whatever happens in it."""

    def wrap(handler: Handler[D, P, R]) -> Answer[D, P, R]:
        name = getattr(handler, "__name__", "request")

        @functools.wraps(cast(Callable[..., Any], handler))
        async def answer(self: D, *args: P.args, **kwargs: P.kwargs) -> R:
            subject, began = self.subject(name, args), self.began(name, args)
            if subject is not None:
                self.repeats.check(*subject)
            try:
                if deadline_s is None:  # a scope would cost half of what a small write does
                    return await handler(self, *args, **kwargs)
                with trio.fail_at(began + deadline_s):
                    return await handler(self, *args, **kwargs)
            except FUSEError:
                raise
            except trio.TooSlowError:
                number, error = errno.ETIMEDOUT, cast(Exception, TimeoutError("The site did not answer in time."))
            except (LabfsError, OSError) as failure:
                number, error = failure.errno or errno.EIO, failure
            except Exception as failure:
                log.exception("%s failed; this is a mistake in labfs", name)
                number, error = errno.EIO, failure
            if subject is not None and trio.current_time() - began >= LONG_S:
                self.repeats.record(*subject, number)
            raise self.failure(name, args, number, error) from error

        return cast(Answer[D, P, R], answer)

    return wrap


def entry_attributes(found: Attributes, number: int, owner: tuple[int, int]) -> pyfuse3.EntryAttributes:
    """Return what is known of a node in the kernel's form."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = InodeT(number)
    kind, bits = (stat.S_IFDIR, 0o755) if found.is_dir else (stat.S_IFREG, 0o644)
    entry.st_mode = ModeT(kind | (bits if found.writable else bits & 0o555))
    entry.st_nlink = 2 if found.is_dir else 1
    entry.st_uid, entry.st_gid = owner
    entry.st_size = found.size
    entry.st_blocks = -(-found.size // 512)
    entry.st_blksize = 1024 * 1024  # cp and cat then move as much at a time as one request can carry
    entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = found.modified_ns
    entry.entry_timeout = VALID_S
    entry.attr_timeout = VALID_S if found.certain else 0.0  # the kernel asks again when somebody looks
    return entry


class Walks:
    """The paths that programs are being led along: each call of theirs has one deadline, however many names it passes.

    A task that asks for something inside what it was just told of is in the same call still, as far as can be seen.
    """

    def __init__(self) -> None:
        self._began: LRUCache[int, float] = LRUCache(MOST_TASKS)
        self._reached: LRUCache[int, tuple[int, float]] = LRUCache(MOST_TASKS)  # task → inode, and when

    def began(self, task: int, inode: int) -> float:
        """Return when the call began in which a task asks for something about an inode."""
        now = trio.current_time()
        reached, at = self._reached.get(task, (0, 0.0))
        if reached != inode or now - at > STEP_S:
            self._began[task] = now
        return self._began.setdefault(task, now)

    def reached(self, task: int, inode: int) -> None:
        """Record that an inode was handed out to a task."""
        self._reached[task] = (inode, trio.current_time())


@dataclass(frozen=True, slots=True)
class Failure:
    bytes: range
    number: int  # errno
    until: float  # on trio's clock


class Repeats:
    """What failed a moment ago, by thing and by the bytes of it that were asked for."""

    def __init__(self) -> None:
        self._failures: dict[Hashable, list[Failure]] = {}

    def record(self, thing: Hashable, wanted: range, number: int) -> None:
        self._expire()
        self._failures.setdefault(thing, []).append(Failure(wanted, number, trio.current_time() + REPEATED_S))

    def check(self, thing: Hashable, wanted: range) -> None:
        """Raise FUSEError if this begins in what has just failed."""
        now = trio.current_time()
        for failure in self._failures.get(thing, ()):
            if now < failure.until and wanted.start in failure.bytes:
                raise FUSEError(failure.number)

    def _expire(self) -> None:
        now = trio.current_time()
        alive = {thing: [f for f in failures if now < f.until] for thing, failures in self._failures.items()}
        self._failures = {thing: failures for thing, failures in alive.items() if failures}
