"""The first contact with a server, without credentials: by which way, how soon, and what its clock says.

Tests: mount/test_doctor.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from labfs.http.failures import translated
from labfs.http.network.route import Proxy, Route
from labfs.http.network.trust import trust
from labfs.http.network.ways import Ways


@dataclass(frozen=True, slots=True)
class Contact:
    """What one answer told, whatever its status. Times are in seconds."""

    latency_s: float  # to the answer's header, with the connection's making
    ahead_s: float | None  # by which this machine's clock is before the server's, half a second less or more
    tls: str | None  # its version; None without TLS, or where a proxy's library does not tell
    expires_s: float | None  # when the server's certificate does, since 1970
    proxy: Proxy | None


async def contact(
    site: str, url: str, *, proxy: Callable[[], str] | None = None, ca: str = "", timeout_s: float = 8.0
) -> Contact:
    """Ask a server for its address itself. Raises ConfigError, Barred or Unavailable, as each request to it would."""
    route = Route(site, proxy, os.environ)
    way = route.of(url)
    ways = Ways(site, route, trust(site, ca, os.environ), httpx.Limits(max_keepalive_connections=0))
    async with httpx.AsyncClient(transport=ways, timeout=timeout_s, trust_env=False) as client:
        began, clock = time.monotonic(), time.time()
        with translated(site):
            async with client.stream("GET", url) as answer:
                took_s = time.monotonic() - began
                tls = _tls(answer)
    there = _date(answer)
    # A date has whole seconds, and was written somewhere on the way of the request and the answer.
    ahead_s = None if there is None else clock + took_s / 2 - (there + 0.5)
    return Contact(
        took_s, ahead_s, tls.version() if tls is not None else None, _expiry(tls) if tls is not None else None, way
    )


def _date(answer: httpx.Response) -> float | None:
    try:
        return parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None


def _tls(answer: httpx.Response) -> ssl.SSLObject | None:
    stream = answer.extensions.get("network_stream")
    found = stream.get_extra_info("ssl_object") if stream is not None else None
    return found if isinstance(found, ssl.SSLObject) else None


def _expiry(tls: ssl.SSLObject) -> float | None:
    certificate = tls.getpeercert() or {}
    ends = certificate.get("notAfter")
    return float(ssl.cert_time_to_seconds(ends)) if isinstance(ends, str) else None
