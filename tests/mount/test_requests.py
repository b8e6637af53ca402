"""Requests per action: the yardstick of latency, counted at the service."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import five_stage
import pytest
from five_stage import SITES, Lab
from stage import Folder, Mount, Sandbox, run

pytestmark = pytest.mark.mount

MB = 1_000_000
BLOB = "GET /{blob}"


def test_opening_a_folder_of_5000_files_costs_its_pages(drive: Mount, sandbox: Sandbox) -> None:
    where = drive.path / "basespace" / "Large things"
    run(f"ls '{where}'")
    drive.refresh(where / "Five thousand files")
    sandbox.reset()
    done = run(f"ls -l '{where}/Five thousand files' | wc -l")
    assert done.stdout.strip() == "5001"
    assert sandbox.requests() == {"GET /v1pre3/appresults/{id}/files": 6}, "a short one, and five of the longest"


def test_reading_a_file_of_1_mb_costs_two(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    behind.put("f", random.Random(1).randbytes(MB))
    drive.refresh(folder)
    run(f"ls -l '{folder}'")
    sandbox.reset()
    assert run(f"cat '{folder}/f' | wc -c").stdout.strip() == str(MB)
    assert sandbox.requests() == {"GET /v1pre3/files/{id}/content": 1, BLOB: 1}
    sandbox.reset()
    assert run(f"cat '{folder}/f' | wc -c; head -c 10 '{folder}/f' | wc -c").returncode == 0
    assert sandbox.requests() == {}, "what the kernel has of this version, it keeps"


def test_no_token_goes_to_the_store_of_the_bytes(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    """Most stores ignore one that does not concern them; this one refuses it, in a small file and in blocks."""
    sandbox.switch(blob_tokens="refuse")
    files = {"small": random.Random(4).randbytes(1000), "large": random.Random(5).randbytes(12 * MB)}
    for name, data in files.items():
        behind.put(name, data)
    drive.refresh(folder)
    assert {name: (folder / name).read_bytes() for name in files} == files
    assert sandbox.requests()[BLOB] > len(files)


def test_saving_a_file_of_1_mb_costs_two(folder: Path, sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(random.Random(1).randbytes(MB))
    run(f"ls '{folder}'")
    sandbox.reset()
    assert run(f"cp '{tmp_path}/f' '{folder}/f'").returncode == 0
    assert sandbox.requests() == {"POST /v1pre3/appresults/{id}/files": 1, "GET /v1pre3/files/{id}": 1}
    sandbox.reset()
    assert run(f"ls -l '{folder}'; stat '{folder}/f'").returncode == 0
    assert sandbox.requests() == {}, "a save is put into the listing that is there"


def test_fifty_processes_reading_one_cold_file_ask_for_each_block_once(
    folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox
) -> None:
    data = random.Random(2).randbytes(4 * MB + 7)
    behind.put("f", data)
    drive.refresh(folder)
    run(f"ls '{folder}'")
    sandbox.reset()
    readers = [subprocess.Popen(["md5sum", folder / "f"], stdout=subprocess.PIPE) for _ in range(50)]
    sums = {reader.communicate(timeout=60)[0].split()[0] for reader in readers}
    assert len(sums) == 1
    assert sandbox.requests() == {"GET /v1pre3/files/{id}/content": 1, BLOB: 4}


def test_walking_a_tree_costs_its_listings(drive: Mount, sandbox: Sandbox) -> None:
    where = drive.path / "basespace" / "Tumour panel 2026"
    drive.refresh(where)
    sandbox.reset()
    assert run(f"find '{where}' -type f -size +1k | wc -l").stdout.strip() != "0"
    counts = sandbox.requests()
    assert counts.pop("GET /v1pre3/projects/{id}/appresults") == 1
    assert counts.pop("GET /v1pre3/projects/{id}/samples") == 1
    assert counts.pop("GET /v2/projects/{id}/datasets") == 1
    records = counts.pop("GET /v1pre3/appresults/{id}/files") + counts.pop("GET /v1pre3/samples/{id}/files")
    assert records == len([p for p in where.iterdir() if p.is_dir()])
    counts.pop("GET /v1pre3/users/current/projects", None)
    assert not counts


def test_a_sniffer_costs_one_block(folder: Path, behind: Folder, drive: Mount, sandbox: Sandbox) -> None:
    behind.put("film.mov", random.Random(3).randbytes(5 * MB))
    drive.refresh(folder)
    run(f"ls '{folder}'")
    sandbox.reset()
    code = "import os; fd = os.open('film.mov', os.O_RDONLY); os.read(fd, 4096); os.close(fd)"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=30)
    assert sandbox.requests()[BLOB] == 1


def test_odd_orders_and_short_pages_lose_nothing(drive: Mount, sandbox: Sandbox) -> None:
    where = drive.path / "basespace" / "Large things" / "Five thousand files"
    for switches in ({"short_pages": 700}, {"sort_ignored": True}):
        sandbox.switch(**switches)
        drive.refresh(where)
        assert (
            run(f"ls '{where}' | sort | md5sum").stdout == run("seq -f 'well-%04g.csv' 0 4999 | sort | md5sum").stdout
        )
        sandbox.calm()


# What people do, in all systems alike: requests, with those to the origins of the bytes. The routes behind
# these figures are in each system's own tests. The sizes that a listing lacks are asked for with it (Portal and
# ODM in the project, Clarity in the record) or when somebody looks (REDCap, whose small files come along whole).
# Clarity has no versions, so that nothing read is kept. BaseSpace refuses to delete without a request.
TABLE = """
                            basespace  clarity  odm  portal  redcap
list the site                       1        1    1       1       0
open a project                      3        5    2       3       2
open a record                       1        3    1       1       2
ls -l and stat of it                0        0    0       0       2
read a small file                   2        1    1       1       0
read it again                       0        1    0       0       0
save a small file                   2        4    6       2       5
save over it                        2        4    7       4       7
delete it                           0        1    1       2       5
"""


@pytest.fixture
def lab(sandbox: Sandbox) -> Iterator[Lab]:
    """The five systems without the projects of earlier tests, which can be more than one page of them."""
    store, others = sandbox.directory / "sandbox.sqlite", f"removed = ? AND name LIKE 'Project % of {os.getpid()}'"
    with contextlib.closing(sqlite3.connect(store, timeout=30, isolation_level=None)) as db:
        db.execute(f"UPDATE projects SET removed = 2 WHERE {others}", (0,))
        try:
            with five_stage.opened(sandbox) as made:
                yield made
        finally:
            db.execute(f"UPDATE projects SET removed = 0 WHERE {others}", (2,))


def costs(site: str, lab: Lab, drive: Mount, source: Path) -> dict[str, int]:
    """Return what each action costs in one site; each listing is old, and the file is somebody else's."""
    lab.put(site, "given.txt", random.Random(5).randbytes(1000))
    folder = drive.path / lab.places[site]
    record = folder.parent if site == "redcap" else folder
    saved = (record / "variants" if site == "redcap" else folder) / "new.txt"  # a field holds one file
    project = record.parent
    found = {}
    # A download that somebody asked for ends by itself, and waits for its turn where there is a pace.
    quiet_s = 1.3 if site == "redcap" else 0.1

    def cost(action: str, command: str) -> None:
        lab.requests(quiet_s)
        assert (run(command).returncode == 0) is (action != "delete it" or site != "basespace"), command
        found[action] = lab.requests(quiet_s)

    for action, place in (("list the site", project.parent), ("open a project", project), ("open a record", record)):
        drive.refresh(place)
        cost(action, f"ls '{place}'")
    cost("ls -l and stat of it", f"ls -lR '{record}'; stat '{folder}/given.txt'")
    cost("read a small file", f"cat '{folder}/given.txt' > /dev/null")
    cost("read it again", f"cat '{folder}/given.txt' > /dev/null")
    cost("save a small file", f"cp '{source}' '{saved}'")
    cost("save over it", f"cp '{source}' '{saved}'")
    cost("delete it", f"rm '{saved}'")
    return found


def test_requests_per_action_and_system(drive: Mount, lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_bytes(random.Random(6).randbytes(1000))
    drive.refresh()
    found = {site: costs(site, lab, drive, tmp_path / "new.txt") for site in SITES}
    lines = [" " * 26 + "".join(f"  {site}" for site in SITES)]
    for action in found["odm"]:
        numbers = "".join(f"{found[site][action]:>{len(site) + 2}}" for site in SITES)
        lines.append(f"{action:<26}{numbers}")
    table = "\n".join(["", *lines, ""])
    sys.stdout.write(table)  # for `pytest -s`
    assert table == TABLE


def test_a_folder_of_a_thousand_records_costs_two(drive: Mount, lab: Lab) -> None:
    where = drive.path / "redcap" / "wells"
    run(f"ls '{where.parent}'")
    drive.refresh(where)
    lab.requests()
    done = run(f"ls -l '{where}' | wc -l; ls -d '{where}'/* | head -n 1000 | xargs -d '\\n' ls -R | grep -c :$")
    records, directories = map(int, done.stdout.split())
    assert records > 1000 < directories
    assert lab.requests() <= 2
