"""The daemon's control socket: one line of JSON per request, one line of JSON per answer; a trace has many.

A socket's path may have 107 bytes at most, and a state directory's can be longer: both sides use the path
of the directory's descriptor.

Tests: mount/test_cli.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labfs.errors import ConfigError, DiskFailed, LabfsError

if TYPE_CHECKING:
    import trio

Request = dict[str, Any]
Lines = AsyncGenerator[dict[str, Any], None]
Answer = dict[str, Any] | Lines  # one line, or lines for as long as somebody reads them
LONGEST = 1024 * 1024


class NoDaemon(ConfigError):
    """No daemon listens at the socket, or it was killed meanwhile."""


@contextmanager
def _short(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def ask(path: Path, request: Request, timeout_s: float = 20.0) -> dict[str, Any]:
    """Send a request to the daemon at a socket, and return its answer. Raises ConfigError, NoDaemon if none listens."""
    try:
        with _short(path) as short, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(short)
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(connection.makefile().readline())
    except TimeoutError:
        raise ConfigError("The labfs daemon of this mount does not answer; see its log.") from None
    except (OSError, ValueError) as error:
        raise NoDaemon("No labfs daemon serves this mount.") from error
    if "error" in answer:
        raise ConfigError(answer["error"])
    return answer


def follow(path: Path, request: Request) -> Iterator[dict[str, Any]]:
    """Send a request to the daemon at a socket, and yield the lines of its answer until the daemon ends."""
    try:
        with _short(path) as short, socket.socket(socket.AF_UNIX) as connection:
            connection.connect(short)
            connection.sendall(json.dumps(request).encode() + b"\n")
            for line in connection.makefile():
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer:
                    raise ConfigError(answer["error"])
                yield answer
    except (OSError, ValueError) as error:
        raise NoDaemon("No labfs daemon serves this mount.") from error


def is_deaf(path: Path) -> bool:
    """Whether a socket exists without a listener, as a killed daemon leaves it."""
    try:
        with _short(path) as short, socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            connection.connect(short)
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


async def listen(
    path: Path,
    handle: Callable[[Request], Awaitable[Answer]],
    task_status: trio.TaskStatus[None] | None = None,
) -> None:
    """Answer requests until cancelled; an exception becomes an error answer. Started once the socket listens."""
    import trio  # here, since the command line only sends requests, and the import takes a fifth of a second

    path.unlink(missing_ok=True)
    listener = trio.socket.socket(socket.AF_UNIX)
    with _short(path) as short:
        await listener.bind(short)
    path.chmod(0o600)
    listener.listen()
    if task_status is not None:
        task_status.started()

    async def send(lines: Lines, stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                with suppress(trio.BrokenResourceError):
                    await stream.receive_some(1)  # nothing more is sent: this is the end
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            async with aclosing(lines):
                with suppress(trio.BrokenResourceError):
                    async for line in lines:
                        await stream.send_all(json.dumps(line).encode() + b"\n")

    async def serve(stream: trio.SocketStream) -> None:
        try:
            line = await stream.receive_some(LONGEST)
            try:
                answer = await handle(json.loads(line))
            except (LabfsError, DiskFailed) as error:
                answer = {"error": str(error)}
            except Exception as error:  # no request may end the mount
                answer = {"error": f"The request was not understood ({type(error).__name__})."}
            if isinstance(answer, dict):
                await stream.send_all(json.dumps(answer).encode() + b"\n")
            else:
                await send(answer, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has disconnected

    try:
        await trio.serve_listeners(serve, [trio.SocketListener(listener)])
    finally:
        with suppress(OSError):  # a disk that is read-only by now
            path.unlink(missing_ok=True)
