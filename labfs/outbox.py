"""Saves that did not reach their server: sent as soon as it answers, by this mount or the next.

Nothing is sent twice without looking: an answer may have been lost, and then the server has the file. Nothing
is sent over a newer save, made here or by somebody else. And nothing is given up after so many tries: what
waits, waits; what was refused for good is left to a person (`labfs outbox`).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import trio

from labfs import names, rules
from labfs.backend import Accept, Entry, Site
from labfs.errors import Busy, Conflict, IsDirectory, LabfsError, NoBytes, NotFound, Unavailable
from labfs.files import Files
from labfs.notes import known
from labfs.reader import Reader
from labfs.tree import Node, Tree
from labfs.waiting import identity

log = logging.getLogger(__name__)

Note = dict[str, Any]

FIRST_TRY_S = 15.0  # after a save failed: the site has just been away
LONGEST_WAIT_S = 300.0
COMPARED = 1024 * 1024  # bytes at a time


class Outbox:
    """Sends what waits in the spool of `files`; each site has a task of its own, so that none waits for another."""

    def __init__(self, tree: Tree, files: Files, sites: tuple[Site, ...]) -> None:
        self._tree = tree
        self._files = files
        self._sites = sites
        self._hurry_until = float("-inf")

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for site in self._sites:
                if site.may_write:
                    nursery.start_soon(self._tend, site)

    def retry(self, name: str | None) -> int:
        """Have failed saves sent again, all of them or the one of that name; return how many."""
        chosen = [note for note in self._files.spool.leftovers() if note["state"] in ("failed", "waiting")]
        chosen = [note for note in chosen if known(note) and (name is None or _name(note) == name)]
        if name is None:  # over a newer save only if somebody says so
            chosen = [note for note in chosen if not note.get("overtaken")]
        chosen = [note for note in chosen if not self._is_lent(note, name)]
        for note in chosen:
            # Whoever says so by name has seen that somebody else saved, or does not care.
            self._files.spool.mark(note, state="waiting", insisted=name is not None)
        self._hurry_until = trio.current_time() + 1.0
        self._files.waiting.changed()
        return len(chosen)

    def _is_lent(self, note: Note, name: str | None) -> bool:
        """Whether a temporary file here still shows the bytes of a save; raises Busy if that was asked for by name."""
        for node in self._files.local():
            if node.writer is not None and str(node.writer.spool.path) == note["file"]:
                if name is not None:
                    raise Busy(f"It is still here as {node.path}: rename that to save it, or remove it and try again.")
                return True
        return False

    async def _tend(self, site: Site) -> None:
        wait_s, again_s = 0.0, FIRST_TRY_S  # what an earlier mount left goes at once
        while True:
            news = self._files.waiting.news
            with trio.move_on_after(wait_s):
                await news.wait()
                if trio.current_time() > self._hurry_until:
                    await trio.sleep(FIRST_TRY_S)
            left, more = await self._round(site)
            again_s = min(2 * again_s, LONGEST_WAIT_S) if left else FIRST_TRY_S
            wait_s = FIRST_TRY_S if more else again_s if left else float("inf")

    async def _round(self, site: Site) -> tuple[bool, bool]:
        """Try all that waits; say whether some of it still does, and whether more has come meanwhile."""
        left: set[str] = set()
        owing = not self._files.waiting.settle()
        try:
            for note in self._due(site):
                if not await self._sent(note):
                    left.add(note["file"])
            more = {note["file"] for note in self._due(site)} - left
        except OSError as error:
            log.error("The outbox cannot be read: %s", error)
            return True, False
        return bool(left) or owing, bool(more)

    def _due(self, site: Site) -> list[Note]:
        """Return, of each path, the last save that waits, or one that somebody insists on."""
        due = []
        for path, notes in list(self._files.waiting.notes().items()):
            *others, last = sorted(notes, key=lambda note: bool(note.get("insisted")))
            if last["site"] != site.name:
                continue
            due.append(last)
            if others:
                self._files.waiting.supersede(path, Path(last["file"]))
                self._files.waiting.changed()
        return due

    async def _sent(self, note: Note) -> bool:
        """Try one save; false if it is to be tried again."""
        try:
            return await self._send(note)
        except (Unavailable, OSError) as error:
            log.info("%s still waits: %s", note["path"], error)
            return False
        except LabfsError as error:
            log.warning("%s cannot be sent: %s", note["path"], error)
            reason = str(error)
        except Exception:
            log.exception("%s cannot be sent; this is a mistake in labfs", note["path"])
            reason = "labfs made a mistake; its log says more"
        try:
            self._files.spool.mark(note, state="failed", error=reason)
        except OSError:
            return False
        self._files.waiting.changed()
        return True

    async def _send(self, note: Note) -> bool:
        if not Path(note["file"]).exists():  # discarded by name
            self._files.waiting.changed()
            return True
        path, _, name = note["path"].rpartition("/")
        parent = await self._directory(path, note["path"])
        if await self._arrived(parent, name, note):
            log.info("%s had arrived: only the answer was lost.", note["path"])
            self._files.spool.reopen(note).discard()
            self._files.waiting.changed()
            return True
        if not self._waits(note):
            return True
        there = parent.children.get(name)
        if there is not None and there.writer is not None:
            return False  # somebody writes it just now: what they save is newer
        if there is not None and there.is_dir:
            raise IsDirectory(f"A directory is called “{name}” now; what was written is kept here.")
        opened, base = self._opened(there, note)
        if there is not None:
            rules.check_writable(there)  # which it was when it was opened
        else:
            rules.check_holds(parent, Accept.FILE, name)
            rules.check_room(parent, name)
            there = Node(name, parent, parent.site, is_dir=False)
        self._files.resume(there, note, base, opened)
        self._tree.attach(there, parent, name)
        return await self._files.send(there)

    def _waits(self, note: Note) -> bool:
        """Whether a save was neither overtaken nor discarded meanwhile."""
        if not Path(note["file"]).exists():
            self._files.waiting.changed()
        return any(note["file"] == other["file"] for other in self._files.waiting.notes().get(note["path"], []))

    async def _directory(self, path: str, whole: str) -> Node:
        """Return the directory that a save belongs into, listed anew; folders that only this mount knew are made."""
        node, listed = self._tree.root, None
        for name in filter(None, path.split("/")):
            if node.container is not listed:
                listed = node.container
                await self._tree.certain(node)
            try:
                node = await self._tree.child(node, name)
            except NotFound:
                if node.home.entry is None or Accept.FOLDER not in node.home.entry.accepts:
                    raise NotFound(f"The directory of {whole} is not on the server any more.") from None
                folder = Node(name, node, node.site, is_dir=True)
                folder.made_here = True
                self._tree.attach(folder, node, name)
                node = folder
        if node.container is not listed:
            await self._tree.certain(node)
        return node

    def _opened(self, there: Node | None, note: Note) -> tuple[Entry | None, Reader | None]:
        """Return the version that a save was begun on, and what reads the bytes that the spool lacks of it."""
        now = there.entry if there is not None else None
        known = note.get("opened")
        if note.get("missing"):
            if now is None or there is None or known != identity(now):
                raise Conflict("The version on the server that it builds on is gone; what was written is kept.")
            return now, self._files.sources.reader(there)
        if now is None or note.get("insisted") or (known is not None and known == identity(now)):
            return now, None
        if (
            known is None
            and there is not None
            and isinstance(there.trouble, NoBytes)
            and now.age > note.get("after", 0)
        ):
            return now, None  # made by this very save, which was broken off before any byte had arrived
        raise Conflict("Somebody else saved this file meanwhile; theirs is on the server, yours is kept here.")

    async def _arrived(self, parent: Node, name: str, note: Note) -> bool:
        """Whether a file of this name with these very bytes is there, other than the version it was begun on."""
        size = note["bytes"] if note.get("size") is None else note["size"]
        if note.get("missing") or size > note["bytes"]:
            return False
        for node in [*parent.children.values(), *parent.unlisted.values()]:
            entry = node.entry
            if entry is None or node.is_dir or node.local or entry.name != names.original(name):
                continue
            if entry.age < note.get("after", 0):
                continue  # going back to what an older version held is a save too
            if note.get("opened") == identity(entry) and entry.version is not None:
                continue
            await self._files.sources.measure(node, surely=True)
            if node.entry is not None and node.entry.size == size and await self._same(node, note):
                return True
        return False

    async def _same(self, node: Node, note: Note) -> bool:
        reader, spool = self._files.sources.reader(node), self._files.spool.reopen(note)
        try:
            for start in range(0, reader.size, COMPARED):
                theirs = await reader.read(start, COMPARED)
                if bytes(theirs) != spool.read(start, min(start + COMPARED, reader.size)):
                    return False
        finally:
            spool.close()
        return True


def _name(note: Note) -> str:
    return str(note["file"]).rpartition("/")[2].removesuffix(".data")
