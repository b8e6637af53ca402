"""The Resources Portal through a real mount: what people do with it, and what it refuses."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from portal_stage import ADA, BEN, Service, Team, opened
from stage import Mount, Sandbox, run, typed

pytestmark = pytest.mark.mount

MB, MIB = 1_000_000, 1024 * 1024
ROWS, ONE, TEAM = "/v1/attachments/", "/v1/attachments/{id}/", "/v1/organizations/{id}/"


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def service(sandbox: Sandbox) -> Iterator[Service]:
    with opened(sandbox) as service:
        yield service


@pytest.fixture
def team(service: Service) -> Team:
    return service.new_team(ADA)


@pytest.fixture
def place(team: Team, drive: Mount) -> Path:
    """The mounted directory of an organization with one material and no files."""
    drive.refresh(drive.path / "portal")
    return drive.path / "portal" / team.name


@pytest.fixture
def material(place: Path) -> Path:
    return place / "Material"


def stored(team: Team) -> dict[str, bytes]:
    return {row["filename"]: row["data"] for row in team.rows()}


def counted(sandbox: Sandbox) -> Counter[str]:
    time.sleep(0.2)  # an answer is counted a moment after it is sent
    # The mount has other sites too, whose listings are renewed when somebody looks.
    ours = ("/v1/", "/{blob}")
    return Counter({route: n for route, n in sandbox.requests().items() if route.split(" ")[1].startswith(ours)})


def why(path: Path) -> str:
    return str(run(f"getfattr --only-values -n user.labfs.error '{path}'").stdout)


def another(tmp_path: Path, sandbox: Sandbox, *changes: tuple[str, str]) -> Mount:
    """Make a mount with another configuration; the caller starts it."""
    text = sandbox.config.read_text()
    head, _, tail = text.partition("[sites.portal]")
    section, *rest = tail.split("\n[")
    for old, new in changes:
        section = section.replace(old, new)
    config = tmp_path / "labfs.toml"
    config.write_text("\n[".join([f"{head}[sites.portal]{section}", *rest]))
    config.chmod(0o600)
    return Mount(tmp_path, config, "--site=portal")


# -- in and out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["s3", "local"])
@pytest.mark.parametrize("size", [0, 1, 6 * MB])
def test_a_file_goes_in_and_comes_out_of_a_new_mount(
    size: int, mode: str, material: Path, team: Team, service: Service, tmp_path: Path, sandbox: Sandbox
) -> None:
    service.switch(mode=mode, newline_in_local_url="quote")
    (tmp_path / "f.bin").write_bytes(noise(size))
    done = run(f"cp '{tmp_path}/f.bin' '{material}/f.bin'")
    assert (done.returncode, done.stderr) == (0, "")
    ((row,), (name, data)) = team.rows(), next(iter(stored(team).items()))
    assert (name, data, row["material"]) == ("f.bin", noise(size), team.material)
    mount = another(tmp_path, sandbox)
    try:
        mount.start()
        again = mount.path / "portal" / team.name / "Material" / "f.bin"
        assert again.stat().st_size == size
        assert again.read_bytes() == noise(size)
    finally:
        mount.clean_up()


def test_where_files_go(place: Path, material: Path, team: Team, service: Service, drive: Mount) -> None:
    assert sorted(os.listdir(place)) == ["Material", "_attachments"]
    (material / "map").write_bytes(b"1")
    (place / "_attachments" / "rules").write_bytes(b"2")
    mine = drive.path / "portal" / "_mine" / f"note {team.number}"
    mine.write_bytes(b"3")
    rows = {row["filename"]: (row["organization"], row["material"]) for row in service.rows()}
    assert rows["map"] == (team.number, team.material)
    assert rows["rules"] == (team.number, None)
    assert rows[mine.name] == (None, None)
    os.unlink(mine)


def test_saving_over_a_file_is_a_new_row_and_the_end_of_the_old(material: Path, team: Team, drive: Mount) -> None:
    (material / "f").write_bytes(b"old")
    (old,) = team.rows()
    (material / "f").write_bytes(b"new and longer")
    drive.refresh(material)
    assert os.listdir(material) == ["f"]
    assert (material / "f").read_bytes() == b"new and longer"
    (new,) = team.rows()
    assert (new["data"], new["id"] > old["id"]) == (b"new and longer", True)


def test_an_editors_save_is_one_upload(material: Path, team: Team, drive: Mount, sandbox: Sandbox) -> None:
    (material / "notes.txt").write_bytes(b"one\n")
    sandbox.reset()
    assert run("sed -i s/one/two/ notes.txt", material).returncode == 0
    requests = counted(sandbox)
    assert (requests[f"POST {ROWS}"], requests[f"DELETE {ONE}"]) == (1, 1)
    assert stored(team) == {"notes.txt": b"two\n"}
    assert os.listdir(material) == ["notes.txt"]


def test_deleting(material: Path, team: Team, drive: Mount) -> None:
    (material / "f").write_bytes(b"x")
    os.unlink(material / "f")
    assert os.listdir(material) == []
    drive.refresh(material)
    assert os.listdir(material) == []
    assert stored(team) == {}


def test_without_full_access_nothing_is_replaced_or_deleted(
    team: Team, tmp_path: Path, sandbox: Sandbox, service: Service
) -> None:
    team.put("f", b"kept", team.material)
    mount = another(tmp_path, sandbox, ('access = "full"', 'access = "write"'))
    try:
        mount.start()
        there = mount.path / "portal" / team.name / "Material"
        for command in ("rm f", "echo x > f", "echo x >> f"):
            done = run(command, there)
            assert "Operation not permitted" in done.stderr, command
        assert 'access = "full"' in mount.log
        assert 'access = "full"' in why(there / "f")
    finally:
        mount.clean_up()
    assert stored(team) == {"f": b"kept"}


def test_what_others_do_shows_after_a_refresh(material: Path, team: Team, service: Service, drive: Mount) -> None:
    assert os.listdir(material) == []
    number = team.put("theirs", noise(5000), team.material)
    drive.refresh(material)
    assert (material / "theirs").read_bytes() == noise(5000)
    service.delete(number)
    drive.refresh(material)
    assert os.listdir(material) == []


def test_renaming_and_moving_touch_no_bytes(
    material: Path, place: Path, team: Team, drive: Mount, sandbox: Sandbox
) -> None:
    (material / "f").write_bytes(noise(5000))
    (row,) = team.rows()
    counted(sandbox)
    sandbox.reset()
    os.rename(material / "f", material / "g")
    os.rename(material / "g", place / "_attachments" / "g")
    assert counted(sandbox) == {f"PATCH {ONE}": 2}
    (now,) = team.rows()
    assert (now["id"], now["filename"], now["material"]) == (row["id"], "g", None)
    drive.refresh(place)
    assert (os.listdir(material), os.listdir(place / "_attachments")) == ([], ["g"])
    assert (place / "_attachments" / "g").read_bytes() == noise(5000)


def test_renaming_where_names_cannot_change_is_a_copy(
    material: Path, team: Team, service: Service, drive: Mount
) -> None:
    service.switch(mode="local", newline_in_local_url="quote")
    (material / "f").write_bytes(noise(5000))
    done = run("mv f g", material)
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(team) == {"g": noise(5000)}
    drive.refresh(material)
    assert (material / "g").read_bytes() == noise(5000)


# -- agreements ------------------------------------------------------------------------------------------


def test_an_agreement_is_a_file_of_the_organization_and_a_link_in_each_material(
    place: Path, team: Team, service: Service, drive: Mount
) -> None:
    number = team.put("MTA.pdf", noise(2000))
    service.agree(team.material, number)
    service.material(team.number, "Line", number)
    drive.refresh(place)
    for directory in ("_attachments", "Material", "Line"):
        assert (place / directory / "MTA.pdf").read_bytes() == noise(2000)
    for command in ("rm MTA.pdf", "echo x > MTA.pdf", "mv MTA.pdf other"):
        done = run(command, place / "Line")
        assert "Read-only file system" in done.stderr or "Operation not permitted" in done.stderr, command
        assert "agreement" in why(place / "Line" / "MTA.pdf"), command
    assert stored(team) == {"MTA.pdf": noise(2000)}


def test_an_agreement_that_is_saved_over_stays_one(place: Path, team: Team, service: Service, drive: Mount) -> None:
    service.agree(team.material, team.put("MTA.pdf", b"old"))
    drive.refresh(place)
    (place / "_attachments" / "MTA.pdf").write_bytes(b"newer")
    (row,) = team.rows()
    assert service.agreement(team.material) == row["id"]
    drive.refresh(place)
    assert (place / "Material" / "MTA.pdf").read_bytes() == b"newer"
    os.unlink(place / "_attachments" / "MTA.pdf")
    assert service.agreement(team.material) is None
    drive.refresh(place)
    assert os.listdir(place / "Material") == []


def test_a_file_that_is_moved_onto_an_agreement_becomes_the_agreement(
    place: Path, team: Team, service: Service, drive: Mount
) -> None:
    service.agree(team.material, team.put("MTA.pdf", b"old"))
    drive.refresh(place)
    (place / "_attachments" / "draft.pdf").write_bytes(b"newer")
    os.replace(place / "_attachments" / "draft.pdf", place / "_attachments" / "MTA.pdf")
    (row,) = team.rows()
    assert (row["filename"], row["data"], service.agreement(team.material)) == ("MTA.pdf", b"newer", row["id"])
    drive.refresh(place)
    assert (os.listdir(place / "Material"), os.listdir(place / "_attachments")) == (["MTA.pdf"], ["MTA.pdf"])


# -- one for each line of what a client cannot do --------------------------------------------------------


def test_files_are_listed_without_the_list_that_is_for_staff(
    material: Path, team: Team, service: Service, drive: Mount, sandbox: Sandbox
) -> None:
    team.put("f", b"x", team.material)
    drive.refresh(drive.path / "portal")
    sandbox.reset()
    assert run(f"find '{drive.path}/portal' -name f").stdout
    assert counted(sandbox)[f"GET {ROWS}"] == 0


def test_sizes_come_from_a_range_of_one_byte_since_head_is_refused(
    material: Path, team: Team, drive: Mount, sandbox: Sandbox
) -> None:
    sizes = {"empty": 0, "one": 1, "more": 70_000}
    for name, size in sizes.items():
        team.put(name, noise(size), team.material)
    drive.refresh(material)
    sandbox.reset()
    assert {name: (material / name).stat().st_size for name in os.listdir(material)} == sizes
    assert not [key for key in counted(sandbox) if key.startswith("HEAD")]


def test_an_address_of_yesterday_is_asked_for_again(material: Path, team: Team, service: Service, drive: Mount) -> None:
    service.switch(url_life_s=1.0)
    team.put("f", noise(9000), team.material)
    drive.refresh(material)
    assert (material / "f").stat().st_size == 9000
    time.sleep(2.1)
    assert (material / "f").read_bytes() == noise(9000)


def test_appending_sends_the_whole_file_again(material: Path, team: Team, sandbox: Sandbox) -> None:
    (material / "f").write_bytes(noise(100_000))
    sandbox.reset()
    with open(material / "f", "ab") as file:
        file.write(b"more")
    assert stored(team) == {"f": noise(100_000) + b"more"}
    assert counted(sandbox)[f"POST {ROWS}"] == 1


def test_more_than_a_billion_bytes_are_refused_before_one_is_sent(
    material: Path, team: Team, drive: Mount, sandbox: Sandbox
) -> None:
    sandbox.reset()
    done = run("truncate -s 1000000001 big", material)
    assert "File too large" in done.stderr
    assert not any(entry.startswith("POST") for entry in counted(sandbox))
    told = typed("why", material / "big", env=drive.env).stdout
    assert "at most 1" in told or "bytes at most" in told
    drive.discard()
    assert stored(team) == {}


def test_what_the_server_in_front_refuses_is_not_sent_twice(
    team: Team, service: Service, tmp_path: Path, sandbox: Sandbox
) -> None:
    service.switch(body_limit=MIB)
    (tmp_path / "f").write_bytes(noise(3 * MIB))
    mount = another(tmp_path, sandbox)
    try:
        there = mount.start().path / "portal" / team.name / "Material"
        done = run(f"cp '{tmp_path}/f' '{there}/f'")
        assert "File too large" in done.stderr
        assert "portal takes less than 3,1" in mount.log
        sandbox.reset()
        done = run(f"cp '{tmp_path}/f' '{there}/g'")
        assert "File too large" in done.stderr
        assert not any(key.startswith("POST") for key in counted(sandbox))
        assert run(f"head -c 500000 '{tmp_path}/f' > '{there}/small'").returncode == 0
    finally:
        mount.clean_up()
    assert stored(team) == {"small": noise(3 * MIB)[:500_000]}


def test_an_upload_that_breaks_off_starts_anew_and_ends_as_one_file(
    material: Path, team: Team, sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(noise(2 * MB))
    # What was sent and never came is looked for by the patience of the site: backend tests have that shorter.
    for fault in ({"action": "cut", "argument": 3}, {"action": "status", "argument": 500}):
        sandbox.faults({"service": "portal", "method": "POST", "route": "/v1/attachments/*", **fault})
        assert run(f"cp '{tmp_path}/f' '{material}/{fault['action']}'").returncode == 0
    assert stored(team) == dict.fromkeys(["cut", "status"], noise(2 * MB))
    assert len(team.rows()) == 2


def test_without_ranges_any_place_can_be_read(
    material: Path, team: Team, service: Service, drive: Mount, sandbox: Sandbox
) -> None:
    service.switch(mode="local", newline_in_local_url="quote")
    data = noise(12 * MB)
    team.put("f", data, team.material)
    drive.refresh(material)
    sandbox.reset()
    with open(material / "f", "rb") as file:
        for start in (11 * MB, 5, 6 * MB):
            file.seek(start)
            assert file.read(1000) == data[start : start + 1000]
    requests = counted(sandbox)
    assert sum(requests[key] for key in requests if key.startswith("GET") and "uploaded-file" in key) == 1


def test_an_overwrite_that_fails_leaves_the_old_file(
    material: Path, team: Team, service: Service, drive: Mount, sandbox: Sandbox
) -> None:
    number = team.put("MTA", b"old", team.material)
    service.agree(service.material(team.number, "Line"), number)
    drive.refresh(material)
    # The new file is there, and the step that would let it take over fails.
    sandbox.faults(
        {"service": "portal", "method": "PATCH", "route": "/v1/attachments/*", "action": "status", "argument": 403}
    )
    done = run("echo new | dd of=MTA", material)
    assert done.returncode != 0
    assert stored(team) == {"MTA": b"old"}
    assert "permission" in drive.log
    drive.discard()


def test_a_date_that_is_set_stays_on_this_machine(material: Path, team: Team, drive: Mount) -> None:
    (material / "f").write_bytes(b"x")
    assert run("touch -d 2020-01-01 f", material).returncode == 0
    assert time.gmtime((material / "f").stat().st_mtime).tm_year in (2019, 2020)
    (row,) = team.rows()
    assert row["created"] > 1_700_000_000_000_000


def test_a_deleted_file_cannot_be_had_back_and_its_bytes_stay(material: Path, team: Team, service: Service) -> None:
    (material / "f").write_bytes(b"x")
    (row,) = team.rows()
    os.unlink(material / "f")
    assert "No such file" in run("cat f", material).stderr
    (kept,) = service.rows("id = ?", row["id"])
    assert (kept["removed"], kept["data"]) == (1, b"x")


def test_other_peoples_organizations_can_be_read_and_not_written(
    service: Service, tmp_path: Path, sandbox: Sandbox
) -> None:
    team = service.new_team(BEN)
    team.put("theirs", noise(3000), team.material, "other_token")
    mount = another(tmp_path, sandbox, ('access = "full"', 'access = "full"\norganizations = "all"'))
    try:
        there = mount.start().path / "portal" / team.name / "Material"
        assert (there / "theirs").read_bytes() == noise(3000)
        for command in ("echo x > planted", "echo x > theirs", "rm theirs"):
            done = run(command, there)
            assert "Read-only file system" in done.stderr or "Operation not permitted" in done.stderr, command
        assert "not a member" in why(there / "theirs") + mount.log
    finally:
        mount.clean_up()
    assert stored(team) == {"theirs": noise(3000)}


def test_directories_are_not_made_moved_or_removed(place: Path, drive: Mount) -> None:
    for command, words in [
        ("mkdir New", "Materials are made on the portal"),
        ("mkdir ../New", "Organizations are made on the portal"),
        ("mkdir Material/New", ""),
        ("echo x > f", "Materials are made on the portal"),
        ("rmdir Material", "does not delete"),
        ("mv Material Other", "cannot rename or move"),
    ]:
        done = run(command, place)
        assert done.returncode != 0, command
        assert words in drive.log, command


# -- what a name may be ----------------------------------------------------------------------------------


def test_blanks_at_the_ends_of_a_name_are_refused(material: Path, team: Team, drive: Mount) -> None:
    done = run("cp /etc/hostname ' f'", material)
    assert "Invalid argument" in done.stderr
    assert "cuts blanks" in drive.log
    assert stored(team) == {}
    drive.discard()


def test_the_odd_names_of_the_seed_stay_in_their_directory(drive: Mount, service: Service) -> None:
    (team,) = [path for path in (drive.path / "portal").iterdir() if "Odd" in path.name]
    assert sorted(os.listdir(team)) == sorted(["_attachments", "a%2Fb%0A..", "%2E%2E"])
    files = list((team / "a%2Fb%0A..").iterdir())
    assert len(files) == 16
    for path in files:
        assert path.is_file()
        if "%2E" in path.name or path.name.startswith("..%2F"):
            assert "Resource temporarily unavailable" in run(f"cat '{path}'").stderr
            assert "no program can ask" in why(path)
        else:
            assert path.read_bytes().startswith(b"content of ")


# -- requests --------------------------------------------------------------------------------------------


def test_requests_per_action(
    place: Path, material: Path, team: Team, service: Service, drive: Mount, sandbox: Sandbox
) -> None:
    for index in range(5):
        team.put(f"f{index}", noise(1000, index), team.material)
    for index in range(10):
        service.material(team.number, f"Line {index}")

    def cost(command: str) -> dict[str, int]:
        sandbox.reset()
        assert run(command).returncode == 0
        return dict(counted(sandbox))

    drive.refresh(place)
    first = {"GET /v1/organizations/": 1, f"GET {TEAM}": 1, "GET /{blob}": 5}
    assert cost(f"ls -lR '{place}'") == first, "how many there are, a list for all, and one for each size"
    drive.refresh(place)
    assert cost(f"ls -lR '{place}'") == {f"GET {TEAM}": 1}
    assert cost(f"cat '{material}/f1' > /dev/null") == {"GET /{blob}": 1}
    assert cost(f"echo x > '{material}/new'") == {f"POST {ROWS}": 1, "GET /{blob}": 1}
    assert cost(f"echo y > '{material}/new'") == {
        f"GET {ONE}": 1, f"POST {ROWS}": 1, "GET /{blob}": 1, f"DELETE {ONE}": 1,
    }  # fmt: skip
    assert cost(f"mv '{material}/new' '{material}/newer'") == {f"PATCH {ONE}": 1}
    assert cost(f"rm '{material}/newer'") == {f"GET {ONE}": 1, f"DELETE {ONE}": 1}
    drive.refresh(drive.path / "portal")
    assert sum(cost(f"ls '{drive.path}/portal'").values()) == 1


def test_two_thousand_files_are_listed(drive: Mount, service: Service) -> None:
    path = drive.path / "portal" / "Plate reader archive" / "Two thousand plates"
    assert run(f"find '{path}' -type f | wc -l").stdout.strip() == "2000"
