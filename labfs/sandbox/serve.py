"""Several applications, each on a loopback port of its own, in one event loop.

Tests: sandbox/test_sandbox_faults, sandbox/test_cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
import uvloop
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HOST = "127.0.0.1"


class Protocol(HttpToolsProtocol):
    """Lets an application at its connection: faults are made below HTTP."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["sandbox.transport"] = self.transport  # type: ignore[typeddict-unknown-key]


class _Server(uvicorn.Server):
    """A server that leaves the process's signals alone: there are several of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any free one. Raises OSError."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    return listener


def address(listener: socket.socket) -> str:
    return f"http://{HOST}:{listener.getsockname()[1]}"


def serve(apps: list[tuple[socket.socket, ASGIApp]], ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; call `ready` once all of them answer."""
    uvloop.run(_serve(apps, ready))


def undated(scope: Scope) -> None:
    """Take the Date, which the server adds by itself, from the answer to the request under way."""
    cycle = scope["sandbox.transport"].get_protocol().cycle
    cycle.default_headers = [pair for pair in cycle.default_headers if pair[0] != b"date"]


async def _serve(apps: list[tuple[socket.socket, ASGIApp]], ready: Callable[[], None]) -> None:
    servers = [
        _Server(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",
                log_level="critical",  # a fault looks like a mistake of the application, and is none
                access_log=False,
                timeout_keep_alive=60,
                timeout_graceful_shutdown=1,
                server_header=False,
            )
        )
        for _, app in apps
    ]
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener]))
        for server, (listener, _) in zip(servers, apps, strict=True)
    ]

    def end() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    while not all(server.started for server in servers):
        await asyncio.sleep(0.01)
    ready()
    await asyncio.gather(*tasks)
