"""What stands between the Portal's program and its clients: a proxy, and the way connections end.

The proxy is nginx as the project publishes its settings: a limit for bodies, and an end to its patience with the
program, which knows nothing of that and carries the request out.

Tests: sandbox/test_portal_sandbox, sandbox/test_portal_truths.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labfs.sandbox.detached import kept_body
from labfs.sandbox.faults import reset
from labfs.sandbox.portal.answers import proxy_error
from labfs.sandbox.portal.shelf import Shelf
from labfs.sandbox.serve import undated

UNREAD = 64 * 1024  # bytes of a body: with fewer left the connection lives on
LEAVING_S = 0.01  # for what was written to leave before a reset


class Proxy:
    """Passes requests on to the program."""

    def __init__(self, app: ASGIApp, shelf: Shelf) -> None:
        self._app = app
        self._shelf = shelf
        self._switches = shelf.switches
        self._behind: set[asyncio.Task[None]] = set()  # requests that the program works on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = int(Headers(scope=scope).get("content-length", "0"))
        send = self._parting(scope, send)
        if not self._shelf.local and 0 < self._switches.body_limit < length:
            await proxy_error(413)(scope, receive, send)
        elif self._switches.gateway_s:
            await self._with_patience(scope, receive, send)
        else:
            await self._directly(length, scope, receive, send)

    async def _directly(self, length: int, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the program answer; one that did so before it had read a large body resets the connection."""
        left = length

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            return message

        await self._app(scope, counted, send)
        if left > UNREAD and self._switches.early_reset:
            await asyncio.sleep(LEAVING_S)
            reset(scope)

    async def _with_patience(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keep the whole body, and answer 504 where the program has not begun to answer in time."""
        again = await kept_body(receive, receive)
        if again is None:
            return
        begun, given_up = asyncio.Event(), False

        async def passed(message: Message) -> None:
            begun.set()
            if not given_up:
                await send(message)

        work: asyncio.Task[None] = asyncio.ensure_future(self._app(scope, again, passed))
        self._behind.add(work)
        work.add_done_callback(self._behind.discard)
        waiting = asyncio.ensure_future(begun.wait())
        await asyncio.wait({work, waiting}, timeout=self._switches.gateway_s, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if begun.is_set() or work.done():
            await work
            return
        given_up = True
        await proxy_error(504)(scope, receive, send)

    def _parting(self, scope: Scope, send: Send) -> Send:
        """Return `send` that dates answers and ends connections as the switches say."""
        dated, keep_alive = self._switches.dated, self._switches.keep_alive

        async def parting(message: Message) -> None:
            start = message["type"] == "http.response.start"
            if start and not dated:
                undated(scope)
            if start and keep_alive == "refused":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)
            if keep_alive == "cut" and not start and not message.get("more_body"):
                scope["sandbox.transport"].close()

        return send if dated and keep_alive == "kept" else parting
