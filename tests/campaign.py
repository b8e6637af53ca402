"""Rounds of write, `kill -9`, remount and recover, with a manifest that nobody but the writers writes.

A round writes one file through the mount in a process of its own, which notes in the manifest what `close()`
or `fsync()` promised. The daemon is killed at a moment that the round is after. The next mount recovers. In
the end the system's own store is asked: everything promised is there, once, whole, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stage import Mount, Sandbox, labfs, run

WRITER = """
import hashlib, os, random, sys
path, size, seed, sync, manifest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "sync", sys.argv[5]
data = random.Random(seed).randbytes(size)
def promise(what):
    with open(manifest, "a") as file:
        file.write(f"{what} {os.path.basename(path)} {size} {seed}\\n")
fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
for start in range(0, size, 262144):
    os.write(fd, data[start:start + 262144])
if sync:
    os.fsync(fd)
    promise("synced")
os.close(fd)
promise("closed")
"""

MOMENTS = ("spooling", "sending", "parts", "completion", "answered", "recovery", "any")


@dataclass
class Place:
    """Where a campaign writes: a directory of the mount, and what is in the store behind it."""

    path: Callable[[Path], Path]  # mount point → directory
    stored: Callable[[], dict[str, list[bytes]]]  # by name, all that is there of it
    faults: list[dict[str, Any]]
    service: str
    sizes: tuple[int, ...]
    parts: bool = False


@dataclass
class Campaign:
    base: Path
    sandbox: Sandbox
    place: Place
    seed: int = 1
    killed: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    unfinished: int = 0

    def __post_init__(self) -> None:
        self.manifest = self.base / "manifest"
        self.manifest.touch()
        self.chance = random.Random(self.seed)
        self.mount = Mount(self.base, self.sandbox.config, "--site", self.place.service)

    # -- a round ---------------------------------------------------------------------------------------

    def round(self) -> None:
        self.rounds += 1
        moment = self.chance.choice([m for m in MOMENTS if self.place.parts or m not in ("parts", "completion")])
        size = self.chance.choice(self.place.sizes[-1:] if moment in ("parts", "completion") else self.place.sizes)
        self._disturb()
        writer = self._write(f"round {self.rounds}.bin", size)
        seen = self._kill_at("any" if moment == "recovery" else moment, writer)
        with contextlib.suppress(subprocess.TimeoutExpired):
            writer.wait(20)
        writer.kill()
        writer.wait()
        self.sandbox.faults()
        if moment == "recovery":
            # A service in memory is done with most saves before anybody could kill.
            slow = {"service": self.place.service, "times": None, "action": "delay_s", "argument": 0.2}
            self.sandbox.faults(slow)
            self.mount.start()
            time.sleep(self.chance.uniform(0, 0.3))
            seen = "recovery" if any(note["state"] in ("waiting", "sending") for note in self._notes()) else seen
            self._kill()
            self.sandbox.faults()
        self.killed[seen] += 1
        self.mount.start()
        self._recover()

    def _disturb(self) -> None:
        if self.chance.random() < 0.3:
            fault = self.chance.choice(self.place.faults)
            self.sandbox.faults({"service": self.place.service, "skip": self.chance.randrange(6), "times": 1, **fault})

    def _write(self, name: str, size: int) -> subprocess.Popen[bytes]:
        sync = "sync" if self.chance.random() < 0.5 else "plain"
        path = self.place.path(self.mount.path) / name
        command = [sys.executable, "-c", WRITER, path, str(size), str(self.rounds), sync, self.manifest]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def _kill_at(self, moment: str, writer: subprocess.Popen[bytes]) -> str:
        """Kill the daemon when the wanted state is seen, or a while later; return the state it was killed in."""
        deadline = time.monotonic() + (self.chance.uniform(0.0, 0.6) if moment == "any" else 10.0)
        while time.monotonic() < deadline and writer.poll() is None:
            if moment != "any" and self._state() == moment:
                break
            time.sleep(0.001)
        seen = self._state()
        self._kill()
        return seen

    def _kill(self) -> None:
        pid = self.mount.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[-1][:3]:
            time.sleep(0.002)

    def _notes(self) -> list[dict[str, Any]]:
        found = []
        for path in self.mount.state.glob("mounts/*/spool/*.json"):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(path.read_text()))
        return found

    def _state(self) -> str:
        for note in self._notes():
            upload = note.get("upload")
            if note["state"] == "writing":
                return "spooling"
            if note["state"] == "saved":
                return "answered"
            if note["state"] == "sending" and upload:
                count = -(-note["size"] // upload["step"])
                return "completion" if len(upload["receipts"]) == count else "parts"
            if note["state"] == "sending":
                return "sending"
        return "answered" if self._promised() >= self.rounds else "nothing"

    def _promised(self) -> int:
        return len({line.split(" ", 1)[1] for line in self.manifest.read_text().splitlines()})

    def _recover(self) -> None:
        """Wait until nothing waits; what was never closed is given up by name, as a person would."""
        for _ in range(300):
            notes: list[dict[str, Any]] = self.mount.status()["spool"]["kept"]
            # What is being sent is neither waiting nor done.
            if not any(note["state"] in ("waiting", "sending", "writing") for note in [*notes, *self._notes()]):
                break
            time.sleep(0.1)
        for note in notes:
            assert note["error"] == "labfs ended before it was closed", note
            done = labfs("outbox", "discard", Path(note["file"]).stem, env=self.mount.env)
            assert done.returncode == 0, done.stderr
            self.unfinished += 1

    # -- the reckoning -----------------------------------------------------------------------------------

    def reckon(self) -> None:
        """Compare what was promised with what the system has."""
        run(f"rm -rf '{self.base}/cache'")
        assert labfs("outbox", "list", env=self.mount.env).stdout == "", "the outbox is empty"
        stored = self.place.stored()
        promised: dict[str, tuple[int, int]] = {}
        for line in self.manifest.read_text().splitlines():
            name, size, seed = line.split(" ", 1)[1].rsplit(" ", 2)
            promised[name] = (int(size), int(seed))
        for name, (size, seed) in promised.items():
            assert stored.get(name) == [random.Random(seed).randbytes(size)], f"{name} was promised"
        for name, versions in stored.items():
            number = int(name.removeprefix("round ").removesuffix(".bin"))
            assert len(versions) == 1, f"{name} is there {len(versions)} times"
            whole = [random.Random(number).randbytes(size) for size in self.place.sizes]
            assert versions[0] in whole, f"{name} is a mixture"
        assert promised, "it wrote nothing"
