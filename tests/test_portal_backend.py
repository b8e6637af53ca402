"""The contract suite over the Portal's backend, in both ways to run the service, and its own oddities."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import trio
from contract import Basket, Bytes, Contract, noise, poured
from portal_stage import ADA, BEN, Service, Team, opened
from stage import Sandbox

from labfs.backend import Backend, Entry, Settings, Target, scan
from labfs.backends import KINDS
from labfs.backends.portal import Portal
from labfs.client import Client
from labfs.errors import (
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

MIB = 1024 * 1024


def build(service: Service, who: str = "token", url: str | None = None, **options: str) -> Portal:
    backend = KINDS["portal"].build(
        Settings(
            name="portal", url=url or service.url, secrets={"token": lambda: service.known[who]},
            options={"organizations": "mine", "user_id": "", **options}, timeout_s=8.0,
        )
    )  # fmt: skip
    assert isinstance(backend, Portal)
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
        service.switch(mode=mode)
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
