"""What `labfs doctor` finds, and the part of it that this machine alone tells.

Tests: mount/test_doctor.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from labfs.daemon import config, mounts
from labfs.daemon.setup import keeping
from labfs.errors import ConfigError, ended
from labfs.http.network import route, trust

LITTLE, SOME = 64 * 1024 * 1024, 2 * 1024 * 1024 * 1024  # bytes free: too few for work, and fewer than one would like


class Level(StrEnum):
    GOOD = "good"
    NOTE = "note"  # works, and is worth knowing
    WRONG = "wrong"  # needs fixing


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: about what, how it is, as a sentence, and how it is put right."""

    topic: str
    level: Level
    sentence: str
    fix: str = ""


def good(topic: str, sentence: str) -> Finding:
    return Finding(topic, Level.GOOD, sentence)


def note(topic: str, sentence: str, fix: str = "") -> Finding:
    return Finding(topic, Level.NOTE, sentence, fix)


def wrong(topic: str, sentence: str, fix: str) -> Finding:
    return Finding(topic, Level.WRONG, ended(sentence), fix)


def of_machine(path: Path) -> Iterator[Finding]:
    """Look at what mounting needs on this machine, and at the files of the configuration at `path`."""
    yield _fusermount()
    yield _device()
    yield _others()
    yield from _stale()
    yield from _room()
    yield from _files(path)
    ring = keeping.keyring_name()
    if ring:
        yield good("keyring", f"labfs login keeps what you enter in {ring}.")
    else:
        yield note("keyring", "This session has no keyring; labfs login keeps what you enter in files for you alone.")
    for doubt in (*route.doubts(os.environ), *trust.doubts(os.environ)):
        yield note("network", doubt, "Correct the variable, or unset it.")


def _fusermount() -> Finding:
    program = shutil.which("fusermount3")
    if program is None:
        return wrong("fuse3", "fusermount3 is missing: nothing can be mounted.", "sudo apt-get install fuse3")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    version = (done.stdout or done.stderr).strip().rpartition(" ")[2] or "of unknown version"
    if os.geteuid() != 0 and not os.stat(program).st_mode & stat.S_ISUID:
        return wrong(
            "fuse3",
            f"{program} ({version}) runs without root's rights, so that you cannot mount.",
            f"sudo chmod u+s {program}, or install the package fuse3 of this machine's distribution.",
        )
    return good("fuse3", f"fusermount3 {version} is there.")


def _device() -> Finding:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return wrong(
            "/dev/fuse",
            "This machine has no /dev/fuse.",
            "sudo modprobe fuse; in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN.",
        )
    except OSError as error:
        return wrong(
            "/dev/fuse",
            f"/dev/fuse cannot be opened: {error.strerror}.",
            "sudo chmod 666 /dev/fuse, or have an administrator admit you to the group that it belongs to.",
        )
    return good("/dev/fuse", "/dev/fuse can be opened.")


def _others() -> Finding:
    if mounts.others_allowed():
        return good(mounts.ALLOWS_OTHERS, "Other users of this machine can be let into a mount (--allow-other).")
    return note(
        mounts.ALLOWS_OTHERS,
        f"You alone can use a mount: {mounts.FUSE_CONF} does not have the line {mounts.ALLOWS_OTHERS}.",
        f"Only if others shall be let in (--allow-other): echo {mounts.ALLOWS_OTHERS} | sudo tee -a {mounts.FUSE_CONF}",
    )


def _stale() -> Iterator[Finding]:
    ours = [mount.mountpoint for mount in mounts.table() if mount.fstype == mounts.FSTYPE]
    places = list(dict.fromkeys(ours))
    with ThreadPoolExecutor(max(len(places), 1)) as pool:  # one that does not answer takes seconds
        dead = [where for where, alive in zip(places, pool.map(mounts.alive, places), strict=True) if not alive]
    for where in dead:
        yield wrong("mounts", f"{where} was left behind by a labfs that died.", f"labfs umount {where}")
    if not dead:
        yield good("mounts", f"{len(ours)} mount(s) of labfs, none of them dead.")


def _room() -> Iterator[Finding]:
    for what, directory, use in (("state", config.state_dir, "for saves under way"), ("cache", config.cache_dir, "")):
        try:
            where = directory()
            free = shutil.disk_usage(where).free
        except (ConfigError, OSError) as error:
            yield wrong(what, str(error), f"Set LABFS_{what.upper()}_DIR to a directory of your own on a local disk.")
            continue
        sentence = f"{free / 2**30:.1f} GiB are free {use or 'for what was read'} in {where}."
        fix = f"Make room there, or set LABFS_{what.upper()}_DIR to a directory on another disk."
        if free < LITTLE:
            yield wrong(what, sentence, fix)
        elif free < SOME:
            yield note(what, f"{sentence} A file that is saved needs as much as its size.", fix)
        else:
            yield good(what, sentence)


def _files(path: Path) -> Iterator[Finding]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        tables = config.read(path).get("sites")
    except FileNotFoundError:
        yield wrong("configuration", f"There is no configuration at {path}.", "labfs login NAME --kind KIND --url URL")
        return
    except (OSError, ConfigError) as error:
        yield wrong("configuration", f"{error}", f"Correct {path} in an editor that writes plain text.")
        return
    if mode & 0o022:
        yield wrong("configuration", f"Others may write to {path}, and send your credentials anywhere.",
                    f"chmod go-w {path}")  # fmt: skip
    elif mode & 0o077 and isinstance(tables, dict) and any(config.has_literal(each) for each in tables.values()):
        yield wrong("configuration", f"{path} holds a secret, and others may read it.", f"chmod 600 {path}")
    else:
        yield good("configuration", f"{path} can be read, and no other user can write to it.")
