"""Faults as values, and the count of what was asked: one layer around each service.

A fault says which requests it meets, how many of them it lets pass first, how many it spoils, and how:

    action         the service does  the client gets                           argument
    status         nothing           an error in the service's own form        503, or {"status": 503, "retry_after": 2}
    html           nothing           a page that asks it to sign in, 200
    reset          nothing           a reset connection
    delay_s        all, later        the answer, as late                       seconds
    ignore-range   all               the whole body for a part of it
    cut            all               a reset after N bytes of the body         N
    short          all               an end of the connection after N bytes    N
    stall          all               silence after N bytes                     N
    corrupt        all               byte N of the body changed                N
    encoded        all               the body as it is, labelled as packed     "gzip", or another coding
    packed         all               the body packed, in chunks                (none)
    rewrite        all               other bytes in the body                   [["old", "new"], …]
    lost           all               in place of the answer: something else    an answer, as below
    late           all, later        that something at once                    an answer, and "after_s": 5

The texts of `rewrite` are bytes, one for each letter up to U+00FF, so that é is byte E9 and no UTF-8. With {"bytes":
[["old", "new"], …], "before": "ï»¿", "type": "text/xml; charset=…"} something stands before the body, and it is called
to be of that kind.

An answer is {"status": 504} or 504 for an error in the service's own form, {"status": 502, "html": true} for a page
of something in between, {"reset": true} or "reset"; 504 where none is given. The body of the request has arrived
whole before the client gets it. `GET /requests` counts what the client got, and in `late` what is yet to be done.

Tests: sandbox/test_sandbox_faults, sandbox/test_cost.
"""

from __future__ import annotations

import asyncio
import fnmatch
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labfs.sandbox.detached import kept_body, nothing_more, unheard
from labfs.sandbox.disguises import disguised

ACTIONS = ("status", "delay_s", "reset", "cut", "short", "corrupt", "ignore-range", "html", "stall",
           "lost", "late", "encoded", "packed", "rewrite")  # fmt: skip
STALL_S = 300.0
LATE_S = 5.0
INSTEAD = {"status", "html", "reset", "after_s"}

ErrorBody = Callable[[int], Response]


@dataclass(slots=True)
class Fault:
    """One fault. `route` is a glob over the path; `times` None means for ever."""

    action: str
    service: str = "*"
    method: str = "*"
    route: str = "*"
    skip: int = 0
    times: int | None = 1
    argument: Any = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"unknown action “{self.action}”; known are {', '.join(ACTIONS)}")
        if self.action in ("lost", "late") and not _instead(self.argument).keys() <= INSTEAD:
            raise ValueError(f"an answer has {', '.join(sorted(INSTEAD))} at most, unlike {self.argument!r}")

    def meets(self, service: str, method: str, path: str) -> bool:
        """Tell whether this request is spoiled, counting it."""
        wanted = ((service, self.service), (method, self.method), (path, self.route))
        if self.times == 0 or not all(fnmatch.fnmatchcase(value, glob) for value, glob in wanted):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Watch:
    """All faults in force, and the counters since the last reset."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, str, float]] = []  # with seconds since 1970
        self.late: set[asyncio.Task[None]] = set()  # requests that are carried out after their answer
        self.reset()

    def reset(self) -> None:
        self.counts: Counter[tuple[str, str, str, int]] = Counter()
        self.bytes_out: Counter[str] = Counter()
        self.bytes_in: Counter[str] = Counter()
        self.under_way: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        self.log.clear()

    def set(self, values: list[Mapping[str, Any]]) -> None:
        """Replace the faults. Raises TypeError or ValueError for what is not one."""
        self.faults = [Fault(**value) for value in values]

    def fault(self, service: str, method: str, path: str) -> Fault | None:
        return next((fault for fault in self.faults if fault.meets(service, method, path)), None)

    def report(self) -> dict[str, Any]:
        rows = [
            {"service": service, "method": method, "route": route, "status": status, "count": count}
            for (service, method, route, status), count in sorted(self.counts.items())
        ]
        return {
            "requests": rows,
            "total": sum(self.counts.values()),
            "bytes_out": dict(self.bytes_out),
            "bytes_in": dict(self.bytes_in),
            "most_at_once": dict(self.most_at_once),
            "late": len(self.late),
        }

    def listed(self) -> list[dict[str, Any]]:
        return [asdict(fault) for fault in self.faults]


class Spoiled(Exception):
    """The connection is gone on purpose; nothing more is to be sent."""


class Layer:
    """Counts the requests of one service and spoils those that a fault meets."""

    def __init__(self, app: ASGIApp, service: str, watch: Watch, error_body: ErrorBody) -> None:
        self._app = app
        self._service = service
        self._watch = watch
        self._error_body = error_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch, service, method, path = self._watch, self._service, scope["method"], scope["path"]
        status = 0
        watch.log.append((service, method, path, time.time()))
        watch.under_way[service] += 1
        watch.most_at_once[service] = max(watch.most_at_once[service], watch.under_way[service])

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                watch.bytes_out[service] += len(message.get("body", b""))
            await send(message)

        async def counted_receive() -> Message:
            message = await receive()
            watch.bytes_in[service] += len(message.get("body", b""))
            return message

        try:
            await self._spoil(watch.fault(service, method, path), scope, counted_receive, counted_send)
        except Spoiled:
            pass
        finally:
            watch.under_way[service] -= 1
            watch.counts[service, method, template(path), status] += 1

    async def _spoil(self, fault: Fault | None, scope: Scope, receive: Receive, send: Send) -> None:
        if fault is None:
            await self._app(scope, receive, send)
            return
        match fault.action:
            case "status":
                await _refusal(fault.argument, self._error_body)(scope, receive, send)
            case "delay_s":
                await asyncio.sleep(float(fault.argument or 1))
                await self._app(scope, receive, send)
            case "reset":
                reset(scope)
            case "html":
                await _page(200)(scope, receive, send)
            case "lost":
                await self._app(scope, receive, unheard)
                await self._answer_instead(fault.argument, scope, receive, send)
            case "late":
                await self._postpone(fault.argument, scope, receive)
                await self._answer_instead(fault.argument, scope, receive, send)
            case "rewrite" if scope["method"] == "HEAD":
                await self._app(scope, receive, send)
            case "encoded" | "packed" | "rewrite":
                headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
                plain = {**scope, "headers": headers}
                await self._app(plain, receive, disguised(fault.action, fault.argument, send))
            case "ignore-range":
                headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
                await self._app({**scope, "headers": headers}, receive, send)
            case _:
                await self._app(scope, receive, _Spoiler(fault, scope, send))

    async def _postpone(self, argument: Any, scope: Scope, receive: Receive) -> None:
        """Take the whole request now, and carry it out later; one whose client goes before its end is dropped."""
        again = await kept_body(receive, nothing_more)
        if again is None:
            raise Spoiled
        after_s = float(_instead(argument).get("after_s", LATE_S))

        async def carry_out() -> None:
            await asyncio.sleep(after_s)
            await self._app(scope, again, unheard)

        task = asyncio.create_task(carry_out())
        self._watch.late.add(task)
        task.add_done_callback(self._watch.late.discard)

    async def _answer_instead(self, argument: Any, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = _instead(argument)
        if wanted.get("reset"):
            reset(scope)
        status = int(wanted.get("status", 504))
        answer = _page(status) if wanted.get("html") else self._error_body(status)
        await answer(scope, receive, send)


class _Spoiler:
    """Passes a body on until the fault's byte and then does what the fault says."""

    def __init__(self, fault: Fault, scope: Scope, send: Send) -> None:
        self._action = fault.action
        self._at = int(fault.argument or 0)
        self._scope = scope
        self._send = send
        self._passed = 0

    async def __call__(self, message: Message) -> None:
        body = message.get("body", b"")
        if message["type"] != "http.response.body" or self._passed + len(body) <= self._at:
            self._passed += len(body)
            last = message["type"] == "http.response.body" and not message.get("more_body")
            if last and self._action != "corrupt":
                await self._break(body)  # shorter than the fault's byte: broken at its end
            await self._send(message)
            return
        room = self._at - self._passed
        self._passed += len(body)
        if self._action == "corrupt":
            spoiled = bytearray(body)
            spoiled[room] ^= 0xFF
            self._at = 1 << 62
            await self._send({**message, "body": bytes(spoiled)})
            return
        await self._break(body[:room])

    async def _break(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if self._action == "stall":
            await asyncio.sleep(STALL_S)
        await asyncio.sleep(0.01)  # for what was written to leave
        if self._action == "short":
            self._scope["sandbox.transport"].close()
        else:
            reset(self._scope)
        raise Spoiled


def reset(scope: Scope) -> None:
    """Close the connection with a reset instead of an end."""
    transport = scope["sandbox.transport"]
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    raise Spoiled


def _instead(argument: Any) -> dict[str, Any]:
    """Return the answer that a fault puts in place of the true one. Raises TypeError or ValueError for none."""
    if argument is None or argument == "reset":
        return {"reset": True} if argument else {}
    return {"status": argument} if isinstance(argument, int) else dict(argument)


def _page(status: int) -> Response:
    """Return a page of something between client and service: a sign-in, or an error of a proxy."""
    title = f"{status} {HTTPStatus(status).phrase}" if status >= 400 else "Please sign in"
    return HTMLResponse(f"<!DOCTYPE html><html><body><h1>{title}</h1></body></html>", status)


def _refusal(argument: Any, error_body: ErrorBody) -> Response:
    """Return the error answer for `503` or for `{"status": 503, "retry_after": 2}`."""
    wanted = argument if isinstance(argument, dict) else {"status": argument}
    response = error_body(int(wanted.get("status") or 500))
    if response.status_code in (429, 503):
        response.headers["Retry-After"] = str(wanted.get("retry_after", 1))
    return response


# Numbers, and the ids that begin with letters: of datasets, of ODM objects, of Clarity things.
_NUMBER = re.compile(r"/(?:\d+|ds\.[0-9a-f]{32}|GSF\d+|[A-Z]{3}\d+(?:[A-Z]+\d+)*|\d+-\d+)(?=/|$)")
_BLOB = re.compile(r"^/[0-9a-f]{32}/.*")


def template(path: str) -> str:
    """Return the route of a path: numbers become `{id}`, a blob's address `/{blob}`."""
    return _BLOB.sub("/{blob}", _NUMBER.sub("/{id}", path))
