"""Lists in pages whose rows cost time, in BaseSpace and in ODM: soon there, shown page by page, whole in the end."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import odm_stage
import pytest
import trio
import trio.testing
from stage import Folder, Mount, Sandbox, run
from test_slow_sites import MOUNT_S, in_time, look, started, until_whole

from labfs.backends.paging import Paging

ROW_S, ROWS = 0.025, 700  # 17.5 s, longer than an `ls` waits
SOAK = os.environ.get("LABFS_SOAK") == "1"
IDS = 2_000_000_000  # above all that the stand-ins give
FILES, STUDIES = "GET /v1pre3/appresults/{id}/files", "GET /api/v1/as-curator/studies"


@contextlib.contextmanager
def store(sandbox: Sandbox) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(sandbox.directory / "sandbox.sqlite", timeout=30)) as db, db:
        db.row_factory = sqlite3.Row
        yield db


def copies(db: sqlite3.Connection, table: str, where: str, rows: Iterator[dict[str, Any]]) -> None:
    """Put many rows like one that is there straight into the store."""
    like = dict(db.execute(f"SELECT * FROM {table} WHERE {where}").fetchone())
    marks = ", ".join(f":{name}" for name in like)
    db.executemany(f"INSERT INTO {table} ({', '.join(like)}) VALUES ({marks})", ({**like, **row} for row in rows))


class Hub:
    """A record of BaseSpace with many files."""

    others = 0

    def __init__(self, sandbox: Sandbox, count: int) -> None:
        self.folder: Folder = sandbox.fresh()
        self.folder.put("first.csv", b"a,b\n")
        names = [f"plate-{number:06}.csv" for number in range(count - 1)]
        old = {"created": time.time() - 86400.0}
        rows = ({"id": IDS + at, "made": IDS + at, "name": name, "path": name, **old} for at, name in enumerate(names))
        with store(sandbox) as db:
            copies(db, "files", f"record = {self.folder.record}", rows)
        self.names, self.sandbox = {*names, "first.csv"}, sandbox

    def at(self, mountpoint: Path) -> Path:
        return self.folder.at(mountpoint)

    def clear(self) -> None:
        with store(self.sandbox) as db:
            db.execute("DELETE FROM files WHERE record = ?", (int(self.folder.record),))


class Odm:
    """All studies of ODM, with those that are there already."""

    def __init__(self, sandbox: Sandbox, count: int) -> None:
        known = "kind = 'STUDY' AND gone IS NULL"
        with store(sandbox) as db:
            (seeded,) = db.execute(f"SELECT count(*) FROM odm_objects WHERE {known}").fetchone()
            titles = [f"Study {number:06}" for number in range(count - seeded)]
            rows = (
                {"number": IDS + at, "study": IDS + at, "name": title, "attributes": f'{{"Study Title": "{title}"}}'}
                for at, title in enumerate(titles)
            )
            copies(db, "odm_objects", f"number = {odm_stage.EMPTY.removeprefix('GSF')}", rows)
        self.names, self.others, self.sandbox = set(titles), seeded, sandbox

    def at(self, mountpoint: Path) -> Path:
        return mountpoint / "odm"

    def clear(self) -> None:
        with store(self.sandbox) as db:
            db.execute("DELETE FROM odm_objects WHERE number >= ?", (IDS,))


def mount_of(sandbox: Sandbox, base: Path, *sites: str, more: str = "") -> Mount:
    """Make a mount of these sites alone, with more lines for each; the caller starts it."""
    sections = [text for text in sandbox.config.read_text().split("\n[") if text.startswith("sites.")]
    config = base / "labfs.toml"
    config.write_text("".join(f"[{text}\n{more}\n" for text in sections if text[6:].partition("]")[0] in sites))
    config.chmod(0o600)
    return Mount(base, config)


@contextlib.contextmanager
def both(sandbox: Sandbox, base: Path, count: int, row_s: float) -> Iterator[tuple[Mount, Hub, Odm]]:
    """Give a mount of two sites with long lists."""
    mount = mount_of(sandbox, base, "basespace", "odm")
    with odm_stage.quick(sandbox) as service:
        hub, odm = Hub(sandbox, count), Odm(sandbox, count)
        try:
            service.switch(row_s=row_s)
            sandbox.switch(row_s=row_s)
            sandbox.reset()
            yield mount, hub, odm
        finally:
            service.switch(row_s=0.0)
            sandbox.calm()
            mount.clean_up()
            hub.clear()
            odm.clear()


def counted(sandbox: Sandbox) -> Counter[str]:
    time.sleep(0.3)  # an answer is counted a moment after it is sent
    return sandbox.requests()


def listed(place: Hub | Odm, mount: Mount, within_s: float) -> list[tuple[set[str], int, float]]:
    """Look until all is shown, each time soon enough; return what was seen."""
    path = place.at(mount.path)
    if isinstance(place, Hub):
        assert look(path.parent)[:2] == ({"Record"}, 0)
    looks = until_whole(path, within_s)
    assert in_time(looks), [round(took_s) for *_, took_s in looks]
    assert looks[0][0], "something to see"
    assert looks[-1][0] & place.names == place.names
    assert len(looks[-1][0] - place.names) <= place.others
    return looks


@pytest.mark.mount
def test_long_lists_are_shown_page_by_page_and_asked_for_once(running: Sandbox, tmp_path: Path) -> None:
    with both(running, tmp_path, ROWS, ROW_S) as (mount, hub, odm):
        assert started(mount) < MOUNT_S
        with ThreadPoolExecutor(2) as pool:
            for looks in pool.map(lambda place: listed(place, mount, 60), (hub, odm)):
                assert len(looks[0][0]) < ROWS, "what is known by then"
                assert looks[0][1] != 0, "and an error after it"
        told = counted(running)
        assert told.pop("GET /v1pre3/users/current/projects") <= 3, "which other tests made"
        assert told == {
            "GET /v1pre3/users/current": 1,  # who we are
            STUDIES: 1 + 7,  # who we are; 100 rows in 2.5 s, then what comes in 3 s
            "GET /v1pre3/projects/{id}/appresults": 1,
            "GET /v1pre3/projects/{id}/samples": 1,
            "GET /v2/projects/{id}/datasets": 1,
            FILES: 7,
        }

        # What a lost answer made is among the newest: a short page finds it.
        running.switch(row_s=ROW_S / 2)
        running.reset()
        lost = {"service": "basespace", "method": "POST", "route": "*/files", "action": "lost"}
        running.faults({**lost, "argument": {"status": 504}})
        saved = run(f"echo x > '{hub.at(mount.path)}/saved'")
        assert (saved.returncode, hub.folder.paths.count("saved")) == (0, 1)
        assert counted(running) == {"POST /v1pre3/appresults/{id}/files": 1, FILES: 1, "GET /v1pre3/files/{id}": 1}


@pytest.mark.mount
def test_a_study_that_is_listed_slowly_can_be_saved_to(running: Sandbox, tmp_path: Path) -> None:
    """ODM tells the files of a study in one answer, which a save needs before the import and after a lost one."""
    mount = mount_of(running, tmp_path, "odm", more="timeout_s = 1")
    with odm_stage.quick(running) as service:
        try:
            service.put(odm_stage.EMPTY, "first.txt", b"1")
            rows = ({"number": IDS + at, "name": f"f{at:02}.txt"} for at in range(60))
            with store(running) as db:
                copies(db, "odm_objects", f"study = {odm_stage.EMPTY[3:]} AND kind = 'FILE' AND gone IS NULL", rows)
            place = mount.start().path / "odm" / service.title(odm_stage.EMPTY) / "Document"
            service.switch(row_s=0.03)
            running.reset()
            assert len(look(place)[0]) == 61
            lost = {"service": "odm", "method": "POST", "route": "*/multipart", "action": "lost"}
            running.faults({**lost, "argument": {"status": 504}})
            done = run(f"echo x > '{place}/saved.txt'")
            assert (done.returncode, done.stderr) == (0, "")
            told = counted(running)
            listing = "GET /api/v1/as-curator/integration/link/files/by/study/{id}"
            assert told[listing] == 3, "when it was opened, before the import, and after its answer was lost"
            assert [row["name"] for row in service.attached(odm_stage.EMPTY)].count("saved.txt") == 1
        finally:
            service.switch(row_s=0.0)
            running.calm()
            mount.clean_up()
            with store(running) as db:
                db.execute("DELETE FROM odm_objects WHERE number >= ?", (IDS,))
            service.clear(odm_stage.EMPTY)


# Pages of a list by the cost of a row; the longest page is of 1,024 rows, and each takes 3 s at most but where even
# few rows take longer.
TABLE = """
 rows  row in s  pages  longest in s
   90     0.000      1           0.0
 5000     0.000      6           0.0
 2000     0.010      8           3.0
20000     0.010     68           3.0
99999     0.010    334           3.0
20000     0.001     21           1.0
  500     0.150     21          15.0
  100     1.000      1         100.0
"""


async def test_pages_take_seconds(autojump_clock: trio.testing.MockClock) -> None:
    lines = ["", " rows  row in s  pages  longest in s"]
    for total, row_s in [(int(words[0]), float(words[1])) for words in map(str.split, TABLE.splitlines()[2:])]:
        cursor, offset, times = None, 0, []
        while True:
            paging, began = Paging.at(cursor), trio.current_time()
            assert paging.offset == offset
            came = min(paging.rows * paging.pages, total - offset)
            await trio.sleep(min(paging.rows, came) * row_s)
            times += [trio.current_time() - began] * paging.pages
            offset += came
            cursor = paging.then(came, total, 1024)
            if cursor is None:
                break
        assert offset == total
        lines.append(f"{total:>5}  {row_s:>8.3f}  {len(times):>5}  {max(times):>12.1f}")
    assert "\n".join([*lines, ""]) == TABLE


@pytest.mark.mount
@pytest.mark.timeout(5400)
@pytest.mark.skipif(
    not SOAK, reason="LABFS_SOAK=1 lists 122,000 files and as many studies at 10 ms a row: half an hour"
)
@pytest.mark.parametrize("count", [2_000, 20_000, 100_000])
def test_lists_of_any_length(count: int, running: Sandbox, tmp_path: Path) -> None:
    with both(running, tmp_path, count, 0.01) as (mount, hub, odm):
        assert started(mount) < MOUNT_S
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda place: listed(place, mount, count / 20), (hub, odm)))
        told = counted(running)
        for route in (FILES, STUDIES):
            assert count / 310 < told[route] < count / 220 + 3, "pages of three seconds, each asked for once"
