"""One file on a mount under random reads, writes, truncations and memory maps, against plain bytes.

After the old program of that name. A failure tells its seed and the last steps; the seed is all of it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import random
from collections import deque
from pathlib import Path

import pytest
from memory import MIB, SYSTEMS
from operated import Operated

pytestmark = [pytest.mark.mount, pytest.mark.timeout(3600)]

SOAK = bool(os.environ.get("LABFS_SOAK"))
COUNT = 25_000 if SOAK else 2000  # steps with each system
SEEDS = [2] if SOAK else [1]
LARGEST = 3 * MIB + 12_345
REMEMBERED = 20  # steps that a failure tells
# How often each kind of step comes.
KINDS = {"read": 60, "write": 60, "map_read": 10, "map_write": 12, "truncate": 16, "append": 4, "sync": 2, "reopen": 6,
         "refresh": 2, "start_over": 1}  # fmt: skip


class OneFile:
    """A file on a mount, and the bytes that it should have."""

    def __init__(self, stage: Operated, path: Path, seed: int) -> None:
        self.stage = stage
        self.path = path
        self.random = random.Random(seed)
        self.data = bytearray(self.random.randbytes(2 * MIB))
        path.write_bytes(self.data)
        self.fd = os.open(path, os.O_RDWR)
        self.appends = False  # whatever is written through it goes to the end
        self.steps: deque[str] = deque(maxlen=REMEMBERED)

    def play(self, count: int) -> None:
        kinds, weights = list(KINDS), list(KINDS.values())
        for kind in self.random.choices(kinds, weights, k=count):
            getattr(self, kind)()
        self.reopen()
        os.close(self.fd)

    def place(self, stop: int) -> tuple[int, int]:
        """Choose a range below `stop`: mostly small, often at the edges of pages and blocks."""
        size = self.random.choice([1, 100, 4096, self.random.randrange(1, 70_000), self.random.randrange(1, 250_000)])
        start = self.random.randrange(max(stop, 1))
        if self.random.random() < 0.3:
            start = start // 4096 * 4096
        if self.random.random() < 0.2:
            start = max(start // MIB * MIB - self.random.choice([0, 1, 50, 4096]), 0)
        return start, min(start + size, stop)

    def note(self, step: str) -> None:
        self.steps.append(step)

    def same(self, found: bytes, start: int, stop: int) -> None:
        wanted = bytes(self.data[start:stop])
        if found == wanted:
            return
        at = next(
            (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted))
        )
        raise AssertionError(
            f"other bytes from {start + at} on, of {start}:{stop} ({len(found)} came); the last steps: {list(self.steps)}"
        )

    # -- steps -------------------------------------------------------------------------------------------

    def read(self) -> None:
        start, stop = self.place(LARGEST)
        self.note(f"read {start}:{stop}")
        self.same(os.pread(self.fd, stop - start, start), start, stop)

    def write(self) -> None:
        """Beyond the end too: what lies between is zeros."""
        start, stop = self.place(min(len(self.data) + self.random.choice([0, 0, 0, 200_000]), LARGEST))
        if self.appends:
            start, stop = len(self.data), min(len(self.data) + stop - start, LARGEST)
        self._put(start, self.random.randbytes(stop - start), "write")
        assert os.pwrite(self.fd, self.data[start:stop], start) == stop - start

    def append(self) -> None:
        data = self.random.randbytes(min(self.random.randrange(1, 5000), LARGEST - len(self.data)))
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self._put(len(self.data), data, "append")
        os.write(fd, data)
        if self.random.random() < 0.5 and len(self.data):
            self.map_write()  # while somebody appends
        os.close(fd)

    def _put(self, start: int, data: bytes, step: str) -> None:
        self.note(f"{step} {start}:{start + len(data)} of {len(self.data)}")
        self.data.extend(bytes(max(start - len(self.data), 0)))
        self.data[start : start + len(data)] = data

    def map_read(self) -> None:
        start, stop = self.place(len(self.data))
        if self.data:
            self.note(f"map_read {start}:{stop}")
            with mmap.mmap(self.fd, len(self.data), prot=mmap.PROT_READ) as view:
                self.same(view[start:stop], start, stop)

    def map_write(self) -> None:
        start, stop = self.place(len(self.data))
        if not self.data:
            return
        self._put(start, self.random.randbytes(stop - start), "map_write")
        with mmap.mmap(self.fd, len(self.data)) as view:
            view[start:stop] = self.data[start:stop]
            if self.random.random() < 0.5:
                view.flush()

    def truncate(self) -> None:
        size = self.random.choice(
            [int(LARGEST * self.random.random() ** 2), len(self.data), max(len(self.data) - 3, 0)]
        )
        self.note(f"truncate {len(self.data)} to {size}")
        self.data = self.data[:size].ljust(size, b"\0")
        os.ftruncate(self.fd, size) if self.random.random() < 0.7 else os.truncate(self.path, size)
        assert os.fstat(self.fd).st_size == size, list(self.steps)

    def start_over(self) -> None:
        self.note("start over")
        os.close(os.open(self.path, os.O_RDONLY | os.O_TRUNC))
        self.data = bytearray(self.random.randbytes(MIB + 1))
        os.pwrite(self.fd, self.data, 0)

    def sync(self) -> None:
        self.note("sync")
        os.fsync(self.fd)

    def refresh(self) -> None:
        self.note("refresh")
        self.stage.ask("refresh")

    def reopen(self) -> None:
        """What is read and edited next lies on the server."""
        self.note("reopen")
        os.close(self.fd)
        if self.random.random() < 0.5:
            self.stage.settle()
            self.stage.ask("refresh")
        self.appends = self.random.random() < 0.25
        self.fd = os.open(self.path, os.O_RDWR | (os.O_APPEND if self.appends else 0))
        assert os.fstat(self.fd).st_size == len(self.data), list(self.steps)
        if self.random.random() < 0.3:
            self.same(os.pread(self.fd, LARGEST, 0), 0, LARGEST)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("system", list(SYSTEMS))
def test_a_file_is_what_was_written(system: str, seed: int, tmp_path: Path) -> None:
    stage = Operated(tmp_path, system).start()
    try:
        (stage.box / "h").mkdir()
        (stage.box / "h" / "anchor").write_bytes(b"keeps the folder")
        file = OneFile(stage, stage.box / "h" / "one.bin", seed)
        file.play(COUNT)
        busy = stage.settle()
        assert (busy["open"], busy["kept"], busy["mistakes"]) == (0, [], [])
        assert stage.ask("held", "h")["one.bin"] == [hashlib.md5(file.data).hexdigest()]
        stage.remount()
        assert file.path.read_bytes() == bytes(file.data)
    finally:
        stage.stop()
