"""Recordings of what programs do to the files of a directory (tests/support/recordings/README.md), read as events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from urllib.parse import unquote

FILES = Path(__file__).with_name("recordings")
_LINE = re.compile(r"(\d+) (\d+)(?:\.(\d+))? (\S+) (.+)")
_ON_HANDLES = {"close", "read", "pread", "write", "pwrite", "ftruncate", "fallocate", "fsync", "map", "lock", "flock",
               "fchmod", "futimens"}  # fmt: skip
_ON_PATHS = {"stat", "list", "readlink", "rename", "link", "unlink", "mkdir", "rmdir", "chmod", "utimens", "truncate"}


@dataclass(frozen=True, slots=True)
class Event:
    ms: int
    process: int
    thread: int  # 1 is the process's first
    program: str  # as /proc/PID/comm says it
    call: str
    words: tuple[str, ...]
    times: int = 1
    failed: str = ""  # the name of the errno

    @property
    def handle(self) -> int | None:
        """The open file that is meant; None where none is, or where open() failed."""
        if self.call in _ON_HANDLES or self.call == "open":
            return None if self.words[0] == "-" else int(self.words[0])
        return None

    @property
    def paths(self) -> tuple[str, ...]:
        if self.call == "open":
            return (self.words[1],)
        if self.call == "symlink":
            return (self.words[1],)
        if self.call in ("rename", "link"):
            return self.words[:2]
        return self.words[:1] if self.call in _ON_PATHS else ()

    @property
    def flags(self) -> frozenset[str]:
        return frozenset(self.words[2].split(",")) if self.call == "open" else frozenset()

    @property
    def mode(self) -> int | None:
        """The permissions that open() or mkdir() asked for, before the umask."""
        at = {"open": 3, "mkdir": 1}.get(self.call, 9)
        return int(self.words[at], 8) if len(self.words) > at else None

    @property
    def makes(self) -> str | None:
        """The path that this call makes, if it makes one."""
        if self.failed:
            return None
        if self.call == "open":
            return self.words[1] if "creat" in self.flags else None
        return self.paths[-1] if self.call in ("rename", "link", "symlink", "mkdir") else None


@dataclass(frozen=True)
class Recording:
    name: str
    head: dict[str, list[str]]  # program, prepared, command, note
    before: dict[str, int]  # the sizes of the files that were there
    truth: dict[str, str]  # by path: kept, draft→PATH, scratch …
    events: tuple[Event, ...]

    @cached_property
    def _ends(self) -> dict[tuple[int, int], int]:
        """The last close of a file by a process, by its place: until then it holds it."""
        closes = enumerate(self.events)
        return {(e.process, e.handle): at for at, e in closes if e.call == "close" and e.handle is not None}

    def held(self) -> Iterator[tuple[Event, dict[int, dict[int, str]]]]:
        """Yield each event with what is open just before it: by process, handle → the path that it has then."""
        names: dict[int, str] = {}
        held: dict[int, set[int]] = {}
        for at, event in enumerate(self.events):
            yield event, {process: {h: names[h] for h in sorted(handles)} for process, handles in held.items()}
            mine = held.setdefault(event.process, set())
            handle = event.handle
            if event.call == "fork":
                child = int(event.words[0])
                held[child] = {h for h in mine if (child, h) in self._ends}
            elif event.call == "open" and handle is not None:
                names[handle] = event.words[1]
                mine.add(handle)
            elif event.call == "close" and handle is not None and self._ends[event.process, handle] <= at:
                mine.discard(handle)
            elif event.call == "rename" and not event.failed:
                old, new = event.words[:2]
                names = {h: new if path == old else path for h, path in names.items()}


def _event(line: str) -> Event:
    match = _LINE.fullmatch(line)
    assert match is not None, line
    words = match[5].split(" ")
    failed = words.pop()[1:] if words[-1].startswith("!") else ""
    times = int(words.pop()[1:]) if re.fullmatch(r"\*\d+", words[-1]) else 1
    call, *rest = words
    shown = tuple(rest if call in ("symlink", "signal", "killed") else map(unquote, rest))
    return Event(int(match[1]), int(match[2]), int(match[3] or 1), unquote(match[4]), call, shown, times, failed)


@cache
def read(name: str) -> Recording:
    """Read the recording of that name."""
    head: dict[str, list[str]] = {}
    before: dict[str, int] = {}
    truth: dict[str, str] = {}
    events = []
    for line in (FILES / f"{name}.txt").read_text().splitlines():
        if not line.startswith("# "):
            events.append(_event(line))
            continue
        key, _, value = line[2:].partition(": ")
        if key == "before":
            path, _, size = value.rpartition(" ")
            before[unquote(path)] = int(size)
        elif key == "truth":
            path, _, word = value.rpartition(" ")
            truth[unquote(path)] = unquote(word)
        else:
            head.setdefault(key, []).append(value)
    return Recording(name, head, before, truth, tuple(events))


NAMES = tuple(sorted(path.stem for path in FILES.glob("*.txt")))
