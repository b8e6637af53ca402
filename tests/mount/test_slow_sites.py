"""A site whose rows cost time, as the real Portal's do, or that is away: mounted, looked at, and mounted again.

Every file costs 0.15 s and one worker makes all answers: told together those of the large organization take 20 s, and
the list of users, which prepares 2,000 files of ours, five minutes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from portal_stage import ADA, Service, Team
from stage import Mount, Sandbox, labfs, run

from labfs.backends.portal.rows import ADDRESSES
from labfs.daemon import control

pytestmark = pytest.mark.mount

ROW_S, FILES = 0.15, 130
MOUNT_S, LOOK_S = 5.0, 17.5
EACH_S = 0.0002  # for a name on its way through the kernel, while other tests run
SOAK = os.environ.get("LABFS_SOAK") == "1"


@pytest.fixture(scope="module")
def service(running: Sandbox) -> Iterator[Service]:
    service = Service(running)
    before = service.counters()
    yield service
    running.faults()
    service.forget(before)
    service.close()


def fill(service: Service, team: Team, count: int, material: int | None = None) -> set[str]:
    """Put many files there, which are made in the store at once."""
    first = service.put("first.csv", b"a,b\n", owned_by_org=team.number)
    names = {f"plate-{number:06}.csv" for number in range(count - 1)}
    with service.store() as db:
        row = dict(db.execute("SELECT * FROM portal_attachments WHERE id = ?", (first,)).fetchone())
        del row["id"]
        rows = [{**row, "filename": name, "local_name": name, "material": material} for name in sorted(names)]
        marks = ", ".join(f":{name}" for name in row)
        db.executemany(f"INSERT INTO portal_attachments ({', '.join(row)}) VALUES ({marks})", rows)
    return names | {"first.csv"}


def portal_only(base: Path, sandbox: Sandbox, more: str = "") -> Mount:
    """Make a mount of the Portal alone; the caller starts it."""
    section = sandbox.config.read_text().partition("[sites.portal]")[2].partition("\n[")[0]
    config = base / "labfs.toml"
    config.write_text(f"[sites.portal]{section}\n{more}")
    config.chmod(0o600)
    return Mount(base, config)


def started(mount: Mount) -> float:
    """Mount; return how long that took beyond what any command takes on this machine now, in seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "labfs", "--version"], check=True, capture_output=True)
    usual, began = time.monotonic() - began, time.monotonic()
    mount.start()
    return time.monotonic() - began - 2 * usual  # the command starts another


def look(path: Path) -> tuple[set[str], int, float]:
    """List a directory as `ls` does: what it shows, whether that is all, and how long it took, in seconds."""
    began = time.monotonic()
    done = run(f"LC_ALL=C ls '{path}'", timeout=60)
    return set(done.stdout.splitlines()), done.returncode, time.monotonic() - began


def until_whole(path: Path, within_s: float) -> list[tuple[set[str], int, float]]:
    """Look until all is shown."""
    looks, end = [look(path)], time.monotonic() + within_s
    while looks[-1][1] != 0:
        assert time.monotonic() < end, looks[-1]
        looks.append(look(path))
    return looks


def in_time(looks: list[tuple[set[str], int, float]]) -> bool:
    """Whether the first look, and all later ones, told something in time; names by the ten thousand take their own."""
    return looks[0][2] < LOOK_S and all(took_s < LOOK_S + EACH_S * len(names) for names, _, took_s in looks)


def counted(sandbox: Sandbox) -> Counter[str]:
    time.sleep(0.3)  # an answer is counted a moment after it is sent
    return Counter({route: n for route, n in sandbox.requests().items() if "/v1/" in route and "v1pre3" not in route})


@pytest.fixture(scope="module")
def team(service: Service) -> Team:
    team = service.new_team(ADA)
    team.names = fill(service, team, FILES)  # type: ignore[attr-defined]
    return team


@pytest.fixture(scope="module")
def slow(service: Service, team: Team, running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    service.calm()
    service.switch(row_s=ROW_S, workers=1)
    running.reset()
    mount = portal_only(tmp_path_factory.mktemp("slow"), running, "timeout_s = 0.5")
    try:
        mount.mount_s = started(mount)  # type: ignore[attr-defined]
        yield mount
    finally:
        service.calm()
        mount.clean_up()


def remark(mount: Mount, path: Path) -> str:
    """Ask as `labfs why` does, without the half second that a command takes to start."""
    inside = f"/{path.relative_to(mount.path).as_posix()}"
    return str(control.ask(next(mount.state.glob("mounts/*/control")), {"op": "why", "path": inside})["reason"])


def refused(number: int, act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError as error:
        return error.errno == number
    return False


def test_a_slow_site_alone_is_mounted_and_opens(slow: Mount, team: Team, service: Service, running: Sandbox) -> None:
    assert slow.mount_s < MOUNT_S  # type: ignore[attr-defined]
    names = team.names  # type: ignore[attr-defined]
    place = slow.path / "portal" / team.name
    (teams, status, took_s) = look(slow.path / "portal")
    assert (status, {"_mine", team.name} <= teams, took_s < LOOK_S) == (0, True, True)

    (top, status, took_s) = look(place)
    assert (top, took_s < LOOK_S) == ({"_attachments", "Material"}, True)
    first, *more = until_whole(place / "_attachments", 60)
    assert first[2] < LOOK_S
    assert first[0] <= names, "what is known by then"
    assert first[1] != 0 or first[0] == names, "an error after a part, so that nobody takes it for all"
    assert [first, *more][-1][:2] == (names, 0)
    assert all(after[0] >= before[0] for before, after in zip([first, *more], more, strict=False))
    assert all(each[2] < LOOK_S for each in more)
    told = counted(running)
    assert told.pop("GET /v1/organizations/{id}/members/") <= 12
    assert told == {
        "GET /v1/organizations/": 2,  # who we are; the ids of the files
        f"GET /v1/users/{ADA}/organizations/": 1,
        "GET /v1/organizations/{id}/materials/": 1,
        "GET /v1/attachments/{id}/": 3 + FILES,  # what a row costs; each row, once
    }


def test_one_long_answer_is_waited_for_and_asked_for_once(slow: Mount, service: Service, running: Sandbox) -> None:
    """What is ours alone is in one answer with all that we own: it takes longer than the site may be silent."""
    service.switch(row_s=0.0015)
    running.reset()
    shown, status, took_s = look(slow.path / "portal" / "_mine")
    service.switch(row_s=ROW_S)
    assert (bool(shown), status, took_s > 2000 * 0.0015) == (True, 0, True)
    assert counted(running) == {f"GET /v1/users/{ADA}/": 1}


def test_the_last_list_is_shown_while_the_site_is_away(
    slow: Mount, team: Team, service: Service, running: Sandbox
) -> None:
    names, place = team.names, slow.path / "portal" / team.name / "_attachments"  # type: ignore[attr-defined]
    assert slow.stop().returncode == 0
    service.calm()
    running.faults({"service": "portal", "method": "*", "action": "status", "argument": 503, "times": None})
    try:
        assert started(slow) < MOUNT_S, "also as the only site"
        shown, status, took_s = look(place)
        assert (shown, status, took_s < LOOK_S) == (names, 0, True)
        told = labfs("status", env=slow.env).stdout
        assert f"/portal/{team.name} is shown as it was listed on" in told
        assert "503" in told
        assert "as it was listed on" in remark(slow, place.parent)
        file = place / "first.csv"
        assert file.stat().st_size >= 0
        for act in (
            file.read_bytes, lambda: (place / "new.csv").write_bytes(b"x"), lambda: file.write_bytes(b"x"), file.unlink,
            lambda: file.rename(place / "second.csv"), (place / "never seen").stat,
        ):  # fmt: skip
            assert refused(errno.EIO, act), act
    finally:
        running.faults()
    assert {row["filename"] for row in team.rows()} == names
    deadline = time.monotonic() + 30
    while "as it was listed on" in remark(slow, place.parent):
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError):
            os.listdir(place)
    assert look(place)[:2] == (names, 0)
    text = next(slow.state.glob("mounts/*/kept.sqlite")).read_bytes()
    secret = service.known["token"].encode()
    assert (secret in text, b"X-Amz-Signature" in text, b"attachments/" in text) == (False, False, False)


@pytest.mark.timeout(5400)
@pytest.mark.skipif(not SOAK, reason="LABFS_SOAK=1 lists 122,000 files at 10 ms a row: half an hour")
@pytest.mark.parametrize("count", [2_000, 20_000, 100_000])
def test_a_site_of_any_size(count: int, service: Service, running: Sandbox, tmp_path: Path) -> None:
    team = service.new_team(ADA)
    names = fill(service, team, count)
    service.calm()
    service.switch(row_s=0.01)
    running.reset()
    mount = portal_only(tmp_path, running)
    try:
        assert started(mount) < MOUNT_S
        place = mount.path / "portal" / team.name
        assert look(mount.path / "portal")[2] < LOOK_S
        assert look(place)[0] == {"_attachments", "Material"}
        looks = until_whole(place / "_attachments", count / 20)
        assert in_time(looks), [round(took_s) for *_, took_s in looks]
        assert looks[0][0]
        assert looks[-1][0] == names
        # For a second sizes are asked for; where the list is longer than what is kept of addresses, with those.
        extra = counted(running)["GET /v1/attachments/{id}/"] - (count + 3)
        assert 0 <= extra <= (1000 if count > ADDRESSES else 0)
    finally:
        service.calm()
        mount.clean_up()
