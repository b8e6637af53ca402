"""What the ODM stand-in answers, and how it reads what it is asked.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import re
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from labfs.sandbox.cost import prepare
from labfs.sandbox.odm.switches import Switches

LARGEST_PAGE = 2000
FARTHEST = 2**53  # offset, as far as every number format goes
TSV = "text/tab-separated-values"
TITLES = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    406: "Not Acceptable", 409: "Conflict", 413: "Payload Too Large", 416: "Range Not Satisfiable",
    429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip
Item = dict[str, Any]
# No more digits than a double holds, and none that would be lost: 007 stays a text.
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d{1,15})?([eE][+-]?\d{1,2})?")


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def error(status: int, message: str, form: str) -> Response:
    """Return an error in one of the forms that the sources show for some route or other."""
    if form == "problem":
        problem = {"type": "about:blank", "title": TITLES.get(status, "Error"), "status": status, "detail": message}
        return JSONResponse(problem, status, media_type="application/problem+json")
    if form == "text":
        return Response(message, status, media_type="text/plain")
    if form == "empty":
        return Response(status_code=status)
    return JSONResponse({"error": {"message": message}}, status)


def moment(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def job_moment(seconds: float) -> str:
    """Return a time as jobs tell it: a space, and no zone."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def guess(text: Any) -> Any:
    """Return the value that a text looks like, as the service guesses it."""
    if not isinstance(text, str):
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _NUMBER.fullmatch(text):
        return float(text) if set(text) & set(".eE") else int(text)
    return text or None


def flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "false"):
        raise Refusal(400, f"{name} must be true or false.")
    return value == "true"


def choice(request: Request, name: str, known: tuple[str, ...]) -> str | None:
    value = request.query_params.get(name)
    if value is not None and value not in known:
        raise Refusal(400, f"{name} must be one of {', '.join(known)}.")
    return value


def window(
    request: Request,
    switches: Switches,
    names: tuple[str, str] = ("pageOffset", "pageLimit"),
    limit: int = LARGEST_PAGE,
) -> tuple[int, int]:
    """Return offset and limit, both in items."""
    asked = request.query_params
    try:
        offset, limit = int(asked.get(names[0], 0)), int(asked.get(names[1], limit))
    except ValueError:
        raise Refusal(400, f"{names[0]} and {names[1]} must be numbers.") from None
    if switches.over_limit == "clamp":
        return min(max(offset, 0), FARTHEST), min(max(limit, 0), LARGEST_PAGE)
    if not 0 <= offset <= FARTHEST or not 0 <= limit <= LARGEST_PAGE:
        raise Refusal(400, f"{names[1]} must be between 0 and {LARGEST_PAGE}, {names[0]} at least 0.")
    return offset, limit


async def json_of(request: Request, kind: type = dict) -> Any:
    try:
        found = json.loads(await request.body())
    except ValueError:
        raise Refusal(400, "The body is not valid JSON.") from None
    if not isinstance(found, kind):
        raise Refusal(400, "The body is not what this route takes.")
    return found


def page(request: Request, switches: Switches, items: list[Item], total: int, offset: int, limit: int) -> Response:
    """Answer a page of a list, as JSON or, for who asks for nothing else, as TSV."""
    prepare(len(items))
    if wants_tsv(request):
        return tabular(items, switches)
    pagination = {"count": len(items), "total": total, "offset": offset, "limit": limit}
    body: dict[str, Any] = {"meta": {"pagination": pagination}, "data": items}
    if switches.exhausted_key:
        body["resultsExhausted"] = offset + len(items) >= total
    return JSONResponse(body)


def sliced(request: Request, switches: Switches, rows: list[Any], show: Callable[[Any], Item]) -> Response:
    """Answer the page that is asked for of a list that is at hand."""
    offset, limit = window(request, switches)
    return page(request, switches, [show(row) for row in rows[offset : offset + limit]], len(rows), offset, limit)


def plain(request: Request, switches: Switches, items: list[Item]) -> Response:
    """Answer a bare array."""
    prepare(len(items))
    return tabular(items, switches) if wants_tsv(request) else JSONResponse(items)


def wants_tsv(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return TSV in accepted and "json" not in accepted


def tabular(items: list[Item], switches: Switches) -> Response:
    columns = list(dict.fromkeys(key for item in items for key in item))
    if switches.tsv_columns == "sorted":
        columns.sort()
    out = io.StringIO()
    writer = csv.writer(out, csv.excel_tab, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(item.get(column), switches.tsv_missing) for column in columns] for item in items)
    return Response(out.getvalue(), media_type=TSV)


def _cell(value: Any, missing: str) -> str:
    if value is None:
        return missing
    if isinstance(value, list):
        return "|".join(str(part) for part in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def records_of(table: bytes) -> list[Item]:
    """Return the records of a TSV with a header row, at least one. Raises Refusal."""
    try:
        rows = [row for row in csv.reader(io.StringIO(table.decode()), csv.excel_tab) if any(row)]
    except (UnicodeDecodeError, csv.Error):
        raise Refusal(400, "The metadata file is not a TSV in UTF-8.") from None
    if len(rows) < 2 or any(len(row) > len(rows[0]) for row in rows) or not all(rows[0]):
        raise Refusal(400, "The metadata file must contain a header row and a record.")
    return [{key: guess(value) for key, value in zip(rows[0], row, strict=False)} for row in rows[1:]]


def record_of(table: bytes) -> Item:
    """Return the one record of a TSV with a header row. Raises Refusal."""
    records = records_of(table)
    if len(records) != 1:
        raise Refusal(400, "The metadata file must contain a header row and a single record.")
    return records[0]
