"""Directories that somebody looks at are listed again from time to time, so that what others do there is seen.

Listed again are the directories whose names were read within `WATCHED_S`, every `poll_s` of their site or `SHARE` times
as long as the listing takes, one at a time of each site. What has changed is told to the doors, whose
programs may wait for news of a directory that they show. A site that does not answer is left alone for as long as any
look at that directory would leave it alone (`Rest`).

Tests: core/test_polling, mount/test_news.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from labfs.backend import Entry
from labfs.errors import LabfsError
from labfs.tree.node import Folder, Node
from labfs.tree.tree import Tree

WATCHED_S = 900.0  # for which a directory is listed again after a look
PAUSE_S = 1.0
SHARE = 10.0  # times as long as a listing takes: at most a tenth of a server's time is asked for
MOST = 64  # directories
LARGEST = 10_000  # names in a directory, at most: comparing more costs too much

Shown = dict[str, tuple[Node, Entry | None]]


@dataclass(slots=True)
class Change:
    """What others have done in a directory; the removed nodes are not in the tree any more."""

    folder: Folder
    added: list[Node] = field(default_factory=list)
    removed: list[Node] = field(default_factory=list)
    changed: list[Node] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


class Polling:
    """Lists directories of a tree again; `hears` are told of each change."""

    def __init__(self, tree: Tree) -> None:
        self.hears: list[Callable[[Change], Awaitable[None]]] = []
        self._tree = tree
        self._busy: set[str] = set()  # sites of which a directory is being listed
        self._looked: OrderedDict[Folder, float] = OrderedDict()  # → when its names were read, oldest first

    def looked(self, container: Folder) -> None:
        """Record that the names of a directory are read."""
        if self.hears and not container.is_root:
            self._looked[container] = trio.current_time()
            self._looked.move_to_end(container)
            if len(self._looked) > MOST:
                self._looked.popitem(last=False)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(PAUSE_S)
                for container in sorted(self._due(), key=lambda container: container.listed_at):
                    if container.site.name not in self._busy:
                        self._busy.add(container.site.name)
                        nursery.start_soon(self._poll, container)

    def _due(self) -> Iterator[Folder]:
        now = trio.current_time()
        for container, at in list(self._looked.items()):
            if now - at > WATCHED_S or container.parent.children.get(container.name) is not container:
                del self._looked[container]
            elif _is_due(container, now):
                yield container

    async def _poll(self, container: Folder) -> None:
        try:
            before = {folder: _shown(folder) for folder in container.listed_with()}
            with suppress(LabfsError):  # whoever looks is told
                await self._tree.list_anew(container)
            for folder, shown in before.items():
                if change := _compared(folder, shown):
                    for hear in self.hears:
                        await hear(change)
        finally:
            self._busy.discard(container.site.name)


def _is_due(container: Folder, now: float) -> bool:
    if container.listing is not None or container.rest.on or not container.is_whole:
        return False
    wait_s = max(container.site.poll_s, SHARE * container.took_s)
    return container.site.poll_s > 0 and now - container.listed_at >= wait_s and len(container.children) <= LARGEST


def _shown(folder: Folder) -> Shown:
    return {name: (node, node.entry) for name, node in folder.children.items()}


def _compared(folder: Folder, before: Shown) -> Change:
    """Return what is another than before, of what a server has: what programs here do they know."""
    change, after = Change(folder), _shown(folder)
    for name, (node, entry) in after.items():
        was = before.get(name)
        if was is None or was[0] is not node:
            (change.added if was is None else change.changed).append(node)
        elif entry != was[1] and node.on_server:
            change.changed.append(node)
    change.removed = [node for name, (node, _) in before.items() if name not in after]
    return change
