"""What a failed request means: HTTP statuses and the errors of both HTTP libraries → `labfs.errors`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import httpx
from pyreqwest.exceptions import PyreqwestError

from labfs import errors
from labfs.errors import LabfsError, Malformed, Unanswered, Unavailable


@contextmanager
def translated(what: str) -> Iterator[None]:
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


def refusal(status: int, headers: Mapping[str, str], what: str, reason: str) -> LabfsError:
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
        return max(parsedate_to_datetime(text).timestamp() - now_s(headers), 0.0)
    except (ValueError, OverflowError):
        return None


def now_s(headers: Mapping[str, str]) -> float:
    """Return the time by the server's clock where it tells it, in seconds since 1970: ours may be wrong."""
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return time.time()
