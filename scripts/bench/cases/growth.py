"""How cost grows with the bytes of a file and with the entries of a folder."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

from bench.cases import lists
from bench.ground import MIB, Ground, warm
from bench.measuring import Contest, Linear, Sample
from bench.peers import dd, labfs

GIB, ENTRIES = (1, 2, 4, 8), (1000, 10_000, 100_000)


@contextlib.contextmanager
def in_bytes(ground: Ground) -> Iterator[Contest]:
    sizes = {f"labfs, {size / (1024 * MIB):.3g} GiB": size for size in (ground.size(1024 * gib) for gib in GIB)}
    for name, size in sizes.items():
        warm(ground.hollow("box", f"{name}.bin", size))
    with ground.services() as services:

        def read(name: str) -> Sample:
            with labfs(ground, services.api) as drive:
                os.listdir(drive.record("box"))
                return drive.timed(dd(drive.record("box") / f"{name}.bin"))

        runs = {name: functools.partial(read, name) for name in sizes}
        yield Contest(runs, (Linear(max(sizes, key=sizes.__getitem__)),), sizes=sizes)


@contextlib.contextmanager
def in_entries(ground: Ground) -> Iterator[Contest]:
    counts = {f"labfs, {count:,} entries": count for count in map(ground.count, ENTRIES)}
    with ground.services(generated=tuple(counts.values())) as services:
        runs = {
            name: functools.partial(lists.by_labfs, ground, services, count, lambda folder: lists.long(folder)())
            for name, count in counts.items()
        }
        yield Contest(runs, (Linear(max(counts, key=counts.__getitem__)),), sizes=counts)
