"""REDCap through a real mount: what people do with it, and what it refuses."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redcap_stage import Redcap, opened
from stage import Mount, Sandbox, run, typed

pytestmark = pytest.mark.mount

MB = 1_000_000
FIELDS = ["consent_scan", "consent_signature", "counts", "pathology_report", "slide_image", "variants"]


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def redcap(sandbox: Sandbox) -> Iterator[Redcap]:
    with opened(sandbox) as redcap:
        yield redcap


@pytest.fixture
def record(redcap: Redcap, drive: Mount, sandbox: Sandbox) -> Iterator[Path]:
    """The mounted directory of a record of the test's own."""
    name = redcap.record()
    path = drive.path / "redcap" / "biobank" / name
    drive.refresh(path.parent)
    os.listdir(path)
    sandbox.reset()
    yield path
    redcap.post("biobank", content="record", action="delete", records=[name])


def posts(sandbox: Sandbox) -> int:
    return sum(row["service"] == "redcap" for row in sandbox.log())


def error(path: Path) -> str:
    """Return the sentence behind what failed last at a path."""
    return str(run(f"getfattr --only-values -n user.labfs.error '{path}'").stdout)


def refused(command: str, words: str, *, within: Path, told: Path, drive: Mount) -> None:
    """Check that a command fails with these words, and that labfs has a sentence for it."""
    done = run(command, within)
    assert done.returncode != 0, command
    assert words in done.stderr, (command, done.stderr)
    assert typed("why", told, env=drive.env).stdout.strip() or error(told), command


def only(redcap: Redcap, record: Path) -> tuple[str, bytes]:
    ((_, stored),) = redcap.stored(record.name).items()
    return stored


# -- bytes in and out ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 6 * MB])
def test_a_file_goes_in_and_comes_out_of_a_new_mount(
    size: int, record: Path, redcap: Redcap, tmp_path: Path, sandbox: Sandbox
) -> None:
    (tmp_path / "größe.bin").write_bytes(noise(size))
    done = run(f"cp '{tmp_path}/größe.bin' '{record}/counts/'")
    assert (done.returncode, done.stderr) == (0, "")
    assert redcap.stored(record.name) == {("counts", 1): ("größe.bin", noise(size))}
    mount = Mount(tmp_path, sandbox.config)
    try:
        mount.start()
        again = mount.path / "redcap" / "biobank" / record.name / "counts" / "größe.bin"
        assert again.read_bytes() == noise(size)
        assert again.stat().st_size == size
    finally:
        mount.clean_up()


def test_what_is_larger_than_any_server_takes_is_refused_before_it_is_sent(
    record: Path, drive: Mount, sandbox: Sandbox
) -> None:
    done = run(f"dd if=/dev/zero of='{record}/counts/f' bs=1 count=1 seek=1073741824")
    assert "File too large" in done.stderr
    assert posts(sandbox) == 0
    assert "1,073,741,824 bytes at most" in drive.log


def test_what_is_larger_than_this_server_takes_is_refused_by_it(
    record: Path, redcap: Redcap, tmp_path: Path, drive: Mount
) -> None:
    redcap.switch(largest_upload=MB)
    (tmp_path / "f").write_bytes(noise(2 * MB))
    refused(f"cp f '{record}/counts/f'", "File too large", within=tmp_path, told=record / "counts" / "f", drive=drive)
    assert redcap.stored(record.name) == {}


def test_saving_over_a_file_replaces_it_in_place(record: Path, redcap: Redcap, drive: Mount) -> None:
    path = record / "counts" / "f"
    path.write_bytes(b"old")
    inode = path.stat().st_ino
    with open(path, "r+b") as file:
        file.seek(1)
        file.write(b"LDER")
    assert only(redcap, record) == ("f", b"oLDER")
    drive.refresh(record)
    assert (path.read_bytes(), path.stat().st_ino) == (b"oLDER", inode)
    path.write_bytes(b"")
    assert only(redcap, record) == ("f", b"")
    assert path.stat().st_size == 0


def test_an_editors_save_is_one_upload(record: Path, redcap: Redcap, sandbox: Sandbox) -> None:
    path = record / "counts" / "f.txt"
    path.write_text("old\n")
    first = redcap.rows("SELECT max(id) AS id FROM redcap_documents")[0]["id"]
    sandbox.reset()
    assert run(f"sed -i s/old/new/ '{path}'").returncode == 0
    assert only(redcap, record) == ("f.txt", b"new\n")
    assert redcap.rows("SELECT max(id) AS id FROM redcap_documents")[0]["id"] == first + 1
    assert os.listdir(path.parent) == ["f.txt"]


def test_what_others_do_shows_after_a_refresh(record: Path, redcap: Redcap, drive: Mount) -> None:
    redcap.put("biobank", "theirs.csv", b"1,2\n", record=record.name, field="variants")
    drive.refresh(record)
    assert (record / "variants" / "theirs.csv").read_bytes() == b"1,2\n"
    redcap.put("biobank", "theirs.csv", b"3,4,5\n", record=record.name, field="variants")
    drive.refresh(record)
    assert (record / "variants" / "theirs.csv").read_bytes() == b"3,4,5\n"
    redcap.file("delete", "biobank", record=record.name, field="variants")
    drive.refresh(record)
    assert os.listdir(record / "variants") == []


def test_deleting(record: Path, redcap: Redcap) -> None:
    path = record / "counts" / "f"
    path.write_bytes(b"x")
    os.unlink(path)
    assert (redcap.stored(record.name), os.listdir(path.parent)) == ({}, [])


def test_without_full_access_nothing_is_deleted(record: Path, redcap: Redcap, sandbox: Sandbox, tmp_path: Path) -> None:
    redcap.put("biobank", "f", b"kept", record=record.name, field="counts")
    redcap.post("biobank", {"file": ("kept", b"1")}, content="fileRepository", action="import")
    config = tmp_path / "labfs.toml"
    config.write_text(sandbox.config.read_text().replace('access = "full"', 'access = "write"'))
    config.chmod(0o600)
    mount = Mount(tmp_path, config)
    try:
        mount.start()
        project = mount.path / "redcap" / "biobank"
        for command in (f"rm {record.name}/counts/f", "rm .repository/kept", "echo x > .repository/kept"):
            assert "Operation not permitted" in run(command, project).stderr, command
        assert 'access = "full"' in mount.log
        assert run(f"echo new > {record.name}/counts/f", project).returncode == 0, "replaced in place, as REDCap does"
    finally:
        mount.clean_up()
    assert only(redcap, record) == ("f", b"new\n")
    number = redcap.rows("SELECT document FROM redcap_repository WHERE deleted IS NULL ORDER BY document DESC")[0]
    redcap.post("biobank", content="fileRepository", action="delete", doc_id=str(number["document"]))


# -- the tree --------------------------------------------------------------------------------------------


def test_directories_are_made(drive: Mount, redcap: Redcap) -> None:
    project = drive.path / "redcap" / "plates"
    assert (
        run("mkdir M-1 && mkdir M-1/run-2 && echo a > M-1/run-2/run_table/t.csv && echo b > M-1/raw/r", project).stderr
        == ""
    )
    assert redcap.stored("M-1") == {("run_table", 2): ("t.csv", b"a\n"), ("raw", 1): ("r", b"b\n")}
    drive.refresh(project)
    assert sorted(os.listdir(project / "M-1")) == ["raw", "run-1", "run-2"]
    redcap.post("plates", content="record", action="delete", records=["M-1"])
    shelf = drive.path / "redcap" / "empty" / ".repository"
    assert run("mkdir -p a/b && echo c > a/b/f", shelf).stderr == ""
    drive.refresh(shelf)
    assert (shelf / "a" / "b" / "f").read_bytes() == b"c\n"


def test_hostile_names_stay_in_their_place(drive: Mount) -> None:
    project = drive.path / "redcap" / "odd"
    found = run("find . | wc -l; find . -type f -exec md5sum {} + | wc -l", project)
    assert found.stderr == ""
    lines, files = map(int, found.stdout.split())
    assert files == 14 + 13, "one for each of the seed's files, in records and in the repository"
    assert lines > files
    assert {"%2E%2E", "a%2Fb"} <= set(os.listdir(project)) or len(os.listdir(project)) == 14
    everything = [Path(at) / name for at, _, names in os.walk(project) for name in names]
    assert all(path.resolve().is_relative_to(project) for path in everything)
    beside = sorted(name for name in os.listdir(project / ".repository") if name.startswith("consent"))
    assert len(beside) == 2


def test_a_records_values_are_beside_its_files(drive: Mount) -> None:
    found = json.loads((drive.path / "redcap" / "biobank" / "2" / ".meta.json").read_text())
    assert (found["record"], found["values"][0]["sample_name"]) == ("2", "S2")
    project = json.loads((drive.path / "redcap" / "biobank" / ".meta.json").read_text())
    assert project["project_title"] == "Tumour biobank 2026"


# -- requests --------------------------------------------------------------------------------------------


def test_requests_per_action(record: Path, redcap: Redcap, drive: Mount, sandbox: Sandbox) -> None:
    def cost(command: str, within: Path = record) -> int:
        sandbox.reset()
        done = run(command, within)
        assert done.returncode == 0, (command, done.stderr)
        return posts(sandbox)

    drive.refresh(record.parent)
    assert cost("ls -R . > /dev/null", record) == 2, "names and documents of the whole project"
    assert cost("ls -R 1 2 3 > /dev/null", record.parent) == 0
    assert cost("echo x > counts/f") == 1 + 1 + 2 + 1, "look, import, look, length"
    assert cost("cat counts/f") <= 2, "the bytes, and that they are of this version"
    assert cost("cat counts/f") == 0
    assert cost("rm counts/f") == 2 + 1 + 2, "look, delete, look"
    drive.refresh(record.parent.parent / "wells")
    assert cost("ls wells | wc -l", record.parent.parent) == 2, "five thousand records"


def test_fifty_readers_stay_within_the_pace(redcap: Redcap, sandbox: Sandbox, tmp_path: Path) -> None:
    files = {}
    for index in range(50):
        name = redcap.record()
        files[name] = noise(30_000 + index, index)
        redcap.put("biobank", "f", files[name], record=name, field="counts")
    redcap.switch(requests_per_minute=600)
    mount = Mount(tmp_path, sandbox.config)
    try:
        mount.start()
        project = mount.path / "redcap" / "biobank"
        os.listdir(project)
        sandbox.reset()
        readers = {
            name: subprocess.Popen(["md5sum", str(project / name / "counts" / "f")], stdout=subprocess.PIPE, text=True)
            for name in files
        }
        sums = {name: reader.communicate(timeout=60)[0][:32] for name, reader in readers.items()}
        times = [row["at"] for row in sandbox.log() if row["service"] == "redcap"]
    finally:
        mount.clean_up()
        redcap.switch(requests_per_minute=0)
        redcap.post("biobank", content="record", action="delete", records=list(files))
    assert sums == {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    assert 50 < len(times) < 50 + 12, "one a file, and few to confirm them all"
    apart = [times[n] - times[n - 5] for n in range(5, len(times))]
    assert min(apart) >= 1.0, "more than five a second"


def tokens_changed(base: Path, sandbox: Sandbox, old: str, new: str) -> Path:
    """Return a configuration in which one token takes the place of another."""
    config = base / "labfs.toml"
    text = sandbox.config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    config.chmod(0o600)
    return config


# -- what REDCap cannot do -------------------------------------------------------------------------------


def test_a_read_is_one_whole_download_whatever_is_wanted_of_it(
    record: Path, redcap: Redcap, drive: Mount, sandbox: Sandbox
) -> None:
    redcap.put("biobank", "f", noise(5 * MB), record=record.name, field="counts")
    drive.refresh(record)
    (record / "counts" / "f").stat()
    sandbox.reset()
    assert run("tail -c 10 counts/f | md5sum && dd if=counts/f bs=1 skip=999 count=5 | md5sum", record).returncode == 0
    assert posts(sandbox) <= 2


def test_no_listing_downloads_a_file_for_its_size(record: Path, redcap: Redcap, drive: Mount, sandbox: Sandbox) -> None:
    redcap.put("biobank", "f", noise(20 * MB), record=record.name, field="counts")
    drive.refresh(record)
    os.listdir(record)
    sandbox.faults({"service": "redcap", "action": "stall", "argument": 300_000, "times": None, "skip": 0})
    try:
        assert run("timeout 5 stat -c %s counts/f", record).stdout.strip() == str(20 * MB), "the length is announced"
    finally:
        sandbox.faults()
    assert (record / "counts" / "f").read_bytes() == noise(20 * MB)


def test_a_file_is_not_renamed_and_not_moved(record: Path, redcap: Redcap, drive: Mount) -> None:
    (record / "counts" / "f").write_bytes(b"x")
    done = run("mv counts/f counts/g", record)
    assert done.returncode != 0, "the one place is taken while the old one is there"
    assert only(redcap, record) == ("f", b"x")
    assert run("mv counts/f variants/f", record).returncode == 0, "copied, then deleted"
    assert redcap.stored(record.name) == {("variants", 1): ("f", b"x")}


def test_a_second_file_in_a_field_is_refused(record: Path, redcap: Redcap, drive: Mount) -> None:
    (record / "counts" / "f").write_bytes(b"x")
    refused("echo y > counts/g", "File exists", within=record, told=record / "counts" / "g", drive=drive)
    assert "save over it, or delete it first" in drive.log or error(record / "counts")
    assert only(redcap, record) == ("f", b"x")


@pytest.mark.parametrize("mode", ["ab", "wb"])
def test_a_lost_update_is_noticed_at_the_save(mode: str, record: Path, redcap: Redcap, drive: Mount) -> None:
    path = record / "counts" / "f"
    path.write_bytes(b"mine")
    file = open(path, mode, buffering=0)
    redcap.put("biobank", "f", b"theirs", record=record.name, field="counts")
    file.write(b" and more")
    with pytest.raises(OSError) as caught:
        file.close()
    assert caught.value.errno == errno.ESTALE
    assert only(redcap, record) == ("f", b"theirs")
    assert "Somebody else has saved" in error(path)
    assert any(kept.read_bytes().endswith(b" and more") for kept in drive.spooled), "neither side is lost"


def test_projects_come_from_the_configuration(drive: Mount) -> None:
    site = drive.path / "redcap"
    assert set(os.listdir(site)) == {"biobank", "trial", "plates", "empty", "wells", "odd"}
    refused("mkdir new", "Read-only file system", within=site, told=site, drive=drive)


def test_a_deleted_file_does_not_come_back(record: Path, redcap: Redcap, drive: Mount) -> None:
    path = record / "counts" / "f"
    path.write_bytes(b"x")
    os.unlink(path)
    drive.refresh(record)
    refused("cat counts/f", "No such file", within=record, told=record / "counts", drive=drive) if error(path) else None
    assert not path.exists()


def test_older_versions_are_gone(record: Path, redcap: Redcap, drive: Mount) -> None:
    path = record / "counts" / "f"
    redcap.put("biobank", "f", noise(3 * MB, 1), record=record.name, field="counts")
    drive.refresh(record)
    path.stat()
    redcap.put("biobank", "f", noise(3 * MB, 2), record=record.name, field="counts")
    done = run("cat counts/f > /dev/null", record)
    assert done.returncode != 0
    assert "replaced or removed on the server" in drive.log
    drive.refresh(record)
    assert path.read_bytes() == noise(3 * MB, 2)


def test_signatures_are_not_written(drive: Mount) -> None:
    record = drive.path / "redcap" / "biobank" / "1"
    assert sorted(os.listdir(record)) == FIELDS
    field = record / "consent_signature"
    assert (field / "signature.png").read_bytes()[:4] == b"\x89PNG"
    refused("echo x > new", "Read-only file system", within=field, told=field, drive=drive)
    refused("echo x > signature.png", "Read-only file system", within=field, told=field / "signature.png", drive=drive)
    refused("rm signature.png", "Operation not permitted", within=field, told=field / "signature.png", drive=drive)
    assert "signatures" in drive.log


def test_no_field_is_made(record: Path, drive: Mount) -> None:
    refused("mkdir new", "Read-only file system", within=record, told=record, drive=drive)
    refused("echo x > new", "Read-only file system", within=record, told=record, drive=drive)
    assert "designed in REDCap itself" in drive.log


def test_an_empty_file_is_told_from_a_failed_transfer(record: Path, redcap: Redcap, drive: Mount) -> None:
    redcap.put("biobank", "nothing", b"", record=record.name, field="counts")
    drive.refresh(record)
    redcap.switch(empty_answers=1)
    path = record / "counts" / "nothing"
    assert (path.read_bytes(), path.stat().st_size) == (b"", 0)


def test_folders_of_the_repository_stay_as_they_are(drive: Mount) -> None:
    shelf = drive.path / "redcap" / "biobank" / ".repository"
    refused("mv Protocols Other", "Operation not permitted", within=shelf, told=shelf / "Protocols", drive=drive)
    refused("rmdir 'Empty folder'", "Operation not permitted", within=shelf, told=shelf / "Empty folder", drive=drive)


def test_a_file_of_the_repository_is_replaced_by_a_new_one(drive: Mount, redcap: Redcap) -> None:
    shelf = drive.path / "redcap" / "empty" / ".repository"
    (shelf / "f.txt").write_bytes(b"1")
    (shelf / "f.txt").write_bytes(b"22")
    drive.refresh(shelf)
    assert ((shelf / "f.txt").read_bytes(), redcap.shelved(0)[-1]) == (b"22", ("f.txt", b"22"))
    assert [name for name in os.listdir(shelf) if name.startswith("f")] == ["f.txt"]
    (shelf / "f.txt").unlink()


@pytest.mark.parametrize(("name", "words"), [("virus.exe", "Operation not permitted"), ('quo"te', "Invalid argument")])
def test_names_that_are_refused(name: str, words: str, record: Path, redcap: Redcap, drive: Mount) -> None:
    refused(f"cp /etc/hostname 'counts/{name}'", words, within=record, told=record / "counts" / name, drive=drive)
    assert redcap.stored(record.name) == {}


def test_a_lock_is_this_machines_alone(record: Path, redcap: Redcap, drive: Mount) -> None:
    path = record / "counts" / "f"
    path.write_bytes(b"x")
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run(f"flock --nonblock '{path}' true").returncode == 1, "here it keeps others out"
        # The server hears nothing of it.
        assert redcap.put("biobank", "f", b"theirs", record=record.name, field="counts").status_code == 200
    drive.refresh(record)
    assert path.read_bytes() == b"theirs"


def test_nothing_needs_to_know_the_rights_of_others(
    record: Path, redcap: Redcap, sandbox: Sandbox, tmp_path: Path
) -> None:
    (record / "counts" / "f").write_bytes(b"x")
    mount = Mount(
        tmp_path, tokens_changed(tmp_path, sandbox, redcap.tokens["biobank"], redcap.tokens["biobank/reader"])
    )
    try:
        mount.start()
        mine = mount.path / "redcap" / "biobank" / record.name / "counts"
        assert (mine / "f").read_bytes() == b"x"
        refused("cp /etc/hostname f", "Permission denied", within=mine, told=mine / "f", drive=mount)
        assert typed("info", mine.parent, env=mount.env).returncode == 0
    finally:
        mount.clean_up()
    assert only(redcap, record) == ("f", b"x")


def test_two_projects_do_not_share_a_token(redcap: Redcap, drive: Mount, sandbox: Sandbox, tmp_path: Path) -> None:
    config = tokens_changed(tmp_path, sandbox, redcap.tokens["trial"], redcap.tokens["biobank"])
    done = typed("sites", "-c", config, env=drive.env)
    assert done.returncode != 0
    assert "“biobank” and “trial” have the same token; each project has its own." in done.stdout + done.stderr


def test_a_locked_record_takes_nothing(drive: Mount) -> None:
    record = drive.path / "redcap" / "biobank" / "10"
    path = record / "counts" / "f"
    refused("cp /etc/hostname counts/f", "Operation not permitted", within=record, told=path, drive=drive)
    assert "is locked" in drive.log


def test_no_token_is_in_any_log(drive: Mount, redcap: Redcap, record: Path) -> None:
    assert run("cp /etc/hostname counts/f && cat counts/f", record).returncode == 0
    assert not [alias for alias, token in redcap.tokens.items() if token in drive.log]
