"""The signs of a draft, measured on the recorded runs of programs: what is kept is no draft, what is renamed is one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from recordings import FILES, Recording, read

from labfs.vfs.drafts.scratch import is_scratch
from labfs.vfs.drafts.signs import MARKS, Known, Maker, judge, judge_folder

PID = 30_000  # of a recording's process 0: no number that stands in a name by chance
NAMES = sorted(path.stem for path in FILES.glob("*.txt"))

PIDS = {"joblib": 336, "sambamba-sort": 11349}  # of programs that write theirs into a name

# Products that are not saved when they are closed.
LATE = {
    "python-mkstemp-kept": r"result-u7yi47sf\.csv",  # private, and drawn by lot: a minute after its end
    "aria2c": r"huge\.bin",  # when its mark is removed, which is after its close
    "aria2c-interrupted": r"huge\.bin",
    "joe": r"doc\.txt~",  # a backup: stays here
}
# Drafts that nothing tells at their close, so that they are sent.
UNSEEN = {
    "python-chunks-removed": r"chunk_\d+\.txt",  # plain names, read and removed by the script that made them
    "snakemake": r"tmp\.txt|\.snakemake/locks/.+",  # `temp()` in the rules, and what it writes over
    "makeblastdb": r"db\.00\.n..|db\.n..-lock",  # a volume that gets another name when it is the only one
    "python-checkpoint": r"ck_\d\.pkl",  # the last three of many
}


@dataclass(frozen=True)
class Made:
    """A file that a program made, and what the signs say of it."""

    path: str
    truth: str
    draft: bool


def made(recording: Recording) -> Iterator[Made]:
    there, own = set(recording.before), set[str]()
    for event, held in recording.held():
        folder, _, name = (event.makes or "").rpartition("/")
        open_here = frozenset(path.rpartition("/")[2] for path in held.get(event.process, {}).values())
        mode = event.mode if event.mode is not None else 0o666
        pid = PIDS.get(recording.name, PID + event.process)
        by = Maker(pid, event.program, arguments(recording, event.program), "/", open_here,
                   "excl" in event.flags, not mode & 0o077)  # fmt: skip
        if event.call == "mkdir" and event.makes and judge_folder(name, by):
            own.add(event.makes)
        if event.call == "open" and event.makes and event.makes not in there:
            beside = {path.rpartition("/")[2] for path in there if path.rpartition("/")[0] == folder}
            draft = judge(name, by, beside, Known()) is not None or folder in own
            draft = draft or is_scratch(name, event.program, beside, f"/{folder}")
            draft = draft or any(recording.truth.get(event.makes + mark) for mark in MARKS)
            yield Made(event.makes, recording.truth.get(event.makes, "document"), draft)
        if not event.failed:
            there -= set(event.paths[:1]) if event.call in ("unlink", "rename") else set()
            there |= {event.makes} if event.makes else set()


def arguments(recording: Recording, program: str) -> tuple[str, ...]:
    """Return the words with which a recording's command runs a program."""
    for command in recording.head["command"]:
        for part in re.split(r"[;&|]+|\$\(|\)", command):
            try:
                words = shlex.split(part)
            except ValueError:  # a quote that goes on in the next part
                words = part.split()
            for at, word in enumerate(words):
                if word.rpartition("/")[2] == program:
                    return tuple(words[at:])
    return ()


def excused(table: dict[str, str], name: str, path: str) -> bool:
    return re.fullmatch(table.get(name, r"\b\B"), path) is not None


@pytest.mark.parametrize("name", NAMES)
def test_what_a_program_means_is_no_draft(name: str) -> None:
    wrong = {one.path for one in made(read(name)) if one.truth in ("kept", "document") and one.draft}
    assert {path for path in wrong if not excused(LATE, name, path)} == set()


@pytest.mark.parametrize("name", NAMES)
def test_what_a_program_renames_or_removes_is_one(name: str) -> None:
    wrong = {one.path for one in made(read(name)) if one.truth.startswith(("draft", "scratch")) and not one.draft}
    assert {path for path in wrong if not excused(UNSEEN, name, path)} == set()


def test_there_is_enough_to_measure_on() -> None:
    runs = [list(made(read(name))) for name in NAMES]
    assert len(runs) >= 150
    assert sum(map(len, runs)) >= 700
