"""One site's HTTP: credentials, limits, retries, deadlines, and answers turned into `labfs.errors`.

The only product module that knows httpx. Two planes share one interface: API calls and uploads run on
trio; file bytes come down through a Rust transport in worker threads, a whole block at a time, since
parsing bulk bodies in Python costs half the speed (measured: 490 against 1,400 MB/s on loopback).

Credentials go to the site's own origin and nowhere else: file bytes are fetched by a client that has
none, and redirects are followed by hand (httpx would carry an `x-access-token` header to another host).
"""

from __future__ import annotations

import json
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, TypeVar, cast
from urllib.parse import urljoin, urlsplit

import httpx
import trio
from pyreqwest.client import SyncClientBuilder
from pyreqwest.compatibility.httpx import SyncHttpxTransport
from pyreqwest.exceptions import PyreqwestError

from labfs import errors
from labfs.backend import Buffer, Source
from labfs.breaker import Breaker
from labfs.errors import LabfsError, Malformed, Stale, Unanswered, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

LONGEST_ANSWER = 64 * 1024 * 1024  # bytes of JSON or XML; more is an attack or a mistake
LONGEST_SKIP = 64 * 1024 * 1024  # bytes thrown away to reach a range that the server ignored
PIECE = 8 * 1024 * 1024  # bytes taken from the transport at a time
REDIRECTS = 5
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 8.0


class Patience(float, Enum):
    """How long one request is tried again, in multiples of the longest silence that a site is granted.

    With the usual 8 s, PROMPT stays below the 20 s that the kernel's freezer gives a process.
    """

    PROMPT = 1.5  # somebody waits for a listing or a read
    PERSISTENT = 10.0  # an upload: close() may take as long as its bytes need


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of at most `LONGEST_ANSWER` bytes; `what` names the request for messages."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    what: str

    def json(self) -> Any:
        """Return the body's JSON. Raises Malformed for anything else, a web page above all."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            kind = self.headers.get("content-type", "")
            page = "html" in kind or self.body.lstrip()[:1] == b"<"
            found = "a web page" if page else "something that is not JSON"
            raise Malformed(f"{self.what} answered with {found}; is the site's url right?") from error


def no_explanation(answer: Answer) -> str:
    return ""


class Client:
    """Requests to one site and to the origins that its answers point at.

    `credentials` is called for each request, so that a renewed token is used at once. `explain` picks
    the service's own sentence out of an error answer. `timeout_s` is the longest silence, in seconds,
    before a request is given up.
    """

    def __init__(
        self,
        site: str,
        url: str,
        credentials: Callable[[], Mapping[str, str]],
        *,
        connections: int = 8,
        timeout_s: float = 8.0,
        explain: Callable[[Answer], str] = no_explanation,
        transport: httpx.AsyncBaseTransport | None = None,
        bulk_transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.site = site
        self.url = url.rstrip("/") + "/"
        self._credentials = credentials
        self._explain = explain
        self._timeout_s = timeout_s
        self._slots = trio.CapacityLimiter(connections)
        self._threads = trio.CapacityLimiter(2 * connections)
        self._breakers: dict[str, Breaker] = {}
        limits = httpx.Limits(max_connections=connections, keepalive_expiry=30.0)
        self._api = httpx.AsyncClient(timeout=httpx.Timeout(timeout_s, pool=None), limits=limits, transport=transport)
        # timeout=None: the Rust client has its own, per read; httpx's would be taken for a total.
        self._bulk = httpx.Client(timeout=None, transport=bulk_transport or _bulk_transport(timeout_s))  # noqa: S113

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self._api.aclose()
            await trio.to_thread.run_sync(self._bulk.close)

    # -- API calls -----------------------------------------------------------------------------------

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
        source: Source | None = None,
        headers: Mapping[str, str] | None = None,
        patience: Patience = Patience.PROMPT,
        repeatable: bool = True,
    ) -> Answer:
        """Send one request with the site's credentials and return its 2xx answer.

        Tried again while `patience` lasts, where a retry can help. A request that is not `repeatable`
        is tried again only if it surely was not carried out, else Unanswered is raised.
        """
        what = f"{self.site}: {method} {urlsplit(path).path}"

        async def once() -> Answer:
            content = None if source is None else _body(source)
            sent = {"Content-Length": str(source.size)} if source is not None else {}
            async with self._slots:
                with _translated(what):
                    request = self._api.build_request(
                        method,
                        urljoin(self.url, path),
                        params=params,
                        json=json,
                        content=content,
                        headers={**self._credentials(), **(headers or {}), **sent},
                    )
                    return await self._answer(request, what)

        total_s = patience * self._timeout_s
        with trio.move_on_after(math.inf if source else total_s + 2) as scope:
            return await self._insist(self.url, once, patience, repeatable)
        assert scope.cancelled_caught
        raise Unanswered(f"{what} did not answer within {total_s:.0f} seconds.", silent=True)

    async def _answer(self, request: httpx.Request, what: str) -> Answer:
        response = await self._api.send(request, stream=True)
        try:
            body = bytearray()
            async with aclosing(cast(AsyncGenerator[bytes, None], response.aiter_bytes())) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > LONGEST_ANSWER:
                        raise Malformed(f"{what} sent an answer of more than {LONGEST_ANSWER >> 20} MiB.")
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await response.aclose()
        answer = Answer(response.status_code, response.headers, bytes(body), what)
        log.debug("%s -> %d", what, answer.status)
        if 200 <= answer.status < 300:
            return answer
        raise _refusal(answer.status, answer.headers, what, self._explain(answer))

    # -- file bytes ----------------------------------------------------------------------------------

    async def fetch(
        self, url: str, start: int, stop: int, version: str | None, patience: Patience = Patience.PROMPT
    ) -> Buffer:
        """Return exactly the bytes `[start, stop)` behind `url`, sent without credentials.

        Raises Stale if the entity tag is no longer `version`, Denied for a refused (expired) address,
        and Unavailable when patience ran out over short, cut or missing answers.
        """
        what = f"{self.site}: the file store"

        async def once() -> Buffer:
            return await trio.to_thread.run_sync(
                self._get, url, start, stop, version, what, abandon_on_cancel=True, limiter=self._threads
            )

        return await self._insist(url, once, patience, repeatable=True)

    def _get(self, url: str, start: int, stop: int, version: str | None, what: str) -> Buffer:
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        for _ in range(REDIRECTS):
            with _translated(what), self._bulk.stream("GET", url, headers=headers) as response:
                if response.has_redirect_location:
                    url = urljoin(url, response.headers["location"])
                    continue
                if response.status_code not in (200, 206):
                    raise _refusal(response.status_code, response.headers, what, "")
                return _exactly(response, start, stop, version, what)
        raise Malformed(f"{what} redirected more than {REDIRECTS} times.")

    # -- insisting -----------------------------------------------------------------------------------

    async def _insist(self, url: str, once: Callable[[], Awaitable[T]], patience: Patience, repeatable: bool) -> T:
        breaker = self._breaker(url)
        deadline = trio.current_time() + patience * self._timeout_s
        wait_s = FIRST_WAIT_S
        while True:
            try:
                return await breaker.guard(once)
            except Unavailable as error:
                lost = isinstance(error, Unanswered) and not repeatable
                own_pause = wait_s * random.uniform(0.7, 1.3)
                pause = own_pause if error.retry_after_s is None else error.retry_after_s
                if lost or trio.current_time() + pause >= deadline:
                    raise
                log.info("%s Trying again in %.1f s.", error, pause)
            await trio.sleep(pause)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _breaker(self, url: str) -> Breaker:
        origin = urlsplit(url).netloc
        if origin not in self._breakers:
            self._breakers[origin] = Breaker(self.site, self._timeout_s)
        return self._breakers[origin]

    @property
    def outage(self) -> str | None:
        """Why requests are being refused at once at present, or None."""
        return next((reason for b in self._breakers.values() if (reason := b.reason())), None)


def _bulk_transport(timeout_s: float) -> httpx.BaseTransport:
    silence = timedelta(seconds=timeout_s)
    builder = (
        SyncClientBuilder()
        .connect_timeout(silence)
        .read_timeout(silence)
        .pool_idle_timeout(timedelta(seconds=30))
        .follow_redirects(False)
        # A packed body would have other offsets than the file.
        .gzip(False)
        .brotli(False)
        .deflate(False)
        .zstd(False)
    )
    return SyncHttpxTransport(builder.build())


async def _body(source: Source) -> AsyncIterator[bytes]:
    chunks = source.chunks()
    while (chunk := await trio.to_thread.run_sync(next, chunks, None)) is not None:
        yield chunk


def _exactly(response: httpx.Response, start: int, stop: int, version: str | None, what: str) -> Buffer:
    """Return the bytes `[start, stop)` of the file from a 206, or from a 200 that ignored the range."""
    tag = response.headers.get("etag", "").removeprefix("W/").strip('"')
    if version is not None and tag and tag != version:
        raise Stale(f"{what} now holds another version of the file.")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Malformed(f"{what} packed the bytes it was asked to send as they are.")
    skip = 0
    if response.status_code == 206:
        wanted = f"bytes {start}-{stop - 1}/"
        if not response.headers.get("content-range", "").startswith(wanted):
            raise Unavailable(f"{what} sent another range than it was asked for.")
    else:
        skip = start
        if skip > LONGEST_SKIP:
            raise Unavailable(f"{what} ignores ranges and would send all that lies before the bytes asked for.")
    return _collect(response, skip, stop - start, what)


def _collect(response: httpx.Response, skip: int, size: int, what: str) -> Buffer:
    pieces: list[Buffer] = []
    got = -skip
    for chunk in _chunks(response, skip + size):
        pieces.append(chunk if got >= 0 else memoryview(chunk)[-got:])
        got += len(chunk)
        if got >= size:
            break
    if got < size:
        raise Unavailable(f"{what} sent {max(got, 0)} bytes where {size} were asked for.")
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return memoryview(body)[:size] if len(body) > size else body


def _chunks(response: httpx.Response, size: int) -> Iterator[Buffer]:
    """Yield the body; from the Rust transport in one piece if it can be, which saves two copies of it."""
    native = response.extensions.get("pyreqwest_response")
    if native is None:
        yield from response.iter_raw()
        return
    while (chunk := native.body_reader.read(min(size, PIECE))) is not None:
        yield chunk


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn the errors of both HTTP libraries into ours; only what never left can be sent again freely."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise Unavailable(f"{what} cannot be reached ({_cause(error)}).", silent=True) from error
    except httpx.TimeoutException as error:
        raise Unanswered(f"{what} fell silent.", silent=True) from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError) as error:
        raise Malformed(f"{what} has an address that cannot be used ({_cause(error)}).") from error
    except (httpx.HTTPError, httpx.StreamError, PyreqwestError) as error:
        raise Unanswered(f"{what} broke off its answer ({_cause(error)}).") from error


def _cause(error: BaseException) -> str:
    """Return the innermost reason, without the address: it may hold a signature."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    text = str(error)
    return type(error).__name__ if "://" in text or not text else text


_BY_STATUS: dict[int, type[LabfsError]] = {
    401: errors.Denied,
    403: errors.Denied,
    404: errors.NotFound,
    405: errors.Unsupported,
    409: errors.Exists,
    410: errors.NotFound,
    412: errors.Stale,
    413: errors.TooLarge,
    416: errors.Stale,
}
_PASSING = (408, 429, 500, 502, 503, 504)
_REFUSED_UNREAD = (429, 503)  # the service says that it did not carry the request out


def _refusal(status: int, headers: Mapping[str, str], what: str, reason: str) -> LabfsError:
    sentence = reason or f"{what} answered {status}."
    if status in _PASSING:
        kind = Unavailable if status in _REFUSED_UNREAD else Unanswered
        return kind(sentence, retry_after_s=_retry_after_s(headers))
    if status == 401:
        return errors.Denied(f"{sentence} The site's token or password was refused: check the configuration.")
    return _BY_STATUS.get(status, errors.Malformed if status < 400 else errors.Invalid)(sentence)


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after")
    if text is None:
        return None
    if text.isdecimal() and text.isascii():
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
