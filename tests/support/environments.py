"""Environments with clients that other people wrote, each made once and kept outside the repository for later runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def environment(name: str, *installs: Sequence[str]) -> Path:
    """Return the directory of programs of an environment in which `pip install` ran with each of these arguments.

    Several runs at a time make it once. Raises CalledProcessError, with what pip said, where it cannot be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labfs-tests"
    digest = hashlib.sha256(f"{sys.version} {installs}".encode()).hexdigest()[:12]
    home = cache / f"{name}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{home.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=100)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            for what in installs:
                subprocess.run([*pip, *what], check=True, capture_output=True, text=True, timeout=500)
            (home / "complete").touch()
    return home / "bin"
