"""A mount of a system in memory, in a process of its own: `python served.py MOUNTPOINT STATE SCENE`.

For what no service of the sandbox can show: a server that lies, and lists of a million.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyfuse3
import trio
from memory import RULES, MemoryBackend

from labfs.backend import Entry, Replace
from labfs.fuse.door import Door
from labfs.tree.site import Site
from labfs.vfs import Storage, assembled

ODD_NAMES = [
    "..", ".", "", "a/b", "../../etc/passwd", "new\nline", "nul\0name", "tab\there", "x" * 1000, "é" * 300, "\udc80half",
    "File", "file", "caf\u00e9", "cafe\u0301", "same", "same", "%2F", "%", "-rf", "~", "*", "$(reboot)", ".meta.json",
    "con\x1b[2Jtrol", " ", "trailing ", "\u202egpj.exe",
]  # fmt: skip


def hostile() -> MemoryBackend:
    """Names that attack, sizes and dates that cannot be, and one ordinary file among them."""
    backend = MemoryBackend(replace(RULES, replace=Replace.NEVER), page_size=7)
    for name in ODD_NAMES:
        backend.put(name, b"odd")
    for folders in [("..", "..", "etc"), ("a/b", "."), ("",), ("deep",) * 150, ("same",)]:
        backend.put("in a folder", b"odd", folders)
    huge = backend.put("huge", b"odd")
    negative = backend.put("negative", b"odd")
    dated = backend.put("dated", b"odd")
    more, less = backend.put("more", b"0123456789"), backend.put("less", b"0123456789")
    for entry, claim in [
        (huge, {"size": 2**63}), (negative, {"size": -1}), (dated, {"modified_ns": 2**80}),
        (more, {"size": 2**40, "checksum": None}), (less, {"size": 4, "checksum": None}),
    ]:  # fmt: skip
        number = int(entry.label)
        backend.files[number] = (replace(entry, **claim), backend.files[number][1])  # type: ignore[arg-type]
    backend.more = [
        Entry(id="loop/1", name="loop", is_dir=True, complete=True, inside="loop/2"),
        Entry(id="loop/2", name="loop", is_dir=True, complete=True, inside="loop/1"),
        Entry(id="files/lost", name="orphan", is_dir=False, size=0, version="1", inside="nowhere"),
        Entry(id="labels", name="same", is_dir=False, size=0, version="1", age=999, label="../../x\n"),
    ]
    backend.put("ordinary", b"an ordinary file")
    return backend


def many(count: int) -> MemoryBackend:
    backend = MemoryBackend(page_size=10_000, latency_s=0.0)
    backend.more = [
        Entry(id=f"files/{n}", name=f"reads {n}.fastq", is_dir=False, age=n, label=str(n), size=n, version="1")
        for n in range(count)
    ]
    return backend


SCENES: dict[str, Callable[[], MemoryBackend]] = {
    "hostile": hostile,
    "many": lambda: many(100_000),
    "million": lambda: many(1_000_000),
}


async def serve(mountpoint: Path, state: Path, backend: MemoryBackend) -> None:
    sites = [Site("memory", "memory", backend, may_delete=True), Site("calm", "memory", MemoryBackend())]
    storage = Storage(state, cache_bytes=64 << 20)
    async with trio.open_nursery() as nursery, assembled(sites, storage, tended=False) as vfs:
        pyfuse3.init(Door(vfs), str(mountpoint), {"fsname=labfs"})
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            nursery.start_soon(_end, signals)
            print("ready", flush=True)  # noqa: T201
            try:
                await pyfuse3.main()
            finally:
                pyfuse3.close(unmount=True)
                nursery.cancel_scope.cancel()


async def _end(signals: object) -> None:
    async for _ in signals:  # type: ignore[attr-defined]
        pyfuse3.terminate()


def start(base: Path, scene: str) -> tuple[subprocess.Popen[str], Path]:
    """Mount a scene; the caller ends the process with SIGTERM."""
    mountpoint = base / "mnt"
    mountpoint.mkdir()
    command = [sys.executable, __file__, str(mountpoint), str(base), scene]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process, mountpoint


if __name__ == "__main__":
    trio.run(serve, Path(sys.argv[1]), Path(sys.argv[2]), SCENES[sys.argv[3]]())
