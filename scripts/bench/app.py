"""What is typed, and the run: cases one after the other, each on a ground of its own, told as they end."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import report, users
from bench.cases import CASES
from bench.ground import Ground
from bench.measuring import Case, Result, measure, sentence
from bench.processes import Failed
from bench.programs import CHECKOUT, Programs, machine, programs

ROUNDS = 5
OUT = CHECKOUT / "build" / "bench"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="scripts/bench", description="Speed beside rclone and curl, on the same bytes.")
    names = [case.name for case in CASES]
    made.add_argument("--case", nargs="+", choices=names, metavar="NAME", default=names, help=", ".join(names))
    made.add_argument("--rounds", type=int, default=ROUNDS, help=f"in which all run once; {ROUNDS}")
    made.add_argument("--scale", type=float, default=1.0, help="fraction of all sizes and counts; 1")
    made.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="for bench.json and bench.png; build/bench")
    made.add_argument("--user", metavar="NAME", help="run all of it as this user; only root can")
    made.add_argument("--told", choices=("all", "run", "nothing"), default="all", help=argparse.SUPPRESS)
    return made


def main() -> int:
    given = parser().parse_args()
    if given.rounds < 1 or not 0 < given.scale <= 8:
        print("bench: --rounds must be at least 1, and --scale above 0 and at most 8.", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupted)
    try:
        found = programs()
        given.out.mkdir(parents=True, exist_ok=True)
        if given.user:
            status = users.run_as(given.user, given.out, users.words(given.case, given.rounds, given.scale, "run"))
        else:
            status = Run(given, found).run()
        if given.told == "all":
            print(" ".join(str(path) for path in report.files(given.out)))
        return status
    except (Failed, OSError) as error:
        print(f"bench: {sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if given.told == "all":
            print("bench: interrupted", file=sys.stderr)
        return 130


def interrupted(*_: object) -> None:
    """End the run once: what is being taken down is taken down to its end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


class Run:
    """One run of the bench with what it has measured so far."""

    def __init__(self, given: argparse.Namespace, found: Programs) -> None:
        self._given = given
        self._programs = found
        self._results: list[Result] = []
        self._machine, self._versions = machine(), found.versions()

    def run(self) -> int:
        """Run the cases; return 1 if one of them, or one of its contestants, failed."""
        try:
            for case in CASES:
                if case.name == "near" and os.geteuid() != 0:
                    progress("near is left out: only root may widen the kernel's read-ahead. near-user is the same.")
                elif case.name in self._given.case:
                    self._results.append(self._case(case))
                    self._tell(self._results[-1])
        finally:
            self._end()
        return int(any(result.failed or result.failures for result in self._results))

    def _case(self, case: Case) -> Result:
        if case.as_user and os.geteuid() == 0:
            try:
                return users.measured(case.name, self._given.rounds, self._given.scale)
            except (Failed, OSError) as error:
                return Result(case.name, case.title, failed=sentence(error))
        base = Path(tempfile.mkdtemp(prefix="labfs-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
        try:
            ground = Ground(base, self._programs, self._given.scale)
            return measure(case, ground, self._given.rounds, progress)
        finally:
            shutil.rmtree(base, ignore_errors=True)

    def _tell(self, result: Result) -> None:
        if self._given.told != "nothing":
            print(report.details(result), flush=True)
        report.save(self._given.out, self._results, self._facts())

    def _facts(self) -> dict[str, Any]:
        about = report.about(self._machine, self._versions, self._given.rounds)
        return {"about": about, "machine": self._machine, "versions": self._versions, "scale": self._given.scale}

    def _end(self) -> None:
        if self._given.told == "nothing" or not self._results:
            return
        facts = self._facts()
        print(f"\n{report.table(self._results)}\n\n{facts['about']}")
        report.save(self._given.out, self._results, facts)
        try:
            report.plot(self._programs, self._given.out)
        except Failed as error:
            print(f"There is no picture: {error}", file=sys.stderr)


def progress(words: str) -> None:
    """Tell on a terminal what is going on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{words}", end="\r", file=sys.stderr, flush=True)
