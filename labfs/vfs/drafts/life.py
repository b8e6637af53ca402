"""The life of drafts: files that were closed and stay on this machine, since their name is not final yet.

A draft ends when it is renamed (the rename is its save), when it is removed, when its time is over, or with the
mount. In the last two cases it is saved under the name that it has; a draft whose name marks it as incomplete goes
to the outbox, and an empty file that its system refuses is dropped. `signs` decides which files are drafts.

    EMPTY       until something is written to it
    UNFINISHED  until the mount ends
    TEMPORARY   for `DRAFT_S`, or the configured time, after it was last used
    PRIVATE     as long as TEMPORARY, and as long as the program that made it runs, a day at most
    SPILLED     as long as that program runs, a day at most

A draft is a file that stays here (`Kind.SCRATCH`) with a note in the state `DRAFT`, so that a crash loses none.

Tests: core/test_drafts, mount/test_drafts_mount.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import trio

from labfs.backend import Accept, Entry
from labfs.errors import LabfsError, NotFound
from labfs.tree import names
from labfs.tree.hiding import show_again
from labfs.tree.node import Folder, Kind, Node
from labfs.tree.tree import Tree
from labfs.vfs import policy
from labfs.vfs.drafts.signs import MARKS, Draft, Known, Maker, judge
from labfs.vfs.remote.sources import Sources
from labfs.vfs.saves import Saves
from labfs.write.journal import State
from labfs.write.writer import Writer

log = logging.getLogger(__name__)

DRAFT_S = 60.0
SPILLED_S = 2.0  # after the program that made the file has ended
LONGEST_S = 86_400.0
LOOK_S = 1.0  # between checks whether a draft's time is over
GIVEN_UP_S = 2.0  # in which a program may create again a file that it removed, where deleting is allowed
DATED_S = 60.0  # a file whose date, when closed, is older by more is a copy, and has its final name


@dataclass(slots=True)
class Closed:
    """A draft that was closed: its kind, its maker, and when it was used last (trio's clock)."""

    draft: Draft
    maker: Maker
    used: float

    def over(self, now: float, seconds: float) -> bool:
        """Whether the draft's time is over; `seconds` is the configured time."""
        idle = now - self.used
        match self.draft:
            case Draft.EMPTY | Draft.UNFINISHED:
                return False
            case Draft.TEMPORARY:
                return idle >= seconds
            case Draft.PRIVATE:
                return idle >= (LONGEST_S if self.maker.runs() else seconds)
            case Draft.SPILLED:
                return idle >= (LONGEST_S if self.maker.runs() else min(SPILLED_S, seconds))


@dataclass(slots=True)
class Removal:
    """A file of a server that was removed by a program that may be about to create it again."""

    parent: Folder
    name: str
    entry: Entry
    until: float


class Drafts:
    """The drafts of a tree; `known` holds the names that are a draft's whoever makes it.

    A draft waits `seconds` for its final name.
    """

    def __init__(self, tree: Tree, saves: Saves, sources: Sources, known: Known, seconds: float) -> None:
        self.known = known
        self._seconds = seconds
        self._tree = tree
        self._saves = saves
        self._sources = sources
        self._made: WeakKeyDictionary[Node, tuple[Draft | None, Maker]] = WeakKeyDictionary()
        self._folders: WeakKeyDictionary[Folder, Maker] = WeakKeyDictionary()
        self._closed: dict[Node, Closed] = {}
        self._removals: list[Removal] = []
        self._news = trio.Event()

    # -- what becomes one ------------------------------------------------------------------------------

    def judge(self, parent: Folder, name: str, maker: Maker) -> Draft | None:
        """Return what kind of draft a file that is to be created is, judged by its creation; None if it is none."""
        return judge(name, maker, parent.children, self.known)

    def made(self, node: Node, kind: Draft | None, maker: Maker) -> None:
        """Record a new file; whether it is a draft is decided when it is closed."""
        if self._in_folder(node):
            self._made[node] = self.known.kind(node.name) or Draft.PRIVATE, maker
        elif not node.stays_here:
            self._made[node] = kind, maker

    def made_folder(self, folder: Folder, maker: Maker) -> None:
        """Record a program's own folder: all files in it are drafts."""
        self._folders[folder] = maker

    def closed(self, node: Node) -> bool:
        """Hold back a file that is closed now if it is a draft; return whether it is."""
        writer = node.writer
        if node not in self._made or writer is None or node.unlinked:
            return False
        kind = self._kind(node, writer)
        if kind is not None:
            self._store(node, writer, kind)
        elif self._closed.pop(node, None) is not None:
            self._tree.leave(node)
        return kind is not None

    def refused(self, node: Node) -> bool:
        """Hold back a new file that its system refused because it is empty; return whether the file is new."""
        if node not in self._made or node.writer is None:
            return False
        self._store(node, node.writer, Draft.EMPTY)
        return True

    def _store(self, node: Node, writer: Writer, kind: Draft) -> None:
        self._tree.stay(node)
        self._closed[node] = Closed(kind, self._made[node][1], trio.current_time())
        writer.describe(state=State.DRAFT, unfinished=kind is Draft.UNFINISHED)
        self._notify()

    def _kind(self, node: Node, writer: Writer) -> Draft | None:
        kind, maker = self._made[node]
        if any(node.name + mark in node.parent.children for mark in MARKS):
            return Draft.UNFINISHED
        if kind is None and not writer.size and self.has(node.parent, maker):
            return Draft.TEMPORARY  # a placeholder for the draft that the program has written already
        if kind in (Draft.PRIVATE, Draft.SPILLED) and _is_dated(node, writer) and not self._in_folder(node):
            return None
        return kind

    def aside(self, node: Node, maker: Maker) -> None:
        """Record a file of the server that a program moved aside to put another in its place."""
        self._closed[node] = Closed(Draft.TEMPORARY, maker, trio.current_time())
        self._notify()

    def moved(self, node: Node) -> None:
        """Record a draft's new name, which may be a draft's as well."""
        closed = self._closed.get(node)
        if closed is None:
            return
        closed.used = trio.current_time()
        if self._in_folder(node) or self.known.kind(node.name) is Draft.UNFINISHED:
            closed.draft = Draft.UNFINISHED
        if node.writer is not None:
            node.writer.describe(state=State.DRAFT, unfinished=closed.draft is Draft.UNFINISHED)

    def used(self, node: Node) -> None:
        if node in self._closed:
            self._closed[node].used = trio.current_time()

    def forget(self, node: Node) -> None:
        self._closed.pop(node, None)
        self._made.pop(node, None)

    def has(self, parent: Folder, maker: Maker) -> bool:
        """Whether a program has a closed draft in a directory."""
        if not maker.pid:
            return False
        return any(node.parent is parent and closed.maker.pid == maker.pid for node, closed in self._closed.items())

    def all(self) -> list[Node]:
        return [node for node in self._closed if node.writer is not None]

    def holds(self, node: Node) -> bool:
        return node in self._closed

    def in_folder(self, folder: Folder) -> bool:
        """Whether all that is made in a directory is a draft."""
        return any(
            above in self._folders and above.stays_here for above in folder.ancestry() if isinstance(above, Folder)
        )

    def _in_folder(self, node: Node) -> bool:
        return self.in_folder(node.parent)

    # -- how they end ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """End drafts and removals whose time is over; runs as long as the mount lives."""
        while True:
            news = self._news
            with trio.move_on_after(LOOK_S if self._closed or self._removals else float("inf")):
                await news.wait()
            now = trio.current_time()
            for removal in [one for one in self._removals if one.until <= now]:
                self._removals.remove(removal)
                with _no_mistake(removal.name):
                    await self._carry_out(removal)
            for node, closed in list(self._closed.items()):
                with _no_mistake(node.path):
                    if closed.over(trio.current_time(), self._seconds) and not self._is_busy(node):
                        await self.publish(node)

    def _is_busy(self, node: Node) -> bool:
        """Whether a file is open for writing, or another is about to be saved in the place it was moved from."""
        if self._saves.open(node) or node.entry is None:
            return self._saves.open(node)
        others = [other for other in node.parent.children.values() if other is not node and other.writer is not None]
        return any(other.entry is not None and other.entry.id == node.entry.id for other in others)

    async def publish(self, node: Node) -> None:
        """Save a draft under the name that it has."""
        closed = self._closed.pop(node, None)
        self._made.pop(node, None)
        if closed is None or node.unlinked:
            return
        if node.writer is None and self._has_its_name(node, node.parent):
            self._tree.detach(node)  # it was a view
            return
        log.info("%s was not renamed, and is saved under this name.", node.path)
        self._tree.leave(node)
        try:
            self._make_folders(node.parent)
            names.for_saving(node.name)
            policy.check_holds(node.parent, Accept.FILE, node.name)
            policy.check_room(node.parent, node.name)
            if node.writer is None:
                await self._lend(node)
            elif node.entry is not None:
                node.writer.touch()  # a backup that was given bytes of its own
                self._tree.take(node, None)
            self._saves.relabel(node)
        except (LabfsError, OSError) as error:
            log.error("%s cannot be saved: %s", node.path, error)
            await self._saves.give_up(node, error)
            return
        await self._saves.send(node)

    def _make_folders(self, parent: Folder) -> None:
        """Turn a program's own folder, and those above it, into folders to be saved. Raises if one cannot be made."""
        for above in parent.ancestry():
            if above.kind is Kind.SCRATCH:
                policy.check_holds(above.parent, Accept.FOLDER, above.name)
        for above in parent.ancestry():
            if above.kind is Kind.SCRATCH:
                self._tree.leave(above)

    def _has_its_name(self, node: Node, parent: Folder) -> bool:
        """Whether the server still shows a file that was moved aside, in its version, under its old name."""
        if node.entry is None:
            return True
        for name, hidden in list(parent.hidden.items()):
            if hidden.entry.id == node.entry.id:
                show_again(parent, name)
                self._tree.expire(parent)
        version = (node.entry.id, node.entry.version)
        others = [other.entry for other in parent.children.values() if other is not node and not other.stays_here]
        return version in {(entry.id, entry.version) for entry in others if entry is not None}

    async def _lend(self, node: Node) -> None:
        """Copy the bytes of an older version, so far only viewed, into a spool file of the node's own."""
        writer = self._saves.begin(node, await self._sources.open(node))
        await writer.fill()
        writer.touch()
        self._tree.take(node, None)

    async def end(self, seconds: float) -> None:
        """Settle all drafts when the mount ends; those not saved within `seconds` wait for the next mount."""
        with trio.move_on_after(max(seconds, 0.0)):
            for removal in self._removals:
                with _no_mistake(removal.name):
                    await self._carry_out(removal)
            for node, closed in list(self._closed.items()):
                with _no_mistake(node.path):
                    if closed.draft not in (Draft.EMPTY, Draft.UNFINISHED) and not self._saves.open(node):
                        await self.publish(node)
        for node, closed in list(self._closed.items()):
            self.forget(node)
            if closed.draft is not Draft.EMPTY and node.writer is not None and not node.unlinked:
                self._tree.leave(node)
                await self._saves.leave(node, unfinished=closed.draft is Draft.UNFINISHED or self._saves.open(node))

    # -- removals --------------------------------------------------------------------------------------

    def removed(self, parent: Folder, name: str, entry: Entry) -> None:
        """Schedule the deletion of a file, unless a new file takes its name within `GIVEN_UP_S`."""
        self._removals.append(Removal(parent, name, entry, trio.current_time() + GIVEN_UP_S))
        self._notify()

    async def _carry_out(self, removal: Removal) -> None:
        parent, entry = removal.parent, removal.entry
        hidden = parent.hidden.get(removal.name)
        if hidden is None or hidden.entry.id != entry.id:
            return  # a new file has its name
        path = f"{parent.path.rstrip('/')}/{removal.name}"
        try:
            await parent.site.backend.delete(entry)
        except NotFound:
            pass
        except LabfsError as error:
            log.error("%s could not be deleted: %s", path, error)
            show_again(parent, removal.name)
            self._tree.expire(parent)
            return
        self._tree.bury_hidden(parent, removal.name, entry)
        self._saves.waiting.supersede(path, None, "the file was removed since")

    def _notify(self) -> None:
        self._news.set()
        self._news = trio.Event()


@contextmanager
def _no_mistake(what: str) -> Iterator[None]:
    """Log an unexpected exception over one file, so that it does not end the task of all drafts and the mount."""
    try:
        yield
    except Exception:
        log.exception("%s could not be seen to; this is a mistake in labfs", what)


def _is_dated(node: Node, writer: Writer) -> bool:
    """Whether a file was given an older date: `tar`, `cp -p` and their like set the date of the original."""
    return node.modified_ns is not None and node.modified_ns < writer.modified_ns - DATED_S * 1e9
