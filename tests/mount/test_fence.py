"""A thumbnailer downloads no terabytes: it may open small files only, and everybody else is let through."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from stage import Folder, Mount, Sandbox, labfs, run

pytestmark = pytest.mark.mount
MIB = 1 << 20


@pytest.fixture
def tumblerd(tmp_path: Path) -> Path:
    """A program of that name, which reads what it is told to."""
    return Path(shutil.copy(shutil.which("cat") or "/bin/cat", tmp_path / "tumblerd"))


def test_no_preview_is_downloaded_for(
    tumblerd: Path, folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox
) -> None:
    small, large = random.Random(1).randbytes(MIB), random.Random(2).randbytes(MIB + 1)
    for number in range(5):
        behind.put(f"large{number}.png", large)
    behind.put("small.png", small)
    drive.refresh()
    assert len(list(folder.iterdir())) == 6
    sandbox.reset()
    for number in range(5):
        done = subprocess.run([tumblerd, folder / f"large{number}.png"], capture_output=True, check=False, timeout=20)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"Permission denied" in done.stderr
    assert not sandbox.requests(), "nothing was asked for"
    assert "previews_mib" in labfs("why", folder / "large0.png", env=drive.env).stdout
    assert not drive.status()["errors"], "nobody is alarmed by it"
    assert subprocess.run([tumblerd, folder / "small.png"], capture_output=True, check=True, timeout=20).stdout == small
    assert run("cat large0.png | cmp - large0.png", folder).returncode == 0
    assert (folder / "large0.png").read_bytes() == large
