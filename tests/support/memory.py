"""A lab system in memory: a backend whose rules a test chooses, and whose faults it hands over as values."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from labfs.backend import (
    Accept,
    Buffer,
    Capabilities,
    Entry,
    Page,
    Parts,
    Receipt,
    Replace,
    Sink,
    Source,
    Stretch,
    Target,
    takes,
)
from labfs.errors import LabfsError, NotFound, Stale
from labfs.errors.health import Health
from labfs.read.blocks import Blocks
from labfs.tree.node import Node
from labfs.tree.site import Site
from labfs.vfs import Storage, Vfs, assembled
from labfs.write.spool import Spool

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts(Capabilities):
    """The capabilities of a system in memory, and how files go up there that are larger than one body."""

    parts: Parts | None = None


RULES = Facts(
    ranged=True,
    deletable=False,
    replace=Replace.NEWER,
    whole=64,
    parts=Parts(least=16, greatest=64, count=1000, preferred=32),
    connections=4,
)
SYSTEMS = {
    "versions": RULES,
    "in place": replace(RULES, replace=Replace.IN_PLACE, deletable=True, renames=True, parts=None, whole=10**8),
    "whole": replace(RULES, replace=Replace.IN_PLACE, deletable=True, ranged=False, measured=False, parts=None, whole=10**8),
    "by delete": replace(RULES, replace=Replace.BY_DELETE, deletable=True),
}  # fmt: skip


@dataclass
class MemoryBackend:
    """One directory, `box`, of files. `faults` holds, by operation, errors for its next calls."""

    capabilities: Facts = RULES
    page_size: int = 3
    latency_s: float = 0.01
    files: dict[int, tuple[Entry, bytes]] = field(default_factory=dict)
    faults: dict[str, list[LabfsError | None]] = field(default_factory=dict)
    uploads: dict[str, MemoryUpload] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    sent: int = 0  # bytes of files, to readers of ranges
    unmeasured: dict[str, int] = field(default_factory=dict)  # sizes of files that are listed without one
    sizeless: bool = False  # no listing tells a size
    versionless: bool = False
    more: list[Entry] = field(default_factory=list)  # further entries of the box
    announces: bool = True  # a download's size before its bytes
    piece: int = MIB // 4  # bytes of a download that arrive at once
    health: Health = field(default_factory=Health)
    under_way: int = 0
    most_at_once: int = 0
    _ids: int = 100

    root = Entry(id="", name="memory", is_dir=True, takes=takes(Accept.DIRECTORY))
    box = Entry(id="box", name="box", is_dir=True, takes=takes(Accept.FILE, Accept.FOLDER))

    def put(self, name: str, data: bytes, folders: tuple[str, ...] = (), inside: str | None = None) -> Entry:
        """Change the server behind labfs's back."""
        self._ids += 1
        digest = hashlib.md5(data).hexdigest()
        entry = Entry(
            id=f"files/{self._ids}", name=name, is_dir=False, age=self._ids, label=str(self._ids), folders=folders, inside=inside,
            size=len(data), version=digest, checksum=f"md5:{digest}", modified_ns=self._ids * 10**9,
        )  # fmt: skip
        self.files[self._ids] = (entry, data)
        return entry

    def newest(self) -> dict[str, bytes]:
        return {"/".join((*entry.folders, entry.name)): data for _, (entry, data) in sorted(self.files.items())}

    async def _call(self, operation: str) -> None:
        self.calls[operation] += 1
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)
        try:
            await trio.sleep(self.latency_s)
        finally:
            self.under_way -= 1
        waiting = self.faults.get(operation)
        error = waiting.pop(0) if waiting else None
        if error is not None:
            raise error

    async def check(self) -> str:
        await self._call("check")
        return "somebody"

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        await self._call("page")
        if parent.id == "":
            return Page((self.box,))
        start = int(cursor or 0)
        entries = [entry for _, (entry, _) in sorted(self.files.items())]
        entries = [self._shown(entry) for entry in entries] + self.more
        more = start + self.page_size < len(entries)
        return Page(tuple(entries[start : start + self.page_size]), str(start + self.page_size) if more else None)

    def _shown(self, entry: Entry) -> Entry:
        if self.sizeless or entry.id in self.unmeasured:
            entry = replace(entry, size=None)
        if self.versionless:
            entry = replace(entry, version=None, checksum=None)
        return entry

    async def stat(self, entry_id: str) -> Entry:
        await self._call("stat")
        return self._held(entry_id)[0]

    def _held(self, entry_id: str) -> tuple[Entry, bytes]:
        try:
            return self.files[int(entry_id.partition("/")[2])]
        except KeyError:
            raise NotFound("gone") from None

    async def measure(self, entry: Entry) -> int | None:
        await self._call("measure")
        return self.unmeasured.get(entry.id)

    async def describe(self, entry: Entry) -> Mapping[str, Any]:
        await self._call("describe")
        return {"id": entry.id}

    def content(self, entry: Entry) -> MemoryContent:
        return MemoryContent(self, entry)

    async def make(self, parent: Entry, name: str) -> Entry:
        await self._call("make")
        return replace(self.box, id=f"box {name}", name=name)

    async def upload(self, target: Target, source: Source) -> Entry:
        await self._call("upload")
        inside = None if target.parent.id == "box" else target.parent.id
        old = target.replaces
        if old is not None and self.capabilities.replace is Replace.IN_PLACE:
            data = b"".join(source.chunks())
            digest = hashlib.md5(data).hexdigest()
            new = replace(old, size=len(data), version=digest, checksum=f"md5:{digest}")
            self.files[int(old.label)] = (new, data)
            return new
        return self._saved(target, b"".join(source.chunks()), inside)

    def _saved(self, target: Target, data: bytes, inside: str | None = None) -> Entry:
        return self.put(target.name, data, target.folders, inside)

    @property
    def multipart(self) -> MemoryMultipart | None:
        return MemoryMultipart(self) if self.capabilities.parts is not None else None

    async def begin_upload(self, target: Target, size: int | None) -> MemoryUpload:
        await self._call("begin")
        token = f"upload {len(self.uploads)}"
        self.uploads[token] = MemoryUpload(self, target, token)
        return self.uploads[token]

    async def resume_upload(self, target: Target, token: str) -> MemoryUpload:
        await self._call("resume")
        if token not in self.uploads:
            raise NotFound("There is no such upload.")
        return self.uploads[token]

    async def rename(self, entry: Entry, target: Target) -> Entry:
        await self._call("rename")
        number = int(entry.label)
        moved = replace(
            self.files[number][0], name=target.name, folders=target.folders,
            inside=None if target.parent.id == "box" else target.parent.id,
        )  # fmt: skip
        self.files[number] = (moved, self.files[number][1])
        return moved

    async def delete(self, entry: Entry) -> None:
        await self._call("delete")
        self.files.pop(int(entry.label), None)

    async def aclose(self) -> None:
        pass


@dataclass
class MemoryContent:
    backend: MemoryBackend
    entry: Entry

    async def prepare(self) -> None:
        await self.backend._call("prepare")

    async def read(self, start: int, stop: int) -> Buffer:
        await self.backend._call("read")
        entry, data = self.backend._held(self.entry.id)
        if self.entry.version not in (None, entry.version):
            raise Stale("changed")
        assert 0 <= start < stop <= len(data), "a reader asks for nothing that is not there"
        self.backend.sent += stop - start
        return data[start:stop]

    async def stream(self, stretch: Stretch) -> None:
        start = stretch.next
        view = memoryview(await self.read(start, stretch.stop))
        while view:
            piece, view = view[: stretch.piece or None], view[stretch.piece or len(view) :]
            stretch.arrived(piece)

    async def pour(self, sink: Sink) -> None:
        await self.backend._call("pour")
        _, data = self.backend._held(self.entry.id)
        await trio.to_thread.run_sync(sink.begin, len(data) if self.backend.announces else None)
        for start in range(0, len(data), self.backend.piece):
            await trio.sleep(self.backend.latency_s)
            await trio.to_thread.run_sync(sink.write, data[start : start + self.backend.piece])
        if self.entry.version not in (None, self.backend._held(self.entry.id)[0].version):
            raise Stale("changed")


@dataclass
class MemoryMultipart:
    backend: MemoryBackend

    @property
    def rules(self) -> Parts:
        assert self.backend.capabilities.parts is not None
        return self.backend.capabilities.parts

    async def begin(self, target: Target, size: int | None) -> MemoryUpload:
        return await self.backend.begin_upload(target, size)

    async def resume(self, target: Target, token: str) -> MemoryUpload:
        return await self.backend.resume_upload(target, token)


@dataclass
class MemoryUpload:
    backend: MemoryBackend
    target: Target
    token: str
    parts: dict[int, bytes] = field(default_factory=dict)
    aborted: bool = False
    completed: bool = False

    async def put_part(self, number: int, source: Source) -> Receipt:
        await self.backend._call("part")
        self.parts[number] = b"".join(source.chunks())
        return Receipt(number, hashlib.md5(self.parts[number]).hexdigest(), source.size)

    async def complete(self, receipts: list[Receipt], size: int) -> Entry:
        await self.backend._call("complete")
        assert [receipt.number for receipt in receipts] == sorted(self.parts) == list(range(1, len(self.parts) + 1))
        rules = self.backend.capabilities.parts
        assert rules is not None
        assert all(len(self.parts[n]) >= rules.least for n in sorted(self.parts)[:-1])
        assert all(len(part) <= rules.greatest for part in self.parts.values())
        data = b"".join(self.parts[number] for number in sorted(self.parts))
        assert len(data) == size
        self.completed = True
        return self.backend._saved(self.target, data)

    async def abort(self) -> None:
        self.aborted = True
        await self.backend._call("abort")


@asynccontextmanager
async def opened(
    path: Path,
    backend: MemoryBackend,
    *,
    capacity: int = 1 << 30,
    memory: int = 1 << 20,
    outbox: bool = False,
    account: str | None = None,
    at: str = "/memory/box",
    **site: Any,
) -> AsyncIterator[tuple[Vfs, Node]]:
    """A mount without a door; its state is below `path`. What is left when the block ends is what a crash leaves.

    With `outbox` it is as the daemon makes one: what an earlier one left is sent. Listings are kept for an `account`.
    """
    path.mkdir(exist_ok=True)
    storage = Storage(path, cache_bytes=memory, disk_bytes=capacity, account=lambda site, salt: account)
    spool = None if outbox else Spool(path / "spool")
    sites = [Site("memory", "memory", backend, **site)]
    async with assembled(sites, storage, spool=spool, tended=outbox) as vfs:
        yield vfs, await vfs.resolve(at)


mounted = partial(opened, outbox=True)


def told(spool: Spool) -> list[dict[str, Any]]:
    """Return what lies in a spool, as it is told to people and on the disk."""
    return [json.loads(json.dumps(left.report())) for left in spool.leftovers()]


def evict(blocks: Blocks) -> None:
    """Evict all blocks from memory, as others would."""
    capacity, blocks.capacity = blocks.capacity, 0
    blocks._make_room()
    blocks.capacity = capacity
