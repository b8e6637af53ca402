"""`labfs run`: a mount for one command, of which nothing is left, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stage import Sandbox, mounted, typed, until

pytestmark = pytest.mark.mount

Run = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "tmp").mkdir()
    return {"LABFS_STATE_DIR": str(tmp_path / "state"), "LABFS_CACHE_DIR": str(tmp_path / "cache"),
            "TMPDIR": str(tmp_path / "tmp")}  # fmt: skip


@pytest.fixture
def run(sandbox: Sandbox, env: dict[str, str]) -> Run:
    def begin(*words: str, script: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "labfs", "run", "-c", str(sandbox.config), "--site", "basespace", *words]
        return subprocess.Popen([*command, *(["--", "bash", "-c", script] if script else [])], text=True,
                                env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    return begin


def left(tmp_path: Path) -> list[str]:
    """Return what is left of a run: mounts, mount points, and state."""
    places = [path for part in ("tmp", "state/mounts", "cache/mounts") for path in (tmp_path / part).glob("*")]
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    return [*map(str, places), *(line for line in table if str(tmp_path) in line)]


def test_it_passes_the_exit_status_on_and_leaves_nothing(run: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    made = sandbox.fresh()
    at = f"basespace/{made.project}/{made.name}"
    done = run(script=f'echo saved > "$LABFS_MOUNT/{at}/f"; echo {{}}; cat "{{}}/{at}/f"; exit 7')
    out, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (7, "")
    where, said = out.splitlines()
    assert said == "saved"
    assert Path(where).parent == tmp_path / "tmp"
    assert made.stored == {"f": b"saved\n"}
    assert left(tmp_path) == []


def test_a_command_that_is_not_there_and_a_site_that_is_not(run: Run, tmp_path: Path) -> None:
    for words, status in ((["labfs-no-such-command"], 127), (["--site", "nowhere", "true"], 125)):
        done = run(*words)
        assert done.communicate(timeout=60)[1].startswith("labfs: ")
        assert done.returncode == status
    assert left(tmp_path) == []


def test_saves_that_did_not_arrive_fail_a_run_that_did_not(
    run: Run, sandbox: Sandbox, env: dict[str, str], tmp_path: Path
) -> None:
    made, at = sandbox.fresh(), tmp_path / "at"
    at.mkdir()
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", "action": "status",
                    "argument": 403, "times": None})  # fmt: skip
    done = run(
        "--at", str(at), script=f'echo x > "$LABFS_MOUNT/basespace/{made.project}/{made.name}/f" 2>/dev/null; true'
    )
    assert "1 save(s) did not reach their server" in done.communicate(timeout=60)[1]
    assert (done.returncode, mounted(at), at.exists()) == (75, False, True)
    assert "/f " in typed("outbox", "list", env=env).stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_reach_the_command_and_end_the_mount(number: signal.Signals, run: Run, tmp_path: Path) -> None:
    done: Any = run(script="trap 'exit 5' TERM INT; echo $$; for i in {1..20}; do sleep 0.1; done")
    int(done.stdout.readline())
    os.kill(done.pid, number)
    done.communicate(timeout=60)
    assert done.returncode == (-9 if number is signal.SIGKILL else 5)
    until(lambda: left(tmp_path) == [], 15)
