"""ODM through a real mount: what people do with it, and what it refuses."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from odm_stage import EMPTY, MANY, Service, emptied, quick
from stage import Mount, Sandbox, run

pytestmark = pytest.mark.mount

MB = 1_000_000


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def service(sandbox: Sandbox) -> Iterator[Service]:
    with quick(sandbox) as service:
        yield service


@pytest.fixture
def study(service: Service, drive: Mount) -> Iterator[Path]:
    with emptied(service, drive) as path:
        yield path


def stored(service: Service) -> dict[str, bytes]:
    return {f"{row['data_class']}/{row['name']}": row["data"] for row in service.attached(EMPTY)}


@pytest.mark.parametrize("size", [0, 1, 6 * MB])
def test_a_file_goes_in_and_comes_out_of_a_new_mount(
    size: int, study: Path, service: Service, tmp_path: Path, sandbox: Sandbox
) -> None:
    (tmp_path / "f.bin").write_bytes(noise(size))
    done = run(f"cp '{tmp_path}/f.bin' '{study}/Document/f.bin'")
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(service) == {"Document/f.bin": noise(size)}
    mount = Mount(tmp_path, sandbox.config)
    try:
        mount.start()
        again = mount.path / study.relative_to(study.parent.parent) / "Document" / "f.bin"
        assert again.stat().st_size == size
        assert again.read_bytes() == noise(size)
    finally:
        mount.clean_up()


def test_saving_over_a_file_imports_the_new_one_and_then_deletes_the_old(
    study: Path, service: Service, drive: Mount
) -> None:
    (study / "Other").joinpath("f").write_bytes(b"old")
    service.switch(removal_s=1.0, index_lag_s=1.0)  # it goes, and shows, a while later
    (study / "Other").joinpath("f").write_bytes(b"new and longer")
    drive.refresh(study)
    assert os.listdir(study / "Other") == ["f"]
    assert (study / "Other" / "f").read_bytes() == b"new and longer"
    run("sleep 1.2")
    assert stored(service) == {"Other/f": b"new and longer"}


def test_deleting(study: Path, service: Service) -> None:
    (study / "Document" / "f").write_bytes(b"x")
    service.switch(removal_s=1.0)
    os.unlink(study / "Document" / "f")
    assert "f" not in os.listdir(study / "Document")


def test_every_data_class_can_be_written_to_and_only_those_in_use_are_listed(study: Path, service: Service) -> None:
    name = "Microbiome %2F Metagenomics"
    assert name not in os.listdir(study)
    assert run(f"echo x > '{study}/{name}/f'").returncode == 0
    assert name in os.listdir(study)
    assert stored(service) == {"Microbiome / Metagenomics/f": b"x\n"}


def test_a_folder_that_is_no_data_class_is_not_made(study: Path, service: Service, drive: Mount) -> None:
    assert run(f"ls '{study}/Nonsense'").returncode != 0
    for name in ("Nonsense", "Document/deeper"):
        assert "Operation not permitted" in run(f"mkdir '{study}/{name}'").stderr
    assert "Operation not permitted" in run(f"cp /etc/hostname '{study}/g'").stderr
    assert "nowhere else: “" in drive.log
    assert run(f"mkdir -p '{study}/Document' && cp /etc/hostname '{study}/Document/g'").returncode == 0
    assert list(stored(service)) == ["Document/g"]


@pytest.mark.parametrize("end", ["FAILED", "STOPPED", "ABANDONED"])
def test_an_import_that_fails_fails_the_close(end: str, study: Path, service: Service, drive: Mount) -> None:
    service.switch(job_end=end)
    done = run(f"cp /etc/hostname '{study}/Document/h'")
    assert done.returncode != 0
    assert "did not import the file" in drive.log
    assert stored(service) == {}


@pytest.mark.parametrize("fault", [{"action": "cut", "argument": 5}, {"action": "status", "argument": 500}])
def test_a_lost_answer_to_an_import_makes_no_second_file(
    fault: dict[str, object], study: Path, service: Service, sandbox: Sandbox
) -> None:
    sandbox.faults({"service": "odm", "method": "POST", "route": "*/multipart", **fault})
    done = run(f"cp /etc/hostname '{study}/Document/h'")
    found = stored(service)
    assert len(found) == (1 if done.returncode == 0 else 0)


@pytest.mark.parametrize("switches", [{}, {"head_length": False}, {"ranges": False}])
def test_sizes_and_bytes_whatever_head_and_range_do(
    switches: dict[str, bool], study: Path, service: Service, drive: Mount
) -> None:
    data = noise(3 * MB, len(switches))
    path = study / "Document" / f"f{len(str(switches))}"
    service.put(EMPTY, path.name, data)
    service.switch(**switches)
    drive.refresh(study)
    assert path.stat().st_size == len(data)
    assert path.read_bytes() == data


def test_requests_per_action(study: Path, service: Service, drive: Mount, sandbox: Sandbox) -> None:
    for index in range(5):
        service.put(EMPTY, f"f{index}", noise(1000, index))
    drive.refresh(study)
    sandbox.reset()
    assert run(f"ls -lR '{study}'").returncode == 0
    listed = sum(sandbox.requests().values())
    assert listed == 1 + 5, "one list for all data classes, one size each, once"
    drive.refresh(study)
    sandbox.reset()
    assert run(f"ls -lR '{study}'").returncode == 0
    assert sum(sandbox.requests().values()) == 1
    sandbox.reset()
    assert run(f"cat '{study}/Document/f1' > /dev/null").returncode == 0
    assert sum(sandbox.requests().values()) == 1


def test_a_study_of_2500_files_is_listed(drive: Mount, service: Service) -> None:
    path = drive.path / "odm" / service.get(f"as-curator/studies/{MANY}")["Study Title"]
    found, again = (run(f"find '{path}' -type f").stdout.splitlines() for _ in range(2))
    assert set(found) == set(again)
    assert len(found) == 2500


def test_what_odm_cannot_do_is_refused_with_a_reason(study: Path, service: Service, drive: Mount) -> None:
    (study / "Document" / "f").write_bytes(b"x")
    for command, words in [
        (f"mkdir '{study.parent}/New study'", "Studies are made in ODM itself"),
        (f"rmdir '{study}'", ""),
        (f"mv '{study}' '{study.parent}/Another'", "cannot rename or move"),
    ]:
        done = run(command)
        assert done.returncode != 0, command
        assert words in drive.log


def test_without_full_access_nothing_is_replaced_or_deleted(
    service: Service, tmp_path: Path, sandbox: Sandbox, study: Path
) -> None:
    service.put(EMPTY, "f", b"kept")
    config = tmp_path / "labfs.toml"
    config.write_text(sandbox.config.read_text().replace('access = "full"', 'access = "write"'))
    config.chmod(0o600)
    mount = Mount(tmp_path, config)
    try:
        mount.start()
        there = mount.path / study.relative_to(study.parent.parent) / "Document"
        for command in ("rm f", "echo x > f", "echo x >> f"):
            done = run(command, there)
            assert "Operation not permitted" in done.stderr, command
        assert 'access = "full"' in mount.log
    finally:
        mount.clean_up()
    assert stored(service) == {"Document/f": b"kept"}


def test_as_a_user_nothing_can_be_written(service: Service, tmp_path: Path, sandbox: Sandbox) -> None:
    config = tmp_path / "labfs.toml"
    config.write_text(f'[sites.odm]\nkind = "odm"\nurl = "{service.url}"\ntoken = "{service.tokens["access_token"]}"\n'
                      'audience = "as-user"\nsign_in = "bearer"\n')  # fmt: skip
    config.chmod(0o600)
    mount = Mount(tmp_path, config)
    try:
        mount.start()
        (first, *_) = [path for path in (mount.path / "odm").iterdir() if any(path.iterdir())]
        folder = next(first.iterdir())
        assert "Read-only file system" in run(f"echo x > '{folder}/new'").stderr
    finally:
        mount.clean_up()
