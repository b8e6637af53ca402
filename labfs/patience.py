"""How long a request is tried again."""

from __future__ import annotations

from enum import Enum


class Patience(float, Enum):
    """How long one request is tried again, in multiples of the longest silence that a site is granted.

    With the usual 8 s, PROMPT stays below the 20 s that the kernel's freezer gives a process.
    """

    BRIEF = 0.25  # what can be done without, a size in a listing: once more, a second later
    PROMPT = 1.5  # somebody waits for a listing or a read
    PERSISTENT = (
        10.0  # an upload: close() may take as long as its bytes need; no longer than PROMPT while nobody is there
    )
