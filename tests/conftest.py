"""A sandbox and a mount for the whole run, a fresh record for each test that wants one, and other people's clients."""

from __future__ import annotations

import logging.handlers
import os
import queue
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from environments import environment
from stage import RECORD, Folder, Mount, Sandbox, start_sandbox

from labfs.fsspec.core import core_of
from labfs.fsspec.filesystem import LabFileSystem

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
    # Tests count requests, and say themselves what is looked at.
    sandbox.config.write_text(sandbox.config.read_text().replace("access =", "poll_s = 0\naccess ="))
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


@pytest.fixture(scope="module")
def unmounted(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFileSystem]:
    """All sites without a mount, with `access = "full"`; it ends with its module: no later test counts its requests."""
    base = tmp_path_factory.mktemp("unmounted")
    config = base / "labfs.toml"
    config.write_text(running.config.read_text().replace('access = "write"', 'access = "full"'))
    config.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABFS_STATE_DIR", str(base / "state"))
        patch.setenv("LABFS_CACHE_DIR", str(base / "cache"))
        core_of(str(config))
    yield LabFileSystem(config=config)
    core_of(str(config)).end()


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
    return environment("redcap", REDCAP_CLIENTS) / "python"


@pytest.fixture(scope="session")
def clarity_python() -> Path:
    first, *others = (f"{name}=={version}" for name, version in CLARITY_CLIENTS.items())
    # The first asks for Python 3.12 and uses nothing of it.
    return environment("clarity", ("--no-deps", "--ignore-requires-python", first), others) / "python"


@pytest.fixture(scope="session")
def odm_programs() -> Path:
    return environment("odm", ODM_CLIENTS)
