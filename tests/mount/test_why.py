"""`labfs why`: the reason of a path, of its folders, of its site or of the mount, for as long as it holds."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import Mount, Sandbox, typed, until

pytestmark = pytest.mark.mount

EXPIRED = {"service": "basespace", "method": "*", "route": "*", "action": "status", "argument": 401, "times": None}


def why(mount: Mount, path: Path) -> str:
    done = typed("why", path, env=mount.env)
    return str(done.stdout or done.stderr).rstrip("\n")


def site(mount: Mount) -> dict[str, Any]:
    return next(each for each in mount.status()["sites"] if each["name"] == "basespace")


def within(mount: Mount, path: Path) -> str:
    return f"/{path.relative_to(mount.path)}"


def fails(path: Path, number: int) -> None:
    with pytest.raises(OSError) as told:
        os.stat(path)
    assert told.value.errno == number


@pytest.fixture
def mount(sandbox: Sandbox, tmp_path: Path) -> Iterator[Mount]:
    mount = Mount(tmp_path, sandbox.config, "--site=basespace", "--read-only")
    try:
        yield mount.start()
    finally:
        mount.clean_up()


def test_an_expired_token_explains_all_below_until_it_is_good_again(drive: Mount, sandbox: Sandbox) -> None:
    made = sandbox.fresh()
    made.put("f", b"bytes")
    at = made.at(drive.path)
    drive.refresh(drive.path / "basespace")
    assert os.listdir(at) == ["f"]
    sandbox.faults(EXPIRED)
    drive.refresh(drive.path / "basespace")
    fails(at / "f", errno.EACCES)
    for path in (at / "f", at / "never" / "seen", at, drive.path / "basespace"):
        assert "token or password was refused" in why(drive, path), path
    assert (site(drive)["state"], typed("status", env=drive.env).returncode) == ("refused", 4)
    sandbox.faults()
    assert os.listdir(at) == ["f"]
    assert site(drive)["state"] == "well"
    assert typed("status", env=drive.env).returncode in (0, 3, 4), "others may be saving, or have failed"
    for path in (at / "f", at, drive.path / "basespace"):
        assert why(drive, path) == "Nothing has failed there.", path


def test_what_did_not_appear_and_what_cannot_be_done_say_why(drive: Mount, folder: Path) -> None:
    fails(folder / "none" / "deeper", errno.ENOENT)
    assert "There is no “none” in" in why(drive, folder / "none" / "deeper")
    (folder / "f").write_bytes(b"bytes")
    told = set()
    for name, work in (
        ("f", lambda path: os.setxattr(path, "user.mine", b"x")),
        ("f", lambda path: os.removexattr(path, "user.mine")),
        ("link", lambda path: os.symlink("f", path)),
        ("hard", lambda path: os.link(folder / "f", path)),
        ("pipe", os.mkfifo),
        ("f", os.unlink),
        ("", os.rmdir),
    ):
        with pytest.raises(OSError):
            work(folder / name)
        reason = why(drive, folder / name).partition(" ")[2].partition(" ")[2]  # without its date
        assert reason.endswith("."), reason
        told.add(reason)
    assert len(told) == 7, told


def test_a_listing_that_is_refused_no_more_is_forgotten(drive: Mount, sandbox: Sandbox, folder: Path) -> None:
    sandbox.faults({**EXPIRED, "route": "*/files", "argument": 403})
    drive.refresh(folder)
    with pytest.raises(PermissionError):
        os.listdir(folder)
    assert f"{within(drive, folder)}: " in why(drive, folder / "f")
    assert site(drive)["state"] == "well", "one folder is refused, and no token"
    sandbox.faults()
    os.listdir(folder)
    assert why(drive, folder) == "Nothing has failed there."


def test_a_read_only_mount_says_that_it_is_and_a_dead_one_what_to_do(mount: Mount, sandbox: Sandbox) -> None:
    at = mount.path / "basespace" / "Tumour panel 2026" / "Upload here"
    with pytest.raises(OSError) as told:
        (at / "f").write_bytes(b"x")
    assert told.value.errno == errno.EROFS
    assert "mounted with --read-only" in why(mount, at / "f")
    assert "mounted with --read-only" in why(mount, at)
    os.kill(mount.pid, signal.SIGKILL)
    until(lambda: "is dead" in why(mount, at / "f"))
    assert f"labfs mount {mount.path}" in why(mount, at / "f")
    done = typed("status", env=mount.env)
    assert (done.returncode, "is dead" in done.stdout) == (5, True)
    mount.start()
    assert typed("status", env=mount.env).returncode == 0
    assert "Upload here" in os.listdir(at.parent)
