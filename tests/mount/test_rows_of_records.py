"""Records by the hundred whose rows cost time, in the two systems that tell of many at once: mounted, and looked at.

REDCap tells all records in one export or some of them by name; Clarity lists links, and tells a hundred files at a time.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from clarity_stage import PROJECT, Clarity
from redcap_stage import Redcap, opened
from stage import Mount, Sandbox
from test_slow_sites import MOUNT_S, SOAK, in_time, look, started, until_whole

pytestmark = pytest.mark.mount

RECORDS, SAMPLES, FILES = 260, 120, 500
ROW_S, LINK_S = 0.02, 0.01
PAGES = {2_000: 5, 20_000: 50, 100_000: 250}  # batches of 400 records, at 10 ms a record


def store(sandbox: Sandbox) -> closing[sqlite3.Connection]:
    db = sqlite3.connect(sandbox.directory / "sandbox.sqlite", timeout=30)
    db.row_factory = sqlite3.Row
    return closing(db)


def copied(db: sqlite3.Connection, table: str, where: str, **other: Any) -> int:
    """Copy rows of a table with other values; return the last one's number."""
    number = 0
    for row in db.execute(f"SELECT * FROM {table} WHERE {where}").fetchall():
        values = {**dict(row), **other}
        sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
        number = int(db.execute(sql, tuple(values.values())).lastrowid or 0)
    return number


def wells(service: Redcap, sandbox: Sandbox, count: int) -> str:
    """Make a project with a file in each of so many records, in the store; return the token to it."""
    token = secrets.token_hex(16).upper()
    with store(sandbox) as db, db:
        sql = "SELECT project FROM redcap_rights WHERE token = ?"
        old = db.execute(sql, (service.tokens["wells"],)).fetchone()["project"]
        project = copied(db, "redcap_projects", f"id = {old}", id=None)
        copied(db, "redcap_rights", f"project = {old}", token=token, project=project)
        for table in ("redcap_forms", "redcap_fields"):
            copied(db, table, f"project = {old}", project=project)
        event = copied(db, "redcap_events", f"project = {old}", id=None, project=project)
        document = dict(db.execute("SELECT * FROM redcap_documents WHERE project = ? LIMIT 1", (old,)).fetchone())
        first = 1 + db.execute("SELECT max(id) FROM redcap_documents").fetchone()[0]
        given = [(first + n, project, f"well-{n}.csv", *list(document.values())[3:]) for n in range(count)]
        db.executemany("INSERT INTO redcap_documents VALUES (?, ?, ?, ?, ?, ?, ?)", given)
        db.executemany(
            "INSERT INTO redcap_records VALUES (?, ?, '', 0, 1, 1)", [(project, str(n)) for n in range(count)]
        )
        values = [(project, str(n), event, 1, "record_id", str(n)) for n in range(count)]
        values += [(project, str(n), event, 1, "table", str(first + n)) for n in range(count)]
        db.executemany("INSERT INTO redcap_values VALUES (?, ?, ?, ?, ?, ?)", values)
    return token


def forget(sandbox: Sandbox, token: str) -> None:
    with store(sandbox) as db, db:
        (project,) = db.execute("SELECT project FROM redcap_rights WHERE token = ?", (token,)).fetchone()
        for table in ("rights", "forms", "fields", "events", "documents", "records", "values"):
            db.execute(f"DELETE FROM redcap_{table} WHERE project = ?", (project,))
        db.execute("DELETE FROM redcap_projects WHERE id = ?", (project,))


def samples(sandbox: Sandbox, count: int, files: int) -> tuple[str, str]:
    """Make a project with so many samples, of which the first has so many files; return the LIMS ids of both."""
    limsid = f"SLO{secrets.randbelow(900) + 100}"
    with store(sandbox) as db, db:
        copied(db, "clarity_projects", f"limsid = '{PROJECT}'", id=None, limsid=limsid, name=f"Slow {limsid}")
        row = dict(db.execute("SELECT * FROM clarity_samples WHERE project = ? LIMIT 1", (PROJECT,)).fetchone())
        names = ", ".join(row)
        rows = [
            {**row, "id": None, "limsid": f"{limsid}A{n}", "name": f"S{n}", "project": limsid} for n in range(count)
        ]
        db.executemany(
            f"INSERT INTO clarity_samples ({names}) VALUES ({', '.join('?' * len(row))})",
            [tuple(row.values()) for row in rows],
        )
        first = 1 + (db.execute("SELECT max(id) FROM clarity_files").fetchone()[0] or 0) + 10**6
        held = [
            (first + n, f"40-{first + n}", "samples", f"{limsid}A0", f"sftp://slow/{limsid}/{n}", f"f{n}", 0)
            for n in range(files)
        ]
        db.executemany("INSERT INTO clarity_files VALUES (?, ?, ?, ?, ?, ?, ?)", held)
    return limsid, f"{limsid}A0"


def clear(sandbox: Sandbox, project: str) -> None:
    with store(sandbox) as db, db:
        db.execute("DELETE FROM clarity_files WHERE owner LIKE ?", (f"{project}A%",))
        db.execute("DELETE FROM clarity_samples WHERE project = ?", (project,))
        db.execute("DELETE FROM clarity_projects WHERE limsid = ?", (project,))


def mount_of(base: Path, sandbox: Sandbox, *kinds: str, token: str = "") -> Mount:
    """Make a mount of these sites, REDCap's with the one project; the caller starts it."""
    known = json.loads((sandbox.directory / "sandbox.json").read_text())
    text = ""
    if "redcap" in kinds:
        url = known["sites"]["redcap"] + known["credentials"]["redcap"]["path"]
        text += f'[sites.redcap]\nkind = "redcap"\nurl = "{url}"\n[sites.redcap.projects.slow]\ntoken = "{token}"\n'
    if "clarity" in kinds:
        login = known["credentials"]["clarity"]
        text += f'[sites.clarity]\nkind = "clarity"\nurl = "{known["sites"]["clarity"]}"\n'
        text += f'username = "{login["username"]}"\npassword = "{login["password"]}"\n'
    config = base / "labfs.toml"
    config.write_text(text)
    config.chmod(0o600)
    return Mount(base, config)


def counted(sandbox: Sandbox, *but: str) -> Counter[str]:
    time.sleep(0.3)  # an answer is counted a moment after it is sent
    return Counter({route: n for route, n in sandbox.requests().items() if not route.startswith(but)})


@pytest.fixture(scope="module")
def redcap(running: Sandbox) -> Iterator[Redcap]:
    with opened(running) as service:
        yield service


@pytest.fixture(scope="module")
def clarity(running: Sandbox) -> Iterator[Clarity]:
    with Clarity(running) as service:
        yield service


@pytest.fixture(scope="module")
def slow(
    redcap: Redcap, clarity: Clarity, running: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mount]:
    token, (project, sample) = wells(redcap, running, RECORDS), samples(running, SAMPLES, FILES)
    redcap.switch(row_s=ROW_S)
    clarity.switch(row_s=LINK_S, head=False)
    mount = mount_of(tmp_path_factory.mktemp("rows"), running, "redcap", "clarity", token=token)
    try:
        mount.mount_s = started(mount)  # type: ignore[attr-defined]
        mount.project, mount.sample = project, sample  # type: ignore[attr-defined]
        yield mount
    finally:
        mount.clean_up()
        redcap.switch(row_s=0.0)
        clarity.calm()
        forget(running, token)
        clear(running, project)


def test_a_redcap_project_is_told_in_batches(slow: Mount, running: Sandbox) -> None:
    """One export of all tells names and documents, and what a record costs: 5.2 s, so that 200 of them take 4 s."""
    assert slow.mount_s < MOUNT_S  # type: ignore[attr-defined]
    place = slow.path / "redcap" / "slow"
    running.reset()
    looks = until_whole(place, 40)
    assert ".repository" in run_all(place)
    assert in_time(looks), [round(took_s) for *_, took_s in looks]
    assert looks[-1][0] == {str(n) for n in range(RECORDS)}
    assert look(place / "7" / "table")[0] == {"well-7.csv"}
    assert counted(running) == {"POST /api/": 1 + 2}


def test_a_clarity_project_opens_before_its_samples_are_told(slow: Mount, running: Sandbox) -> None:
    top = slow.path / "clarity"
    (project,) = [name for name in until_whole(top, 20)[-1][0] if slow.project in name]  # type: ignore[attr-defined]
    running.reset()
    place = top / project
    looks = until_whole(place, 40)
    assert "_project" in looks[0][0]
    assert in_time(looks), [round(took_s) for *_, took_s in looks]
    assert len(looks[-1][0]) == 1 + SAMPLES
    told = counted(running)
    assert told == {
        "GET /api/v2/samples": 1,
        "POST /api/v2/samples/batch/retrieve": 1,
        "GET /api/v2/projects": 1,  # its namesakes
        "GET /api/v2/processes": 1,
    }


def test_files_of_a_sample_are_told_four_batches_at_a_time(slow: Mount, running: Sandbox) -> None:
    top = slow.path / "clarity"
    (project,) = [name for name in look(top)[0] if slow.project in name]  # type: ignore[attr-defined]
    (sample,) = [name for name in look(top / project)[0] if name.startswith(f"{slow.sample} ")]  # type: ignore[attr-defined]
    running.reset()
    looks = until_whole(top / project / sample, 40)
    assert looks[0][0]
    assert looks[-1][0] == {f"f{n}" for n in range(FILES)}
    assert counted(running, "HEAD") == {"GET /api/v2/samples/{id}": 1, "POST /api/v2/files/batch/retrieve": 5}


def run_all(place: Path) -> set[str]:
    """Return all names in a directory, also those that `ls` does not show."""
    try:
        return {path.name for path in place.iterdir()}
    except OSError:
        return set()


@pytest.mark.timeout(5400)
@pytest.mark.skipif(not SOAK, reason="LABFS_SOAK=1 lists 122,000 records at 10 ms each: an hour")
@pytest.mark.parametrize("count", [2_000, 20_000, 100_000])
def test_a_redcap_project_of_any_size(count: int, redcap: Redcap, running: Sandbox, tmp_path: Path) -> None:
    token = wells(redcap, running, count)
    redcap.switch(row_s=0.01)
    mount = mount_of(tmp_path, running, "redcap", token=token)
    try:
        assert started(mount) < MOUNT_S
        running.reset()
        looks = until_whole(mount.path / "redcap" / "slow", count / 20)
        assert in_time(looks), [round(took_s) for *_, took_s in looks]
        assert ".repository" in run_all(mount.path / "redcap" / "slow")
        assert looks[-1][0] == {str(n) for n in range(count)}
        asked = counted(running)["POST /api/"]
        assert 1 + PAGES[count] <= asked <= 1 + PAGES[count] * 1.2 + 1, "a slow machine makes batches smaller"
    finally:
        mount.clean_up()
        redcap.switch(row_s=0.0)
        forget(running, token)


@pytest.mark.timeout(5400)
@pytest.mark.skipif(not SOAK, reason="LABFS_SOAK=1 lists 122,000 files at 10 ms each: half an hour")
@pytest.mark.parametrize("count", [2_000, 20_000, 100_000])
def test_a_clarity_sample_of_any_size(count: int, clarity: Clarity, running: Sandbox, tmp_path: Path) -> None:
    project, sample = samples(running, 2, count)
    clarity.switch(row_s=0.01, head=False)
    mount = mount_of(tmp_path, running, "clarity")
    try:
        assert started(mount) < MOUNT_S
        top = mount.path / "clarity"
        (name,) = [name for name in until_whole(top, 60)[-1][0] if project in name]
        (held,) = [name for name in until_whole(top / name, 60)[-1][0] if name.startswith(f"{sample} ")]
        running.reset()
        looks = until_whole(top / name / held, count / 20)
        assert in_time(looks), [round(took_s) for *_, took_s in looks]
        assert looks[0][0]
        assert looks[-1][0] == {f"f{n}" for n in range(count)}
        told = counted(running, "HEAD")  # what lies above is listed anew meanwhile, as often as anybody looks
        assert told["GET /api/v2/samples/{id}"] == 1
        assert told["POST /api/v2/files/batch/retrieve"] == count // 100
    finally:
        mount.clean_up()
        clarity.calm()
        clear(running, project)
