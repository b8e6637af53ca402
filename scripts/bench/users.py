"""The bench as an ordinary user, started by root: in a process of that user, whose results are read from its JSON.

Where only root may open /dev/fuse, as in a system without udev, the process gets a device of its own in a private mount
namespace; nothing outside of it changes.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.measuring import Result
from bench.processes import HERE, Failed, end
from bench.programs import WHERE, cache

NOBODY = "nobody"
FUSE = Path("/dev/fuse")
OPEN = """mount -t tmpfs -o mode=755,size=64k none "$1" && mknod -m 666 "$1/fuse" c 10 229 &&
mount --bind "$1/fuse" /dev/fuse && shift && exec "$@" """


def command(user: str, home: Path, arguments: Sequence[str]) -> list[str]:
    """Return the words that run the bench as a user; `home` is a directory for its device."""
    entry = pwd.getpwnam(user)
    words = ["setpriv", "--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--clear-groups", "--",
             sys.executable, str(HERE), *arguments]  # fmt: skip
    if FUSE.stat().st_mode & 0o006 == 0o006:
        return words
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", OPEN, "sh", str(home), *words]


def run_as(user: str, out: Path, arguments: Sequence[str]) -> int:
    """Run the bench as a user and return its status. Raises Failed where that cannot be."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise Failed(f"There is no user {user}.") from None
    if os.geteuid() != 0:
        raise Failed("Only root can run the bench as another user; run it as that user instead.")
    if shutil.which("setpriv") is None:
        raise Failed("setpriv is not installed; it is in the package util-linux.")
    home = Path(tempfile.mkdtemp(prefix="labfs-bench-user-", dir="/var/tmp"))
    (home / "fuse").mkdir()
    own = home / "out"
    own.mkdir()
    for path in (home, own):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    env = {**os.environ, WHERE: str(cache()), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in [name for name in env if name.startswith("XDG_")]:
        del env[name]
    child = subprocess.Popen(
        command(user, home / "fuse", [*arguments, "--out", str(own)]), env=env, cwd="/", start_new_session=True
    )
    try:
        status = child.wait()
        for path in own.iterdir():
            shutil.copy(path, out / path.name)
        return status
    finally:
        end(child)
        shutil.rmtree(home, ignore_errors=True)


def measured(case: str, rounds: int, scale: float) -> Result:
    """Run one case as an ordinary user."""
    with tempfile.TemporaryDirectory(prefix="labfs-bench-") as temporary:
        out = Path(temporary)
        arguments = ["--case", case, "--rounds", str(rounds), "--scale", str(scale), "--inner"]
        run_as(NOBODY, out, arguments)
        data = out / "bench.json"
        if not data.exists():
            raise Failed(f"The user {NOBODY} cannot run the bench here: is {HERE} readable by everybody?")
        return Result.read(json.loads(data.read_text())["cases"][0])
