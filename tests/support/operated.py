"""A mount of a system in memory that can be talked to: `python operated.py MOUNTPOINT STATE SYSTEM`.

It runs in a process of its own. One line of JSON asks for something behind labfs's back (an edit on the
server, a site that is away, a refresh), and one line answers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyfuse3
import trio
from memory import MIB, SYSTEMS, Facts, MemoryBackend, told
from stage import mounted

from labfs.backend import Capabilities, Entry, Parts, Replace, Target
from labfs.errors import Unavailable
from labfs.fuse.door import Door
from labfs.tree.site import Site
from labfs.vfs import Storage, Vfs, assembled
from labfs.vfs.outbox import sending
from labfs.write.spool import remove

SETTLED_S = 20.0
BOX = "memory/box"
VERSIONS = 3  # of a file that are kept, for want of room


def large(can: Facts) -> Facts:
    """Return the same system with parts for files of some MiB."""
    parts = Parts(least=MIB // 4, greatest=MIB, count=1000, preferred=MIB // 2)
    return replace(can, whole=MIB, parts=parts) if can.parts is not None else can


# -- the process ---------------------------------------------------------------------------------------------


@dataclass
class System(MemoryBackend):
    """A system that can be away, and whose files outlive the process."""

    away: bool = False

    async def _call(self, operation: str) -> None:
        await super()._call(operation)
        if self.away:
            raise Unavailable("The site is away.")

    def _saved(self, target: Target, data: bytes, inside: str | None = None) -> Entry:
        entry = super()._saved(target, data, inside)
        same = [n for n, (e, _) in self.files.items() if (e.folders, e.name) == (entry.folders, entry.name)]
        if self.capabilities.replace is Replace.NEWER:
            for number in sorted(same)[:-VERSIONS]:
                del self.files[number]
        return entry

    def edit(self, path: str, data: bytes) -> None:
        """Save a file as somebody else does."""
        *folders, name = path.split("/")
        old = self.at(path)
        if old is not None and self.capabilities.replace is Replace.IN_PLACE:
            digest = hashlib.md5(data).hexdigest()
            new = replace(old, size=len(data), version=digest, checksum=f"md5:{digest}")
            self.files[int(old.label)] = (new, data)
            return
        if old is not None and self.capabilities.replace is not Replace.NEWER:
            del self.files[int(old.label)]
        self.put(name, data, tuple(folders))

    def erase(self, path: str) -> None:
        old = self.at(path)
        assert old is not None
        del self.files[int(old.label)]

    def at(self, path: str) -> Entry | None:
        found = [entry for entry, _ in self.files.values() if "/".join((*entry.folders, entry.name)) == path]
        return found[-1] if found else None


class Listener:
    """What the process answers."""

    def __init__(self, vfs: Vfs, door: Door, system: System, state: Path, records: Records) -> None:
        self.vfs, self.door, self.system, self.state, self.records = vfs, door, system, state, records

    async def listen(self) -> None:
        buffer = b""
        async with trio.lowlevel.FdStream(0) as stream:
            while piece := await stream.receive_some(MIB):
                *lines, buffer = (buffer + piece).split(b"\n")
                for line in lines:
                    operation, *arguments = json.loads(line)
                    answer = await getattr(self, operation)(*arguments)
                    print(json.dumps(answer), flush=True)  # noqa: T201

    async def edit(self, path: str, data: str) -> None:
        self.system.edit(path, bytes.fromhex(data))

    async def erase(self, path: str) -> None:
        self.system.erase(path)

    async def away(self, away: bool) -> None:
        self.system.away = away

    async def refresh(self) -> None:
        node = self.vfs.root.children["memory"]
        self.vfs.refresh(node)
        await self.door.renew(node)

    async def held(self, folder: str) -> dict[str, list[str]]:
        """Return the digests of the files that the server shows below a folder, by path: one each, or it is twice."""
        found: dict[str, list[str]] = {}
        newer = self.system.capabilities.replace is Replace.NEWER
        for _, (entry, data) in sorted(self.system.files.items()):
            if entry.folders[:1] != (folder,):
                continue
            path = "/".join((*entry.folders[1:], entry.name))
            digest = hashlib.md5(data).hexdigest()
            found[path] = [digest] if newer else [*found.get(path, []), digest]
        return found

    async def busy(self) -> dict[str, Any]:
        """Return what is open, not done with or waiting, and what went wrong that never may."""
        kept = told(self.vfs.saves.spool)
        return {
            "open": len(self.door._files),
            "unsaved": [note["path"] for note in kept if note["state"] in ("writing", "sending", "saved")],
            "waiting": sum(note["state"] == "waiting" for note in kept),
            "kept": kept,
            "mistakes": self.records.mistakes,
        }

    async def forget(self, folder: str) -> None:
        """Remove a folder from the server, and what the spool keeps of it."""
        gone = [number for number, (entry, _) in self.system.files.items() if entry.folders[:1] == (folder,)]
        for number in gone:
            del self.system.files[number]
        for note in told(self.vfs.saves.spool):
            if f"/{folder}/" in note.get("path", "") and note["state"] == "failed":
                remove(Path(note["file"]))
        self.vfs.refresh(self.vfs.root.children["memory"])

    async def keep(self) -> None:
        (self.state / "server").write_bytes(pickle.dumps((self.system.files, self.system._ids)))


class Records(logging.Handler):
    """What the log calls a mistake in labfs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.mistakes: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.mistakes.append(logging.Formatter().format(record))


async def serve(mountpoint: Path, state: Path, can: Capabilities) -> None:
    sending.FIRST_TRY_S, sending.LONGEST_WAIT_S = 0.1, 0.4
    system = System(large(can), page_size=10_000, latency_s=0.0, sizeless=not can.ranged)
    if (state / "server").exists():
        system.files, system._ids = pickle.loads((state / "server").read_bytes())
    records = Records()
    logging.getLogger().addHandler(records)
    site, storage = Site("memory", "memory", system, may_delete=True), Storage(state, cache_bytes=64 * MIB)
    async with trio.open_nursery() as nursery, assembled([site], storage) as vfs:
        door = Door(vfs)
        pyfuse3.init(door, str(mountpoint), {"fsname=labfs", "default_permissions", "noatime"})
        listener = Listener(vfs, door, system, state, records)
        try:
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                nursery.start_soon(_end, signals)
                nursery.start_soon(listener.listen)
                print('"ready"', flush=True)  # noqa: T201
                await pyfuse3.main(max_tasks=10_000)
                await vfs.finish(10.0)
                await listener.keep()
        finally:
            pyfuse3.close(unmount=True)
            nursery.cancel_scope.cancel()


async def _end(signals: Any) -> None:
    async for _ in signals:
        pyfuse3.terminate()


# -- its other end -------------------------------------------------------------------------------------------


class Operated:
    """A mount that is told what to do."""

    def __init__(self, base: Path, system: str) -> None:
        self.path = base / "mnt"
        self.path.mkdir(exist_ok=True)
        self.can = SYSTEMS[system]
        self.box = self.path / BOX
        self._command = [sys.executable, __file__, str(self.path), str(base), system]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Operated:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ready"
        return self

    def ask(self, operation: str, *arguments: Any) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([operation, *arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the mount has ended"
        return json.loads(line)

    def settle(self, opened: int = 0, in_use: Collection[str] = ()) -> dict[str, Any]:
        """Wait until so much is open, nothing waits and nothing else is unsaved: closes are answered before releases."""
        until = time.monotonic() + SETTLED_S
        while True:
            busy: dict[str, Any] = self.ask("busy")
            left = busy["open"] - opened or busy["waiting"] or set(busy["unsaved"]) - set(in_use)
            if not left or time.monotonic() > until:
                return busy
            time.sleep(0.005)

    def remount(self, *, kill: bool = False) -> None:
        if kill:
            self.ask("keep")
            self.stop(signal.SIGKILL)
        else:
            self.stop()
        self.start()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process; leave nothing behind."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(40)
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with suppress(OSError):
                    stream.close()
            if mounted(self.path):
                subprocess.run(["fusermount3", "-u", "-z", str(self.path)], check=False)


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]), Path(sys.argv[2]), SYSTEMS[sys.argv[3]])
