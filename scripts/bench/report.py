"""What was measured, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.ground import MIB
from bench.measuring import LABFS, PEER, Result, as_data
from bench.processes import HERE, run
from bench.programs import Programs

COLUMNS = ("case", "labfs", "best peer", "bound", "ratio", "must", "met?", "cpu s, user + system")
NOTHING = "–"
DATA, PICTURE = "bench.json", "bench.png"


def value(result: Result, seconds: float) -> str:
    if result.unit_bytes:
        return f"{result.unit_bytes / MIB / seconds:,.0f} MiB/s"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def spread(result: Result, name: str) -> str:
    """Return a contestant's median and, in brackets, its worst and best round."""
    times = [sample.seconds for sample in result.good(name)]
    if not times:
        return "failed"
    middle = value(result, statistics.median(times))
    return f"{middle} [{value(result, max(times))} … {value(result, min(times))}]" if len(times) > 1 else middle


def bound(result: Result) -> str:
    """Return what is there to compare with besides the peer: the fastest other contestant."""
    others = {name: result.seconds(name) for name in result.samples if not name.startswith((LABFS, PEER))}
    known = {name: seconds for name, seconds in others.items() if seconds is not None}
    if not known:
        return result.bound or NOTHING
    best = min(known, key=known.__getitem__)
    return f"{best} {value(result, known[best])}"


def processor(result: Result, name: str) -> str:
    good = result.good(name)
    if not good or not name.startswith(LABFS):
        return NOTHING
    user, system = (statistics.median(times) for times in zip(*((one.user_s, one.system_s) for one in good)))  # noqa: B905
    return f"{user:.2f} + {system:.2f}"


def rows(result: Result) -> list[tuple[str, ...]]:
    """Return a row for each thing that a case must reach; what it measured stands in the first."""
    if result.failed:
        return [(result.title, *[NOTHING] * 5, "failed", NOTHING)]
    best = result.best_peer()
    seconds = result.seconds(best) if best else None
    peer = f"{best} {value(result, seconds)}" if best and seconds else NOTHING
    found: list[tuple[str, ...]] = []
    for verdict in result.verdicts:
        ratio = NOTHING if math.isnan(verdict.ratio) else f"{verdict.ratio:.2f}"
        met = "yes" if verdict.met else "no"
        ours = f"peak {verdict.peak_mib:.0f} MiB" if verdict.peak_mib else spread(result, verdict.name)
        left = ("", ours, "", "") if found else (result.title, ours, peer, bound(result))
        found.append((*left, ratio, verdict.must, met, processor(result, verdict.name)))
    return found


def table(results: Sequence[Result]) -> str:
    lines = [COLUMNS, *(row for result in results for row in rows(result))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    drawn = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    drawn.insert(1, "-|-".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" if i != 1 else f"|-{line}-|" for i, line in enumerate(drawn))


def details(result: Result) -> str:
    """Return every contestant of a case with its spread, and a sentence for what failed."""
    lines = [f"\n{result.title}"]
    for name in result.samples:
        peak = max((sample.peak_mib for sample in result.good(name)), default=0.0)
        more = f"   cpu {processor(result, name)} s   peak {peak:.0f} MiB" if peak else ""
        lines.append(f"  {name:<26} {spread(result, name)}{more}")
    lines += [f"  {name} failed: {why}" for name, why in result.failures.items()]
    if result.failed:
        lines.append(f"  This case failed: {result.failed}")
    return "\n".join(lines)


def about(machine: dict[str, Any], versions: dict[str, str], rounds: int) -> str:
    programs = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mib']:,} MiB, Linux {machine['kernel']}, "
        f"as {machine['user']}; {programs}; medians of {rounds} paired rounds"
    )


def save(out: Path, results: Sequence[Result], facts: dict[str, Any]) -> None:
    """Write the machine, the versions, and all samples by case, contestant and round."""
    data = {**facts, "cases": [as_data(result) for result in results]}
    (out / DATA).write_text(json.dumps(without_nan(data), indent=1, ensure_ascii=False) + "\n")


def without_nan(data: Any) -> Any:
    """Return data with null for what is not a number: JSON has no word for it."""
    if isinstance(data, dict):
        return {key: without_nan(one) for key, one in data.items()}
    if isinstance(data, list):
        return [without_nan(one) for one in data]
    return None if isinstance(data, float) and math.isnan(data) else data


def plot(programs: Programs, out: Path) -> None:
    """Draw the picture beside the data. Raises Failed where it cannot be drawn."""
    run(programs.plotter, HERE / "plot.py", out / DATA, out / PICTURE)


def files(out: Path) -> list[Path]:
    """Return what a run has left in a directory."""
    return [path for path in (out / DATA, out / PICTURE) if path.exists()]
