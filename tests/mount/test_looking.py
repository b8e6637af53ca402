"""Looking into a mount that runs: its log and the level of that, a trace of one path, the page of a record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from stage import Mount, Sandbox, typed

pytestmark = pytest.mark.mount


@contextmanager
def following(mount: Mount, *words: str | Path) -> Iterator[Any]:
    """Run a command until Ctrl-C."""
    command = [sys.executable, "-u", "-m", "labfs", *map(str, words)]
    process = subprocess.Popen(command, text=True, env={**os.environ, **mount.env}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_the_level_of_a_log_is_changed_while_it_runs_and_a_log_is_followed(drive: Mount, folder: Path) -> None:
    assert typed("log", "--level", "warning", drive.path, env=drive.env).returncode == 0
    before = drive.log
    os.listdir(folder)
    assert drive.log == before
    with following(drive, "log", "-f", "-n", "1", drive.path) as log:
        assert log.stdout.readline() == before.splitlines(keepends=True)[-1]
        assert typed("log", "--level", "debug", drive.path, env=drive.env).returncode == 0
        assert "The log level is DEBUG now." in log.stdout.readline()
        drive.refresh(folder)
        os.listdir(folder)
        assert "-> 200" in log.stdout.readline()
        log.send_signal(signal.SIGINT)
        assert (log.wait(20), log.stderr.read()) == (0, "")
    assert len(typed("log", "-n", "2", drive.path, env=drive.env).stdout.splitlines()) == 2
    assert typed("log", "--level", "loud", env=drive.env).returncode == 2


def test_a_trace_shows_requests_at_one_path_and_no_other(drive: Mount, sandbox: Sandbox, folder: Path) -> None:
    (folder / "f").write_bytes(b"bytes")
    drive.refresh(folder)
    typed("log", "--level", "error", drive.path, env=drive.env)
    try:
        with following(drive, "trace", folder) as trace:
            assert "Ctrl-C ends it" in trace.stderr.readline()
            os.listdir(drive.path / "clarity")
            assert (folder / "f").read_bytes() == b"bytes"
            assert not (folder / "none").exists()
            lines = []
            while not lines or "/none -> ENOENT" not in lines[-1]:
                lines.append(trace.stdout.readline())
            trace.send_signal(signal.SIGINT)
            assert (trace.wait(20), trace.stderr.read()) == (0, "")
    finally:
        typed("log", "--level", "debug", drive.path, env=drive.env)
    said = "".join(lines)
    assert "GET v1pre3/appresults/" in said
    assert "/f [" in said and "bytes at 0] -> done in" in said
    assert "clarity" not in said
    assert sandbox.token not in said


def test_a_page_is_printed_and_opened_where_there_is_a_display(drive: Mount, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "xdg-open").write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    (tmp_path / "xdg-open").chmod(0o755)
    env = {**drive.env, "PATH": f"{tmp_path}:{os.environ['PATH']}", "DISPLAY": ":7"}
    (folder / "f").write_bytes(b"bytes")
    done = typed("open", "--print", folder / "f", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("https://basespace.illumina.com/projects/")
    assert not (tmp_path / "opened").exists()
    assert typed("open", folder / "f", env={**env, "DISPLAY": "", "WAYLAND_DISPLAY": ""}).stdout == done.stdout
    assert not (tmp_path / "opened").exists()
    assert typed("open", folder / "f", env=env).stdout == done.stdout
    assert (tmp_path / "opened").read_text() == done.stdout
    done = typed("open", drive.path / "clarity", env=env)
    assert (done.returncode, "clarity tells no web address" in done.stderr) == (1, True)
