"""Answers that are not what their headers call them: stored bytes by the name of a coding, bytes packed on their way,
and text that is none.

Tests: sandbox/test_sandbox_faults, sandbox/test_cost.
"""

from __future__ import annotations

import zlib
from typing import Any

from starlette.types import Message, Send

Headers = list[tuple[bytes, bytes]]
GZIP = zlib.MAX_WBITS | 16


def disguised(action: str, argument: Any, send: Send) -> Send:
    """Return what passes an answer on in a disguise."""
    if action == "encoded":
        return _labelled(str(argument or "gzip").encode("latin-1"), send)
    return _Packing(send) if action == "packed" else _Rewriting(argument, send)


def _without(headers: Headers, *names: bytes) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in names]


def _labelled(coding: bytes, send: Send) -> Send:
    """Label bodies of files: what a service says for itself is made anew each time, and nobody labelled it."""

    async def pass_on(message: Message) -> None:
        if message["type"] == "http.response.start" and not _is_json(message["headers"]):
            message = {**message, "headers": [*message["headers"], (b"content-encoding", coding)]}
        await send(message)

    return pass_on


def _is_json(headers: Headers) -> bool:
    return any(name.lower() == b"content-type" and b"json" in value for name, value in headers)


class _Packing:
    """Packs a body as it passes, although it was asked not to; nobody knows how long it will be."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._packer = zlib.compressobj(wbits=GZIP)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
            await self._send({**message, "headers": [*_without(message["headers"], b"content-length"), *more]})
            return
        body = self._packer.compress(message.get("body", b""))
        if not message.get("more_body"):
            body += self._packer.flush()
        await self._send({**message, "body": body})


class _Rewriting:
    """Holds a body back until it is whole, and changes bytes of it; a letter stands for the byte of its number."""

    def __init__(self, argument: Any, send: Send) -> None:
        wanted: dict[str, Any] = argument if isinstance(argument, dict) else {"bytes": argument or []}
        self._pairs = [(old.encode("latin-1"), new.encode("latin-1")) for old, new in wanted.get("bytes", [])]
        self._before = str(wanted.get("before", "")).encode("latin-1")
        self._type = wanted.get("type")
        self._send = send
        self._start: Message = {}
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = bytes(self._body)
        for old, new in self._pairs:
            body = body.replace(old, new)
        body = self._before + body
        headers = [*_without(self._start["headers"], b"content-length"), (b"content-length", str(len(body)).encode())]
        if self._type is not None:
            headers = [*_without(headers, b"content-type"), (b"content-type", self._type.encode("latin-1"))]
        await self._send({**self._start, "headers": headers})
        await self._send({**message, "body": body})
