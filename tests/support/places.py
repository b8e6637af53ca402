"""One directory in each of the five systems, through a mount and behind it: what a save left on the server."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from clarity_stage import SAMPLE
from five_stage import Lab
from odm_stage import EMPTY

# The request that carries a file's bytes, once a save.
_UPLOADS = {
    "basespace": "POST /v1pre3/appresults/{id}/files",
    "clarity": "POST /api/v2/files/{id}/upload",
    "odm": "POST /api/v1/jobs/import/file/multipart",
    "portal": "POST /v1/attachments/",
}
SITES = tuple(_UPLOADS)


@dataclass
class Place:
    """A directory that takes files."""

    lab: Lab
    site: str
    path: Path  # through a mount

    def stored(self) -> dict[str, bytes | None]:
        """Return what the system holds, straight from its store; the newest of each name."""
        lab = self.lab
        match self.site:
            case "basespace":
                return dict(lab.basespace.stored)
            case "clarity":
                return dict(lab.clarity.stored(SAMPLE))
            case "odm":
                return {row["name"]: row["data"] for row in lab.odm.attached(EMPTY)}
            case "portal":
                return {row["filename"]: row["data"] for row in lab.team.rows()}
        raise AssertionError(self.site)

    def names(self) -> Counter[str]:
        """Count the files that the system holds by name: where a save is a newer version, every version."""
        lab = self.lab
        match self.site:
            case "basespace":
                return Counter(lab.basespace.paths)
            case "clarity":
                return Counter(name for name, _ in lab.clarity.stored(SAMPLE))
            case "odm":
                return Counter(row["name"] for row in lab.odm.attached(EMPTY))
        return Counter(row["filename"] for row in lab.team.rows())

    def uploads(self) -> int:
        """Return how many files were sent since the counters were reset, once it is quiet."""
        seen = -1
        while seen != (now := self.lab.sandbox.requests()[_UPLOADS[self.site]]):
            seen = now
            time.sleep(0.05)  # an answer is counted a moment after it is sent
        return seen

    def reset(self) -> None:
        self.uploads()  # what is counted late belongs to what came before
        self.lab.sandbox.reset()
