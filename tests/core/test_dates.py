"""Files that no server dates have the same date in every mount, as long as they are the same; and a newer one after."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import five_stage
import pytest
from five_stage import Lab
from stage import Mount, Sandbox, run

from labfs.backend import Entry
from labfs.tree.remembered import dates
from labfs.tree.remembered.seen import Seen

DATELESS = ("clarity", "odm", "redcap")
FILE = Entry(id="files/1", name="f", is_dir=False, version="1", size=10)
FOLDER = Entry(id="folder", name="folder", is_dir=True)
DAY = 24 * 3600 * 10**9


# -- what is remembered ----------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [1_000 * DAY]
    monkeypatch.setattr(dates.time, "time_ns", lambda: now[0])
    return now


def date(seen: Seen, *entries: Entry) -> int:
    """Return the date of the first of what is listed."""
    return seen.dates.meet("site", entries)[entries[0].id]


def test_a_version_keeps_the_date_of_its_first_sight_and_another_is_newer(tmp_path: Path, clock: list[int]) -> None:
    seen = Seen(tmp_path / "seen")
    first = date(seen, FILE)
    clock[0] += DAY
    seen.close()
    seen = Seen(tmp_path / "seen")
    assert date(seen, FILE) == first == 1_000 * DAY
    assert date(seen, replace(FILE, version=None)) == first, "not told this time"
    assert date(seen, replace(FILE, size=11)) == first, "the version tells, where there is one"
    assert date(seen, replace(FILE, version="2")) == clock[0]
    assert seen.dates.meet("other", [FILE]) == {FILE.id: clock[0]}
    assert seen.dates.meet("site", [replace(FILE, modified_ns=0)]) == {}, "the server's own"
    clock[0] -= 500 * DAY
    assert date(seen, replace(FILE, version="3")) > 1_001 * DAY, "newer, also where the clock went back"


def test_where_there_are_no_versions_another_size_is_one(clock: list[int]) -> None:
    seen, unmeasured = Seen(), replace(FILE, version=None, size=None)
    first = date(seen, unmeasured)
    clock[0] += DAY
    assert date(seen, replace(unmeasured, size=10)) == first, "learnt, not changed"
    assert date(seen, unmeasured) == first
    assert date(seen, replace(unmeasured, size=11)) == clock[0]
    assert date(seen, replace(FILE, size=11)) == clock[0], "a version is told from now on"


def test_the_date_of_a_save_and_one_that_was_set_belong_to_the_version(clock: list[int]) -> None:
    seen = Seen()
    date(seen, FILE)
    saved = replace(FILE, version="2")
    assert seen.dates.saved("site", saved, 7) == 7
    assert date(seen, saved) == 7
    seen.dates.set("site", saved, 5)
    assert date(seen, saved) == 5
    assert date(seen, replace(FILE, version="3")) == clock[0]
    dated = replace(FILE, id="dated", modified_ns=3)
    assert seen.dates.saved("site", dated, 7) is None
    seen.dates.set("site", dated, 5)
    assert seen.dates.meet("site", [replace(dated, modified_ns=None)]) == {"dated": clock[0]}


def test_a_directory_is_as_old_as_what_is_in_it(clock: list[int]) -> None:
    seen = Seen()
    along = replace(FOLDER, id="along", complete=True)
    first = date(seen, FOLDER)
    clock[0] += DAY
    listing = [FILE, along, replace(FILE, id="in it", inside="along")]
    assert seen.dates.meet("site", listing, FOLDER)[FOLDER.id] == first, "nobody knows what was in it before"
    clock[0] += DAY
    assert seen.dates.meet("site", reversed(listing), FOLDER)[FOLDER.id] == first
    found = seen.dates.meet("site", [*listing, replace(FILE, id="new", inside="along")], FOLDER)
    assert (found["along"], found[FOLDER.id]) == (clock[0], first)
    assert seen.dates.meet("site", listing[1:], FOLDER)[FOLDER.id] == clock[0]
    assert date(seen, FOLDER) == clock[0], "listed by its parent"


def test_a_disk_that_is_full_or_broken_gives_no_date_and_no_failure(tmp_path: Path) -> None:
    seen = Seen(tmp_path / "seen")
    first = date(seen, FILE)
    seen.dates._db.execute("PRAGMA max_page_count = 1")  # as many as are in use already
    many = [replace(FILE, id=f"{number} {'x' * 900}") for number in range(1000)]
    assert seen.dates.meet("site", [FILE, *many]) == {FILE.id: first}
    assert seen.dates.saved("site", many[0], 5) == 5
    seen.dates._db.execute("DROP TABLE dates")
    assert seen.dates.meet("site", [FILE]) == {}
    seen.dates.set("site", FILE, 5)
    seen.close()
    (tmp_path / "seen").write_bytes(b"no database" * 1000)
    assert date(Seen(tmp_path / "seen"), FILE) > first, "for as long as the mount lasts"


# -- over mounts -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        yield made


@pytest.fixture(scope="module")
def mount(running: Sandbox, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mount of this module's own, which its tests make anew."""
    made = Mount(tmp_path_factory.mktemp("dates"), running.config)
    for site in DATELESS:
        lab.put(site, "theirs.txt", site.encode())
    try:
        yield made.start()
    finally:
        made.clean_up()


def again(mount: Mount) -> None:
    done = mount.stop()
    assert done.returncode == 0, done.stderr
    mount.start()


def seen_at(mount: Mount, lab: Lab) -> dict[str, int]:
    """Return the dates of the mount, of what is in the dateless places, and of all directories on the way."""
    paths = [mount.path]
    for site in DATELESS:
        place = mount.path / lab.places[site]
        paths += [path for path in (place, *place.parents) if mount.path in path.parents]
        paths += list(place.iterdir())
    return {str(path): path.stat().st_mtime_ns for path in paths}


@pytest.mark.mount
def test_what_has_not_changed_is_as_old_in_the_next_mount(mount: Mount, lab: Lab, tmp_path: Path) -> None:
    own, copies, places = tmp_path / "own", tmp_path / "copies", {s: mount.path / lab.places[s] for s in DATELESS}
    own.mkdir()
    (own / "mine.txt").write_text("with a date of its own")
    os.utime(own / "mine.txt", (1e9, 1e9))
    (places["redcap"] / "theirs.txt").write_text("saved here")

    def copy() -> list[str]:
        """Copy in, where there is room for another file, and out; return what was copied."""
        done = [run(f"rsync -aiO {own}/ '{places[site]}'") for site in ("clarity", "odm")]
        mount.refresh()
        done += [run(f"rsync -ai '{places[site]}' {copies / site}/") for site in DATELESS]
        assert [one.returncode for one in done] == [0] * 5, [one.stderr for one in done]
        return [line for one in done for line in one.stdout.splitlines()]

    copies.mkdir()
    assert sum("mine.txt" in line for line in copy()) == 4
    assert copy() == []
    before = seen_at(mount, lab)
    again(mount)
    assert seen_at(mount, lab) == before
    assert copy() == []


@pytest.mark.mount
def test_make_builds_again_what_has_changed_and_nothing_else(mount: Mount, lab: Lab, tmp_path: Path) -> None:
    sources = {site: mount.path / lab.places[site] / "theirs.txt" for site in DATELESS}
    for site, source in sources.items():
        (tmp_path / f"{site}.source").symlink_to(source)
    targets = " ".join(f"{site}.built" for site in DATELESS)
    (tmp_path / "Makefile").write_text(f"all: {targets}\n%.built: %.source\n\tcp $< $@\n")

    def built() -> int:
        done = run("make all", tmp_path)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.count("cp "))

    assert [built(), built()] == [3, 0]
    before = {site: source.stat().st_mtime_ns for site, source in sources.items()}
    for site, source in sources.items():
        change(lab, site, source, b"another version, which somebody else saved")
    mount.refresh()
    assert all(source.stat().st_mtime_ns > before[site] for site, source in sources.items())
    assert [built(), built()] == [3, 0]
    for site, source in sources.items():
        assert (tmp_path / f"{site}.built").read_bytes() == b"another version, which somebody else saved"
        source.write_bytes(b"saved here")
        assert abs(source.stat().st_mtime - time.time()) < 60
    assert [built(), built()] == [3, 0]
    mount.refresh()
    assert built() == 0
    again(mount)
    assert built() == 0


def change(lab: Lab, site: str, path: Path, data: bytes) -> None:
    """Save another version of a file behind the mount's back."""
    number = os.getxattr(path, "user.labfs.id").decode()
    if site == "clarity":
        assert lab.clarity.upload(number, data).status_code == 200
        return
    if site == "odm":
        lab.odm.ask("DELETE", "manage-data/data", params={"accessions": number}).raise_for_status()
    lab.put(site, path.name, data)


@pytest.mark.mount
def test_a_mount_whose_memory_is_damaged_still_dates_everything(mount: Mount, lab: Lab) -> None:
    before = seen_at(mount, lab)
    assert mount.stop().returncode == 0
    for path in mount.state.glob("mounts/*/seen.sqlite*"):
        path.write_bytes(b"damaged" * 3000)
    began = time.time_ns()
    mount.start()
    now = seen_at(mount, lab)
    assert now.keys() == before.keys()
    sample = str(mount.path / lab.places["clarity"])  # whose date the server tells
    assert all(began < date < time.time_ns() for path, date in now.items() if path != sample), now
    assert seen_at(mount, lab) == now
