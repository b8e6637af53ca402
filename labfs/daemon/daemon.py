"""The daemon of one mount: set-up, announcement, signals, commands, and a clean end.

Tests: mount/test_cli, mount/test_trouble.
"""

from __future__ import annotations

import gc
import grp
import logging
import os
import pwd
import resource
import signal
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from labfs.backend import Entry
from labfs.daemon import control, mounts
from labfs.daemon.answers import of_saves
from labfs.daemon.checks import Checks
from labfs.daemon.config import Config
from labfs.daemon.logs import Log
from labfs.daemon.notices import Notices
from labfs.daemon.report import Report
from labfs.errors import ConfigError, Invalid, NotFound, TimedOut, Unsupported, ungrouped
from labfs.fuse import holders
from labfs.fuse.door import Door
from labfs.http.network import route, trust
from labfs.tree.node import Node
from labfs.tree.site import Site
from labfs.vfs import Storage, assembled
from labfs.vfs.remote.fetching import fetch
from labfs.vfs.remote.verifying import verify
from labfs.write.journal import State, saves
from labfs.write.spool import Spool

log = logging.getLogger(__name__)

LITTLE = 16 * 1024 * 1024  # bytes free in the spool, below which the user is warned
ASKED_S = 17.0  # for an answer to a command
TRACE_S = 0.1  # between two looks at what was traced
LAST_SAVES_S = 45.0  # for saves under way after an unmount
SIGNALLED_S = 5.0  # for them after a signal: the next mount continues the saves that are not done by then


@dataclass(frozen=True, slots=True)
class Options:
    """How to mount; `source` is what the mount table has as the source."""

    read_only: bool = False
    allow_other: bool = False
    source: str = "labfs"


class Daemon:
    """Serves `config` at `place`; `announce` is called with a sentence once the mount answers.

    With `until_fd`, the reading end of a pipe, it ends as by a signal when the process at the other end is gone.
    """

    def __init__(
        self,
        config: Config,
        place: mounts.Place,
        announce: Callable[[str], None],
        log: Log,
        options: Options,
        *,
        until_fd: int | None = None,
    ) -> None:
        self._config = config
        self._place = place
        self._announce = announce
        self._log = log
        self._options = options
        self._until_fd = until_fd
        self._serving = trio.CancelScope()

    def run(self) -> None:
        """Serve until unmounted or told to end. Raises ConfigError if the mount cannot begin."""
        os.chdir("/")  # the working directory could lie below the mount point
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
        _leave_no_core()
        # A listing of a million files makes millions of objects that stay: a garbage collection after every
        # few hundred more took two thirds of the time.
        gc.set_threshold(200_000, 50, 1000)
        try:
            trio.run(self._serve)
        except BaseExceptionGroup as group:
            raise ungrouped(group) from None

    async def _serve(self) -> None:
        share = self._config.share()
        sites = [settings.open(share, read_only=self._options.read_only) for settings in self._config.sites]
        try:
            async with trio.open_nursery() as nursery:
                self._checks = Checks(sites)
                await self._checks.run(nursery)
                if self._checks.hopeless:
                    raise ConfigError(" ".join(self._checks.doubts.values()))
                async with assembled(sites, self._storage(), share) as self._vfs:
                    self._vfs.files.yours.wanted = True
                    self._report = Report(
                        self._config, self._place, self._checks, self._vfs, share, read_only=self._options.read_only
                    )
                    await self._serve_door(nursery)
                nursery.cancel_scope.cancel()
        finally:
            for site in sites:
                await site.backend.aclose()

    async def _serve_door(self, nursery: trio.Nursery) -> None:
        door = self._door = Door(
            self._vfs,
            self._place.mountpoint,
            xattrs=self._config.xattrs,
            previews=self._config.previews_bytes,
        )
        self._mount(door)
        try:
            notices = Notices()
            self._vfs.reasons.heard = notices.hear
            nursery.start_soon(notices.run)
            nursery.start_soon(self._watch_signals)
            if self._until_fd is not None:
                nursery.start_soon(self._watch_end, self._until_fd)
            await nursery.start(control.listen, self._place.socket, self._answer)
            nursery.start_soon(self._greet, door)
            # Each request under way has a task, also each of many closes on a slow site.
            with self._serving:  # waits for saves under way, but not for ever
                await pyfuse3.main(max_tasks=10_000)
            await self._vfs.finish(min(LAST_SAVES_S, self._serving.deadline - trio.current_time()))
        finally:
            pyfuse3.close(unmount=True)

    def _storage(self) -> Storage:
        config, place = self._config, self._place
        sites = {settings.name: settings for settings in config.sites}
        return Storage(
            place.directory,
            place.cache,
            config.cache_bytes,
            config.disk_bytes,
            config.draft_names,
            config.draft_s,
            lambda site, salt: sites[site].account(salt),
        )

    def _mount(self, door: Door) -> None:
        source = self._options.source.replace("\\", "\\\\").replace(",", "\\,")  # as libfuse reads its options
        options = {f"fsname={source}", "subtype=labfs", "default_permissions", "noatime"}
        if self._options.allow_other:
            options.add("allow_other")
        if self._options.read_only:
            options.add("ro")
        try:
            with mounts.hearing() as said:
                pyfuse3.init(door, self._place.mountpoint, options)
        except RuntimeError as error:
            raise mounts.refusal(self._place.mountpoint, said) from error

    async def _greet(self, door: Door) -> None:
        """Announce the mount once its read-ahead is set, which applies to files opened from then on."""
        await door.greeted.wait()
        there = mounts.mounted_at(self._place.mountpoint)
        door.closers.device = door.news.device = there.device if there is not None else None
        await trio.sleep(0.1)  # the kernel sets its own values after the INIT handshake
        mounts.widen_read_ahead(self._place.mountpoint)
        if not mounts.widen_background(self._place.mountpoint):
            log.info("No more than the kernel's usual number of reads can be under way at the same time.")
        self._announce(self._welcome())

    def _shortage(self, spool: Spool) -> list[str]:
        free = spool.free()
        if self._options.read_only or free >= LITTLE:
            return []
        return [f"only {free // 1024:,} KiB are free in {spool.directory}: what is larger cannot be saved."]

    def _welcome(self) -> str:
        names = ", ".join(site.name for site in self._config.sites)
        doubts = [*self._checks.doubts.values(), *route.doubts(os.environ), *trust.doubts(os.environ)]
        doubts += self._shortage(self._vfs.saves.spool)
        doubts += [] if self._options.allow_other else _shut_out()
        lines = [f"Mounted {names} at {self._place.mountpoint}.", *(f"But: {doubt}" for doubt in doubts)]
        kept = self._vfs.saves.spool.leftovers()
        if kept:
            sent = sum(left.note.state is State.WAITING for left in saves(kept))
            lines.append(f"{len(kept)} earlier save(s) never reached their server; {sent} go now: labfs outbox list")
        return "\n".join(lines)

    async def _watch_signals(self) -> None:
        # A terminal that closes ends a mount in the foreground, unless it was started with nohup.
        hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *hangup) as signals:
            async for number in signals:
                log.info("Ending on signal %d.", number)
                if self._serving.deadline < float("inf"):  # a second signal: end at once
                    self._serving.deadline = trio.current_time()
                    return
                self._serving.deadline = trio.current_time() + SIGNALLED_S
                pyfuse3.terminate()

    async def _watch_end(self, fd: int) -> None:
        await trio.lowlevel.wait_readable(fd)
        log.info("Ending, as the process that began this mount has.")
        self._serving.deadline = min(self._serving.deadline, trio.current_time() + SIGNALLED_S)
        pyfuse3.terminate()

    # -- answers to the command line -------------------------------------------------------------------

    async def _answer(self, request: control.Request) -> control.Answer:
        match request.get("op"):
            case "status":
                return {**self._report.status(), "level": self._log.level}
            case "refresh":
                node = await self._node(request["path"])
                self._vfs.refresh(node)
                await self._door.renew(node)
                return {}
            case "info":
                node = await self._node(request["path"])
                return {"path": node.path, **self._vfs.xattrs(node)}
            case "page":
                return await _page(await self._node(request["path"]))
            case "log":
                return self._logged(request.get("level"))
            case "trace":
                return self._trace(request["path"])
            case "fetch":
                return self._fetch(await self._node(request["path"]), pin=bool(request.get("pin")))
            case "verify":
                return self._verify([await self._node(path) for path in request["paths"]])
            case "unpin":
                return {"count": self._vfs.store.shelf.unpin(request["path"])}
            case "users":
                found = await trio.to_thread.run_sync(holders.using, self._place.mountpoint)
                return {"users": [{"pid": h.pid, "program": h.program, "path": h.path} for h in found]}
        return await of_saves(self._vfs, self._report, request)

    async def _node(self, path: str) -> Node:
        with trio.move_on_after(ASKED_S):  # a slow listing raises NotYet before that
            return await self._vfs.resolve(path)
        site = path.strip("/").partition("/")[0]
        raise TimedOut(f"{site} did not answer a question about {path} within {ASKED_S:.0f} seconds.")

    def _logged(self, level: str | None) -> dict[str, Any]:
        """Change the log's level if one is given; return it, and the file."""
        if level is not None:
            self._log.set_level(level)
            log.info("The log level is %s now.", level)
        return {"level": self._log.level, "file": str(self._log.path) if self._log.path else None}

    async def _fetch(self, node: Node, *, pin: bool) -> control.Lines:
        """Yield how far a file, or each file below a directory, is on its way to this machine's disk."""
        async with aclosing(fetch(self._vfs.tree, self._vfs.files.sources, node, pin=pin)) as steps:
            async for step in steps:
                yield {"path": step.path, "bytes": step.bytes, "size": step.size, "problem": step.error}
        yield {"end": True}

    async def _verify(self, nodes: list[Node]) -> control.Lines:
        """Yield what is found out about each file, read whole from its server."""
        for node in nodes:
            async with aclosing(verify(self._vfs.tree, node)) as found:
                async for each in found:
                    yield asdict(each)
        yield {"end": True}

    async def _trace(self, path: str) -> control.Lines:
        """Yield what happens at a path and below, for as long as somebody listens."""
        with self._log.traced(path) as trace:
            yield {"since": time.time()}
            while True:
                await trio.sleep(TRACE_S)
                for line in trace.taken():
                    yield {"line": line}


async def _page(node: Node) -> dict[str, Any]:
    """Return the web address of a node's own page, else of the nearest thing above it that has one.

    Some systems tell it only where they are asked for that one thing.
    """
    for above in node.ancestry():
        if above.is_root or above.entry is None:
            continue
        url = above.entry.url or await _told_url(above.site, above.entry)
        # A server's own word, and so of no other kind: what opens it may do more with `file:` than show it.
        if url is not None and url.startswith(("https://", "http://")):
            return {"url": url, "site": above.site.name}
    if node.is_root:
        raise ConfigError("That is the mount itself, which is in no lab system; name a path in one of its sites.")
    return {"url": None, "site": node.site.name}


async def _told_url(site: Site, entry: Entry) -> str | None:
    if entry.id == site.backend.root.id:
        return None
    try:
        return (await site.backend.stat(entry.id)).url
    except (NotFound, Invalid, Unsupported):  # it can only be listed
        return None


def _leave_no_core() -> None:
    """Disable core dumps: the memory of this process holds secrets and the bytes of files.

    RLIMIT_CORE does not bind a program that the kernel pipes cores to; the coredump filter leaves such cores empty.
    Unlike PR_SET_DUMPABLE both allow a debugger, and leave the process's entries in /proc to its user.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):
        Path("/proc/self/coredump_filter").write_text("0")


def _shut_out() -> list[str]:
    """Return a warning if the mount's group, whose programs alone the kernel admits, is not the user's primary one."""
    try:
        usual, now = pwd.getpwuid(os.getuid()).pw_gid, os.getgid()
        name = grp.getgrgid(now).gr_name
    except KeyError:  # an account without a name has no usual group either
        return []
    return [] if now == usual else [f"programs of the group {name} alone can use it; --allow-other lets others in."]
