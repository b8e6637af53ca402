"""Work in a task of its own that many tasks can wait for (single flight), and that goes on when one of them gives up.

Tests: unit/test_flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from labfs.errors import again


class Flight:
    """Work under way, and afterwards its outcome."""

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.error: Exception | None = None

    async def wait(self) -> None:
        """Wait until the work is done. Raises its error, as a new exception for each waiting task."""
        await self.landed.wait()
        if self.error is not None:
            raise again(self.error)

    @contextmanager
    def outcome(self) -> Iterator[None]:
        """Pass the outcome of the block to the tasks that wait; an exception is lost if none waits."""
        try:
            yield
        except Exception as error:
            self.error = error
        finally:
            self.landed.set()


async def caught_up(token: trio.lowlevel.TrioToken) -> None:
    """Wait until what was called through the token has run."""
    done = trio.Event()
    token.run_sync_soon(done.set)
    with trio.CancelScope(shield=True):
        await done.wait()
