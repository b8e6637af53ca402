"""Requests that a service carries out without their client: the body is kept, the answer is not passed on.

Tests: sandbox/test_sandbox_faults, sandbox/test_cost.
"""

from __future__ import annotations

import asyncio
from tempfile import SpooledTemporaryFile

from starlette.types import Message, Receive

from labfs.sandbox.store import MIB

IN_MEMORY = 8 * MIB  # of a kept body; what is longer lies on disk


async def kept_body(receive: Receive, after: Receive) -> Receive | None:
    """Receive a whole body and return a callable that gives it again, and then what `after` gives.

    Returns None for a client that has gone before its body was complete.
    """
    body: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=IN_MEMORY)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            body.close()
            return None
        body.write(message.get("body", b""))
        more = message.get("more_body", False)
    left = body.tell()
    body.seek(0)
    done = False

    async def again() -> Message:
        nonlocal left, done
        if done:
            return await after()
        chunk = body.read(MIB)
        left -= len(chunk)
        done = left == 0
        if done:
            body.close()
        return {"type": "http.request", "body": chunk, "more_body": not done}

    return again


async def nothing_more() -> Message:
    """Wait for ever, in place of a client of which nothing more is heard."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def unheard(message: Message) -> None:
    """Drop a piece of an answer that nobody is to get."""
