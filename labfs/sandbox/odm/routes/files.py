"""Attached files as a client reads about them: one, those of a study, or those that a filter finds.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from labfs.sandbox.odm.answers import flag, page, plain, sliced, window
from labfs.sandbox.odm.filters import matcher
from labfs.sandbox.odm.shelf import FILE, ORDERS, STUDY, Caller, Shelf

if TYPE_CHECKING:
    from labfs.sandbox.store import Row

ALL = "kind = 'FILE'"


class Files:
    """Handlers; the service has found out already who asks."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._switches = shelf.switches

    async def several(self, request: Request, caller: Caller) -> Response:
        """Answer a page of what the index knows of all files."""
        inside, test = (
            flag(request, "includeContents"),
            matcher(request.query_params.get("filter"), request.query_params.get("query")),
        )
        shelf, lag, order = self._shelf, self._switches.index_lag_s, ORDERS[self._switches.file_order]
        offset, limit = window(request, self._switches)
        if test is None:
            rows = shelf.rows(caller, ALL, order=order, lag=lag, window=(offset, limit))
            items = [shelf.file_item(row, inside) for row in rows]
            return page(request, self._switches, items, shelf.count(caller, ALL, lag=lag), offset, limit)
        found: list[Row] = [row for row in shelf.rows(caller, ALL, order=order, lag=lag) if test(shelf.item(row))]
        return sliced(request, self._switches, found, lambda row: shelf.file_item(row, inside))

    async def one(self, request: Request, caller: Caller) -> Response:
        inside = flag(request, "includeContents")
        row = self._shelf.find(request.path_params["id"], caller, FILE)
        return JSONResponse(self._shelf.file_item(row, inside))

    async def of_study(self, request: Request, caller: Caller) -> Response:
        inside = flag(request, "includeContents")
        study = self._shelf.find(request.path_params["id"], caller, STUDY)
        rows = self._shelf.files_of(study["number"], caller)
        return plain(request, self._switches, [self._shelf.file_item(row, inside) for row in rows])
