"""Saves that did not reach their server: sent as soon as the server answers, by this mount or the next.

Before a retry the server's files are compared with the save: if only the answer was lost, the server has the file.
No save is sent over a newer one, made here or by somebody else. The number of retries is not limited; a save that
was refused for good is left to a person (`labfs outbox`).

Tests: core/test_outbox, core/test_windows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import trio

from labfs.backend import Accept, Entry, Target
from labfs.errors import Busy, Conflict, Held, IsDirectory, LabfsError, NoBytes, NotDirectory, NotFound, Unavailable
from labfs.read.reader import Reader
from labfs.tree import names
from labfs.tree.node import Folder, Kind, Node
from labfs.tree.site import Site
from labfs.tree.tree import Tree
from labfs.vfs import policy
from labfs.vfs.files import Files
from labfs.vfs.outbox.pending import LEFT, described, under_way_s, was_there
from labfs.vfs.replacing import target
from labfs.write.early import withdraw
from labfs.write.journal import Changes, Identity, Note, Over, Spooled, State, saves, unasked
from labfs.write.spool import ORDER

log = logging.getLogger(__name__)

FIRST_TRY_S = 15.0  # after a save failed: the site was unavailable just now
LONGEST_WAIT_S = 300.0
COMPARED = 1024 * 1024  # bytes at a time
LATE_S = 150.0  # after this time a request whose answer was lost is not carried out any more

Work = Callable[[Spooled], Awaitable[bool]]  # false: to be tried again


class Outbox:
    """Sends the saves that wait in the spool of `files`; one task per site, so that no site waits for another."""

    def __init__(self, tree: Tree, files: Files, sites: tuple[Site, ...]) -> None:
        self._tree = tree
        self._sources = files.sources
        self._saves = files.saves
        self._spool = files.saves.spool
        self._waiting = files.saves.waiting
        self._replacing = files.saves.replacing
        self._sites = sites
        self._pauses: dict[str, trio.CancelScope] = {}  # by site
        self._asked = 0  # number of calls of `retry`

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for site in self._sites:
                if site.may_write:
                    nursery.start_soon(self._tend, site)

    # -- commands of a person --------------------------------------------------------------------------

    def retry(self, name: str | None, over: Over | None = None) -> int:
        """Queue the failed save of that name, or all that may be sent unasked, for a retry; return how many.

        A named save goes over any version on the server, or only over the version with the identity `over`.
        """
        left = saves(self._spool.leftovers())
        if name is None:
            chosen = unasked(left, State.FAILED, State.WAITING)
            chosen += [kept for kept in left if kept.note.is_duty and kept.note.state in LEFT]
        else:
            chosen = [kept for kept in left if kept.file.stem == name and kept.note.state in LEFT]
        chosen = [kept for kept in chosen if not self._is_lent(kept, name)]
        for kept in chosen:
            if name is not None or kept.note.state is State.FAILED:  # a waiting save stays as it was asked for
                self._spool.mark(kept, **_again(kept.note, insisted=name is not None, over=over))
        self._waiting.changed()
        self._asked += 1
        for pause in self._pauses.values():
            pause.cancel()  # somebody waits
        return len(chosen)

    async def plan(self, name: str) -> dict[str, Any]:
        """Return, as a sentence, what sending a named save would do; `over` identifies the version it would replace."""
        kept = self._found(name)
        note, size, path = kept.note, _size(kept), kept.note.path
        if note.is_duty:
            return {"sentence": f"The old file of {path}, which a save has replaced, is deleted."}
        torn = ", which was never closed and may not be whole," if note.is_unfinished else ""
        what = f"{name} ({size:,} bytes{torn and ' so far'})"
        try:
            parent = await self._parent(note)
        except LabfsError as error:
            return {"sentence": f"{what}{torn} is saved as {path}, over whatever is there then. ({error})"}
        there = _place(parent, note)
        if there is None or there.entry is None:
            return {"sentence": f"{what}{torn} is saved as a new file, {path}.", "over": []}
        await self._sources.measure(there)
        seen = Identity.of(there.entry)
        version = described(there.entry, begun=note.opened == seen)
        return {"sentence": f"{what}{torn} is saved over {there.path}: {version}.", "over": seen}

    def discard(self, name: str) -> None:
        """Delete the bytes of a save for good. Raises NotFound, and Busy while a temporary file shows the bytes."""
        kept = self._found(name)
        self._is_lent(kept, name)
        self._spool.reopen(kept).discard()
        if kept.note.upload is not None:
            self._saves.nursery.start_soon(self._tried, kept, self._withdrawn)
        if kept.note.is_duty:
            self._tree.spare(kept.note.site, target(kept.note).id)
        self._waiting.changed()

    def _found(self, name: str) -> Spooled:
        for kept in saves(self._spool.leftovers()):
            if kept.file.stem == name:
                return kept
        raise NotFound(f"The outbox has no “{name}”.")

    def _is_lent(self, kept: Spooled, name: str | None) -> bool:
        """Whether a temporary file here still shows the bytes of a save; raises Busy if the save was named."""
        for node in self._saves.local():
            if node.writer is not None and node.writer.spool.path == kept.file:
                if name is not None:
                    raise Busy(f"It is still here as {node.path}: rename that to save it, or remove it and try again.")
                return True
        return False

    # -- the task of each site -------------------------------------------------------------------------

    async def _tend(self, site: Site) -> None:
        wait_s, again_s = 0.0, FIRST_TRY_S  # saves of an earlier mount are sent at once
        while True:
            news = self._waiting.news
            with trio.move_on_after(wait_s) as self._pauses[site.name]:
                await news.wait()
                await trio.sleep(FIRST_TRY_S)
            asked = self._asked
            left, more = await self._round(site)
            again_s = min(2 * again_s, LONGEST_WAIT_S) if left else FIRST_TRY_S
            wait_s = FIRST_TRY_S if more else again_s if left else float("inf")
            if asked != self._asked:
                wait_s = 0.0  # while this round was under way

    async def _round(self, site: Site) -> tuple[bool, bool]:
        """Try all that waits for a site; return whether some still waits, and whether more has come meanwhile."""
        left: set[Path] = set()
        owing = not self._waiting.flush()
        try:
            for kept, work in self._jobs(site):
                if not await self._tried(kept, work):
                    left.add(kept.file)
            more = {kept.file for kept, _ in self._jobs(site)} - left
        except OSError as error:
            log.error("The outbox cannot be read: %s", error)
            return True, False
        return bool(left) or owing, bool(more)

    def _jobs(self, site: Site) -> Iterator[tuple[Spooled, Work]]:
        """Yield what waits for a site, and what is to be done with it."""
        yield from ((kept, self._retired) for kept in self._waiting.duties(site.name))
        yield from ((kept, self._send) for kept in self._due(site))
        yield from ((kept, self._swept) for kept in self._waiting.strays(site.name))
        yield from ((kept, self._withdrawn) for kept in self._waiting.unfinished(site.name))

    def _due(self, site: Site) -> list[Spooled]:
        """Return the latest waiting save of each path, and mark the earlier ones as overtaken."""
        due = self._waiting.due(site.name)
        for kept in due:
            self._waiting.supersede(kept.note.path, kept.file)
        return due

    async def _tried(self, kept: Spooled, work: Work) -> bool:
        """Do `work` for one save; false if it is to be retried, else done or marked as failed."""
        path = kept.note.path
        try:
            return await work(kept)
        except (Unavailable, Held, OSError) as error:
            log.info("%s still waits: %s", path, error)
            return False
        except LabfsError as error:
            log.warning("%s cannot be sent: %s", path, error)
            reason = self._saves.refused(path, error)
        except Exception:
            log.exception("%s cannot be sent; this is a mistake in labfs", path)
            reason = "labfs made a mistake; its log says more"
        try:
            self._spool.mark(kept, state=State.FAILED, error=reason, insisted=False)
        except OSError:
            return False
        self._waiting.changed()
        return True

    async def _retired(self, kept: Spooled) -> bool:
        """Retry a duty: delete a file that another has replaced."""
        if self._is_there(kept):
            await self._replacing.go_on(await self._parent(kept.note), kept)
        return True

    async def _swept(self, kept: Spooled) -> bool:
        """Delete the files of an overtaken save that arrived late, where each version is a file of its own."""
        parent = await self._parent(kept.note)
        there = parent.children.get(_last(kept.note))
        if self._is_there(kept) and there is not None and policy.deletes_old(there):
            for node in await self._arrivals(parent, kept):
                if node is not there and node.entry is not None and parent.site.may_delete:
                    log.info("%s arrived late and is deleted: a newer save has its place.", node.path)
                    await parent.site.backend.delete(node.entry)
                    self._tree.bury(parent, node.entry)
                    self._tree.expire(parent)
            if 0 <= time.time() - (kept.note.begun or 0.0) < LATE_S:
                return False
        self._spool.mark(kept, begun=None)
        self._waiting.changed()
        return True

    async def _withdrawn(self, kept: Spooled) -> bool:
        """Withdraw the upload of a save that will not be gone on with."""
        folder, upload = await self._parent(kept.note), kept.note.upload
        if upload is not None:
            target = Target(folder.entity, folder.folders, _last(kept.note))
            await withdraw(folder.site.backend, target, upload.token)
        self._spool.mark(kept, upload=None)
        self._waiting.changed()
        return True

    async def _send(self, kept: Spooled) -> bool:
        if not self._is_there(kept):
            return True
        name, parent = _last(kept.note), await self._parent(kept.note)
        arrived = await self._arrivals(parent, kept)
        if not arrived and (pause_s := under_way_s(kept)) > 0:
            await trio.sleep(pause_s)
            parent = await self._parent(kept.note)
            arrived = await self._arrivals(parent, kept)
        if arrived:
            log.info("%s had arrived: only the answer was lost.", kept.note.path)
            await self._had_arrived(arrived[0], kept)
            return True
        now = self._still_due(kept)
        if now is None:
            return True
        there = _place(parent, now.note)
        if there is not None and (there.writer is not None or there in self._saves.moving):
            return False  # the file is being written or removed just now: that is newer than this save
        if there is not None and there.is_dir:
            raise IsDirectory(f"A directory is called “{name}” now; what was written is kept here.")
        opened, base = self._opened(there, now.note)
        if there is not None:
            policy.check_writable(there)  # it was writable when it was opened
            self._saves.resume(there, now, base, opened)
        else:
            policy.check_holds(parent, Accept.FILE, name)
            policy.check_room(parent, name)
            there = Node(name, parent, Kind.UNBORN)
            self._saves.resume(there, now, base, opened)
            self._tree.attach(there, parent, name)
        return await self._saves.send(there)

    async def _had_arrived(self, node: Node, kept: Spooled) -> None:
        """Discard a save that the server has; where its old file is still there, delete that file."""
        duty, note, entry = None, kept.note, node.entry
        opened = note.opened
        if entry is not None and opened is not None and opened.id != entry.id and policy.deletes_old(node):
            replaced = Entry(
                id=opened.id, name=entry.name, is_dir=False, age=note.after, version=opened.version, size=opened.size
            )
            duty = self._replacing.owe(note.site, note.path, replaced, entry)
            self._tree.arrived(node, entry, replaced)
        self._waiting.supersede(note.path, kept.file)
        self._spool.reopen(kept).discard()
        self._waiting.changed()
        if duty is not None:
            await self._replacing.go_on(node.parent, Spooled(duty.note, duty.path, 0))

    def _is_there(self, kept: Spooled) -> bool:
        """Whether a save's file is still in the spool, and was not discarded by name."""
        if kept.file.exists():
            return True
        self._waiting.changed()
        return False

    def _still_due(self, kept: Spooled) -> Spooled | None:
        """Return a save with its present note; None if it was overtaken or discarded meanwhile."""
        due = self._waiting.due(kept.note.site) if self._is_there(kept) else []
        return next((now for now in due if now.file == kept.file), None)

    async def _parent(self, note: Note) -> Folder:
        """Return the directory of a save, listed anew. Raises NotFound or NotDirectory."""
        return await self._directory(note.path.rpartition("/")[0], note.path)

    async def _directory(self, path: str, whole: str) -> Folder:
        """Return the directory of a save, listed anew; makes folders that only the mount knew. Raises NotFound."""
        folder, listed = self._tree.root, None
        for name in filter(None, path.split("/")):
            if folder.container is not listed:
                listed = folder.container
                await self._tree.certain(folder)
            try:
                below = await self._tree.child(folder, name)
            except NotFound:
                if folder.is_root or Accept.FOLDER not in folder.entity.takes:
                    raise NotFound(f"The directory of {whole} is not on the server any more.") from None
                below = self._tree.add_folder(folder, name)
            if not isinstance(below, Folder):
                raise NotDirectory(f"{below.path} is a file now, and so the directory of {whole} is gone.")
            folder = below
        if folder.container is not listed:
            await self._tree.certain(folder)
        return folder

    def _opened(self, there: Node | None, note: Note) -> tuple[Entry | None, Reader | None]:
        """Return the version to save over, and a reader of its bytes that the spool lacks. Raises Conflict."""
        now = there.entry if there is not None else None
        if note.missing:
            if now is None or there is None or note.opened != Identity.of(now):
                raise Conflict("The version on the server that it builds on is gone; what was written is kept.")
            return now, self._sources.reader(there)
        if note.insisted:
            if note.over not in (None, () if now is None else Identity.of(now)):
                raise Conflict("The file was changed again since it was asked for; see what is there now.")
            return now, None
        if now is None and names.original(_last(note)) != names.meant(note.path, note.name):
            raise Conflict("The file that it was saved over is gone, and so is the name that told it from its twins.")
        if now is None or note.opened == Identity.of(now):
            return now, None
        no_bytes = there is not None and isinstance(there.trouble, NoBytes)
        if note.opened is None and no_bytes and now.age > note.after:
            return now, None  # made by this very save, which was interrupted before any byte had arrived
        raise Conflict("Somebody else saved this file meanwhile; theirs is on the server, yours is kept here.")

    async def _arrivals(self, parent: Folder, kept: Spooled) -> list[Node]:
        """Return the server's files with the name and the bytes of a save that were not there before it."""
        note, size, found = kept.note, _size(kept), []
        if note.missing or size > kept.bytes:
            return []
        name = names.meant(note.path, note.name)
        for node in [*parent.children.values(), *parent.unlisted.values()]:
            entry = node.entry
            if entry is None or not node.on_server or entry.name != name or was_there(entry, note):
                continue
            await self._sources.measure(node, surely=True)
            if node.entry is not None and node.entry.size == size and await self._same(node, kept):
                found.append(node)
        return found

    async def _same(self, node: Node, kept: Spooled) -> bool:
        reader, spool = self._sources.reader(node), self._spool.reopen(kept)
        try:
            for start in range(0, reader.size, COMPARED):
                theirs = await reader.read(start, COMPARED)
                if bytes(theirs) != spool.read(start, min(start + COMPARED, reader.size)):
                    return False
        finally:
            spool.close()
        return True


def _place(parent: Folder, note: Note) -> Node | None:
    """Return the file that a save goes over: the one it was begun on, even if its path changed with its twins."""
    number, name = note.opened.id if note.opened is not None else None, names.meant(note.path, note.name)
    for node in parent.children.values():
        entry = node.entry
        if entry is not None and node.on_server and (entry.id, entry.name) == (number, name):
            return node
    return parent.children.get(_last(note))


def _again(note: Note, *, insisted: bool, over: Over | None) -> Changes:
    """Return the changes to the note of a save that is to be sent once more."""
    if note.is_duty:
        return {"state": State.REPLACING}
    news: Changes = {"state": State.WAITING, "insisted": insisted, "over": over}
    return {**news, "number": ORDER.next()} if insisted else news  # naming a save makes it the latest


def _size(kept: Spooled) -> int:
    """Return the size of a save in bytes: of the spool file, if the save was never closed."""
    return kept.bytes if kept.note.size is None else kept.note.size


def _last(note: Note) -> str:
    return note.path.rpartition("/")[2]
