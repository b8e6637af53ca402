"""What a failed request means: HTTP statuses and the errors of both HTTP libraries → `labfs.errors`.

Tests: unit/test_client.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx
from pyreqwest.exceptions import BuilderError, PyreqwestError

from labfs import errors
from labfs.errors import LabfsError, Malformed, Unanswered, Unavailable, ended

log = logging.getLogger(__name__)

# No route to an address: the error of IPv6 addresses on a machine without IPv6, whatever IPv4 answers.
ABSENT = "Name or service not known"  # what getaddrinfo says of a name that does not exist
NOWHERE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# Messages of the libraries that quote nothing of a request.
HARMLESS = (
    "Server disconnected without sending a response",
    "peer closed connection without sending complete message body",
    ABSENT,
    "Temporary failure in name resolution",
    "connection closed before message completed",
    "end of file before message length reached",
    "unexpected EOF during chunk size line",
    "connection reset",
    "unexpected end of file",
    "incorrect header check",
)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Re-raise the errors of both HTTP libraries as ours; only a request that was never sent can be retried freely.

    The libraries' messages quote headers and addresses, so that each may hold a secret: `_cause` passes on only
    messages that are known to hold none.
    """
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise unreached(what, error) from error
    except httpx.TimeoutException as error:
        raise Unanswered(f"{what} fell silent.", silent=True) from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError, BuilderError, ValueError) as error:
        log.info("%s cannot be asked for", what, exc_info=True)  # perhaps a bug of ours
        raise Malformed(
            f"{what} cannot be asked for: its address, or what goes with it, is unfit to be sent."
        ) from error
    except httpx.RemoteProtocolError as error:
        if "location header" in str(error):
            raise Malformed(f"{what} redirects to an address that is none; is the site's url right?") from error
        raise Unanswered(f"{what} broke off its answer ({_cause(error)}).") from error
    except (httpx.HTTPError, httpx.StreamError, PyreqwestError) as error:
        raise Unanswered(f"{what} broke off its answer ({_cause(error)}).") from error


def unreached(what: str, error: httpx.TransportError) -> Unavailable:
    """Return the error of a request that found no server: no such name, nobody who listens there, or silence."""
    host = error.request.url.netloc.decode("ascii", "replace") if getattr(error, "_request", None) else "the host"
    cause = _cause(error)
    reasons = {
        ABSENT: f"no host is called {host.rpartition(':')[0] or host} here. Is its address right, and is this machine"
        " in the network or VPN that knows it?",
        os.strerror(errno.ECONNREFUSED): f"nobody listens at {host}. Is its address right, and its server running?",
    }
    hint = reasons.get(cause)
    sentence = f"{what} cannot be reached ({cause})" + (f": {hint}" if hint else ".")
    return Unavailable(sentence, silent=True, plain=hint is not None)


def _cause(error: BaseException) -> str:
    """Return the innermost cause as text that quotes nothing of a request or an answer."""
    while within := _within(error):
        error = within
    if isinstance(error, ssl.SSLError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno and not isinstance(error, socket.gaierror):  # whose codes are no errnos
            return os.strerror(error.errno)
        return error.strerror or type(error).__name__
    said = f"{error} {getattr(error, 'details', None) or ''}"
    number = re.search(r"\(os error ([0-9]{1,4})\)", said)
    if number:
        return os.strerror(int(number[1]))
    return next((words for words in HARMLESS if words in said), type(error).__name__)


def _within(error: BaseException) -> BaseException | None:
    """Return the cause of an error; of a group, of attempts at one address each, the error that came furthest."""
    if isinstance(error, BaseExceptionGroup):
        return min(error.exceptions, key=lambda each: isinstance(each, OSError) and each.errno in NOWHERE)
    return error.__cause__ or error.__context__


_BY_STATUS: dict[int, type[LabfsError]] = {
    401: errors.Unauthorized,
    403: errors.Denied,
    404: errors.NotFound,
    405: errors.Unsupported,
    409: errors.Exists,
    410: errors.NotFound,
    412: errors.Stale,
    413: errors.TooLarge,
    416: errors.Stale,
    501: errors.Unsupported,
    505: errors.Unsupported,
    507: errors.NoSpace,
}


def refusal(status: int, headers: Mapping[str, str], what: str, reason: str, *, page: bool = False) -> LabfsError:
    """Return the error that an unsuccessful answer means; `page` says that its body is a web page.

    A 500 with the service's own sentence is definite. A proxy or gateway answers 502, 504 or 520 to 530 when it timed
    out, and 503 with a web page when it lost its connection, while the service may still work on the request.
    """
    sentence = ended(reason or f"{what} answered {status}")
    wish = _retry_after_s(headers)
    if status == 429 or (status == 503 and not page):
        return Unavailable(sentence, retry_after_s=wish)
    if status == 408 or (status >= 500 and status not in _BY_STATUS):
        return Unanswered(sentence, lost=status != 500 or not reason, retry_after_s=wish)
    if status == 401:
        return errors.Unauthorized(sentence)
    return _BY_STATUS.get(status, errors.Malformed if status < 400 else errors.Invalid)(sentence)


@dataclass(frozen=True, slots=True)
class Login:
    """What is said of refused credentials: the system's `title`, and how it is renewed (`renewal`).

    `own` tells, of the status, headers and sentence of a 401, whether the system answers so; another one that stands
    at the address, or a gateway before it, knows nothing of the credentials.
    """

    title: str = "the lab system"
    renewal: str = ""
    own: Callable[[Mapping[str, str], str], bool] = lambda headers, said: True

    def refused(self, url: str, headers: Mapping[str, str], said: str, what: str) -> str:
        """Return what a 401 means, as sentences; `said` is the system's own, or empty."""
        first = ended(said or f"{what} answered 401")
        if not self.own(headers, said):
            return (
                f"{first} {self.title} does not answer so: another system, or a gateway with a sign-in of its own, is"
                f" at {url}. Is the site's url right?"
            )
        return f"{first} The token or password was refused. {self.renewal}".rstrip()


def is_page(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a body is a web page, which none of the services sends to a program, by its first characters.

    The content type alone proves nothing: PHP sets it for answers of all kinds, also empty ones.
    """
    start = body[:200].lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower()
    typed = "html" in headers.get("content-type", "").lower()
    return start.startswith((b"<!doctype html", b"<html")) or (typed and start.startswith(b"<"))


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    text = headers.get("retry-after")
    if text is None:
        return None
    if text.isdecimal() and text.isascii():
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - now_s(headers), 0.0)
    except (ValueError, OverflowError):
        return None


def now_s(headers: Mapping[str, str]) -> float:
    """Return the time by the server's clock, in seconds since 1970, or by ours, which may be wrong, without a date."""
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return time.time()
