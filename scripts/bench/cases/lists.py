"""Cases that list folders: long ones, many, and how soon the first name is there."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from bench.ground import RTT_S, Ground, Services
from bench.measuring import Contest, Leaner, Sample, Within
from bench.peers import labfs, quietly, rclone, timed
from bench.processes import Failed
from bench.services.hub import FIRST_GENERATED, FIRST_OF_MANY, IN_RECORD

ENTRIES, PAGE = 100_000, 1024
RECORDS = 1000
AT_ONCE = 8


def pages(api: str, counts: Mapping[int, int], at_once: int = 1) -> Sample:
    """Ask for all pages of records (id → entries) and nothing else, so many at once, over connections made before."""

    def one(client: httpx.Client, asked: tuple[int, int]) -> None:
        where = f"{api}/v1pre3/appresults/{asked[0]}/files"
        client.get(where, params={"Offset": asked[1], "Limit": PAGE}).raise_for_status()

    wanted = [(record, offset) for record, count in counts.items() for offset in range(0, count, PAGE)]
    try:
        with httpx.Client(timeout=60) as client, ThreadPoolExecutor(at_once) as pool:
            ask = functools.partial(one, client)
            list(pool.map(ask, wanted[:1] * at_once))
            return timed(lambda: list(pool.map(ask, wanted)))
    except httpx.HTTPError as error:
        raise Failed(f"A page could not be had: {error}") from None


def long(folder: Path) -> Callable[[], object]:
    return quietly("ls", "-l", folder)


def first(folder: Path) -> None:
    with os.scandir(folder) as names:
        next(names)


def by_labfs(ground: Ground, services: Services, count: int, act: Callable[[Path], object]) -> Sample:
    with labfs(ground, services.api) as drive:
        parent = drive.path / "hub" / "Generated"
        os.listdir(parent)
        return drive.timed(lambda: act(parent / str(count)))


def once_more(ground: Ground, services: Services, count: int) -> Sample:
    with labfs(ground, services.api) as drive:
        folder = drive.record(str(count), "Generated")
        long(folder)()
        return drive.timed(long(folder))


def by_rclone(ground: Ground, services: Services, act: Callable[[Path], object]) -> Sample:
    with rclone(ground, services) as mount:
        os.listdir(mount)
        return timed(lambda: act(mount / "entries"))


def entries(ground: Ground, count: int) -> None:
    """Make the same number of files for nginx; the hub, which looked when it was started, does not list them."""
    for number in range(count):
        ground.hollow("entries", f"read_{number:07}.fastq.gz", 1000 + number)


@contextlib.contextmanager
def listing(ground: Ground) -> Iterator[Contest]:
    count = ground.count(ENTRIES)
    with ground.services(generated=(count,)) as services:
        entries(ground, count)
        runs = {
            "labfs": lambda: by_labfs(ground, services, count, lambda folder: long(folder)()),
            "labfs, again": lambda: once_more(ground, services, count),
            "rclone": lambda: by_rclone(ground, services, lambda folder: long(folder)()),
            "bare pages": lambda: pages(services.api, {FIRST_GENERATED + count: count}),
        }
        yield Contest(runs, (Within(ground.limit(3)),))


@contextlib.contextmanager
def first_name(ground: Ground) -> Iterator[Contest]:
    count = ground.count(ENTRIES)
    with ground.services(generated=(count,)) as services:
        entries(ground, count)
        runs = {
            "labfs": lambda: by_labfs(ground, services, count, first),
            "rclone": lambda: by_rclone(ground, services, first),
            "one page": lambda: pages(services.api, {FIRST_GENERATED + count: min(PAGE, count)}),
        }
        yield Contest(runs, (Within(0.05, beyond="one page"),))


@contextlib.contextmanager
def far_listing(ground: Ground) -> Iterator[Contest]:
    """The same without the peer, which asks for each file by itself: 100,000 round trips."""
    count = ground.count(ENTRIES)
    with ground.services(far=True, generated=(count,)) as services:
        runs = {
            "labfs": lambda: by_labfs(ground, services, count, lambda folder: long(folder)()),
            "bare pages, 8 at once": lambda: pages(services.api, {FIRST_GENERATED + count: count}, AT_ONCE),
        }
        limit = 2.5 * math.ceil(count / PAGE) / AT_ONCE * RTT_S
        yield Contest(runs, (Within(limit),))


@contextlib.contextmanager
def tree(ground: Ground) -> Iterator[Contest]:
    """`find` over many records of 1,000 files. nginx has no such folders: a million files are too many to make."""
    records = ground.count(RECORDS)

    def find(top: Path) -> None:
        found = ground.base / "found"
        quietly("sh", "-c", 'find "$1" -type f >"$2"', "sh", top, found)()
        with found.open("rb") as lines:
            count = sum(1 for _ in lines)
        if count != records * IN_RECORD:
            raise Failed(f"find told {count} of {records * IN_RECORD} files.")

    def ours(services: Services) -> Sample:
        with labfs(ground, services.api) as drive:
            return drive.timed(lambda: find(drive.path / "hub" / "Many"))

    every = {FIRST_OF_MANY + number: IN_RECORD for number in range(records)}
    with ground.services(records=records) as services:
        runs = {"labfs": lambda: ours(services), "bare pages": lambda: pages(services.api, every)}
        yield Contest(runs, (Within(ground.limit(20)), Leaner(400)))
