"""What BaseSpace and ODM cannot do (the last list of their contracts): the errno, and the sentence, line by line.

The other systems' lines are in their own mount tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from odm_stage import EMPTY, Service, emptied, quick
from stage import Folder, Mount, Sandbox, run, typed

pytestmark = pytest.mark.mount

MOVE_UP = 'python3 -c \'import os; up = os.path.realpath(".."); os.rename(up, os.path.dirname(up) + "/Other")\''
EPERM, EROFS, EFBIG = "Operation not permitted", "Read-only file system", "File too large"


def refused(command: str, where: Path, words: str, told: Path, sentence: str, drive: Mount) -> None:
    done = run(command, where)
    assert done.returncode != 0, command
    assert words in done.stderr, (command, done.stderr)
    assert sentence in typed("why", told, env=drive.env).stdout, command


@pytest.mark.parametrize(
    ("command", "words", "told", "sentence"),
    [
        ("mv f g", EPERM, "f", "cannot rename or move"),
        ("mv f ../f", EPERM, "f", "cannot rename or move"),
        ("mv ../Record ../Other", EPERM, "../Record", "cannot rename or move"),
        (MOVE_UP, EPERM, "..", "cannot rename or move"),
        ("rm f", EPERM, "f", "cannot delete a single file"),
        ("rmdir ../Record", EPERM, "../Record", "does not delete"),
        ("truncate -s 300G f", EFBIG, "f", "bytes at most"),
        ("dd if=/dev/zero of=h bs=1 count=1 seek=300G", EFBIG, "h", "bytes at most"),
        ("ln -s f s", "not", "s", ""),
        ("ln f h", "not", "h", ""),
        ("mkfifo p", "not", "p", ""),
        ("setfattr -n user.mine -v x f", "not supported", "f", ""),
    ],
)  # fmt: skip
def test_basespace(
    command: str, words: str, told: str, sentence: str, folder: Path, behind: Folder, drive: Mount
) -> None:
    (folder / "f").write_bytes(b"abc")
    refused(command, folder, words, Path(os.path.normpath(folder / told)), sentence, drive)
    assert behind.stored == {"f": b"abc"}
    assert len(behind.paths) == 1


def test_basespace_keeps_no_empty_folder_mode_owner_or_date(
    folder: Path, behind: Folder, drive: Mount, tmp_path: Path, sandbox: Sandbox
) -> None:
    done = run("mkdir empty && echo x > f && chmod 600 f && touch -d 2001-01-01 f", folder)
    assert (done.returncode, done.stderr) == (0, ""), "accepted, since a copy is none the worse for it"
    mount = Mount(tmp_path, sandbox.config, "--site", "basespace")
    try:
        mount.start()
        there = mount.path / folder.relative_to(drive.path)
        assert os.listdir(there) == ["f"]
        assert (there / "f").stat().st_mode & 0o777 == 0o644
        assert (there / "f").stat().st_mtime > 1_500_000_000
    finally:
        mount.clean_up()


@pytest.fixture
def service(sandbox: Sandbox) -> Iterator[Service]:
    with quick(sandbox) as service:
        yield service


@pytest.fixture
def study(service: Service, drive: Mount) -> Iterator[Path]:
    with emptied(service, drive) as path:
        yield path


@pytest.mark.parametrize(
    ("command", "words", "told", "sentence"),
    [
        ("mkdir ../../New", EROFS, "../../New", "Studies are made in ODM itself"),
        (MOVE_UP, EPERM, "..", "cannot rename or move"),
        ("rmdir \"$PWD/../../$(basename \"$(dirname \"$PWD\")\")\"", EPERM, "..", "does not delete"),
        ("dd if=/dev/zero of=big bs=1 count=1 seek=6G", EFBIG, "big", "5,368,709,120 bytes at most"),
        ("mkdir ../Elsewhere", "Operation not permitted", "../Elsewhere", "in one of the folders of"),
        ("ln -s f s", "not", "s", ""),
        ("setfattr -n user.mine -v x f", "not supported", "f", ""),
    ],
)  # fmt: skip
def test_odm(
    command: str, words: str, told: str, sentence: str, study: Path, service: Service, drive: Mount, sandbox: Sandbox
) -> None:
    (study / "Document" / "f").write_bytes(b"abc")
    sandbox.reset()
    refused(command, study / "Document", words, Path(os.path.normpath(study / "Document" / told)), sentence, drive)
    assert [(row["name"], row["data"]) for row in service.attached(EMPTY)] == [("f", b"abc")]
    assert not any("import" in route for route in sandbox.requests()), "not a byte was sent"


def test_odm_moves_a_file_to_another_class_by_a_copy_and_says_so(study: Path, service: Service, drive: Mount) -> None:
    (study / "Document" / "f").write_bytes(b"abc")
    (study / "Other" / "g").write_bytes(b"first")
    done = run("mv Document/f Other/f", study)  # EXDEV, and so `mv` copies and deletes
    assert (done.returncode, done.stderr) == (0, "")
    found = {(row["data_class"], row["name"]): row["data"] for row in service.attached(EMPTY)}
    assert found == {("Other", "f"): b"abc", ("Other", "g"): b"first"}
    assert "cannot rename" in drive.log
