"""Lists that take longer than anybody waits: shown in part, never taken for whole, asked for once, listings."""

from __future__ import annotations

import errno
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import SYSTEMS, MemoryBackend, opened

from labfs.backend import (
    Accept,
    Entry,
    Page,
    Replace,
    Takes,
)
from labfs.daemon.config import SiteSettings
from labfs.errors import LabfsError, NotYet, Unanswered, Unavailable
from labfs.tree.listing import LONGEST_REST_S, PAUSE_S
from labfs.tree.node import Node
from labfs.tree.remembered.listings import Listings
from labfs.vfs.drafts.signs import Maker
from labfs.vfs.vfs import Vfs

Clock = trio.testing.MockClock
DEADLINE_S = 17.0  # of the door
SILENCE = Unanswered("It fell silent.", silent=True)


@contextmanager
def asked() -> Iterator[None]:
    """Ask as the kernel does: there is an answer in time, whatever it is."""
    with trio.fail_after(DEADLINE_S):
        yield


async def shown(vfs: Vfs, node: Node) -> set[str]:
    with asked():
        return {child.name for child in await vfs.listing(node)}


class Slow(MemoryBackend):
    """A box whose pages take a while each."""

    page_s = 6.0

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        if parent.id == "box":
            await trio.sleep(self.page_s)
        return await super().page(parent, cursor)


def slow(files: int = 15, **more: Any) -> Slow:
    backend = Slow(**more)
    for number in range(files):
        backend.put(f"f{number:02}", b"x")
    return backend


async def test_the_first_names_come_with_the_first_page_and_the_others_with_the_list(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = slow()
    backend.page_s = 1.0
    async with opened(tmp_path, backend) as (vfs, box):
        began = trio.current_time()
        first = [child.name for child in await vfs.listing(box, soon=True)]  # type: ignore[arg-type]
        assert (first, round(trio.current_time() - began)) == (["f00", "f01", "f02"], 1)
        assert vfs.tree.incomplete(box) is not None  # type: ignore[arg-type]
        whole = [child.name for child in await vfs.listing(box)]  # type: ignore[arg-type]
        assert (whole, vfs.tree.incomplete(box)) == ([f"f{number:02}" for number in range(15)], None)  # type: ignore[arg-type]
        again = [child.name for child in await vfs.listing(box, soon=True)]  # type: ignore[arg-type]
        assert again == whole, "what is known is shown"
        assert backend.calls["page"] == 1 + 5


async def test_a_part_that_is_shown_is_listed_again_for_who_wants_it_soon(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = slow(faults={"page": [None, None, Unavailable("away")]})
    backend.page_s = 1.0
    async with opened(tmp_path, backend) as (vfs, box):
        await vfs.listing(box, soon=True)  # type: ignore[arg-type]
        await trio.sleep(60)
        assert vfs.tree.incomplete(box) is not None, "the site was away"  # type: ignore[arg-type]
        await vfs.listing(box, soon=True)  # type: ignore[arg-type]
        assert len(await vfs.tree.rest(box, trio.current_time() + 10)) == 15  # type: ignore[arg-type]
        assert vfs.tree.incomplete(box) is None  # type: ignore[arg-type]


async def test_a_list_that_fails_at_once_says_so_to_who_wants_it_soon(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = slow(faults={"page": [None, Unavailable("away")]})
    async with opened(tmp_path, backend) as (vfs, box):
        with pytest.raises(Unavailable, match="away"), asked():
            await vfs.listing(box, soon=True)  # type: ignore[arg-type]


async def test_a_long_list_is_shown_as_far_as_it_is_and_whole_in_the_end(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = slow()
    async with opened(tmp_path, backend) as (vfs, box):
        seen = [await shown(vfs, box)]
        assert seen[0] == {f"f{number:02}" for number in range(6)}, "two pages in fifteen seconds"
        while (reason := vfs.tree.incomplete(box)) is not None:
            assert (reason.errno, "being listed" in str(reason)) == (errno.EAGAIN, True)
            assert vfs.tree.remarks() == [str(reason)]
            seen.append(await shown(vfs, box))
            assert seen[-1] >= seen[-2]
        assert seen[-1] == {f"f{number:02}" for number in range(15)}
        assert backend.calls["page"] == 1 + 5, "one flight for all who waited"
        assert vfs.tree.remarks() == []


async def test_a_list_in_part_is_never_taken_for_whole(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = slow(capabilities=replace(SYSTEMS["by delete"], renames=True))
    async with opened(tmp_path, backend, may_delete=True) as (vfs, box):
        await shown(vfs, box)
        for refused in (
            lambda: vfs.lookup(box, "f14"),
            lambda: vfs.files.create(box, "f14", maker=Maker(exclusive=True)),
            lambda: vfs.mkdir(box, "new"),
            lambda: vfs.unlink(box, "f00"),
            lambda: vfs.rename(box, "f00", box, "f14"),
        ):
            box.known, box.listed_at = type(box.known).PART, float("-inf")
            backend.page_s = 100.0
            with asked(), pytest.raises(NotYet):
                await refused()
        assert backend.calls["delete"] + backend.calls["rename"] + backend.calls["upload"] == 0
        assert vfs.attributes(await vfs.lookup(box, "f00")).size == 1, "what was seen can be looked at"


async def test_nothing_known_is_a_sentence_and_no_second_request(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = slow()
    backend.page_s = 60.0
    async with opened(tmp_path, backend) as (vfs, box):
        for _ in range(3):
            with pytest.raises(NotYet, match="no answer yet"):
                await shown(vfs, box)
        assert backend.calls["page"] == 1, "the site's own; the box is asked for still"
        assert "no answer yet" in vfs.tree.remarks()[0]


async def test_a_server_that_fell_silent_over_a_list_is_left_alone(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = slow(3)
    backend.page_s, backend.faults["page"] = 30.0, [None, *[SILENCE] * 3]
    times = []
    async with opened(tmp_path, backend) as (vfs, box):
        calls = backend.calls["page"]
        while not box.children:
            with pytest.raises(LabfsError), asked():
                await vfs.listing(box)
            if backend.calls["page"] > calls:
                calls = backend.calls["page"]
                times.append(trio.current_time())
            await trio.sleep(1.0)
            if len(times) == 3:
                backend.page_s = 0.0
                break
        pauses = [after - before - backend.page_s for before, after in itertools.pairwise(times)]
        assert [pause >= 30 + wait for pause, wait in zip(pauses, (PAUSE_S, 2 * PAUSE_S), strict=True)] == [True] * 2
        await trio.sleep(LONGEST_REST_S)
        assert len(await shown(vfs, box)) == 3


async def test_whoever_waits_for_a_list_that_is_asked_for_anew_gets_the_new_one(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = slow(3)
    async with opened(tmp_path, backend) as (vfs, box):
        backend.page_s = 60.0
        answers = []

        async def look() -> None:
            answers.append(await shown(vfs, box))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await trio.sleep(4.0)
            backend.page_s = 1.0
            vfs.refresh(box)
            nursery.start_soon(look)
        assert answers == [{"f00", "f01", "f02"}] * 2
        assert backend.calls["page"] == 1 + 1, "the site's own; of the box the new one only came so far"


async def test_a_list_that_broke_off_is_read_on_from_there(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = slow()
    backend.faults["page"] = [None, None, None, Unavailable("down")]
    async with opened(tmp_path, backend) as (vfs, box):
        assert len(await shown(vfs, box)) == 6
        await trio.sleep(4)  # it breaks off
        reason = vfs.tree.incomplete(box)
        assert reason is not None
        assert (reason.said.partition(".")[0], reason.errno) == ("down", errno.EIO)
        with pytest.raises(Unavailable, match="down"):
            await vfs.lookup(box, "f14")
        await trio.sleep(PAUSE_S)
        while vfs.tree.incomplete(box):
            await shown(vfs, box)
        assert len(box.children) == 15
        assert backend.calls["page"] == 1 + 5 + 1, "each page once, but for the one that failed"


async def test_twins_and_versions_do_not_change_by_what_is_seen_in_part(tmp_path: Path, autojump_clock: Clock) -> None:
    """The order of first sight is that of whole lists; a file that may have a newer version is not opened before."""
    for rule in ("in place", "versions"):
        backend = Slow(capabilities=SYSTEMS[rule])
        backend.put("g", b"1")
        for number in range(8):
            backend.put(f"f{number}", b"x")
        last = backend.put("g", b"2")
        backend.files = {key: backend.files[key] for key in sorted(backend.files)}
        entry, data = backend.files[int(last.label)]
        backend.files[int(last.label)] = (replace(entry, age=0), data)  # the older one, though listed last
        async with opened(tmp_path / rule, backend) as (vfs, box):
            await shown(vfs, box)
            with closing(sqlite3.connect(tmp_path / rule / "seen.sqlite")) as db:
                assert db.execute("SELECT count(*) FROM seen WHERE id != 'box'").fetchone() == (0,)
            backend.page_s = 100.0
            node = await vfs.lookup(box, "g")
            if rule == "versions":
                with asked(), pytest.raises(NotYet):
                    await vfs.files.open(node, read=True, write=False)
            with asked(), pytest.raises(NotYet):
                await vfs.files.open(node, read=True, write=True)


# -- kept for the next mount ---------------------------------------------------------------------------------


def dead(backend: MemoryBackend) -> None:
    backend.faults["page"] = [Unavailable("It is away.") for _ in range(100)]
    backend.faults["prepare"] = [Unavailable("It is away.") for _ in range(100)]


async def test_the_last_list_is_shown_after_a_remount_and_proves_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend(capabilities=SYSTEMS["by delete"])
    backend.put("f", b"one")
    backend.put("sub", b"two", folders=("a",))
    async with opened(tmp_path, backend, account="me") as (vfs, box):
        assert await shown(vfs, box) == {"f", "a"}
    dead(backend)
    async with opened(tmp_path, backend, account="me", may_delete=True) as (vfs, box):
        assert await shown(vfs, box) == {"f", "a"}
        assert any("as it was listed on" in text and "It is away." in text for text in vfs.tree.remarks())
        assert vfs.tree.incomplete(box) is None, "it was whole, then"
        node = await vfs.lookup(box, "f")
        assert vfs.attributes(node).size == 3
        attempts: list[Callable[[], Any]] = [
            lambda: vfs.lookup(box, "never seen"),
            lambda: vfs.files.create(box, "new"),
            lambda: vfs.files.open(node, read=True, write=True),
            lambda: vfs.files.open(node, read=True, write=False),
            lambda: vfs.unlink(box, "f"),
            lambda: vfs.rename(box, "f", box, "g"),
            lambda: vfs.mkdir(box, "b"),
        ]
        for attempt in attempts:
            with asked(), pytest.raises(Unavailable, match="away"):
                await attempt()
        assert backend.calls["delete"] + backend.calls["upload"] + backend.calls["make"] == 0
        backend.faults.clear()
        backend.files.clear()
        backend.put("h", b"three")
        await trio.sleep(PAUSE_S)
        with asked():
            assert await vfs.lookup(box, "h")
        assert await shown(vfs, box) == {"h"}
        assert vfs.tree.remark(box) is None


async def test_what_is_kept_is_one_accounts_and_of_one_form(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    backend.put("f", b"one")

    async def known(account: str) -> bool:
        dead(backend)
        found = False
        async with opened(tmp_path, backend, account=account, at="/") as (vfs, _):
            with suppress(Unavailable), asked():
                found = bool(await vfs.listing(await vfs.resolve("/memory/box")))
        backend.faults.clear()
        return found

    async def see(account: str) -> None:
        async with opened(tmp_path, backend, account=account) as (vfs, box):
            await shown(vfs, box)

    await see("me")
    assert (tmp_path / "kept.sqlite").stat().st_mode & 0o777 == 0o600
    assert await known("me")
    assert not await known("somebody else")
    assert not await known("me"), "what another account may not see is gone when it mounts"
    await see("me")
    for ruin in ("UPDATE kept SET entries = X'00'", "PRAGMA user_version = 99"):
        with closing(sqlite3.connect(tmp_path / "kept.sqlite", isolation_level=None)) as db:
            db.execute(ruin)
        assert not await known("me"), ruin
        await see("me")
        assert await known("me")
    (tmp_path / "kept.sqlite").write_bytes(b"no database at all" * 1000)
    assert not await known("me")
    await see("me")
    assert await known("me")


def test_entries_are_kept_as_they_are(tmp_path: Path) -> None:
    everything = Entry(
        id="1", name="n\udcff", is_dir=True, age=3, label="l", inside="i", complete=True, folders=("a", "b"), size=0,
        modified_ns=0, version="", checksum="md5:0", takes=Takes(frozenset(Accept), ("o",), 1, Replace.NEVER),
        unreadable="u", read_only="r", url="https://x/",
    )  # fmt: skip
    plain = Entry(id="2", name="", is_dir=False)
    for field in fields(Entry):
        assert getattr(everything, field.name) != field.default, f"{field.name}: is it kept?"
    listings = Listings(tmp_path / "kept.sqlite")
    listings.admit("site", "me")
    listings.put("site", "box", [everything, plain])
    listings.close()
    listings = Listings(tmp_path / "kept.sqlite")
    listings.admit("site", "me")
    found = listings.get("site", "box")
    assert found is not None
    assert found[0] == [everything, plain]
    listings.drop("site", "box")
    assert listings.get("site", "box") is None
    listings.close()


def test_an_account_is_known_by_all_that_makes_it_one() -> None:
    usual: dict[str, Any] = {
        "name": "hub", "kind": "portal", "url": "https://x", "secrets": {"token": lambda: "a secret"},
        "options": {"user_id": ""}, "projects": {"study": {"token": lambda: "another secret"}},
    }  # fmt: skip
    others: list[dict[str, Any]] = [
        {"kind": "odm"}, {"url": "https://y"}, {"secrets": {"token": lambda: "b"}}, {"options": {"user_id": "me"}},
        {"projects": {}}, {"projects": {"study": {"token": lambda: "b"}}},
    ]  # fmt: skip
    account = SiteSettings(**usual).account(b"salt")
    assert SiteSettings(**usual, timeout_s=99.0, access="read").account(b"salt") == account
    found = {SiteSettings(**{**usual, **other}).account(b"salt") for other in others}
    assert len(found | {account, SiteSettings(**usual).account(b"pepper")}) == len(others) + 2
    assert "secret" not in account
