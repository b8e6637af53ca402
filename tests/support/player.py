"""Plays recorded saves (tests/support/scripts.py) on a directory and tells how each call ended."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts import Script


@contextlib.contextmanager
def _called(name: str) -> Iterator[None]:
    """Have this process bear a program's name: labfs goes by it."""
    comm = Path("/proc/self/comm")
    usual = comm.read_text()
    comm.write_text(name)
    try:
        yield
    finally:
        comm.write_text(usual)


class Player:
    """Plays on files of one directory; `doc` in a script is the file called `document`.

    What is written is the same at every playing.
    """

    def __init__(self, directory: Path, document: str, *, mounted: bool) -> None:
        self._directory = directory
        self._document = document
        self._mounted = mounted
        self._files: dict[str, int] = {}
        self._chance = random.Random(document)

    def play(self, script: Script) -> list[str]:
        """Return each call with its outcome. Raises AssertionError where one ended otherwise than recorded."""
        done = []
        try:
            with _called(script.program):
                for call in script.calls:
                    done += self._line(call)
        finally:
            for fd in self._files.values():
                with contextlib.suppress(OSError):
                    os.close(fd)
        return done

    def _line(self, call: str) -> list[str]:
        words = call.split()
        times, wanted = 1, ""
        if words[-1][0] == "*":
            times = int(words.pop()[1:])
        if words[-1][0] in "!?":
            mark, wanted = words[-1][0], words.pop()[1:]
            if mark == "?":
                return self._refused(words, call, wanted) if self._mounted else []
        return [f"{call}: {self._one(words, call, wanted)}" for _ in range(times)]

    def _refused(self, words: list[str], call: str, wanted: str) -> list[str]:
        self._one(words, call, wanted)
        return []  # a local directory does it, so there is nothing to compare

    def _one(self, words: list[str], call: str, wanted: str) -> str:
        does: Callable[..., object] = getattr(self, f"_{words[0]}")
        failed = ""
        try:
            result = str(does(*words[1:]))
        except OSError as error:
            result = failed = errno.errorcode[error.errno or 0]
        assert failed == wanted, f"{call}: {result}"
        return result

    def _path(self, name: str) -> Path:
        return self._directory / name.replace("doc", self._document).replace("␣", " ")

    # -- calls that name a file

    def _open(self, number: str, name: str, flags: str, mode: str = "0") -> None:
        bits = sum(getattr(os, f"O_{flag.upper()}") for flag in flags.split(","))
        self._files[number] = os.open(self._path(name), bits, int(mode, 8) & 0o777)

    def _stat(self, name: str) -> int:
        return self._path(name).stat().st_size

    def _rename(self, name: str, new: str) -> None:
        self._path(name).rename(self._path(new))

    def _symlink(self, target: str, name: str) -> None:
        self._path(name).symlink_to(target)

    def _unlink(self, name: str) -> None:
        self._path(name).unlink()

    def _chmod(self, name: str) -> None:
        self._path(name).chmod(0o644)

    def _chown(self, name: str) -> None:
        os.chown(self._path(name), os.getuid(), os.getgid())

    def _utimens(self, name: str) -> None:
        os.utime(self._path(name), (1_700_000_000, 1_700_000_000))

    # -- calls on an open file

    def _close(self, number: str) -> None:
        os.close(self._files.pop(number))

    def _read(self, number: str, size: str) -> str:
        return _digest(os.read(self._files[number], int(size)))

    def _pread(self, number: str, size: str, start: str) -> str:
        return _digest(os.pread(self._files[number], int(size), int(start)))

    def _write(self, number: str, size: str) -> int:
        return os.write(self._files[number], self._chance.randbytes(int(size)))

    def _pwrite(self, number: str, size: str, start: str) -> int:
        return os.pwrite(self._files[number], self._chance.randbytes(int(size)), int(start))

    def _seek(self, number: str, offset: str, whence: str) -> int:
        return os.lseek(self._files[number], int(offset), getattr(os, f"SEEK_{whence.upper()}"))

    def _truncate(self, number: str, size: str) -> None:
        os.ftruncate(self._files[number], int(size))

    def _fsync(self, number: str) -> None:
        os.fsync(self._files[number])

    def _fchmod(self, number: str, mode: str) -> None:
        os.fchmod(self._files[number], int(mode, 8) & 0o777)

    def _fchown(self, number: str) -> None:
        os.fchown(self._files[number], os.getuid(), os.getgid())

    def _futimens(self, number: str) -> None:
        os.utime(self._files[number], (1_700_000_000, 1_700_000_000))


def _digest(data: bytes) -> str:
    return f"{len(data)} {hashlib.md5(data).hexdigest()}"
