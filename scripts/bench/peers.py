"""labfs, rclone and curl, each as it is used: a mount is a context, an action is timed from outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from bench.ground import Ground, Services
from bench.measuring import Sample
from bench.processes import (
    END_S,
    RUN_S,
    Failed,
    cpu,
    force_end,
    force_unmount,
    is_mounted,
    peak_mib,
    process,
    run,
    together,
)

SETTLE_S = 0.5  # after a mount, before it is used: everything that it does at its start is over
CACHE_MIB = 128  # labfs's usual cache in memory
DISK_MIB = 4096
LEAST_DISK_MIB = 64  # the smallest cache on disk that labfs takes
STREAMS = ("--vfs-read-chunk-streams", "16", "--vfs-read-chunk-size", "4M")
FULL = ("--vfs-cache-mode", "full")
# contestant → options of `rclone mount`: its own default, and its best for reads
SETTINGS: dict[str, tuple[str, ...]] = {"rclone": (), "rclone 16 × 4 MiB": STREAMS, "rclone cache full": FULL}


class Drive:
    """labfs, mounted at `path` with a state and a cache of its own."""

    def __init__(self, ground: Ground, api: str, disk_mib: int) -> None:
        self.home = ground.scratch("labfs")
        self.path = self.home / "mnt"
        self.path.mkdir()
        self._config = self.home / "labfs.toml"
        self._config.touch(0o600)
        self._config.write_text(
            f"[cache]\nmib = {CACHE_MIB}\ndisk_mib = {disk_mib}\n"
            f'[sites.hub]\nkind = "basespace"\nurl = "{api}"\ntoken = "none"\naccess = "full"\n'
        )
        own = {"LABFS_STATE_DIR": str(self.home / "state"), "LABFS_CACHE_DIR": str(self.home / "cache")}
        self._env = {**os.environ, **own, "HOME": str(self.home)}

    def mount(self, settle_s: float = SETTLE_S) -> None:
        run(sys.executable, "-m", "labfs", "mount", "-c", self._config, self.path, env=self._env)
        time.sleep(settle_s)

    def unmount(self, limit_s: float = RUN_S) -> None:
        run(sys.executable, "-m", "labfs", "umount", self.path, env=self._env, limit_s=limit_s)

    def remove(self) -> None:
        """Leave nothing behind, whatever happened; what is still being uploaded is given up."""
        pids = [self.pid] if is_mounted(self.path) else []
        if pids:
            with contextlib.suppress(Failed):
                self.unmount(END_S)
        force_unmount(self.path)
        for pid in pids:
            force_end(pid, self.path)
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def pid(self) -> int:
        note = next(self.home.glob("state/mounts/*/mount.json"))
        return int(json.loads(note.read_text())["pid"])

    def record(self, name: str, project: str = "Files") -> Path:
        return self.path / "hub" / project / name

    def timed(self, action: Callable[[], object]) -> Sample:
        """Time an action, and what the daemon spent meanwhile."""
        pid = self.pid
        before = cpu(pid)
        seconds = timed(action).seconds
        after = cpu(pid)
        return Sample(seconds, after[0] - before[0], after[1] - before[1], peak_mib(pid))

    def of(self, seconds: Callable[[], float]) -> Sample:
        """Like `timed`, for an action that tells its time itself."""
        pid = self.pid
        before = cpu(pid)
        told = seconds()
        after = cpu(pid)
        return Sample(told, after[0] - before[0], after[1] - before[1], peak_mib(pid))


@contextlib.contextmanager
def labfs(ground: Ground, api: str, *, disk_mib: int = DISK_MIB, settle_s: float = SETTLE_S) -> Iterator[Drive]:
    """Mount labfs within the block."""
    drive = Drive(ground, api, disk_mib)
    try:
        drive.mount(settle_s)
        yield drive
    finally:
        drive.remove()


@contextlib.contextmanager
def rclone(ground: Ground, services: Services, name: str = "rclone") -> Iterator[Path]:
    """Mount nginx's folders with one of rclone's settings within the block."""
    home = ground.scratch("rclone")
    path = home / "mnt"
    path.mkdir()
    source, config = ("--http-url", services.data), ("--config", os.devnull)
    command: list[str | Path] = [ground.programs.rclone, "mount", ":http:", path, "--read-only", *source, *config]
    command += ["--cache-dir", home / "cache", *SETTINGS[name]]
    try:
        with process(*command, ready=lambda: is_mounted(path), env={**os.environ, "HOME": str(home)}):
            time.sleep(SETTLE_S)
            try:
                yield path
            finally:
                force_unmount(path)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def timed(action: Callable[[], object]) -> Sample:
    began = time.perf_counter()
    action()
    return Sample(time.perf_counter() - began)


def dd(path: Path) -> Callable[[], object]:
    """Read a file as a copy does, in another process."""
    return lambda: run("dd", f"if={path}", f"of={os.devnull}", "bs=1M", "status=none")


def curl(ground: Ground, url: str, size: int, connections: int = 1) -> Callable[[], object]:
    """Read a file over some connections, each a share of it."""
    base: list[str | Path] = [ground.programs.curl, "-sf", "-o", os.devnull]
    if connections == 1:
        return lambda: run(*base, url)
    edges = [size * i // connections for i in range(connections + 1)]
    ranges = [f"{first}-{after - 1}" for first, after in pairwise(edges)]
    return lambda: together([[*base, "-r", one, url] for one in ranges])


def uploaded(api: str, record: int, source: Path, name: str) -> Sample:
    """Upload a file over eight connections with nothing in between."""
    words = ["-m", "bench.services.uploader", "--api", api, "--record", str(record), str(source), name]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    return Sample(float(run(sys.executable, *words, env=env).stdout))


def quietly(*command: str | Path) -> Callable[[], object]:
    """Run a command whose output does not matter, and is too long to keep."""

    def act() -> None:
        done = subprocess.run(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise Failed(f"{command[0]} failed: {done.stderr.strip()[:200]}")

    return act
