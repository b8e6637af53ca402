"""What hangs below a study besides files: samples, libraries and preparations in groups, and links.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from labfs.sandbox.odm.answers import Item, Refusal, json_of, page, plain, sliced, window
from labfs.sandbox.odm.shelf import FILE, GROUPS, STUDY, Caller, Shelf
from labfs.sandbox.store import Row

# How links name the kinds of objects.
TYPES = {
    "study": STUDY, "file": FILE, "sampleGroup": "SAMPLE_GROUP", "sample": "SAMPLE_OBJECT",
    "libraryGroup": "LIBRARY_GROUP", "library": "LIBRARY_OBJECT",
    "preparationGroup": "PREPARATION_GROUP", "preparation": "PREPARATION_OBJECT",
}  # fmt: skip
NAMES = {kind: name for name, kind in TYPES.items()}
LINKABLE = (
    {"sampleGroup", "study"}, {"sample", "study"}, {"sampleGroup", "libraryGroup"}, {"sampleGroup", "preparationGroup"},
    {"sample", "library"}, {"sample", "preparation"},
)  # fmt: skip
LINKS_PAGE = 1000
_KEYS = ("firstId", "firstType", "secondId", "secondType")


class Groups:
    """Handlers; the service has found out already who asks."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._switches = shelf.switches

    async def samples_of_study(self, request: Request, caller: Caller) -> Response:
        study = self._shelf.find(request.path_params["id"], caller, STUDY)
        rows = self._shelf.rows(caller, "kind = 'SAMPLE_OBJECT' AND study = ?", study["number"])
        return sliced(request, self._switches, rows, self._shelf.item)

    async def groups_of_study(self, request: Request, caller: Caller) -> Response:
        group, _ = _kinds(request)
        study = self._shelf.find(request.path_params["id"], caller, STUDY)
        rows = self._shelf.rows(caller, "kind = ? AND study = ?", group, study["number"])
        return JSONResponse([{"itemId": f"GSF{row['number']}", "metadata": self._shelf.item(row)} for row in rows])

    async def members_of_sample(self, request: Request, caller: Caller) -> Response:
        _, member = _kinds(request)
        sample = self._shelf.find(request.path_params["id"], caller, "SAMPLE_OBJECT")
        linked = "kind = ? AND number IN (SELECT second FROM odm_links WHERE first = ?)"
        rows = self._shelf.rows(caller, linked, member, sample["number"])
        return plain(request, self._switches, [self._shelf.item(row) for row in rows])

    async def members_of_group(self, request: Request, caller: Caller) -> Response:
        group, member = _kinds(request)
        row = self._shelf.find(request.path_params["id"], caller, group)
        rows = self._shelf.rows(caller, "kind = ? AND parent = ?", member, row["number"])
        return sliced(request, self._switches, rows, self._shelf.item)

    # -- links -------------------------------------------------------------------------------------------

    async def links(self, request: Request, caller: Caller) -> Response:
        asked = {key: request.query_params[key] for key in _KEYS if key in request.query_params}
        for key in ("firstType", "secondType"):
            if key in asked and asked[key] not in TYPES:
                raise Refusal(400, f"{key} must be one of {', '.join(TYPES)}.")
        if "firstId" not in asked:
            raise Refusal(400, "firstId is mandatory.")
        first = self._shelf.find(asked["firstId"], caller)
        records = [_record(first, other) for other in self._neighbours(first, caller)]
        found = [record for record in records if all(record[key] == value for key, value in asked.items())]
        offset, limit = window(request, self._switches, ("offset", "limit"), LINKS_PAGE)
        return page(request, self._switches, found[offset : offset + limit], len(found), offset, limit)

    def _neighbours(self, row: Row, caller: Caller) -> list[Row]:
        """Return what an object is linked to: by a link, or by the place at which it was imported."""
        number = row["number"]
        linked = "SELECT second FROM odm_links WHERE first = ? UNION SELECT first FROM odm_links WHERE second = ?"
        where = f"(number IN ({linked}) OR parent = ? OR number = ?)"
        return self._shelf.rows(caller, where, number, number, number, row["parent"])

    async def adopt(self, request: Request, caller: Caller) -> Response:
        """Bring a group of samples, and what is in it, into a study."""
        group = self._shelf.find(request.path_params["group"], caller, "SAMPLE_GROUP")
        study = self._shelf.find(request.path_params["study"], caller, STUDY)
        if group["study"] is not None:
            raise Refusal(409, f"{request.path_params['group']} is linked already.")
        with self._store.transaction():
            self._adopt(study["number"], group["number"])
        return Response(status_code=self._switches.linked_status)

    def _adopt(self, study: int, group: int) -> None:
        self._store.run("UPDATE odm_objects SET study = ?1, parent = ?1 WHERE number = ?2", study, group)
        self._store.run("UPDATE odm_objects SET study = ? WHERE parent = ?", study, group)

    async def link(self, request: Request, caller: Caller) -> Response:
        wanted = await json_of(request, list)
        pairs = [self._pair(record, caller) for record in wanted]
        with self._store.transaction():
            for first, second in pairs:
                if first["kind"] == STUDY and second["kind"] == "SAMPLE_GROUP" and second["study"] is None:
                    self._adopt(first["number"], second["number"])
                self._store.run("INSERT INTO odm_links VALUES (?, ?)", first["number"], second["number"])
        return Response(status_code=self._switches.linked_status)

    def _pair(self, record: Any, caller: Caller) -> tuple[Row, Row]:
        """Return the two objects of a link to be made, the broader one first. Raises Refusal."""
        if not isinstance(record, dict) or any(not isinstance(record.get(key), str) for key in _KEYS):
            raise Refusal(400, f"A link needs {', '.join(_KEYS)}.")
        types = {record["firstType"], record["secondType"]}
        if types not in LINKABLE:
            raise Refusal(400, f"Objects of the types {' and '.join(sorted(types))} cannot be linked.")
        rows = []
        for end in ("first", "second"):
            row = self._shelf.find(record[f"{end}Id"], caller)
            if NAMES[row["kind"]] != record[f"{end}Type"]:
                raise Refusal(400, f"{record[f'{end}Id']} is no {record[f'{end}Type']}.")
            rows.append(row)
        if any(other["number"] == rows[1]["number"] for other in self._neighbours(rows[0], caller)):
            raise Refusal(409, f"{record['firstId']} and {record['secondId']} are linked already.")
        broad = list(TYPES)
        first, second = sorted(rows, key=lambda row: broad.index(NAMES[row["kind"]]))
        return first, second


def _kinds(request: Request) -> tuple[str, str]:
    """Return the kinds of group and member that a route speaks of."""
    word = {"libraries": "library", "preparations": "preparation"}.get(
        request.path_params["sort"], request.path_params["sort"]
    )
    group = f"{word.upper()}_GROUP"
    if group not in GROUPS or word == "sample":
        raise Refusal(404, f"There is nothing at {request.url.path}.")
    return group, GROUPS[group]


def _record(first: Row, second: Row) -> Item:
    return {
        "firstId": f"GSF{first['number']}", "firstType": NAMES[first["kind"]],
        "secondId": f"GSF{second['number']}", "secondType": NAMES[second["kind"]],
    }  # fmt: skip
