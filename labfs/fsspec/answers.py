"""Answers to the command line about the saves of this process: `labfs status` and `labfs outbox`.

Tests: mount/test_fsspec.
"""

from __future__ import annotations

import os
from typing import Any

from labfs.daemon import control, mounts
from labfs.daemon.config import Config
from labfs.errors import ConfigError
from labfs.vfs import LEFT, Vfs
from labfs.write.journal import Leftover, Spooled, seen_version


class Answers:
    """What a core tells about itself; a mount's daemon answers the same questions, and more."""

    def __init__(self, vfs: Vfs, config: Config, place: mounts.Place) -> None:
        self._vfs = vfs
        self._config = config
        self._place = place

    async def answer(self, request: control.Request) -> dict[str, Any]:
        outbox = self._vfs.outbox
        match request.get("op"):
            case "alive":
                return {"alive": True}
            case "status":
                return self._status()
            case "outbox":
                return {"notes": [left.report() for left in self._unsaved()]}
            case "plan":
                return await outbox.plan(request["name"])
            case "retry":
                return {"count": outbox.retry(request.get("name"), seen_version(request.get("over")))}
            case "discard":
                outbox.discard(request["name"])
                return {}
        raise ConfigError("A program without a mount does not know this request.")

    def _unsaved(self) -> list[Leftover]:
        """Return the saves that did not reach a server, also those whose notes a full disk refused."""
        owed = self._vfs.saves.waiting.owed()
        files = {kept.file for kept in owed}
        left = [left for left in self._vfs.saves.spool.leftovers() if left.file not in files]
        return [*(left for left in left if not isinstance(left, Spooled) or left.note.state in LEFT), *owed]

    def _status(self) -> dict[str, Any]:
        vfs = self._vfs
        return {
            "mountpoint": self._place.mountpoint,
            "pid": os.getpid(),
            "read_only": False,
            "log": "the program's own",
            "sites": [
                {"name": site.name, "kind": site.kind, "url": known.url, "access": known.access,
                 "outage": site.backend.outage, "doubt": None}
                for known, site in zip(self._config.sites, vfs.sites, strict=True)
            ],
            "listings": vfs.tree.remarks(),
            "uploads": vfs.uploads(),
            "local_files": len(vfs.saves.local()),
            "cache": {"bytes": vfs.store.blocks.size, "capacity": vfs.store.blocks.capacity},
            "copies": {"bytes": vfs.store.copies.size, "capacity": vfs.store.copies.capacity},
            "blocks_on_disk": {"bytes": vfs.store.shelf.size},
            "spool": {"free": vfs.saves.spool.free(), "kept": [left.report() for left in self._unsaved()]},
            "errors": [{"path": r.path, "reason": str(r)} for r in vfs.reasons.latest()],
        }  # fmt: skip
