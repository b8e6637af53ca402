"""A sandbox and a mount for the whole run, and a fresh record for each test that wants one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Folder, Mount, Sandbox, start_sandbox


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
    record = sandbox.api("GET", f"projects/{project}/appresults")["Items"][0]["Id"]
    sandbox.reset()
    return Folder(sandbox, folder.parent.name, folder.name, record)
