"""Connections that died quietly, or that a server ends early, between a mount and all five systems."""

from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import eater
import five_stage
import pytest
from five_stage import SITES, Lab
from stage import Mount, Sandbox

AWAY_S = 17.0  # of which a mount's usual silence is 8
SHORT_S = 6.0  # for anything over a dead connection; the usual silence alone is 8


class Eater:
    """The process of `eater.py`, in front of the sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        known = json.loads((sandbox.directory / "sandbox.json").read_text())
        self.urls: list[str] = [*known["sites"].values(), known["blobs"]]
        command = [sys.executable, eater.__file__, *self.urls]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.own: list[str] = json.loads(self.process.stdout.readline())

    def say(self, word: str) -> int:
        """Return how many connections were opened so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def replaced(self, text: str) -> str:
        for url, own in zip(self.urls, self.own, strict=True):
            text = text.replace(url, own)
        return text


@dataclass
class Stage:
    lab: Lab
    eater: Eater
    mount: Mount

    def at(self, site: str) -> Path:
        return self.mount.path / self.lab.places[site]

    def warm(self, site: str, name: str) -> bytes:
        """Read a file, several listings at a time: connections of all kinds are kept then."""
        data = random.Random(site + name).randbytes(300_000)
        self.lab.put(site, name, data)
        self.mount.refresh(self.mount.path / site)
        assert (self.at(site) / name).read_bytes() == data
        return data

    @property
    def outages(self) -> list[object]:
        return [site.get("outage") for site in self.mount.status()["sites"] if site.get("outage")]


@pytest.fixture(scope="module")
def stage(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    base = tmp_path_factory.mktemp("eaten")
    with five_stage.opened(running) as lab:
        eater = Eater(running)
        config = base / "labfs.toml"
        config.write_text(eater.replaced(running.config.read_text()))
        config.chmod(0o600)
        mount = Mount(base, config)
        try:
            yield Stage(lab, eater, mount.start())
        finally:
            mount.clean_up()
            eater.process.kill()
            eater.process.wait(10)


def together(work: Callable[[str], object]) -> dict[str, float]:
    """Do something in all systems at once; return how long each took, in seconds."""

    def timed(site: str) -> float:
        began = time.monotonic()
        work(site)
        return time.monotonic() - began

    with ThreadPoolExecutor(len(SITES)) as pool:
        return dict(zip(SITES, pool.map(timed, SITES), strict=True))


@pytest.mark.mount
def test_what_died_quietly_is_noticed_before_anybody_else_notices(stage: Stage) -> None:
    before = {site: stage.warm(site, "first.bin") for site in SITES}
    for site in SITES:
        if site != "redcap":  # a field holds one file
            before[site] = stage.warm(site, "second.bin")
    # Looking.
    stage.eater.say("mute")
    stage.mount.refresh(stage.mount.path)
    took = together(lambda site: sorted(path.name for path in stage.at(site).iterdir()))
    assert max(took.values()) < SHORT_S, took
    # Reading.
    for site in SITES:
        before[site] = stage.warm(site, "first.bin" if site == "redcap" else "third.bin")
        name = "first.bin" if site == "redcap" else "fourth.bin"
        before[site] = random.Random(f"{site} anew").randbytes(300_000)
        stage.lab.put(site, name, before[site])
    stage.mount.refresh(stage.mount.path)
    for site in SITES:
        list(stage.at(site).iterdir())
    stage.eater.say("mute")
    name = {site: "first.bin" if site == "redcap" else "fourth.bin" for site in SITES}
    took = together(lambda site: before[site] == (stage.at(site) / name[site]).read_bytes() or pytest.fail(site))
    assert max(took.values()) < SHORT_S, took
    # Saving.
    stage.eater.say("mute")
    name = {site: "first.bin" if site == "redcap" else "new.bin" for site in SITES}
    took = together(lambda site: (stage.at(site) / name[site]).write_bytes(b"x" * 100_000))
    assert max(took.values()) < SHORT_S, took
    assert stage.outages == []


def exchanged(stage: Stage, site: str, name: str) -> None:
    """Save a file, and read what the server has."""
    data = random.Random(site + name).randbytes(200_000)
    path = stage.at(site) / ("first.bin" if site == "redcap" else name)
    path.write_bytes(data)
    other = path.with_name("other.bin")
    if site != "redcap":
        stage.lab.put(site, other.name + name, data)
        path = path.with_name(other.name + name)
    stage.mount.refresh(stage.mount.path / site)
    assert path.read_bytes() == data


@pytest.mark.mount
@pytest.mark.parametrize("way", ["close 1", "close 3", "cut on"])
def test_a_server_that_ends_connections_early_is_served_all_the_same(way: str, stage: Stage) -> None:
    stage.eater.say(way)
    try:
        for turn in range(2):
            took = together(lambda site: exchanged(stage, site, f"{way} {turn}.bin"))  # noqa: B023
            assert max(took.values()) < SHORT_S, took
        assert stage.outages == []
    finally:
        stage.eater.say("close 0")
        stage.eater.say("cut off")


@pytest.mark.mount
def test_a_save_to_a_site_that_is_away_fails_in_seconds_and_waits(stage: Stage) -> None:
    names = {site: "first.bin" if site == "redcap" else "away.bin" for site in SITES}
    for site in SITES:
        list(stage.at(site).iterdir())

    def refused(site: str) -> None:
        with pytest.raises(OSError):
            (stage.at(site) / names[site]).write_bytes(b"later")

    stage.eater.say("down")
    stage.eater.say("mute")
    took = together(refused)
    stage.eater.say("up")
    assert max(took.values()) < AWAY_S, took
    assert len(stage.mount.spooled) >= len(SITES)
    stage.lab.sandbox.reset()


@pytest.mark.mount
def test_a_limit_is_learnt_by_halves(stage: Stage) -> None:
    fault = {"service": "*", "method": "POST", "route": "*", "action": "status", "argument": 413, "times": 1}
    folder = stage.at("basespace")
    stage.lab.sandbox.faults({**fault, "service": "basespace", "route": "*/files"})

    def saved(name: str, size: int) -> bool:
        try:
            (folder / name).write_bytes(bytes(size))
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
            return False
        return True

    assert not saved("large", 400_000)
    stage.lab.sandbox.reset()
    assert not saved("as large", 400_000)
    assert not saved("nearly as large", 399_000)
    assert not stage.lab.sandbox.requests()["POST /v1pre3/appresults/{id}/files"]
    assert saved("half as large", 150_000)
    assert not saved("in the doubtful half", 390_000)
    assert saved("in the doubtful half again", 390_000), "whoever insists is believed"
    assert saved("large after all", 389_000)
