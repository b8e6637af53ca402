"""The data plane: whole blocks of file bytes, fetched in worker threads by a Rust transport behind httpx.

Parsing bulk bodies in Python costs half the speed (measured: 490 against 1,400 MB/s on loopback). The
methods block. Redirects are followed by hand, and credentials are sent to the site's own origin only.

Tests: unit/test_client, unit/test_ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

import httpx
from pyreqwest.compatibility.httpx import SyncHttpxTransport
from pyreqwest.http import HeaderMap
from pyreqwest.request import SyncRequestBuilder

from labfs.backend import Buffer, Sink, Stretch
from labfs.errors import Malformed, Mute, Stale, Unavailable, Unranged
from labfs.http.codings import ends_surely, is_stored, stated_size, total
from labfs.http.failures import refusal, translated
from labfs.http.network.connections import Lot, Pool, Trial
from labfs.http.network.route import Route
from labfs.http.network.trust import Trust
from labfs.http.network.ways import RustWays
from labfs.http.texts import FORM, address, is_upgrade, urlencoded

LONGEST_SKIP = 8 * 1024 * 1024  # bytes discarded to reach a range if the server ignored the Range header
LONGEST_REASON = 64 * 1024  # bytes of an answer that explains a refusal
PIECE = 1024 * 1024  # bytes taken from the transport at a time
REDIRECTS = 5
PLAIN = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"python-httpx/{httpx.__version__}"}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for file bytes; `credentials` are headers for the url's own origin, `form` makes it a POST.

    `explain` turns a refusal's status, headers and body into a sentence; `check` raises if the headers of a
    200 are not those of a file. `size` is the file's size in bytes, if known.
    """

    url: str = field(repr=False)  # it may be signed
    what: str  # for messages
    version: str | None = None  # the entity tag that the bytes must have
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    explain: Callable[[int, Mapping[str, str], bytes], str] = lambda status, headers, body: ""
    check: Callable[[Mapping[str, str]], None] = lambda headers: None
    size: int | None = None
    trial: Trial = field(default_factory=lambda: Trial(fresh=False), repr=False)


class Bulk:
    """Downloads through a transport that knows its own timeouts."""

    def __init__(self, make: Callable[[bool], httpx.BaseTransport], *, keeps: bool = True) -> None:
        """`make` returns a transport that keeps connections or not; only the latter are used unless `keeps`.

        The transports are used without a client of httpx, which would cost a third of a request.
        """
        self._single = Lot(make(False))  # each request on a connection of its own
        self._pool = Pool(lambda: make(True)) if keeps else None

        self.notice: Callable[[Mapping[str, str]], None] = lambda headers: None  # is shown each answer's headers

    def close(self) -> None:
        for client in [self._single.client, *(self._pool.spent(all_of_them=True) if self._pool else ())]:
            client.close()

    @property
    def keeps(self) -> bool:
        """Whether a request may be sent over a connection kept from an earlier one."""
        return self._pool is not None and self._pool.used

    def retire(self, trial: Trial) -> None:
        """Retire all connections of the lot over which an unanswered request was sent."""
        if self._pool is not None and trial.lot is not None:
            self._pool.retire(trial.lot)

    @contextmanager
    def _lent(self, trial: Trial) -> Iterator[httpx.BaseTransport]:
        if self._pool is None or trial.fresh:
            trial.set_out(self._single)
            yield self._single.client
            return
        with self._pool.lent() as lot:
            trial.set_out(lot)
            yield lot.client
        for client in self._pool.spent():
            client.close()

    def total(self, ask: Ask) -> int | None:
        """Return the file's size in bytes, from the answer to a range of one byte; None if not told."""
        with self._answer(ask, {"Range": "bytes=0-0"}, (200, 206, 416)) as response:
            if response.status_code == 416:
                return 0
            # The body is not waited for.
            return stated_size(response.status_code, response.headers)

    def stream(self, ask: Ask, stretch: Stretch) -> None:
        """Fetch what has not arrived of a stretch. Raises Unranged if the server would send the file from its start."""
        start, stop = stretch.next, stretch.stop
        asked_s = time.monotonic()
        with self._answer(ask, {"Range": f"bytes={start}-{stop - 1}"}, (200, 206)) as response:
            certain = _check_body(response, ask) is not None
            skip = 0
            if response.status_code == 206:
                wanted = f"bytes {start}-{stop - 1}/"
                if not response.headers.get("content-range", "").startswith(wanted):
                    raise Unavailable(f"{ask.what} sent another range than it was asked for.")
            else:
                skip = start
                if skip > LONGEST_SKIP or not certain:
                    raise Unranged(f"{ask.what} sends files whole only.")
            stretch.delayed(time.monotonic() - asked_s)
            if certain:
                _hand_out(_chunks(response, skip + stop - start), skip, stretch, ask.what)
            else:
                _hand_out([_counted(response, stop - start, ask)], 0, stretch, ask.what)

    def pour(self, ask: Ask, sink: Sink) -> tuple[int, bool]:
        """Write the whole file to `sink`, piece by piece as it arrives.

        Returns its size in bytes, and whether that is sure: an answer that ends with its connection may be truncated.
        """
        with self._answer(ask, {}, (200,)) as response:
            certain = _check_body(response, ask) is not None
            ask.check(response.headers)
            size = total(200, response.headers)
            sink.begin(size)
            got = 0
            for chunk in _chunks(response, PIECE):
                got += len(chunk)
                if size is not None and got > size:
                    raise Malformed(f"{ask.what} sent more than the {size} bytes that it announced.")
                sink.write(chunk)
            sure = ends_surely(_version(response), response.headers)
        if not certain and got != ask.size:
            raise _packed(ask)
        if size is not None and got < size:
            raise Unavailable(f"{ask.what} sent {got} bytes of the {size} that it announced.")
        if not sure and ask.size is not None and got < ask.size:
            raise Unavailable(f"{ask.what} ended after {got} bytes of {ask.size}.")
        return got, sure or got == ask.size

    @contextmanager
    def _answer(self, ask: Ask, headers: Mapping[str, str], wanted: tuple[int, ...]) -> Iterator[httpx.Response]:
        """Yield the answer after redirects, its body still unread. Raises the error of a refusal."""
        with self._lent(ask.trial) as http:
            yield from self._followed(http, ask, headers, wanted)

    def _followed(
        self, http: httpx.BaseTransport, ask: Ask, headers: Mapping[str, str], wanted: tuple[int, ...]
    ) -> Iterator[httpx.Response]:
        url, credentials = ask.url, ask.credentials
        for redirected in range(REDIRECTS):
            sent = {**headers, **PLAIN, **credentials}
            body = None
            if ask.form is not None:
                body, sent = urlencoded(ask.form), {**sent, **FORM}
            if ask.version is not None and ask.version.isascii():
                sent["If-Match"] = f'"{ask.version}"'
            method = "GET" if ask.form is None else "POST"
            request = httpx.Request(method, address(url), headers=sent, content=body)
            with translated(ask.what), closing(http.handle_request(request)) as response:
                if not redirected and not ask.trial.answered():
                    raise Mute(f"{ask.what} was given up before it began to answer.")
                self.notice(response.headers)
                if not response.has_redirect_location:
                    if response.status_code not in wanted:
                        reason = ask.explain(response.status_code, response.headers, _reason(response))
                        raise refusal(response.status_code, response.headers, ask.what, reason)
                    yield response
                    return
            try:
                there = urljoin(url, response.headers["location"])
                elsewhere = urlsplit(there)[:2] != urlsplit(url)[:2] and not is_upgrade(url, there)
            except ValueError as error:
                raise Malformed(f"{ask.what} redirects to an address that is none; is the site's url right?") from error
            if elsewhere:
                if ask.form is not None:
                    raise Malformed(f"{ask.what} redirects to another address; is the site's url right?")
                credentials = {}
            url = there
        raise Malformed(f"{ask.what} redirected more than {REDIRECTS} times.")


def rust(site: str, route: Route, trusted: Trust, timeout_s: float) -> Callable[[bool], httpx.BaseTransport]:
    """Return a factory of transports for a site's downloads; `timeout_s` is their connect and read timeout."""
    return lambda keep: RustWays(site, route, trusted, timeout_s, _Tolerating, keep=keep)


class _Tolerating(SyncHttpxTransport):
    """The library's transport, which alone would fail over a header that is not ASCII, such as a file's name."""

    def _map_response(self, builder: Any, request: httpx.Request) -> httpx.Response:
        return super()._map_response(cast(SyncRequestBuilder, _Tolerant(builder)), request)


class _Tolerant:
    """A request whose answer has an empty value for each header that is not ASCII."""

    def __init__(self, builder: SyncRequestBuilder) -> None:
        self._builder = builder

    @contextmanager
    def build_streamed(self) -> Iterator[SimpleNamespace]:
        with self._builder.build_streamed() as response:
            headers = {name: _values(response.headers, name) for name in response.headers.keys()}  # noqa: SIM118
            yield SimpleNamespace(
                status=response.status,
                headers=httpx.Headers(headers),
                body_reader=response.body_reader,
                version=response.version,
            )


def _values(headers: HeaderMap, name: str) -> str:
    try:
        return ", ".join(headers.getall(name))
    except ValueError:
        return ""


def _check_body(response: httpx.Response, ask: Ask) -> bool | None:
    """Raises Stale or Malformed if the body is not the file's stored bytes. None: only its length will show."""
    tag = response.headers.get("etag", "").removeprefix("W/").strip('"')
    if ask.version is not None and tag and tag != ask.version:
        raise Stale(f"{ask.what} now holds another version of the file.")
    stored = is_stored(response.status_code, response.headers, ask.size)
    if stored is False:
        raise _packed(ask)
    return stored


def _version(response: httpx.Response) -> str:
    native = response.extensions.get("pyreqwest_response")
    return response.http_version if native is None else str(native.version)


def _packed(ask: Ask) -> Malformed:
    return Malformed(f"{ask.what} packed the bytes it was asked to send as they are.")


def _reason(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in _chunks(response, LONGEST_REASON):
        body += chunk
        if len(body) >= LONGEST_REASON:
            break
    return bytes(body)


def _counted(response: httpx.Response, size: int, ask: Ask) -> Buffer:
    """Return a body of exactly `size` bytes. Raises Malformed for another length: the body is compressed."""
    body = bytearray()
    for chunk in _chunks(response, size + 1):
        body += chunk
        if len(body) > size:
            raise _packed(ask)
    if len(body) < size:
        raise _packed(ask)
    return body


def _hand_out(chunks: Iterable[Buffer], skip: int, stretch: Stretch, what: str) -> None:
    """Hand out the bytes after the first `skip` as the pieces of a stretch. Raises Unavailable if there are too few."""
    waiting: list[Buffer] = []  # of the next piece
    got = 0  # bytes in them
    for chunk in chunks:
        view = memoryview(chunk)[skip:]
        skip = max(skip - len(chunk), 0)
        while view and (lacking := stretch.piece - got) > 0:
            waiting.append(view[:lacking])
            got += len(waiting[-1])
            view = view[lacking:]
            if got == stretch.piece:
                stretch.arrived(waiting[0] if len(waiting) == 1 else b"".join(waiting))
                waiting, got = [], 0
        if not stretch.piece:
            return
    raise Unavailable(f"{what} ended {stretch.stop - stretch.next - got} bytes before what it was asked for.")


def _chunks(response: httpx.Response, size: int) -> Iterator[Buffer]:
    """Yield the body as it arrives; from the Rust transport in pieces as large as possible, which saves two copies."""
    native = response.extensions.get("pyreqwest_response")
    if native is None:
        yield from response.iter_raw()
        return
    while (chunk := native.body_reader.read(min(size, PIECE))) is not None:
        yield chunk
