"""Two mounts of one account: their command line, their end by `kill -9`, and their return."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from stage import Mount, Sandbox

from labfs.cli.main import cli
from labfs.errors import ConfigError

LOOKER = Path(__file__).with_name("looker.py")
ANSWERED_S = 10.0  # for the daemon to listen, once it serves
SILENCE_S = 2.0  # that a site is granted
LOOK_S = 90.0  # after which a look is broken off; it counts as too slow long before


@dataclass(frozen=True)
class Held:
    """A line of `labfs outbox list`."""

    name: str
    state: str
    path: str
    reason: str


class Side:
    """One of the mounts, with a state directory of its own."""

    def __init__(self, base: Path, number: int, sandbox: Sandbox, site: str) -> None:
        base.mkdir(exist_ok=True)
        self.number = number
        self.mount = Mount(base, sandbox.config, "--site", site)
        self.mount.env |= {"LABFS_CACHE_DIR": str(base / "cache")}
        self._base, self._config, self._site = base, _hasty(base, sandbox.config), site
        self._daemon = 0
        self.kills = 0

    @property
    def path(self) -> Path:
        return self.mount.path

    @property
    def alive(self) -> bool:
        return bool(self._daemon)

    def command(self, *arguments: str | Path) -> Result:
        """Run a command line as a user does, without the half second that a new interpreter takes."""
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], env=self.mount.env)

    def start(self, *, wait: bool = True) -> None:
        done = self.command("mount", "-c", self._config, "--site", self._site, self.path)
        assert done.exit_code == 0, f"{done.output} {done.exception}"
        self._daemon = self.mount.pid
        listens = not wait or until(lambda: self._refreshed(self.path / self._site), ANSWERED_S, 0.05)
        assert listens, self.mount.log

    def kill(self) -> None:
        """End the daemon at once, and wait until it is gone."""
        pid, self._daemon = self._daemon, 0
        if not pid:
            return
        self.kills += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
        with contextlib.suppress(ChildProcessError):  # the command line ran here, so it is a child of this process
            os.waitpid(pid, 0)

    def renew(self) -> None:
        """Begin with nothing in memory."""
        self.kill()
        self.kills -= 1
        self.start()

    def waits(self) -> bool:
        """Whether a save is under way, or waits to be sent."""
        if not self.alive:
            return False
        mounts = json.loads(self.command("status", "--json").output)["mounts"]
        uploads = [upload for mount in mounts for upload in mount.get("uploads", [])]
        return any(upload["state"] == "uploading" for upload in uploads) or any(
            held.state == "waiting" for held in self.outbox()
        )

    def outbox(self) -> list[Held]:
        found = []
        for line in self.command("outbox", "list").output.splitlines():
            name, state, _, path, reason = [*line.split("  ", 4), "", "", "", ""][:5]
            found.append(Held(name, state, path, reason))
        return found

    def refresh(self, directory: Path) -> None:
        """Have a directory asked of its server again; one that is not known yet is known afterwards."""
        if not self._refreshed(directory) and not self._refreshed(self.path / self._site):
            raise AssertionError(f"side {self.number} does not refresh {directory}")

    def _refreshed(self, directory: Path) -> bool:
        try:
            self.mount.refresh(directory)
        except (ConfigError, StopIteration):
            return False
        return True

    def look(self, directory: Path, names: list[str]) -> subprocess.Popen[str]:
        """Begin to look at a directory and to read files in it, in a process of its own."""
        command = [sys.executable, "-I", "-S", LOOKER, directory, *names]
        return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)


def _hasty(base: Path, config: Path) -> Path:
    """Return a configuration with less patience: what a lost answer made is looked for eleven times as long."""
    hasty = base / "labfs.toml"
    hasty.write_text(re.sub(r"^url = ", f"timeout_s = {SILENCE_S}\nurl = ", config.read_text(), flags=re.MULTILINE))
    hasty.chmod(0o600)
    return hasty


def seen(looking: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what was seen; a look that does not end is slow and saw nothing."""
    try:
        output, _ = looking.communicate(timeout=LOOK_S)
    except subprocess.TimeoutExpired:
        looking.kill()
        looking.wait()
        return {"files": {}, "errno": errno.ETIMEDOUT, "slowest_s": LOOK_S, "slowest": "a call that did not end"}
    return dict(json.loads(output)) if output else {"files": {}, "errno": -1, "slowest_s": 0.0, "slowest": ""}


def until(condition: Callable[[], bool], seconds: float, every_s: float = 0.01) -> bool:
    """Wait for something to be so; False if it was not within that time."""
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(every_s)
    return found
