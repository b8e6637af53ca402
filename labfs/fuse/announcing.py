"""News of a directory for programs that watch it: what others did on the server happens in the kernel's view as well.

Nothing in FUSE tells a watcher (inotify) of a change that the kernel has not made itself; a file manager would show a
colleague's file only when its user asks for it. So a thread of this process makes the change through the mount: it
creates the name that has appeared, removes the one that is gone, dates the file that is another. Its requests are known
by the thread's id, are answered with what is so already, and do nothing. Where the kernel refuses them, on a mount or
in a directory that can only be read, watchers get no news, and the next look shows what is there.

Tests: mount/test_news.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from labfs.tree.node import Folder, Node
from labfs.vfs import Change

log = logging.getLogger(__name__)

MOST = 1000  # names of one change that are told
LONGEST_S = 10.0  # for which the rest of the news waits for one of them


@dataclass(slots=True)
class Act:
    """One name that is told: `absent` is what a lookup of the name is answered with, until the name was created."""

    node: Node
    folder: Folder
    name: str
    do: Callable[[str, int], None]  # of a name, in an open directory
    absent: bool = False


class Announcer:
    """Tells the kernel of changes below `mountpoint`, once it is known which `device` the mount is."""

    def __init__(self, mountpoint: str) -> None:
        self.device: str | None = None  # major:minor: at its path another file system may be mounted by now
        self._mountpoint = mountpoint
        self._acts: dict[int, Act] = {}  # id of a thread → what it does now

    async def hear(self, change: Change) -> None:
        """Tell of a change; returns when the kernel has heard it."""
        for act in list(_acts(change))[:MOST]:
            there = change.folder.children.get(act.name)
            if there is (None if act.do is _remove else act.node):  # still
                with trio.move_on_after(LONGEST_S):
                    await trio.to_thread.run_sync(self._perform, act, abandon_on_cancel=True)

    def _perform(self, act: Act) -> None:
        thread = threading.get_native_id()
        self._acts[thread] = act
        try:
            directory = os.open(f"{self._mountpoint}{act.folder.path}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if _device(directory) == self.device:
                    act.do(act.name, directory)
            finally:
                os.close(directory)
        except OSError as error:
            log.debug("Who watches %s is not told of “%s”: %s", act.folder.path, act.name, error.strerror)
        finally:
            del self._acts[thread]

    def is_ours(self, thread: int) -> bool:
        """Whether a request of this thread only tells of something."""
        return thread in self._acts

    def of(self, thread: int, folder: Node, name: bytes) -> Act | None:
        """Return what a request for a name tells of, if it does."""
        act = self._acts.get(thread)
        return act if act is not None and (act.folder, os.fsencode(act.name)) == (folder, name) else None


def _acts(change: Change) -> Iterator[Act]:
    folder = change.folder
    for node in change.removed:
        yield Act(node, folder, node.name, _remove)
    for node in change.added:
        yield Act(node, folder, node.name, _make_directory if node.is_dir else _make_file, absent=True)
    for node in change.changed:
        yield Act(node, folder, node.name, _date)


def _device(directory: int) -> str:
    number = os.fstat(directory).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _remove(name: str, directory: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        os.rmdir(name, dir_fd=directory)


def _make_file(name: str, directory: int) -> None:
    os.mknod(name, stat.S_IFREG | 0o644, dir_fd=directory)


def _make_directory(name: str, directory: int) -> None:
    os.mkdir(name, dir_fd=directory)


def _date(name: str, directory: int) -> None:
    os.utime(name, dir_fd=directory)
