"""What the Portal stand-in answers: JSON, pages, errors, and the choice between JSON and HTML.

Tests: sandbox/test_portal_sandbox, sandbox/test_portal_truths.
"""

from __future__ import annotations

import datetime as dt
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

PAGE = 10
NOT_FOUND = {"detail": "Not found."}
FORBIDDEN = {"detail": "You do not have permission to perform this action."}
ANONYMOUS = {"detail": "Authentication credentials were not provided."}
REASONS = {413: "Request Entity Too Large", 502: "Bad Gateway", 503: "Service Temporarily Unavailable",
           504: "Gateway Time-out"}  # fmt: skip

T = TypeVar("T")


class Answer(JSONResponse):
    """Compact JSON with the header that all answers of the framework carry."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers({"Vary": "Accept, Origin", "X-Frame-Options": "SAMEORIGIN", **(headers or {})})


class Refusal(Exception):
    """An answer of the framework that is no success."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(body))
        self.status, self.body, self.headers = status, body, headers


class Broken(Exception):
    """The real program fails here without an answer of its own: a bare page with status 500."""


def unauthorized(detail: str) -> Refusal:
    return Refusal(401, {"detail": detail}, {"WWW-Authenticate": "Token"})


def server_error() -> Response:
    return HTMLResponse("<h1>Server Error (500)</h1>", 500)


def no_such_page() -> Response:
    text = "<h1>Not Found</h1><p>The requested resource was not found on this server.</p>"
    return HTMLResponse(text, 404)


def proxy_error(status: int) -> Response:
    """Return a page of the proxy in front of the program."""
    title = f"{status} {REASONS[status]}"
    return HTMLResponse(
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n",
        status,
    )


def error(status: int) -> Response:
    """Return the error that a client would most likely see with this status."""
    if status in REASONS:
        return proxy_error(status)
    if status >= 500:
        return server_error()
    details = {400: {"detail": "Malformed request."}, 401: ANONYMOUS, 404: NOT_FOUND,
               429: {"detail": "Request was throttled."}}  # fmt: skip
    headers = {"WWW-Authenticate": "Token"} if status == 401 else None
    return Answer(details.get(status, FORBIDDEN), status, headers)


def moment(microseconds: int) -> str:
    """Return a time as the framework writes it: UTC, no fraction when it is 0."""
    whole, rest = divmod(microseconds, 1_000_000)
    text = dt.datetime.fromtimestamp(whole, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{rest:06d}Z" if rest else f"{text}Z"


# -- pages -----------------------------------------------------------------------------------------------


def page(request: Request, rows: Sequence[T], convert: Callable[[Sequence[T]], list[Any]]) -> Response:
    """Answer one page of rows. A limit has no maximum; a senseless one is the default."""
    limit = _number(request.query_params.get("limit"), least=1, default=PAGE)
    offset = _number(request.query_params.get("offset"), least=0, default=0)
    body: dict[str, Any] = {"count": len(rows), "next": None, "previous": None}
    if offset + limit < len(rows):
        body["next"] = _address(request, limit, offset + limit)
    if offset > 0:
        body["previous"] = _address(request, limit, offset - limit)
    return Answer({**body, "results": convert(rows[offset : offset + limit])})


def _number(text: str | None, least: int, default: int) -> int:
    try:
        found = int(text or "")
    except ValueError:
        return default
    return found if found >= least else default


def _address(request: Request, limit: int, offset: int) -> str:
    query = parse_qs(request.url.query, keep_blank_values=True)
    query["limit"] = [str(limit)]
    query.pop("offset", None)
    if offset > 0:
        query["offset"] = [str(offset)]
    return str(request.url.replace(query=urlencode(sorted(query.items()), doseq=True)))


# -- formats ---------------------------------------------------------------------------------------------


def wants_html(request: Request) -> bool:
    """Tell which of the two formats the request accepts; JSON is the first. Raises Refusal for neither."""
    accepted = [part.split(";")[0].strip() for part in request.headers.get("accept", "*/*").split(",")]
    exact = [kind for kind in accepted if "*" not in kind]
    families = [kind for kind in accepted if kind.endswith("/*") and kind != "*/*"]
    for group in (exact, families):
        for kind in ("application/json", "text/html"):
            if kind in group or f"{kind.split('/')[0]}/*" in group:
                return kind == "text/html"
    if "*/*" in accepted:
        return False
    raise Refusal(406, {"detail": "Could not satisfy the request Accept header."})


def browsable(answer: Response) -> Response:
    """Return an answer as the page that a browser is shown."""
    text = html.escape(bytes(answer.body).decode())
    page = f"<!DOCTYPE html>\n<html><body><pre>HTTP {answer.status_code}\n\n{text}</pre></body></html>\n"
    kept = {name: value for name, value in answer.headers.items() if name not in ("content-length", "content-type")}
    return HTMLResponse(page, answer.status_code, kept)
