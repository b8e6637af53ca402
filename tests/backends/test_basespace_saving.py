"""BaseSpace: what is newer, what a lost upload is known by, and tags of its store that are no checksums."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from contract import Bytes, hurried, noise, poured
from stage import Folder, Mount, Sandbox, run

from labfs.backend import Receipt, Target, fetched
from labfs.backends import KINDS
from labfs.backends.basespace import entries
from labfs.backends.basespace.backend import BaseSpace
from labfs.backends.common import Settings
from labfs.errors import Malformed
from labfs.tree.scan import scan

MIB = 1024 * 1024
ROW = {"Id": "7", "Name": "f", "Path": "f", "Size": 1, "DateCreated": "2021-04-01T10:00:00.0000000Z",
       "DateModified": "2024-01-01T00:00:00.0000000Z"}  # fmt: skip
CREATED_NS = 1617271200 * 10**9


@pytest.mark.parametrize("convert", [entries.project, entries.app_result, entries.sample, entries.file])
def test_ages_are_dates_of_creation(convert: Any) -> None:
    assert convert(ROW).age == CREATED_NS
    assert convert({**ROW, "Id": "9"}).age == CREATED_NS, "ids do not grow with time"
    assert convert({**ROW, "DateCreated": "0001-01-01T00:00:00.0000000Z"}).age == 0
    assert convert({name: value for name, value in ROW.items() if name != "DateCreated"}).age == 0


@pytest.fixture
def folder(sandbox: Sandbox) -> Folder:
    return sandbox.fresh()


@pytest.fixture
async def hub(sandbox: Sandbox) -> AsyncIterator[BaseSpace]:
    backend: BaseSpace = hurried(KINDS["basespace"].build(
        Settings(name="hub", url=sandbox.url, secrets={"token": lambda: sandbox.token}, options={}, timeout_s=8.0)
    ))  # fmt: skip
    yield backend
    sandbox.calm()
    sandbox.switch(kms=False)
    await backend.aclose()


async def target(hub: BaseSpace, folder: Folder, name: str = "f") -> Target:
    return Target(await hub.stat(f"appresults/{folder.record}"), (), name)


def lose(sandbox: Sandbox, **fault: Any) -> None:
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/files", **fault})


async def test_an_upload_that_never_came_is_not_mistaken_for_an_older_equal_file(
    hub: BaseSpace, folder: Folder, sandbox: Sandbox
) -> None:
    where = await target(hub, folder)
    folder.put("f", b"one")
    folder.put("f", b"two")
    await scan(hub, where.parent)
    lose(sandbox, action="status", argument=504)
    await hub.upload(where, Bytes(b"one"))
    assert [row["size"] for row in sandbox.rows(folder.record)] == [3, 3, 3]
    assert folder.stored == {"f": b"one"}


@pytest.mark.parametrize("ignored", [False, True])
async def test_a_lost_upload_is_found_among_all_files_of_its_record(
    ignored: bool, hub: BaseSpace, folder: Folder, sandbox: Sandbox
) -> None:
    where = await target(hub, folder)
    for index in range(7):
        folder.put(f"other {index}", b"x")
    sandbox.switch(short_pages=2, sort_ignored=ignored)
    lose(sandbox, action="lost", argument={"status": 504})
    entry = await hub.upload(where, Bytes(b"mine"))
    assert folder.paths.count("f") == 1
    assert await poured(Ground(hub), entry) == b"mine"  # type: ignore[arg-type]


class Ground:
    def __init__(self, backend: BaseSpace) -> None:
        self.backend = backend


async def test_a_save_is_two_requests(hub: BaseSpace, folder: Folder, sandbox: Sandbox) -> None:
    where = await target(hub, folder)
    sandbox.reset()
    await hub.upload(where, Bytes(b"mine"))
    assert sum(sandbox.requests().values()) == 2


async def test_a_directory_whose_making_was_not_answered_is_made_once(
    hub: BaseSpace, folder: Folder, sandbox: Sandbox
) -> None:
    record = await hub.stat(f"appresults/{folder.record}")
    project = next(e for e in await scan(hub, hub.root) if e.name == folder.project)
    sandbox.faults({"service": "basespace", "method": "POST", "route": "*/appresults", "action": "lost"})
    made = await hub.make(project, "New")
    assert [e.id for e in await scan(hub, project) if e.name != record.name] == [made.id]


# -- tags that are none ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kms", [True, "silent"])
async def test_a_save_is_confirmed_by_reading_it_back_where_tags_are_none(
    kms: Any, hub: BaseSpace, folder: Folder, sandbox: Sandbox
) -> None:
    sandbox.switch(kms=kms)
    where = await target(hub, folder)
    assert hub.capabilities.checksums_prove
    for data in (noise(1000, 1), noise(1000, 2)):
        await hub.upload(where, Bytes(data))
        assert not hub.capabilities.checksums_prove, "learnt by the first save, for good"
    assert [row["size"] for row in sandbox.rows(folder.record)] == [1000, 1000]


async def test_a_header_of_the_store_is_enough(hub: BaseSpace, folder: Folder, sandbox: Sandbox) -> None:
    sandbox.switch(kms=True)
    folder.put("f", b"theirs")
    (entry,) = await scan(hub, (await target(hub, folder)).parent)
    await fetched(hub.content(entry), 0, 6)
    assert not hub.capabilities.checksums_prove


async def test_a_lost_upload_is_found_by_its_bytes_where_tags_are_none(
    hub: BaseSpace, folder: Folder, sandbox: Sandbox
) -> None:
    sandbox.switch(kms="silent")
    lose(sandbox, action="lost", argument="reset")
    await hub.upload(await target(hub, folder), Bytes(noise(1000)))
    assert folder.paths == ["f"]


async def test_other_bytes_than_those_that_were_sent_are_no_save(
    hub: BaseSpace, folder: Folder, sandbox: Sandbox
) -> None:
    sandbox.switch(kms="silent")
    sandbox.faults({"service": "blobs", "action": "corrupt", "argument": 5, "times": None})
    with pytest.raises(Malformed, match="other bytes"):
        await hub.upload(await target(hub, folder), Bytes(noise(1000)))
    assert hub.capabilities.checksums_prove, "nothing was learnt"


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize("broken", [False, True])
async def test_parts_are_read_back_where_tags_are_none(
    broken: bool, resumed: bool, hub: BaseSpace, folder: Folder, sandbox: Sandbox
) -> None:
    sandbox.switch(kms="silent")
    where, parts = await target(hub, folder), [noise(5 * MIB, 1), noise(70_000, 2)]
    upload = await hub.multipart.begin(where, sum(map(len, parts)))
    receipts = [await upload.put_part(number, Bytes(data)) for number, data in enumerate(parts, 1)]
    assert [receipt.tag for receipt in receipts] == [hashlib.md5(data).hexdigest() for data in parts]
    if broken:
        receipts[1] = Receipt(2, hashlib.md5(b"other").hexdigest(), 70_000)
    if resumed:
        upload = await hub.multipart.resume(where, upload.token)
    if broken:
        with pytest.raises(Malformed, match="other bytes"):
            await upload.complete(receipts, 5 * MIB + 70_000)
    else:
        await upload.complete(receipts, 5 * MIB + 70_000)
        assert not hub.capabilities.checksums_prove
    assert sandbox.requests()["PUT /v1pre3/files/{id}/parts/{id}"] <= 4, "each part once more at most"


async def test_parts_are_not_read_back_where_their_tag_proves_them(
    hub: BaseSpace, folder: Folder, sandbox: Sandbox
) -> None:
    upload = await hub.multipart.begin(await target(hub, folder), None)
    receipt = await upload.put_part(1, Bytes(noise(1000)))
    sandbox.reset()
    await upload.complete([receipt], 1000)
    assert sum(sandbox.requests().values()) == 2


@pytest.mark.parametrize("action", ["lost", "late"])
async def test_a_completion_whose_answer_was_lost_is_waited_for(
    action: str, hub: BaseSpace, folder: Folder, sandbox: Sandbox
) -> None:
    upload = await hub.multipart.begin(await target(hub, folder), None)
    receipt = await upload.put_part(1, Bytes(noise(1000)))
    argument = {"status": 504, "html": True, "after_s": 0.5}
    sandbox.faults(
        {"service": "basespace", "method": "POST", "route": "*/files/*", "action": action, "argument": argument}
    )
    assert (await upload.complete([receipt], 1000)).size == 1000
    assert folder.stored == {"f": noise(1000)}


@pytest.mark.mount
@pytest.mark.parametrize("kms", [True, "silent"])
def test_copies_onto_a_site_whose_tags_are_none_arrive_once(
    kms: Any, folder: Folder, sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.switch(kms=kms)
    mount = Mount(tmp_path, sandbox.config)
    try:
        mount.start()
        for name, size in (("small", 70_000), ("large", 9_000_000)):
            (tmp_path / name).write_bytes(noise(size))
            done = run(f"cp '{tmp_path}/{name}' '{folder.at(mount.path)}/{name}'")
            assert (done.returncode, done.stderr) == (0, "")
            assert folder.stored[name] == noise(size)
        assert sorted(folder.paths) == ["large", "small"]
    finally:
        mount.clean_up()
        sandbox.switch(kms=False)
