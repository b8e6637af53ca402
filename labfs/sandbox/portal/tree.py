"""What leads to the attachments of the Portal stand-in: users, organizations, materials, requests, search.

Tests: sandbox/test_portal_sandbox, sandbox/test_portal_truths.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from labfs.sandbox.portal.answers import ANONYMOUS, FORBIDDEN, NOT_FOUND, Answer, Broken, Refusal, page, unauthorized
from labfs.sandbox.portal.forms import fields_of
from labfs.sandbox.portal.shelf import DETAILS, Shelf
from labfs.sandbox.portal.views import Views
from labfs.sandbox.store import Row

CATEGORIES = ("CELL_LINE", "PLASMID", "PROTOCOL", "DATASET", "MODEL_ORGANISM", "PDX", "OTHER")
SOURCES = ("GEO", "SRA", "DBGAP", "DATASET", "PROTOCOLS_IO", "ADDGENE", "JACKSON_LABS", "ATCC", "ZIRC", "OTHER")
STATES = ("OPEN", "APPROVED", "IN_FULFILLMENT", "FULFILLED", "VERIFIED_FULFILLED", "REJECTED", "INVALID", "CANCELLED")
MATERIAL_FILTERS: dict[str, Any] = {
    "id": "number", "category": CATEGORIES, "pubmed_id": "text", "is_archived": "box", "needs_irb": "box",
    "needs_abstract": "box", "imported": "box", "import_source": SOURCES, "pre_print_doi": "text",
    "organization__id": "number",
}  # fmt: skip
REQUEST_FILTERS: dict[str, Any] = {
    "id": "number", "status": STATES, "requester__id": "uuid", "assigned_to__id": "uuid",
    "is_active_requester": "box", "is_active_sharer": "box",
}  # fmt: skip
# Field → column, and whether the requester sets it; the sharer sets the others.
DOCUMENTS = {
    "irb_attachment": ("irb", True),
    "requester_signed_mta_attachment": ("signed", True),
    "executed_mta_attachment": ("executed", False),
}
NOT_YOURS_TO_ADD = "The current user is not authorized for the specified attachment."
NOT_YOURS_TO_REMOVE = "Only the owner may remove members from an organization, unless the member is removing themself."
NEWEST = "created DESC, id DESC"


def _wanted(request: Request, filters: dict[str, Any]) -> dict[str, Any]:
    """Return the values that the query filters by. Raises Refusal for those that make no sense."""
    found: dict[str, Any] = {}
    problems: dict[str, list[str]] = {}
    for name, kind in filters.items():
        text = request.query_params.get(name, "")
        if not text:
            continue
        try:
            found[name] = _value(kind, text)
        except ValueError as problem:
            problems[name] = [str(problem)]
    if problems:
        raise Refusal(400, problems)
    return {name: value for name, value in found.items() if value is not None}


def _value(kind: Any, text: str) -> Any:
    """Read one value; None is one that is silently ignored."""
    if kind == "number":
        try:
            return float(text)
        except ValueError:
            raise ValueError("Enter a number.") from None
    if kind == "uuid":
        try:
            return str(uuid.UUID(text))
        except ValueError:
            raise ValueError("Enter a valid UUID.") from None
    if kind == "box":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())
    if kind != "text" and text not in kind:
        raise ValueError(f"Select a valid choice. {text} is not one of the available choices.")
    return text


def _filtered(rows: Sequence[Row], wanted: dict[str, Any], field: Callable[[Row], dict[str, Any]]) -> list[Row]:
    if not wanted:
        return list(rows)
    return [row for row in rows if wanted.items() <= {name: field(row)[name] for name in wanted}.items()]


class Tree:
    """Handlers; `user` is None for a call without a token where none is needed."""

    def __init__(self, shelf: Shelf, views: Views) -> None:
        self._shelf = shelf
        self._views = views

    def _each(self, convert: Callable[[Row], Any]) -> Callable[[Sequence[Row]], list[Any]]:
        return lambda rows: [convert(row) for row in rows]

    # -- users and organizations -------------------------------------------------------------------------

    async def users(self, request: Request, user: Row) -> Response:
        where = "1" if self._shelf.switches.anonymous_user else "first || last != ''"
        rows = self._shelf.all("users", where, order="created")
        return page(request, rows, self._each(lambda row: self._views.user(row, user)))

    async def user(self, request: Request, user: Row) -> Response:
        return Answer(self._views.user(self._shelf.get("users", request.path_params["id"].lower()), user))

    async def user_organizations(self, request: Request, user: Row) -> Response:
        try:
            whose = str(uuid.UUID(request.path_params["id"]))
        except ValueError:
            raise Broken from None
        rows = self._shelf.organizations_of(whose, order=NEWEST)
        return page(request, rows, self._each(self._views.organization_short))

    async def organizations(self, request: Request, user: Row) -> Response:
        rows = self._shelf.all("organizations", order="updated, id")
        return page(request, rows, self._each(self._views.organization))

    async def organization(self, request: Request, user: Row) -> Response:
        return Answer(self._views.organization_detail(self._shelf.get("organizations", request.path_params["id"])))

    async def organization_materials(self, request: Request, user: Row | None) -> Response:
        rows = self._shelf.all("materials", "organization = ?", request.path_params["id"], order=NEWEST)
        return page(request, rows, self._each(self._views.material_short))

    async def organization_material(self, request: Request, user: Row | None) -> Response:
        row = self._shelf.get("materials", request.path_params["material"])
        if str(row["organization"]) != request.path_params["id"]:
            raise Refusal(404, NOT_FOUND)
        raise Refusal(405, {"detail": "Cannot get single Material by Organization."})

    # -- members -----------------------------------------------------------------------------------------

    def _team(self, request: Request, user: Row) -> Row:
        """Return the organization of a path, of which the caller must be a member."""
        row = self._shelf.find("organizations", request.path_params["id"])
        if row is None:
            raise Broken
        if not self._shelf.is_member(row["id"], user["id"]):
            raise Refusal(403, FORBIDDEN)
        return row

    async def members(self, request: Request, user: Row) -> Response:
        rows = self._views.members(self._team(request, user)["id"], order=NEWEST)
        return page(request, rows, self._each(self._views.user_short))

    async def member(self, request: Request, user: Row) -> Response:
        self._team(request, user)
        raise Refusal(405, {"detail": "Cannot get single User by Organization."})

    async def remove_member(self, request: Request, user: Row) -> Response:
        """Take a member out; the owner takes over the materials of which that one was the contact."""
        team, leaving = self._team(request, user), request.path_params["user"].lower()
        if leaving == team["owner"]:
            raise Refusal(400, ["An owner may not be removed from their organization."])
        if user["id"] not in (team["owner"], leaving):
            raise Refusal(403, {"detail": NOT_YOURS_TO_REMOVE})
        if not self._shelf.is_member(team["id"], leaving):
            raise Broken
        self._shelf.store.run("DELETE FROM portal_members WHERE organization = ? AND user = ?", team["id"], leaving)
        sql = "UPDATE portal_materials SET contact = ? WHERE organization = ? AND contact = ?"
        self._shelf.store.run(sql, team["owner"], team["id"], leaving)
        return Response(status_code=204)

    # -- materials ---------------------------------------------------------------------------------------

    async def materials(self, request: Request, user: Row | None) -> Response:
        def field(row: Row) -> dict[str, Any]:
            return {**self._shelf.details(row), "id": row["id"], "category": row["category"],
                    "organization__id": row["organization"]}  # fmt: skip

        rows = _filtered(self._shelf.all("materials"), _wanted(request, MATERIAL_FILTERS), field)
        return page(request, rows, self._each(self._views.material_item))

    async def material(self, request: Request, user: Row | None) -> Response:
        if not request.path_params["id"].isdecimal():
            raise Broken
        row = self._shelf.get("materials", request.path_params["id"])
        found = self._views.material_detail(row)
        if user is not None:
            rows = self._shelf.all("requests", "material = ?", row["id"])
            found["requests"] = [self._views.request(each) for each in self._visible(rows, user)]
        return Answer(found)

    async def change_material(self, request: Request, user: Row) -> Response:
        row = self._shelf.get("materials", request.path_params["id"])
        if not self._shelf.is_member(row["organization"], user["id"]):
            raise Refusal(403, FORBIDDEN)
        asked = await fields_of(request, self._shelf)
        if asked.get("category", row["category"]) != row["category"]:
            raise Refusal(400, ["Category cannot be changed after a material is created."])
        values: dict[str, Any] = {}
        for field, (table, column) in {
            "mta_attachment": ("attachments", "mta"),
            "organization": ("organizations", "organization"),
        }.items():
            if field in asked:
                values[column] = self._target(field, table, asked[field])
        if values.get("organization") and not self._shelf.is_member(values["organization"], user["id"]):
            return Response(status_code=403)
        if "title" in asked:
            values["title"] = str(asked["title"] or "").strip()
            if not values["title"]:
                empty = "null" if asked["title"] is None else "blank"
                raise Refusal(400, {"title": [f"This field may not be {empty}."]})
        details = {name: value for name, value in asked.items() if name in DETAILS}
        values["details"] = json.dumps({**self._shelf.details(row), **details})
        with self._shelf.store.transaction():
            self._shelf.change("materials", row["id"], **values)
            self._move_attachments(self._shelf.get("materials", row["id"]))
        return Answer(self._views.material(self._shelf.get("materials", row["id"])))

    def _target(self, field: str, table: str, given: Any) -> int | None:
        """Return the id that a field names, or None for no document. Raises Refusal."""
        if given in (None, "") and table == "attachments":
            return None
        if given is None:
            raise Refusal(400, {field: ["This field may not be null."]})
        if isinstance(given, bool) or not isinstance(given, int | str) or not str(given).isdecimal():
            kind = type(given).__name__
            raise Refusal(400, {field: [f"Incorrect type. Expected pk value, received {kind}."]})
        row = self._shelf.find(table, int(given))
        if row is None or (table == "attachments" and row["removed"]):
            raise Refusal(400, {field: [f'Invalid pk "{given}" - object does not exist.']})
        return int(given)

    def _move_attachments(self, material: Row) -> None:
        """Let sequence maps, and an MTA that an organization owns, follow their material."""
        home = material["organization"]
        moving = self._shelf.attachments("material = ? AND organization IS NOT ?", material["id"], home)
        moving += self._shelf.all("attachments", "id = ? AND organization != ?", material["mta"], home)
        for row in moving:
            self._shelf.change("attachments", row["id"], organization=home)

    # -- requests ----------------------------------------------------------------------------------------

    def _visible(self, rows: Sequence[Row], user: Row) -> list[Row]:
        return [row for row in rows if self._may_see(row, user)]

    def _may_see(self, row: Row, user: Row) -> bool:
        material = self._shelf.get("materials", row["material"])
        return bool(row["requester"] == user["id"]) or self._shelf.is_member(material["organization"], user["id"])

    async def requests(self, request: Request, user: Row) -> Response:
        where, values = "1", []
        if "material" in request.path_params:
            where, values = "material = ?", [request.path_params["material"]]

        def field(row: Row) -> dict[str, Any]:
            found = self._views.request(row)
            return {**found, "requester__id": found["requester"], "assigned_to__id": found["assigned_to"]}

        rows = self._visible(self._shelf.all("requests", where, *values, order=NEWEST), user)
        rows = _filtered(rows, _wanted(request, REQUEST_FILTERS), field)
        return page(request, rows, self._each(self._views.request_detail))

    async def request(self, request: Request, user: Row) -> Response:
        row = self._shelf.get("requests", request.path_params["id"])
        if not self._may_see(row, user):
            raise Refusal(403, FORBIDDEN)
        return Answer(self._views.request_detail(row))

    async def change_request(self, request: Request, user: Row) -> Response:
        """Put documents on a request: the requester two of them, the sharer the third. Nothing else changes here."""
        row = self._shelf.get("requests", request.path_params["id"])
        if not self._may_see(row, user):
            raise Refusal(403, FORBIDDEN)
        requester = row["requester"] == user["id"]
        asked = await fields_of(request, self._shelf)
        documents = [(field, *about) for field, about in DOCUMENTS.items() if field in asked]
        if any(by_requester != requester for _, _, by_requester in documents):
            raise Refusal(403, FORBIDDEN)
        with self._shelf.store.transaction():
            for field, column, _ in documents:
                self._put_document(row, column, self._target(field, "attachments", asked[field]), user)
        return Answer(self._views.request_detail(self._shelf.get("requests", row["id"])))

    def _put_document(self, row: Row, column: str, number: int | None, user: Row) -> None:
        """Let a request point at an attachment of the caller's, which the other party then owns too."""
        if number is None and self._shelf.switches.null_document == "error":
            raise Broken
        if number is not None and number != row[column]:
            attachment = self._shelf.attachment(number)
            if not self._shelf.owns(attachment, user):
                raise Refusal(403, {"detail": NOT_YOURS_TO_ADD})
            material = self._shelf.get("materials", row["material"])
            owner = {"organization": material["organization"]}
            other = owner if user["id"] == row["requester"] else {"user": row["requester"]}
            self._shelf.change("attachments", number, **other)
        self._shelf.change("requests", row["id"], **{column: number})

    # -- search ------------------------------------------------------------------------------------------

    async def search(self, request: Request, user: Row | None) -> Response:
        """Find by a word in a name: the real index knows more fields, and shows them in a form of its own."""
        kind = request.url.path.strip("/").rpartition("/")[2]
        word = f"%{request.query_params.get('search', '')}%"
        if kind == "users":
            if user is None and not self._shelf.switches.search_users_open:
                raise unauthorized(ANONYMOUS["detail"])
            rows = self._shelf.all("users", "first || ' ' || last LIKE ?", word, order="created")
            return page(request, rows, self._each(self._views.user_short))
        if kind == "organizations":
            rows = self._shelf.all("organizations", "name LIKE ?", word)
            return page(request, rows, self._each(self._views.organization_short))
        rows = self._shelf.all("materials", "title LIKE ?", word)
        return page(request, rows, self._each(self._views.material_item))
