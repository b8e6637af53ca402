"""What a person does with the outbox: list, retry with and without a name, export, discard."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from campaign.ledger import PENDING, Name, Save, digest_of
from campaign.pair import Held, Side, seen

if TYPE_CHECKING:
    from campaign.rounds import Campaign
    from campaign.scenes import Plan

MANY = 5  # saves in an outbox, of which a person gets rid


@dataclass(frozen=True)
class Line:
    """A save in the outbox, with its bytes as far as they are whole, and what the ledger knows of it."""

    held: Held
    name: Name | None
    data: bytes | None
    save: Save | None


def use(campaign: Campaign, plan: Plan) -> None:
    """Check what the outboxes list, and now and then do something about it."""
    chance = campaign.chance
    if plan.lent is not None:
        _take_back(campaign, plan)
    for side in campaign.sides:
        lines = listed(campaign, side)
        if plan.retry or (plan.retry is None and chance.random() < 0.35):
            if any(line.held.state == "failed" for line in lines) and chance.random() < 0.6:
                side.renew()  # an earlier mount has left them
            side.command("outbox", "retry")
            campaign.quiet()
            lines = listed(campaign, side)
        _check(campaign, side, lines)
        if lines and not plan.both and chance.random() < 0.15:
            _retry_one(campaign, side, chance.choice(lines))
        elif len(lines) > MANY or (lines and chance.random() < 0.1):
            _discard(campaign, side, lines[0])


def listed(campaign: Campaign, side: Side) -> list[Line]:
    """Return an outbox with its bytes; what cannot be had of them is a fault."""
    lines = []
    for held in side.outbox():
        name = campaign.name(held.path.removeprefix(f"/{campaign.system.title}/"))
        data = exported(campaign, side, held.name)
        whole = data is not None
        if not whole and exported(campaign, side, held.name, "--partial") is None:
            if side.command("outbox", "list").output.find(held.name) >= 0:
                campaign.fault(
                    "lost", held.path, f"{held.name} is listed, and none of its bytes are there: {held.reason}"
                )
            continue
        lines.append(Line(held, name, data, _save_of(campaign, side, name, data)))
    return lines


def exported(campaign: Campaign, side: Side, name: str, *options: str) -> bytes | None:
    target = campaign.base / f"export {campaign.number()}"
    done = side.command("outbox", "export", *options, name, target)
    if done.exit_code:
        return None
    data = target.read_bytes()
    target.unlink()
    return data


def _save_of(campaign: Campaign, side: Side, name: Name | None, data: bytes | None) -> Save | None:
    """Return the save whose bytes these are, or the beginning of these."""
    if name is None or data is None:
        return None
    own = [save for save in reversed(name.saves) if save.side == side.number]
    digest = digest_of(data)
    whole = [save for save in own if digest in save.results]
    begun = [
        save for save in own if save.state == "unfinished" and campaign.contents.is_part(len(data), data, save.results)
    ]
    return next(iter([*whole, *begun]), None)


def count(campaign: Campaign, side: Side) -> Counter[str]:
    return Counter(held.path.removeprefix(f"/{campaign.system.title}/") for held in side.outbox())


def _check(campaign: Campaign, side: Side, lines: list[Line]) -> None:
    """What was never closed is still there; so is what was refused and has not arrived."""
    there = Counter(line.name.path for line in lines if line.name is not None)
    for name in list(campaign.names):
        own = [save for save in name.saves if save.side == side.number and save.wrote and save.plain and save.kept]
        open_ = [save for save in own if save.state == "unfinished"]
        if len(open_) > there[name.path]:
            text = f"the outbox of side {side.number} lists {there[name.path]} of {len(open_)} unfinished saves"
            campaign.fault("lost", name.path, f"{text}: {name.history()}")
            for save in open_:
                save.kept = False


def _retry_one(campaign: Campaign, side: Side, line: Line) -> None:
    """Send one by its name, whatever is there: what it holds is the latest from then on."""
    if line.name is None or line.data is None:
        return
    again = Save(campaign.number(), campaign.rounds, side.number, line.name.path, "by name", set())
    again.results, again.state = {campaign.contents.keep(line.data)}, "refused"
    again.begun = again.ended = time.time()
    again.kept = False
    done = side.command("outbox", "retry", line.held.name)
    if done.exit_code:
        return
    line.name.begin(again)
    campaign.quiet()
    if all(held.name != line.held.name for held in side.outbox()):
        again.state = "acked"
        line.name.apply(again)
        if line.save is not None:
            line.save.kept = False


def _discard(campaign: Campaign, side: Side, line: Line) -> None:
    done = side.command("outbox", "discard", line.held.name)
    if done.exit_code == 0 and line.save is not None:
        line.save.kept = False
        if line.save.state in PENDING:
            line.save.state = "over"


def _take_back(campaign: Campaign, plan: Plan) -> None:
    """Discard the bytes of a refused rename: the temporary file is then whole, or gone, or the command refuses."""
    order = plan.lent
    assert order is not None
    side, temporary = campaign.sides[order.side], order.steps[0][1]
    (save,) = next(iter(order.commits.values()))
    if save.state != "refused":
        return
    for line in listed(campaign, side):
        if line.data is not None and digest_of(line.data) in save.results:
            _discard(campaign, side, line)
    _check_temporary(campaign, side, temporary, save)


def _check_temporary(campaign: Campaign, side: Side, path: str, save: Save) -> None:
    directory, _, name = path.rpartition("/")
    what = seen(side.look(Path(directory), [name]))
    told = {key: value for key, value in what["files"].get(name, {}).items() if key != "bytes"}
    if name in what.get("listed", {}) and told.get("digest") not in save.results:
        campaign.fault("lost", save.name, f"“{name}” is still shown after the discard, and reads as {told}")
