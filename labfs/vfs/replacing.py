"""Files that another has replaced: deleted once the new one is on the server, also after a crash.

Where saving over a file creates a new entity and ends the old one, and where a file is renamed over another, the
deletion is a request of its own. Before it is sent the journal records it (a duty: see `spool`). Until it is done
the old file is hidden in this mount, and the outbox retries the deletion.

Tests: core/test_windows.
"""

from __future__ import annotations

import logging
from pathlib import Path

from labfs.backend import Entry
from labfs.errors import LabfsError, NotFound, NotPermitted, Stale, Unavailable
from labfs.tree import names
from labfs.tree.node import Folder, Node
from labfs.tree.site import Site
from labfs.tree.tree import Tree
from labfs.vfs.outbox.pending import Waiting
from labfs.write.journal import Identity, Note, Spooled, State
from labfs.write.spool import Spool, SpoolFile

log = logging.getLogger(__name__)


class Replacing:
    """The duties of a mount: in the spool, and in the tree, where the files to be deleted are hidden."""

    def __init__(self, tree: Tree, spool: Spool, waiting: Waiting) -> None:
        self._tree = tree
        self._spool = spool
        self._waiting = waiting

    def restore(self, sites: tuple[Site, ...]) -> None:
        """Hide the files that an earlier mount was about to delete."""
        for site in sites:
            for duty in self._waiting.duties(site.name):
                self._tree.doom(site.name, target(duty.note).id)

    def owe(self, site: str, path: str, old: Entry, new: Entry, *, renamed: bool = False) -> SpoolFile | None:
        """Record in the journal that `old` is to be deleted: `new` has replaced it, or is to be `renamed` over it.

        Returns None where the disk refuses the note: then the deletion is done without a duty.
        """
        self._tree.doom(site, old.id)
        name = None if renamed else new.name
        try:
            return self._spool.owe(site, path, Identity.of(old), new.id, renamed=renamed, name=name)
        except OSError as error:
            log.error("The end of %s is not written down: %s", old.id, error)
            return None

    async def remove(self, parent: Folder, old: Entry, duty: SpoolFile | None) -> None:
        """Delete a file that was replaced in `parent`. Raises the backend's error; Unavailable is retried later."""
        try:
            await parent.site.backend.delete(old)
        except LabfsError as error:
            self._fail(parent.site, old.id, duty, error)
            outlook = "labfs deletes it later" if isinstance(error, Unavailable) else "both are there now"
            sentence = f"“{old.name}” is saved, but its old file could not be deleted, and {outlook}: {error}"
            raise type(error)(sentence) from error
        finally:
            if duty is not None:
                duty.close()
        self._done(parent, old, duty)

    def follow(self, site: str, path: str, new: Entry) -> None:
        """Have the duties of a path depend on `new`, the file that has been saved there since."""
        try:
            for duty in self._waiting.duties(site, path):
                self._spool.mark(duty, arrived=new.id)
                self._waiting.forget()
        except OSError as error:  # the save is done all the same
            log.error("What is still to be deleted about %s cannot be written down: %s", path, error)

    async def finish(self, node: Node) -> None:
        """Do the duties of a path now, before it is removed or renamed."""
        for duty in self._waiting.duties(node.site.name, node.path):
            await self.go_on(node.parent, duty)

    async def go_on(self, parent: Folder, kept: Spooled) -> None:
        """Retry a duty in a directory that was listed just now. Raises the backend's error."""
        site, number, duty = parent.site, target(kept.note).id, self._spool.reopen(kept)
        try:
            old = await self._left(site, parent, kept)
        except LabfsError as error:
            self._fail(site, number, duty, error)
            raise
        if old is not None:
            await self.remove(parent, old, duty)
        else:
            self.drop(site, number, duty)
        self._waiting.changed()
        self._tree.expire(parent)

    def drop(self, site: Site, number: str, duty: SpoolFile | None) -> None:
        """Discard a duty: no file has replaced the old one, or the old one is gone."""
        self._tree.spare(site.name, number)
        if duty is not None:
            duty.discard()
            self._waiting.forget()

    def _done(self, parent: Folder, old: Entry, duty: SpoolFile | None) -> None:
        self._tree.bury(parent, old)  # the server may list the old file for a while yet
        self.drop(parent.site, old.id, duty)

    def _fail(self, site: Site, number: str, duty: SpoolFile | None, error: LabfsError) -> None:
        passing = isinstance(error, Unavailable)
        if not passing:
            self._tree.spare(site.name, number)
        if duty is None:
            return
        try:
            arrived = self._arrived(site, duty.path, duty.note)
            reason = f"its old file is still there: {error}"
            duty.describe(state=State.REPLACING if passing else State.FAILED, error=reason, arrived=arrived)
        except OSError as failure:
            log.error("The note of %s cannot be written: %s", duty.path, failure)
        self._waiting.changed()

    async def _left(self, site: Site, parent: Folder, kept: Spooled) -> Entry | None:
        """Return the file that is still to be deleted; None if it is gone, or was not replaced. Raises Stale."""
        wanted = target(kept.note)
        try:
            if not await self._is_replaced(site, parent, kept):
                return None
            old = await site.backend.stat(wanted.id)
        except NotFound:
            return None
        if old.version != wanted.version:
            raise Stale(f"“{old.name}” was changed by somebody else, and was not deleted.")
        if not site.may_delete:
            raise NotPermitted(f'Deleting is off for {site.name}; access = "full" in the configuration allows it.')
        return old

    async def _is_replaced(self, site: Site, parent: Folder, kept: Spooled) -> bool:
        """Whether another file has replaced the old one, so that it may be deleted. Raises NotFound."""
        name = names.meant(kept.note.path, kept.note.name)
        arrived = self._arrived(site, kept.file, kept.note)
        if arrived in {entry.id for entry in parent.called(name)}:
            return True
        if kept.note.renamed:
            return False
        try:
            return (await site.backend.stat(arrived)).name == name  # a listing may not show it yet
        except NotFound:
            if arrived == self._arrived(site, kept.file, kept.note):
                raise
            return True  # a later save has replaced it meanwhile

    def _arrived(self, site: Site, file: Path, note: Note) -> str:
        """Return the id of the file that has replaced the old one: newer than in `note` after another save."""
        found = [duty.note.arrived for duty in self._waiting.duties(site.name) if duty.file == file]
        return found[0] if found and found[0] is not None else note.arrived or ""


def target(duty: Note) -> Identity:
    """Return the file that a duty is to delete: `journal.parse` admits no duty without it."""
    if duty.opened is None:
        raise ValueError("a duty without its file")
    return duty.opened
