"""What a request costs a service: seconds for each row that its answer needs, on so many workers.

A request whose client has gone is carried out to its end all the same, and keeps its worker until then.

Tests: sandbox/test_sandbox_faults, sandbox/test_cost.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_rows: ContextVar[list[int] | None] = ContextVar("rows", default=None)  # of the request under way


@dataclass(slots=True)
class Cost:
    """The switches of a service whose answers may cost time."""

    row_s: float = 0.0  # seconds a row that is prepared for an answer
    workers: int = 0  # requests carried out at once, the others wait; 0: any number


def prepare(rows: int) -> None:
    """Count rows that are prepared for the answer to the request under way, if one is."""
    counter = _rows.get()
    if counter is not None:
        counter[0] += rows


class Workers:
    """Lets as many requests through as there are workers, and delays each answer by its rows."""

    def __init__(self, app: ASGIApp, cost: Cost) -> None:
        self._app = app
        self._cost = cost
        self._busy = 0
        self._freed = asyncio.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._freed:
            await self._freed.wait_for(lambda: not self._cost.workers or self._busy < self._cost.workers)
            self._busy += 1
        try:
            await self._carry_out(scope, receive, send)
        finally:
            async with self._freed:
                self._busy -= 1
                self._freed.notify_all()

    async def _carry_out(self, scope: Scope, receive: Receive, send: Send) -> None:
        counter = [0]
        token = _rows.set(counter)

        async def delayed(message: Message) -> None:
            if message["type"] == "http.response.start" and self._cost.row_s:
                await asyncio.sleep(counter[0] * self._cost.row_s)
            await send(message)

        try:
            await self._app(scope, receive, delayed)
        finally:
            _rows.reset(token)
