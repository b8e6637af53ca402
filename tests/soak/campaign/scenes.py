"""What can happen in one round: who writes what, which requests are spoiled, and when a daemon is killed.

A scene makes a `Plan` of stages, one after the other; the orders of a stage are carried out at the same time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from campaign.ledger import GONE, Name, Save
from campaign.systems import Aim

if TYPE_CHECKING:
    from campaign.rounds import Campaign

DELAY_S = 1.5  # of a request that a kill is aimed at
NEVER = {"action": "status", "argument": 503, "times": None}  # carried out, however often it is asked for
Step = list[Any]


@dataclass
class Order:
    """What one program does, and the saves that it makes by the number of the step that commits them."""

    side: int
    steps: list[Step]
    commits: dict[int, list[Save]]


@dataclass(frozen=True)
class Kill:
    """When a daemon is killed: in a request, at a word of the manifest, or after a while."""

    side: int
    aim: Aim | None = None
    word: str = ""
    after_s: float = 0.0
    watched: bool = False  # as soon as a file of the state directory goes


@dataclass
class Stage:
    orders: list[Order]
    faults: list[dict[str, Any]] = field(default_factory=list)
    kill: Kill | None = None
    weather_s: float = 4.0  # after which the faults end
    cold: bool = False  # the mounts begin anew first
    refusing: bool = False  # every upload is refused, for good
    later: Callable[[], Order] | None = None  # an order that depends on how earlier stages went


@dataclass
class Plan:
    what: str
    stages: list[Stage]
    retry: bool | None = None  # `outbox retry` at the end; None: by chance
    again: bool = False  # a second kill, while it recovers
    both: bool = False  # two programs save one name at a time, or across each other
    crossing: tuple[Save, Save] | None = None  # the second was begun before the first
    lent: Order | None = None  # a temporary file whose rename is refused
    adorned: bool = False


# -- programs --------------------------------------------------------------------------------------------


def program(campaign: Campaign, side: int, name: Name, kind: str, size: int | None = None) -> Order:
    """Return the order of one way to change a name; `kind` is a function of this module."""
    return PROGRAMS[kind](campaign, side, name, size)


def _made(campaign: Campaign, side: int, name: Name, kind: str, results: set[str]) -> Save:
    save = Save(campaign.number(), campaign.rounds, side, name.path, kind, results)
    name.begin(save)
    return save


def overwrite(campaign: Campaign, side: int, name: Name, size: int | None) -> Order:
    content = campaign.content(name, size)
    save, path = _made(campaign, side, name, "overwrite", {content}), campaign.path(side, name)
    steps = [["open", path, "w"], *campaign.pieces(content), ["close"]]
    return Order(side, steps, {len(steps) - 1: [save]})


def synced(campaign: Campaign, side: int, name: Name, size: int | None) -> Order:
    """Write, fsync, go on writing, close."""
    content = campaign.content(name, size)
    save, path = _made(campaign, side, name, "synced", {content}), campaign.path(side, name)
    first, *rest = campaign.pieces(content, least=2)
    steps = [["open", path, "w"], first, ["fsync"], *rest, ["close"]]
    return Order(side, steps, {len(steps) - 1: [save]})


def half(campaign: Campaign, side: int, name: Name, size: int | None) -> Order:
    """Write some of it, fsync or not, and leave it open."""
    content = campaign.content(name, size)
    save, path = _made(campaign, side, name, "half", {content}), campaign.path(side, name)
    first = campaign.pieces(content, least=3)[0]
    steps = [["open", path, "w"], first, *([["fsync"]] if campaign.chance.random() < 0.7 else []), ["hold"], ["close"]]
    return Order(side, steps, {len(steps) - 1: [save]})


def append(campaign: Campaign, side: int, name: Name, size: int | None) -> Order:
    more = campaign.contents.make(campaign.chance, 6 if campaign.chance.random() < 0.5 else 3000)
    added = campaign.contents.bytes(more)
    results = {campaign.contents.keep(campaign.contents.bytes(base) + added) for base in _bases(name)}
    save, path = _made(campaign, side, name, "append", results), campaign.path(side, name)
    steps: list[Step] = [["open", path, "a"], *campaign.pieces(more), ["close"]]
    return Order(side, steps, {len(steps) - 1: [save]})


def edit(campaign: Campaign, side: int, name: Name, size: int | None) -> Order:
    """Change some bytes in the middle."""
    bases = _bases(name)
    least = min(campaign.contents.size(base) for base in bases)
    length = max(1, min(2000, least // 3))
    new = campaign.contents.make(campaign.chance, length)
    results, start = set(), least // 3
    for base in bases:
        data = bytearray(campaign.contents.bytes(base))
        data[start : start + length] = campaign.contents.bytes(new)
        results.add(campaign.contents.keep(bytes(data)))
    save, path = _made(campaign, side, name, "edit", results), campaign.path(side, name)
    write = ["write", start, str(campaign.contents.path(new)), 0, length]
    return Order(side, [["open", path, "r+"], write, ["close"]], {2: [save]})


def _bases(name: Name) -> set[str]:
    return name.possible - {GONE}


def temporary(campaign: Campaign, side: int, name: Name, size: int | None) -> Order:
    """Write beside it and rename over it, as editors do."""
    content, number = campaign.content(name, size), campaign.number()
    save, path = _made(campaign, side, name, "temporary", {content}), campaign.path(side, name)
    save.plain = False
    folder = path.rpartition("/")[0]
    beside = f"{folder}/.goutputstream-{number:06d}" if campaign.chance.random() < 0.5 else f"{path}.tmp~"
    steps = [["open", beside, "w"], *campaign.pieces(content), ["fsync"], ["close"], ["rename", beside, path]]
    return Order(side, steps, {len(steps) - 1: [save]})


def backup(campaign: Campaign, side: int, name: Name, size: int | None) -> Order:
    """Move it aside, write it anew, remove what was moved, as vim does."""
    content = campaign.content(name, size)
    save, path = _made(campaign, side, name, "backup", {content}), campaign.path(side, name)
    begin = [["rename", path, f"{path}~"], ["open", path, "w"], *campaign.pieces(content), ["fsync"], ["close"]]
    return Order(side, [*begin, ["unlink", f"{path}~"]], {len(begin) - 1: [save]})


def remove(campaign: Campaign, side: int, name: Name, size: int | None) -> Order:
    save = _made(campaign, side, name, "remove", {GONE})
    return Order(side, [["unlink", campaign.path(side, name)]], {0: [save]})


def rename(campaign: Campaign, side: int, name: Name, size: int | None) -> Order:
    """Give it another name of the pool, whatever has that."""
    other = campaign.other(name)
    results = set(name.possible)
    saves = [_made(campaign, side, name, "rename", {GONE}), _made(campaign, side, other, "renamed", results)]
    return Order(side, [["rename", campaign.path(side, name), campaign.path(side, other)]], {0: saves})


PROGRAMS: dict[str, Callable[[Campaign, int, Name, int | None], Order]] = {
    made.__name__: made
    for made in (overwrite, synced, half, append, edit, temporary, backup, remove, rename)
}  # fmt: skip


# -- scenes ----------------------------------------------------------------------------------------------


def _kind(campaign: Campaign, name: Name, *, steady: bool = False) -> str:
    """Choose what can be done to a name as it is."""
    kinds = ["overwrite", "overwrite", "synced", "temporary"]
    if GONE not in name.possible:
        kinds += ["append", "edit", "backup", "overwrite"]
        if not campaign.system.versions and not steady:
            kinds.append("remove")
        if campaign.system.renames and not steady:
            kinds += ["rename", "rename"]
    return campaign.chance.choice(kinds)


def _faults(campaign: Campaign) -> list[dict[str, Any]]:
    """Choose what is spoiled: some requests of any kind, as a bad day has it."""
    chance, system = campaign.chance, campaign.system
    aim = chance.choice((*system.uploads, *system.seconds))
    where = chance.choice(
        ({"method": aim.method, "route": aim.route}, {"method": chance.choice(("GET", "POST", "DELETE"))})
    )
    wrong = chance.choice((
        {"action": "status", "argument": chance.choice((500, 503, 504))}, {"action": "reset"},
        {"action": "delay_s", "argument": chance.uniform(0.2, 2.0)}, {"action": "cut", "argument": chance.choice((0, 20))},
        {"action": "short", "argument": chance.choice((0, 50))}, {"action": "corrupt", "argument": 300, "method": "GET"},
        {"action": "lost", "argument": chance.choice((None, "reset", {"status": 502, "html": True}))},
    ))  # fmt: skip
    if wrong["action"] == "corrupt" and not system.checksums:  # nobody could tell
        wrong = {"action": "short", "argument": 300, "method": "GET"}
    service = system.blobs if wrong["action"] == "corrupt" else system.name
    where = {} if service != system.name else where
    return [{"service": service, **where, "times": chance.choice((1, 1, 2, 6)), "skip": chance.randrange(3), **wrong}]


def delayed(campaign: Campaign, aim: Aim, seconds: float = DELAY_S) -> dict[str, Any]:
    spoiled = {"service": campaign.system.name, "method": aim.method, "route": aim.route, "skip": aim.skip}
    return {**spoiled, "times": 1, "action": "delay_s", "argument": seconds}


def refused(campaign: Campaign, order: Order) -> Stage:
    return Stage([order], campaign.system.refusals(), weather_s=15.0, refusing=True)


def any_day(campaign: Campaign) -> Plan:
    """One or two programs in one or both mounts, with faults, or a kill at any time."""
    chance, sides = campaign.chance, [0, 1] if campaign.chance.random() < 0.4 else [campaign.chance.randrange(2)]
    names = campaign.pick(len(sides))
    both = len(sides) == 2
    orders = [
        program(campaign, side, name, _kind(campaign, name, steady=both))
        for side, name in zip(sides, names, strict=True)
    ]
    kill = Kill(chance.choice(sides), after_s=chance.uniform(0.05, 0.7)) if chance.random() < 0.6 else None
    return Plan("any day", [Stage(orders, _faults(campaign), kill)])


def interrupted(
    campaign: Campaign, aim: Aim | None = None, kind: str | None = None, name: Name | None = None, *,
    late: bool | None = None,
) -> Plan:  # fmt: skip
    """A kill within a request of a save, mostly one that is not its first.

    The request is carried out after the kill, with `late`, or never.
    """
    chance, system = campaign.chance, campaign.system
    side, name = chance.randrange(2), name or campaign.pick(1)[0]
    aim = aim or chance.choice((*system.uploads, *system.seconds, *system.seconds))
    size = campaign.large if aim.what in ("part", "completion") else None
    order = program(campaign, side, name, "overwrite" if size else kind or _kind(campaign, name), size)
    late = chance.random() < 0.5 if late is None else late
    fault = delayed(campaign, aim) if late else {**delayed(campaign, aim), **NEVER}
    stage = Stage([order], [fault], Kill(side, aim=aim, after_s=chance.uniform(0.0, 0.2)), 20.0)
    adorned = aim.what == "links" or chance.random() < 0.2
    return Plan(f"killed in {aim.what}", [stage], again=chance.random() < 0.25, adorned=adorned)


def stuck(campaign: Campaign, aim: Aim | None = None, status: int | None = None) -> Plan:
    """The second request of a save is refused for as long as the close has patience, then all is well; retry."""
    chance, system = campaign.chance, campaign.system
    side, (name,), aim = chance.randrange(2), campaign.pick(1, there=True), aim or chance.choice(system.seconds)
    order = program(campaign, side, name, _kind(campaign, name))
    status = status or chance.choice((400, 403, 409, 500))
    spoiled = {"service": system.name, "method": aim.method, "route": aim.route, "skip": aim.skip}
    fault = {**spoiled, "times": 1 if status < 500 else 3, "action": "status", "argument": status}
    return Plan(f"refused {aim.what}", [Stage([order], [fault])], retry=True, adorned=aim.what == "links")


def unfinished(campaign: Campaign, *, synced: bool | None = None, retry: bool | None = None) -> Plan:
    """A good file is cut, written to, perhaps synced; then the daemon and the program are killed."""
    side, (name,) = campaign.chance.randrange(2), campaign.pick(1, there=True)
    order = program(campaign, side, name, "half", 24_000)
    if synced is not None:
        order.steps = [step for step in order.steps if step != ["fsync"]]
        order.steps[2:2] = [["fsync"]] if synced else []
        order.commits = {len(order.steps) - 1: saves for saves in order.commits.values()}
    return Plan("left open", [Stage([order], [], Kill(side, word="hold"))], retry=retry)


def overtaken(campaign: Campaign) -> Plan:
    """A save is refused, a newer one or a removal is acknowledged; then all is retried."""
    chance, system = campaign.chance, campaign.system
    side, (name,) = chance.randrange(2), campaign.pick(1, there=True)
    size = min(campaign.contents.size(result) for result in name.possible - {GONE})
    first = program(campaign, side, name, "overwrite")
    kinds = (
        ["overwrite", "temporary"] + ([] if system.versions else ["remove"]) + (["rename"] if system.renames else [])
    )
    kind, size = chance.choice(kinds), size if chance.random() < 0.6 else None
    newer = Stage([], later=lambda: program(campaign, side, name, kind, size))
    return Plan("overtaken", [refused(campaign, first), newer], retry=True)


def spoiled(campaign: Campaign) -> Plan:
    """What an edit builds on comes with a wrong byte, until all is well again; nothing of it is in memory."""
    side, (name,) = campaign.chance.randrange(2), campaign.pick(1)
    wrong = {"service": campaign.system.blobs, "method": "GET", "times": None, "argument": 300}
    fault = {**wrong, "action": "corrupt"}
    if not campaign.system.checksums:  # a changed byte cannot be told
        fault = {**wrong, "action": campaign.chance.choice(("short", "cut")), "route": "*download*"}
    size = max(campaign.system.sizes) * 6 if campaign.system.checksums else None  # more than is read at a time
    first = Stage([program(campaign, side, name, "overwrite", size)])
    kind = campaign.chance.choice(("append", "edit"))
    then = Stage([], [fault], weather_s=6.0, cold=True, later=lambda: program(campaign, side, name, kind))
    return Plan("built on spoiled bytes", [first, then])


def unheard(campaign: Campaign, answer: Any = None, *, late: bool | None = None) -> Plan:
    """A request is carried out, and its answer is another one; or it is carried out after that."""
    chance, system = campaign.chance, campaign.system
    side, (name,) = chance.randrange(2), campaign.pick(1)
    aim = system.uploads[0] if late else chance.choice((*system.uploads, *system.seconds))
    order = program(campaign, side, name, "overwrite" if late else _kind(campaign, name))
    answer = answer or chance.choice(("reset", {"status": 502, "html": True}, {"status": 504}))
    late = (chance.random() < 0.4 if late is None else late) and answer != "reset"
    spoilt = {"service": system.name, "method": aim.method, "route": aim.route, "skip": aim.skip, "times": 1}
    more = (
        {"action": "late", "argument": {**answer, "after_s": 3.0}} if late else {"action": "lost", "argument": answer}
    )
    return Plan(f"{aim.what} {'late' if late else 'unheard'}", [Stage([order], [{**spoilt, **more}])])


def race(campaign: Campaign) -> Plan:
    """Two programs save one name in both mounts at a time."""
    (name,) = campaign.pick(1)
    orders = [program(campaign, side, name, "overwrite") for side in (0, 1)]
    return Plan("at a time", [Stage(orders)], both=True)


def crossing(campaign: Campaign) -> Plan:
    """One opens a file, the other mount saves it, then the first one saves."""
    side, (name,) = campaign.chance.randrange(2), campaign.pick(1, there=campaign.chance.random() < 0.5)
    late, soon = program(campaign, side, name, "overwrite"), program(campaign, 1 - side, name, "overwrite")
    opened, saved = campaign.flag(), campaign.flag()
    late.steps[1:1] = [["touch", opened], ["await", saved]]
    late.commits = {step + 2: saves for step, saves in late.commits.items()}
    soon.steps = [["await", opened], *soon.steps, ["touch", saved]]
    soon.commits = {step + 1: saves for step, saves in soon.commits.items()}
    pair = (next(iter(soon.commits.values()))[0], next(iter(late.commits.values()))[0])
    return Plan("across", [Stage([late, soon])], both=True, crossing=pair)


def lent(campaign: Campaign) -> Plan:
    """The rename of a temporary file is refused; its bytes are in the outbox, and still here under its own name."""
    side, (name,) = campaign.chance.randrange(2), campaign.pick(1)
    order = program(campaign, side, name, "temporary")
    return Plan("refused rename", [refused(campaign, order)], lent=order)


def vanishing(campaign: Campaign) -> Plan:
    """A kill just when labfs clears up after a save that was acknowledged."""
    side, (name,) = campaign.chance.randrange(2), campaign.pick(1)
    order = program(campaign, side, name, "overwrite", campaign.system.sizes[0])
    return Plan("killed clearing up", [Stage([order], [], Kill(side, watched=True))])


def aside(campaign: Campaign) -> Plan:
    """A file is moved aside and written anew while others look at its directory."""
    side, (name,) = campaign.chance.randrange(2), campaign.pick(1, there=True)
    return Plan("moved aside", [Stage([program(campaign, side, name, "backup")])])


SCENES: dict[Callable[[Campaign], Plan], int] = {
    any_day: 24, interrupted: 44, stuck: 6, unfinished: 7, overtaken: 5, spoiled: 4, unheard: 7, race: 3,
    crossing: 3, aside: 3, lent: 2, vanishing: 3,
}  # fmt: skip


def chosen(chance: random.Random) -> Callable[[Campaign], Plan]:
    return chance.choices(list(SCENES), list(SCENES.values()))[0]
