"""Machines with several users, on which a test mounts as one of them and enters as another.

Each machine is a mount namespace with an /etc/fuse.conf of its own. Where labfs itself runs as its ordinary user it may
read everything, since the interpreter of these tests may lie in somebody's home; that is all it may more than he.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import TIMEOUT_S, Sandbox

from labfs.daemon import control

USER, GROUP = pwd.getpwnam("nobody")[2:4]  # fusermount3 wants an account
OTHER_USER, OTHER_GROUP = 64002, 64003
READING = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
FUSE_CONF = "# a file of the tests\n{line}\nmount_max = 1000\n"


class Machine:
    """A machine whose /etc/fuse.conf says what it says, with a place to mount at that everybody can reach."""

    def __init__(self, line: str, config: Path) -> None:
        if os.geteuid():
            pytest.skip("only root can be several users")
        self.base = Path(tempfile.mkdtemp(dir="/tmp"))
        self.base.chmod(0o755)
        self.path, self.state, self.config = self.base / "mnt", self.base / "state", self.base / "labfs.toml"
        shutil.copy(config, self.config)
        self.config.chmod(0o600)
        for path in (self.path, self.state, self.base / "dev"):
            path.mkdir()
        self.env = {**os.environ, "LABFS_STATE_DIR": str(self.state), "LABFS_CACHE_DIR": str(self.state)}
        (self.base / "fuse.conf").write_text(FUSE_CONF.format(line=line))
        script = (
            f"mount -t tmpfs -o mode=755 tmpfs {self.base}/dev && mknod -m 666 {self.base}/dev/fuse c 10 229"
            f" && mount --bind {self.base}/dev/fuse /dev/fuse && mount --bind {self.base}/fuse.conf /etc/fuse.conf"
            " && echo ready && exec sleep 600"
        )
        self._holder = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"

    def give(self, user: int) -> None:
        """Let it be an ordinary user's."""
        for path in (self.path, self.state, self.config):
            os.chown(path, user, user)

    def run(self, *command: str | Path, user: int = 0, group: int = 0, more: tuple[str, ...] = ()) -> Any:
        """Run a command there as somebody."""
        somebody = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *more] if user or group else []
        inside = ["nsenter", "-t", str(self._holder.pid), "-m", *somebody, *map(str, command)]
        return subprocess.run(inside, capture_output=True, text=True, timeout=TIMEOUT_S, env=self.env)

    def labfs(self, *arguments: str | Path, user: int = USER, group: int = GROUP) -> Any:
        return self.run(sys.executable, "-m", "labfs", *arguments, user=user, group=group, more=tuple(READING))

    def mount(self, *options: str) -> Any:
        return self.labfs("mount", "-c", self.config, "--site=basespace", *options, self.path)

    def refresh(self) -> None:
        control.ask(next(self.state.glob("mounts/*/control")), {"op": "refresh", "path": "/"})

    def clean_up(self) -> None:
        self.run("fusermount3", "-u", "-z", self.path)
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        shutil.rmtree(self.base, ignore_errors=True)


@contextlib.contextmanager
def opened(line: str, sandbox: Sandbox) -> Iterator[Machine]:
    """Give a machine with that line in its /etc/fuse.conf, and leave nothing of it."""
    made = Machine(line, sandbox.config)
    try:
        yield made
    finally:
        made.clean_up()


def denied(done: Any) -> bool:
    return done.returncode != 0 and "Permission denied" in done.stderr
