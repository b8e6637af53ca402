"""The store of the shared tier as it is configured; apart from what uses it, since a command line needs no more.

Tests: mount/test_shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Where:
    """The store as configured; `room` is the bound of the blocks in it, in bytes."""

    url: str
    room: int
    username: str = ""
    password: Callable[[], str] | None = field(default=None, repr=False)
    ca: str = ""

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def shown(self) -> str:
        """The address for people, without a name or a password."""
        return f"{self.host}:{urlsplit(self.url).port or 6379}"
