"""A machine of file operations: the same system calls on a mount and on a local directory, step by step.

Whatever a program can do to files it does to both, and both must answer alike: results, errnos, bytes, sizes
and names. Where they may not, `DIFFERENCES` says so, each with the sentence that tells users. Between the
calls somebody else edits files on the server, the site is away, and the mount is made anew. At the end of
each history the server holds what the local directory holds, each file once.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import mmap
import operator
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from memory import SYSTEMS
from operated import BOX, Operated

from labfs.backend import Capabilities, Replace

pytestmark = [pytest.mark.mount, pytest.mark.timeout(3600)]

SOAK = bool(os.environ.get("LABFS_SOAK"))
HISTORIES = 100 if SOAK else 10  # of each system
LENGTH = 30  # of a history, in steps
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # a step that goes wrong is waited for: shrinking takes hours

ORDINARY = ["a", "b", "c.txt", "d/a", "d/b", "e/a"]
SCRATCH = ".a.swp"  # a name that stays local
PATHS = st.sampled_from(ORDINARY)
ANY_PATHS = st.sampled_from([*ORDINARY, SCRATCH])
FOLDERS = st.sampled_from(["d", "e"])
OFFSETS = st.one_of(st.integers(0, 200), st.integers(0, 10_000), st.sampled_from([4095, 4096, 4097, 8192, 12_000]))
COUNTS = st.one_of(st.integers(0, 300), st.sampled_from([4096, 9000]))
DATA = st.builds(
    lambda letters, times: letters * times, st.binary(min_size=1, max_size=20), st.sampled_from([1, 3, 500])
)
PICK = st.integers(0, 5)
FLAGS = st.builds(
    lambda access, more: functools.reduce(operator.or_, more, access),
    st.sampled_from([os.O_RDWR, os.O_RDONLY, os.O_WRONLY]),
    st.sets(st.sampled_from([os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_APPEND])),
)

# A kind of step → how often it comes, and what is drawn for it. A step that does not matter shrinks to the first.
STEPS: dict[str, tuple[int, list[st.SearchStrategy[Any]]]] = {
    "rest": (1, []),
    "open": (
        8,
        [ANY_PATHS, st.one_of(FLAGS, st.sampled_from([os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDONLY | os.O_TRUNC]))],
    ),
    "write": (3, [PICK, DATA]),
    "pwrite": (3, [PICK, OFFSETS, DATA]),
    "read": (4, [PICK, COUNTS]),
    "pread": (5, [PICK, OFFSETS, COUNTS]),
    "seek": (1, [PICK, OFFSETS, st.sampled_from([os.SEEK_SET, os.SEEK_END])]),
    "ftruncate": (5, [PICK, OFFSETS]),
    "fstat": (1, [PICK]),
    "fsync": (2, [PICK, st.booleans()]),
    "dup": (2, [PICK]),
    "close": (3, [PICK]),
    "map": (4, [PICK, OFFSETS, DATA, st.booleans(), st.booleans()]),
    "truncate": (2, [PATHS, OFFSETS]),
    "unlink": (2, [ANY_PATHS]),
    "rename": (4, [ANY_PATHS, PATHS]),
    "mkdir": (1, [FOLDERS]),
    "rmdir": (1, [FOLDERS]),
    "rename_folder": (1, [FOLDERS, FOLDERS]),
    "link": (1, [PATHS, st.booleans()]),
    "utime": (1, [PATHS, st.integers(0, 2**31)]),
    "chmod": (1, [PATHS, st.sampled_from([0o600, 0o644, 0o755])]),
    "look": (2, [ANY_PATHS]),
    "save": (3, [PATHS, DATA]),
    "swap": (1, [DATA]),
    "hand_over": (2, [PATHS, PATHS, DATA]),
    "edit": (2, [PATHS, DATA]),
    "erase": (2, [PATHS]),
    "away": (1, [st.lists(PATHS, min_size=1, max_size=3, unique=True), DATA, st.booleans()]),
    "refresh": (2, []),
    "remount": (1, [st.booleans()]),
}
KINDS = st.sampled_from([kind for kind, (often, _) in STEPS.items() for _ in range(often)])
STEP = KINDS.flatmap(lambda kind: st.tuples(st.just(kind), *STEPS[kind][1]))


@dataclass(frozen=True)
class Difference:
    """An errno by which a mount may answer where a local file system does the thing."""

    call: str
    errnos: frozenset[int]
    where: Callable[[Capabilities], bool]
    sentence: str  # of the README


DIFFERENCES = {
    "no deleting": Difference(
        "unlink", frozenset({errno.EPERM}), lambda can: not can.deletable,
        "a file can be neither deleted, renamed nor overwritten",
    ),
    "no renaming": Difference(
        "rename", frozenset({errno.EXDEV, errno.EPERM}), lambda can: not can.renames,
        "Where a system cannot rename, `mv` copies and deletes if deleting is allowed, and is refused otherwise.",
    ),
    "folders stay": Difference(
        "rename folder", frozenset({errno.EXDEV, errno.EPERM}), lambda can: True,
        "Directories that are on a server are neither renamed nor removed.",
    ),
    "no links": Difference(
        "link", frozenset({errno.EPERM}), lambda can: True,
        "There are no links",
    ),
    "removed while open": Difference(
        "removed", frozenset({errno.ENOENT, errno.ESTALE}), lambda can: True,
        "A file that is removed while it is open stays readable as far as it was fetched",
    ),
}  # fmt: skip
# What is not compared, since no lab system has it, or the mount says what it has instead.
NOT_COMPARED = {
    "modes, owners, counts of links": "`chmod`, `chown` and dates are accepted",
    "empty folders, after a listing": "A folder exists as long as a file is in it",
    "scratch files, after a remount": "Temporary, lock, swap and desktop files stay on this machine.",
}

Outcome = tuple[str, Any]


def attempt(call: Callable[[], Any]) -> Outcome:
    try:
        return ("returns", call())
    except OSError as error:
        return ("raises", error.errno)


@dataclass
class Open:
    """One open file on both sides."""

    mine: int
    theirs: int
    path: str
    flags: int
    removed: bool = False
    copies: list[tuple[int, int]] = field(default_factory=list)


QUIET = ("cat", "chmod", "utimens", "mkdir", "rmdir")  # save nothing
steps_made: Counter[str] = Counter()
Step = Callable[..., None]


def with_file(step: Step) -> Step:
    """Have a step made on one of the open files; left out while nothing is open."""

    @functools.wraps(step)
    def made(self: Machine, pick: int, *arguments: Any) -> None:
        if self.opened:
            step(self, self.opened[pick % len(self.opened)], *arguments)

    return made


class Machine:
    """One history, in a folder of its own on a mount that serves many; `local` lies beside it."""

    def __init__(self, stage: Operated, base: Path, folder: str) -> None:
        self.stage = stage
        self.folder = folder
        self.mount = stage.box / folder
        self.local = base / folder
        self.local.mkdir()
        self.mount.mkdir()
        self.opened: list[Open] = []
        self.theirs: set[str] = set()  # files that this mount has not saved
        for root in (self.mount, self.local):
            (root / "anchor").write_bytes(b"keeps the folder, whatever else comes and goes")
            (root / "d").mkdir()
            for path in ("a", "d/a"):
                (root / path).write_bytes(path.encode() * 3001)
        self.open("a", os.O_RDWR)
        self.open("d/a", os.O_RDWR | os.O_APPEND)

    def play(self, steps: list[tuple[Any, ...]]) -> None:
        try:
            for kind, *arguments in steps:
                getattr(self, kind)(*arguments)
                self.compare_names()
            self.close_all()
            self.compare_at_the_end()
        finally:
            self.clean_up()

    # -- both sides --------------------------------------------------------------------------------------

    def both(self, name: str, call: Callable[[Path], Any], *, local: bool = True) -> Outcome:
        """Make a call on both sides, the mount first; return the answer that they agree on."""
        steps_made[name] += 1
        if name not in QUIET:
            self.theirs.clear()
        ours = attempt(lambda: call(self.mount))
        if local and self.differs(name, ours):
            steps_made[f"{name}, refused"] += 1
            return ours
        theirs = attempt(lambda: call(self.local))
        assert ours == theirs, f"{name}: the mount {ours}, a local directory {theirs}"
        return ours

    def differs(self, name: str, ours: Outcome) -> bool:
        return ours[0] == "raises" and any(
            d.call == name and ours[1] in d.errnos and d.where(self.stage.can) for d in DIFFERENCES.values()
        )

    def on(self, name: str, file: Open, call: Callable[[int], Any]) -> Outcome:
        """Make a call on an open file of both sides."""
        steps_made[name] += 1
        ours = attempt(lambda: call(file.mine))
        if file.removed and self.differs("removed", ours):
            attempt(lambda: call(file.theirs))
            return ours
        theirs = attempt(lambda: call(file.theirs))
        assert ours == theirs, f"{name} of {file.path}: the mount {ours}, a local directory {theirs}"
        return ours

    def heal(self) -> None:
        """Remove local folders that have been empty, and are not shown any more."""
        empty = {path for path in self.local.iterdir() if path.is_dir() and not any(path.iterdir())}
        gone = [path for path in empty if path.name not in os.listdir(self.mount)]
        for path in gone:
            path.rmdir()
        if gone:
            self.stage.ask("refresh")  # the kernel may believe in them for another second

    def in_use(self, path: str) -> bool:
        return any(file.path == path for file in self.opened)

    # -- open files --------------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> None:
        if len(self.opened) >= 6:
            return
        self.heal()
        fds: list[int] = []

        def call(root: Path) -> None:
            fds.append(os.open(root / path, flags, 0o644))

        if self.both("open", call)[0] == "returns":
            self.opened.append(Open(fds[0], fds[1], path, flags))

    @with_file
    def write(self, file: Open, data: bytes) -> None:
        self.on("write", file, lambda fd: os.write(fd, data))

    @with_file
    def pwrite(self, file: Open, offset: int, data: bytes) -> None:
        self.on("pwrite", file, lambda fd: os.pwrite(fd, data, offset))

    @with_file
    def read(self, file: Open, count: int) -> None:
        self.on("read", file, lambda fd: os.read(fd, count))

    @with_file
    def pread(self, file: Open, offset: int, count: int) -> None:
        self.on("pread", file, lambda fd: os.pread(fd, count, offset))

    @with_file
    def seek(self, file: Open, offset: int, whence: int) -> None:
        self.on("lseek", file, lambda fd: os.lseek(fd, offset, whence))

    @with_file
    def ftruncate(self, file: Open, size: int) -> None:
        self.on("ftruncate", file, lambda fd: os.ftruncate(fd, size))

    @with_file
    def fstat(self, file: Open) -> None:
        self.on("fstat", file, lambda fd: os.fstat(fd).st_size)

    @with_file
    def fsync(self, file: Open, only_data: bool) -> None:
        self.on("fsync", file, os.fdatasync if only_data else os.fsync)

    @with_file
    def dup(self, file: Open) -> None:
        if len(file.copies) < 3:
            file.copies.append((os.dup(file.mine), os.dup(file.theirs)))
            steps_made["dup"] += 1

    @with_file
    def close(self, file: Open) -> None:
        """Close a copy of the descriptor, the first one first, and at last the file."""
        self.on("close", file, os.close)
        if file.copies:
            file.mine, file.theirs = file.copies.pop()
        else:
            self.opened.remove(file)

    @with_file
    def map(self, file: Open, offset: int, data: bytes, synced: bool, late: bool) -> None:
        """Write through a shared map; `late`: after the descriptor it was made of is closed."""
        size = os.fstat(file.theirs).st_size
        if file.flags & os.O_ACCMODE != os.O_RDWR or size == 0 or file.removed:
            return
        offset = min(offset, size - 1)
        data = data[: size - offset]

        def call(fd: int) -> bytes:
            with mmap.mmap(fd, size) as view:
                before = bytes(view)
                view[offset : offset + len(data)] = data
                if late and fd == file.mine:
                    self.on("close", file, os.close)
                if synced:
                    view.flush()
            return before

        assert file.theirs != file.mine
        if not late:
            self.on("mmap", file, call)
            return
        steps_made["mmap, late"] += 1
        with mmap.mmap(file.theirs, size) as theirs:
            before = bytes(theirs)
            theirs[offset : offset + len(data)] = data
        assert call(file.mine) == before
        if file.copies:
            file.mine, file.theirs = file.copies.pop()
        else:
            self.opened.remove(file)
            self.settled()

    # -- names -------------------------------------------------------------------------------------------

    def truncate(self, path: str, size: int) -> None:
        self.heal()
        self.both("truncate", lambda root: os.truncate(root / path, size))

    def unlink(self, path: str) -> None:
        self.heal()
        if (
            self.both("unlink", lambda root: os.unlink(root / path))[0] == "returns"
            and not (self.local / path).exists()
        ):
            for file in self.opened:
                file.removed = file.removed or file.path == path

    def rename(self, path: str, new: str) -> None:
        self.heal()
        kind, _ = self.both("rename", lambda root: os.rename(root / path, root / new))
        if path == new or kind == "raises":
            return
        for file in self.opened:
            if file.path == new:
                file.removed = True
            elif file.path == path and not file.removed:
                file.path = new

    def mkdir(self, folder: str) -> None:
        self.heal()
        self.both("mkdir", lambda root: os.mkdir(root / folder))

    def rmdir(self, folder: str) -> None:
        self.heal()
        self.both("rmdir", lambda root: os.rmdir(root / folder))

    def rename_folder(self, folder: str, new: str) -> None:
        self.heal()
        if any(file.path.startswith((folder, new)) for file in self.opened):
            return
        self.both("rename folder", lambda root: os.rename(root / folder, root / new))

    def link(self, path: str, symbolic: bool) -> None:
        if not (self.local / path).exists():
            return
        link: Callable[[Path], None] = lambda root: (os.symlink if symbolic else os.link)(root / path, root / "link")  # noqa: E731
        assert self.differs("link", attempt(lambda: link(self.mount)))

    def utime(self, path: str, when: int) -> None:
        self.heal()

        def call(root: Path) -> float:
            os.utime(root / path, (when, when))
            return os.stat(root / path).st_mtime

        self.both("utimens", call)

    def chmod(self, path: str, mode: int) -> None:
        self.heal()
        self.both("chmod", lambda root: os.chmod(root / path, mode))

    def look(self, path: str) -> None:
        self.heal()
        self.both("cat", lambda root: (root / path).read_bytes())

    # -- whole saves -------------------------------------------------------------------------------------

    def save(self, path: str, data: bytes) -> None:
        self.heal()
        self.both("save", lambda root: (root / path).write_bytes(data))

    def swap(self, data: bytes) -> None:
        """Save as an editor does: a backup aside, the new one in its place, the backup removed."""
        if self.in_use("a") or self.in_use("a~"):
            return

        def call(root: Path) -> None:
            with suppress(FileNotFoundError):
                os.rename(root / "a", root / "a~")
            (root / "a").write_bytes(data)
            with suppress(FileNotFoundError):
                os.unlink(root / "a~")

        self.both("editor's save", call)

    def hand_over(self, path: str, new: str, data: bytes) -> None:
        """Rename a file, over another perhaps, while it is first written."""
        self.heal()
        if (self.local / path).exists() or self.in_use(path):
            return

        def call(root: Path) -> None:
            fd = os.open(root / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                os.write(fd, data)
                os.rename(root / path, root / new)
            finally:
                os.close(fd)

        if self.both("rename while written", call)[0] == "returns":
            for file in self.opened:
                file.removed = file.removed or file.path == new

    # -- behind labfs's back -----------------------------------------------------------------------------

    def edit(self, path: str, data: bytes) -> None:
        """Somebody else saves a file that nobody here has open."""
        self.settled()
        self.heal()
        if self.in_use(path) or (self.local / path).is_dir():
            return
        steps_made["edit"] += 1
        if not (self.mount / path).exists():
            self.theirs.add(path)
        self.stage.ask("edit", f"{self.folder}/{path}", data.hex())
        self.stage.ask("refresh")
        (self.local / path).parent.mkdir(exist_ok=True)
        (self.local / path).write_bytes(data)

    def erase(self, path: str) -> None:
        """Somebody else removes a file; what was saved here a moment ago is believed for a while all the same."""
        self.settled()
        if self.in_use(path) or path not in self.theirs or self.stage.can.replace is Replace.NEWER:
            return
        steps_made["erase"] += 1
        self.stage.ask("erase", f"{self.folder}/{path}")
        self.stage.ask("refresh")
        (self.local / path).unlink()

    def rest(self) -> None:
        pass

    def refresh(self) -> None:
        steps_made["refresh"] += 1
        self.stage.ask("refresh")

    def away(self, paths: list[str], data: bytes, truncate: bool) -> None:
        """Save while the site is away: an error that changes nothing, and sent when it is back."""
        self.settled()
        self.heal()
        waiting: dict[str, bytes] = {}
        list(os.walk(self.mount))
        self.stage.ask("away", True)
        for path in paths:
            if self.in_use(path) or not (self.local / path).parent.exists():
                continue
            steps_made["away"] += 1
            flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if truncate else 0)
            kind, fd = attempt(lambda path=path, flags=flags: os.open(self.mount / path, flags))
            if kind == "raises":
                assert fd == errno.EIO, "what is not known cannot be asked for"
                continue
            os.write(fd, data)
            with pytest.raises(OSError) as caught:
                os.close(fd)
            assert caught.value.errno == errno.EIO
            old = (self.local / path).read_bytes() if (self.local / path).exists() else b""
            self.theirs.discard(path)
            waiting[path] = data if truncate else data + old[len(data) :]
        if not self.opened:
            self.compare_names()
        self.stage.ask("away", False)
        self.settled()
        for path, new in waiting.items():
            (self.local / path).write_bytes(new)

    def remount(self, kill: bool) -> None:
        steps_made["remount"] += 1
        self.close_all()
        self.settled()
        self.compare(contents=True)
        self.stage.remount(kill=kill)
        for path in self.local.rglob(SCRATCH):
            path.unlink()
        self.heal()
        self.theirs = set(self.files())

    # -- looking -----------------------------------------------------------------------------------------

    def settled(self) -> dict[str, Any]:
        """Wait for releases and the outbox: then nothing but what is open here is open there."""
        in_use = {f"/{BOX}/{self.folder}/{file.path}" for file in self.opened}
        busy = self.stage.settle(len(self.opened), in_use)
        assert not busy["mistakes"], busy["mistakes"][0]
        assert (busy["open"], busy["waiting"], set(busy["unsaved"]) - in_use) == (len(self.opened), 0, set())
        return busy

    def close_all(self) -> None:
        for file in self.opened:
            for mine, theirs in [(file.mine, file.theirs), *file.copies]:
                file.mine, file.theirs = mine, theirs
                self.on("close", file, os.close)
        self.opened.clear()

    def compare_names(self) -> None:
        self.heal()
        for folder in [self.local, *(path for path in self.local.iterdir() if path.is_dir())]:
            there = self.mount / folder.relative_to(self.local)
            names = {path.name for path in folder.iterdir()}
            shown = set(os.listdir(there))
            assert shown == names, f"{folder.name} holds {names}, and {shown} on the mount"
            for name in names:
                if (folder / name).is_file():
                    ours, theirs = (there / name).stat().st_size, (folder / name).stat().st_size
                    assert ours == theirs, f"{name} has {theirs} bytes, and {ours} on the mount"

    def compare(self, *, contents: bool) -> None:
        self.compare_names()
        for path in self.files() if contents else []:
            assert (self.mount / path).read_bytes() == (self.local / path).read_bytes(), path

    def files(self) -> list[str]:
        return [str(path.relative_to(self.local)) for path in self.local.rglob("*") if path.is_file()]

    def compare_at_the_end(self) -> None:
        busy = self.settled()
        self.compare(contents=True)
        held = self.stage.ask("held", self.folder)
        expected = {path: [digest(self.local / path)] for path in self.files() if path != SCRATCH}
        assert held == expected, "the server holds what the directory holds, each file once"
        kept = [note for note in busy["kept"] if f"/{self.folder}/" in note["path"] and note["state"] != "local"]
        assert not kept, "nothing is left of what was saved"

    def clean_up(self) -> None:
        for file in self.opened:
            for fd in (file.mine, file.theirs, *(fd for pair in file.copies for fd in pair)):
                with suppress(OSError):
                    os.close(fd)
        with suppress(OSError):
            os.unlink(self.mount / SCRATCH)
        self.stage.ask("away", False)
        self.stage.ask("forget", self.folder)
        shutil.rmtree(self.local)


def digest(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_a_mount_answers_as_a_local_directory_does(system: str, tmp_path: Path) -> None:
    stage = Operated(tmp_path, system).start()
    numbers = itertools.count()

    @given(steps=st.lists(STEP, min_size=LENGTH, max_size=LENGTH))
    @settings(
        max_examples=HISTORIES,
        phases=PHASES,
        derandomize=not SOAK,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def histories(steps: list[tuple[Any, ...]]) -> None:
        Machine(stage, tmp_path / "local", f"h{next(numbers)}").play(steps)

    (tmp_path / "local").mkdir()
    try:
        histories()
    finally:
        stage.stop()


def test_each_difference_is_told_to_users() -> None:
    """What the machine lets pass has its sentence."""
    root = Path(__file__).parents[2]
    pages = ("README.md", "SEMANTICS.md", "labfs/backends/README.md")
    told = " ".join(" ".join((root / page).read_text() for page in pages).split())
    for name, sentence in {**{n: d.sentence for n, d in DIFFERENCES.items()}, **NOT_COMPARED}.items():
        assert sentence in told, name
