"""Answers to the kernel: each before its deadline, an errno for every failure, the same errno for a repeated request.

The kernel repeats a request that failed: a page of a read-ahead by itself, a lookup of a name whose entry it wanted
to revalidate. Two full deadlines would then pass in one call of a program. So the errno of a slow failure is stored
for `REPEATED_S`, and the repeated request is answered with it at once.

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

from labfs.errors import LabfsError, tracing
from labfs.vfs import Attributes

log = logging.getLogger(__name__)

DEADLINE_S = 17.0
REPEATED_S = 1.0  # after a failure, in which the kernel repeats a request; a program that retries takes longer
STEP_S = 0.05  # between two steps along a path
MOST_TASKS = 10_000
VALID_S = 1.0  # for which the kernel caches names and attributes
LONG_S = 0.5  # a request that failed faster than this may as well be retried


class Door(Protocol):
    """The interface that `answered` needs of the class with the handlers."""

    repeats: Repeats

    def failure(self, request: str, args: tuple[Any, ...], number: int, error: BaseException) -> FUSEError:
        """Return the error to answer a failed request with."""
        ...

    def passed(self, request: str, args: tuple[Any, ...]) -> None:
        """Record that a request succeeded."""
        ...

    def place(self, request: str, args: tuple[Any, ...]) -> str:
        """Return the path that a request is about."""
        ...

    def began(self, request: str, args: tuple[Any, ...]) -> float:
        """Return when the program's call that a request is part of began, on trio's clock."""
        ...

    def subject(self, request: str, args: tuple[Any, ...]) -> tuple[Hashable, range] | None:
        """Return the subject of a request that the kernel may repeat: a key, and a range of bytes; else None."""
        ...


P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound=Door)
Handler = Callable[Concatenate[D, P], Awaitable[R]]
Answer = Callable[Concatenate[D, P], Coroutine[Any, Any, R]]


def answered(deadline_s: float | None = DEADLINE_S) -> Callable[[Handler[D, P, R]], Answer[D, P, R]]:
    """Decorate a handler so that it answers within `deadline_s`, and with an errno for every exception."""

    def wrap(handler: Handler[D, P, R]) -> Answer[D, P, R]:
        name = getattr(handler, "__name__", "request").lstrip("_")

        async def attempt(self: D, *args: P.args, **kwargs: P.kwargs) -> R:
            subject, began = self.subject(name, args), self.began(name, args)
            if subject is not None:
                self.repeats.check(*subject)
            try:
                if deadline_s is None:  # a scope would cost half of what a small write does
                    return await handler(self, *args, **kwargs)
                with trio.CancelScope(deadline=began + deadline_s):  # a third of what `trio.fail_at` costs
                    return await handler(self, *args, **kwargs)
                number, error = errno.ETIMEDOUT, cast(Exception, TimeoutError())
            except FUSEError:
                raise
            except (LabfsError, OSError) as failure:
                number, error = failure.errno or errno.EIO, failure
            except Exception as failure:
                log.exception("%s failed; this is a mistake in labfs", name)
                number, error = errno.EIO, failure
            if subject is not None and trio.current_time() - began >= LONG_S:
                self.repeats.record(*subject, number)
            raise self.failure(name, args, number, error) from error

        @functools.wraps(cast(Callable[..., Any], handler))
        async def answer(self: D, *args: P.args, **kwargs: P.kwargs) -> R:
            traced = tracing.is_on()
            result = await (_traced(name, attempt, self, args) if traced else attempt(self, *args, **kwargs))
            self.passed(name, args)
            return result

        return cast(Answer[D, P, R], answer)

    return wrap


async def _traced(name: str, attempt: Callable[..., Awaitable[R]], door: Door, args: tuple[Any, ...]) -> R:
    """Answer a request marked with its path, and log how it ended if somebody follows that path."""
    path, began = door.place(name, args), trio.current_time()
    what = f"{name} {path}" + (f" [{args[2]} bytes at {args[1]}]" if name.endswith("read") else "")
    with tracing.serving(path) as followed:
        try:
            result = await attempt(door, *args)
        except FUSEError as error:
            if followed:
                shown = errno.errorcode.get(error.errno, str(error.errno))
                log.debug("%s -> %s after %.3f s", what, shown, trio.current_time() - began)
            raise
        if followed:
            log.debug("%s -> done in %.3f s", what, trio.current_time() - began)
        return result


def entry_attributes(found: Attributes, number: int, owner: tuple[int, int], least: int = 0) -> pyfuse3.EntryAttributes:
    """Return a node's attributes in the form of pyfuse3, with a size of at least `least` bytes."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = InodeT(number)
    kind, bits = (stat.S_IFDIR, 0o755) if found.is_dir else (stat.S_IFREG, 0o644)
    entry.st_mode = ModeT(kind | (bits if found.writable else bits & 0o555))
    entry.st_nlink = 2 if found.is_dir else 1
    entry.st_uid, entry.st_gid = owner
    entry.st_size = size = max(found.size, least)
    entry.st_blocks = -(-size // 512)
    entry.st_blksize = 1024 * 1024  # cp and cat then read and write as much at a time as one request can carry
    entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = found.modified_ns
    entry.entry_timeout = VALID_S
    entry.attr_timeout = VALID_S if found.certain else 0.0  # 0: the kernel asks again at each access
    return entry


def room(free: int) -> pyfuse3.StatvfsData:
    """Return the room of the file system: what fits is what the spool can hold, `free` bytes."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = 4096
    data.f_blocks = 2 * free // 4096  # half full always: `df` and file managers warn otherwise
    data.f_bavail = data.f_bfree = free // 4096
    data.f_files = data.f_ffree = data.f_favail = 1 << 32
    data.f_namemax = 255
    return data


class Walks:
    """The path walks of programs: a call has one deadline, however many names its path has.

    A request of a task for the inode that its last request returned is taken for a part of the same call.
    """

    def __init__(self) -> None:
        self._began: LRUCache[int, float] = LRUCache(MOST_TASKS)
        self._reached: LRUCache[int, tuple[int, float]] = LRUCache(MOST_TASKS)  # task → inode, and when

    def began(self, task: int, inode: int) -> float:
        """Return when the call began in which a task makes a request for an inode, on trio's clock."""
        now = trio.current_time()
        reached, at = self._reached.get(task, (0, 0.0))
        if reached != inode or now - at > STEP_S:
            self._began[task] = now
        return self._began.setdefault(task, now)

    def reached(self, task: int, inode: int) -> None:
        """Record the inode that a lookup of a task returned."""
        self._reached[task] = (inode, trio.current_time())


@dataclass(frozen=True, slots=True)
class Failure:
    bytes: range
    number: int  # errno
    until: float  # on trio's clock


class Repeats:
    """Recent failures, by the subject and the range of bytes of the request."""

    def __init__(self) -> None:
        self._failures: dict[Hashable, list[Failure]] = {}

    def record(self, thing: Hashable, wanted: range, number: int) -> None:
        self._expire()
        self._failures.setdefault(thing, []).append(Failure(wanted, number, trio.current_time() + REPEATED_S))

    def check(self, thing: Hashable, wanted: range) -> None:
        """Raise FUSEError if the start of the request lies in a range that failed within `REPEATED_S`."""
        now = trio.current_time()
        for failure in self._failures.get(thing, ()):
            if now < failure.until and wanted.start in failure.bytes:
                raise FUSEError(failure.number)

    def _expire(self) -> None:
        now = trio.current_time()
        alive = {thing: [f for f in failures if now < f.until] for thing, failures in self._failures.items()}
        self._failures = {thing: failures for thing, failures in alive.items() if failures}
