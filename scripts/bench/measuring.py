"""A sample, a contest of several programs in paired rounds, and what labfs must reach in it.

In each round every contestant runs once, and each round begins with another one, so that a machine that slows down
slows all. What is compared is the median of the rounds' own ratios, not the ratio of two medians.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Protocol

from bench.ground import Ground
from bench.processes import Failed

LABFS = "labfs"
PEER = "rclone"  # the names of its settings begin so
BEST_PEER = "the best rclone"


@dataclass(frozen=True)
class Sample:
    """One measurement; the processor's seconds and the memory are those of labfs's daemon, 0 for all others."""

    seconds: float
    user_s: float = 0.0
    system_s: float = 0.0
    peak_mib: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """Whether `name` reached what it must; `peak_mib` is there where memory is judged."""

    must: str
    name: str
    ratio: float
    met: bool
    peak_mib: float = 0.0


@dataclass
class Result:
    """What a case measured: each contestant's samples by round (None where it failed), and why some failed."""

    case: str
    title: str
    unit_bytes: int = 0  # that are moved in one sample; 0 where the time itself is what counts
    bound: str = ""  # what nobody can be faster than, where no contestant shows it
    sizes: dict[str, float] = field(default_factory=dict)  # contestant → bytes or entries, where cost grows with them
    samples: dict[str, list[Sample | None]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    failed: str = ""

    def good(self, name: str) -> list[Sample]:
        return [sample for sample in self.samples.get(name, []) if sample is not None]

    def seconds(self, name: str) -> float | None:
        """Return the median of a contestant's times, None if it has none."""
        good = self.good(name)
        return median(sample.seconds for sample in good) if good else None

    def ratio(self, name: str, other: str) -> float | None:
        """Return how many times as fast one is as another: the median over the rounds that both finished."""
        pairs = zip(self.samples.get(name, []), self.samples.get(other, []), strict=False)
        ratios = [theirs.seconds / own.seconds for own, theirs in pairs if own and theirs]
        return median(ratios) if ratios else None

    def best_peer(self) -> str | None:
        """Return the name of the fastest setting of the peer."""
        times = {name: self.seconds(name) for name in self.samples if name.startswith(PEER)}
        known = {name: seconds for name, seconds in times.items() if seconds is not None}
        return min(known, key=known.__getitem__) if known else None

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Result:
        """Make a result of what `asdict` has made of one."""
        samples = {name: [one and Sample(**one) for one in row] for name, row in data["samples"].items()}
        verdicts = [
            Verdict(**{**one, "ratio": math.nan if one["ratio"] is None else one["ratio"]}) for one in data["verdicts"]
        ]
        return cls(**{**data, "samples": samples, "verdicts": verdicts})


class Must(Protocol):
    """What a case demands of one contestant."""

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> str: ...

    def judge(self, result: Result) -> tuple[float, bool] | None:
        """Return the ratio that the table shows, and whether it is good enough; None if nothing was measured."""
        ...


@dataclass(frozen=True)
class Faster:
    """At least `times` as fast as another contestant, or as the best setting of the peer."""

    times: float
    than: str = BEST_PEER
    name: str = LABFS

    @property
    def text(self) -> str:
        return f"≥ {self.times:g} × {self.than}"

    def judge(self, result: Result) -> tuple[float, bool] | None:
        other = result.best_peer() if self.than == BEST_PEER else self.than
        ratio = result.ratio(self.name, other) if other else None
        return None if ratio is None else (ratio, ratio >= self.times)


@dataclass(frozen=True)
class Within:
    """At most some seconds, or at most so many more than another contestant; the ratio is the time over the limit."""

    limit_s: float
    beyond: str = ""
    name: str = LABFS

    @property
    def text(self) -> str:
        more = f"{self.beyond} + " if self.beyond else ""
        return f"{self.name} ≤ {more}" + duration(self.limit_s)

    def judge(self, result: Result) -> tuple[float, bool] | None:
        took, other = result.seconds(self.name), result.seconds(self.beyond) if self.beyond else 0.0
        if took is None or other is None:
            return None
        return took / (other + self.limit_s), took <= other + self.limit_s


@dataclass(frozen=True)
class Leaner:
    """A peak of memory of at most some MiB in every round; the ratio is the largest over the limit."""

    mib: float
    name: str = LABFS

    @property
    def text(self) -> str:
        return f"peak ≤ {self.mib:.0f} MiB"

    def judge(self, result: Result) -> tuple[float, bool] | None:
        peaks = [sample.peak_mib for sample in result.good(self.name)]
        return (max(peaks) / self.mib, max(peaks) <= self.mib) if peaks else None


@dataclass(frozen=True)
class Linear:
    """Time that grows no faster than its size: the exponent of a fit of a power law is what the table shows."""

    name: str  # the largest of them
    exponent: float = 1.1

    @property
    def text(self) -> str:
        return f"exponent ≤ {self.exponent:g}"

    def judge(self, result: Result) -> tuple[float, bool] | None:
        fitted = exponent({size: result.seconds(name) for name, size in result.sizes.items()})
        return None if fitted is None else (fitted, fitted <= self.exponent)


def exponent(times: Mapping[float, float | None]) -> float | None:
    """Return b of the least-squares fit seconds = a · size^b; None for fewer than two points."""
    points = [(math.log(size), math.log(seconds)) for size, seconds in times.items() if seconds]
    if len(points) < 2:
        return None
    x0, y0 = sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
    spread = sum((x - x0) ** 2 for x, _ in points)
    return sum((x - x0) * (y - y0) for x, y in points) / spread if spread else None


@dataclass(frozen=True)
class Contest:
    """The contestants of a case: name → run once and measure; `unit_bytes`, `sizes` and `bound` are a `Result`'s."""

    runs: Mapping[str, Callable[[], Sample]]
    musts: tuple[Must, ...] = ()
    unit_bytes: int = 0
    sizes: Mapping[str, float] = field(default_factory=dict)
    bound: str = ""


@dataclass(frozen=True)
class Case:
    """One row of the table, or several: `contest` sets it up on a ground of its own."""

    name: str
    title: str
    contest: Callable[[Ground], AbstractContextManager[Contest]]
    as_user: bool = False  # run by an ordinary user, also where root runs all others


def measure(case: Case, ground: Ground, rounds: int, told: Callable[[str], None]) -> Result:
    """Run a case. What fails is told in the result: of one contestant, or of the case."""
    result = Result(case.name, ground.words(case.title))
    try:
        with case.contest(ground) as contest:
            result.unit_bytes, result.sizes, result.bound = contest.unit_bytes, dict(contest.sizes), contest.bound
            for number in range(rounds):
                told(f"{case.name}: round {number + 1} of {rounds}")
                _round(contest, number, result)
            judge(result, contest.musts)
    except (Failed, OSError, subprocess.SubprocessError, ValueError) as error:
        result.failed = sentence(error)
    return result


def _round(contest: Contest, number: int, result: Result) -> None:
    names = list(contest.runs)
    shift = number % len(names)
    for name in names[shift:] + names[:shift]:
        sample: Sample | None = None
        try:
            sample = contest.runs[name]()
        except (Failed, OSError, subprocess.SubprocessError, ValueError) as error:
            result.failures[name] = sentence(error)
        result.samples.setdefault(name, []).append(sample)


def judge(result: Result, musts: tuple[Must, ...]) -> None:
    for must in musts:
        ratio, met = must.judge(result) or (math.nan, False)
        peak = max((sample.peak_mib for sample in result.good(must.name)), default=0.0)
        shown = peak if isinstance(must, Leaner) else 0.0
        result.verdicts.append(Verdict(must.text, must.name, ratio, met, shown))


def sentence(error: Exception) -> str:
    """Return an error as one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"


def as_data(result: Result) -> dict[str, Any]:
    return asdict(result)
