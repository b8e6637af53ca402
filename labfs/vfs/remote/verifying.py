"""Files that are read whole from their server, past everything that is kept here, and compared with its checksums.

A file without a checksum, or with one that is none (`checksums_prove`), is read twice: two equal readings show that the
way is sound, and prove nothing of what the server holds.

Tests: core/test_verifying, mount/test_fetch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum

import trio

from labfs.backend import Backend, Buffer, Entry
from labfs.errors import LabfsError, Stale
from labfs.read.digests import Running
from labfs.read.proof import hashes
from labfs.tree.node import Folder, Node
from labfs.tree.tree import Tree


class Verdict(StrEnum):
    PROVED = "proved"  # the bytes have the server's checksum
    EQUAL = "equal"  # there is no checksum, or none that proves; it came twice, and was the same
    WRONG = "wrong"  # the bytes have another checksum or size, or came otherwise the second time
    UNREAD = "unread"  # it could not be read


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found out about a file; `remark` says more where it is not proved."""

    path: str
    size: int  # bytes that came
    verdict: Verdict
    remark: str = ""


class _Pass:
    """One reading of a file, in a thread: its size, its checksum, and a digest of its bytes."""

    def __init__(self, entry: Entry, size: int) -> None:
        self._entry = entry
        self._size = size
        self.received = 0
        self.begin(None)

    def begin(self, size: int | None) -> None:
        self.size = 0
        self._hashes, self._digests = hashes(self._entry.checksum, self._size), Running()

    def write(self, data: Buffer) -> None:
        trio.from_thread.check_cancelled()  # whoever asked may have gone
        self.size += len(data)
        self.received = max(self.received, self.size)
        self._digests.update(data)
        for each in self._hashes:
            each.update(data)

    @property
    def matches(self) -> bool:
        """Whether the bytes have the checksum."""
        return any(each.matches() for each in self._hashes)

    def digest(self) -> bytes:
        self._digests.finish()
        return bytes(self._digests.values)


async def verify(tree: Tree, node: Node) -> AsyncGenerator[Verified, None]:
    """Read a file, or all files of a directory and below, from the server; yield what was found out about each."""
    if isinstance(node, Folder):
        try:
            children = list((await tree.children(node)).values())
        except LabfsError as error:
            yield Verified(node.path, 0, Verdict.UNREAD, str(error))
            return
        for child in children:
            async for each in verify(tree, child):
                yield each
        if (incomplete := tree.incomplete(node)) is not None:
            yield Verified(node.path, 0, Verdict.UNREAD, str(incomplete))
    elif node.on_server and node.entry is not None:
        try:
            entry = await node.site.backend.stat(node.entry.id)
            yield await _verified(node.path, node.site.backend, entry)
        except LabfsError as error:
            yield Verified(node.path, 0, Verdict.UNREAD, str(error))


async def _verified(path: str, backend: Backend, entry: Entry) -> Verified:
    if entry.unreadable:
        return Verified(path, 0, Verdict.UNREAD, entry.unreadable)
    once = await _read(backend, entry)
    if entry.size not in (None, once.size):
        remark = f"The server lists {entry.size:,} bytes, and sent {once.size:,}."
        return Verified(path, once.size, Verdict.WRONG, remark)
    if once.matches:
        return Verified(path, once.size, Verdict.PROVED)
    return Verified(path, once.size, *_judged(once, await _read(backend, entry), entry, backend))


def _judged(once: _Pass, twice: _Pass, entry: Entry, backend: Backend) -> tuple[Verdict, str]:
    """Return what two readings say of a file whose first one has not the checksum."""
    if once.digest() != twice.digest():
        damaged = "The first of two readings was damaged, the second was right."
        return Verdict.WRONG, damaged if twice.matches else "It came twice, each time otherwise."
    if entry.checksum is None:
        return Verdict.EQUAL, "Its system has no checksum of it."
    if not backend.capabilities.checksums_prove or entry.checksum.startswith("md5-of-parts:"):
        return Verdict.EQUAL, "What its server calls a checksum is another kind of tag."
    return Verdict.WRONG, "It came twice, and does not have the server's checksum."


async def _read(backend: Backend, entry: Entry) -> _Pass:
    """Read a file from its server. Raises the error of the download, and Stale if it is replaced meanwhile."""
    reading = _Pass(entry, entry.size or 0)
    await backend.content(entry).pour(reading)
    if entry.size is None and entry.checksum is not None:  # its checksum may be of parts, whose size follows from it
        again = _Pass(entry, reading.size)
        await backend.content(entry).pour(again)
        if again.size != reading.size:
            raise Stale("The file changed its size while it was read.")
        return again
    return reading
