"""Kill the daemon at every kind of moment, and ask the systems what became of what was promised.

A few rounds a system in every run; `make soak` makes three hundred of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from campaign import Campaign, Place
from clarity_stage import PROJECT, Clarity
from odm_stage import EMPTY, quick
from portal_stage import ADA
from portal_stage import opened as portal_opened
from redcap_stage import opened as redcap_opened
from stage import Sandbox

pytestmark = pytest.mark.mount

SOAK = bool(os.environ.get("LABFS_SOAK"))
ROUNDS = {"basespace": 140 if SOAK else 8, "clarity": 40 if SOAK else 3, "odm": 50 if SOAK else 3,
          "portal": 50 if SOAK else 3, "redcap": 25 if SOAK else 2}  # fmt: skip
KIB = 1024
SMALL = (1, 20 * KIB, 3_000_000)
FAULTS = [{"action": "status", "argument": 500}, {"action": "reset"}, {"action": "delay_s", "argument": 0.3}]


def basespace(stack: ExitStack, sandbox: Sandbox) -> Place:
    folder = sandbox.fresh()

    def stored() -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for row in sandbox.rows(folder.record):
            found.setdefault(row["path"], []).append((sandbox.directory / "blobs" / row["blob"]).read_bytes())
        return found

    sizes = (1, 20 * KIB, 3_000_000, 40_000_000)
    return Place(folder.at, stored, FAULTS, "basespace", sizes, parts=True)


def odm(stack: ExitStack, sandbox: Sandbox) -> Place:
    service = stack.enter_context(quick(sandbox))

    def stored() -> dict[str, list[bytes]]:
        files: dict[str, list[bytes]] = {}
        for row in service.attached(EMPTY):
            files.setdefault(row["name"], []).append(row["data"])
        return files

    title = service.title(EMPTY)
    stack.callback(service.clear, EMPTY)
    return Place(lambda mnt: mnt / "odm" / title / "Document", stored, FAULTS, "odm", SMALL)


def portal(stack: ExitStack, sandbox: Sandbox) -> Place:
    team = stack.enter_context(portal_opened(sandbox)).new_team(ADA)
    team.service.switch(body_limit=0)

    def stored() -> dict[str, list[bytes]]:
        files: dict[str, list[bytes]] = {}
        for row in team.rows():
            files.setdefault(row["filename"], []).append(row["data"])
        return files

    return Place(lambda mnt: mnt / "portal" / team.name / "_attachments", stored, FAULTS, "portal", SMALL)


def clarity(stack: ExitStack, sandbox: Sandbox) -> Place:
    service = stack.enter_context(Clarity(sandbox))

    def stored() -> dict[str, list[bytes]]:
        files: dict[str, list[bytes]] = {}
        for name, data in service.stored(PROJECT):
            if name.startswith("round "):
                files.setdefault(name, []).append(data or b"no bytes")
        return files

    return Place(lambda mnt: mnt / "clarity" / "Upload here" / "_project", stored, FAULTS, "clarity", SMALL)


def redcap(stack: ExitStack, sandbox: Sandbox) -> Place:
    service = stack.enter_context(redcap_opened(sandbox))
    (made,) = service.ask("biobank", "fileRepository", action="createFolder", name=f"Campaign {random.random()}")
    folder = made["folder_id"]
    name = next(row["name"] for row in service.ask("biobank", "fileRepository", action="list")
                if row.get("folder_id") == folder)  # fmt: skip

    def stored() -> dict[str, list[bytes]]:
        files: dict[str, list[bytes]] = {}
        for file, data in service.shelved(folder):
            files.setdefault(file, []).append(data)
        return files

    return Place(lambda mnt: mnt / "redcap" / "biobank" / ".repository" / name, stored, FAULTS, "redcap", SMALL[:2])


PLACES = {"basespace": basespace, "clarity": clarity, "odm": odm, "portal": portal, "redcap": redcap}


@contextmanager
def campaigning(base: Path, sandbox: Sandbox, system: str) -> Iterator[Campaign]:
    with ExitStack() as stack:
        campaign = Campaign(base, sandbox, PLACES[system](stack, sandbox), seed=int(os.environ.get("LABFS_SEED", "1")))
        try:
            campaign.mount.start()
            yield campaign
        finally:
            sandbox.faults()
            campaign.mount.clean_up()


@pytest.mark.timeout(3600 if SOAK else 300)
@pytest.mark.parametrize("system", PLACES)
def test_what_was_promised_outlives_every_kill(system: str, sandbox: Sandbox, tmp_path: Path) -> None:
    with campaigning(tmp_path, sandbox, system) as campaign:
        for _ in range(ROUNDS[system]):
            campaign.round()
        campaign.reckon()
        print(f"{system}: {campaign.rounds} rounds, killed while {dict(campaign.killed)}")  # noqa: T201
        if SOAK:
            wanted = {"spooling", "sending", "answered", "recovery"} | ({"parts"} if system == "basespace" else set())
            assert wanted <= set(campaign.killed), "a kind of moment was never hit: this campaign proves too little"
