"""Thumbnailers and indexers are known by the file they execute; everybody else is let through."""

from __future__ import annotations

import os

import pytest

from labfs.backend import Entry
from labfs.errors import Fenced
from labfs.fuse import fence
from labfs.fuse.fence import Fence, is_fenced, program_of
from labfs.tree.node import Folder, Kind, Node


@pytest.mark.parametrize(
    "program", ["tumblerd", "gdk-pixbuf-thumbnailer", "evince-thumbnailer", "tracker-extract-3", "baloo_file_extractor"]
)
def test_who_reads_everything_is_known(program: str) -> None:
    assert is_fenced(program)


@pytest.mark.parametrize(
    "program", ["", "cat", "thunar", "pcmanfm", "eog", "file", "python3.11", "samtools", "soffice.bin"]
)
def test_who_was_asked_for_a_file_is_let_through(program: str) -> None:
    assert not is_fenced(program)


def test_a_program_is_told_by_what_it_executes() -> None:
    assert program_of(os.getpid()).startswith("python")
    assert program_of(-1) == ""


def test_small_files_and_what_is_here_are_open_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "program_of", lambda task: "tumblerd")
    folder = Folder("", None, Kind.SERVER)
    there = Node("a.png", folder, Kind.SERVER, Entry(id="1", name="a.png", is_dir=False))
    Fence(1000).check(there, 1000, 1)
    Fence(1000).check(Node("local", folder, Kind.SCRATCH), 1001, 1)
    with pytest.raises(Fenced, match="previews_mib"):
        Fence(1000).check(there, 1001, 1)
