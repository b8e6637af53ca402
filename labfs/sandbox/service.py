"""What a stand-in service must be, so that the sandbox can serve, seed and describe it.

Tests: sandbox/test_sandbox_faults, sandbox/test_cost.
"""

from __future__ import annotations

from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import ASGIApp


class Service(Protocol):
    """One service on a port of its own; its tables in the store begin with its name."""

    name: str
    url: str  # where it listens; set before `seed` and before the first request
    switches: Any  # a dataclass instance: what the sources leave open
    credentials: dict[str, Any]  # for `sandbox.json`
    site: dict[str, Any]  # more keys for its section of `labfs.toml`; empty: it gets none

    @property
    def app(self) -> ASGIApp: ...

    def error(self, status: int) -> Response:
        """Return an error answer in the service's own form, for faults."""
        ...

    def seed(self) -> None:
        """Fill a new store; do nothing to one that is filled."""
        ...
