"""Pages of the BaseSpace stand-in's lists: their order, their window and their filters.

Tests: sandbox/test_basespace_sandbox, sandbox/test_guide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request

from labfs.sandbox.basespace.answers import Refusal, query_of
from labfs.sandbox.basespace.shelf import Shelf
from labfs.sandbox.cost import prepare
from labfs.sandbox.store import Row

LARGEST_PAGE = 1024
# Of each list, the orders that it knows, the usual one first, and the column behind each.
ORDERS = {
    "": {"Id": "id", "Name": "name", "DateCreated": "created"},
    "files": {"Id": "id", "Path": "path", "DateCreated": "created"},
    "v2 files": {"Id": "id", "Path": "path", "DateCreated": "created", "Name": "name"},
    "datasets": {"DateCreated": "created", "Name": "name", "DateModified": "created"},
    "biosamples": {"Id": "id", "BioSampleName": "name"},  # recorded: `Name` is answered by `Id`
}
STATUS_OF_RECORD = "coalesce((SELECT status FROM sessions WHERE sessions.id = session), 'Complete')"


class Lists:
    """Answers one page at a time, as the request asks for it."""

    def __init__(self, shelf: Shelf) -> None:
        self._store = shelf.store
        self._switches = shelf.switches

    def page(
        self,
        request: Request,
        table: str,
        where: str,
        values: tuple[Any, ...],
        convert: Callable[[Row], Any],
        orders: str | None = None,
    ) -> dict[str, Any]:
        """Return one page; an order that the list does not know is silently replaced. `orders` is a key of `ORDERS`."""
        query = query_of(request)
        shown, column = self._order(ORDERS.get(orders or table, ORDERS[""]), query.get("sortby", "").lower())
        descending = query.get("sortdir", "Asc").lower() == "desc"
        offset, limit = self._window(query)
        order = f"ORDER BY {self._key(column)} {'DESC' if descending else 'ASC'}, id LIMIT ? OFFSET ?"
        rows = self._store.all(f"SELECT * FROM {table} WHERE {where} {order}", *values, limit, offset)
        prepare(len(rows))
        return {
            "Items": [convert(row) for row in rows],
            "DisplayedCount": len(rows),
            "TotalCount": self._store.count(f"SELECT count(*) FROM {table} WHERE {where}", *values),
            "Offset": offset,
            "Limit": limit,
            "SortDir": "Desc" if descending else "Asc",
            "SortBy": shown,
        }

    def _order(self, orders: Mapping[str, str], asked: str) -> tuple[str, str]:
        """Return the order that is used, as it is told, and its column."""
        if self._switches.sort_ignored:
            return "DateCreated", "created"
        shown = next((name for name in orders if name.lower() == asked), next(iter(orders)))
        return shown, orders[shown]

    def _key(self, column: str) -> str:
        """Sort dates as they are shown: what was made within a second is a tie, and the id breaks it."""
        return f"CAST(created * {10**self._switches.date_digits} AS INTEGER)" if column == "created" else column

    def _window(self, query: Mapping[str, str]) -> tuple[int, int]:
        try:
            offset, limit = int(query.get("offset", 0)), int(query.get("limit", self._switches.default_limit))
        except ValueError:
            raise Refusal(400, "Offset and Limit must be numbers.", "BASESPACE.COMMON.BAD_REQUEST") from None
        if limit > LARGEST_PAGE and self._switches.over_limit == "refuse":
            raise Refusal(400, f"Limit must be at most {LARGEST_PAGE}.", "BASESPACE.COMMON.BAD_REQUEST")
        limit = min(max(limit, 0), LARGEST_PAGE, self._switches.short_pages or LARGEST_PAGE)
        return max(offset, 0), limit

    # -- filters: a condition, and its values ----------------------------------------------------------

    def of_records(self, request: Request) -> tuple[str, tuple[str, ...]]:
        statuses = self._statuses(request)
        return (f" AND {_among(f'lower({STATUS_OF_RECORD})', statuses)}", statuses) if statuses else ("", ())

    def of_files(self, request: Request) -> tuple[str, tuple[str, ...]]:
        query, statuses = query_of(request), self._statuses(request)
        if not statuses:
            statuses = ("complete", "pending") if self._switches.pending_listed else ("complete",)
        where, values = f" AND {_among('status', statuses)}", statuses
        if query.get("extensions"):
            endings = [ending.strip() for ending in query["extensions"].split(",")]
            where += " AND (" + " OR ".join("name LIKE ?" for _ in endings) + ")"
            values += tuple(f"%{ending}" for ending in endings)
        if "directory" in query:
            directory = query["directory"].strip("/")
            where += " AND path = CASE WHEN ? = '' THEN name ELSE ? || '/' || name END"
            values += (directory, directory)
        return where, values

    def _statuses(self, request: Request) -> tuple[str, ...]:
        """Return the states that were asked for, in lower case; none for all that are usual."""
        if self._switches.statuses_ignored:
            return ()
        asked = query_of(request).get("statuses", "").lower().split(",")
        return tuple(status.strip() for status in asked if status.strip())


def _among(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join('?' * len(values))})"
