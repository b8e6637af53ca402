"""The life of a save: from the first write to a file until a server has it, or the outbox.

What starts a save: a close (`flush`, and `release` for late writes of a memory map), a truncation of a closed file,
a rename that gives a local file an ordinary name, the outbox, and the end of a mount. Each leads through `save`.

Why there is one upload: a file that is being written has one writer, shared by all its handles; a writer sends the
changes since its last commit, one commit at a time; a save that replaces a file names that file in its target, so
that the system replaces it and the next open gets the new one.

Tests: core/test_saves, core/test_windows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from labfs.backend import Backend, Entry, Target
from labfs.errors import LabfsError, Unfinished, sentence
from labfs.errors.reasons import Reasons
from labfs.read.reader import Reader
from labfs.tree import names
from labfs.tree.node import Node
from labfs.tree.tree import Tree
from labfs.vfs import policy
from labfs.vfs.conflicts import unchanged
from labfs.vfs.leases import Leases
from labfs.vfs.outbox.pending import Waiting, begun_on
from labfs.vfs.remote.sources import Sources
from labfs.vfs.replacing import Replacing
from labfs.write.journal import KILLED, NEVER_CLOSED, NEVER_NAMED, Changes, Spooled, State
from labfs.write.spool import Spool, SpoolFile
from labfs.write.writer import Writer

log = logging.getLogger(__name__)


class Saves:
    """The files of a tree that are being written; `spool` takes their bytes, `writers` counts who may write to one."""

    def __init__(
        self,
        nursery: trio.Nursery,
        tree: Tree,
        sources: Sources,
        spool: Spool,
        reasons: Reasons,
        writers: Callable[[Node], int],
        leases: Leases,
    ) -> None:
        self.nursery = nursery
        self.spool = spool
        self.waiting = Waiting(spool)
        self.replacing = Replacing(tree, spool, self.waiting)
        self.moving: list[Node] = []  # files that are being removed or renamed on a server: the outbox skips them
        self.untold: dict[str, LabfsError] = {}  # path → error of a save that failed after its close had been answered
        self._tree = tree
        self._sources = sources
        self._reasons = reasons
        self._writers = writers
        self._leases = leases
        self._writing: dict[Node, _Landing] = {}

    # -- writers -------------------------------------------------------------------------------------

    def begin(self, node: Node, base: Reader | None, replaces: Entry | None = None) -> Writer:
        """Give a file a new writer, on top of the bytes that `base` reads or from nothing, and return it."""
        lacks, opened = base.size if base else 0, node.entry or replaces
        spool = self.spool.create(node.site.name, node.path, local=node.stays_here, lacks=lacks, **begun_on(opened))
        landing = self._writing[node] = _Landing(self, node)
        writer = landing.of(Writer(spool, base, opened, landing))
        self._tree.set_writer(node, writer)
        return writer

    def resume(self, node: Node, kept: Spooled, base: Reader | None, opened: Entry | None) -> None:
        """Give a file a writer with the bytes of an earlier save, which all readers here see from now on."""
        landing = _Landing(self, node)
        writer = Writer.adopted(self.spool.reopen(kept), base, opened, landing)
        self._tree.set_writer(node, landing.of(writer))
        self._tree.changed(node)  # the kernel's cached pages are of the server's version
        self._writing[node] = landing

    def relabel(self, node: Node, refused: str | None = None) -> None:
        """Record in a file's note its new path, or why its rename was `refused`."""
        if node.writer is not None:
            kept = State.DRAFT if node.writer.spool.note.state is State.DRAFT else State.LOCAL
            state = kept if node.stays_here else State.WRITING
            begun = begun_on(node.writer.opened)
            changes: Changes = {"path": node.path, "state": state, "opened": begun["opened"], "after": begun["after"]}
            if refused is not None:
                changes["state"], changes["error"] = State.FAILED, refused
            node.writer.spool.describe(**changes)

    def discard(self, node: Node) -> None:
        """Drop a file's writer and its spool file; the spool file of a failed save stays."""
        if node.writer is not None:
            spool = node.writer.spool
            self.nursery.start_soon(node.writer.end_early)
            spool.close() if spool.note.state is State.FAILED else spool.discard()
            self._tree.set_writer(node, None)
        self._writing.pop(node, None)
        self._leases.end(node)

    def unsaved(self) -> list[Node]:
        """Return the files with bytes that are not on a server yet."""
        return [node for node in self._writing if node.writer and node.writer.dirty and not node.stays_here]

    def local(self) -> list[Node]:
        """Return the files that stay on this machine."""
        return [node for node in self._writing if node.stays_here]

    def cancel(self, what: str) -> str:
        """Cancel the upload of a path, or of a name in the outbox; return the path. Raises NotFound."""
        for node in list(self._writing):
            writer = node.writer
            if writer is not None and what in (node.path, writer.spool.path.stem) and writer.cancel():
                return node.path
        return self.waiting.hold(what)

    def open(self, node: Node) -> bool:
        """Whether a program may write to a file still."""
        return self._writers(node) > 0

    # -- saving --------------------------------------------------------------------------------------

    async def save(self, node: Node) -> None:
        """Upload a written file to its server. Raises the upload's error; the bytes stay in the spool.

        Where the old file is deleted afterwards, an error of the deletion is raised as well: the save is done then,
        and the journal holds the duty to delete.
        """
        await self.retire(node, *await self.commit(node))

    async def commit(self, node: Node) -> tuple[Entry | None, SpoolFile | None]:
        """Upload a written file to its server; return the old file that is to be deleted then, and the duty for it."""
        writer = node.writer
        if writer is None or node.stays_here or node.unlinked or not writer.dirty:
            return None, None
        landing = self._writing[node]
        try:
            entry = await writer.commit()
        except Exception as error:
            writer.error = error
            self._reasons.record(node.path, error)
            raise
        if entry is None:
            return None, None
        self.waiting.supersede(node.path, writer.spool.path)
        self._reasons.forget(node.path)
        await self._tree.told(node)
        return landing.retired

    async def aim(self, node: Node, writer: Writer) -> Target:
        """Return the target of a save, after the conflict check, backups and the journal. Raises Conflict and Held."""
        await self._leases.take(node)
        await trio.sleep(
            self.waiting.under_way_s(node.path)
        )  # an earlier request that lands later would undo this save
        target = await unchanged(node, self.target(node, writer))
        await self._keep_backups(node, target.replaces)
        self._journal_replaced(node, writer, target)
        return target

    def arrived(self, node: Node, entry: Entry, old: Entry | None) -> tuple[Entry | None, SpoolFile | None]:
        """Show a completed save in the tree; return the old file if it is to be deleted now, and the duty for it."""
        self._tree.saved(node, entry, old)
        self.replacing.follow(node.site.name, node.path, entry)
        if old is None or old.id == entry.id or not policy.deletes_old(node):
            return None, None
        return old, self.replacing.owe(node.site.name, node.path, old, entry)

    async def retire(self, node: Node, old: Entry | None, duty: SpoolFile | None) -> None:
        """Delete the file that a save has replaced. Raises the backend's error."""
        if old is None:
            return
        try:
            await self.replacing.remove(node.parent, old, duty)
        except LabfsError as error:
            self._reasons.record(node.path, error)
            raise

    def _journal_replaced(self, node: Node, writer: Writer, target: Target) -> None:
        """Record which files of that name the server already has: after a crash any other may be ours."""
        opened, note = target.replaces, writer.spool.note
        known = tuple(entry.id for entry in node.parent.called(target.name) if entry != opened)
        begun = begun_on(opened)
        if known or note.before or begun["opened"] != note.opened:  # it was saved before, or named
            writer.spool.describe(before=known, **begun)
        if target.name != names.meant(note.path, note.name):
            writer.spool.describe(name=target.name)

    async def _keep_backups(self, node: Node, replaced: Entry | None) -> None:
        """Copy the bytes of the file that is to be replaced into its backups, which were only views of it so far."""
        if replaced is None or not (policy.destroys_old(node) or policy.deletes_old(node)):
            return
        for other in list(node.parent.children.values()):
            if other.stays_here and other.writer is None and other.entry is not None and other.entry.id == replaced.id:
                await self.begin(other, await self._sources.open(other)).fill()

    def target(self, node: Node, writer: Writer) -> Target:
        """Return where a file is saved, as things stand."""
        opened, entity = writer.opened, node.parent.entity
        if opened is not None:
            return Target(entity, opened.folders, opened.name, opened)
        return Target(entity, node.parent.folders, names.original(node.name))

    async def try_save(self, node: Node) -> None:
        """Save a file and log an error, where no caller is left to raise it to."""
        try:
            await self.save(node)
        except (LabfsError, OSError) as error:
            log.error("%s could not be saved: %s", node.path, error)
        except Exception:
            log.exception("%s could not be saved; this is a mistake in labfs", node.path)

    # -- the end of writing --------------------------------------------------------------------------

    async def finish_writing(self, node: Node) -> None:
        """Save late writes, and drop the writer of a file that no handle can write to any more."""
        writer = node.writer
        if writer is None or node.stays_here or node.unlinked:
            return
        if writer.dirty and writer.error is None:
            await self.try_save(node)
            if isinstance(writer.error, LabfsError):
                self.untold[node.path] = writer.error
        await self._let_go(node, writer)

    async def send(self, node: Node) -> bool:
        """Save a file that no handle has open; false after a transient error: its bytes then wait again."""
        writer = node.writer
        if writer is None:
            return True
        await self.try_save(node)
        await self._let_go(node, writer)
        return not _passing(writer)

    async def finish(self, seconds: float) -> None:
        """Save closed files that are unsaved, for at most `seconds`; the bytes of the rest stay in the spool.

        A file that a program still has open may be incomplete, and is not saved.
        """
        with trio.move_on_after(max(seconds, 0.0)):  # the time may be over already
            for node in self.unsaved():
                if not self._writers(node):
                    await self.try_save(node)
        for node in list(self._writing):
            if node.writer is not None and node.writer.dirty and not (node.stays_here or node.unlinked):
                await self._set_aside(node, node.writer)
            else:
                self.discard(node)
        self.waiting.flush()

    async def give_up(self, node: Node, error: Exception) -> None:
        """Leave in the outbox, with the reason, a file that no handle has open and that its server will not accept."""
        self._reasons.record(node.path, error)
        if node.writer is not None:
            node.writer.error = error
            await self._let_go(node, node.writer)
        else:
            self._tree.detach(node)

    def refused(self, path: str, error: LabfsError) -> str:
        """Record why a save of a path will not be sent by itself; return the reason."""
        self._reasons.record(path, error)
        return str(error)

    async def leave(self, node: Node, *, unfinished: bool) -> None:
        """Leave a file in the outbox for the next mount, or for a person where it is unfinished."""
        if node.writer is not None:
            node.writer.error = Unfinished(NEVER_NAMED) if unfinished else None
            await self._set_aside(node, node.writer)

    def abandon(self, node: Node) -> None:
        """Mark a file whose writing process was killed as unfinished, so that its release does not save it."""
        if node.writer is not None and node.writer.dirty and not node.stays_here:
            node.writer.error = Unfinished(KILLED)
            self._reasons.record(node.path, node.writer.error)

    async def _let_go(self, node: Node, writer: Writer) -> None:
        """Drop a file's writer, unless the file was opened again meanwhile; unsaved bytes go to the outbox."""
        if node.writer is not writer or self._writers(node):
            return
        if writer.dirty:
            await self._set_aside(node, writer)
        else:
            self.discard(node)

    async def _set_aside(self, node: Node, writer: Writer) -> None:
        """Leave the bytes of an unfinished or failed save in the outbox, and show the server's version again."""
        await writer.end_early()
        self._tree.set_writer(node, None)
        self._writing.pop(node, None)
        self._leases.end(node)
        if node.entry is None:
            self._tree.detach(node)
        self._tree.changed(node)
        self._tree.expire(node.parent)
        reason = NEVER_CLOSED[1] if writer.error is None else sentence(writer.error)
        # An upload that was interrupted by a shutdown is continued by the next mount.
        closed = not self._writers(node) or writer.spool.note.state is State.SENDING
        closed = closed and not isinstance(writer.error, Unfinished)
        passing = closed and (writer.error is None or _passing(writer))
        if not writer.size and not passing:
            writer.spool.discard()
            return
        path, spool = node.path, writer.spool
        state, begun = State.WAITING if passing else State.FAILED, begun_on(writer.opened)
        news: Changes = {"path": path, "state": state, "error": reason}
        news["opened"], news["after"] = begun["opened"], begun["after"]  # which an earlier close may have saved
        if closed:
            self.waiting.supersede(path, spool.path)
        else:
            news["unfinished"] = True
        if not passing:
            news["insisted"] = False
        await self._write_down(writer, path, news)
        self.waiting.changed()
        if node.unlinked or node.path != path:
            self.waiting.supersede(path, None, "the file was removed or renamed since")
        log.error("%s was not saved (%s); its bytes are in %s.", node.path, reason, spool.path)

    async def _write_down(self, writer: Writer, path: str, news: Changes) -> None:
        try:
            writer.describe(**news)  # at once: a newer save must find it
            self.waiting.forget()
            await trio.to_thread.run_sync(writer.spool.sync)
        except OSError as error:
            log.error("The note of %s cannot be written: %s", writer.spool.path, error)
            self.waiting.owe(writer.spool, path, writer.persist, news)
        writer.spool.close()


class _Landing:
    """The destination of one file's uploads, for its writer: backend, target, and what follows a commit."""

    def __init__(self, saves: Saves, node: Node) -> None:
        self.retired: tuple[Entry | None, SpoolFile | None] = None, None  # the file that the last save replaced
        self._saves = saves
        self._node = node
        self._replaces: Entry | None = None
        self._writer: Writer | None = None

    def of(self, writer: Writer) -> Writer:
        """Become the destination of a writer, and return the writer."""
        self._writer = writer
        return writer

    @property
    def nursery(self) -> trio.Nursery:
        return self._saves.nursery

    @property
    def backend(self) -> Backend:
        return self._node.site.backend

    def target(self) -> Target | None:
        if self._writer is None or self._node.stays_here or self._node.unlinked:
            return None
        return self._saves.target(self._node, self._writer)

    async def aim(self) -> Target:
        self.retired = None, None
        assert self._writer is not None
        target = await self._saves.aim(self._node, self._writer)
        self._replaces = target.replaces
        return target

    def arrived(self, entry: Entry) -> None:
        self.retired = self._saves.arrived(self._node, entry, self._replaces)


def _passing(writer: Writer) -> bool:
    """Whether a save failed by a transient error: a site that is unavailable, or this machine's full disk."""
    error = writer.error
    return error.transient if isinstance(error, LabfsError) else isinstance(error, OSError) and writer.whole
