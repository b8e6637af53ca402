"""Clarity through a real mount: what people do with it, and each thing that it cannot do."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clarity_stage import DONE, PROJECT, SAMPLE, STEP, Clarity
from contract import noise
from stage import Mount, Sandbox, run, typed

pytestmark = pytest.mark.mount

MB = 1_000_000
BASE = "/api/v2"
BLANK = f"{SAMPLE} blank-1"
NUMBERS = itertools.cycle(range(2, 17))
OPEN_STEP, DONE_STEP = f"{STEP} Library QC", f"{DONE} Library QC"


@pytest.fixture
def clarity(sandbox: Sandbox) -> Iterator[Clarity]:
    with Clarity(sandbox) as made:
        yield made


@pytest.fixture
def site(clarity: Clarity, drive: Mount) -> Path:
    return drive.path / "clarity"


@pytest.fixture
def project(site: Path, drive: Mount) -> Path:
    """The mounted project that takes uploads, with nothing in it."""
    path = site / "Upload here"
    for place in ("_project", BLANK, OPEN_STEP):
        drive.refresh(path / place)
    return path


@pytest.fixture
def sample(project: Path, drive: Mount) -> Path:
    """The mounted directory of a sample without files: one after the other, since a mount shows for a while what it
    saved, also when that is removed behind its back."""
    number = next(NUMBERS)
    path = project / f"{PROJECT}A{number} blank-{number}"
    for _ in range(120):
        drive.refresh(path)
        if not os.listdir(path):
            return path
        time.sleep(0.1)
    raise AssertionError(f"{path} is not empty")


def owner(place: Path) -> str:
    return place.name.partition(" ")[0]


@pytest.fixture
def step(project: Path) -> Path:
    return project / OPEN_STEP


def why(drive: Mount, path: Path) -> str:
    return str(typed("why", path, env=drive.env).stdout)


def counted(sandbox: Sandbox, **expected: int) -> None:
    """The requests since the reset, written `GET_samples_id`, are these."""
    found = {route.replace(f"{BASE}/", "").replace("{id}", "id"): n for route, n in sandbox.requests().items()}
    assert found == {route.replace("__", "-"): n for route, n in expected.items()}


# -- files in and out --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 6 * MB])
@pytest.mark.parametrize("place", ["_project", BLANK, OPEN_STEP])
def test_a_file_goes_in_and_comes_out_of_a_new_mount(
    size: int, place: str, project: Path, clarity: Clarity, tmp_path: Path, sandbox: Sandbox
) -> None:
    (tmp_path / "f.bin").write_bytes(noise(size))
    done = run(f"cp '{tmp_path}/f.bin' '{project}/{place}/f.bin'")
    assert (done.returncode, done.stderr) == (0, "")
    owner = {"_project": PROJECT, BLANK: SAMPLE, OPEN_STEP: STEP}[place]
    assert clarity.stored(owner) == [("f.bin", noise(size))]
    mount = Mount(tmp_path, sandbox.config)
    try:
        mount.start()
        again = mount.path / project.relative_to(project.parent.parent) / place / "f.bin"
        assert again.stat().st_size == size
        assert again.read_bytes() == noise(size)
    finally:
        mount.clean_up()


def test_the_tree_is_the_one_of_the_lab(site: Path, drive: Mount) -> None:
    drive.refresh(site)
    names = os.listdir(site)
    assert {"Validation", "Validation [ADM2]", "%2E%2E", "a%2Fb", "two%0Alines", "CON"} <= set(names)
    assert sorted(os.listdir(site / "Validation")) == sorted([
        "_project", *(f"ADM1A{n} SLX-{6077 + n}" for n in range(1, 5)),
        "24-126453 MiSeq Load Cartridge", DONE_STEP, "122-126457 Pool Libraries",
    ])  # fmt: skip
    assert sorted(os.listdir(site / "Validation [ADM2]")) == ["24-126455 Library QC", "ADM2A1 SLX-6078", "_project"]
    twins = [name for name in os.listdir(site / "Validation" / "_project") if name.startswith("report")]
    assert len(twins) == 2
    texts = [(site / "Validation" / "_project" / name).read_text() for name in sorted(twins, key=len)]
    assert texts == ["Report, version 1\n", "Report, version 2\n"]
    load = site / "Validation" / "24-126453 MiSeq Load Cartridge"
    assert sorted(os.listdir(load)) == ["92-1833858_C232PACXX.csv", "92-1833859_trace.png", "run-notes.pdf"]


def test_hostile_names_are_listed_and_none_escapes(site: Path) -> None:
    where = site / "Odd names" / "_project"
    names = os.listdir(where)
    assert len(names) == len(set(names)) == 13
    assert {"two%0Alines.txt", "%2E%2E", " blank ", 'quo"te.txt', "passwd", "a:b.txt"} <= set(names)
    for name in names:
        assert len(os.fsencode(name)) <= 255
        assert (where / name).read_text().startswith("content of ")
    assert "ODD100A1 ..%2F..%2Fetc" in os.listdir(site / "Odd names")
    found = run(f"find '{site}/Odd names' -type f | wc -l")
    assert (found.stdout.strip(), found.stderr) == ("13", "")


def test_saving_over_a_file_keeps_its_id_and_other_mounts_see_it(
    sample: Path, clarity: Clarity, drive: Mount, sandbox: Sandbox
) -> None:
    (sample / "f").write_bytes(b"old")
    (before,) = clarity.rows("SELECT limsid FROM clarity_files WHERE owner = ?", owner(sample))
    sandbox.reset()
    (sample / "f").write_bytes(b"new and longer")
    assert clarity.rows("SELECT limsid FROM clarity_files WHERE owner = ?", owner(sample)) == [before]
    assert clarity.stored(owner(sample)) == [("f", b"new and longer")]
    # There are no versions: the size is what can tell that somebody else has saved meanwhile.
    counted(sandbox, **{"GET files/id": 1, "POST files/id/upload": 1, "HEAD files/id/download": 2})
    drive.refresh(sample)
    assert os.listdir(sample) == ["f"]
    assert (sample / "f").read_bytes() == b"new and longer"


def test_what_others_wrote_shows_after_a_refresh(sample: Path, clarity: Clarity, drive: Mount) -> None:
    assert os.listdir(sample) == []
    limsid = clarity.put(f"samples/{owner(sample)}", "theirs.txt", b"one")
    drive.refresh(sample)
    assert (sample / "theirs.txt").read_bytes() == b"one"
    assert clarity.upload(limsid, b"two, and in place").status_code == 200
    drive.refresh(sample)
    assert os.listdir(sample) == ["theirs.txt"]
    assert (sample / "theirs.txt").stat().st_size == 17
    assert (sample / "theirs.txt").read_bytes() == b"two, and in place"
    clarity.http.delete(f"files/{limsid}")
    drive.refresh(sample)
    assert os.listdir(sample) == []


@pytest.mark.parametrize(
    "command",
    ["echo new > .f.swp; mv .f.swp f", "sed -i s/old/new/ f",
     "python3 -c 'import os; open(\"t~\", \"w\").write(\"new\\n\"); os.replace(\"t~\", \"f\")'"],
)  # fmt: skip
def test_a_save_by_a_temporary_file_is_one_upload(
    command: str, sample: Path, clarity: Clarity, sandbox: Sandbox
) -> None:
    (sample / "f").write_text("old\n")
    sandbox.reset()
    done = run(command, sample)
    assert (done.returncode, done.stderr) == (0, "")
    assert clarity.stored(owner(sample)) == [("f", b"new\n")]
    assert sandbox.requests()[f"POST {BASE}/files/{{id}}/upload"] == 1
    assert f"POST {BASE}/files" not in sandbox.requests()


def test_a_file_goes_into_the_placeholder_that_its_name_begins_with(step: Path, clarity: Clarity, drive: Mount) -> None:
    first, *_ = clarity.placeholders()
    assert run(f"echo one > '{step}/{first}_sheet.csv'").returncode == 0
    assert clarity.stored(first) == [("sheet.csv", b"one\n")]
    assert run(f"echo two > '{step}/{first}_sheet.csv'").returncode == 0
    assert clarity.stored(first) == [("sheet.csv", b"two\n")]
    drive.refresh(step)
    assert f"{first}_sheet.csv" in os.listdir(step)
    os.unlink(step / f"{first}_sheet.csv")
    assert clarity.stored(first) == []


def test_deleting(sample: Path, clarity: Clarity, drive: Mount) -> None:
    (sample / "f").write_bytes(b"x")
    os.unlink(sample / "f")
    assert clarity.stored(owner(sample)) == []
    drive.refresh(sample)
    assert os.listdir(sample) == []


def test_without_full_access_nothing_is_deleted(
    sample: Path, clarity: Clarity, tmp_path: Path, sandbox: Sandbox
) -> None:
    clarity.put(f"samples/{owner(sample)}", "f", b"kept")
    config = tmp_path / "labfs.toml"
    config.write_text(sandbox.config.read_text().replace('access = "full"', 'access = "write"'))
    config.chmod(0o600)
    mount = Mount(tmp_path, config)
    try:
        mount.start()
        there = mount.path / sample.relative_to(sample.parent.parent.parent)
        done = run("rm f", there)
        assert "Operation not permitted" in done.stderr
        assert 'access = "full"' in mount.log
    finally:
        mount.clean_up()
    assert clarity.stored(owner(sample)) == [("f", b"kept")]


# -- what it costs -----------------------------------------------------------------------------------------


def test_requests_per_listing(site: Path, drive: Mount, sandbox: Sandbox) -> None:
    step = site / "Validation" / "24-126453 MiSeq Load Cartridge"
    os.listdir(step)
    drive.refresh(step)
    sandbox.reset()
    assert run(f"ls -l '{step}'").returncode == 0
    counted(sandbox, **{
        "GET processes/id": 1, "POST artifacts/batch/retrieve": 1, "POST files/batch/retrieve": 1,
        "HEAD files/id/download": 3,
    })  # fmt: skip
    sandbox.reset()
    assert run(f"ls -l '{step}'; stat '{step}'/*").returncode == 0
    counted(sandbox)
    assert run(f"cat '{step}/run-notes.pdf' | wc -c").stdout.strip() != "0"
    counted(sandbox, **{"GET files/id/download": 1})


def test_a_project_of_1200_samples_costs_its_pages_and_batches(site: Path, drive: Mount, sandbox: Sandbox) -> None:
    where = site / "Many samples"
    os.listdir(where)
    drive.refresh(where)
    sandbox.reset()
    assert run(f"ls '{where}' | wc -l").stdout.strip() == "1201"
    counted(sandbox, **{"GET samples": 3, "POST samples/batch/retrieve": 5, "GET projects": 1, "GET processes": 1})


def test_2000_files_are_listed_with_their_sizes(site: Path, drive: Mount, sandbox: Sandbox) -> None:
    where = site / "Archive" / "_project"
    sandbox.reset()
    listed = run(f"ls -l '{where}' | awk 'NR > 1 {{ print $5 }}' | sort -u | wc -l; ls '{where}' | wc -l").stdout
    assert listed.split() == ["1", "2000"]
    found = sandbox.requests()
    # One look a file; on a slow machine the last ones are asked for when `ls` gets to them, and a few twice.
    assert 2000 <= found[f"HEAD {BASE}/files/{{id}}/download"] + found[f"GET {BASE}/files/{{id}}/download"] < 2040
    assert found[f"POST {BASE}/files/batch/retrieve"] == 20


def test_requests_of_a_save(sample: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(noise(MB))
    os.listdir(sample)
    sandbox.reset()
    assert run(f"cp '{tmp_path}/f' '{sample}/f'").returncode == 0
    saved = {"POST glsstorage": 1, "POST files": 1, "POST files/id/upload": 1, "HEAD files/id/download": 1}
    counted(sandbox, **saved)
    assert run(f"ls -l '{sample}'; stat '{sample}/f'").returncode == 0
    counted(sandbox, **saved)


# -- what it cannot do, line by line -----------------------------------------------------------------------


@pytest.mark.parametrize("switches", [{}, {"head": False}])
def test_cannot_tell_a_size_in_metadata(
    switches: dict[str, Any], sample: Path, sandbox: Sandbox, tmp_path: Path, clarity: Clarity
) -> None:
    """So it is HEAD that tells it, or the download."""
    clarity.put(f"samples/{owner(sample)}", "f", noise(300_000))
    clarity.put(f"samples/{owner(sample)}", "empty", b"")
    clarity.switch(**switches)
    mount = Mount(tmp_path, sandbox.config)
    try:
        where = mount.start().path / "clarity" / "Upload here" / sample.name
        assert (where / "f").stat().st_size == 300_000
        assert (where / "empty").stat().st_size == 0
        assert (where / "f").read_bytes() == noise(300_000)
    finally:
        mount.clean_up()


def test_cannot_seek_into_a_file(sample: Path, clarity: Clarity, sandbox: Sandbox, drive: Mount) -> None:
    """So it comes whole, once, for whoever has it open."""
    clarity.put(f"samples/{owner(sample)}", "f", noise(5 * MB))
    drive.refresh(sample)
    os.listdir(sample)
    sandbox.reset()
    with open(sample / "f", "rb") as file:
        for start in (4 * MB, 17, 3 * MB):
            file.seek(start)
            assert file.read(1000) == noise(5 * MB)[start : start + 1000]
    counted(sandbox, **{"GET files/id/download": 1})


def test_cannot_rename_reattach_or_replace_atomically_by_another_name(
    project: Path, sample: Path, clarity: Clarity, drive: Mount
) -> None:
    """So whoever may delete is told to copy and delete, which `mv` does, and nobody else may."""
    for name in ("f", "g"):
        (sample / name).write_bytes(name.encode())
    with pytest.raises(OSError) as caught:
        os.rename(sample / "f", sample / "new")
    assert caught.value.errno == errno.EXDEV
    with pytest.raises(OSError) as caught:
        os.replace(sample / "f", sample / "g")
    assert caught.value.errno == errno.EXDEV
    assert "cannot rename" in why(drive, sample / "f")
    assert clarity.stored(owner(sample)) == [("f", b"f"), ("g", b"g")]
    assert run("mv f new", sample).returncode == 0
    assert clarity.stored(owner(sample)) == [("g", b"g"), ("new", b"f")]
    done = run(f"mv '{sample}' '{project}/other'")
    assert "Operation not permitted" in done.stderr


def test_cannot_append_so_the_whole_is_sent_again(sample: Path, clarity: Clarity, sandbox: Sandbox) -> None:
    (sample / "f").write_bytes(b"one\n")
    assert run("echo two >> f", sample).returncode == 0
    assert clarity.stored(owner(sample)) == [("f", b"one\ntwo\n")]


def test_cannot_take_more_than_the_limit(
    sample: Path, clarity: Clarity, sandbox: Sandbox, tmp_path: Path, drive: Mount
) -> None:
    with open(tmp_path / "f", "wb") as file:
        file.truncate(10_485_761)
    os.listdir(sample)
    sandbox.reset()
    done = run(f"cp '{tmp_path}/f' '{sample}/f'")
    assert "File too large" in done.stderr
    counted(sandbox)
    assert clarity.stored(owner(sample)) == []
    assert "10,485,760 bytes at most" in why(drive, sample / "f")
    run(f"rm -f '{sample}/f'")
    assert run(f"head -c 10485760 '{tmp_path}/f' > '{sample}/g'").returncode == 0


def test_cannot_upload_to_a_completed_step(site: Path, clarity: Clarity, drive: Mount, sandbox: Sandbox) -> None:
    step = site / "Validation" / DONE_STEP
    before = clarity.stored(DONE)
    os.listdir(step)
    sandbox.reset()
    done = run("cp /etc/hostname new.txt", step)
    assert "Operation not permitted" in done.stderr
    assert "is completed" in why(drive, step / "new.txt")
    run("rm -f new.txt", step)
    done = run("cp /etc/hostname signed.pdf", step)
    assert "Operation not permitted" in done.stderr
    assert "is completed" in why(drive, step / "signed.pdf")
    run(f"rm -f '{step}/signed.pdf.x'")
    assert not [route for route in sandbox.requests() if route.startswith("POST") and "batch" not in route]
    assert clarity.stored(DONE) == before


def test_cannot_delete_stored_bytes(sample: Path, clarity: Clarity) -> None:
    (sample / "f").write_bytes(b"still there")
    (row,) = clarity.rows("SELECT location FROM clarity_files WHERE owner = ?", owner(sample))
    os.unlink(sample / "f")
    (place,) = clarity.rows("SELECT blob FROM clarity_locations WHERE location = ?", row["location"])
    assert (clarity.directory / "blobs" / place["blob"]).read_bytes() == b"still there"


def test_cannot_attach_two_files_to_a_placeholder(step: Path, clarity: Clarity, drive: Mount) -> None:
    place = clarity.placeholders()[1]
    assert run(f"cp /etc/hostname '{place}_a'", step).returncode == 0
    (held,) = clarity.stored(place)
    done = run(f"cp /etc/hostname '{place}_b'", step)
    assert "File exists" in done.stderr
    assert "holds a file" in why(drive, step / f"{place}_b")
    assert clarity.stored(place) == [held]
    run(f"rm -f '{place}_b'", step)


def test_cannot_create_a_placeholder(step: Path, clarity: Clarity, drive: Mount) -> None:
    done = run("cp /etc/hostname 92-99_x", step)
    assert "Invalid argument" in done.stderr
    assert "has no placeholder 92-99" in why(drive, step / "92-99_x")
    assert "92-99_x" not in dict(clarity.stored(STEP))
    run("rm -f 92-99_x", step)


def test_cannot_make_or_remove_projects_samples_or_steps(site: Path, project: Path, sample: Path, drive: Mount) -> None:
    for command in (f"mkdir '{site}/New'", f"mkdir '{project}/New'", f"echo x > '{project}/f'", f"echo x > '{site}/f'"):
        assert "Read-only file system" in run(command).stderr, command
    for command in (f"mkdir '{sample}/New'", f"rmdir '{sample}'", f"rm -r '{sample}'"):
        assert "Operation not permitted" in run(command).stderr, command
    assert "made by lab work in Clarity" in drive.log
    assert "saved in _project, in a sample or in a step" in drive.log


def test_cannot_tell_versions_or_checksums(sample: Path) -> None:
    (sample / "f").write_bytes(b"x")
    assert os.getxattr(sample / "f", "user.labfs.id").startswith(b"40-")
    for unknown in ("version", "checksum"):
        with pytest.raises(OSError) as caught:
            os.getxattr(sample / "f", f"user.labfs.{unknown}")
        assert caught.value.errno == errno.ENODATA


def test_cannot_tell_whether_bytes_exist_without_trying(site: Path, drive: Mount) -> None:
    run_ = site / "Tumour panel 2026" / "24-126456 NextSeq 2000 Run"
    assert "never-arrived.csv" in os.listdir(run_)
    assert run(f"cat '{run_}/never-arrived.csv'").returncode != 0
    assert "never reached clarity" in why(drive, run_ / "never-arrived.csv")
    assert run(f"cat '{run_}/92-1833868_S1.variants.vcf.gz' | gzip -t").returncode == 0


def test_cannot_write_through_a_link(site: Path, drive: Mount) -> None:
    where = site / "Tumour panel 2026" / "_project"
    before = (where / "panel-design.csv").read_bytes()
    done = run("cp /etc/hostname panel-design.csv", where)
    assert "Operation not permitted" in done.stderr
    assert "is a link" in why(drive, where / "panel-design.csv")
    assert before


def test_a_record_that_a_crash_left_without_its_bytes_is_filled_by_the_next_mount(
    clarity: Clarity, sandbox: Sandbox, tmp_path: Path
) -> None:
    mount = Mount(tmp_path, sandbox.config, "--site", "clarity").start()
    try:
        name, folder = f"broken off {os.getpid()}.bin", mount.path / "clarity" / "Upload here" / "_project"
        os.listdir(folder)
        sandbox.faults({"service": "clarity", "route": "*/upload", "action": "stall", "times": None})
        writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={folder / name}", "bs=1M", "count=2", "status=none"])
        for _ in range(1000):
            if "POST api/v2/files -> 201" in mount.log:
                break
            time.sleep(0.01)
        os.kill(mount.pid, 9)
        writer.wait(30)
        sandbox.faults()
        mount.start()
        for _ in range(100):
            if not (left := typed("outbox", "list", env=mount.env).stdout):
                break
            time.sleep(0.1)
        assert left == "", "the record is not taken for what somebody else saved"
        mount.refresh(folder)
        assert (folder / name).read_bytes() == bytes(2 << 20)
        assert [entry for entry in os.listdir(folder) if entry.startswith("broken off")] == [name]
        (folder / name).unlink()
    finally:
        mount.clean_up()
