"""The bench's own actions on small files, judged by what they ask of the server: requests and bytes, never seconds."""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bench.cases import lists, reads
from bench.ground import MIB, Ground
from bench.measuring import Case, Contest, Faster, Linear, Result, Sample, Within, judge, measure
from bench.peers import Drive, labfs
from bench.processes import Failed, run
from bench.programs import Programs
from bench.report import rows, table

pytestmark = pytest.mark.mount

BLOCK = MIB  # that one random read may fetch, at most
WHOLE, PIECES, FEW = 32, 20, 50  # MiB of the large file, random reads, small files
LARGEST_PAGE, ENTRIES = 1024, 5000
LEAST_PART, LARGEST_PART, SAVED = 5 * MIB, 25 * MIB, 20 * MIB
NO_PROGRAMS = Programs(*[Path(os.devnull)] * 4)  # the hub serves the bytes itself


@dataclass(frozen=True)
class Asked:
    """What the hub was asked since it was last looked at."""

    requests: dict[str, int]
    ranges: dict[str, list[tuple[int, int]]]  # by path, sorted; (first byte, byte after the last)
    parts: dict[str, list[int]]

    @property
    def bytes(self) -> int:
        return sum(after - first for spans in self.ranges.values() for first, after in spans)


class Bench:
    """A ground without nginx, and labfs on it."""

    def __init__(self, ground: Ground, hub: str, drive: Drive) -> None:
        self.ground, self.drive, self._hub = ground, drive, hub

    def asked(self) -> Asked:
        request = urllib.request.Request(f"{self._hub}/counters", method="DELETE")
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = json.load(answer)
        ranges: dict[str, list[tuple[int, int]]] = {}
        for path, first, after in found["ranges"]:
            ranges.setdefault(path, []).append((first, after))
        return Asked(found["requests"], {path: sorted(spans) for path, spans in ranges.items()}, found["parts"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    ground = Ground(tmp_path_factory.mktemp("bench"), NO_PROGRAMS, 1)
    for folder in (reads.BOX, "again", "pieces"):
        ground.file(folder, reads.NAME, WHOLE * MIB)
    for number in range(FEW):
        ground.file("few", f"{number:02}.bin", reads.SMALL_BYTES)
    (ground.root / "saved").mkdir()
    with ground.services(generated=(ENTRIES,), own_bytes=True) as services, labfs(ground, services.api) as drive:
        for project in ("Files", "Generated"):
            os.listdir(drive.path / "hub" / project)
        yield Bench(ground, services.hub, drive)


@pytest.fixture
def opened(bench: Bench, request: pytest.FixtureRequest) -> Path:
    """A record that somebody has looked at, with the counters at zero."""
    folder = bench.drive.record(request.param)
    os.listdir(folder)
    bench.asked()
    return folder


def is_once(spans: list[tuple[int, int]], size: int) -> bool:
    """Whether ranges cover a file from its beginning to its end and no byte twice."""
    edges = [0, *(after for _, after in spans)]
    return [first for first, _ in spans] == edges[:-1] and edges[-1] == size


@pytest.mark.parametrize("opened", [reads.BOX], indirect=True)
def test_a_file_read_in_order_costs_its_bytes_once(bench: Bench, opened: Path) -> None:
    reads.whole(opened)
    asked = bench.asked()
    (spans,) = asked.ranges.values()
    assert is_once(spans, WHOLE * MIB), spans
    assert asked.requests.pop("address") == 1
    assert asked.requests.pop("bytes") <= WHOLE + 2
    assert asked.requests == {}


@pytest.mark.parametrize("opened", ["again"], indirect=True)
def test_a_file_read_again_costs_nothing(bench: Bench, opened: Path) -> None:
    reads.whole(opened)
    bench.asked()
    reads.whole(opened)
    assert bench.asked().requests == {}


@pytest.mark.parametrize("opened", ["pieces"], indirect=True)
def test_a_random_read_costs_one_block_at_most(bench: Bench, opened: Path) -> None:
    reads.pieces(opened / reads.NAME, WHOLE * MIB, reads.PAGE, PIECES)
    asked = bench.asked()
    (spans,) = asked.ranges.values()
    assert all(after - first <= BLOCK for first, after in spans), spans
    assert len(spans) <= PIECES + 1, "and one for the first page"
    assert len(set(spans)) == len(spans), "no block twice"
    assert asked.requests == {"address": 1, "bytes": len(spans)}


@pytest.mark.parametrize("opened", ["few"], indirect=True)
def test_small_files_in_order_cost_two_requests_each(bench: Bench, opened: Path) -> None:
    reads.in_order(opened)
    asked = bench.asked()
    assert len(asked.ranges) == FEW
    assert all(is_once(spans, reads.SMALL_BYTES) for spans in asked.ranges.values())
    assert asked.requests == {"address": FEW, "bytes": FEW}


def test_a_long_listing_costs_its_pages(bench: Bench) -> None:
    folder = bench.drive.record(str(ENTRIES), "Generated")
    bench.asked()
    lists.long(folder)()
    asked = bench.asked()
    pages = -(-ENTRIES // LARGEST_PAGE)
    assert pages <= asked.requests.pop("list") <= pages + 1, "the first may be a short one"
    assert asked.requests == {}, "nothing for each file"
    lists.long(folder)()
    assert bench.asked().requests == {}


@pytest.mark.parametrize("opened", ["saved"], indirect=True)
def test_a_save_is_one_upload_and_each_part_is_sent_once(bench: Bench, opened: Path) -> None:
    source = bench.ground.base / "source.bin"
    source.write_bytes(os.urandom(SAVED))
    run("cp", source, opened / "saved.bin")
    asked = bench.asked()
    (sizes,) = asked.parts.values()
    assert sum(sizes) == SAVED
    assert all(LEAST_PART <= size <= LARGEST_PART for size in sizes[:-1]), sizes
    assert asked.requests.pop("stat", 0) <= 1
    assert asked.requests == {"begin": 1, "part": len(sizes), "finish": 1}
    assert (opened / "saved.bin").stat().st_size == SAVED
    assert bench.asked().requests == {}


# -- the bench itself ------------------------------------------------------------------------------------


def sampled(**seconds: list[float]) -> Result:
    samples: dict[str, Any] = {name: [Sample(one) for one in times] for name, times in seconds.items()}
    return Result("one", "one", samples=samples)


def test_ratios_are_of_the_same_round_and_of_the_best_peer() -> None:
    result = sampled(
        labfs=[1.0, 2.0, 10.0], rclone=[2.0, 4.0, 20.0], rclone_slow=[9.0, 9.0, 90.0], curl=[1.0, 1.0, 5.0]
    )
    judge(result, (Faster(1.8), Faster(0.9, "curl"), Within(2.0), Within(0.5, beyond="curl")))
    assert [(verdict.ratio, verdict.met) for verdict in result.verdicts] == [
        (2.0, True), (0.5, False), (1.0, True), (2.0 / 1.5, False),
    ]  # fmt: skip
    assert [row[-2] for row in rows(result)] == ["yes", "no", "yes", "no"]


@pytest.mark.parametrize(("power", "met"), [(1.0, True), (1.5, False)])
def test_growth_is_the_exponent_of_a_fit(power: float, met: bool) -> None:
    result = sampled(**{f"labfs {size}": [0.001 * size**power] for size in (1000, 10_000, 100_000)})
    result.sizes = {f"labfs {size}": size for size in (1000, 10_000, 100_000)}
    judge(result, (Linear("labfs 100000"),))
    assert result.verdicts[0].ratio == pytest.approx(power)
    assert result.verdicts[0].met is met


def test_what_fails_is_told_and_ends_neither_the_round_nor_the_run(tmp_path: Path) -> None:
    order = []

    def good() -> Sample:
        order.append("labfs")
        return Sample(1.0)

    def bad() -> Sample:
        order.append("rclone")
        raise Failed("It is not there.")

    @contextlib.contextmanager
    def contest(_: Ground) -> Iterator[Contest]:
        yield Contest({"labfs": good, "rclone": bad}, (Faster(1.8), Within(2.0)))

    result = measure(Case("one", "One", contest), Ground(tmp_path, NO_PROGRAMS, 1), 3, lambda _: None)
    assert order == ["labfs", "rclone", "rclone", "labfs", "labfs", "rclone"]
    assert result.failures == {"rclone": "It is not there."}
    assert [verdict.met for verdict in result.verdicts] == [False, True]
    assert "One" in table([result, Result("two", "Two", failed="No.")])
