"""The bench as an ordinary user, started by root: in a process of that user, whose results are read from its JSON."""

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
from bench.report import DATA

NOBODY = "nobody"


def run_as(user: str, out: Path, arguments: Sequence[str]) -> int:
    """Run the bench as a user, copy its files to `out`, return its status. Raises Failed where that cannot be."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise Failed(f"There is no user {user}.") from None
    if os.geteuid() != 0:
        raise Failed("Only root can run the bench as another user; run it as that user instead.")
    if shutil.which("setpriv") is None or shutil.which("unshare") is None:
        raise Failed("setpriv and unshare are not installed; they are in the package util-linux.")
    home = Path(tempfile.mkdtemp(prefix="labfs-bench-user-", dir="/var/tmp"))
    stage, own = home / "stage", home / "out"
    for path in (stage, own):
        path.mkdir()
    for path in (home, own):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    view = ("unshare", "--mount", "--propagation", "private", sys.executable, "-m", "bench.private", user, str(stage))
    command = [*view, sys.executable, str(HERE), *arguments, "--out", str(own)]
    child = subprocess.Popen(command, env=environment(home), cwd="/", start_new_session=True)
    try:
        status = child.wait()
        for path in own.iterdir():
            shutil.copy(path, out / path.name)
        return status
    finally:
        end(child)
        shutil.rmtree(home, ignore_errors=True)


def environment(home: Path) -> dict[str, str]:
    """Return an environment with a home of its own: of root's, which may hold secrets, only what is named here."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TERM") if name in os.environ}
    own = {WHERE: str(cache()), "HOME": str(home), "PYTHONPATH": str(HERE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**kept, **own}


def words(cases: Sequence[str], rounds: int, scale: float, told: str) -> list[str]:
    return ["--case", *cases, "--rounds", str(rounds), "--scale", str(scale), "--told", told]


def measured(case: str, rounds: int, scale: float) -> Result:
    """Run one case as an ordinary user."""
    with tempfile.TemporaryDirectory(prefix="labfs-bench-") as temporary:
        out = Path(temporary)
        run_as(NOBODY, out, words([case], rounds, scale, "nothing"))
        data = out / DATA
        if not data.exists():
            raise Failed(f"The user {NOBODY} cannot run the bench here; what it said stands above.")
        return Result.read(json.loads(data.read_text())["cases"][0])
