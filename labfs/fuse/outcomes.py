"""How the kernel's requests end: which path each was about, the reason that a failure leaves there, and when it passes.

Tests: mount/test_why.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from typing import Any

from pyfuse3 import FUSEError

from labfs.errors import Fenced, LabfsError, NoRoom, sentence
from labfs.errors.reasons import SAVING, Reasons
from labfs.tree.names import shown
from labfs.tree.node import Node

log = logging.getLogger(__name__)

BY_HANDLE = {"read", "write", "flush", "fsync", "release", "readdir", "fsyncdir"}
TWO_PLACES = {"rename": 2, "link": 1}  # → where the second one begins in their arguments
USUAL = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENODATA, errno.EOPNOTSUPP}  # programs provoke them


class Outcomes:
    """The outcomes of requests, by path; `by_inode` and `by_handle` find the node of a request, or raise KeyError."""

    def __init__(self, reasons: Reasons, by_inode: Callable[[int], Node], by_handle: Callable[[int], Node]) -> None:
        self._reasons = reasons
        self._by_inode = by_inode
        self._by_handle = by_handle

    def failed(self, request: str, args: tuple[Any, ...], number: int, error: BaseException) -> FUSEError:
        """Return the errno as an answer; keep the reason where the user can find it."""
        places = self.places(request, args)
        answered = isinstance(error, LabfsError) and bool(error.remedy)  # by a server, and so no matter of course
        usual = (number in USUAL and not isinstance(error, NoRoom) and not answered) or isinstance(error, Fenced)
        if isinstance(error, TimeoutError) and not error.args:
            error = TimeoutError(_late(request, places[0]))
        told = log.debug if usual else log.warning
        told("%s %s: %s", request, " → ".join(places), sentence(error))
        for place in places:
            self._reasons.record(place, error, _meant(request, args), usual=usual)
        return FUSEError(number)

    def passed(self, request: str, args: tuple[Any, ...]) -> None:
        """Drop the reasons that do not hold any more since a request succeeded."""
        if self._reasons.any and request not in SAVING:
            for place in self.places(request, args):
                self._reasons.passed(place, _meant(request, args))

    def places(self, request: str, args: tuple[Any, ...]) -> list[str]:
        """Return the path that a request is about, or both of a rename."""
        found = [self._place(args, by_handle=request in BY_HANDLE, of_attribute=request.endswith("xattr"))]
        if request in TWO_PLACES:
            found.append(self._place(args[TWO_PLACES[request] :], by_handle=False))
        return found

    def _place(self, args: tuple[Any, ...], *, by_handle: bool, of_attribute: bool = False) -> str:
        """Return the path of a place: its first arguments are a handle, or inode and name."""
        try:
            if by_handle:
                return self._by_handle(args[0]).path
            path = self._by_inode(args[0]).path
        except (KeyError, IndexError):
            return "?"
        named = len(args) > 1 and isinstance(args[1], bytes) and not of_attribute
        return f"{path.rstrip('/')}/{shown(args[1])}" if named else path


def _meant(request: str, args: tuple[Any, ...]) -> str:
    """Return what a request is for: an open to write says nothing of one to read, nor the other way round."""
    writes = request == "open" and bool(args[1] & os.O_ACCMODE)
    return "open to write" if writes else request


def _late(request: str, path: str) -> str:
    site = path.lstrip("/").partition("/")[0] or "labfs"
    return f"{site} did not answer in time for {path} ({request}); labfs status shows whether it answers by now."
