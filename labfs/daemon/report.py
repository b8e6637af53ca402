"""What a mount tells of itself: how its sites are, what is under way, and why something failed.

Tests: mount/test_status, mount/test_why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from labfs.daemon.checks import Checks
from labfs.daemon.config import Config, SiteSettings
from labfs.daemon.mounts import Place
from labfs.errors import ended
from labfs.errors.reasons import Reason
from labfs.tree.node import Node
from labfs.tree.site import Site
from labfs.vfs import LEFT, Vfs, why_read_only
from labfs.write.journal import Leftover, Spooled, State

if TYPE_CHECKING:
    from labfs.shared.share import Share

READ_ONLY = "This is mounted with --read-only: labfs and the kernel refuse every change (EROFS)."

WAITS = "it waits for its server"
RETRIED = "Once that is put right: labfs outbox retry {0}; to be rid of it: labfs outbox discard {0}."
SENT_LATER = "You need not save it again: it is sent by itself as soon as its server takes it."


class Report:
    """Answers about the mount at `place`; `level` returns its log level."""

    def __init__(
        self, config: Config, place: Place, checks: Checks, vfs: Vfs, share: Share | None, *, read_only: bool
    ) -> None:
        self._config = config
        self._place = place
        self._checks = checks
        self._vfs = vfs
        self._share = share
        self._read_only = read_only

    # -- sites -----------------------------------------------------------------------------------------

    def _doubt(self, site: Site) -> str | None:
        """Return what a site's check at the mount failed with, unless the site has answered well since."""
        return None if site.backend.health.well_s > float("-inf") else self._checks.doubts.get(site.name)

    def _trouble(self, site: Site) -> str | None:
        health = site.backend.health
        return health.outage or health.refusal or self._doubt(site)

    def _forget_what_passed(self) -> None:
        for site in self._vfs.sites:
            if self._trouble(site) is None:
                self._vfs.reasons.recovered(site.name, site.backend.health.well_s)

    def _site(self, settings: SiteSettings, site: Site) -> dict[str, Any]:
        health, doubt = site.backend.health, self._doubt(site)
        state = "silent" if health.outage else "refused" if health.refusal else "doubtful" if doubt else "well"
        if state == "well" and health.well_s == float("-inf"):
            state = "unasked"
        return {
            "name": site.name,
            "kind": site.kind,
            "url": settings.url,
            "access": settings.access if site.may_write else "read",
            "state": state,
            "latency_s": None if health.latency_s is None else round(health.latency_s, 4),
            "outage": health.outage,
            "refusal": health.refusal,
            "doubt": doubt,
        }

    # -- the whole -------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return the state of the mount as plain data, sizes in bytes."""
        vfs, blocks, copies = self._vfs, self._vfs.store.blocks, self._vfs.store.copies
        self._forget_what_passed()
        return {
            "mountpoint": self._place.mountpoint,
            "pid": os.getpid(),
            "read_only": self._read_only,
            "log": str(self._place.log),
            "sites": [self._site(*each) for each in zip(self._config.sites, vfs.sites, strict=True)],
            "listings": vfs.tree.remarks(),
            "uploads": vfs.uploads(),
            "local_files": len(vfs.saves.local()),
            "cache": {"bytes": blocks.size, "capacity": blocks.capacity},
            "copies": {"bytes": copies.size, "capacity": copies.capacity},
            "blocks_on_disk": {"bytes": vfs.store.shelf.size},
            "shared": None if self._share is None else self._share.report(),
            "reads": {"given": vfs.files.given, "fetched": vfs.store.fetched},
            "spool": {"free": vfs.saves.spool.free(), "kept": [left.report() for left in self.unsaved()]},
            "errors": [{"path": r.path, "reason": str(r)} for r in vfs.reasons.latest()],
        }

    def unsaved(self) -> list[Leftover]:
        """Return the saves that did not reach a server, also those whose notes a full disk refused."""
        owed = self._vfs.saves.waiting.owed()
        files = {kept.file for kept in owed}
        left = [left for left in self._vfs.saves.spool.leftovers() if left.file not in files]
        return [*(left for left in left if not isinstance(left, Spooled) or left.note.state in LEFT), *owed]

    # -- why -------------------------------------------------------------------------------------------

    def why(self, path: str) -> dict[str, Any]:
        """Return why something failed at a path, line by line, and why nothing can be changed there."""
        self._forget_what_passed()
        found = self._vfs.reasons.about(path)
        usual = found is not None and self._vfs.reasons.is_usual(found)
        lines = [] if found is None else [str(found) if found.path == path else f"{found.path}: {found}"]
        for more in (*self._of_outbox(path), *self._of_site(path), *self._of_listing(path, found)):
            more = more if found is None else _shortened(more, found.sentence)
            if not any(more in line for line in lines):
                lines.append(more)
        lines = lines or [f"In it, {each.path.rpartition('/')[2]}: {each}" for each in self._vfs.reasons.inside(path)]
        return {"reason": "\n".join(lines) or None, "change": self._refusal(path) if usual or not lines else None}

    def _of_outbox(self, path: str) -> Iterator[str]:
        for left in self.unsaved():
            if isinstance(left, Spooled) and left.note.path == path and not left.note.is_duty:
                name, shown = left.file.stem, left.note.shown
                yield f"A save of it is in the outbox as {name} ({shown}): {ended(left.note.error or WAITS)}"
                yield SENT_LATER if shown is State.WAITING else RETRIED.format(name)

    def _of_site(self, path: str) -> Iterator[str]:
        for site in self._vfs.sites:
            trouble = self._trouble(site) if site.name == path.strip("/").partition("/")[0] else None
            if trouble is not None:
                yield trouble

    def _of_listing(self, path: str, found: Reason | None) -> Iterator[str]:
        """Yield why a listing is not current, unless its directory is what could not be listed."""
        node = self._nearest(path)
        remark = self._vfs.tree.remark(node)
        if remark is not None and (found is None or found.path != node.container.path):
            yield remark

    def _refusal(self, path: str) -> str | None:
        return READ_ONLY if self._read_only else why_read_only(self._nearest(path))

    def _nearest(self, path: str) -> Node:
        """Return the node at a path, else the nearest one above it that the tree has, without a request."""
        while (node := self._vfs.known(path)) is None:
            path = path.rpartition("/")[0]
        return node


def _shortened(line: str, told: str) -> str:
    """Return a line without the reason at its end, if that was told already."""
    return f"{line.removesuffix(f': {told}')}." if line.endswith(f": {told}") else line
