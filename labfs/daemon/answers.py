"""Answers to the command line that every process with a core gives, a mount or a program without one.

Tests: mount/test_cli, mount/test_fsspec.
"""

from __future__ import annotations

from typing import Any

from labfs.daemon.control import Request
from labfs.daemon.report import Report
from labfs.errors import ConfigError
from labfs.vfs import Vfs
from labfs.write.journal import seen_version


async def of_saves(vfs: Vfs, report: Report, request: Request) -> dict[str, Any]:
    """Answer what is asked of saves, or done with them. Raises ConfigError for a request that is none of these."""
    match request.get("op"):
        case "alive":
            return {"alive": True}
        case "why":
            return report.why(request["path"])
        case "outbox":
            return {"notes": [left.report() for left in report.unsaved()]}
        case "plan":
            return await vfs.outbox.plan(request["name"])
        case "retry":
            return {"count": vfs.outbox.retry(request.get("name"), seen_version(request.get("over")))}
        case "discard":
            vfs.outbox.discard(request["name"])
            return {}
        case "cancel":
            return {"path": vfs.saves.cancel(request["what"])}
    raise ConfigError("The labfs that runs does not know this request: it is another version, or has no mount.")
