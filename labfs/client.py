"""One site's HTTP: credentials, limits, retries, deadlines, and answers turned into `labfs.errors`.

With `bulk` and `verdicts` the only product modules that know httpx. API calls and uploads run on trio;
file bytes come down through `bulk`.

Credentials go to the site's own origin and nowhere else: file bytes are fetched by a client that has
none, and redirects are followed by hand (httpx would carry an `x-access-token` header to another host).
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar, TypeVarTuple, cast
from urllib.parse import urljoin, urlsplit

import httpx
import trio

from labfs import errors
from labfs.backend import Buffer, Sink, Source, is_dispensable, is_unhurried
from labfs.breaker import Breaker
from labfs.bulk import Ask, Bulk
from labfs.errors import Malformed, Unanswered, Unavailable
from labfs.pace import Pace
from labfs.verdicts import is_page, now_s, refusal, translated

log = logging.getLogger(__name__)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

LONGEST_ANSWER = 64 * 1024 * 1024  # bytes of JSON or XML; more is an attack or a mistake
STORING = 4.0  # times the usual silence: some services say nothing while they put a body away
COMPILING = 12.0  # or while they make a list: with the usual 8 s, longer than known proxies and workers are let wait
GRACE_S = 2.0  # for an answer that has begun when patience ends
SLACK_S, CLOCKS_S = 60.0, 3600.0  # by which the clocks of one system differ, and theirs from ours
QUESTIONS = ("GET", "HEAD")  # all other methods may change something
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 8.0
ONCE_MORE_S = 1.0  # before the only repetition of what can be done without


class Patience(float, Enum):
    """How long one request is tried again, in multiples of the longest silence that a site is granted.

    With the usual 8 s, PROMPT stays below the 20 s that the kernel's freezer gives a process.
    """

    BRIEF = 0.25  # what can be done without, a size in a listing: once more, a second later
    PROMPT = 1.5  # somebody waits for a listing or a read
    PERSISTENT = 10.0  # an upload: close() may take as long as its bytes need


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of at most `LONGEST_ANSWER` bytes; `what` names the request for messages."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    what: str

    @property
    def now_s(self) -> float:
        """The server's time, in seconds since 1970."""
        return now_s(self.headers)

    def since_s(self, wall_s: float, clock_s: float) -> float:
        """Return on the server's clock, or a little earlier, a moment that both of ours told.

        The first of ours can jump and the second stands still while the machine sleeps; where the answer has no
        date, theirs may differ from ours.
        """
        slack_s = SLACK_S if "date" in self.headers else CLOCKS_S
        return min(wall_s, self.now_s - (trio.current_time() - clock_s)) - slack_s

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
    before a request is given up; `requests_per_s` the pace that the service allows.
    """

    def __init__(
        self,
        site: str,
        url: str,
        credentials: Callable[[], Mapping[str, str]],
        *,
        connections: int = 8,
        requests_per_s: int | None = None,
        timeout_s: float = 8.0,
        explain: Callable[[Answer], str] = no_explanation,
        transport: httpx.AsyncBaseTransport | None = None,
        bulk_transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.site = site
        self.url = url.rstrip("/") + "/"
        self._credentials = credentials
        self._explain = explain
        self.timeout_s = timeout_s
        self._pace = Pace(requests_per_s)
        self._slots = trio.CapacityLimiter(connections)
        self._threads = trio.CapacityLimiter(2 * connections)
        self._breakers: dict[str, Breaker] = {}
        limits = httpx.Limits(max_connections=connections, keepalive_expiry=30.0)
        self._usual = httpx.Timeout(timeout_s, pool=None)
        self._storing = httpx.Timeout(timeout_s, pool=None, read=STORING * timeout_s)
        self._compiling = httpx.Timeout(timeout_s, pool=None, read=COMPILING * timeout_s)
        self._api = httpx.AsyncClient(timeout=self._usual, limits=limits, transport=transport)
        self._bulk = Bulk(timeout_s, bulk_transport)

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
        form: Mapping[str, str | list[str]] | None = None,
        json: Any = None,
        body: bytes | None = None,
        source: Source | None = None,
        headers: Mapping[str, str] | None = None,
        patience: Patience = Patience.PROMPT,
        repeatable: bool = True,
        check: Callable[[Answer], None] = lambda answer: None,
    ) -> Answer:
        """Send one request with the site's credentials and return its 2xx answer.

        Tried again while `patience` lasts, where a retry can help. A request that is not `repeatable`
        is tried again only if it surely was not carried out, else Unanswered is raised. `check` raises
        if a 2xx answer is none after all: Unavailable has it tried again as any other. A web page is no answer to
        a change: whatever stands between sent it, and the change may have been carried out behind it.
        """
        what = f"{self.site}: {method} {urlsplit(path).path}"
        silence = self._compiling if is_unhurried() else self._usual if source is None else self._storing

        async def once() -> Answer:
            sent = {"Content-Length": str(source.size)} if source is not None else {}
            async with self._slots:
                with translated(what):
                    request = self._api.build_request(
                        method,
                        urljoin(self.url, path),
                        params=params,
                        data=form,
                        json=json,
                        content=body,
                        headers={**self._credentials(), **(headers or {}), **sent},
                        timeout=silence,
                    )
                    # Not httpx's own streams: they are generators, which one that is cancelled leaves half-way.
                    chunks = iter([request.content]) if source is None else source.chunks()
                    request.stream = _Body(chunks, on_disk=source is not None)
                    answer = await self._answer(request, what)
            check(answer)
            if method not in QUESTIONS and is_page(answer.headers, answer.body):
                raise Unanswered(f"{what} answered with a web page; is the site under maintenance, or its url wrong?")
            return answer

        with trio.CancelScope() as scope:
            endless = source is not None or silence is self._compiling
            return await self._insist(self.url, once, patience, repeatable, None if endless else scope)
        assert scope.cancelled_caught
        raise Unanswered(f"{what} did not answer within {patience * self.timeout_s:.0f} seconds.", silent=True)

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
        page = is_page(answer.headers, answer.body)
        raise refusal(answer.status, answer.headers, what, self._explain(answer), page=page)

    # -- file bytes ----------------------------------------------------------------------------------

    def watch(self, notice: Callable[[Mapping[str, str]], None]) -> None:
        """Have `notice` called with the headers of each answer of a file store; it runs in other threads."""
        self._bulk.notice = notice

    async def fetch(self, url: str, start: int, stop: int, version: str | None) -> Buffer:
        """Return exactly the bytes `[start, stop)` behind `url`, sent without credentials.

        Raises Stale if the entity tag is no longer `version`, Denied for a refused (expired) address,
        Unranged where ranges are not to be had, and Unavailable when patience ran out over short, cut or
        missing answers.
        """
        return await self._bulky(url, self._bulk.get, self._there(url, version), start, stop)

    async def fetch_own(self, path: str, start: int, stop: int) -> Buffer:
        """Return exactly the bytes `[start, stop)` behind a path of the site, sent with its credentials."""
        return await self._bulky(self.url, self._bulk.get, self._here(path), start, stop)

    async def measure(self, url: str) -> int | None:
        """Return the size in bytes of what lies behind `url`, sent without credentials: one range of a byte."""
        return await self._bulky(url, self._bulk.total, self._there(url, None))

    async def measure_own(self, path: str) -> int | None:
        """Return the size in bytes of what lies behind a path of the site; None where it does not tell.

        One HEAD; where that is silent, a range of one byte, whose answer names the whole.
        """
        try:
            told = (await self.call("HEAD", path, headers={"Accept-Encoding": "identity"})).headers
            if told.get("content-length", "").isdecimal():
                return int(told["content-length"])
        except (errors.Unsupported, errors.Denied):
            pass
        return await self._bulky(self.url, self._bulk.total, self._here(path))

    async def pour(self, url: str, version: str | None, sink: Sink) -> None:
        """Send the whole file behind `url` to `sink`, in one pass, asked for without credentials."""
        await self._pour(url, self._there(url, version), sink)

    async def pour_own(
        self,
        path: str,
        sink: Sink,
        *,
        form: Mapping[str, str] | None = None,
        check: Callable[[Mapping[str, str]], None] = lambda headers: None,
    ) -> None:
        """Send the whole file behind a path of the site to `sink`, in one pass.

        With a `form` it is asked for by a POST. `check` raises if an answer's headers are not a file's.
        """
        await self._pour(self.url, replace(self._here(path), form=form, check=check), sink)

    async def _pour(self, url: str, ask: Ask, sink: Sink) -> None:
        while True:
            before = sink.received
            try:
                await self._bulky(url, self._bulk.pour, ask, sink)
            except Unavailable:
                # Patience is for a silence, not for the time that many bytes take.
                if sink.received <= before:
                    raise
            else:
                return

    def _there(self, url: str, version: str | None) -> Ask:
        return Ask(url, f"{self.site}: the file store", version)

    def _here(self, path: str) -> Ask:
        what = f"{self.site}: {path}"

        def explain(status: int, headers: Mapping[str, str], body: bytes) -> str:
            return self._explain(Answer(status, headers, body, what))

        return Ask(urljoin(self.url, path), what, credentials=self._credentials(), explain=explain)

    async def _bulky(self, url: str, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run one of the blocking downloads in a thread."""

        async def once() -> T:
            return await trio.to_thread.run_sync(work, *args, abandon_on_cancel=True, limiter=self._threads)

        return await self._insist(url, once, Patience.PROMPT, repeatable=True)

    # -- insisting -----------------------------------------------------------------------------------

    async def _insist(
        self,
        url: str,
        once: Callable[[], Awaitable[T]],
        patience: Patience,
        repeatable: bool,
        scope: trio.CancelScope | None = None,
    ) -> T:
        """Try until it works, patience ends or no retry can help. Waiting for a turn costs no patience.

        `scope`, if given, is cancelled when a try takes longer than patience lasts.
        """
        breaker = self._breaker(url)
        wait_s = FIRST_WAIT_S
        if is_dispensable():
            patience, wait_s = Patience.BRIEF, ONCE_MORE_S
        deadline = trio.current_time() + patience * self.timeout_s
        while True:
            began = trio.current_time()
            try:
                async with self._pace.turn() as waited_s:
                    deadline += waited_s
                    began += waited_s
                    if scope is not None:
                        scope.deadline = deadline + GRACE_S
                    return await breaker.guard(once)
            except Unavailable as error:
                lost = isinstance(error, Unanswered) and not repeatable
                # What was long in vain may be at work on it still, and a second one beside it would take as long.
                lost = lost or (is_unhurried() and trio.current_time() - began >= self.timeout_s)
                own_pause = wait_s * random.uniform(0.7, 1.3)
                pause = own_pause if error.retry_after_s is None else error.retry_after_s
                if lost or trio.current_time() + pause >= deadline:
                    raise
                log.info("%s Trying again in %.1f s.", error, pause)
            await trio.sleep(pause)
            if scope is not None:
                scope.deadline = math.inf  # until its turn comes
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _breaker(self, url: str) -> Breaker:
        origin = urlsplit(url).netloc
        if origin not in self._breakers:
            self._breakers[origin] = Breaker(self.site, self.timeout_s)
        return self._breakers[origin]

    @property
    def outage(self) -> str | None:
        """Why requests are being refused at once at present, or None."""
        return next((reason for b in self._breakers.values() if (reason := b.reason())), None)


class _Body(httpx.AsyncByteStream):
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
