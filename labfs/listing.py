"""A listing that several wait for, and what became of it."""

from __future__ import annotations

import trio

from labfs.errors import LabfsError


class Listing:
    """A listing under way, and afterwards what became of it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: Exception | None = None

    async def wait(self) -> None:
        await self.done.wait()
        if isinstance(self.error, LabfsError):
            raise type(self.error)(str(self.error)) from self.error  # one for each who waits
        if self.error is not None:
            raise self.error
