"""Requests over connections that may be dead: each times out soon, and its failure is not taken for the site's.

`Lines` is for API calls and uploads; `granted` for downloads, which run in threads.

Tests: mount/test_connections.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx
import trio

from labfs.backend import Source
from labfs.errors import Mute, Unavailable
from labfs.http.network.connections import KEPT_S, Grant, Pool, Trial, Watch

log = logging.getLogger(__name__)
T = TypeVar("T")


class Lines:
    """The connections for API calls and uploads to one site: kept ones, and ones for a single request."""

    def __init__(
        self,
        timeout_s: float,
        connections: int,
        grant: Grant,
        over: Callable[[httpx.Limits], httpx.AsyncBaseTransport],
        *,
        keeps: bool,
    ) -> None:
        """`over` makes a transport within limits; `keeps` tells whether connections are kept for later requests."""
        self._timeout_s = timeout_s
        self._grant = grant

        def make(kept: int | None) -> httpx.AsyncClient:
            limits = httpx.Limits(max_connections=connections, max_keepalive_connections=kept, keepalive_expiry=KEPT_S)
            return httpx.AsyncClient(transport=over(limits), trust_env=False)

        self._single = make(0)
        self._pool = Pool(lambda: make(None)) if keeps else None

    def build_request(self, *args: Any, **options: Any) -> httpx.Request:
        return self._single.build_request(*args, **options)

    @asynccontextmanager
    async def sent(
        self, request: httpx.Request, what: str, *, kept: bool, hurried: bool
    ) -> AsyncIterator[httpx.Response]:
        """Send a request over a `kept` connection, if there is one, else over a connection of its own.

        The timeout of a kept connection is its grant; of a request with a long body, which is not `hurried`, the usual
        timeout after the body's last byte. Raises Mute.
        """
        began = trio.current_time()
        if not kept or self._pool is None:
            response = await self._single.send(request, stream=True)
            if hurried:
                self._grant.learn(trio.current_time() - began)
            yield response
            return
        with self._pool.lent() as lot:
            scope = trio.CancelScope()

            def postpone(seconds: float) -> None:
                scope.deadline = trio.current_time() + seconds

            if hurried:
                postpone(self._grant.now_s)
            watch = Watch(postpone, granted_s=None if hurried else self._timeout_s)
            request.extensions["trace"] = watch
            answered = None
            try:
                with scope:
                    answered = await lot.client.send(request, stream=True)
            except httpx.HTTPError as error:
                if watch.fresh:
                    raise
                log.debug("%s: a kept connection failed (%r).", what, type(error))
            if answered is None:
                self._pool.retire(lot)
                raise Mute(f"{what} was not answered on a connection that had been kept.")
            if hurried:
                self._grant.learn(trio.current_time() - began)
            yield answered
        for client in self._pool.spent():
            await client.aclose()

    async def aclose(self) -> None:
        for client in [self._single, *(self._pool.spent(all_of_them=True) if self._pool else ())]:
            await client.aclose()


async def granted(run: Callable[[], Awaitable[T]], trial: Trial, grant: Grant, what: str) -> T:
    """Run a download over a connection that may be dead. Raises Mute if no answer begins within the grant."""
    outcome: list[T] = []
    failure: Exception | None = None

    async def watch() -> None:
        await trio.sleep(grant.now_s)
        while trial.lot is None:  # waiting for a thread, which sets no event  # noqa: ASYNC110
            await trio.sleep(grant.now_s)
        if trial.claim():
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            outcome.append(await run())
        except Exception as error:  # raised outside of the nursery, which would wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if outcome:
        return outcome[0]
    # A new connection will show whether the site is available.
    if failure is None or (isinstance(failure, Unavailable) and trial.claim()):
        log.debug("%s: a kept connection failed (%s).", what, failure)
        raise Mute(f"{what} did not begin to answer on a connection that had been kept.")
    raise failure


class Body(httpx.AsyncByteStream):
    """A request's body."""

    def __init__(self, chunks: Iterator[bytes], *, on_disk: bool = False) -> None:
        self._chunks = chunks
        self._on_disk = on_disk

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._on_disk:
            chunk = await trio.to_thread.run_sync(next, self._chunks, None)
        else:
            chunk = next(self._chunks, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk


def stream(request: httpx.Request, source: Source | None) -> None:
    """Set the body of a request as a stream, from a `source` on disk if there is one."""
    # Not httpx's own streams: these are generators, which a cancellation leaves unfinished.
    request.stream = Body(iter([request.content]) if source is None else source.chunks(), on_disk=source is not None)
    if source is not None:
        request.headers.pop("Transfer-Encoding", None)
        request.headers["Content-Length"] = str(source.size)
