"""The contract suite over the Portal's backend, in both ways to run the service, and its own oddities."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from contract import Basket, Bytes, Contract, hurried, noise, poured
from portal_stage import ADA, BEN, Service, Team, opened
from stage import Sandbox

from labfs.backend import Backend, Entry, Target, fetched
from labfs.backends import KINDS
from labfs.backends.common import Settings
from labfs.backends.portal import lists
from labfs.backends.portal.backend import Portal
from labfs.daemon import config
from labfs.errors import (
    ConfigError,
    CrossDevice,
    Denied,
    Invalid,
    LabfsError,
    Malformed,
    NotFound,
    NotPermitted,
    ReadOnly,
    TooLarge,
    Unavailable,
    Unranged,
)
from labfs.http.client import Client
from labfs.tree.scan import scan

MIB = 1024 * 1024


def build(service: Service, who: str = "token", url: str | None = None, **options: str) -> Portal:
    backend = KINDS["portal"].build(
        Settings(
            name="portal", url=url or service.url, secrets={"token": lambda: service.known[who]},
            options={"organizations": "mine", "user_id": "", **options}, timeout_s=2.0,
        )
    )  # fmt: skip
    assert isinstance(backend, Portal)
    hurried(backend)
    return backend


class PortalGround:
    home = ()

    def __init__(self, backend: Backend, team: Team, listed: Entry, record: Entry) -> None:
        self.backend = backend
        self.team = team
        self.listed = listed
        self.record = record

    @property
    def material(self) -> int | None:
        return self.team.material if "/materials/" in self.record.id else None

    def put(self, path: str, data: bytes) -> str:
        return str(self.team.put(path, data, self.material))

    def _rows(self) -> list[dict[str, Any]]:
        return [row for row in self.team.rows() if row["material"] == self.material]

    def stored(self) -> dict[str, bytes]:
        return {row["filename"]: row["data"] for row in self._rows()}

    def uploads(self) -> int:
        return len(self._rows())


@pytest.fixture
async def service(sandbox: Sandbox) -> AsyncIterator[Service]:
    with opened(sandbox) as service:
        yield service


async def ground_of(service: Service, backend: Portal, last: str) -> PortalGround:
    team = service.new_team(ADA)
    listed = await backend.stat(f"organizations/{team.number}")
    record = await backend.stat(f"organizations/{team.number}/{last.format(team.material)}")
    return PortalGround(backend, team, listed, record)


class TestPortal(Contract):
    """A material, with the bytes in a bucket and on the server's own disk; and what is in no material."""

    @pytest.fixture(params=["s3 materials/{}", "local materials/{}", "s3 attachments"])
    async def ground(self, service: Service, request: pytest.FixtureRequest) -> AsyncIterator[PortalGround]:
        mode, last = request.param.split()
        service.switch(mode=mode, newline_in_local_url="quote")
        backend = build(service)
        try:
            yield await ground_of(service, backend, last)
        finally:
            await backend.aclose()


# -- the oddities ----------------------------------------------------------------------------------------


@pytest.fixture
async def portal(service: Service) -> AsyncIterator[Portal]:
    backend = build(service)
    yield backend
    await backend.aclose()


@pytest.fixture
async def ground(service: Service, portal: Portal) -> PortalGround:
    return await ground_of(service, portal, "materials/{}")


def inside(entries: list[Entry], at: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries if entry.inside == at.id}


async def seen(ground: PortalGround) -> dict[str, list[str]]:
    """Return the names of files by the name of their directory."""
    entries = await scan(ground.backend, ground.listed)
    names = {entry.id: entry.name for entry in entries if entry.is_dir}
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    for entry in entries:
        if not entry.is_dir:
            found[names[str(entry.inside)]].append(entry.name)
    return found


async def agreement(ground: PortalGround, service: Service, count: int = 2, **fields: Any) -> tuple[int, list[int]]:
    """Make an agreement of the organization and materials that use it."""
    number = ground.team.put("MTA.pdf", b"the agreement", **fields)
    titles = [f"Line {index}" for index in range(count)]
    return number, [service.material(ground.team.number, title, number) for title in titles]


async def entry_of(ground: PortalGround, number: int, directory: str = "_attachments") -> Entry:
    entries = await scan(ground.backend, ground.listed)
    (at,) = [entry.id for entry in entries if entry.is_dir and entry.name == directory]
    return next(entry for entry in entries if entry.id == f"attachments/{number}" and entry.inside == at)


async def test_one_answer_tells_an_organization(ground: PortalGround, service: Service, sandbox: Sandbox) -> None:
    ground.put("map", b"x")
    ground.team.put("rules", b"x")
    await ground.backend.check()
    sandbox.reset()
    found = await seen(ground)
    assert found == {"_attachments": ["rules"], "Material": ["map"]}
    assert dict(sandbox.requests()) == {"GET /v1/organizations/": 1, "GET /v1/organizations/{id}/": 1}
    sandbox.reset()
    assert await seen(ground) == found
    assert dict(sandbox.requests()) == {"GET /v1/organizations/{id}/": 1}, "it is known to be small"


async def test_a_size_costs_one_request_and_so_do_the_bytes(ground: PortalGround, sandbox: Sandbox) -> None:
    ground.put("map", noise(1000))
    (entry,) = [e for e in await scan(ground.backend, ground.listed) if not e.is_dir]
    sandbox.reset()
    assert await ground.backend.measure(entry) == 1000
    assert await fetched(ground.backend.content(entry), 0, 1000) == noise(1000)
    await trio.sleep(0.2)  # an answer is counted a moment after it is sent
    assert sum(sandbox.requests().values()) == 2


async def test_an_agreement_shows_at_home_and_as_a_link_in_its_materials(
    ground: PortalGround, service: Service
) -> None:
    number, _ = await agreement(ground, service)
    assert await seen(ground) == {"_attachments": ["MTA.pdf"], "Material": [], "Line 0": ["MTA.pdf"],
                                  "Line 1": ["MTA.pdf"]}  # fmt: skip
    links = [await entry_of(ground, number, name) for name in ("Line 0", "Line 1")]
    for link in links:
        assert "agreement" in str(link.read_only)
        assert await poured(ground, link) == b"the agreement"
        for refused in (
            ground.backend.delete(link),
            ground.backend.rename(link, Target(ground.record, (), "x")),
            ground.backend.upload(Target(ground.record, (), "x", link), Bytes(b"x")),
        ):
            with pytest.raises(NotPermitted):
                await refused
    assert (await entry_of(ground, number)).read_only is None


async def test_a_map_that_is_its_own_materials_agreement_shows_once(ground: PortalGround, service: Service) -> None:
    number = int(ground.put("both", b"x"))
    service.agree(ground.team.material, number)
    other = service.material(ground.team.number, "Other", number)
    assert await seen(ground) == {"_attachments": [], "Material": ["both"], "Other": ["both"]}
    assert (await entry_of(ground, number, "Material")).read_only is None
    assert other


async def test_a_deleted_agreement_is_not_shown_although_its_materials_show_it(
    ground: PortalGround, service: Service
) -> None:
    number, (first, _) = await agreement(ground, service)
    service.delete(number)
    ghost = service.get(f"materials/{first}/")["mta_attachment"]
    assert (ghost["id"], bool(ghost["download_url"])) == (number, True)
    assert await seen(ground) == {"_attachments": [], "Material": [], "Line 0": [], "Line 1": []}


@pytest.mark.parametrize("who", ["token", "other_token"])
async def test_an_agreement_that_a_person_owns_shows_until_it_is_deleted(
    who: str, ground: PortalGround, service: Service
) -> None:
    number = service.put("own.pdf", b"theirs", who)
    material = service.material(ground.team.number, "Line", number)
    link = await entry_of(ground, number, "Line")
    assert link.read_only
    assert await poured(ground, link) == b"theirs"
    fresh = build(service, "token")
    try:
        assert await fresh.measure(link) == len(b"theirs"), "also from a row that only its material shows"
        assert (await fresh.describe(link))["id"] == number
    finally:
        await fresh.aclose()
    service.delete(number, who)
    assert (await seen(ground))["Line"] == []
    assert material


async def test_deleting_an_agreement_takes_it_from_its_materials(ground: PortalGround, service: Service) -> None:
    number, materials = await agreement(ground, service)
    await ground.backend.delete(await entry_of(ground, number))
    assert [service.agreement(material) for material in materials] == [None, None]
    assert ground.team.rows() == []


async def test_an_agreement_that_cannot_be_taken_from_a_material_stays_whole(
    ground: PortalGround, service: Service
) -> None:
    number, materials = await agreement(ground, service)
    elsewhere = service.material(service.new_team(BEN).number, "Not ours", number)
    with pytest.raises(Denied):
        await ground.backend.delete(await entry_of(ground, number))
    assert [service.agreement(material) for material in (*materials, elsewhere)] == [number] * 3
    assert [row["id"] for row in ground.team.rows()] == [number]


async def test_saving_over_a_file_keeps_its_description_and_all_that_points_at_it(
    ground: PortalGround, service: Service
) -> None:
    number, materials = await agreement(ground, service, description="Signed in May")
    request = service._insert(
        "requests", material=materials[0], requester=BEN, assigned=ADA, status="OPEN", abstract="", executed=number
    )
    old = await entry_of(ground, number)
    home = await ground.backend.stat(f"organizations/{ground.team.number}/attachments")
    new = await ground.backend.upload(Target(home, (), "MTA.pdf", old), Bytes(b"a newer agreement"))
    before, row = ground.team.rows()
    assert (before["id"], before["data"]) == (number, b"the agreement"), "the core deletes it"
    assert (row["id"], row["description"], row["data"]) == (int(new.label), "Signed in May", b"a newer agreement")
    assert row["id"] != number
    assert [service.agreement(material) for material in materials] == [row["id"]] * 2
    assert service.get(f"material-requests/{request}/")["executed_mta_attachment"]["id"] == row["id"]


async def test_saving_over_what_somebody_else_deleted_saves(ground: PortalGround, service: Service) -> None:
    old = await entry_of(ground, int(ground.put("f", b"old")), "Material")
    service.delete(int(old.label))
    await ground.backend.upload(Target(ground.record, (), "f", old), Bytes(b"new"))
    assert ground.stored() == {"f": b"new"}


@pytest.mark.parametrize(
    ("method", "route", "action", "argument"),
    [
        ("PATCH", "/v1/attachments/*", "status", 403),
        ("GET", "/*/attachment_*", "status", 404),
        ("GET", "/*/attachment_*", "status", 416),  # which says: no bytes
    ],
)
async def test_a_save_that_fails_half_way_leaves_the_old_file_and_no_other(
    method: str, route: str, action: str, argument: int, ground: PortalGround, service: Service, sandbox: Sandbox
) -> None:
    number, materials = await agreement(ground, service)
    old = await entry_of(ground, number)
    home = await ground.backend.stat(f"organizations/{ground.team.number}/attachments")
    service_name = "blobs" if method == "GET" else "portal"
    sandbox.faults({"service": service_name, "method": method, "route": route, "action": action, "argument": argument})
    with pytest.raises(LabfsError):
        await ground.backend.upload(Target(home, (), "MTA.pdf", old), Bytes(b"new"))
    assert [row["id"] for row in ground.team.rows()] == [number]
    assert [service.agreement(material) for material in materials] == [number] * 2


@pytest.mark.parametrize(
    "fault",
    [{"action": "cut", "argument": 5}, {"action": "reset"}, {"action": "status", "argument": 500},
     {"action": "status", "argument": 504}, {"action": "html"}, {"action": "short", "argument": 3}],
    ids=lambda fault: f"{fault['action']}{fault.get('argument', '')}",
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a body that was broken off
@pytest.mark.parametrize("mode", ["s3", "local"])
async def test_a_lost_answer_to_an_upload_makes_no_second_file(
    mode: str, fault: dict[str, Any], ground: PortalGround, service: Service, sandbox: Sandbox
) -> None:
    service.switch(mode=mode, newline_in_local_url="quote")
    ground.put("f", noise(100, 1))  # of the same name and size, and yet another
    sandbox.faults({"service": "portal", "method": "POST", "route": "/v1/attachments/*", "times": 1, **fault})
    entry = await ground.backend.upload(Target(ground.record, (), "f"), Bytes(noise(100, 2)))
    found = ground.team.rows()
    assert [row["data"] for row in found] == [noise(100, 1), noise(100, 2)]
    assert str(found[1]["id"]) == entry.label


async def test_an_upload_that_is_never_answered_is_an_error(ground: PortalGround, sandbox: Sandbox) -> None:
    sandbox.faults({"service": "portal", "method": "POST", "route": "/v1/attachments/*", "action": "status",
                    "argument": 502, "times": 9})  # fmt: skip
    with pytest.raises(Unavailable):
        await ground.backend.upload(Target(ground.record, (), "f"), Bytes(b"x"))


async def test_what_the_proxy_refuses_is_learnt(ground: PortalGround, service: Service, sandbox: Sandbox) -> None:
    service.switch(body_limit=MIB)
    with pytest.raises(TooLarge, match=r"takes less than 2,0\d\d,\d\d\d bytes at a time"):
        await ground.backend.upload(Target(ground.record, (), "f"), Bytes(noise(2 * MIB)))
    await ground.backend.upload(Target(ground.record, (), "small"), Bytes(noise(MIB // 2)))
    sandbox.reset()
    with pytest.raises(TooLarge):
        await ground.backend.upload(Target(ground.record, (), "f"), Bytes(noise(2 * MIB)))
    await trio.sleep(0.2)
    assert not [key for key in sandbox.requests() if key.startswith("POST")]
    assert set(ground.stored()) == {"small"}


async def test_more_than_the_programs_own_limit_is_refused_before_a_byte(ground: PortalGround) -> None:
    class Huge(Bytes):
        size = 1_000_000_001

    with pytest.raises(TooLarge):
        await ground.backend.upload(Target(ground.record, (), "f"), Huge(b""))


async def test_names_and_places_change_and_bytes_do_not(ground: PortalGround, service: Service) -> None:
    other = service.new_team(ADA)
    number = int(ground.put("f", noise(50)))
    entry = await entry_of(ground, number, "Material")
    places = [
        (f"organizations/{ground.team.number}/attachments", "f", (ground.team.number, None)),
        (f"organizations/{other.number}/materials/{other.material}", "g", (other.number, other.material)),
        ("mine", "g", (None, None)),
        (ground.record.id, "f", (ground.team.number, ground.team.material)),
    ]
    for place, name, owners in places:
        entry = await ground.backend.rename(entry, Target(await ground.backend.stat(place), (), name))
        (row,) = service.rows("id = ?", number)
        assert (row["filename"], (row["organization"], row["material"])) == (name, owners)
        assert await ground.backend.stat(entry.id) == entry
        assert await poured(ground, entry) == noise(50)


async def test_a_file_moved_onto_another_takes_its_links(ground: PortalGround, service: Service) -> None:
    number, materials = await agreement(ground, service)
    old = await entry_of(ground, number)
    draft = await entry_of(ground, ground.team.put("draft.pdf", b"newer"))
    home = await ground.backend.stat(f"organizations/{ground.team.number}/attachments")
    renamed = await ground.backend.rename(draft, Target(home, (), "MTA.pdf", old))
    await ground.backend.delete(old)
    assert [(row["filename"], row["data"]) for row in ground.team.rows()] == [("MTA.pdf", b"newer")]
    assert [service.agreement(material) for material in materials] == [int(renamed.label)] * 2


async def test_a_name_does_not_change_on_the_servers_own_disk(ground: PortalGround, service: Service) -> None:
    service.switch(mode="local", newline_in_local_url="quote")
    number = int(ground.put("f", noise(50)))
    entry = await entry_of(ground, number, "Material")
    with pytest.raises(CrossDevice):
        await ground.backend.rename(entry, Target(ground.record, (), "g"))
    home = await ground.backend.stat(f"organizations/{ground.team.number}/attachments")
    moved = await ground.backend.rename(entry, Target(home, (), "f"))
    assert await poured(ground, moved) == noise(50)


@pytest.mark.parametrize("name", ["a&amp;b", 'quo"te', "back\\slash", "two\nlines", "a/b"])
@pytest.mark.parametrize("known", [True, False])
async def test_a_name_that_the_servers_own_disk_would_lose_is_refused(
    known: bool, name: str, ground: PortalGround, service: Service
) -> None:
    service.switch(mode="local", newline_in_local_url="quote")
    if known:
        ground.put("f", b"x")
        await seen(ground)
    with pytest.raises(Invalid):
        await ground.backend.upload(Target(ground.record, (), name), Bytes(b"x"))
    assert set(ground.stored()) <= {"f"}


async def test_bytes_that_are_not_there(ground: PortalGround, service: Service) -> None:
    gone, lost = ground.put("gone", b"x"), ground.put("lost", b"x")
    with service.store() as db:
        db.execute("UPDATE portal_attachments SET s3_deleted = 1 WHERE id = ?", (int(gone),))
        db.execute("UPDATE portal_attachments SET object = NULL WHERE id = ?", (int(lost),))
    assert "no bytes" in str((await entry_of(ground, int(gone), "Material")).unreadable)
    for status in (404, 403):
        service.switch(missing_object_status=status)
        entry = await entry_of(ground, int(lost), "Material")
        assert await ground.backend.measure(entry) is None
        with pytest.raises(Malformed):
            await ground.backend.content(entry).pour(Basket())


async def test_a_file_renamed_on_the_servers_own_disk_has_no_size_and_no_bytes(service: Service) -> None:
    service.switch(mode="local", newline_in_local_url="quote")
    portal = KINDS["portal"].build(
        Settings(name="portal", url=service.url, secrets={"token": lambda: service.known["token"]},
                 options={"organizations": "mine", "user_id": ""}, timeout_s=0.5)
    )  # fmt: skip
    try:
        ground = await ground_of(service, portal, "materials/{}")
        number = int(ground.put("f", b"x"))
        service.ask("PATCH", f"attachments/{number}/", data={"filename": "g"})
        entry = await entry_of(ground, number, "Material")
        assert await portal.measure(entry) is None
        with pytest.raises(Malformed, match="lost the bytes"):
            await portal.content(entry).pour(Basket())
    finally:
        await portal.aclose()


async def test_without_ranges_a_read_says_so(ground: PortalGround, service: Service) -> None:
    service.switch(mode="local", newline_in_local_url="quote")
    assert ground.backend.capabilities.ranged
    entry = await entry_of(ground, int(ground.put("f", noise(50))), "Material")
    assert not ground.backend.capabilities.ranged
    with pytest.raises(Unranged):
        await fetched(ground.backend.content(entry), 0, 10)


async def test_an_address_that_has_expired_is_asked_for_again(
    ground: PortalGround, service: Service, sandbox: Sandbox
) -> None:
    service.switch(url_life_s=1.0)
    entry = await entry_of(ground, int(ground.put("f", noise(50))), "Material")
    content = ground.backend.content(entry)
    await content.prepare()
    await trio.sleep(2.1)
    assert await fetched(content, 0, 50) == noise(50)
    await trio.sleep(2.1)  # also for the counts of what was sent last
    sandbox.reset()
    assert await ground.backend.measure(entry) == 50
    await trio.sleep(0.2)
    assert dict(sandbox.requests()) == {"GET /v1/attachments/{id}/": 1, "GET /{blob}": 1}


async def test_our_own_files_without_an_organization(ground: PortalGround, service: Service) -> None:
    mine = await ground.backend.stat("mine")
    entry = await ground.backend.upload(Target(mine, (), "note"), Bytes(b"x"))
    found = await scan(ground.backend, mine)
    assert entry in [replace(each, size=1) for each in found]
    assert "map" not in [each.name for each in found]
    await ground.backend.delete(entry)
    assert service.rows("id = ? AND NOT removed", int(entry.label)) == []


async def test_files_that_are_told_one_by_one_are_those_that_are_told_together(
    ground: PortalGround, service: Service, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await agreement(ground, service)
    for index in range(5):
        ground.put(f"map {index}", b"x")
        ground.team.put(f"loose {index}", b"x")
    mine = service.put("mine.pdf", b"an agreement of nobody's here")
    service.material(ground.team.number, "Foreign", mine)
    doomed = ground.team.put("deleted later", b"x")

    async def found() -> list[Entry]:
        return sorted(await scan(ground.backend, ground.listed), key=lambda entry: (entry.id, entry.inside or ""))

    together = await found()
    assert f"attachments/{mine}" in [entry.id for entry in together]
    for name, value in {"FEW": 0, "TOGETHER_S": -1.0, "PAGE": 3}.items():
        monkeypatch.setattr(lists, name, value)
    portal = build(service)
    monkeypatch.setattr(ground, "backend", portal)
    try:
        sandbox.reset()
        assert await found() == together
        assert sandbox.requests()["GET /v1/organizations/{id}/"] == 0
        first = await portal.page(ground.listed, None)
        assert [entry.is_dir for entry in first.entries] == [True] * len(first.entries), "directories come first"
        service.delete(doomed)
        left, cursor = [], first.cursor
        while cursor is not None:
            page = await portal.page(ground.listed, cursor)
            left, cursor = [*left, *page.entries], page.cursor
        assert {entry.id for entry in together} - {entry.id for entry in (*first.entries, *left)} == {
            f"attachments/{doomed}"
        }
        sandbox.faults({"service": "portal", "method": "GET", "route": "/v1/attachments/*", "action": "status",
                        "argument": 401, "times": None})  # fmt: skip
        with pytest.raises(Denied):
            await found()
    finally:
        sandbox.faults()
        await portal.aclose()


async def test_who_we_are_costs_no_files(service: Service, sandbox: Sandbox) -> None:
    """Whoever it is, and whatever he owns: `users/` would take 20 s for each of its rows."""
    service.switch(row_s=20.0)
    service.new_team(ADA, BEN)
    names = {"token": "Ada Lab", "other_token": "Ben Bench", "staff_token": "Sam Staff"}
    for who, name in names.items():
        for user in ("", service.known["user_id"]) if who == "token" else ("",):
            portal = build(service, who, user_id=user)
            sandbox.reset()
            assert await portal.check() == name
            assert await portal.check() == name
            assert not {"GET /v1/users/", "GET /v1/users/{id}/"} & set(sandbox.requests())
            assert sandbox.requests()["GET /v1/organizations/{id}/members/"] <= (1 if user else 12)
            await portal.aclose()


async def test_a_caller_whom_no_organization_tells_is_looked_for_among_the_users(
    service: Service, sandbox: Sandbox
) -> None:
    with service.store() as db:
        alone = db.execute("SELECT * FROM portal_members WHERE user = ?", (BEN,)).fetchall()
        db.execute("DELETE FROM portal_members WHERE user = ?", (BEN,))
    portal = build(service, "other_token")
    try:
        sandbox.reset()
        assert await portal.check() == BEN
        assert sandbox.requests()["GET /v1/users/"] > 1, "one by one, since each costs what he owns"
    finally:
        with service.store() as db:
            db.executemany("INSERT INTO portal_members VALUES (?, ?)", [tuple(row) for row in alone])
        await portal.aclose()


@pytest.mark.parametrize("user", [BEN, "nobody", "../organizations"])
async def test_an_id_that_is_not_ours_is_found_out(user: str, service: Service) -> None:
    portal = build(service, user_id=user)
    with pytest.raises(Denied, match="user_id"):
        await portal.check()
    await portal.aclose()


@pytest.mark.parametrize("who", ["inactive_token", "user_id"])
async def test_a_token_that_is_no_good_is_denied(who: str, service: Service) -> None:
    portal = build(service, who)
    with pytest.raises(Denied) as caught:
        await portal.check()
    assert service.known[who] not in str(caught.value)
    await portal.aclose()


async def test_other_peoples_organizations_can_be_read_and_not_changed(service: Service) -> None:
    team = service.new_team(BEN)
    team.put("theirs", noise(50), team.material, "other_token")
    portal = build(service, organizations="all")
    try:
        ground = await ground_of(service, portal, "materials/{}")
        assert f"organizations/{team.number}" in [entry.id for entry in await scan(portal, portal.root)]
        listed = await portal.stat(f"organizations/{team.number}")
        found = await scan(portal, listed)
        (entry,) = [each for each in found if not each.is_dir]
        assert all(each.read_only for each in (*found, entry))
        assert await portal.measure(entry) == 50
        portal._addresses._known.clear()
        assert await poured(ground, entry) == noise(50), "although its own row is for members only"
        (record,) = [each for each in found if each.id.endswith(f"/{team.material}")]
        with pytest.raises(ReadOnly):
            await portal.upload(Target(record, (), "planted"), Bytes(b"x"))
        with pytest.raises(NotPermitted):
            await portal.delete(entry)
        assert len(team.rows()) == 1
    finally:
        await portal.aclose()


async def test_descriptions_hold_no_addresses(ground: PortalGround, service: Service) -> None:
    number = int(ground.put("f", b"x"))
    entry = await entry_of(ground, number, "Material")
    for each in (ground.backend.root, await ground.backend.stat("mine"), ground.listed, ground.record, entry):
        text = json.dumps(await ground.backend.describe(each))
        assert len(text) > 100
        assert "download_url" not in text
        assert "X-Amz" not in text


async def test_the_odd_names_of_the_seed(service: Service, portal: Portal) -> None:
    root = await scan(portal, portal.root)
    (team,) = [entry for entry in root if entry.name.startswith("../Odd")]
    found = await scan(portal, team)
    files = [entry for entry in found if not entry.is_dir]
    assert len(files) == 16
    for entry in files:
        name = None if entry.name.startswith("attachment_") else entry.name
        if set(entry.name.split("/")) & {".", ".."}:
            assert "no program can ask" in str(entry.unreadable)
            continue
        basket = Basket()
        await portal.content(entry).pour(basket)
        assert bytes(basket.data) == f"content of {name!r}\n".encode()


# -- answers of a service that has gone mad --------------------------------------------------------------

ROW = {"id": 1, "filename": "f", "download_url": "http://127.0.0.1:9/f?x=1", "created_at": "2026-11-21T19:21:23Z",
       "sequence_map_for": 2, "mta_materials": [], "owned_by_org": 3, "owned_by_user": ADA}  # fmt: skip
TEAM = {"id": 3, "name": "Team", "owner": {"id": ADA}, "members": [{"id": ADA}], "attachments": [ROW],
        "materials": [{"id": 2, "title": "Material", "needs_mta": False}]}  # fmt: skip
NONSENSE: list[Any] = [None, True, -1, 0, 1 << 63, 1e400, "", "x", "../..", [], {}, [[]], [{}], {"id": {}}, {"id": []},
                       {"id": "1"}, "\ud800", "9" * 5000]  # fmt: skip


def mad(answer: Any) -> Portal:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/v1/materials"):
            return httpx.Response(200, json={"count": 1, "results": [{"id": 2, "mta_attachment": answer}]})
        return httpx.Response(200, content=json.dumps(answer))

    client = Client("portal", "https://portal.example", dict, timeout_s=0.2, transport=httpx.MockTransport(handle))
    portal = Portal(client, False, ADA)
    portal.looking.long_s = portal.looking.brief_s = (0.0,)
    return portal


def spoilt(value: Any, nonsense: Any) -> list[Any]:
    """Return copies of a value, in each of which one thing is nonsense."""
    found = [nonsense]
    if isinstance(value, dict):
        found += [{**value, key: each} for key in value for each in spoilt(value[key], nonsense)]
        found += [{other: each for other, each in value.items() if other != key} for key in value]
    if isinstance(value, list) and value:
        found += [[each, *value[1:]] for each in spoilt(value[0], nonsense)]
    return found


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda value: repr(value)[:12])
async def test_nonsense_is_an_error_of_ours_or_left_out(nonsense: Any) -> None:
    record = Entry(id="organizations/3", name="Team", is_dir=True)
    file = Entry(id="attachments/1", name="f", is_dir=False, inside="organizations/3/materials/2")
    material = Entry(id="organizations/3/materials/2", name="Material", is_dir=True)
    pages = {"count": 1, "results": [{"id": 3, "name": "Team", "owner": ADA, "members": [ADA]}]}
    own = {"id": ADA, "owned_attachments": [ROW], "full_name": "Ada"}
    detail = {**ROW, "owned_by_org": {"id": 3, "members": [ADA]}, "sequence_map_for": {"id": 2, "organization": 3}}
    for answer in (
        *spoilt(TEAM, nonsense),
        *spoilt(pages, nonsense),
        *spoilt(own, nonsense),
        *spoilt(detail, nonsense),
    ):
        portal = mad(answer)
        for act in (
            lambda portal=portal: portal.page(portal.root, "0"),
            lambda portal=portal: portal.page(record, "1/all"),
            lambda portal=portal: portal.page(record, None),
            lambda portal=portal: portal.page(Entry(id="mine", name="_mine", is_dir=True), None),
            lambda portal=portal: portal.stat("organizations/3"),
            lambda portal=portal: portal.stat(material.id),
            lambda portal=portal: portal.stat("attachments/1"),
            lambda portal=portal: portal.describe(record),
            lambda portal=portal: portal.rename(file, Target(material, (), "g")),
            lambda portal=portal: portal.delete(replace(file, label="1")),
        ):
            with contextlib.suppress(LabfsError):
                await act()
        await portal.aclose()


async def test_one_bad_row_hides_no_other() -> None:
    bad = [{**ROW, "id": 10 + index, "filename": each} for index, each in enumerate(NONSENSE)]
    bad += [{**ROW, "id": each} for each in NONSENSE]
    portal = mad({**TEAM, "attachments": [*NONSENSE, *bad, ROW]})
    page = await portal.page(Entry(id="organizations/3", name="Team", is_dir=True), "1/all")
    assert "attachments/1" in [entry.id for entry in page.entries]
    assert all(re.fullmatch("organizations/3/.*|attachments/[1-9][0-9]*", entry.id) for entry in page.entries)
    assert page.left_out >= len(NONSENSE)
    await portal.aclose()


async def test_what_is_no_id_of_ours_is_not_found(portal: Portal) -> None:
    for entry_id in ("nonsense", "organizations/x", "organizations/3/materials/x", "attachments/../users", "users/1",
                     "organizations/1/materials/999999", "attachments/٣"):  # fmt: skip
        with pytest.raises(NotFound):
            await portal.stat(entry_id)


async def test_a_map_of_another_organizations_material_stays_one_when_it_is_saved_over(
    ground: PortalGround, service: Service
) -> None:
    elsewhere = service.new_team(BEN).material
    number = ground.team.put("map", b"old", elsewhere)
    home = await ground.backend.stat(f"organizations/{ground.team.number}/attachments")
    await ground.backend.upload(Target(home, (), "map", await entry_of(ground, number)), Bytes(b"new"))
    rows = [(row["material"], row["data"]) for row in ground.team.rows()]
    assert rows == [(elsewhere, b"old"), (elsewhere, b"new")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_upload_that_is_stored_after_we_gave_up_waiting_is_found(service: Service, sandbox: Sandbox) -> None:
    portal = KINDS["portal"].build(
        Settings(name="portal", url=service.url, secrets={"token": lambda: service.known["token"]},
                 options={"organizations": "mine", "user_id": ""}, timeout_s=0.5)
    )  # fmt: skip
    try:
        ground = await ground_of(service, portal, "materials/{}")
        sandbox.faults({"service": "portal", "method": "POST", "route": "/v1/attachments/*", "action": "delay_s",
                        "argument": 2.0})  # fmt: skip
        entry = await portal.upload(Target(ground.record, (), "f"), Bytes(noise(1000)))
        assert [(str(row["id"]), row["data"]) for row in ground.team.rows()] == [(entry.label, noise(1000))]
    finally:
        await portal.aclose()


def test_an_option_that_is_any_text_is_a_text(tmp_path: Path) -> None:
    def load(value: str) -> config.SiteSettings:
        path = tmp_path / "labfs.toml"
        path.write_text(f'[sites.p]\nkind = "portal"\nurl = "https://p.example"\ntoken = "t"\n{value}')
        path.chmod(0o600)
        return config.load(path).sites[0]

    assert load("").options == {"organizations": "mine", "user_id": ""}
    assert load(f'user_id = "{ADA}"').options["user_id"] == ADA
    for wrong in ("user_id = 7", 'organizations = "some"'):
        with pytest.raises(ConfigError):
            load(wrong)
