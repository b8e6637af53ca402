"""A failure as a value: what goes wrong, the call that meets it, and what the mount and `labfs why` say of it.

`Theatre` plays failures in waves, one of each system at a time, since a system that is away costs seconds.
"""

from __future__ import annotations

import errno
import os
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import httpx
from stage import Mount, Sandbox, typed

from labfs.errors import ConfigError

FAST = "-hasty"  # the end of the name of a site that is given up soon; it is not shown
WIDTH = 118
DATED = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
RESTS = "labfs tries again every few seconds"
# What differs from run to run → what the transcript shows for it.
MASKS = (
    (re.compile(rf"{FAST}\b"), ""),
    (re.compile(r"\b\d{8}T\d{6}-[0-9a-f]{8}\b"), "SAVE"),
    (re.compile(r"\b(127\.0\.0\.1|localhost):\d+"), "HOST"),
    (re.compile(r"\b\d\d:\d\d(:\d\d)?\b"), "TIME"),
    (re.compile(r"\bGSF\d+"), "GSF…"),
    (re.compile(r"\bTeam \d+ of \d+"), "ANOTHER TEAM"),
    (
        re.compile(
            r"\b((?:files|parts|jobs|attachments|organizations|appresults|projects)/|job |attachment_)[0-9-]{2,}"
        ),
        r"\1N",
    ),
    (re.compile(r"\b[789]\d,\d{3}(?= bytes)"), "N"),
)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a program, and how the transcript names it."""

    name: str
    make: Callable[[Path], Any]
    looks: bool = False  # at what the server has now: the folder is listed anew


LIST, READ = Call("list", os.listdir), Call("read", Path.read_bytes)
SAVE = Call("save", lambda path: path.write_bytes(b"new\n"))
MAKE, REMOVE, REMOVE_FOLDER = Call("mkdir", os.mkdir), Call("remove", os.unlink), Call("rmdir", os.rmdir)


def save(data: bytes, name: str) -> Call:
    return Call(name, lambda path: path.write_bytes(data))


def move(target: str) -> Call:
    """Rename to another name in the same folder, or to a path from there."""
    return Call(f"rename to {target}", lambda path: os.rename(path, path.parent / target))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One row: `cause` is what is wrong, in words that two systems share if it is the same in both.

    `at` is below the mount point; `ask` is another path to ask about, and `before` prepares what is there.
    """

    cause: str
    call: Call
    at: Path
    ask: Path | None = None
    faults: tuple[dict[str, Any], ...] = ()
    switches: dict[str, Any] = field(default_factory=dict)
    before: Callable[[Path], Any] | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    system: str
    failure: Failure
    number: int | None  # errno; None where the call succeeded
    said: str  # by `labfs why`, without dates and what else differs from run to run

    @property
    def code(self) -> str:
        return "succeeded" if self.number is None else errno.errorcode[self.number]


class Theatre:
    """Plays failures over one mount; `names` are words of this run alone, with what is shown for them."""

    def __init__(self, sandbox: Sandbox, mount: Mount, names: dict[str, str]) -> None:
        self._sandbox = sandbox
        self._mount = mount
        self._names = names
        self._http = httpx.Client(base_url=sandbox.control, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def play(self, plays: dict[str, Sequence[Failure]]) -> list[Seen]:
        """Return what was seen of all failures of all systems, system by system."""
        seen: list[Seen] = []
        for wave in zip_longest(*(zip([system] * len(rows), rows, strict=True) for system, rows in plays.items())):
            seen += self._wave([row for row in wave if row is not None])
        return sorted(seen, key=lambda each: list(plays).index(each.system))

    def _wave(self, rows: list[tuple[str, Failure]]) -> list[Seen]:
        for _, failure in rows:
            if failure.before is not None:
                failure.before(failure.at)
            if failure.before is not None or failure.call.looks:
                self._refresh(failure.at.parent)
        with self._spoiled([failure for _, failure in rows]), ThreadPoolExecutor() as pool:
            numbers = list(pool.map(self._call, [failure for _, failure in rows]))
            said = [self._why(failure.ask or failure.at) for _, failure in rows]
        self._mount.discard()
        return [Seen(*row, number, text) for row, number, text in zip(rows, numbers, said, strict=True)]

    def _refresh(self, folder: Path) -> None:
        """Have a folder listed anew, and the folders above it not: those are renewed now, if they are old."""
        with suppress(ConfigError, OSError):  # there is no such folder
            os.stat(self._mount.path / folder)
            self._mount.refresh(self._mount.path / folder)

    @contextmanager
    def _spoiled(self, failures: list[Failure]) -> Iterator[None]:
        usual = self._http.get("/switches").json()
        for failure in failures:
            self._turn(failure.switches)
        self._sandbox.faults(*({"times": None, **fault} for failure in failures for fault in failure.faults))
        try:
            yield
        finally:
            self._sandbox.faults()
            self._turn(usual)

    def _turn(self, switches: dict[str, Any]) -> None:
        self._http.post("/switches", json=switches).raise_for_status()

    def _call(self, failure: Failure) -> int | None:
        try:
            failure.call.make(self._mount.path / failure.at)
        except OSError as error:
            return error.errno
        return None

    def _why(self, path: Path) -> str:
        done = typed("why", self._mount.path / path, env=self._mount.env)
        first, *more = (done.stdout or done.stderr).strip().replace(f"{self._mount.path}/", "").splitlines()
        # Whether the site rests just then is a matter of moments.
        return self.masked("\n".join([first, *(line for line in more if RESTS not in line)]))

    def masked(self, text: str) -> str:
        """Return a text without dates, ids, ports and other words of one run alone."""
        for name, mark in self._names.items():
            text = text.replace(name, mark)
        text = DATED.sub("", text)
        for pattern, mark in MASKS:
            text = pattern.sub(mark, text)
        return text

    def written(self, seen: list[Seen]) -> str:
        """Return the transcript: of each system its failures, each with its call, its errno and its sentences."""
        pieces = []
        for system, rows in groupby(seen, lambda each: each.system):
            pieces += [f"{system}\n{'=' * len(system)}", *map(self._row, rows)]
        return "\n\n".join(pieces) + "\n"

    def _row(self, each: Seen) -> str:
        lines = [f"{each.failure.call.name}  {self._shown(each.failure.at)}", each.code]
        if each.failure.ask is not None:
            lines.append(f"labfs why {self._shown(each.failure.ask)}")
        for line in each.said.splitlines():
            lines += textwrap.wrap(line, WIDTH - 4, break_on_hyphens=False, break_long_words=False)
        return "\n    ".join([each.failure.cause, *lines])

    def _shown(self, path: Path) -> str:
        text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\n", "\\n")
        return self.masked(re.sub(r"x{20,}", "x…x", text))
