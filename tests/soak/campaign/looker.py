"""A program that looks and reads: `python looker.py DIRECTORY NAME…` prints what it saw as JSON.

Every call is timed for itself. A name is looked at, read from end to end, and told by size, digest and inode number.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

PIECE = 128 * 1024
SPELLED = 64 * 1024  # bytes of a file at most that are told, not only their digest


class Looker:
    def __init__(self) -> None:
        self.slowest = (0.0, "")

    def timed(self, what: str, call: Callable[..., Any], *arguments: Any) -> Any:
        began = time.monotonic()
        try:
            return call(*arguments)
        finally:
            self.slowest = max(self.slowest, (time.monotonic() - began, what))

    def look(self, directory: str, names: list[str]) -> dict[str, Any]:
        seen: dict[str, Any] = {"files": {}}
        try:
            seen["listed"] = self.listed(directory)
        except OSError as error:
            seen["errno"] = error.errno
        for name in names:
            seen["files"][name] = self.read(f"{directory}/{name}")
        seen["slowest_s"], seen["slowest"] = self.slowest
        return seen

    def listed(self, directory: str) -> dict[str, int]:
        """Return the inode numbers by name; what goes meanwhile is left out."""
        found = {}
        for name in self.timed("readdir", os.listdir, directory):
            with contextlib.suppress(FileNotFoundError):
                found[name] = self.timed(f"stat {name}", os.stat, f"{directory}/{name}").st_ino
        return found

    def read(self, path: str) -> dict[str, Any]:
        try:
            fd = self.timed(f"open {path}", os.open, path, os.O_RDONLY)
        except OSError as error:
            return {"errno": error.errno}
        try:
            size, digest, data = self.timed(f"stat {path}", os.fstat, fd).st_size, hashlib.sha256(), b""
            while piece := self.timed(f"read {path}", os.read, fd, PIECE):
                digest.update(piece)
                data = data + piece if len(data) < SPELLED else data
        except OSError as error:
            return {"errno": error.errno}
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)
        return {"size": size, "digest": digest.hexdigest(), "bytes": data[:SPELLED].hex()}


if __name__ == "__main__":
    print(json.dumps(Looker().look(sys.argv[1], sys.argv[2:])))  # noqa: T201
