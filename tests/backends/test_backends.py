"""The contract suite over every backend, each against its half of the sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from contract import Contract, held, poured, whole
from odm_stage import EMPTY, Service
from stage import Folder, Sandbox

from labfs.backend import Backend, Entry
from labfs.backends import KINDS
from labfs.backends.common import Settings
from labfs.errors import Unavailable
from labfs.tree.scan import scan


class BaseSpaceGround:
    home = ("a", "b")

    def __init__(self, backend: Backend, record: Entry, folder: Folder) -> None:
        self.backend = backend
        self.record = self.listed = record
        self._folder = folder

    def put(self, path: str, data: bytes) -> str:
        return self._folder.put("/".join((*self.home, path)), data)

    def stored(self) -> dict[str, bytes]:
        return self._folder.stored

    def uploads(self) -> int:
        return len(self._folder.paths)


@pytest.fixture(params=["appresults", "datasets"])
async def hub(request: pytest.FixtureRequest, sandbox: Sandbox) -> AsyncIterator[BaseSpaceGround]:
    folder = sandbox.fresh(request.param)
    backend = KINDS["basespace"].build(
        Settings(name="hub", url=sandbox.url, secrets={"token": lambda: sandbox.token}, options={}, timeout_s=8.0)
    )
    try:
        yield BaseSpaceGround(backend, await backend.stat(f"{request.param}/{folder.record}"), folder)
    finally:
        await backend.aclose()


class TestBaseSpace(Contract):
    """And its own oddities."""

    @pytest.fixture
    def ground(self, hub: BaseSpaceGround) -> BaseSpaceGround:
        return hub

    async def test_an_order_that_is_ignored_is_found_out(self, ground: BaseSpaceGround, sandbox: Sandbox) -> None:
        for index in range(5):
            ground.put(f"f{index}", b"x")
        sandbox.switch(sort_ignored=True, short_pages=2)
        assert len(await scan(ground.backend, ground.record)) == 5

    async def test_both_created_statuses_are_taken(self, ground: BaseSpaceGround, sandbox: Sandbox) -> None:
        sandbox.switch(created_status=200)
        made = await ground.backend.make(ground.backend.root, f"Made with 200 {id(ground)}")
        assert made.is_dir

    async def test_the_token_stays_with_the_service(self, ground: BaseSpaceGround, sandbox: Sandbox) -> None:
        """A store of bytes that minds no token says nothing of one that was sent along; this one refuses it."""
        sandbox.switch(blob_tokens="refuse")
        ground.put("f", b"bytes")
        (entry,) = await held(ground)
        assert (await whole(ground, entry), await poured(ground, entry)) == (b"bytes", b"bytes")

    async def test_a_list_that_keeps_changing_is_an_error_and_not_a_short_list(
        self, ground: BaseSpaceGround, sandbox: Sandbox
    ) -> None:
        class Shifting:
            """A backend whose list always claims one more than it shows."""

            async def page(self, parent: Entry, cursor: str | None) -> object:
                page = await ground.backend.page(parent, cursor)
                return type(page)(page.entries, page.cursor, (page.total or 0) + 1)

        with pytest.raises(Unavailable, match="kept changing"):
            await scan(Shifting(), ground.record)  # type: ignore[arg-type]


class TestBaseSpaceWithManagedKeys(Contract):
    """A store whose tags look like checksums and are none."""

    @pytest.fixture
    def ground(self, hub: BaseSpaceGround, sandbox: Sandbox) -> Iterator[BaseSpaceGround]:
        sandbox.switch(kms="silent")
        yield hub
        sandbox.switch(kms=False)


class OdmGround:
    home = ("Document",)

    def __init__(self, backend: Backend, record: Entry, service: Service) -> None:
        self.backend = backend
        self.record = self.listed = record
        self._service = service

    def put(self, path: str, data: bytes) -> str:
        return self._service.put(self.record.label, path, data)

    def _rows(self) -> list[dict[str, Any]]:
        return self._service.attached(self.record.label)

    def stored(self) -> dict[str, bytes]:
        return {f"{row['data_class']}/{row['name']}": row["data"] for row in self._rows()}

    def uploads(self) -> int:
        return len(self._rows())


@pytest.fixture
async def odm(sandbox: Sandbox) -> AsyncIterator[OdmGround]:
    service = Service(sandbox)
    service.switch(job_s=0.0, index_lag_s=0.0, removal_s=0.0)
    settings = Settings(
        name="odm", url=service.url, secrets={"token": lambda: service.tokens["token"]},
        options={"audience": "as-curator", "sign_in": "token"}, timeout_s=8.0,
    )  # fmt: skip
    backend = KINDS["odm"].build(settings)
    study = await backend.stat(f"studies/{EMPTY}")
    try:
        yield OdmGround(backend, study, service)
        for entry in await scan(backend, study):
            await backend.delete(entry)
    finally:
        service.close()
        await backend.aclose()


class TestOdm(Contract):
    """And its own oddities."""

    @pytest.fixture
    def ground(self, odm: OdmGround) -> OdmGround:
        return odm
