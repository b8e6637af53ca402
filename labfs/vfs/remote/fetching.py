"""Files that are brought onto this machine's disk before somebody needs them, and pinned there if they are to stay.

Of a system that sends ranges each block is written to the disk cache, waited for and not left out when the machine is
busy; of one that sends whole files the copy is. Nothing is fetched that is on the disk already.

Tests: core/test_fetching, mount/test_fetch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from labfs.errors import LabfsError
from labfs.tree.node import Folder, Node
from labfs.tree.tree import Tree
from labfs.vfs.remote.sources import Sources


@dataclass(frozen=True, slots=True)
class Fetched:
    """How far a file is; `error` is why it is not there."""

    path: str
    bytes: int
    size: int
    error: str | None = None

    @property
    def done(self) -> bool:
        return self.error is not None or self.bytes >= self.size


async def fetch(tree: Tree, sources: Sources, node: Node, *, pin: bool) -> AsyncGenerator[Fetched, None]:
    """Fetch a file, or all files of a directory and below; yield how far each is. A file that fails stops no other."""
    if isinstance(node, Folder):
        for child in list((await tree.children(node)).values()):
            async for step in fetch(tree, sources, child, pin=pin):
                yield step
        if (incomplete := tree.incomplete(node)) is not None:
            yield Fetched(node.path, 0, 0, str(incomplete))
    elif node.on_server:
        try:
            reader, _ = await sources.begin(node)
            async for there in reader.kept(node.path if pin else None):
                yield Fetched(node.path, there, reader.size)
        except LabfsError as error:
            yield Fetched(node.path, 0, 0, str(error))
        except OSError as error:
            yield Fetched(node.path, 0, 0, f"The disk of labfs's cache cannot take it: {error.strerror or error}.")
