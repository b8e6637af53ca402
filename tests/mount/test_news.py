"""What others do on a server is seen in a directory that is open: by who looks, and by who waits to be told."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import sqlite3
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Folder as Made
from stage import Mount, Sandbox, until

from labfs.fuse.announcing import Announcer
from labfs.tree.node import Folder, Kind, Node
from labfs.vfs import Change

pytestmark = [pytest.mark.mount, pytest.mark.timeout(200)]

POLL_S, SOON_S = 1, 90.0
ATTRIB, CREATE, DELETE, ISDIR = 0x4, 0x100, 0x200, 0x40000000  # inotify(7)
LIBC = ctypes.CDLL(None, use_errno=True)


class Watch:
    """What inotify tells of a directory."""

    def __init__(self, folder: Path) -> None:
        self._fd = LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert LIBC.inotify_add_watch(self._fd, os.fsencode(folder), ATTRIB | CREATE | DELETE) > 0
        self.seen: list[tuple[int, str]] = []

    def read(self) -> list[tuple[int, str]]:
        while select.select([self._fd], [], [], 0)[0]:
            data = os.read(self._fd, 65536)
            while data:
                _, mask, _, size = struct.unpack_from("iIII", data)
                self.seen.append((mask, data[16 : 16 + size].rstrip(b"\0").decode()))
                data = data[16 + size :]
        return self.seen

    def tells(self, mask: int, name: str) -> bool:
        return (mask, name) in self.read()

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture(scope="module")
def polled(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    base = tmp_path_factory.mktemp("polled")
    config = base / "labfs.toml"
    config.write_text(running.config.read_text().replace("poll_s = 0", f"poll_s = {POLL_S}"))
    config.chmod(0o600)
    mount = Mount(base, config, "--site=basespace")
    try:
        yield mount.start()
    finally:
        mount.clean_up()


@pytest.fixture
def made(sandbox: Sandbox) -> Iterator[Made]:
    folder = sandbox.fresh()
    yield folder
    folder.erase()


@pytest.fixture
def folder(polled: Mount, made: Made) -> Path:
    made.put("old.txt", b"old")
    polled.refresh()
    folder = made.at(polled.path)
    assert os.listdir(folder) == ["old.txt"]
    return folder


def test_a_watched_directory_tells_what_others_do(polled: Mount, folder: Path, made: Made, sandbox: Sandbox) -> None:
    with contextlib.closing(Watch(folder)) as watch:
        made.put("sub/in.txt", b"in")
        new = made.put("new.txt", b"new")
        until(lambda: watch.tells(CREATE, "new.txt"), SOON_S)
        assert watch.tells(CREATE | ISDIR, "sub")
        assert sorted(os.listdir(folder)) == ["new.txt", "old.txt", "sub"]
        assert ((folder / "new.txt").read_bytes(), (folder / "sub/in.txt").read_bytes()) == (b"new", b"in")
        made.put("old.txt", b"newer")
        until(lambda: watch.tells(ATTRIB, "old.txt"), SOON_S)
        assert (folder / "old.txt").read_bytes() == b"newer"
        with contextlib.closing(sqlite3.connect(sandbox.directory / "sandbox.sqlite", timeout=30)) as db, db:
            db.execute("DELETE FROM files WHERE id = ?", (int(new),))
        until(lambda: watch.tells(DELETE, "new.txt"), SOON_S)
        assert sorted(os.listdir(folder)) == ["old.txt", "sub"]
    assert sorted(made.paths) == ["old.txt", "old.txt", "sub/in.txt"], "telling changes nothing on the server"


def test_a_look_at_an_open_directory_shows_what_others_did(folder: Path, made: Made) -> None:
    made.put("new.txt", b"new")
    began = time.monotonic()
    until(lambda: sorted(os.listdir(folder)) == ["new.txt", "old.txt"], SOON_S)
    assert time.monotonic() - began < SOON_S


def test_what_is_done_here_is_told_once(folder: Path) -> None:
    with contextlib.closing(Watch(folder)) as watch:
        (folder / "mine.txt").write_bytes(b"mine")
        time.sleep(3 * POLL_S)
        told = [each for each in watch.read() if each[0] != ATTRIB]
    assert told == [(CREATE, "mine.txt")]


@pytest.mark.parametrize("device", [None, "0:0"])
async def test_nothing_is_done_where_another_file_system_is_mounted_by_now(device: str | None, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    root = Folder("", None, Kind.SERVER)
    added, gone = Node("added", root, Kind.SERVER), Node("theirs", root, Kind.SERVER)
    root.children["added"] = added
    announcer = Announcer(str(tmp_path))
    announcer.device = device
    await announcer.hear(Change(root, added=[added], removed=[gone]))
    assert os.listdir(tmp_path) == ["theirs"]
