"""Cases that save files."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

from bench.ground import Ground, warm
from bench.measuring import Contest, Faster, Sample
from bench.peers import labfs, uploaded
from bench.processes import run

BOX, BARE = "box", "8 connections"


@contextlib.contextmanager
def upload(ground: Ground, mib: int, is_far: bool, times: float) -> Iterator[Contest]:
    """`cp` into the mount, whose end is the server's receipt, against the same parts from a bare uploader."""
    size, numbers = ground.size(mib), itertools.count()
    source = ground.file("source", "source.bin", size)
    (ground.root / BOX).mkdir()
    record = sorted(path.name for path in ground.root.iterdir()).index(BOX) + 1
    warm(source)
    with ground.services(far=is_far) as services:

        def copied(*command: str) -> Sample:
            with labfs(ground, services.api) as drive:
                folder = drive.record(BOX)
                os.listdir(folder)
                into = folder / f"{next(numbers)}.bin"
                return drive.timed(lambda: run(*(word.format(source=source, into=into) for word in command)))

        runs = {
            "labfs": lambda: copied("cp", "{source}", "{into}"),
            "labfs, dd": lambda: copied("dd", "if={source}", "of={into}", "bs=1M", "status=none"),
            BARE: lambda: uploaded(services.api, record, source, f"bare {next(numbers)}.bin"),
        }
        yield Contest(runs, (Faster(times, BARE),), size)
