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
from labfs.errors.secrecy import hidden

log = logging.getLogger(__name__)

# No route to an address: the error of IPv6 addresses on a machine without IPv6, whatever IPv4 answers.
ABSENT = "Name or service not known"  # what getaddrinfo says of a name that does not exist
NOWHERE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
RESET = "the connection was cut"
ENDED = "the connection ended in the middle of it"
# What is in messages of the libraries that quote nothing of a request → what it means.
HARMLESS = {
    "Server disconnected without sending a response": RESET,
    "peer closed connection without sending complete message body": ENDED,
    ABSENT: ABSENT,
    "Temporary failure in name resolution": "Temporary failure in name resolution",
    "connection closed before message completed": ENDED,
    "end of file before message length reached": ENDED,
    "unexpected EOF during chunk size line": ENDED,
    "connection reset": RESET,
    "unexpected end of file": ENDED,
    "incorrect header check": "it is packed, and damaged",
}


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
    unreachable = Unavailable(sentence, silent=True, plain=hint is not None)
    return unreachable.advised("") if hint else unreachable  # a hint tells what to do


def _cause(error: BaseException) -> str:
    """Return the innermost cause as text that quotes nothing of a request or an answer."""
    while within := _within(error):
        error = within
    if isinstance(error, ssl.SSLError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno and not isinstance(error, socket.gaierror):  # whose codes are no errnos
            return _plain(error.errno)
        return error.strerror or type(error).__name__
    said = f"{error} {getattr(error, 'details', None) or ''}"
    number = re.search(r"\(os error ([0-9]{1,4})\)", said)
    if number:
        return _plain(int(number[1]))
    return next((plain for words, plain in HARMLESS.items() if words in said), type(error).__name__)


def _plain(number: int) -> str:
    """Return an errno in words."""
    return RESET if number == errno.ECONNRESET else os.strerror(number)


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


# What to do about a refusal, by status; {site} is the site's name. A 401 is explained by `Login`.
BAD_REQUEST = f"It takes the request for wrong ({{status}}), and would again; {Malformed.remedy}"
BEHIND = "What stands before the server has no answer of it ({status}); try again later."
UNKNOWN = "The server does not know such a request ({status}); is the site's url right?"
CHANGED = "It was changed on the server meanwhile ({status}); open it again."
REMEDIES = {
    403: "The account has no right to that (403); whoever manages {site} can give it.",
    404: "It is not there, or not any more (404); labfs refresh PATH asks for the folder anew.",
    405: UNKNOWN,
    408: "The server waited in vain for the whole request (408); try again.",
    409: "Something on the server is in its way (409); labfs refresh PATH shows what is there.",
    410: "It was removed on the server (410); labfs refresh PATH asks for the folder anew.",
    412: CHANGED,
    413: "That is more than the server takes (413); a smaller file may do, or whoever runs {site} raises the limit.",
    416: CHANGED,
    429: "It wants fewer requests (429); try again in a minute.",
    500: "The server failed over it (500); try again later, and tell whoever runs {site} if it goes on.",
    501: UNKNOWN,
    503: "The server asks for a pause (503), for maintenance perhaps; try again later.",
    505: UNKNOWN,
    507: "The server has no room left (507); whoever runs {site} can make some.",
}
REQUEST_IDS = ("x-request-id", "x-amz-request-id")  # headers by which the people of a service find a request


def refusal(
    status: int, headers: Mapping[str, str], what: str, reason: str, *, page: bool = False, rights: str = ""
) -> LabfsError:
    """Return the error that an unsuccessful answer means, with its remedy; `rights` is the system's own for a 403.

    `page` says that the answer's body is a web page.

    A 500 with the service's own sentence is definite. A proxy or gateway answers 502, 504 or 520 to 530 when it timed
    out, and 503 with a web page when it lost its connection, while the service may still work on the request.
    """
    error = _meant(status, headers, what, reason, page)
    error.status = status
    if status == 401:
        return error  # whose sentence itself tells what to do
    remedy = _remedy(status, page, rights, error.remedy).format(status=status, site=what.partition(":")[0])
    return error.advised(f"{remedy} {_request_id(headers)}".strip())


def _remedy(status: int, page: bool, rights: str, usual: str) -> str:
    if status < 400:
        return usual
    if status == 403 and rights:
        return rights
    if status in REMEDIES and not (status == 503 and page):
        return REMEDIES[status]
    return BEHIND if status >= 500 else BAD_REQUEST


def _request_id(headers: Mapping[str, str]) -> str:
    """Return a sentence with the number by which the service's people find a request; empty if there is none."""
    number = next((headers[name] for name in REQUEST_IDS if headers.get(name)), "")
    return f"The request's id is {hidden(number)}." if re.fullmatch(r"[\w.:=/+-]{1,100}", number) else ""


def _meant(status: int, headers: Mapping[str, str], what: str, reason: str, page: bool) -> LabfsError:
    """Return the error of a status, without a remedy of its own."""
    sentence, wish = ended(reason or f"{what} answered {status}"), _retry_after_s(headers)
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
    rights: str = ""  # what to do where an account lacks a right, as a sentence; empty for the usual

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
