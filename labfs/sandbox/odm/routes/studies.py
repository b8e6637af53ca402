"""Studies: listed, searched, one with its versions, and changed.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from labfs.sandbox.cost import prepare
from labfs.sandbox.odm.answers import Item, Refusal, choice, flag, guess, json_of, moment, page, sliced, window
from labfs.sandbox.odm.filters import matcher
from labfs.sandbox.odm.shelf import DETAIL, FILE, STUDY, Caller, Shelf

if TYPE_CHECKING:
    from labfs.sandbox.store import Row

ALL = "kind = 'STUDY'"
SORTS = {"id": "number", "creation": "created", "last_update": "changed", "name": "name"}
SEARCH_PAGE = 1000


class Studies:
    """Handlers; the service has found out already who asks."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._switches = shelf.switches

    def _detail(self, request: Request) -> str | None:
        choice(request, "responseFormat", ("term_id",))
        return choice(request, "returnedMetadataFields", DETAIL)

    def _note(self, caller: Caller, rows: list[Row]) -> None:
        if self._switches.audit_listing and rows:
            self._shelf.note(caller, "study listed", [row["number"] for row in rows])

    async def several(self, request: Request, caller: Caller) -> Response:
        detail, asked, shelf = self._detail(request), request.query_params, self._shelf
        test = matcher(asked.get("filter"), asked.get("query"), flag(request, "searchSpecificTerms"))
        offset, limit = window(request, self._switches)
        order = _order(asked.get("sort", "id"))
        if test is None:
            rows = shelf.rows(caller, ALL, order=order, window=(offset, limit))
            total = shelf.count(caller, ALL)
        else:
            found = [row for row in shelf.rows(caller, ALL, order=order) if test(shelf.item(row))]
            rows, total = found[offset : offset + limit], len(found)
        self._note(caller, rows)
        items = [shelf.study_item(row, caller, detail) for row in rows]
        return page(request, self._switches, items, total, offset, limit)

    async def one(self, request: Request, caller: Caller) -> Response:
        detail = self._detail(request)
        row = self._shelf.find(request.path_params["id"], caller, STUDY)
        return JSONResponse(self._shelf.study_item(row, caller, detail))

    async def of_file(self, request: Request, caller: Caller) -> Response:
        detail = self._detail(request)
        try:
            file = self._shelf.find(request.path_params["id"], caller, FILE)
        except Refusal as refusal:
            raise Refusal(self._switches.unknown_file_status, refusal.message) from None
        row = self._shelf.find(f"GSF{file['study']}", caller, STUDY)
        return JSONResponse(self._shelf.study_item(row, caller, detail))

    async def by_files(self, request: Request, caller: Caller) -> Response:
        """Answer the studies of the files that a filter finds in the index."""
        detail, asked, shelf = self._detail(request), request.query_params, self._shelf
        test = matcher(asked.get("filter"), asked.get("query"))
        files = shelf.rows(caller, "kind = 'FILE'", lag=self._switches.index_lag_s)
        found = {row["study"] for row in files if test is None or test(shelf.item(row))}
        rows = [row for row in shelf.rows(caller, ALL) if row["number"] in found]
        return sliced(request, self._switches, rows, lambda row: shelf.study_item(row, caller, detail))

    async def search(self, request: Request, caller: Caller) -> Response:
        """Answer the full-text search, whose body and answer have a form of their own."""
        asked = await json_of(request)
        window = asked.get("page") or {}
        offset, limit = window.get("offset", 0), window.get("limit", SEARCH_PAGE)
        if not all(isinstance(number, int) and number >= 0 for number in (offset, limit)):
            raise Refusal(400, "offset and limit must be numbers.")
        tests = [_search_test(each) for each in asked.get("filters") or []]
        rows = self._shelf.rows(caller, ALL)
        found = [row for row in rows if all(test is None or test(self._shelf.item(row)) for test in tests)]
        shown = found[offset : offset + limit]
        self._note(caller, shown)
        prepare(len(shown))
        content = [self._found(row, caller) for row in shown]
        echo = {"offset": offset, "limit": limit}
        return JSONResponse({
            "objectsPage": {"filteredCount": len(found), "pageRequest": echo, "content": content},
            "filterOptionGroups": [],
        })  # fmt: skip

    def _found(self, row: Row, caller: Caller) -> Item:
        return {
            "accession": f"GSF{row['number']}",
            "name": row["name"],
            "owner": self._shelf.email(row["owner"]),
            "fileCreation": moment(row["created"]),
            "size": self._shelf.count(caller, "kind = 'SAMPLE_OBJECT' AND study = ?", row["number"]),
        }

    # -- versions ----------------------------------------------------------------------------------------

    async def versions(self, request: Request, caller: Caller) -> Response:
        row = self._shelf.find(request.path_params["id"], caller, STUDY)
        sql = "SELECT * FROM odm_versions WHERE study = ? ORDER BY version DESC"
        factor = 1000 if self._switches.version_time == "ms" else 1
        return JSONResponse([
            {"author": each["author"], "message": each["message"], "timestamp": int(each["timestamp"] * factor),
             "version": str(each["version"])}
            for each in self._store.all(sql, row["number"])
        ])  # fmt: skip

    async def version(self, request: Request, caller: Caller) -> Response:
        row = self._shelf.find(request.path_params["id"], caller, STUDY)
        name = request.path_params["version"]
        sql = "SELECT attributes FROM odm_versions WHERE study = ? AND version = ?"
        found = self._store.one(sql, row["number"], int(name)) if name.isdecimal() and len(name) < 10 else None
        if found is None:
            raise Refusal(404, f"Study GSF{row['number']} has no version {name}.")
        item = self._shelf.item(row)
        kept = {key: value for key, value in item.items() if key.startswith("genestack:")}
        return JSONResponse({**kept, **json.loads(found["attributes"])})

    async def change(self, request: Request, caller: Caller) -> Response:
        """Set attributes, each to the value that its text looks like; null removes one."""
        row = self._shelf.find(request.path_params["id"], caller, STUDY)
        wanted: dict[str, Any] = await json_of(request)
        fixed = [key for key in wanted if key.startswith("genestack:")]
        if fixed or any(isinstance(value, dict) for value in wanted.values()):
            raise Refusal(400, f"The attribute {fixed[0]} cannot be changed." if fixed else "A value cannot be a map.")
        attributes = {**json.loads(row["attributes"]), **{key: guess(value) for key, value in wanted.items()}}
        attributes = {key: value for key, value in attributes.items() if key not in wanted or value is not None}
        title = attributes.get("Study Title")
        with self._store.transaction():
            self._store.run(
                "UPDATE odm_objects SET attributes = ?, name = ?, changed = ? WHERE number = ?",
                json.dumps(attributes), row["name"] if title is None else str(title), time.time(), row["number"],
            )  # fmt: skip
            self._shelf.add_version(row["number"], caller.email, "Edited", time.time(), attributes)
        return await self.one(request, caller)


def _order(sort: str) -> str:
    """Return the order of `name`, `+name` or `-name`; an unescaped plus arrives as a space."""
    column = SORTS.get(sort.lstrip(" +-"))
    if column is None or len(sort) - len(sort.lstrip(" +-")) > 1:
        raise Refusal(400, f"Cannot sort by “{sort}”; known are {', '.join(SORTS)}.")
    return f"{column} DESC" if sort.startswith("-") else column


def _search_test(each: Any) -> Any:
    if not isinstance(each, dict) or each.get("type") != "FULL_TEXT" or not isinstance(each.get("match"), str):
        raise Refusal(400, "A filter must be of the type FULL_TEXT and have a match.")
    mode = each.get("mode", "STRICT")
    if mode not in ("STRICT", "USE_NARROWER_TERMS"):
        raise Refusal(400, "mode must be STRICT or USE_NARROWER_TERMS.")
    return matcher(None, each["match"], mode != "STRICT")
