"""The core of this process, in a trio thread of its own: made at the first call, again after a fork, ended at the exit.

A core needs a directory for itself (`Storage`): the first free one of a row that belongs to the configuration. A
process that was killed leaves its saves there: `labfs outbox list` shows them, and the next process that takes the
directory goes on with them, as the next mount does.

Tests: mount/test_fsspec.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import trio

from labfs.daemon import config, control, mounts
from labfs.daemon.answers import of_saves
from labfs.daemon.checks import Checks
from labfs.daemon.report import Report
from labfs.errors import LabfsError, secrecy, sentence, ungrouped
from labfs.fsspec.door import Door
from labfs.vfs import Storage, Vfs, assembled

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
log = logging.getLogger(__name__)

LAST_SAVES_S = 45.0  # at the exit, as after an unmount
END_S = 5.0  # for the thread to end, once the saves are done
LIBRARIES = ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))


def refusal(error: BaseException, path: str = "") -> OSError:
    """Return an error of the core as the OSError that Python raises for its errno, with its sentence."""
    if isinstance(error, ExceptionGroup):
        error = ungrouped(error)
    number = error.errno if isinstance(error, LabfsError | OSError) else None
    if not isinstance(error, LabfsError | OSError):
        log.error("A call failed; this is a mistake in labfs", exc_info=error)
    told = (
        OSError(number or errno.EIO, sentence(error), path) if path else OSError(number or errno.EIO, sentence(error))
    )
    told.__cause__ = error
    return told


class Core:
    """A core and its thread; `directory` is claimed until it ends. Raises OSError where it cannot begin."""

    def __init__(self, settings: config.Config) -> None:
        self.pid = os.getpid()
        self.open: weakref.WeakSet[Any] = weakref.WeakSet()  # files, to be closed at the exit
        self._config = settings
        self._place, number = _claimed(settings.path)
        self._storage = Storage(
            self._place.directory,
            self._place.cache,
            settings.cache_bytes,
            settings.disk_bytes >> (number + 1),  # so that all processes together keep what the configuration says
            settings.draft_names,
            settings.draft_s,
            lambda site, salt: next(one for one in settings.sites if one.name == site).account(salt),
        )
        self._begun: Future[tuple[Door, trio.Nursery, trio.lowlevel.TrioToken]] = Future()
        self._thread = threading.Thread(target=self._run, name="labfs", daemon=True)
        self._thread.start()
        try:
            self.door, self._nursery, self._token = self._begun.result()
        except BaseException as error:
            self._place.leave()
            raise refusal(error) from error
        self._earlier = set(self._left())
        self._end = Finalize(None, self.end, exitpriority=10)  # also in a child of multiprocessing, unlike `atexit`

    @property
    def alive(self) -> bool:
        return self.pid == os.getpid() and self._thread.is_alive()

    # -- calls ---------------------------------------------------------------------------------------

    def submit(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> Future[T]:
        """Run a coroutine function in the core. Cancelling the future cancels it there."""
        future: Future[T] = Future()
        scope = trio.CancelScope()

        async def answer() -> None:
            try:
                with scope:
                    result = await function(*args)
            except Exception as error:
                _settle(future, refusal(error))
                return
            except BaseException:
                _settle(future, _ended())
                raise
            _settle(future, _ended()) if scope.cancelled_caught else _settle(future, None, result)

        def cancelled(ended: Future[T]) -> None:
            if ended.cancelled():
                self._soon(scope.cancel)

        future.add_done_callback(cancelled)
        if not self._soon(lambda: self._nursery.start_soon(answer)):
            _settle(future, _ended())
        return future

    def call(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run a coroutine function in the core, and wait for it in this thread."""
        future = self.submit(function, *args)
        try:
            return future.result()
        finally:
            future.cancel()  # of a thread that was interrupted

    def elsewhere(self, function: Callable[[], object]) -> bool:
        """In the core's own thread, call a function in another one; false in all other threads.

        The garbage collector may close a file in any thread, and the core would wait for itself.
        """
        if threading.current_thread() is not self._thread:
            return False

        def called() -> None:
            try:
                function()
            except OSError as error:  # nobody is there to catch it
                _say(f"a file that nobody closed was not saved: {error.strerror or error}")

        threading.Thread(target=called, name="labfs-close").start()
        return True

    async def ask(self, function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        """Run a coroutine function in the core, and wait for it in asyncio."""
        return await asyncio.wrap_future(self.submit(function, *args))

    def _soon(self, function: Callable[[], object]) -> bool:
        """Call a function in the core's thread; false if that has ended."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)
            return True
        return False

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            if self._begun.done():
                log.critical("The core of this process ended", exc_info=error)
            else:
                self._begun.set_exception(error)

    async def _serve(self) -> None:
        _hide_secrets()
        share = self.share = self._config.share()
        sites = [settings.open(share) for settings in self._config.sites]
        self._ending = trio.Event()
        try:
            async with assembled(sites, self._storage, share) as vfs, trio.open_nursery() as nursery:
                report = Report(self._config, self._place, Checks(()), vfs, share, read_only=False)
                await nursery.start(control.listen, self._place.socket, partial(_answer, vfs, report))
                self._begun.set_result((Door(vfs), nursery, trio.lowlevel.current_trio_token()))
                await self._ending.wait()
                await vfs.finish(LAST_SAVES_S)
                nursery.cancel_scope.cancel()
        finally:
            for site in sites:
                await site.backend.aclose()

    # -- the end -------------------------------------------------------------------------------------

    def end(self) -> None:
        """Close what is still being written, finish saves, say what is left, and give the directory free."""
        if not self.alive:
            return
        for file in sorted(self.open, key=lambda one: hasattr(one, "raw")):  # text before the bytes that it goes into
            try:
                file.close()
            except (OSError, ValueError) as error:
                _say(f"{file.name} was not saved: {getattr(error, 'strerror', None) or error}")
        self._soon(self._ending.set)
        self._thread.join(LAST_SAVES_S + END_S)
        self._place.leave()
        left = set(self._left()) - self._earlier
        if left:
            _say(f"{len(left)} save(s) have not reached their server; their bytes are safe: labfs outbox list")

    def bury(self) -> None:
        """Let the parent process have what is its own: called in the child after a fork."""
        self._place.leave()

    def _left(self) -> list[Path]:
        return sorted(self._place.spool.glob("*.data"))


async def _answer(vfs: Vfs, report: Report, request: control.Request) -> dict[str, Any]:
    """Answer what `labfs status`, `why` and `outbox` ask about this process."""
    if request.get("op") != "status":
        return await of_saves(vfs, report, request)
    level = logging.getLevelName(log.getEffectiveLevel())
    return {**report.status(), "log": "the program's own", "level": level}


def _settle(future: Future[T], error: BaseException | None, result: Any = None) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(result) if error is None else future.set_exception(error)


def _ended() -> OSError:
    return OSError(errno.ESHUTDOWN, "labfs has ended in this process.")


def _claimed(path: Path) -> tuple[mounts.Place, int]:
    """Return the first place of a configuration that no other process has, and its number."""
    for number in itertools.count():
        place = mounts.Place(mounts.nameless(path, number))
        place.prepare()
        if not place.in_use() and place.claim():
            return place, number
    raise AssertionError("unreachable")


def _hide_secrets() -> None:
    """Keep secrets out of what libraries log, whose records go to a log that is not ours.

    What labfs itself logs goes there too, and nowhere if the program keeps none.
    """
    own = logging.getLogger("labfs")
    if not own.handlers:
        own.addHandler(logging.NullHandler())

    def hide(record: logging.LogRecord) -> bool:
        record.msg, record.args = secrecy.hidden(record.getMessage()), ()
        return True

    for name in LIBRARIES:
        logger = logging.getLogger(name)
        if not any(getattr(known, "__name__", "") == "hide" for known in logger.filters):
            logger.addFilter(hide)


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"labfs: {text}\n")


# -- the cores of this process ---------------------------------------------------------------------------

_cores: dict[Path, Core] = {}
_turns = [threading.Lock()]  # to make a core; a child of a fork begins with a lock of its own
_buried: list[Core] = []  # of the parent process: destroying one would end what is the parent's


def core_of(path: str | None = None) -> Core:
    """Return this process's core for a configuration, by default the one that a mount finds. Raises OSError."""
    named = (Path(path).expanduser() if path else config.default_path()).absolute()
    core = _cores.get(named)
    if core is not None and core.alive:
        return core
    with _turns[0]:
        core = _cores.get(named)
        if core is None or not core.alive:
            try:
                core = _cores[named] = Core(replace(config.load(named), path=named))
            except LabfsError as error:
                raise refusal(error) from error
        return core


def _forget() -> None:
    _turns[0] = threading.Lock()
    for core in _cores.values():
        core.bury()
    _buried.extend(_cores.values())
    _cores.clear()


os.register_at_fork(after_in_child=_forget)
