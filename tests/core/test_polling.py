"""Directories that somebody looks at are listed again from time to time, politely, and what has changed is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from memory import MemoryBackend, mounted
from steps import AWAY, contents, save

from labfs.vfs import Change, Vfs
from labfs.vfs.polling import WATCHED_S

Clock = trio.testing.MockClock
Told = list[tuple[str, str]]


@asynccontextmanager
async def polled(base: Path, backend: MemoryBackend, poll_s: float = 10.0) -> AsyncIterator[tuple[Vfs, Any, Told]]:
    """Mount a backend; what is told of its directory is in the list, as pairs of what happened and to which name."""
    told: Told = []

    async def hear(change: Change) -> None:
        for what in ("added", "removed", "changed"):
            told.extend((what, node.name) for node in getattr(change, what))

    async with mounted(base, backend, poll_s=poll_s) as (vfs, box):
        vfs.polling.hears.append(hear)
        yield vfs, box, told


async def test_what_others_do_is_told_and_shown(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    old, gone = backend.put("old", b"old"), backend.put("gone", b"gone")
    async with polled(tmp_path, backend) as (vfs, box, told):
        await vfs.listing(box)
        backend.put("new", b"new")
        backend.files[int(old.label)] = (replace(old, version="other", size=5), b"other")
        del backend.files[int(gone.label)]
        await trio.sleep(15)
        assert sorted(told) == [("added", "new"), ("changed", "old"), ("removed", "gone")]
        calls = backend.calls["page"]
        assert sorted(node.name for node in await vfs.listing(box)) == ["new", "old"]
        assert await contents(vfs, "/memory/box/old") == b"other"
        assert backend.calls["page"] == calls, "the listing is there already"
        await trio.sleep(15)
        assert len(told) == 3, "once"


async def test_only_what_is_looked_at_is_listed_and_not_for_ever(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with polled(tmp_path, backend) as (vfs, box, _):
        calls = backend.calls["page"]
        await trio.sleep(100)
        assert backend.calls["page"] == calls, "nobody has read its names"
        await vfs.listing(box)
        calls = backend.calls["page"]
        await trio.sleep(100)
        assert 7 <= backend.calls["page"] - calls <= 11
        await trio.sleep(WATCHED_S)
        calls = backend.calls["page"]
        await trio.sleep(100)
        assert backend.calls["page"] == calls


@pytest.mark.parametrize(("poll_s", "latency_s", "most"), [(0.0, 0.01, 0), (1.0, 2.0, 11)])
async def test_a_slow_site_is_asked_seldom_and_one_without_an_interval_never(
    poll_s: float, latency_s: float, most: int, tmp_path: Path, autojump_clock: Clock
) -> None:
    backend = MemoryBackend(latency_s=latency_s)
    async with polled(tmp_path, backend, poll_s) as (vfs, box, _):
        await vfs.listing(box)
        calls = backend.calls["page"]
        await trio.sleep(200)
        assert backend.calls["page"] - calls <= most


async def test_a_site_that_is_away_is_left_alone_and_looked_at_again(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with polled(tmp_path, backend) as (vfs, box, told):
        await vfs.listing(box)
        backend.faults["page"] = [AWAY] * 2
        backend.put("new", b"new")
        await trio.sleep(120)
        assert told == [("added", "new")]


async def test_what_is_saved_here_is_no_news(tmp_path: Path, autojump_clock: Clock) -> None:
    backend = MemoryBackend()
    async with polled(tmp_path, backend) as (vfs, box, told):
        await vfs.listing(box)
        await save(vfs, box, "mine", b"mine")
        await trio.sleep(60)
        assert told == []
