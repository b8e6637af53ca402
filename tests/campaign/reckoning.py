"""What a system and both mounts hold, compared with the ledger."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

from campaign import outbox
from campaign.ledger import GONE, Name, digest_of
from campaign.pair import seen
from campaign.systems import Stored

if TYPE_CHECKING:
    from campaign.rounds import Campaign
    from campaign.scenes import Plan

SLOW_S = 17.5  # that a call of looking or reading may take
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
        busy = any(save.round == campaign.rounds and save.side == side for save in name.saves)
        known = name.closed | before[path] | {result for save in name.saves for result in save.results if busy}
        if read["digest"] not in known and not (busy and _is_part(campaign, name, read)):
            campaign.fault(
                _strange(campaign, name, bytes.fromhex(read["bytes"])), path, f"read in side {side}: {_short(read)}"
            )


def _is_part(campaign: Campaign, name: Name, read: dict[str, Any]) -> bool:
    """Whether it is what a program has written so far, which shows at once in the same mount."""
    data = bytes.fromhex(read["bytes"])
    return read["size"] == 0 or campaign.contents.is_beginning(
        data, set().union(*(s.results for s in name.saves)) - {GONE}
    )


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
    for side, what in enumerate(looks):
        if not twins:
            _check_view(campaign, name, side, live, what)
    held = {_digest(file) for file in live} or {GONE}
    everything = {_digest(file) for file in stored}
    for save in name.saves:
        if save.results & everything:
            save.kept = False
    name.found(held, listed)
    if len(campaign.found) > before or twins:
        campaign.give_up(name)


def newest(stored: list[Stored]) -> list[Stored]:
    """Return the newest version of a path, with those of the same second."""
    latest = max((int(file.made) for file in stored), default=0)
    return [file for file in stored if int(file.made) == latest]


def _digest(file: Stored) -> str:
    return "without bytes" if file.data is None else digest_of(file.data)


def _check_stored(
    campaign: Campaign, name: Name, stored: list[Stored], live: list[Stored], plan: Plan | None, listed: Counter[int]
) -> None:
    held = [_digest(file) for file in live] or [GONE]
    counts = Counter(_digest(file) for file in stored)
    expected = f"expected one of {_names(name.possible)}, found {_names(held)}; {name.history()}"
    for file in stored:
        if file.data is None and not sum(listed.values()):
            campaign.fault("torn", name.path, f"a record without bytes and no save that waits; {name.history()}")
        elif file.data is not None and digest_of(file.data) not in name.closed:
            campaign.fault(
                _strange(campaign, name, file.data), name.path, f"{len(file.data)} bytes on the server; {expected}"
            )
    if campaign.system.versions:
        _check_versions(campaign, name, counts, held, expected)
    elif len(live) > 1:
        wanted = name.settled == set(held) and plan is not None and plan.both
        if not wanted:
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


def _strange(campaign: Campaign, name: Name, data: bytes) -> str:
    """Return the kind of fault that bytes are which nobody has closed."""
    begun = set().union(*(save.results for save in name.saves)) - {GONE}
    return "torn" if digest_of(data) in begun or campaign.contents.is_beginning(data, begun) else "mixed"


def _check_view(campaign: Campaign, name: Name, side: int, live: list[Stored], what: dict[str, Any]) -> None:
    """A mount shows the plain name with these bytes, no second name for it, and no two names for one file."""
    read, listed = what["files"].get(name.base, {}), what.get("listed", {})
    held = {_digest(file) for file in live if file.data is not None}
    if held and read.get("digest") not in held:
        campaign.fault("hidden", name.path, f"side {side} shows {_short(read)}, not {_names(held)}; {name.history()}")
    if not live and read.get("errno") != ENOENT:
        campaign.fault(
            "come back", name.path, f"side {side} shows {_short(read)}, and the system has none; {name.history()}"
        )
    stem, dot, ending = name.base.rpartition(".")
    twin = re.compile(rf"{re.escape(stem)} \[[^\]]*\]{re.escape(dot + ending)}")
    twins = [other for other in listed if twin.fullmatch(other)]
    if twins:
        campaign.fault("doubled", name.path, f"side {side} lists {', '.join(twins)} beside it; {name.history()}")
    same = [other for other, number in listed.items() if number == listed.get(name.base) and other != name.base]
    if same:
        campaign.fault("doubled", name.path, f"side {side}: {', '.join(same)} has the same inode number")
