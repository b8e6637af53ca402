"""What a kill, a fault or a person's `outbox retry` leaves on real mounts: one file, the last one acknowledged."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import five_stage
import pytest
from clarity_stage import SAMPLE
from five_stage import Lab
from odm_stage import EMPTY
from stage import Mount, Sandbox, typed

pytestmark = pytest.mark.mount

HALF = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
os.write(fd, b"h" * 1000)
os.fsync(fd)
print("synced", flush=True)
time.sleep(60)
"""


@dataclass
class Place:
    """A directory of one system, through any mount, and what the system itself holds there."""

    site: str
    path: Path  # below a mount point
    put: Callable[[str, bytes], object]
    stored: Callable[[], list[tuple[str, bytes]]]
    deletion: dict[str, Any] | None = None  # how a fault meets the request that deletes


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        yield made


def shelf(lab: Lab) -> Place:
    """A folder of REDCap's repository, where saving over a file deletes the old one."""
    title = f"Recovery {random.random()}"
    (made,) = lab.redcap.ask("biobank", "fileRepository", action="createFolder", name=title)
    number = made["folder_id"]

    def put(name: str, data: bytes) -> None:
        lab.redcap.post(
            "biobank", {"file": (name, data)}, content="fileRepository", action="import", folder_id=str(number)
        ).raise_for_status()

    deletion = {"service": "redcap", "method": "POST"}
    return Place("redcap", Path("redcap/biobank/.repository", title), put, lambda: lab.redcap.shelved(number), deletion)


def place(lab: Lab, site: str) -> Place:
    match site:
        case "shelf":
            return shelf(lab)
        case "odm":
            return Place(
                site, lab.places[site], lambda name, data: lab.odm.put(EMPTY, name, data),
                lambda: [(row["name"], row["data"]) for row in lab.odm.attached(EMPTY)],
                {"service": "odm", "method": "DELETE"},
            )  # fmt: skip
        case "portal":
            return Place(
                site, lab.places[site], lambda name, data: lab.put("portal", name, data),
                lambda: [(row["filename"], row["data"]) for row in lab.team.rows()],
                {"service": "portal", "method": "DELETE"},
            )  # fmt: skip
        case "clarity":
            return Place(
                site, lab.places[site], lambda name, data: lab.put("clarity", name, data),
                lambda: [(name, data or b"") for name, data in lab.clarity.stored(SAMPLE)],
            )  # fmt: skip
    folder = lab.sandbox.fresh()
    return Place(
        "basespace", folder.at(Path()), folder.put,
        lambda: [(row["path"], (lab.sandbox.directory / "blobs" / row["blob"]).read_bytes())
                 for row in lab.sandbox.rows(folder.record)],
    )  # fmt: skip


@contextlib.contextmanager
def mount(lab: Lab, base: Path, site: str) -> Iterator[Mount]:
    made = Mount(base, lab.sandbox.config, "--site", site)
    try:
        yield made.start()
    finally:
        lab.sandbox.faults()
        made.clean_up()


def kill(mount: Mount) -> None:
    pid = mount.pid
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
        time.sleep(0.01)


def outbox(mount: Mount) -> list[str]:
    return typed("outbox", "list", env=mount.env).stdout.splitlines()


def sending(mount: Mount) -> bool:
    return any(upload["state"] == "uploading" for upload in mount.status()["uploads"])


def quiet(mount: Mount, lines: int = 0, seconds: float = 25) -> list[str]:
    """Wait until the outbox has so many lines, and nothing that was in it is under way."""
    until = time.monotonic() + seconds
    while (len(found := outbox(mount)) != lines or sending(mount)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def shown(mount: Mount, where: Place) -> dict[str, bytes]:
    mount.refresh(mount.path / where.path)
    return {path.name: path.read_bytes() for path in (mount.path / where.path).iterdir()}


BY_DELETE = ("odm", "portal", "shelf")


@pytest.mark.parametrize("site", BY_DELETE)
def test_a_kill_between_the_new_file_and_the_end_of_the_old_one(site: str, lab: Lab, tmp_path: Path) -> None:
    where = place(lab, site)
    where.put("rep.txt", b"version one")
    with mount(lab, tmp_path, where.site) as drive:
        file = drive.path / where.path / "rep.txt"
        assert file.read_bytes() == b"version one"
        # REDCap's requests are all alike: its deletion follows the three that save.
        lab.sandbox.reset()
        lab.sandbox.faults(
            {
                **(where.deletion or {}),
                "action": "delay_s",
                "argument": 2.5,
                "skip": 4 * (site == "shelf"),
                "times": None,
            }
        )
        saving = subprocess.Popen([sys.executable, "-c", "import sys; open(sys.argv[1], 'w').write('version two')", file],
                                  stderr=subprocess.DEVNULL)  # fmt: skip
        until = time.monotonic() + 15
        while len(where.stored()) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.3)
        kill(drive)
        saving.wait(20)
        lab.sandbox.faults()
        drive.start()
        assert quiet(drive) == []
        until = time.monotonic() + 10  # what was deleted while it was delayed takes its time
        while len(where.stored()) > 1 and time.monotonic() < until:
            time.sleep(0.1)
        assert where.stored() == [("rep.txt", b"version two")]
        assert shown(drive, where) == {"rep.txt": b"version two"}
        with open(file, "ab") as more:
            more.write(b" and more")
        assert shown(drive, where) == {"rep.txt": b"version two and more"}
        file.unlink()
        assert (shown(drive, where), where.stored()) == ({}, [])


@pytest.mark.parametrize("site", BY_DELETE[:2])
def test_a_deletion_that_fails_and_a_retry(site: str, lab: Lab, tmp_path: Path) -> None:
    where = place(lab, site)
    where.put("rep.txt", b"version one")
    with mount(lab, tmp_path, where.site) as drive:
        file = drive.path / where.path / "rep.txt"
        assert file.read_bytes() == b"version one"
        lab.sandbox.faults({**(where.deletion or {}), "action": "status", "argument": 403, "times": None})
        with pytest.raises(OSError) as caught:
            file.write_bytes(b"version two")
        assert caught.value.errno == errno.EACCES
        assert sorted(shown(drive, where).values()) == [b"version one", b"version two"]
        (line,) = quiet(drive, 1)
        assert "old file is still there" in line
        lab.sandbox.faults()
        assert typed("outbox", "retry", env=drive.env).returncode == 0
        assert quiet(drive) == []
        assert shown(drive, where) == {"rep.txt": b"version two"}
        assert where.stored() == [("rep.txt", b"version two")]
        file.unlink()


def test_bytes_that_failed_their_checksum_are_never_sent(lab: Lab, tmp_path: Path) -> None:
    where = place(lab, "basespace")
    data = random.Random(2).randbytes(4_500_000)
    where.put("big.bin", data)
    with mount(lab, tmp_path, "basespace") as drive:
        file = drive.path / where.path / "big.bin"
        lab.sandbox.faults({"service": "blobs", "method": "GET", "action": "corrupt", "argument": 50000, "times": None})
        with pytest.raises(OSError) as caught, open(file, "ab") as more:
            more.write(b"append")
        assert caught.value.errno == errno.EIO
        lab.sandbox.faults()
        assert typed("outbox", "retry", env=drive.env).returncode == 0
        assert quiet(drive) == []
        expected = data + b"append"
        assert [stored == expected or len(stored) == 4_500_000 for _, stored in where.stored()] == [True, True]
        assert shown(drive, where) == {"big.bin": expected}


@pytest.mark.parametrize("site", ["basespace", "clarity", *BY_DELETE])
def test_what_was_synced_and_not_closed_replaces_nothing(site: str, lab: Lab, tmp_path: Path) -> None:
    where = place(lab, site)
    where.put("good.txt", b"g" * 24_000)
    with mount(lab, tmp_path, where.site) as drive:
        command = [sys.executable, "-c", HALF, drive.path / where.path / "good.txt"]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "synced\n"
        kill(drive)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        drive.start()
        (line,) = quiet(drive, 1)
        assert "\n0 save(s) are sent" in f"\n{typed('outbox', 'retry', env=drive.env).stdout}"
        time.sleep(0.3)
        assert where.stored() == [("good.txt", b"g" * 24_000)]
        done = typed("outbox", "retry", line.split()[0], env=drive.env)
        assert "never closed" in done.stdout
        assert "24,000 bytes" in done.stdout
        assert quiet(drive) == []
        versions = [b"g" * 24_000, b"h" * 1000] if site == "basespace" else [b"h" * 1000]
        until = time.monotonic() + 15  # what is being sent does not wait any more
        while (found := [data for _, data in where.stored()]) != versions and time.monotonic() < until:
            time.sleep(0.05)
        assert found == versions
        assert shown(drive, where) == {"good.txt": b"h" * 1000}
    if site == "clarity":
        for limsid in lab.clarity.ids(f"samples/{SAMPLE}"):
            lab.clarity.http.delete(f"files/{limsid}")


@pytest.mark.parametrize("change", ["save", "remove"])
def test_a_refused_save_does_not_come_back(change: str, lab: Lab, tmp_path: Path) -> None:
    where = place(lab, "clarity")
    with mount(lab, tmp_path, "clarity") as drive:
        file = drive.path / where.path / f"{change}.txt"
        file.write_bytes(b"version 1")
        upload = {"service": "clarity", "method": "POST", "route": "*/upload", "action": "status", "argument": 400}
        lab.sandbox.faults(upload)
        with pytest.raises(OSError):
            file.write_bytes(b"version 2")
        lab.sandbox.faults()
        if change == "save":
            file.write_bytes(b"version 3")
        else:
            file.unlink()
        expected = {f"{change}.txt": b"version 3"} if change == "save" else {}
        done = typed("outbox", "retry", env=drive.env)
        assert (done.returncode, "only by name" in done.stdout) == (0, True)
        time.sleep(0.5)
        assert {name: data for name, data in where.stored() if name == file.name} == expected
        (line,) = outbox(drive)
        done = typed("outbox", "retry", line.split()[0], env=drive.env)
        assert (b"version 3" in expected.values()) == ("is saved over" in done.stdout)
        assert quiet(drive) == []
        assert {name: data for name, data in where.stored() if name == file.name} == {file.name: b"version 2"}
        file.unlink()


def test_a_temporary_file_keeps_the_bytes_that_it_shows(lab: Lab, tmp_path: Path) -> None:
    where = place(lab, "basespace")
    with mount(lab, tmp_path, "basespace") as drive:
        at = drive.path / where.path
        (at / "f~").write_bytes(b"shown")
        fault = {"service": "basespace", "method": "POST", "action": "status", "argument": 400, "times": None}
        lab.sandbox.faults(fault)
        with pytest.raises(OSError):
            (at / "f~").rename(at / "f")
        (line,) = outbox(drive)
        done = typed("outbox", "discard", line.split()[0], env=drive.env)
        assert done.returncode != 0
        assert "still here as" in done.stderr
        assert (at / "f~").read_bytes() == b"shown"


def test_a_close_saves_although_the_program_has_the_file_open_in_another_mount(lab: Lab, tmp_path: Path) -> None:
    where = place(lab, "clarity")
    where.put("crossed.txt", b"1" * 100)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with mount(lab, tmp_path / "one", "clarity") as one, mount(lab, tmp_path / "two", "clarity") as two:
        first, second = (side.path / where.path / "crossed.txt" for side in (one, two))
        late = os.open(first, os.O_WRONLY | os.O_TRUNC)
        second.write_bytes(b"2" * 200)  # of the same number and name as what is open in the other mount
        assert dict(where.stored())["crossed.txt"] == b"2" * 200
        os.write(late, b"3" * 300)
        with pytest.raises(OSError) as caught:
            os.close(late)
        assert caught.value.errno == errno.ESTALE
        assert dict(where.stored())["crossed.txt"] == b"2" * 200
        second.unlink()
