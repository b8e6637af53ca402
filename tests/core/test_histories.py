"""Histories that nobody would think of, against a plain model: a dictionary of bytes.

Every save, edit, rename and removal through the core must do to the server what it does to the dictionary;
one that fails does nothing, and what it wrote is sent later unless a newer save came first; and after a
crash or a remount all is as it was.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from memory import SYSTEMS, MemoryBackend

from labfs.backend import Capabilities
from labfs.errors import LabfsError, Unavailable
from labfs.tree.node import Node
from labfs.tree.site import Site
from labfs.vfs import Storage, assembled
from labfs.vfs.outbox import sending

EXAMPLES = 1500 if os.environ.get("LABFS_SOAK") else 60
NAMES = st.sampled_from(["a", "b", "c.txt"])
DATA = st.binary(min_size=1, max_size=200)
OFFSET = st.integers(0, 150)
STEP = st.one_of(
    st.tuples(st.just("save"), NAMES, DATA),
    st.tuples(st.just("write"), NAMES, OFFSET, DATA),
    st.tuples(st.just("append"), NAMES, DATA),
    st.tuples(st.just("truncate"), NAMES, OFFSET),
    st.tuples(st.just("swap"), NAMES, DATA),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("read"), NAMES),
    st.tuples(st.just("away"), NAMES, DATA),
    st.tuples(st.just("refresh")),
    st.tuples(st.just("remount")),
)


class History:
    """A mount and a model that go the same way."""

    def __init__(self, base: Path, can: Capabilities) -> None:
        whole = not can.ranged
        self.backend = MemoryBackend(capabilities=can, page_size=50, sizeless=whole)
        self.base = base
        self.model: dict[str, bytes] = {}
        self.waiting: dict[str, bytes] = {}
        self.scope: trio.CancelScope | None = None

    async def mount(self, nursery: trio.Nursery) -> None:
        started = trio.Event()
        nursery.start_soon(self._serve, started)
        await started.wait()

    async def _serve(self, started: trio.Event) -> None:
        sites = [Site("memory", "memory", self.backend, may_delete=True)]
        storage = Storage(self.base, cache_bytes=1 << 16, disk_bytes=1 << 20)
        with trio.CancelScope() as self.scope:
            async with assembled(sites, storage) as self.vfs:
                self.box = await self.vfs.resolve("/memory/box")
                started.set()
                await trio.sleep_forever()

    async def crash(self) -> None:
        """End the mount as `kill -9` does: nobody closes anything."""
        assert self.scope is not None
        self.scope.cancel()
        await trio.lowlevel.checkpoint()

    # -- steps -----------------------------------------------------------------------------------------

    async def step(self, step: tuple[Any, ...], nursery: trio.Nursery) -> None:
        kind, *rest = step
        if kind == "remount":
            await self.crash()
            await self.mount(nursery)
            await self.settle()  # what waited is sent by the new mount
        elif kind == "refresh":
            self.vfs.refresh(self.box)
        else:
            await getattr(self, kind)(*rest)
        if kind != "remount":
            await self.compare()

    async def save(self, name: str, data: bytes) -> None:
        await self._change(name, lambda old: data, truncate=True)

    async def append(self, name: str, data: bytes) -> None:
        if name in self.model:
            await self._change(name, lambda old: old + data, at=len(self.model[name]), data=data)

    async def write(self, name: str, offset: int, data: bytes) -> None:
        def changed(old: bytes) -> bytes:
            old = old.ljust(offset, b"\0")
            return old[:offset] + data + old[offset + len(data) :]

        await self._change(name, changed, at=offset, data=data)

    async def _change(self, name: str, changed: Any, *, truncate: bool = False, at: int = 0, data: bytes = b"") -> None:
        new = changed(self.model.get(name, b""))
        handle = await self.vfs.files.create(self.box, name, truncate=truncate)
        try:
            await self.vfs.files.write(handle, at, new if truncate else data)
            self.model[name] = new
            assert bytes(await self.vfs.files.read(handle, 0, 10**6)) == new, "you see what you wrote"
            await self.vfs.files.flush(handle, shared=False)
        finally:
            await self.vfs.files.release(handle)
        self.waiting.pop(name, None)

    async def truncate(self, name: str, size: int) -> None:
        if name in self.model:
            await self.vfs.files.truncate(await self.vfs.lookup(self.box, name), size)
            self.model[name] = self.model[name][:size].ljust(size, b"\0")
            self.waiting.pop(name, None)

    async def swap(self, name: str, data: bytes) -> None:
        """Save as an editor does: beside it, and renamed over it."""
        handle = await self.vfs.files.create(self.box, f".{name}.swp")
        await self.vfs.files.write(handle, 0, data)
        await self.vfs.files.flush(handle, shared=False)
        await self.vfs.files.release(handle)
        await self.vfs.rename(self.box, f".{name}.swp", self.box, name)
        self.model[name] = data
        self.waiting.pop(name, None)

    async def rename(self, name: str, new: str) -> None:
        if name not in self.model:
            return
        try:
            await self.vfs.rename(self.box, name, self.box, new)
        except LabfsError:
            assert not self.backend.capabilities.renames
            return
        self.model[new] = self.model.pop(name)
        if name != new:
            self.waiting.pop(new, None)

    async def remove(self, name: str) -> None:
        if name not in self.model:
            return
        try:
            await self.vfs.unlink(self.box, name)
        except LabfsError:
            assert not self.backend.capabilities.deletable
            return
        del self.model[name]

    async def read(self, name: str) -> None:
        if name in self.model:
            assert await self._bytes(name) == self.model[name]

    async def away(self, name: str, data: bytes) -> None:
        """Save while the site is away: an error, nothing changed, and sent later."""
        before = self.model.get(name)
        self.backend.faults = {operation: [Unavailable("away")] * 9 for operation in ("upload", "begin", "stat")}
        try:
            await self.save(name, data)
        except Unavailable:
            self.waiting[name] = data
            if before is None:
                del self.model[name]
            else:
                self.model[name] = before
        finally:
            self.backend.faults = {}

    # -- looking ---------------------------------------------------------------------------------------

    async def _bytes(self, name: str) -> bytes:
        node: Node = await self.vfs.lookup(self.box, name)
        handle = await self.vfs.files.open(node, read=True, write=False)
        try:
            return bytes(await self.vfs.files.read(handle, 0, 10**6))
        finally:
            await self.vfs.files.release(handle)

    async def compare(self) -> None:
        shown = {node.name for node in await self.vfs.listing(self.box) if not node.stays_here}
        assert shown == set(self.model)
        assert self.backend.newest() == self.model

    async def settle(self) -> None:
        """Let the outbox do its work; what waited is saved now, where nothing else has come between."""
        for _ in range(40):
            await trio.sleep(20)
            await trio.to_thread.run_sync(time.sleep, 0.001)
            if not self.vfs.saves.waiting.leftovers():
                break
        for name, data in self.waiting.items():
            if self.backend.newest().get(name) == data:
                self.model[name] = data
        self.waiting.clear()
        self.vfs.refresh(self.box)
        await self.compare()


async def play(base: Path, can: Capabilities, steps: list[tuple[Any, ...]]) -> None:
    history = History(base, can)
    async with trio.open_nursery() as nursery:
        await history.mount(nursery)
        for step in steps:
            await history.step(step, nursery)
        await history.settle()
        for name in history.model:
            assert await history._bytes(name) == history.model[name]
        nursery.cancel_scope.cancel()


@pytest.mark.timeout(1200)
@given(system=st.sampled_from(list(SYSTEMS)), steps=st.lists(STEP, max_size=14))
@example(system="in place", steps=[("away", "a", b"1"), ("remount",), ("save", "a", b"2")])
@example(system="versions", steps=[("save", "a", b"1"), ("away", "a", b"2"), ("save", "a", b"3"), ("remount",)])
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_history_does_to_the_server_what_it_does_to_a_dictionary(system: str, steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as base, pytest.MonkeyPatch.context() as patch:
        # Virtual time runs on while threads work: in a history the next mount is what sends.
        patch.setattr(sending, "FIRST_TRY_S", float("inf"))
        trio.run(play, Path(base), SYSTEMS[system], steps, clock=trio.testing.MockClock(autojump_threshold=0))
