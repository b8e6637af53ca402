"""The Clarity backend: the contract suite in each place that takes files, and the system's oddities."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from clarity_stage import PROJECT, SAMPLE, STEP, Clarity
from contract import Contract
from stage import Sandbox

from labfs.backend import Backend, Entry, Settings
from labfs.backends import KINDS


@pytest.fixture
def clarity(sandbox: Sandbox) -> Iterator[Clarity]:
    with Clarity(sandbox) as made:
        yield made


def opened(clarity: Clarity, **changes: str) -> Backend:
    known = {**clarity.credentials, "url": clarity.url, **changes}
    settings = Settings(
        name="lims", url=known["url"], options={}, timeout_s=4.0,
        secrets={key: (lambda key=key: known[key]) for key in ("username", "password")},
    )  # fmt: skip
    return KINDS["clarity"].build(settings)


@pytest.fixture
async def backend(clarity: Clarity) -> AsyncIterator[Backend]:
    made = opened(clarity)
    try:
        yield made
    finally:
        await made.aclose()


class ClarityGround:
    home = ()

    def __init__(self, backend: Backend, record: Entry, clarity: Clarity, path: str) -> None:
        self.backend = backend
        self.record = self.listed = record
        self._clarity = clarity
        self._path = path
        self._owner = path.partition("/")[2]

    def put(self, path: str, data: bytes) -> str:
        return self._clarity.put(self._path, path, data)

    def stored(self) -> dict[str, bytes]:
        return {name: data or b"" for name, data in self._clarity.stored(self._owner)}

    def uploads(self) -> int:
        return len(self._clarity.stored(self._owner))


PLACES = {
    "project": (f"projects/{PROJECT}/self", f"projects/{PROJECT}"),
    "sample": (f"samples/{SAMPLE}", f"samples/{SAMPLE}"),
    "step": (f"processes/{STEP}", f"processes/{STEP}"),
}


class TestClarity(Contract):
    @pytest.fixture(params=PLACES)
    async def ground(self, request: pytest.FixtureRequest, backend: Backend, clarity: Clarity) -> ClarityGround:
        entry_id, path = PLACES[request.param]
        return ClarityGround(backend, await backend.stat(entry_id), clarity, path)
