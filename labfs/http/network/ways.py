"""Requests along their route: connections for each proxy, and failures of a proxy or a certificate as sentences.

Bulk bodies are fetched by the Rust library wherever it can use the same route. A request that it refuses before
anything was sent is repeated by httpx, whose result counts: the library is stricter about certificates than OpenSSL
(self-signed ones, a name in the subject alone, old key exchanges), and says less about a proxy's answer.

Tests: mount/test_networks.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Generic, TypeVar

import httpx
import trio
from pyreqwest.client import SyncClient, SyncClientBuilder
from pyreqwest.exceptions import PyreqwestError
from pyreqwest.proxy import ProxyBuilder
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType

from labfs.errors import Barred, LabfsError, Unavailable
from labfs.http.network.connections import KEPT_S, PROBES, socket_options
from labfs.http.network.route import Proxy, Route
from labfs.http.network.trust import Trust

log = logging.getLogger(__name__)
T = TypeVar("T")
SocketOptions = Iterable[tuple[int, int, int]]

# X509_V_ERR_* of OpenSSL's x509_vfy.h
NOT_YET, EXPIRED, OTHER_NAME = (9,), (10,), (62, 64)
NO_AUTHORITY = (2, 18, 19, 20, 21)
# SOCKS5 (RFC 1928, section 6): no connection to the host; SOCKS4's only code for a failure
UNREACHED = (1, 3, 4, 5, 6, 0x5B)
# Words in the Rust library's TLS handshake errors: “invalid peer certificate”, “received fatal alert”
TLS = ("peer ", "received ")
# Errors of a TLS handshake with the site, once the proxy has connected
BROKEN = (ssl.SSLError, trio.BrokenResourceError, ConnectionResetError, BrokenPipeError)


class Pools(Generic[T]):
    """One `T` for each proxy that is used, and one for direct connections."""

    def __init__(self, route: Route, make: Callable[[Proxy | None], T]) -> None:
        self._route = route
        self._make = make
        self._made: dict[Proxy | None, T] = {}
        self._lock = threading.Lock()

    def to(self, url: httpx.URL) -> tuple[Proxy | None, T]:
        proxy = self._route.of(str(url))
        with self._lock:
            if proxy not in self._made:
                self._made[proxy] = self._make(proxy)
            return proxy, self._made[proxy]

    def __iter__(self) -> Iterator[T]:
        return iter(self._made.values())


class Ways(httpx.AsyncBaseTransport):
    """The transport of API calls and uploads."""

    def __init__(
        self, site: str, route: Route, trust: Trust, limits: httpx.Limits, options: SocketOptions = ()
    ) -> None:
        self._site = site
        self._pools = Pools(route, lambda proxy: _async_pool(proxy, trust, limits, options))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        proxy, pool = self._pools.to(request.url)
        with blamed(self._site, request.url, proxy):
            response = await pool.handle_async_request(request)
        if error := refused(self._site, proxy, response.status_code):
            await response.aclose()
            raise error
        return response

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.aclose()


class PlainWays(httpx.BaseTransport):
    """The transport of bulk bodies that the Rust library cannot fetch."""

    def __init__(self, site: str, route: Route, trust: Trust, timeout_s: float, *, keep: bool) -> None:
        self._site = site
        self._timeout = httpx.Timeout(timeout_s).as_dict()
        limits = httpx.Limits(max_keepalive_connections=None if keep else 0, keepalive_expiry=KEPT_S)
        self._pools = Pools(route, lambda proxy: _sync_pool(proxy, trust, limits, socket_options(timeout_s)))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "timeout": self._timeout}
        proxy, pool = self._pools.to(request.url)
        with blamed(self._site, request.url, proxy):
            response = pool.handle_request(request)
        if error := refused(self._site, proxy, response.status_code):
            response.close()
            raise error
        return response

    def close(self) -> None:
        for pool in self._pools:
            pool.close()


class RustWays(httpx.BaseTransport):
    """The transport of bulk bodies: the Rust library, or `PlainWays` where the library cannot use the same route.

    `wrap` makes a transport of a client of the library.
    """

    def __init__(
        self,
        site: str,
        route: Route,
        trust: Trust,
        timeout_s: float,
        wrap: Callable[[SyncClient], httpx.BaseTransport],
        *,
        keep: bool,
    ) -> None:
        self._site = site
        self._plain = PlainWays(site, route, trust, timeout_s, keep=keep)
        self._pools = Pools(route, lambda proxy: _rust_pool(proxy, trust, timeout_s, wrap, keep=keep))
        self._unfit: set[str] = set()  # origins whose TLS the library refuses

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        proxy, pool = self._pools.to(request.url)
        # The answer to a form names its file in a header, which only httpx can read if it is not ASCII.
        if pool is None or request.method == "POST" or request.url.netloc.decode() in self._unfit:
            return self._plain.handle_request(request)
        try:
            response = pool.handle_request(request)
        except httpx.ConnectError as error:
            if proxy is None and request.url.scheme == "http":
                raise
            reason = _last(error)
        except httpx.ConnectTimeout:
            with blamed(self._site, request.url, proxy):
                raise
        else:
            return self._passed(proxy, response)
        response = self._plain.handle_request(request)
        log.info("%s: httpx fetches from %s (the faster library: %s).", self._site, request.url.host, reason)
        if any(word in reason for word in TLS):  # else the origin was unavailable for a moment
            self._unfit.add(request.url.netloc.decode())
        return response

    def _passed(self, proxy: Proxy | None, response: httpx.Response) -> httpx.Response:
        if refusal := refused(self._site, proxy, response.status_code):
            response.close()
            raise refusal
        return response

    def close(self) -> None:
        self._plain.close()
        for pool in self._pools:
            if pool is not None:
                pool.close()


# -- one pool ----------------------------------------------------------------------------------------------


def _async_pool(
    proxy: Proxy | None, trust: Trust, limits: httpx.Limits, options: SocketOptions
) -> httpx.AsyncBaseTransport:
    if proxy is not None and proxy.socks:
        # Imported here, as below: the import is slow, and few networks have a SOCKS proxy.
        from httpx_socks import AsyncProxyTransport

        return AsyncProxyTransport(**_socks(proxy), verify=trust.context, trust_env=False, limits=limits)
    return httpx.AsyncHTTPTransport(
        verify=trust.context, trust_env=False, limits=limits, proxy=_http(proxy, trust), socket_options=options
    )


def _sync_pool(proxy: Proxy | None, trust: Trust, limits: httpx.Limits, options: SocketOptions) -> httpx.BaseTransport:
    if proxy is not None and proxy.socks:
        from httpx_socks import SyncProxyTransport

        return SyncProxyTransport(**_socks(proxy), verify=trust.context, trust_env=False, limits=limits)
    return httpx.HTTPTransport(
        verify=trust.context, trust_env=False, limits=limits, proxy=_http(proxy, trust), socket_options=options
    )


def _http(proxy: Proxy | None, trust: Trust) -> httpx.Proxy | None:
    if proxy is None:
        return None
    context = trust.context if proxy.scheme == "https" else None
    return httpx.Proxy(proxy.url, headers=proxy.headers, ssl_context=context)


def _socks(proxy: Proxy) -> dict[str, Any]:
    kind = ProxyType.SOCKS4 if proxy.scheme.startswith("socks4") else ProxyType.SOCKS5
    return {
        "proxy_type": kind,
        "proxy_host": proxy.host,
        "proxy_port": proxy.port,
        "username": proxy.user,
        "password": proxy.password,
        "rdns": proxy.looks_up,
    }


def _rust_pool(
    proxy: Proxy | None,
    trust: Trust,
    timeout_s: float,
    wrap: Callable[[SyncClient], httpx.BaseTransport],
    *,
    keep: bool,
) -> httpx.BaseTransport | None:
    """Return None if the library cannot be used: it sends no user to a SOCKS4 proxy, and may refuse an authority.

    Nor does it work in a process that was forked from one that used it, and then raises RuntimeError.
    """
    if proxy is not None and proxy.scheme.startswith("socks4") and proxy.user is not None:
        return None
    silence, probe = timedelta(seconds=timeout_s), timedelta(seconds=timeout_s / 2)
    builder = (
        SyncClientBuilder()
        .connect_timeout(silence)
        .read_timeout(silence)
        .pool_idle_timeout(timedelta(seconds=KEPT_S))
        .tcp_user_timeout(silence)
        .tcp_keepalive(probe)
        .tcp_keepalive_interval(probe)
        .tcp_keepalive_retries(PROBES)
        .follow_redirects(False)
        # A compressed body would have other offsets than the file.
        .gzip(False)
        .brotli(False)
        .deflate(False)
        .zstd(False)
    )
    if not keep:
        builder = builder.pool_max_idle_per_host(0)
    # The library reads SSL_CERT_FILE and SSL_CERT_DIR by itself; their certificates are among these.
    for authority in trust.authorities:
        builder = builder.add_root_certificate_der(authority)
    try:
        builder = builder.no_proxy() if proxy is None else builder.proxy(_rust_proxy(proxy))
        return wrap(builder.build())
    except (PyreqwestError, ValueError, RuntimeError) as error:  # its text may show the proxy's password
        log.warning("Bulk bodies come through httpx: the faster library cannot be used (%s).", type(error).__name__)
        return None


def _rust_proxy(proxy: Proxy) -> ProxyBuilder:
    made = ProxyBuilder.all(proxy.url)
    for value in proxy.headers.values():
        made = made.custom_http_auth(value)
    return made


def _last(error: httpx.ConnectError) -> str:
    """Return the innermost cause that the Rust library gives."""
    details = getattr(error.__cause__, "details", None) or {}
    text = str((details.get("causes") or [{}])[-1].get("message", ""))
    return text if "://" not in text else type(error.__cause__).__name__


# -- what went wrong ---------------------------------------------------------------------------------------


def refused(site: str, proxy: Proxy | None, status: int) -> LabfsError | None:
    """Return the error that a proxy's own answer means; None for an answer that may be the site's."""
    if status != 407 or proxy is None:
        return None
    wants = "refuses its user and password" if proxy.user is not None else "asks for a user and a password"
    remedy = "they stand in its address, http://user:password@host:port (sent as Basic; NTLM takes a helper such as px)"
    return Barred(f"{site}: the proxy {proxy} {wants}; {remedy}.")


@contextmanager
def blamed(site: str, url: httpx.URL, proxy: Proxy | None) -> Iterator[None]:
    """Re-raise failures of a certificate or a proxy as an error that names it; let other errors pass."""
    try:
        yield
    except Exception as error:
        if found := _untrusted(site, url, proxy, error) or (proxy and _lost(site, url.host, proxy, error)):
            raise found from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        within = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = within or error.__cause__ or error.__context__


def _untrusted(site: str, url: httpx.URL, proxy: Proxy | None, error: Exception) -> LabfsError | None:
    known = proxy is None or proxy.scheme != "https"  # the certificate cannot be the proxy's
    whose = url.host if known else f"{url.host}, or of the proxy {proxy},"
    who = url.netloc.decode() if known else f"{url.netloc.decode()}, or the proxy {proxy},"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Barred(f"{site}: the certificate of {whose} {_distrust(cause)}")
        if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            return Barred(f"{site}: {who} answers, but not by TLS; is its address right?")
    return None


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    clock = f"the clock of this machine says {time.strftime('%d %B %Y, %H:%M')}"
    match error.verify_code:
        case code if code in NO_AUTHORITY:
            return (
                "is signed by an authority that is not trusted here; if it is your institute's own, "
                'get its certificate and name it in the configuration of the site: ca = "PATH".'
            )
        case code if code in EXPIRED:
            return f"has expired and must be renewed by whoever runs the server ({clock})."
        case code if code in NOT_YET:
            return f"is not valid yet ({clock}; is that right?)."
        case code if code in OTHER_NAME:
            return "is made out to another name; is the address of the site right?"
    return f"is refused: {error.verify_message}."


def _lost(site: str, host: str, proxy: Proxy, error: Exception) -> LabfsError | None:
    """Return the error of a request that did not get through a proxy; None if it did."""
    behind = any(isinstance(cause, BROKEN) for cause in _causes(error))
    match error:
        case ProxyConnectionError() | httpx.ConnectError() if not behind:
            sentence = f"{site}: the proxy {proxy} cannot be reached ({_innermost(error)})."
            return Unavailable(sentence, silent=True, who=f"The proxy {proxy}", plain=_is_plain(error))
        case ProxyTimeoutError() | httpx.ConnectTimeout():
            sentence = f"{site}: the proxy {proxy}, or {host} behind it, did not answer in time."
            return Unavailable(sentence, silent=True, who=f"The proxy {proxy}, or {host} behind it,")
        case httpx.ProxyError():
            return _connect_refused(site, host, proxy, str(error))
        case ProxyError():
            return _socks_refused(site, host, proxy, error)
        case httpx.HTTPError() | LabfsError() if not (behind and isinstance(error, httpx.ConnectError)):
            return None
        case httpx.ConnectError() | OSError() | UnicodeError() | trio.BrokenResourceError():
            sentence = f"{site}: {host} cannot be reached through the proxy {proxy} ({_innermost(error)})."
            return Unavailable(sentence, silent=True)
    return None


def _is_plain(error: Exception) -> bool:
    """Whether this machine knows that nobody is there: no such name, or nobody who listens."""
    *_, last = _causes(error)
    return isinstance(last, ConnectionRefusedError) or (
        isinstance(last, socket.gaierror) and last.errno == socket.EAI_NONAME
    )


def _innermost(error: Exception) -> str:
    """Return the reason of a failed connection, in the operating system's words."""
    *_, last = _causes(error)
    text = str(last)
    if isinstance(last, OSError) and last.errno and not isinstance(last, ssl.SSLError):
        text = str(last.strerror) if isinstance(last, socket.gaierror) else os.strerror(last.errno)
    return type(last).__name__ if "://" in text or not text else text


def _connect_refused(site: str, host: str, proxy: Proxy, answer: str) -> LabfsError:
    """Return the error of a CONNECT that a proxy refused; `answer` is its status line, without the version."""
    status = int(answer[:3]) if answer[:3].isdecimal() else 0
    if error := refused(site, proxy, status):
        return error
    if status >= 500 or status == 429:  # it got no further
        return Unavailable(f"{site}: the proxy {proxy} cannot reach {host} ({status}).", silent=True)
    return Barred(f"{site}: the proxy {proxy} does not let labfs through to {host} ({status or 'no status'}).")


def _socks_refused(site: str, host: str, proxy: Proxy, error: ProxyError) -> LabfsError:
    told = str(error)
    if error.error_code is not None:
        if error.error_code in UNREACHED:
            return Unavailable(f"{site}: the proxy {proxy} cannot reach {host} ({told}).", silent=True)
        return Barred(f"{site}: the proxy {proxy} does not let labfs through to {host} ({told}).")
    if "authentication" in told.lower():
        return Barred(f"{site}: the proxy {proxy} wants another user and password than its address has.")
    kind, other = ("SOCKS5", "socks4a") if proxy.scheme.startswith("socks5") else ("SOCKS4", "socks5h")
    hint = f"is it one of another version ({other}://) or an http:// one?"
    return Unavailable(f"{site}: the proxy {proxy} does not answer as a {kind} proxy does ({told}); {hint}")
