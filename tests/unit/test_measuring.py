"""Sizes that cannot be had: a broken file delays nobody, is not asked for again soon, and is shown as a file."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import five_stage
import httpx
import pytest
import trio
import trio.testing
from five_stage import Lab
from memory import SYSTEMS, MemoryBackend, opened
from stage import Mount, Sandbox, run, typed

from labfs.backend import dispensable
from labfs.errors import (
    Malformed,
    Unavailable,
)
from labfs.http.client import Client
from labfs.tree.lister import LISTING_S
from labfs.tree.measuring import GIVEN_UP_S, LISTED_S
from labfs.tree.remembered.sizes import Sizes

Clock = trio.testing.MockClock


# -- in memory, in virtual time ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Unavailable("It answered 500."), Malformed("Its bytes are lost.")])
async def test_a_size_that_fails_is_not_asked_for_again_soon(
    error: Unavailable | Malformed, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(capabilities=replace(SYSTEMS["whole"], measured=True, connections=1))
    broken, well = backend.put("broken", b"12345"), backend.put("well", b"123")
    backend.unmeasured = {broken.id: 5, well.id: 3}
    backend.faults["measure"] = [error]
    backend.faults["pour"] = [error] * 100
    async with opened(tmp_path, backend) as (vfs, box):
        for _ in range(2):
            for name, size, certain in (("broken", 1, False), ("well", 3, True)):
                node = await vfs.lookup(box, name)
                await vfs.measure(node)
                found = vfs.attributes(node)
                assert (found.size, found.certain) == (size, certain)
            await trio.sleep(LISTING_S + 1 if _ == 0 else 0)
        assert (backend.calls["measure"], backend.calls["pour"]) == (2, 0)
        with pytest.raises(type(error), match=str(error)):
            await vfs.files.open(await vfs.lookup(box, "broken"), read=True, write=False)
        backend.faults["pour"].clear()
        await trio.sleep(GIVEN_UP_S + 1)
        await vfs.listing(box)
        assert backend.calls["measure"] == 3
        await trio.sleep(0.1)
        assert vfs.attributes(await vfs.lookup(box, "broken")).size == 5


async def test_a_refresh_asks_for_all_again(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=SYSTEMS["in place"])
    backend.unmeasured = {backend.put("f", b"12345").id: 5}
    backend.faults["measure"] = [Unavailable("It answered 500.")]
    async with opened(tmp_path, backend) as (vfs, box):
        await vfs.listing(box)
        vfs.refresh(box)
        assert vfs.attributes(await vfs.lookup(box, "f")).size == 5


async def test_sizes_that_never_come_delay_a_listing_for_a_while_only(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=replace(SYSTEMS["in place"], connections=1))
    backend.unmeasured = {backend.put(f"f{number}", b"x").id: 1 for number in range(9)}
    async with opened(tmp_path, backend) as (vfs, box):
        await vfs.listing(box)
        vfs.refresh(box)
        backend.latency_s = 0.0
        backend.files = {number: (replace(e, version="2"), data) for number, (e, data) in backend.files.items()}

        async def measure(entry: object) -> int | None:
            backend.calls["silent"] += 1
            await trio.sleep_forever()
            return None

        backend.measure = measure  # type: ignore[method-assign]
        began = trio.current_time()
        assert len(await vfs.listing(box)) == 9
        assert trio.current_time() - began <= LISTED_S + 0.1
        assert backend.calls["silent"] <= 3


async def test_what_can_be_done_without_is_asked_for_twice_at_most(autojump_clock: Clock) -> None:
    asked: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(trio.current_time())
        return httpx.Response(500)

    client = Client("lab", "https://lab.example", dict, transport=httpx.MockTransport(answer))
    with dispensable(), pytest.raises(Unavailable):
        await client.measure_own("bytes")
    assert len(asked) == 2
    assert trio.current_time() - asked[0] < 2
    asked.clear()
    with pytest.raises(Unavailable):
        await client.measure_own("bytes")
    assert len(asked) > 4
    await client.aclose()


# -- through a mount -----------------------------------------------------------------------------------------

ROUTES = {"clarity": "*/download", "odm": "*/download", "portal": "/v1/uploaded-file/*"}


@pytest.fixture
def lab(sandbox: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(sandbox) as made:
        yield made


@pytest.mark.mount
def test_a_file_whose_bytes_fail_delays_no_listing(lab: Lab, drive: Mount, sandbox: Sandbox) -> None:
    lab.portal.switch(mode="local")
    before = len(drive.log)
    for site, route in ROUTES.items():
        drive.refresh(drive.path / site)
        place = drive.path / lab.places[site]
        lab.put(site, "broken.bin", b"12345")
        sandbox.faults({"service": site, "route": route, "action": "status", "argument": 500, "times": None})
        drive.refresh(place.parent)
        os.listdir(place.parent)
        drive.refresh(place)
        lab.requests()
        began = time.monotonic()
        listed = [run(f"ls -l '{place}'").stdout for _ in range(3)]
        assert time.monotonic() - began < 6, site
        drive.refresh(drive.path / "basespace")  # asks for nothing of this site
        assert all("broken.bin" in text for text in listed)
        assert (place / "broken.bin").stat().st_size >= 1, site
        asked = [row for row in sandbox.log() if "download" in row["path"] or "uploaded-file" in row["path"]]
        assert 1 <= len(asked) <= 2, (site, asked)
        sandbox.faults({"service": site, "route": route, "action": "status", "argument": 404, "times": None})
        with pytest.raises(OSError, match=r".+") as caught:
            (place / "broken.bin").read_bytes()
        assert caught.value.errno in (errno.EIO, errno.ENOENT, errno.ESTALE), site
        assert typed("why", place / "broken.bin", env=drive.env).stdout.strip(), site
        assert f"{site} has not answered" not in drive.log[before:], "a broken file is no outage"
        sandbox.faults()
        drive.refresh(place)
        assert (place / "broken.bin").read_bytes() == b"12345", site


def test_sizes_that_cannot_be_remembered_are_asked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "sizes"
    path.write_bytes(b"no database at all, but as long as one might be" * 100)
    entry = MemoryBackend().put("f", b"bytes")
    sizes = Sizes(path)
    sizes.set("site", entry, 5)
    assert sizes.get("site", entry) == 5
    sizes._db.execute("DROP TABLE sizes")
    assert sizes.get("site", entry) is None
    sizes.set("site", entry, 5)
    sizes.close()
