"""`labfs fetch` brings files onto this machine, says what it did, and fails with what it could not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from stage import Folder, Mount, Sandbox, typed

pytestmark = pytest.mark.mount


def test_a_folder_is_fetched_and_pinned(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    behind.put("a.bin", random.Random(1).randbytes(2_500_000))
    behind.put("deep/b.bin", b"small")
    drive.refresh(folder)
    done = typed("fetch", "--pin", folder, env=drive.env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2,500,000 bytes" in done.stdout
    assert "2 file(s), 2,500,005 bytes are on this machine and stay there." in done.stdout
    drive.stop()
    drive.start()
    list(folder.rglob("*"))
    sandbox.reset()
    assert (folder / "a.bin").read_bytes() == random.Random(1).randbytes(2_500_000)
    assert not [route for route in sandbox.requests() if "blob" in route], "its bytes are here"
    done = typed("fetch", "--unpin", folder, env=drive.env)
    assert done.stdout == "2 file(s) may be evicted again.\n"


def test_what_cannot_be_fetched_is_said(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    behind.put("a.bin", b"x" * 1000)
    behind.put("b.bin", b"y" * 1000)
    drive.refresh(folder)
    assert len(list(folder.iterdir())) == 2
    sandbox.faults(
        {"service": "basespace", "route": "*/files/*/content", "action": "status", "argument": 403, "times": 1}
    )
    done = typed("fetch", folder, env=drive.env)
    assert done.returncode == 1
    assert "1 file(s), 1,000 bytes" in done.stdout
    assert "1 could not be fetched" in done.stderr
    done = typed("fetch", folder / "none", env=drive.env)
    assert (done.returncode, "none" in done.stderr) == (1, True)


def test_a_folder_is_verified(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    behind.put("a.bin", b"a" * 1000)
    behind.put("b.bin", b"b" * 2_000_000)
    drive.refresh(folder)
    done = typed("verify", folder, env=drive.env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 proved" in done.stdout
    sandbox.faults({"service": "blobs", "times": None, "action": "corrupt", "argument": 500})
    done = typed("verify", "--json", folder / "a.bin", env=drive.env)
    assert done.returncode == 1
    assert '"verdict": "wrong"' in done.stdout
    assert "Not every file is as its server says" in done.stderr
