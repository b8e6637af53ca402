"""A sandbox and a mount for the whole run, a fresh record for each test that wants one, and other people's clients."""

from __future__ import annotations

import fcntl
import hashlib
import logging.handlers
import os
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from stage import RECORD, Folder, Mount, Sandbox, start_sandbox

# Hundreds of interpreters are started here, and each would compile labfs anew, half a second of it.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

REDCAP_CLIENTS = ("pycap==2.7.0", "redcaplite==2.3.0", "pandas==3.1.1", "requests==2.34.2")
CLARITY_CLIENTS = {"genologics": "2.0.1", "s4-clarity": "1.8.0", "six": "1.17.0", "requests": "2.34.2"}
ODM_CLIENTS = ("odm-api==1.64.1", "odm-sdk==1.64.1")


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    directory = tmp_path_factory.mktemp("sandbox")
    process, sandbox = start_sandbox(directory)
    yield sandbox
    sandbox.close()
    process.terminate()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def sandbox(running: Sandbox) -> Iterator[Sandbox]:
    running.calm()
    yield running
    running.calm()


@pytest.fixture(scope="session")
def drive(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """One mount for all tests that need nothing special of it."""
    if not os.path.exists("/dev/fuse") or shutil.which("fusermount3") is None:
        pytest.fail("These tests mount: they need /dev/fuse and the package fuse3. scripts/bootstrap installs it.")
    mount = Mount(tmp_path_factory.mktemp("drive"), running.config)
    try:
        yield mount.start()
    finally:
        mount.clean_up()


@pytest.fixture(autouse=True)
def nothing_waits(request: pytest.FixtureRequest) -> Iterator[None]:
    """What one test's faults left in the outbox is not sent during the next one."""
    yield
    if "drive" in request.fixturenames:
        mount: Mount = request.getfixturevalue("drive")
        mount.discard()


THREADS_S = 0.1  # of real time that virtual time waits for threads: some of them wait for something that only it brings


@pytest.fixture(autouse=True)
def nobody_makes_an_impossible_note() -> Iterator[None]:
    """Fail a test in which a note went from one state to another that the journal's table does not allow."""
    log, seen = logging.getLogger("labfs.write.spool"), logging.handlers.QueueHandler(queue.SimpleQueue())
    log.addHandler(seen)
    yield
    log.removeHandler(seen)
    while not seen.queue.empty():
        said = seen.queue.get().getMessage()
        assert "mistake in labfs" not in said, said


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time that does not run away while threads are at work, as trio's own does.

    On a busy machine all deadlines would be over before a disk has answered.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    jump, waits_until = clock.jump, 0.0

    def jump_when_idle(seconds: float) -> None:
        nonlocal waits_until
        now = time.monotonic()
        if not trio.to_thread.current_default_thread_limiter().borrowed_tokens:
            waits_until = 0.0
        elif not waits_until:
            waits_until = now + THREADS_S
        if now < waits_until:
            time.sleep(0.0002)
            return
        waits_until = 0.0
        jump(seconds)

    clock.jump = jump_when_idle  # type: ignore[method-assign]
    return clock


@pytest.fixture
def folder(sandbox: Sandbox, drive: Mount) -> Path:
    """The mounted directory of a fresh record; `behind` tells what is in its store."""
    made = sandbox.fresh()
    drive.refresh(drive.path / "basespace")
    sandbox.reset()
    return made.at(drive.path)


@pytest.fixture
def behind(sandbox: Sandbox, folder: Path) -> Folder:
    """The record behind `folder`."""
    project = sandbox.api("GET", "users/current/projects", params={"Name": folder.parent.name})["Items"][0]["Id"]
    if RECORD == "datasets":
        record = sandbox.second("GET", f"projects/{project}/datasets")["Items"][0]["Id"]
    else:
        record = sandbox.api("GET", f"projects/{project}/appresults")["Items"][0]["Id"]
    sandbox.reset()
    return Folder(sandbox, folder.parent.name, folder.name, record)


# -- clients that other people wrote, each in an environment of its own -----------------------------------


@pytest.fixture(scope="session")
def redcap_python() -> Path:
    """The interpreter of an environment that has the clients, made once and kept for later runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labfs-tests"
    digest = hashlib.sha256(f"{sys.version} {REDCAP_CLIENTS}".encode()).hexdigest()[:12]
    home = cache / f"redcap-{digest}"
    if not home.exists():
        partial = cache / f"{home.name}.{os.getpid()}"  # other runs may be at it too
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(partial)], check=True, timeout=100)
        install = [partial / "bin" / "python", "-m", "pip", "install", "-q", *REDCAP_CLIENTS]
        subprocess.run(install, check=True, timeout=500)
        try:
            partial.rename(home)
        except OSError:
            shutil.rmtree(partial)
    return home / "bin" / "python"


@pytest.fixture(scope="session")
def clarity_python() -> Path:
    """Return a Python that has the clients; the environment is made once and kept outside the repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labfs-tests"
    pins = [f"{name}=={version}" for name, version in CLARITY_CLIENTS.items()]
    name = "-".join(
        ["clarity", *(pin.replace("==", "-") for pin in pins), f"py{sys.version_info[0]}.{sys.version_info[1]}"]
    )
    home, python = cache / name, cache / name / "bin" / "python"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            # It asks for Python 3.12 and uses nothing of it.
            subprocess.run([*pip, "--no-deps", "--ignore-requires-python", pins[0]], check=True)
            subprocess.run([*pip, *pins[1:]], check=True)
            (home / "complete").touch()
    return python


@pytest.fixture(scope="session")
def odm_programs() -> Path:
    """The directory of programs of an environment with the vendor's clients, made once for all runs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labfs-tests"
    made = cache / "odm-1.64.1"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / "odm-1.64.1.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at the same time make it once
        if not (made / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", made], check=True)
            pip = [made / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *ODM_CLIENTS], check=True)
            (made / "complete").touch()
    return made / "bin"
