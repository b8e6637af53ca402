"""The tour, as a newcomer runs it: it ends well, or says in one sentence why not, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labfs.backends import KINDS

COMMAND = [sys.executable, "-m", "labfs", "demo"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "http_proxy": "http://127.0.0.1:9"}


def left_behind(tmp_path: Path) -> list[str]:
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line]
    return [*mounts, *(path.name for path in tmp_path.glob("labfs-demo-*"))]


def test_the_tour_saves_in_every_system_and_shows_it_there(env: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(COMMAND, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for kind in KINDS:
        assert f"cd ~/lab/{kind}" in done.stdout
    asked = [line for line in done.stdout.splitlines() if line.startswith(("GET http://127", "POST http://127"))]
    assert len(asked) >= len(KINDS)
    assert left_behind(tmp_path) == []


def test_a_tour_that_cannot_start_says_why(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "starlette.py").write_text("raise ImportError('none here', name='starlette')\n")
    env["PYTHONPATH"] = f"{tmp_path}:{env.get('PYTHONPATH', '')}"
    done = subprocess.run(COMMAND, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("The tour stopped: the sandbox did not start: labfs: The sandbox needs")
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_tour_that_is_interrupted_unmounts(number: signal.Signals, env: dict[str, str], tmp_path: Path) -> None:
    command = ["env", "--default-signal", *COMMAND]  # whatever this process was started to ignore
    with subprocess.Popen(command, env={**env, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True) as tour:
        assert tour.stdout is not None
        next(line for line in tour.stdout if "Five systems" in line)
        tour.send_signal(number)
        said = tour.stdout.read()
    assert tour.returncode == 130
    assert "everything is unmounted" in said
    assert left_behind(tmp_path) == []
