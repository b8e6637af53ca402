"""The contract suite over REDCap's fields and its repository, and the oddities of both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
from contract import Contract, hurried
from redcap_stage import Redcap as Service
from redcap_stage import opened
from stage import Sandbox

from labfs.backend import Entry, Page
from labfs.backends.redcap.backend import CAPABILITIES, Redcap
from labfs.backends.redcap.entries import mint
from labfs.backends.redcap.wire import Secret, explain, site_url
from labfs.http.client import Client


def build(service: Service, **tokens: str) -> Redcap:
    """Make a backend of these aliases, at any pace: a whole suite is more than people do."""
    usual = {alias: token for alias, token in service.tokens.items() if "/" not in alias}
    secrets: dict[str, Secret] = {alias: partial(str, token) for alias, token in (tokens or usual).items()}
    client = Client(
        "redcap", site_url(service.url), dict, connections=CAPABILITIES.connections,
        explain=partial(explain, tuple(secrets.values())),
    )  # fmt: skip
    backend: Redcap = hurried(Redcap(client, secrets))
    return backend


async def page(backend: Redcap, alias: str) -> Page:
    (project,) = [e for e in (await backend.page(backend.root, None)).entries if e.name == alias]
    found = await backend.page(project, None)
    while found.cursor is not None:
        more = await backend.page(project, found.cursor)
        found = Page((*found.entries, *more.entries), more.cursor, None, found.left_out + more.left_out)
    return found


async def field_of(backend: Redcap, alias: str, record: str, name: str) -> Entry:
    """Find a field's directory in a project without events and repeats."""
    found = (await page(backend, alias)).entries
    (top,) = [e for e in found if e.is_dir and e.complete and e.inside is None and e.name == record]
    (field,) = [e for e in found if e.inside == top.id and e.name == name]
    return field


class FieldGround:
    home = ()

    def __init__(self, service: Service, backend: Redcap, listed: Entry, record: Entry, name: str) -> None:
        self.backend = backend
        self.listed = listed
        self.record = record
        self._service = service
        self.name = name  # of the record

    def put(self, path: str, data: bytes) -> str:
        answer = self._service.put("biobank", path, data, record=self.name, field="counts")
        assert (answer.status_code, answer.content) == (200, b"")
        sql = "SELECT value FROM redcap_values WHERE record = ? AND field = 'counts'"
        (row,) = self._service.rows(sql, self.name)
        return str(row["value"])

    def stored(self) -> dict[str, bytes]:
        return dict(self._service.stored(self.name).values())

    def uploads(self) -> int:
        return len(self.stored())


class ShelfGround:
    home = ()

    def __init__(self, service: Service, backend: Redcap, record: Entry) -> None:
        self.backend = backend
        self.listed = self.record = record
        self._service = service

    def put(self, path: str, data: bytes) -> str:
        files = {"file": (path, data)}
        answer = self._service.post(
            "biobank", files, content="fileRepository", action="import", folder_id=self.record.label
        )
        assert (answer.status_code, answer.content) == (200, b"")
        return str(self._service.rows("SELECT max(document) AS id FROM redcap_repository")[0]["id"])

    def stored(self) -> dict[str, bytes]:
        return dict(self._service.shelved(int(self.record.label)))

    def uploads(self) -> int:
        return len(self._service.shelved(int(self.record.label)))


@pytest.fixture
def service(sandbox: Sandbox) -> Iterator[Service]:
    with opened(sandbox) as service:
        yield service


@pytest.fixture
async def backend(service: Service) -> AsyncIterator[Redcap]:
    backend = build(service)
    yield backend
    await backend.aclose()


class TestField(Contract):
    """A field of a record holds one file, which is replaced in place."""

    @pytest.fixture
    async def ground(self, service: Service, backend: Redcap) -> AsyncIterator[FieldGround]:
        name = service.record()
        (listed,) = [e for e in (await backend.page(backend.root, None)).entries if e.name == "biobank"]
        yield FieldGround(service, backend, listed, await field_of(backend, "biobank", name, "counts"), name)
        service.post("biobank", content="record", action="delete", records=[name])


class TestShelf(Contract):
    """A folder of the repository holds any number of files, whose names need not differ."""

    @pytest.fixture
    async def ground(self, service: Service, backend: Redcap) -> ShelfGround:
        number = service.ask("biobank", "fileRepository", action="createFolder", name="Ground")[0]["folder_id"]
        return ShelfGround(service, backend, await backend.stat(mint("folder", "biobank", 0, number)))
