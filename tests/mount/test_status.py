"""`labfs status`: for people on a terminal, for scripts and for Prometheus; and an upload that is shown and cancelled."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import Mount, Sandbox, typed, until

from labfs.cli import status

pytestmark = pytest.mark.mount

SLOW = {"service": "*", "method": "PUT", "route": "*", "action": "delay_s", "argument": 1.0, "times": None}
MIB = 1024 * 1024
PAGE = Path(status.__file__).with_name("README.md").read_text()


@pytest.fixture
def mount(sandbox: Sandbox, tmp_path: Path) -> Iterator[Mount]:
    mount = Mount(tmp_path, sandbox.config, "--site=basespace")
    try:
        yield mount.start()
    finally:
        sandbox.faults()
        mount.clean_up()


class Saving:
    """A save of 60 MiB that takes half a minute, in a thread; `error` is what it ended with."""

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._path = path
        self._thread = threading.Thread(target=self._save)
        self._thread.start()

    def _save(self) -> None:
        try:
            self._path.write_bytes(bytes(60 * MIB))
        except OSError as error:
            self.error = error

    def join(self) -> OSError | None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.error


def sent(mount: Mount) -> int:
    return sum(upload["sent"] for upload in mount.status()["uploads"])


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, mount: Mount, *words: str | Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._theirs = theirs
        self.before = termios.tcgetattr(theirs)
        self.text = ""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", sys.executable, "-m", "labfs", *map(str, words)], stdin=theirs, stdout=theirs, stderr=theirs,
            env={**os.environ, **mount.env, "TERM": "xterm-256color"},
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self.text += os.read(self._ours, 65536).decode(errors="replace")
            except OSError:
                return

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def end(self) -> int:
        """Wait for the end; return the exit status, once the terminal is as it was."""
        number = self.process.wait(20)
        time.sleep(0.1)
        assert termios.tcgetattr(self._theirs) == self.before
        os.close(self._theirs)
        return number


def test_an_upload_is_watched_waited_for_and_cancelled(mount: Mount, sandbox: Sandbox) -> None:
    made = sandbox.fresh()
    at = made.at(mount.path)
    os.listdir(at)
    sandbox.faults(SLOW)
    saving = Saving(at / "f")
    until(lambda: sent(mount) >= 5 * MIB, 20)
    assert typed("status", env=mount.env).returncode == 3
    assert re.search(r"uploading: .*/f, .* MiB of 60.0 MiB, .*/s, 0:\d\d left", typed("status", env=mount.env).stdout)

    watched = Terminal(mount, "status", "--watch", "--interval", "0.1")
    until(lambda: re.search(r"━.* MiB of 60.0 MiB +.*/s +0:\d\d left", watched.text) is not None, 10)
    watched.press(b"\x03")
    assert watched.end() == 0
    assert "\x1b[?1049h" in watched.text
    assert watched.text.rstrip().endswith(("\x1b[?1049l\x1b[?25h", "\x1b[?25h\x1b[?1049l", "\x1b[?1049l")), (
        watched.text[-80:]
    )

    waiting = Terminal(mount, "umount", mount.path)
    until(lambda: re.search(r"━.* MiB of 60.0 MiB", waiting.text) is not None, 10)
    waiting.press(b"\x03")
    assert waiting.end() == 130
    assert "Interrupted" in waiting.text

    done = typed("outbox", "cancel", at / "f", env=mount.env)
    assert (done.returncode, "bytes stay in the outbox" in done.stdout) == (0, True), done.stderr
    error = saving.join()
    assert error is not None and error.errno == errno.ECANCELED
    assert made.stored == {}
    assert len(sandbox.rows(made.record, "aborted")) == 1, "nothing of it is left on the server"
    assert "was cancelled" in typed("why", at / "f", env=mount.env).stdout
    (line,) = typed("outbox", "list", env=mount.env).stdout.splitlines()
    assert ("  failed  60.0 MiB" in line, typed("status", env=mount.env).returncode) == (True, 4)
    assert typed("outbox", "cancel", at / "f", env=mount.env).returncode == 1
    sandbox.faults()
    assert typed("outbox", "discard", line.split()[0], env=mount.env).returncode == 0
    assert typed("status", env=mount.env).returncode == 0


def test_what_is_no_terminal_gets_text_and_numbers(drive: Mount, folder: Path) -> None:
    (folder / "f").write_bytes(bytes(1000))
    assert (folder / "f").read_bytes() == bytes(1000)
    command = [sys.executable, "-m", "labfs", "status", "--watch", "--json", "--interval", "0.1"]
    watched = subprocess.Popen(command, text=True, env={**os.environ, **drive.env}, stdout=subprocess.PIPE)
    assert watched.stdout is not None
    for _ in range(2):
        (found,) = json.loads(watched.stdout.readline())["mounts"]
        assert found["mountpoint"] == str(drive.path)
    watched.send_signal(signal.SIGTERM)
    assert watched.wait(20) == 0
    watched.stdout.close()
    text = typed("status", env=drive.env).stdout
    assert "\x1b" not in text and "of what was read was there" in text


def test_metrics_are_what_the_page_says(drive: Mount) -> None:
    lines = typed("status", "--prometheus", env=drive.env).stdout.splitlines()
    sample = re.compile(r'([a-z_]+)(?:\{(?:[a-z]+="(?:[^"\\]|\\.)*",?)*\})? -?[0-9.e+-]+')
    samples = {match[1] for line in lines if (match := sample.fullmatch(line))}
    assert all(line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line) for line in lines)
    assert samples <= set(status.METRICS)
    assert f'labfs_up{{mountpoint="{drive.path}"}} 1' in lines
    assert set(re.findall(r"^\| `(labfs_\w+)", PAGE, re.MULTILINE)) == set(status.METRICS)


def test_exit_statuses_are_those_of_the_page_and_the_help(drive: Mount) -> None:
    told = typed("status", "--help").stdout
    for number in (status.WELL, status.PENDING, status.FAILED, status.DEAD):
        assert re.search(rf"^ +{number}  ", told, re.MULTILINE)
        assert f"\n| {number} | " in PAGE
    silent: dict[str, Any] = {"mounts": [{"mountpoint": "/m", "silent": "It does not answer."}], "outbox": []}
    assert status.verdict(silent) == status.DEAD
    assert list(status.plain(silent)) == ["/m  is starting, ending or busy: It does not answer."]
