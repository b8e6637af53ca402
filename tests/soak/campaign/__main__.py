"""An hour of rounds: `python -m campaign [SYSTEM…]`, two systems at a time, each with a sandbox of its own.

`--rounds` of all systems together (600), `--minutes` after which it stops by itself (58), `--seed` or LABFS_SEED.
A system says how far it is every ten rounds. Exit status 0 only when all rounds were made and nothing was wrong.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from stage import start_sandbox

from campaign import reckoning
from campaign.ledger import KINDS
from campaign.rounds import Campaign
from campaign.systems import SYSTEMS, opened

SHARES = {"basespace": 120, "clarity": 125, "odm": 130, "portal": 135, "redcap": 90}  # of 600 rounds
LANES = 2
SAYS = 10  # rounds between two lines
ENOUGH = 40  # faults after which a system is given up


def main() -> int:
    asked = _asked()
    wanted = asked.systems or list(SYSTEMS)
    shares = {name: SHARES[name] * asked.rounds // sum(SHARES[one] for one in wanted) for name in wanted}
    until = time.time() + asked.minutes * 60
    if len(wanted) == 1:
        return _alone(wanted[0], shares[wanted[0]], until, asked)
    print(f"LABFS_SEED={asked.seed}: {sum(shares.values())} rounds, {asked.minutes} minutes", flush=True)  # noqa: T201
    return _lanes(shares, until, asked.seed)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="campaign", description=__doc__)
    parser.add_argument("systems", nargs="*", choices=[[], *SYSTEMS])
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=58.0)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("LABFS_SEED") or time.time()))
    parser.add_argument("--verbose", action="store_true", help="say what each round does")
    return parser.parse_args()


def _lanes(shares: dict[str, int], until: float, seed: int) -> int:
    """Run each system in a process of its own, some at a time; the time that is left is shared by what is to come."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in sorted(shares, key=lambda name: -shares[name]):
        waiting.put(name)
    status: dict[str, int] = {}
    rounds_left = [sum(shares.values())]

    def work() -> None:
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            share = LANES * shares[name] / max(rounds_left[0], 1)
            minutes = (until - time.time()) / 60 * min(1.0, share)
            rounds_left[0] -= shares[name]
            options = [f"--rounds={shares[name]}", f"--minutes={minutes:.2f}", f"--seed={seed}"]
            status[name] = subprocess.run([sys.executable, "-m", "campaign", name, *options]).returncode

    lanes = [threading.Thread(target=work) for _ in range(LANES)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    bad = [name for name, code in status.items() if code]
    told = f"not as it should in {', '.join(bad)}" if bad else "nothing was wrong"
    print(f"The campaign ends: {told}.", flush=True)  # noqa: T201
    return 1 if bad or status.keys() != shares.keys() else 0


def _alone(name: str, rounds: int, until: float, asked: argparse.Namespace) -> int:
    base = Path(tempfile.mkdtemp(prefix=f"labfs-campaign-{name}-"))
    process, sandbox = start_sandbox(base / "sandbox")
    try:
        with opened(name, sandbox) as system:
            campaign = Campaign(base, system, asked.seed)
            if asked.verbose:
                campaign.say = print
            try:
                return run(campaign, rounds, until)
            finally:
                campaign.close()
    finally:
        sandbox.close()
        process.terminate()
        process.wait(20)
        shutil.rmtree(base, ignore_errors=True)


def run(campaign: Campaign, rounds: int, until: float) -> int:
    """Make rounds until there were enough of them, or the time is over; say how far it is."""
    began, said = time.time(), 0
    campaign.start()
    while campaign.rounds < rounds and time.time() < until and len(campaign.found) < ENOUGH:
        campaign.round()
        for fault in campaign.found[said:]:
            print(f"{campaign.system.name}: {fault}", flush=True)  # noqa: T201
        said = len(campaign.found)
        if campaign.rounds % SAYS == 0:
            print(line(campaign, began), flush=True)  # noqa: T201
    reckoning.check(campaign, campaign.names)
    print(f"{line(campaign, began)}; {dict(campaign.scenes)}", flush=True)  # noqa: T201
    if campaign.rounds < rounds:
        why = "its time is over" if time.time() >= until else "too much is wrong"
        print(f"{campaign.system.name} stopped after {campaign.rounds} of {rounds} rounds: {why}.", flush=True)  # noqa: T201
    few = rounds >= 100 and campaign.kills < rounds // 2
    if few:
        print(f"{campaign.system.name} was killed {campaign.kills} times only: this proves too little.", flush=True)  # noqa: T201
    return 1 if campaign.found or campaign.rounds < rounds or few else 0


def line(campaign: Campaign, began: float) -> str:
    counts = Counter(fault.kind for fault in campaign.found)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
    took = f"{campaign.rounds} rounds, {campaign.kills} kills, {time.time() - began:.0f} s"
    return f"{campaign.system.name} (LABFS_SEED={campaign.seed}): {took}: {told}"


if __name__ == "__main__":
    sys.exit(main())
