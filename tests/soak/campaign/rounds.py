"""One round after the other: play a scene, kill, recover, use the outbox, and check."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign import outbox, reckoning, scenes
from campaign.ledger import GONE, Contents, Fault, Name, Save
from campaign.pair import Side, until
from campaign.scenes import Kill, Order, Plan, Stage
from campaign.systems import System

WRITER = Path(__file__).with_name("writer.py")
SAVED_S = 100.0  # for a program to end
AIMED_S = 15.0  # for the request that a kill is meant for
ASKED_S = 1.0  # after which what still waits is asked for: by itself it would try again much later
QUIET_S = 40.0  # for the outbox to have nothing under way
REFUSED = {1, 18, 30, 95}  # EPERM, EXDEV, EROFS, EOPNOTSUPP: nothing was begun
CHECKED = 20  # rounds between two reckonings of every name


class Campaign:
    """Two mounts of one place in one system, and what is known of the names in it."""

    def __init__(self, base: Path, system: System, seed: int) -> None:
        self.base, self.system, self.sandbox, self.seed = base, system, system.sandbox, seed
        self.contents = Contents(base / "contents")
        self.manifest = base / "manifest"
        self.manifest.touch()
        self.sides = [Side(base / f"side {n}", n, self.sandbox, system.name) for n in (0, 1)]
        self.names = [Name(path) for path in system.names]
        self.found: list[Fault] = []
        self.scenes: Counter[str] = Counter()
        self.say: Callable[[str], None] = lambda text: None
        self.rounds = self._numbers = self._read = 0
        self.chance = random.Random(f"{seed} {system.name}")

    # -- what scenes ask for ---------------------------------------------------------------------------

    @property
    def kills(self) -> int:
        return sum(side.kills for side in self.sides)

    @property
    def large(self) -> int | None:
        """The size in bytes of a file that goes up in parts."""
        return getattr(self.system, "large", None)

    def number(self) -> int:
        self._numbers += 1
        return self._numbers

    def flag(self) -> str:
        return str(self.base / f"flag {self.number()}")

    def path(self, side: int, name: Name) -> str:
        return str(self.sides[side].path / self.system.title / name.path)

    def folder(self, side: int, directory: str) -> Path:
        return self.sides[side].path / self.system.title / directory

    def content(self, name: Name, size: int | None) -> str:
        """Make bytes that no file has had yet; return their digest."""
        wanted = self.chance.choice(self.system.sizes) + self.chance.randrange(500) if size is None else size
        return self.contents.make(self.chance, wanted)

    def pieces(self, content: str, least: int = 1) -> list[scenes.Step]:
        """Return the writes of a content, one after the other."""
        size, path = self.contents.size(content), str(self.contents.path(content))
        edges = [size * n // least for n in range(least + 1)]
        return [["write", None, path, start, stop] for start, stop in itertools.pairwise(edges)]

    def pick(self, count: int, *, there: bool = False) -> list[Name]:
        """Choose names; with `there` such as have a file, which is made first if none has."""
        fit = [name for name in self.names if not there or GONE not in name.possible]
        if len(fit) < count:
            fit = [self.chance.choice(self.names)]
            self.furnish(fit[0])
        return self.chance.sample(fit, count)

    def furnish(self, name: Name) -> None:
        """Save a file of this name, if there is none."""
        if GONE in name.possible:
            self.play(Stage([scenes.program(self, self.chance.randrange(2), name, "overwrite")]))
            self.refresh([name])

    def other(self, name: Name) -> Name:
        return self.chance.choice([other for other in self.names if other is not name])

    def name(self, path: str) -> Name | None:
        return next((name for name in self.names if name.path == path), None)

    # -- a round ---------------------------------------------------------------------------------------

    def start(self) -> None:
        for side in self.sides:
            side.start()

    def round(self, scene: Any = None) -> None:
        """Play a scene, chosen by chance if none is given; every fault that shows is kept."""
        self.rounds += 1
        began = time.monotonic()
        self.chance = random.Random(f"{self.seed} {self.system.name} {self.rounds}")
        self.refresh(self.names)
        plan: Plan = (scene or scenes.chosen(self.chance))(self)
        self.scenes[plan.what] += 1
        self._prepare(plan)
        looks = reckoning.begin_looks(self)
        before = {name.path: name.possible for name in self.names}
        for stage in plan.stages:
            self.play(stage)
        reckoning.end_looks(self, looks, before)
        self.say(
            f"{self.rounds} {plan.what}: {'; '.join(str(s) for n in self.names for s in n.saves if s.round == self.rounds)}"
        )
        self.recover(plan)
        touched = self.touched(plan)
        outbox.use(self, plan)
        self.quiet()
        reckoning.check(self, touched, plan)
        self.say(f"{self.rounds} took {time.monotonic() - began:.1f} s")
        if self.rounds % CHECKED == 0:
            reckoning.check(self, self.names)

    def _prepare(self, plan: Plan) -> None:
        names = self.touched(plan)
        if plan.adorned and names and GONE not in names[0].possible:
            self.system.adorn(names[0].directory, names[0].base)
        self.refresh(names)

    def touched(self, plan: Plan) -> list[Name]:
        orders = [order for stage in plan.stages for order in stage.orders]
        paths = {save.name for order in orders for saves in order.commits.values() for save in saves}
        return [name for name in self.names if name.path in paths]

    def refresh(self, names: list[Name]) -> None:
        for side in self.sides:
            for directory in sorted({name.directory for name in names}):
                if side.alive:
                    side.refresh(self.folder(side.number, directory))

    # -- a stage ---------------------------------------------------------------------------------------

    def play(self, stage: Stage) -> None:
        """Carry out the orders of a stage at the same time, with its faults and its kill."""
        if stage.cold:
            for side in self.sides:
                side.renew()
        if stage.later is not None:
            stage.orders.append(stage.later())
        self.sandbox.reset()
        self.sandbox.faults(*stage.faults)
        with self.system.refusing() if stage.refusing else contextlib.nullcontext():
            writers = [self._write(order) for order in stage.orders]
            if stage.kill is not None:
                self._kill(stage.kill, writers)
            self._wait(writers, stage.weather_s)
        self.sandbox.faults()
        killed = {stage.kill.side} if stage.kill is not None else set()
        self._account(stage.orders, killed)

    def _write(self, order: Order) -> subprocess.Popen[bytes]:
        asked = {"number": _number(order), "manifest": str(self.manifest), "steps": order.steps}
        return subprocess.Popen([sys.executable, "-I", "-S", str(WRITER), json.dumps(asked)], stderr=subprocess.DEVNULL)

    def _wait(self, writers: list[subprocess.Popen[bytes]], weather_s: float) -> None:
        """Wait for programs to end; the faults end earlier, and what holds a file open ends by force."""
        end = time.monotonic() + weather_s
        until(lambda: all(w.poll() is not None for w in writers) or time.monotonic() > end, weather_s + 1)
        self.sandbox.faults()
        until(lambda: all(writer.poll() is not None for writer in writers), SAVED_S)
        for writer in writers:
            writer.kill()
            writer.wait()

    def _kill(self, kill: Kill, writers: list[subprocess.Popen[bytes]]) -> None:
        """Kill a daemon when the moment has come, and after it the programs that hold files open."""

        def over() -> bool:
            return all(writer.poll() is not None for writer in writers)

        side = self.sides[kill.side]
        if kill.aim is not None:
            until(lambda: over() or self._under_way(kill), AIMED_S, 0.003)
        if kill.word:
            until(lambda: over() or self._said(kill.word), AIMED_S, 0.001)
        if kill.watched:
            _watch(side.mount.state, 5.0)
        time.sleep(kill.after_s)
        side.kill()
        if kill.word == "hold":
            for writer in writers:
                writer.kill()

    def _under_way(self, kill: Kill) -> bool:
        aim, service = kill.aim, self.system.name
        assert aim is not None
        met = [
            entry
            for entry in self.sandbox.log()
            if entry["service"] == service
            and fnmatch.fnmatchcase(entry["method"], aim.method)
            and fnmatch.fnmatchcase(entry["path"], aim.route)
        ]
        return len(met) > aim.skip

    def _said(self, verb: str) -> bool:
        wanted = "begun" if verb == "hold" else "done"
        return any(line["verb"] == verb and line["said"] == wanted for line in self._lines())

    def _lines(self) -> list[dict[str, Any]]:
        """Return what the manifest says since the stage began."""
        with open(self.manifest, "rb") as file:
            file.seek(self._read)
            return [json.loads(line) for line in file if line.endswith(b"\n")]

    # -- what was answered -----------------------------------------------------------------------------

    def _account(self, orders: list[Order], killed: set[int]) -> None:
        lines = self._lines()
        self._read = self.manifest.stat().st_size
        ended: list[Save] = []
        for order in orders:
            told = [line for line in lines if line["writer"] == _number(order)]
            for step, saves in order.commits.items():
                for save in saves:
                    _judge(save, step, told, order.side in killed)
                    ended.append(save)
        for save in sorted(ended, key=lambda save: save.ended):
            name = self.name(save.name)
            if name is not None:
                name.apply(save)

    # -- recovery --------------------------------------------------------------------------------------

    def recover(self, plan: Plan) -> None:
        """Start what was killed, perhaps kill it once more while it recovers, and wait until nothing is under way."""
        for side in self.sides:
            if side.alive:
                continue
            self.settle()
            if plan.again:
                self.sandbox.reset()
                self.sandbox.faults(*(scenes.delayed(self, aim) for aim in self.system.seconds))
                side.start(wait=False)
                time.sleep(self.chance.uniform(0.0, 0.5))
                side.kill()
                self.sandbox.faults()
                self.settle()
            side.start()
        self.quiet()

    def settle(self) -> None:
        """Wait until the services have carried out all that they were asked."""
        until(self.sandbox.settled, 20.0, 0.05)

    def quiet(self) -> None:
        """Wait until no save waits or is under way; what waits for a while is asked for."""
        began = time.monotonic()
        while time.monotonic() < began + QUIET_S:
            self.settle()
            waiting = [side for side in self.sides if side.waits()]
            if not waiting:
                return
            time.sleep(0.1)
            if time.monotonic() > began + ASKED_S:
                for side in waiting:
                    side.command("outbox", "retry")
                time.sleep(0.3)

    def fault(self, kind: str, name: str, text: str) -> None:
        self.found.append(Fault(kind, self.rounds, name, text))

    def give_up(self, name: Name) -> None:
        """Take another name in place of one that a fault has spoiled: each fault is counted once."""
        if name in self.names:
            fresh = self.system.fresh(name.path, self.number())
            self.names[self.names.index(name)] = Name(fresh)

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.sandbox.faults()
        for side in self.sides:
            side.kill()
            side.mount.clean_up()


def _number(order: Order) -> int:
    return min(save.number for saves in order.commits.values() for save in saves)


def _judge(save: Save, commit: int, lines: list[dict[str, Any]], killed: bool) -> None:
    """Say what became of a save, by what its program was told."""
    save.wrote = any(line["verb"] == "write" and line["said"] == "done" for line in lines)
    of_commit = [line for line in lines if line["step"] == commit]
    save.ended = lines[-1]["at"] if lines else time.time()
    save.begun = of_commit[0]["at"] if of_commit else save.ended
    if not of_commit:
        opened = any(line["verb"] == "open" and line["said"] == "done" for line in lines)
        save.state = "unfinished" if opened else "denied"
        save.kept = killed and save.plain
    elif len(of_commit) == 1:
        save.state = "unknown"
    else:
        save.ended = of_commit[1]["at"]
        said, number = of_commit[1]["said"], of_commit[1]["errno"]
        gone = killed and number in (103, 107)  # ECONNABORTED, ENOTCONN
        denied = number in REFUSED and of_commit[1]["verb"] != "close"
        save.state = "acked" if said == "done" else "unknown" if gone else "denied" if denied else "refused"


def _watch(state: Path, seconds: float) -> None:
    """Wait until a file of the state directory goes, other than by being renamed."""
    folders = [str(path) for path in state.glob("mounts/*/*") if path.is_dir()]
    known: set[str] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = {name for folder in folders for name in os.listdir(folder)}
        if any(not name.endswith(".part") for name in known - now):
            return
        known = now
