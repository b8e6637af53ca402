"""Processes that end with their block, ports, and what the kernel tells of a process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
START_S, END_S, RUN_S = 20.0, 15.0, 1800.0  # until a server listens, until it has ended, and for one command
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """What could not be done, in one plain sentence."""


def run(*command: str | Path, limit_s: float = RUN_S, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises Failed with the last line of what it said, or if it takes too long."""
    words = list(map(str, command))
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=False, **options)
    except FileNotFoundError:
        raise Failed(f"{words[0]} is not installed.") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"{words[0]} did not end within {limit_s:.0f} s.") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Failed(f"{Path(words[0]).name} failed: {said[-1] if said else f'status {done.returncode}'}")
    return done


def together(commands: Sequence[Sequence[str | Path]]) -> None:
    """Run commands at the same time, to their ends. Raises Failed if one fails; the others are ended then."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            children.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL))  # noqa: PERF401
        if any(child.wait(RUN_S) for child in children):
            raise Failed(f"One of {len(children)} {commands[0][0]} at once failed.")
    except subprocess.TimeoutExpired:
        raise Failed(f"{commands[0][0]} did not end within {RUN_S:.0f} s.") from None
    finally:
        for child in children:
            end(child)


def end(child: subprocess.Popen[Any]) -> None:
    """End a process, by force if it does not by itself."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def process(*command: str | Path, ready: Callable[[], bool], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process within the block, in a session of its own: Ctrl-C reaches the bench alone, which ends it."""
    words = list(map(str, command))
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    child = subprocess.Popen(words, **{**quiet, **options})
    try:
        until(ready, lambda: child.poll() is None, f"{' '.join(words[:3])} did not start.")
        yield child
    finally:
        end(child)


def until(ready: Callable[[], bool], alive: Callable[[], bool], otherwise: str) -> None:
    limit = time.monotonic() + START_S
    while not ready():
        if not alive() or time.monotonic() > limit:
            raise Failed(otherwise)
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def server(module: str, *arguments: object) -> Iterator[int]:
    """Run a module of `services`; yield its port."""
    port = free_port()
    env = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = (sys.executable, "-m", f"bench.services.{module}", "--port", str(port), *map(str, arguments))
    with process(*command, ready=lambda: listens(port), env=env):
        yield port


def is_mounted(path: Path) -> bool:
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def force_unmount(path: Path) -> None:
    """Take away a mount that is still there, whatever it does."""
    if is_mounted(path):
        subprocess.run(["fusermount3", "-u", "-z", str(path)], capture_output=True, timeout=30, check=False)


def force_end(pid: int, named: Path) -> None:
    """Kill a daemon that is still there although it was told to end; `named` stands on its command line."""
    limit = time.monotonic() + END_S
    with contextlib.suppress(OSError):
        while os.fsencode(named) in Path(f"/proc/{pid}/cmdline").read_bytes():
            if time.monotonic() > limit:
                os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.05)


def cpu(pid: int) -> tuple[float, float]:
    """Return the processor seconds of a process, of user and of system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def peak_mib(pid: int) -> float:
    """Return the most memory that a process has had, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise Failed(f"The kernel tells no memory of process {pid}.")
