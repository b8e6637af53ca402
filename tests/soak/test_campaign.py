"""A few rounds of the campaign in every system: the kills and faults that a save is most afraid of.

`make soak` makes six hundred rounds; `python -m campaign SYSTEM` those of one system. The seed is LABFS_SEED.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from campaign import reckoning, scenes
from campaign.rounds import Campaign
from campaign.systems import SYSTEMS, Aim, opened
from stage import Sandbox

pytestmark = pytest.mark.mount

SEED = int(os.environ.get("LABFS_SEED", "1"))


def killed(what: str, *, late: bool = False) -> Any:
    """Return a scene: a file is saved over, and the daemon killed in the request of this name."""

    def scene(campaign: Campaign) -> scenes.Plan:
        aims = (*campaign.system.uploads, *campaign.system.seconds)
        aim: Aim = next(aim for aim in aims if aim.what == what)
        name = campaign.names[0]
        campaign.furnish(name)
        return scenes.interrupted(campaign, aim, "overwrite", name, late=late)

    return scene


def refused(what: str, status: int = 403) -> Any:
    """Return a scene: one request of a save over a file is refused, then everything is retried."""

    def scene(campaign: Campaign) -> scenes.Plan:
        aims = (*campaign.system.uploads, *campaign.system.seconds)
        return scenes.stuck(campaign, next(aim for aim in aims if aim.what == what), status)

    return scene


late = partial(scenes.unheard, answer={"status": 504}, late=True)
synced = partial(scenes.unfinished, synced=True)
unsynced = partial(scenes.unfinished, synced=False, retry=True)
DIRECTED: dict[str, list[Any]] = {
    "basespace": [scenes.spoiled, unsynced, scenes.overtaken, killed("completion")],
    "clarity": [killed("upload"), synced, scenes.overtaken, scenes.lent, scenes.aside],
    "odm": [killed("deletion"), refused("deletion"), unsynced, scenes.crossing],
    "portal": [killed("deletion"), killed("links"), late, synced, scenes.race],
    "redcap": [killed("request 5"), unsynced, scenes.overtaken],
}


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # daemons outlive the command line that started them here
@pytest.mark.parametrize("system", SYSTEMS)
def test_what_was_acknowledged_is_there_once_and_nothing_else(system: str, sandbox: Sandbox, tmp_path: Path) -> None:
    with opened(system, sandbox) as place:
        campaign = Campaign(tmp_path, place, SEED)
        try:
            campaign.start()
            for scene in DIRECTED[system]:
                campaign.round(scene)
            reckoning.check(campaign, campaign.names)
        finally:
            campaign.close()
    told = "\n".join(map(str, campaign.found))
    assert not campaign.found, f"LABFS_SEED={SEED}, {campaign.rounds} rounds, {campaign.kills} kills:\n{told}"
