"""All five systems as one lab: a place of the tests' own in each, seen by plain requests and through a mount."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import clarity_stage
import odm_stage
import portal_stage
import redcap_stage
from stage import Folder, Sandbox

SITES = ("basespace", "clarity", "odm", "portal", "redcap")


@dataclass
class Lab:
    """`places` are directories that take files, below a mount point; nothing in these systems takes time."""

    sandbox: Sandbox
    basespace: Folder
    clarity: clarity_stage.Clarity
    odm: odm_stage.Service
    portal: portal_stage.Service
    redcap: redcap_stage.Redcap
    team: portal_stage.Team
    record: str  # of REDCap
    places: dict[str, Path]

    def put(self, site: str, name: str, data: bytes) -> None:
        """Save a file in a site's place, by plain requests."""
        match site:
            case "basespace":
                self.basespace.put(name, data)
            case "clarity":
                self.clarity.put(f"samples/{clarity_stage.SAMPLE}", name, data)
            case "odm":
                self.odm.put(odm_stage.EMPTY, name, data)
            case "portal":
                self.team.put(name, data, self.team.material)
            case "redcap":
                self.redcap.put("biobank", name, data, record=self.record, field="counts")

    def requests(self, quiet_s: float = 0.1) -> int:
        """Return the number of requests since the last call, once all are answered and none came for a while."""
        total = -1
        while total != (counted := sum(self.sandbox.requests().values())) or not self.sandbox.settled():
            total = counted
            time.sleep(quiet_s)
        self.sandbox.reset()
        return total


@contextlib.contextmanager
def opened(sandbox: Sandbox) -> Iterator[Lab]:
    """Give the lab, and leave the systems as they were."""
    sandbox.calm()
    with (
        clarity_stage.Clarity(sandbox) as clarity,
        odm_stage.quick(sandbox) as odm,
        portal_stage.opened(sandbox) as portal,
        redcap_stage.opened(sandbox) as redcap,
    ):
        folder, record, team = sandbox.fresh(), redcap.record(), portal.new_team(portal_stage.ADA)
        places = {
            "basespace": folder.at(Path()),
            "clarity": Path("clarity", "Upload here", f"{clarity_stage.SAMPLE} blank-1"),
            "odm": Path("odm", odm.title(odm_stage.EMPTY), "Document"),
            "portal": Path("portal", team.name, "Material"),
            "redcap": Path("redcap", "biobank", record, "counts"),
        }
        try:
            yield Lab(sandbox, folder, clarity, odm, portal, redcap, team, record, places)
        finally:
            sandbox.calm()
            redcap.post("biobank", content="record", action="delete", records=[record])
            odm.clear(odm_stage.EMPTY)
