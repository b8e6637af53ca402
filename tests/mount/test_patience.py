"""No call of looking or reading takes longer than one deadline, whatever the kernel repeats."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import five_stage
import pyfuse3
import pytest
import trio.testing
from five_stage import SITES, Lab
from stage import Mount, Sandbox

from labfs.errors import Unavailable
from labfs.fuse.answers import LONG_S, REPEATED_S, STEP_S, Repeats, Walks, answered

Clock = trio.testing.MockClock
CONTROL = "/sys/fs/fuse/connections"
MIB = 1024 * 1024
TIMEOUT_S = 2.0  # of the mount's sites, instead of the usual 8
LIMIT_S = 7.0  # on a busy machine; two deadlines, one after the other, take 8.4 s and more


class Asked:
    """A door with one handler, which fails after a while."""

    def __init__(self) -> None:
        self.repeats = Repeats()
        self.calls = 0
        self.takes_s = 12.0

    def subject(self, request: str, args: tuple[int, ...]) -> tuple[str, range]:
        return "f", range(args[0], args[0] + args[1])

    def began(self, request: str, args: tuple[int, ...]) -> float:
        return trio.current_time()

    def failure(self, request: str, args: tuple[int, ...], number: int, error: BaseException) -> pyfuse3.FUSEError:
        return pyfuse3.FUSEError(number)

    @answered()
    async def read(self, off: int, size: int) -> bytes:
        self.calls += 1
        await trio.sleep(self.takes_s)
        raise Unavailable("It is silent.")


async def test_the_kernels_repetition_is_answered_at_once(autojump_clock: Clock) -> None:
    door = Asked()

    async def read(off: int, size: int, takes_s: float, calls: int) -> None:
        began = trio.current_time()
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await door.read(off, size)
        assert (trio.current_time() - began, door.calls) == (pytest.approx(takes_s), calls)
        assert caught.value.errno == (errno.ETIMEDOUT if door.takes_s > 17 else errno.EIO)

    await read(MIB, MIB, 12.0, 1)
    await read(MIB, 4096, 0.0, 1)
    await read(MIB + 4096, 4096, 0.0, 1)  # another reader, another page
    await read(2 * MIB, 4096, 12.0, 2)  # it was not asked for
    await trio.sleep(REPEATED_S + 0.01)
    await read(2 * MIB, 4096, 12.0, 3)
    await trio.sleep(REPEATED_S + 0.01)
    door.takes_s = 20.0
    await read(0, MIB, 17.0, 4)
    await read(0, 4096, 0.0, 4)
    door.takes_s = LONG_S / 2  # what fails fast is tried again
    await trio.sleep(REPEATED_S + 0.01)
    await read(0, MIB, LONG_S / 2, 5)
    await read(0, 4096, LONG_S / 2, 6)


async def test_a_path_has_one_deadline_for_all_its_names(autojump_clock: Clock) -> None:
    walks = Walks()
    start = trio.current_time()
    for inode in (1, 2, 3):  # 1/2/3/4, each of which takes a while
        assert walks.began(100, inode) == start
        assert walks.began(200, 1) == trio.current_time(), "another task"
        await trio.sleep(6)
        walks.reached(100, inode + 1)
    assert walks.began(100, 4) == start, "and what is done with the last one"
    await trio.sleep(STEP_S * 2)
    assert walks.began(100, 4) == trio.current_time(), "another call"
    walks.reached(100, 5)
    assert walks.began(100, 1) == trio.current_time(), "another path"


# -- through a mount, all five systems at once ---------------------------------------------------------------

ROUTES = {  # to bytes
    "basespace": {"service": "blobs", "method": "GET"},
    "clarity": {"service": "clarity", "method": "GET", "route": "*/download"},
    "odm": {"service": "odm", "method": "GET", "route": "*/download"},
    "redcap": {"service": "redcap", "method": "POST"},
}


@pytest.fixture(scope="module", autouse=True)
def fusectl() -> Iterator[None]:
    """The kernel's control of its FUSE connections, as systemd mounts it; mounted for these tests where it is not."""
    mine = not os.path.ismount(CONTROL)
    mine = mine and subprocess.run(["mount", "-t", "fusectl", "none", CONTROL], capture_output=True).returncode == 0
    yield
    if mine:
        subprocess.run(["umount", "-l", CONTROL], check=False)


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(running) as made:
        yield made


@pytest.fixture(scope="module")
def hasty(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    base = tmp_path_factory.mktemp("hasty")
    config = base / "labfs.toml"
    config.write_text(lab.sandbox.config.read_text().replace("access =", f"timeout_s = {TIMEOUT_S}\naccess ="))
    config.chmod(0o600)
    mount = Mount(base, config)
    try:
        yield mount.start()
    finally:
        mount.clean_up()


READS: dict[str, str] = {
    "read": "os.read(descriptor, 65536)",
    "map": "mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)[1 << 20]",
    "pread": "os.pread(descriptor, 5000, 1 << 20)",
    "large": "os.read(descriptor, 4 << 20)",
}
PROGRAM = """
import json, mmap, os, sys, time

def timed(path, code):  # in a process of its own: a map that cannot be read ends it
    began = time.monotonic()
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return [time.monotonic() - began]
    opened = time.monotonic()
    if os.fork() == 0:
        try:
            eval(code)
        except OSError:
            os._exit(1)
        os._exit(0)
    assert os.wait()[1] != 0, "it was read"
    return [opened - began, time.monotonic() - opened]

pipes = {}
for name, path, code in json.loads(sys.argv[1]):
    pipes[name], there = os.pipe()
    if os.fork() == 0:
        os.write(there, json.dumps(timed(path, code)).encode())
        os._exit(0)
    os.close(there)
print(json.dumps({name: json.loads(os.read(pipe, 1000)) for name, pipe in pipes.items()}))
"""


def took(calls: list[tuple[str, Path, str]]) -> dict[str, list[float]]:
    """Make calls at the same time that should fail; return for each how long its open and it took, in seconds."""
    argument = json.dumps([(name, str(path), code) for name, path, code in calls])
    done = subprocess.run(["python3", "-c", PROGRAM, argument], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def until_known(path: Path) -> None:
    """Look until it works: after a silence a site is left alone for a moment."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            os.stat(path)
            return
        time.sleep(0.2)
    os.stat(path)


@pytest.mark.mount
@pytest.mark.parametrize("fault", [{"action": "status", "argument": 503}, {"action": "stall", "argument": 0}])
def test_a_read_takes_one_deadline_at_most(fault: dict[str, object], lab: Lab, hasty: Mount) -> None:
    kinds = list(READS)[: 4 if fault["action"] == "stall" else 2]
    names = {site: [f"{fault['action']} {kind}" for kind in kinds] for site in SITES}
    names["redcap"] = names["redcap"][:1]  # a field holds one file
    for site in SITES:
        for name in names[site]:
            lab.put(site, name, random.Random(1).randbytes(3 * MIB // 2))
        hasty.refresh(hasty.path / site)
        for name in names[site]:
            until_known(hasty.path / lab.places[site] / name)
    lab.sandbox.faults(*({"service": "*", **fault, "times": None, **route} for route in ROUTES.values()))
    times = took(
        [
            (f"{site} {kind}", hasty.path / lab.places[site] / name, READS[kind])
            for site in SITES
            for name, kind in zip(names[site], kinds, strict=False)
        ]
    )
    lab.sandbox.faults()
    assert all(seconds < LIMIT_S for each in times.values() for seconds in each), times


@pytest.mark.mount
def test_many_readers_of_a_silent_site_delay_no_other(lab: Lab, hasty: Mount) -> None:
    if not os.path.ismount(CONTROL):  # which only an administrator may mend
        assert "No more than the kernel's usual number of reads" in hasty.log
        return
    lab.sandbox.faults()
    data, folder = random.Random(2).randbytes(MIB), hasty.path / lab.places["basespace"]
    names = [f"silent {number}" for number in range(20)]
    for name in names:
        lab.put("basespace", name, data)
    lab.put("odm", "well", data)
    hasty.refresh(hasty.path)
    for path in (*(folder / name for name in names), hasty.path / lab.places["odm"] / "well"):
        until_known(path)
    lab.sandbox.faults({"service": "blobs", "method": "GET", "action": "stall", "argument": 0, "times": None})
    with ThreadPoolExecutor(len(names)) as readers:
        waiting = [readers.submit((folder / name).read_bytes) for name in names]
        time.sleep(0.3)
        began = time.monotonic()
        assert (hasty.path / lab.places["odm"] / "well").read_bytes() == data
        took_s = time.monotonic() - began
        assert not any(reader.done() for reader in waiting)
    lab.sandbox.faults()
    assert all(isinstance(reader.exception(), OSError) for reader in waiting)
    assert took_s < 1.0
