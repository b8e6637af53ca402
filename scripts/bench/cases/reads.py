"""Cases that read the bytes of files, near and far."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from bench.ground import RTT_S, Ground, Services, cold, warm
from bench.measuring import Contest, Faster, Leaner, Sample, Within
from bench.peers import (
    CACHE_MIB,
    LEAST_DISK_MIB,
    SETTINGS,
    STREAMS,
    Drive,
    curl,
    dd,
    labfs,
    quietly,
    rclone,
    timed,
)
from bench.processes import Failed, together

BOX, NAME = "box", "file.bin"
EIGHT, EACH_MIB = 8, 128
PLACES, PIECE, PAGE = 40, 64 * 1024, 4096  # random reads in a round, and their bytes
SMALL, SMALL_BYTES, FIRSTS = 1000, 100 * 1024, 10
RTT = f"round trip {RTT_S * 1000:.0f} ms"
FILLS, FILL_S = 4, 60.0  # times that a file is read until its blocks are on the disk, and seconds for each
STILL_S, LOOK_S = 4.0, 0.25  # after which no more blocks come, and how often the disk is looked at
Read = Callable[[Path], object]
Runs = dict[str, Callable[[], Sample]]
STREAMING = next(name for name, options in SETTINGS.items() if options == STREAMS)


def by_labfs(ground: Ground, services: Services, read: Read, settle_s: float | None = None) -> Sample:
    """Mount labfs, look at the folder, and time a read of it; with `settle_s`, nobody looks before."""
    more = {} if settle_s is None else {"settle_s": settle_s}
    with labfs(ground, services.api, **more) as drive:  # type: ignore[arg-type]
        folder = drive.record(BOX)
        if settle_s is None:
            os.listdir(folder)
        return drive.timed(lambda: read(folder))


def by_rclone(ground: Ground, services: Services, name: str, read: Read) -> Sample:
    with rclone(ground, services, name) as mount:
        os.listdir(mount / BOX)
        return timed(lambda: read(mount / BOX))


def peers(ground: Ground, services: Services, read: Read, names: Sequence[str] = tuple(SETTINGS)) -> Runs:
    """Return labfs and the settings of rclone, each on a mount of its own."""
    runs: Runs = {"labfs": functools.partial(by_labfs, ground, services, read)}
    for name in names:
        runs[name] = functools.partial(by_rclone, ground, services, name, read)
    return runs


def whole(folder: Path) -> None:
    dd(folder / NAME)()


def bare(ground: Ground, services: Services, size: int, connections: int = 1) -> Callable[[], Sample]:
    return lambda: timed(curl(ground, f"{services.data}/{BOX}/{NAME}", size, connections))


# -- one file from its beginning to its end ----------------------------------------------------------------


@contextlib.contextmanager
def near(ground: Ground, times: float) -> Iterator[Contest]:
    size = ground.size(1024)
    warm(ground.file(BOX, NAME, size))
    with ground.services() as services:
        runs = {**peers(ground, services, whole), "curl": bare(ground, services, size)}
        yield Contest(runs, (Faster(times),), size)


@contextlib.contextmanager
def at_once(ground: Ground) -> Iterator[Contest]:
    """The file is opened by its path as soon as `labfs mount` has returned, before anybody has looked around."""
    size = ground.size(1024)
    warm(ground.file(BOX, NAME, size))
    with ground.services() as services:
        runs = peers(ground, services, whole)
        runs["labfs"] = lambda: by_labfs(ground, services, whole, settle_s=0)
        runs["curl"] = bare(ground, services, size)
        yield Contest(runs, (Faster(1.8),), size)


@contextlib.contextmanager
def eight(ground: Ground) -> Iterator[Contest]:
    size, names = ground.size(EACH_MIB), [f"{number}.bin" for number in range(EIGHT)]
    for name in names:
        warm(ground.file(BOX, name, size))

    def read(folder: Path) -> None:
        together([["dd", f"if={folder / name}", f"of={os.devnull}", "bs=1M", "status=none"] for name in names])

    def bound(services: Services) -> Sample:
        urls = [f"{services.data}/{BOX}/{name}" for name in names]
        return timed(lambda: together([[ground.programs.curl, "-sf", "-o", os.devnull, url] for url in urls]))

    with ground.services() as services:
        runs = {**peers(ground, services, read), "8 curls": lambda: bound(services)}
        yield Contest(runs, (Faster(1.4),), size * EIGHT)


@contextlib.contextmanager
def far(ground: Ground) -> Iterator[Contest]:
    size = ground.size(512)
    warm(ground.file(BOX, NAME, size))
    with ground.services(far=True) as services:
        runs = peers(ground, services, whole)
        for connections in (8, 16):
            runs[f"{connections} curls"] = bare(ground, services, size, connections)
        yield Contest(runs, (Faster(1.1), Faster(0.9, "16 curls")), size)


@contextlib.contextmanager
def stream(ground: Ground) -> Iterator[Contest]:
    size = ground.size(4096)
    warm(ground.hollow(BOX, NAME, size))
    with ground.services() as services:
        yield Contest(peers(ground, services, whole, ()), (Leaner(CACHE_MIB + 100),), size)


# -- pieces, first bytes, small files ----------------------------------------------------------------------


def pieces(path: Path, size: int, length: int, count: int) -> float:
    """Read pieces at random places of a file that is open; return the median seconds of one."""
    places = random.Random(5)
    took = []
    with open(path, "rb", buffering=0) as file:
        os.pread(file.fileno(), PAGE, 0)
        for _ in range(count):
            place = places.randrange(0, size - length) // PAGE * PAGE
            began = time.perf_counter()
            got = len(os.pread(file.fileno(), length, place))
            took.append(time.perf_counter() - began)
            if got != length:
                raise Failed(f"A read of {length} bytes gave {got}.")
    return median(took)


def firsts(folder: Path, count: int) -> list[float]:
    """Read the first files of a folder in order; return the seconds until each one's first bytes are there.

    Each is read to its end: what only looks at beginnings is no reader in order, and nothing is fetched ahead for it.
    """
    took = []
    for name in sorted(os.listdir(folder))[:count]:
        began = time.perf_counter()
        with open(folder / name, "rb", buffering=0) as file:
            file.read(PAGE)
            took.append(time.perf_counter() - began)
            file.read()
    return took


def telling(ground: Ground, services: Services, tell: Callable[[Path], float], names: Sequence[str]) -> Runs:
    """Return labfs and settings of rclone with an action that tells its seconds itself."""

    def ours() -> Sample:
        with labfs(ground, services.api) as drive:
            os.listdir(drive.record(BOX))
            return drive.of(lambda: tell(drive.record(BOX)))

    def theirs(name: str) -> Sample:
        with rclone(ground, services, name) as mount:
            os.listdir(mount / BOX)
            return Sample(tell(mount / BOX))

    return {"labfs": ours, **{name: functools.partial(theirs, name) for name in names}}


@contextlib.contextmanager
def far_random(ground: Ground) -> Iterator[Contest]:
    size = ground.size(512)
    warm(ground.file(BOX, NAME, size))
    with ground.services(far=True) as services:
        runs = telling(ground, services, lambda folder: pieces(folder / NAME, size, PIECE, PLACES), tuple(SETTINGS))
        yield Contest(runs, (Within(RTT_S + 0.006),), bound=RTT)


@contextlib.contextmanager
def far_first(ground: Ground) -> Iterator[Contest]:
    small_files(ground, FIRSTS)
    with ground.services(far=True) as services:
        first = telling(ground, services, lambda folder: firsts(folder, 1)[0], ("rclone",))
        later = telling(ground, services, lambda folder: median(firsts(folder, FIRSTS)[3:]), ("rclone",))
        runs = {**first, **{f"{name}, next in order": run for name, run in later.items()}}
        musts = Within(2 * RTT_S + 0.008), Within(RTT_S + 0.008, name="labfs, next in order")
        yield Contest(runs, musts, bound=RTT)


def small_files(ground: Ground, count: int) -> None:
    for number in range(count):
        warm(ground.file(BOX, f"{number:05}.bin", SMALL_BYTES))


def in_order(folder: Path) -> None:
    quietly("sh", "-c", 'cat "$1"/*', "sh", folder)()


@contextlib.contextmanager
def far_small(ground: Ground) -> Iterator[Contest]:
    small_files(ground, ground.count(SMALL))
    with ground.services(far=True) as services:
        yield Contest(peers(ground, services, in_order, ("rclone",)), (Within(ground.limit(8)),))


# -- again ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def again(ground: Ground) -> Iterator[Contest]:
    """A file that was just read, against the same bytes in a local file that was just read."""
    size = ground.size(1024)
    source = ground.file(BOX, NAME, size)
    warm(source)
    with ground.services() as services, labfs(ground, services.api) as drive:
        path = drive.record(BOX) / NAME
        dd(path)()
        dd(path)()
        runs = {"labfs": lambda: drive.timed(dd(path)), "local file": lambda: timed(dd(source))}
        yield Contest(runs, (Faster(0.9, "local file"),), size)


def bytes_below(directory: Path) -> int:
    """Return the bytes of all files below a directory in which others are at work."""
    total = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def kept(drive: Drive, size: int) -> None:
    """Read a file over remounts until the disk has all its blocks: labfs writes them when the processors have time."""
    store = drive.home / "cache"
    for _ in range(FILLS):
        dd(drive.record(BOX) / NAME)()
        end, before, still = time.monotonic() + FILL_S, -1, 0.0
        while still < STILL_S and time.monotonic() < end:
            now = bytes_below(store)
            if now >= size:
                return
            still = still + LOOK_S if now == before else 0.0
            before = now
            time.sleep(LOOK_S)
        drive.unmount()
        drive.mount()


@contextlib.contextmanager
def remounted(ground: Ground, mib: int, is_far: bool) -> Iterator[Contest]:
    """A file read before a remount, against a local file on the disk, and a mount that keeps next to nothing."""
    size = ground.size(mib)
    source = ground.file(BOX, NAME, size)
    local = ground.base / "local.bin"
    local.write_bytes(source.read_bytes())
    with ground.services(far=is_far) as services, labfs(ground, services.api) as drive:
        kept(drive, size)

        def again() -> Sample:
            drive.unmount()
            cold()
            warm(source)
            drive.mount()
            return drive.timed(dd(drive.record(BOX) / NAME))

        def anew() -> Sample:
            warm(source)
            with labfs(ground, services.api, disk_mib=LEAST_DISK_MIB) as other:
                return other.timed(dd(other.record(BOX) / NAME))

        def from_disk() -> Sample:
            cold()
            return timed(dd(local))

        runs = {"labfs": again, "labfs, no cache": anew, "local disk": from_disk}
        yield Contest(runs, (Faster(0.6, "local disk"), Faster(1.0, "labfs, no cache")), size)
