"""One does it, many wait: work under way that belongs to nobody who waits for it, and so goes on when one gives up.

Tests: unit/test_flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from labfs.errors import again


class Flight:
    """Work under way, and afterwards what became of it."""

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.error: Exception | None = None

    async def wait(self) -> None:
        """Return once the work is done. Raises what made it fail, anew for each who waits."""
        await self.landed.wait()
        if self.error is not None:
            raise again(self.error)

    @contextmanager
    def outcome(self) -> Iterator[None]:
        """Hand what becomes of the work within to whoever waits; a failure is nobody's where nobody does."""
        try:
            yield
        except Exception as error:
            self.error = error
        finally:
            self.landed.set()
