"""What a system and both mounts hold, compared with the ledger."""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from campaign import outbox
from campaign.ledger import GONE, Name, Save
from campaign.pair import seen
from campaign.systems import Stored

if TYPE_CHECKING:
    from campaign.rounds import Campaign
    from campaign.scenes import Plan

SLOW_S = 17.5  # that a call of looking or reading may take
BELIEVED_S = 32.0
ENOENT = 2
Look = tuple[int, str, list[str], "subprocess.Popen[str]"]


# -- looking while it goes on ----------------------------------------------------------------------------


def begin_looks(campaign: Campaign) -> list[Look]:
    """Begin to look at a directory and to read a file in each mount."""
    looks = []
    for side in campaign.sides:
        name = campaign.chance.choice(campaign.names)
        looking = side.look(campaign.folder(side.number, name.directory), [name.base])
        looks.append((side.number, name.path, [name.base], looking))
    return looks


def end_looks(campaign: Campaign, looks: list[Look], before: dict[str, set[str]]) -> None:
    """Check how long it took, and that what was read is something that this name has had."""
    for side, path, _, looking in looks:
        what = seen(looking)
        _check_time(campaign, side, path, what)
        name = campaign.name(path)
        read = what["files"].get(path.rpartition("/")[2], {})
        if name is None or "digest" not in read:
            continue
        if any(save.round == campaign.rounds and save.side == side for save in name.saves):
            continue  # what a program writes shows at once in its own mount, beside what was there before
        known = name.closed | before[path]
        head = bytes.fromhex(read["bytes"])
        if read["digest"] not in known:
            kind = _strange(campaign, name, read["digest"], read["size"], head)
            campaign.fault(kind, path, f"read in side {side}: {_short(read)}")


def _begun(name: Name) -> set[str]:
    """Return everything that some program has begun to write."""
    return set().union(*(save.results for save in name.saves)) - {GONE}


def _check_time(campaign: Campaign, side: int, path: str, what: dict[str, Any]) -> None:
    if what["slowest_s"] > SLOW_S:
        campaign.fault("too slow", path, f"side {side}: {what['slowest']} took {what['slowest_s']:.1f} s")


def _short(read: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value)[:12] for key, value in read.items() if key != "bytes"}


# -- when all is quiet -----------------------------------------------------------------------------------


def check(campaign: Campaign, names: list[Name], plan: Plan | None = None) -> None:
    """Ask the system for every name, and both mounts after a refresh."""
    campaign.refresh(names)
    counted = [outbox.count(campaign, side) for side in campaign.sides]
    for directory in sorted({name.directory for name in names}):
        here = [name for name in names if name.directory == directory]
        stored = campaign.system.stored(directory)
        looks = [
            seen(side.look(campaign.folder(side.number, directory), [n.base for n in here])) for side in campaign.sides
        ]
        for name in here:
            _check_name(
                campaign,
                name,
                stored.get(name.base, []),
                looks,
                plan,
                Counter({s: c[name.path] for s, c in enumerate(counted)}),
            )
        for side, what in enumerate(looks):
            _check_time(campaign, side, directory, what)


def _check_name(
    campaign: Campaign, name: Name, stored: list[Stored], looks: list[dict[str, Any]], plan: Plan | None,
    listed: Counter[int],
) -> None:  # fmt: skip
    before = len(campaign.found)
    both = plan is not None and plan.both
    live = newest(stored) if campaign.system.versions else stored
    _check_stored(campaign, name, stored, live, plan, listed)
    twins = both and len(live) > 1 and not campaign.system.versions
    if twins:
        _check_twins(campaign, name, live)
    for side, what in enumerate(looks):
        if not twins and len(campaign.found) == before:
            _check_view(campaign, name, side, live, what)
    held = {file.digest for file in live} or {GONE}
    everything = {file.digest for file in stored}
    for save in name.saves:
        if save.results & everything:
            save.kept = False
    name.found(held, listed)
    if len(campaign.found) > before or twins:
        campaign.give_up(name)


def _saves(plan: Plan | None) -> list[Save]:
    """Return the saves of a plan that made two of one name at a time, or across each other."""
    orders = [order for stage in plan.stages for order in stage.orders] if plan is not None and plan.both else []
    return [save for order in orders for saves in order.commits.values() for save in saves]


def newest(stored: list[Stored]) -> list[Stored]:
    """Return the newest version of a path, with those of the same second."""
    latest = max((int(file.made) for file in stored), default=0)
    return [file for file in stored if int(file.made) == latest]


def _check_stored(
    campaign: Campaign, name: Name, stored: list[Stored], live: list[Stored], plan: Plan | None, listed: Counter[int]
) -> None:
    held = [file.digest for file in live] or [GONE]
    counts = Counter(file.digest for file in stored)
    expected = f"expected one of {_names(name.possible)}, found {_names(held)}; {name.history()}"
    for file in stored:
        if file.size < 0 and not sum(listed.values()):
            campaign.fault("torn", name.path, f"a record without bytes and no save that waits; {name.history()}")
        elif file.size >= 0 and file.digest not in name.closed:
            kind = _strange(campaign, name, file.digest, file.size, file.head)
            campaign.fault(kind, name.path, f"{file.size} bytes on the server; {expected}")
    if campaign.system.versions:
        _check_versions(campaign, name, counts, held, expected)
    elif len(live) > 1:
        both = {result for save in _saves(plan) if save.state == "acked" for result in save.results}
        if set(held) != both or len(held) != len(both):
            campaign.fault("doubled", name.path, f"{len(live)} files of one name; {expected}")
    elif held[0] not in name.possible and held[0] in {*name.closed, GONE}:
        back = name.settled == {GONE}
        campaign.fault("come back" if back else "lost", name.path, expected)
    if plan is not None and plan.crossing is not None and not campaign.system.versions:
        _check_crossing(campaign, name, plan, held)


def _check_versions(campaign: Campaign, name: Name, counts: Counter[str], held: list[str], expected: str) -> None:
    for save in name.saves:
        if save.state == "acked" and not save.results & counts.keys():
            campaign.fault("lost", name.path, f"{save} is nowhere; {expected}")
    asked = Counter(result for save in name.saves for result in save.results)
    for digest, count in counts.items():
        if count > max(1, asked[digest]):
            campaign.fault("doubled", name.path, f"{digest[:8]} is there {count} times; {expected}")
    if not set(held) & name.possible:
        campaign.fault("hidden", name.path, expected)


def _check_crossing(campaign: Campaign, name: Name, plan: Plan, held: list[str]) -> None:
    assert plan.crossing is not None
    soon, late = plan.crossing
    if soon.state == late.state == "acked" and not soon.results & set(held):
        campaign.fault("lost", name.path, f"{soon} was saved over unseen by {late}")


def _names(digests: set[str] | list[str]) -> str:
    return " ".join(sorted(digest[:8] for digest in digests)) or "nothing"


def _strange(campaign: Campaign, name: Name, digest: str, size: int, head: bytes) -> str:
    """Return the kind of fault that bytes are which nobody has closed."""
    begun = _begun(name)
    return "torn" if digest in begun or campaign.contents.is_part(size, head, begun) else "mixed"


def _check_view(campaign: Campaign, name: Name, side: int, live: list[Stored], what: dict[str, Any]) -> None:
    """A mount shows the plain name with these bytes, no second name for it, and no two names for one file.

    For some time after a save of its own a mount may believe that rather than a listing, which may lag.
    """
    wrong = _wrong(name, side, live, what)
    until = (
        max((save.ended for save in name.saves if save.side == side and save.state == "acked"), default=0) + BELIEVED_S
    )
    while wrong and time.time() < until:
        time.sleep(2.0)
        campaign.refresh([name])
        wrong = _wrong(
            name, side, live, seen(campaign.sides[side].look(campaign.folder(side, name.directory), [name.base]))
        )
    for kind, text in wrong:
        campaign.fault(kind, name.path, f"side {side} {text}; {name.history()}")


def _check_twins(campaign: Campaign, name: Name, live: list[Stored]) -> None:
    """Both mounts show all files of one name: one under the plain name, each other one under a name of its own.

    Which of them has the plain name may differ: a path goes on showing what its mount saved under it.
    """
    shown = []
    for side in campaign.sides:
        folder = campaign.folder(side.number, name.directory)
        found = [
            other for other in seen(side.look(folder, []))["listed"] if other == name.base or _is_twin(name, other)
        ]
        files = seen(side.look(folder, found))["files"]
        shown.append({other: str(read.get("digest"))[:8] for other, read in files.items()})
    expected = sorted(file.digest[:8] for file in live)
    for side, files in enumerate(shown):
        if sorted(files.values()) != expected:
            campaign.fault("hidden", name.path, f"side {side} shows {files} of {expected}; {name.history()}")
        elif name.base not in files:
            campaign.fault("hidden", name.path, f"side {side} shows {files}, none of them plain; {name.history()}")


def _is_twin(name: Name, other: str) -> bool:
    stem, dot, ending = name.base.rpartition(".")
    return re.fullmatch(rf"{re.escape(stem)} \[[^\]]*\]{re.escape(dot + ending)}", other) is not None


def _wrong(name: Name, side: int, live: list[Stored], what: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a mount shows otherwise than the system has it, by kind."""
    found = []
    read, listed = what["files"].get(name.base, {}), what.get("listed", {})
    held = {file.digest for file in live if file.size >= 0}
    if held and read.get("digest") not in held:
        found.append(("hidden", f"shows {_short(read)}, not {_names(held)}"))
    if not live and read.get("errno") != ENOENT:
        found.append(("come back", f"shows {_short(read)}, and the system has none"))
    if twins := [other for other in listed if _is_twin(name, other)]:
        found.append(("doubled", f"lists {', '.join(twins)} beside it"))
    inode = listed.get(name.base)
    if same := [other for other, number in listed.items() if number == inode and other != name.base]:
        found.append(("doubled", f"has {', '.join(same)} with the same inode number"))
    return found
