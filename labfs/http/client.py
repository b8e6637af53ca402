"""One site's HTTP: credentials, limits, retries, deadlines, and answers turned into `labfs.errors`.

With `download`, `failures` and `network` the only product modules that import httpx. API calls and uploads run on
trio; file bytes are fetched through `download`. Credentials are sent to the site's own origin only: bytes are fetched
by a client without credentials, and redirects are followed by hand (httpx would forward an `x-access-token` header).

Tests: unit/test_client.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar, TypeVarTuple, cast
from urllib.parse import urljoin, urlsplit

import httpx
import trio

from labfs import errors
from labfs.backend import Sink, Stretch, is_dispensable, is_unhurried
from labfs.errors import Malformed, Moved, Mute, Unanswered, Unauthorized, Unavailable
from labfs.errors.health import Health
from labfs.errors.secrecy import know_headers
from labfs.http.breaker import Breaker, Pulse
from labfs.http.download import Ask, Bulk, rust
from labfs.http.exchange import LONGEST_ANSWER, Answer, Request
from labfs.http.failures import Login, is_page, refusal, translated
from labfs.http.limit import Limit
from labfs.http.network.connections import Grant, Trial, socket_options
from labfs.http.network.lines import Lines, granted, stream
from labfs.http.network.route import Route
from labfs.http.network.trust import trust
from labfs.http.network.ways import Ways
from labfs.http.pace import Gate, Lane, Pace, Patience, is_curious
from labfs.http.texts import upgraded

log = logging.getLogger(__name__)
__all__ = ["Answer", "Client", "Patience", "Request"]
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STORING = 4.0  # times the usual timeout: some services are silent while they store a body
COMPILING = 12.0  # or while they make a list: with the usual 8 s, longer than the timeouts of known proxies and workers
GRACE_S = 2.0  # for an answer that has begun when patience ends
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 8.0
ONCE_MORE_S = 1.0  # before the only retry of a dispensable request


class Client:
    """Requests to one site and to the origins that its answers refer to.

    `credentials` is called for each request, so that a renewed token is used at once; `another` tells, of headers that
    a 401 refused, whether `credentials` gives others by now. `explain` extracts the service's own sentence from an
    error answer, and `login` says what a refused credential means. `timeout_s` is the read timeout in seconds, and
    `compiling` times that of an unhurried request; `requests_per_s` is the rate that the service allows. `proxy`, `ca`
    and `gate` are those of `Settings`. Raises ConfigError for a proxy or certificates that cannot be used.
    """

    def __init__(
        self,
        site: str,
        url: str,
        credentials: Callable[[], Mapping[str, str]],
        *,
        another: Callable[[Mapping[str, str]], bool] = lambda refused: False,
        connections: int = 8,
        requests_per_s: int | None = None,
        timeout_s: float = 8.0,
        compiling: float = COMPILING,
        explain: Callable[[Answer], str] = lambda answer: "",
        login: Login = Login(),  # noqa: B008
        proxy: Callable[[], str] | None = None,
        ca: str = "",
        gate: Gate | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        bulk_transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.site, self.url = site, url.rstrip("/") + "/"
        self._source, self._another = credentials, another
        self._own_words, self._login = explain, login
        self.timeout_s = timeout_s
        self.limit = Limit(site)
        self._pulse = Pulse()
        self._pace = Pace(requests_per_s, gate, {Lane.CALLS: connections, Lane.DOWNLOADS: 2 * connections})
        self._slots = trio.CapacityLimiter(connections)
        self._threads = trio.CapacityLimiter(2 * connections)
        self._breakers: dict[str, Breaker] = {}
        self._usual, self._storing, self._compiling = (
            httpx.Timeout(timeout_s, pool=None, read=times * timeout_s) for times in (1.0, STORING, compiling)
        )
        route, trusted = Route(site, proxy, os.environ), trust(site, ca, os.environ)
        route.of(self.url)  # raises for an unusable proxy before anything is sent

        def over(limits: httpx.Limits) -> httpx.AsyncBaseTransport:
            return transport or Ways(site, route, trusted, limits, socket_options(timeout_s))

        self._grant = Grant(timeout_s)
        self._lines = Lines(timeout_s, connections, self._grant, over, keeps=transport is None)
        fetched = rust(site, route, trusted, timeout_s) if bulk_transport is None else lambda keep: bulk_transport
        self._bulk = Bulk(fetched, keeps=bulk_transport is None)

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self._lines.aclose()
            await trio.to_thread.run_sync(self._bulk.close)

    def _credentials(self) -> Mapping[str, str]:
        found = self._source()
        know_headers(found)
        return found

    # -- API calls -----------------------------------------------------------------------------------

    async def call(self, request: Request) -> Answer:
        """Send one request with the site's credentials and return its 2xx answer.

        Retried while its patience lasts, where a retry can help. Raises Unanswered if a request that is not
        repeatable may have been carried out.
        """
        what = f"{self.site}: {request.method} {'the file store' if request.signed else urlsplit(request.path).path}"
        source = request.source
        silence = self._compiling if is_unhurried() else self._usual if source is None else self._storing
        origin = request.path if request.signed else self.url
        credentials: Mapping[str, str] = {}

        async def once(fresh: bool) -> Answer:
            nonlocal credentials
            credentials = {} if request.signed else self._credentials()
            kept = request.may_be_lost and not (fresh or is_unhurried())
            async with self._slots:
                with translated(what):
                    sent = self._lines.build_request(
                        request.method,
                        request.address(self.url),  # which a redirect may have changed
                        json=request.json,
                        content=request.content,
                        headers=request.headers_with(credentials),
                        timeout=silence,
                    )
                    stream(sent, source)
                    began = trio.current_time()
                    async with self._lines.sent(sent, what, kept=kept, hurried=source is None) as response:
                        answer = await self._answer(response, what, signed=request.signed)
            if not request.signed:
                self._pulse.answered(trio.current_time() - began if source is None else None)
            request.accept(answer)
            return answer

        # What the file store takes tells nothing of the site's own limit, nor that of the store's.
        body_bytes = source.size if source is not None and not request.signed else None
        with trio.CancelScope() as scope, self.limit.learning(body_bytes):
            limit = None if source is not None or silence is self._compiling else scope
            insist = partial(self._insist, origin, once, Lane.CALLS, request.patience, request.repeatable, limit)
            try:
                return await insist()
            except Unauthorized:
                if request.signed or not self._another(credentials):
                    raise
            return await insist()
        assert scope.cancelled_caught
        silence_s = (Patience.BRIEF if is_dispensable() else request.patience) * self.timeout_s
        raise Unanswered(f"{what} did not answer within {silence_s:.0f} seconds.", silent=True)

    async def _answer(self, response: httpx.Response, what: str, *, signed: bool) -> Answer:
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
        if (
            300 <= answer.status < 400
            and not signed
            and (better := upgraded(self.url, str(response.url), answer.headers))
        ):
            self.url = better  # unless another request has set it already
            raise Moved(f"{self.site} asks for https; all further requests go to {better}.")
        page = is_page(answer.headers, answer.body)
        said = self._own_words(answer) if signed else self._explain(answer)
        error = refusal(answer.status, answer.headers, what, said, page=page, rights=self._login.rights)
        if isinstance(error, Unauthorized) and not signed:
            self._pulse.refused(error)
        raise error

    def _explain(self, answer: Answer) -> str:
        said = self._own_words(answer)
        return said if answer.status != 401 else self._login.refused(self.url, answer.headers, said, answer.what)

    # -- file bytes ----------------------------------------------------------------------------------

    def watch(self, notice: Callable[[Mapping[str, str]], None]) -> None:
        """Register `notice`, to be called with the headers of each answer to a download, in other threads."""
        self._bulk.notice = notice

    async def stream(self, url: str, stretch: Stretch, version: str | None, size: int | None = None) -> None:
        """Fetch a stretch of the file behind `url`, sent without credentials.

        Raises Stale if the entity tag is no longer `version`, Denied for a refused (expired) address, Unranged if the
        server sends no ranges, and Unavailable when patience ran out over answers of which none brought a piece.
        """
        await self._stream(url, self._there(url, version, size), stretch)

    async def stream_own(self, path: str, stretch: Stretch, size: int | None = None) -> None:
        """Fetch a stretch of the file behind a path of the site, sent with its credentials."""
        await self._own(lambda ask: self._stream(self.url, ask, stretch), self._here(path, size))

    async def _stream(self, url: str, ask: Ask, stretch: Stretch) -> None:
        while (before := stretch.next) < stretch.stop:
            try:
                await self._bulky(url, self._bulk.stream, ask, stretch)
            except Unavailable:
                if stretch.next == before:  # patience limits a silence, not the time that many bytes take
                    raise

    async def measure(self, url: str) -> int | None:
        """Return the size in bytes of the file behind `url`, by a range request of one byte without credentials."""
        return await self._bulky(url, self._bulk.total, self._there(url, None))

    async def measure_own(self, path: str) -> int | None:
        """Return the size in bytes of the file behind a path of the site; None if the site does not tell.

        By a HEAD; if that gives no size, by a range request of one byte, whose answer names the whole size.
        """
        try:
            answer = await self.call(Request("HEAD", path, headers={"Accept-Encoding": "identity"}))
            if answer.announced is not None:
                return answer.announced
        except (errors.Unsupported, errors.Denied):
            pass
        return await self._own(lambda ask: self._bulky(self.url, self._bulk.total, ask), self._here(path))

    async def pour(self, url: str, version: str | None, sink: Sink, size: int | None = None) -> None:
        """Write the whole file behind `url` to `sink`, in one pass, requested without credentials."""
        await self._pour(url, self._there(url, version, size), sink)

    async def pour_own(
        self,
        path: str,
        sink: Sink,
        *,
        form: Mapping[str, str] | None = None,
        check: Callable[[Mapping[str, str]], None] = lambda headers: None,
        size: int | None = None,
    ) -> None:
        """Write the whole file behind a path of the site to `sink`, in one pass.

        With a `form` the request is a POST. `check` raises if an answer's headers are not a file's.
        """
        ask = replace(self._here(path, size), form=form, check=check)
        await self._own(lambda ask: self._pour(self.url, ask, sink), ask)

    async def _own(self, work: Callable[[Ask], Awaitable[T]], ask: Ask) -> T:
        """Run a download with the site's credentials; if they are refused, once more with newer ones, if any."""
        try:
            return await work(ask)
        except Unauthorized as error:
            self._pulse.refused(error)
            if not self._another(ask.credentials):
                raise
        return await work(replace(ask, credentials=self._credentials()))

    async def _pour(self, url: str, ask: Ask, sink: Sink) -> None:
        """Send a file to `sink`; where nothing marks its end, again until two passes have the same length."""
        ended: int | None = None
        while True:
            before = sink.received
            try:
                size, sure = await self._bulky(url, self._bulk.pour, ask, sink)
            except Unavailable:
                # Patience limits a silence, not the time that many bytes take.
                if sink.received <= before:
                    raise
                continue
            if sure or size == ended:
                return
            if ended is not None and size < ended:
                raise Unavailable(f"{ask.what} sent {ended} bytes, then {size}, and does not say how many there are.")
            ended = size

    def _there(self, url: str, version: str | None, size: int | None = None) -> Ask:
        return Ask(url, f"{self.site}: the file store", version, size=size)

    def _here(self, path: str, size: int | None = None) -> Ask:
        what = f"{self.site}: {path}"

        def explain(status: int, headers: Mapping[str, str], body: bytes) -> str:
            return self._explain(Answer(status, headers, body, what))

        return Ask(urljoin(self.url, path), what, credentials=self._credentials(), explain=explain, size=size)

    async def _bulky(self, url: str, work: Callable[[Ask, *Ts], T], ask: Ask, *args: *Ts) -> T:
        """Run one of the blocking downloads in a thread."""

        async def once(fresh: bool) -> T:
            trial = Trial(fresh=fresh)

            async def run() -> T:
                return await trio.to_thread.run_sync(
                    work, replace(ask, trial=trial), *args, abandon_on_cancel=True, limiter=self._threads
                )

            began = trio.current_time()
            try:
                if fresh or not self._bulk.keeps:
                    return await run()
                return await granted(run, trial, self._grant, ask.what)
            except Mute:
                self._bulk.retire(trial)
                raise
            finally:
                log.debug("%s: a download ended after %.3f s", ask.what, trio.current_time() - began)
                self._grant.learn(trial.took_s)

        return await self._insist(url, once, Lane.DOWNLOADS, Patience.PROMPT, repeatable=True)

    # -- insisting -----------------------------------------------------------------------------------

    async def _insist(
        self,
        url: str,
        once: Callable[[bool], Awaitable[T]],
        lane: Lane,
        patience: Patience,
        repeatable: bool,
        scope: trio.CancelScope | None = None,
    ) -> T:
        """Retry `once` until it succeeds, patience ends or no retry can help. Waiting for a turn costs no patience.

        `once` is told whether it must open a new connection: after a kept one was mute, which costs no patience.
        `scope`, if given, is cancelled when an attempt takes longer than patience lasts.
        """
        fresh, tries, wait_s = False, 0, FIRST_WAIT_S
        breaker = self._breaker(url)
        lane = lane if urlsplit(url).netloc == urlsplit(self.url).netloc else Lane.ELSEWHERE
        if is_dispensable():
            patience, wait_s = Patience.BRIEF, ONCE_MORE_S
        deadline = trio.current_time() + patience * self.timeout_s
        absent_since: float | None = None
        while True:
            began = trio.current_time()
            try:
                async with self._pace.turn(lane) as waited_s:
                    deadline += waited_s
                    began += waited_s
                    if scope is not None:
                        scope.deadline = deadline + GRACE_S
                    return await breaker.guard(partial(once, fresh))
            except (Mute, Moved) as error:
                log.info("%s Trying again at once.", error)
                fresh = True
                deadline += trio.current_time() - began
                continue
            except Unavailable as error:
                tries += 1
                nobody = error.plain and is_curious()
                lost = isinstance(error, Unanswered) and not repeatable
                # The server may still work on a request that timed out late, and a second one would take as long.
                lost = lost or (is_unhurried() and trio.current_time() - began >= self.timeout_s)
                own_pause = (FIRST_WAIT_S if nobody else wait_s) * random.uniform(0.7, 1.3)
                pause = own_pause if error.retry_after_s is None else error.retry_after_s
                absent_since = (absent_since or began) if error.absent else None
                until = deadline if absent_since is None else absent_since + Patience.PROMPT * self.timeout_s
                if lost or (nobody and tries > 1) or trio.current_time() + pause >= min(deadline, until):
                    raise
                log.info("%s Trying again in %.1f s.", error, pause)
            await trio.sleep(pause)
            if scope is not None:
                scope.deadline = math.inf  # until the next turn
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _breaker(self, url: str) -> Breaker:
        origin = urlsplit(url).netloc
        if origin not in self._breakers:
            self._breakers[origin] = Breaker(self.site, self.timeout_s)
        return self._breakers[origin]

    @property
    def outage(self) -> str | None:
        """Why a breaker refuses requests at once at present; None if none does."""
        return next((reason for b in self._breakers.values() if (reason := b.reason())), None)

    @property
    def health(self) -> Health:
        pulse = self._pulse
        return Health(self.outage, pulse.refusal, pulse.latency_s, pulse.well_s)
