"""Draw a run: throughput side by side, times side by side, and cost against size and count.

    plot.py bench.json bench.png

Runs in the bench's own environment, which has matplotlib; imports nothing of this package.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

MIB = 1024 * 1024
COLOURS = {"labfs": "#1b6ca8", "rclone": "#e08a1e", "other": "#8a8a8a"}


def colour(name: str) -> str:
    return next((shade for who, shade in COLOURS.items() if name.startswith(who)), COLOURS["other"])


def times(case: dict[str, Any], name: str) -> list[float]:
    return [sample["seconds"] for sample in case["samples"][name] if sample]


def bars(axes: Any, cases: list[dict[str, Any]], label: str) -> None:
    """Draw a bar for each contestant of each case, its median with the worst and the best round."""
    ticks, names, at = [], [], 0.0
    for case in cases:
        axes.text(0.0, at - 0.75, case["title"], fontsize=9, fontweight="bold", va="center", transform=mixed(axes))
        for name in case["samples"]:
            values = [case["unit_bytes"] / MIB / one if case["unit_bytes"] else one for one in times(case, name)]
            if values:
                middle = statistics.median(values)
                error = [[middle - min(values)], [max(values) - middle]]
                axes.barh(at, middle, xerr=error, color=colour(name), height=0.8, ecolor="#333333", capsize=2)
                axes.text(max(values), at, f" {number(middle)}", fontsize=8, va="center")
            ticks.append(at)
            names.append(name)
            at += 1
        at += 1.4
    axes.set_yticks(ticks, names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.margins(x=0.12, y=0.03)
    axes.spines[["top", "right"]].set_visible(False)


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def mixed(axes: Any) -> Any:
    """Return coordinates: a share of the width, and the data's own height."""
    return axes.get_yaxis_transform()


def growth(axes: Any, case: dict[str, Any] | None, unit: float, label: str) -> None:
    """Draw time against size, both logarithmic, with a line that grows as the size does."""
    axes.set_xlabel(label)
    axes.set_ylabel("seconds")
    if case is None:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    points = sorted((size / unit, times(case, name)) for name, size in case["sizes"].items() if times(case, name))
    sizes, medians = [size for size, _ in points], [statistics.median(took) for _, took in points]
    error = [[m - min(t) for m, (_, t) in zip(medians, points)], [max(t) - m for m, (_, t) in zip(medians, points)]]  # noqa: B905
    axes.errorbar(sizes, medians, yerr=error, marker="o", color=COLOURS["labfs"], capsize=3, label="labfs")
    axes.plot(sizes, [medians[-1] * size / sizes[-1] for size in sizes], "--", color="#8a8a8a", label="linear")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes, [f"{size:,.4g}" for size in sizes])
    axes.minorticks_off()
    fitted = next((verdict["ratio"] for verdict in case["verdicts"]), None)
    axes.set_title(case["title"] + (f": exponent {fitted:.2f}" if fitted else ""), fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def main(source: Path, target: Path) -> None:
    data = json.loads(source.read_text())
    cases = [case for case in data["cases"] if any(times(case, name) for name in case["samples"])]
    fast = [case for case in cases if case["unit_bytes"]]
    slow = [case for case in cases if not case["unit_bytes"] and not case["sizes"]]
    grown = {case["case"]: case for case in cases if case["sizes"]}
    count = max(sum(len(case["samples"]) + 1.4 for case in each) for each in (fast, slow, [{"samples": "-" * 12}]))
    figure = plt.figure(figsize=(17, 4.6 + 0.24 * count), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[0.24 * count, 3.6])
    for at, each, label in ((0, fast, "MiB/s: more is better"), (1, slow, "seconds, logarithmic: less is better")):
        axes = figure.add_subplot(grid[0, at])
        if at:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda *_: "")
        bars(axes, each, label)
    growth(figure.add_subplot(grid[1, 0]), grown.get("growth-bytes"), 1024 * MIB, "GiB read")
    growth(figure.add_subplot(grid[1, 1]), grown.get("growth-entries"), 1, "entries listed")
    figure.suptitle(data["about"], fontsize=9)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
