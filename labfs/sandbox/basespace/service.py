"""A stand-in of BaseSpace Sequence Hub: v1pre3, and of v2 what clients need beside it.

Strict where the service is strict (tokens, part numbers and sizes, MD5, states, page cap) and awkward
where it is awkward. What no source settles is a field of `Switches`.

Tests: sandbox/test_basespace_sandbox, sandbox/test_guide.
"""

from __future__ import annotations

import json
import secrets
import time
from email.utils import formatdate
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from labfs.sandbox.basespace import seed as seeds
from labfs.sandbox.basespace.answers import (
    FORBIDDEN,
    Compact,
    Refusal,
    error,
    fields_of,
    moment,
    paging,
    query_of,
    refused,
    single,
    unknown,
)
from labfs.sandbox.basespace.lists import Lists
from labfs.sandbox.basespace.second import Second
from labfs.sandbox.basespace.shelf import OPEN_STATES, Shelf
from labfs.sandbox.basespace.shown import APPLICATION, Shown
from labfs.sandbox.basespace.switches import Switches
from labfs.sandbox.basespace.uploads import Uploads
from labfs.sandbox.blobs import Blobs
from labfs.sandbox.cost import Workers
from labfs.sandbox.devices import CLIENT_ID, CLIENT_SECRET, Devices
from labfs.sandbox.store import Row, Store

RECORDS = ("appresults", "samples", "runs")


class BaseSpace:
    """The service: routes over a store, bytes in the blob origin."""

    name = "basespace"

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self.url = ""
        self.switches = Switches()
        self.credentials: dict[str, Any] = {
            "token": seeds.TOKEN,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
        }
        self.site: dict[str, Any] = {"token": seeds.TOKEN, "access": "full"}
        self.shelf = Shelf(store, blobs, self.switches)
        self._store = store
        self._shown = Shown(self.shelf)
        self._lists = Lists(self.shelf)
        self._uploads = Uploads(self.shelf, self._shown)
        self._second = Second(self.shelf, self._shown, self._lists, self._user)
        blobs.refuses_tokens = lambda: self.switches.blob_tokens == "refuse"
        one, two = "/v1pre3", "/v2"
        routes = Starlette(
            routes=[
                Route(f"{one}/users/current", self._me),
                Route(f"{one}/users/current/projects", self._projects),
                Route(f"{one}/users/current/runs", self._runs),
                Route(f"{one}/users/current/appsessions", self._sessions),
                Route(f"{one}/oauthv2/token/current", self._token),
                Route(f"{one}/projects", self._make_project, methods=["POST"]),
                Route(f"{one}/projects/", self._make_project, methods=["POST"]),
                Route(f"{one}/projects/{{id:int}}", self._project),
                Route(f"{one}/projects/{{id:int}}/appresults", self._make_record, methods=["POST"]),
                Route(f"{one}/projects/{{id:int}}/{{kind}}", self._records),
                Route(f"{one}/appsessions/{{id:int}}", self._session, methods=["GET", "POST"]),
                Route(f"{one}/files/{{id:int}}", self._file),
                Route(f"{one}/files/{{id:int}}", self._finish, methods=["POST"]),
                Route(f"{one}/files/{{id:int}}/content", self._content),
                Route(f"{one}/files/{{id:int}}/parts", self._parts),
                Route(f"{one}/files/{{id:int}}/parts/{{number:int}}", self._put_part, methods=["PUT"]),
                Route(f"{one}/{{kind}}/{{id:int}}/properties", self._properties, methods=["GET", "POST"]),
                Route(f"{one}/{{kind}}/{{id:int}}/files", self._files),
                Route(f"{one}/{{kind}}/{{id:int}}/files", self._upload, methods=["POST"]),
                Route(f"{one}/{{kind}}/{{id:int}}", self._record),
                Route(f"{two}/oauthv2tokens/current", self._revoke, methods=["DELETE"]),
                Route(f"{two}/appsessions/{{id:int}}", self._trash_session, methods=["DELETE"]),
                Route(f"{two}/trash", self._trash),
                Route(f"{two}/trash", self._empty_trash, methods=["DELETE"]),
                Route(f"{two}/trash/{{id:int}}/restorefromtrash", self._restore, methods=["POST"]),
                *Devices(lambda: self.url, self._give).routes(one),
                *self._second.routes(),
            ],
            exception_handlers={Refusal: refused, HTTPException: unknown},
        )
        self.app: ASGIApp = Workers(routes, self.switches)

    def error(self, status: int) -> Response:
        return error(status)

    def seed(self) -> None:
        seeds.seed(self.shelf)

    # -- who asks, and for what ------------------------------------------------------------------------

    def _user(self, request: Request) -> int:
        return int(self._login(request)["user"])

    def _give(self, scopes: list[str]) -> str:
        """Make a token of the user's."""
        token = secrets.token_hex(16)
        self._store.run("INSERT INTO tokens VALUES (?, ?, ?)", token, seeds.USER, json.dumps(scopes))
        return token

    def _login(self, request: Request) -> Row:
        """Return the row of the token, which may come in three ways but only in one of them."""
        bearer = request.headers.get("authorization", "")
        given = [
            request.headers.get("x-access-token"),
            bearer.removeprefix("Bearer ").strip() if bearer.lower().startswith("bearer ") else None,
            query_of(request).get("access_token"),
        ]
        tokens = [token for token in given if token]
        if len(tokens) > 1:
            raise Refusal(400, "More than one access token was sent.", "BASESPACE.COMMON.BAD_REQUEST")
        row = self._store.one("SELECT * FROM tokens WHERE token = ?", tokens[0] if tokens else "")
        if row is None:
            raise Refusal(401, "Unrecognized access token", "BASESPACE.COMMON.UNAUTHORIZED")
        return row

    def _kind(self, request: Request) -> str:
        kind = str(request.path_params["kind"])
        if kind not in RECORDS:
            raise HTTPException(404)
        return kind

    def _record_row(self, request: Request) -> Row:
        self._user(request)
        kind = self._kind(request)
        row = self.shelf.row("records", request.path_params["id"])
        if row["kind"] != kind:
            raise Refusal(403, "Sorry but this requires READ access to this Run resource.", FORBIDDEN)
        return row

    # -- lists -----------------------------------------------------------------------------------------

    async def _me(self, request: Request) -> Response:
        row = self.shelf.row("users", self._user(request))
        me = self._shown.user(row["id"])
        return single({**me, "Email": row["email"], "HrefProjects": "v1pre3/users/current/projects",
                       "HrefRuns": "v1pre3/users/current/runs"})  # fmt: skip

    async def _projects(self, request: Request) -> Response:
        user, name = self._user(request), query_of(request).get("name")
        where, values = "user = ? AND NOT removed", (user,)
        if name is not None:
            return single(
                self._lists.page(request, "projects", f"{where} AND name = ?", (*values, name), self._shown.project)
            )
        return single(self._lists.page(request, "projects", where, values, self._shown.project))

    async def _runs(self, request: Request) -> Response:
        self._user(request)
        return single(self._lists.page(request, "records", "kind = 'runs' AND NOT removed", (), self._shown.record))

    async def _sessions(self, request: Request) -> Response:
        where = "user = ? AND NOT removed"
        return single(self._lists.page(request, "sessions", where, (self._user(request),), self._shown.session))

    async def _records(self, request: Request) -> Response:
        self._user(request)
        kind, project = self._kind(request), self.shelf.row("projects", request.path_params["id"])
        where, values = self._lists.of_records(request)
        where = f"project = ? AND kind = ? AND NOT removed{where}"
        return single(self._lists.page(request, "records", where, (project["id"], kind, *values), self._shown.record))

    async def _files(self, request: Request) -> Response:
        record, (where, values) = self._record_row(request), self._lists.of_files(request)
        return single(
            self._lists.page(request, "files", f"record = ?{where}", (record["id"], *values), self._shown.file)
        )

    # -- single things ---------------------------------------------------------------------------------

    async def _project(self, request: Request) -> Response:
        self._user(request)
        return single(self._shown.whole_project(self.shelf.row("projects", request.path_params["id"])))

    async def _record(self, request: Request) -> Response:
        return single(self._shown.whole_record(self._record_row(request)))

    async def _file(self, request: Request) -> Response:
        self._user(request)
        return single(self._shown.whole_file(self.shelf.row("files", request.path_params["id"])))

    async def _session(self, request: Request) -> Response:
        self._user(request)
        row = self.shelf.row("sessions", request.path_params["id"])
        if request.method == "POST":
            asked = await fields_of(request)
            if row["status"].lower() not in OPEN_STATES:
                raise Refusal(403, f"An appsession that is {row['status']} cannot be changed.", FORBIDDEN)
            if len(asked.get("statussummary") or "") > 128:
                raise Refusal(400, "StatusSummary must be at most 128 characters.", "BASESPACE.COMMON.BAD_REQUEST")
            status = str(asked.get("status", "")).lower()
            if status not in (*OPEN_STATES, "complete", "aborted"):
                raise Refusal(400, "Unknown status.", "BASESPACE.COMMON.BAD_REQUEST")
            self._store.run(
                "UPDATE sessions SET status = ?, summary = ?, modified = ? WHERE id = ?",
                status.capitalize(), asked.get("statussummary", ""), time.time(), row["id"],
            )  # fmt: skip
            row = self.shelf.row("sessions", row["id"])
        return single(self._shown.session(row))

    async def _token(self, request: Request) -> Response:
        row = self._login(request)
        return single({
            "Scopes": json.loads(row["scopes"]),
            "UserResourceOwner": self._shown.user(row["user"]),
            "Application": APPLICATION,
            "DateCreated": self._shown.date(None),
        })  # fmt: skip

    async def _properties(self, request: Request) -> Response:
        self._user(request)
        resource = f"{request.path_params['kind']}/{request.path_params['id']}"
        if request.method == "POST":
            for item in (await fields_of(request)).get("properties", []):
                self.shelf.set_property(resource, {key.lower(): value for key, value in item.items()})
        return single(self._shown.properties(resource))

    async def _content(self, request: Request) -> Response:
        self._user(request)
        row = self.shelf.row("files", request.path_params["id"])
        if row["status"] != "complete":
            raise Refusal(403, "The file's upload is not complete.", FORBIDDEN)
        if row["archived"]:
            raise Refusal(409, "The file is archived and must be restored first.", "BASESPACE.FILES.ARCHIVED")
        url, until = self.shelf.address(row)
        if query_of(request).get("redirect", "true").lower() == "meta":
            found = {"Expires": moment(until), "HrefContent": url, "SupportsRange": True}
            return single(found, headers={"Accept-Ranges": "bytes", "Expires": formatdate(until, usegmt=True)})
        return RedirectResponse(url, self.switches.redirect_status)

    async def _parts(self, request: Request) -> Response:
        self._user(request)
        row = self.shelf.row("files", request.path_params["id"])
        rows = self._store.all("SELECT * FROM parts WHERE file = ? ORDER BY number", row["id"])
        items = [{"Number": part["number"], "ETag": part["etag"], "Size": part["size"]} for part in rows]
        return single({"Items": items, "DisplayedCount": len(items), "TotalCount": len(items)})

    # -- making ----------------------------------------------------------------------------------------

    async def _make_project(self, request: Request) -> Response:
        user, name = self._user(request), str((await fields_of(request)).get("name") or "")
        if not name:
            raise Refusal(400, "A project needs a Name.", "BASESPACE.COMMON.BAD_REQUEST")
        row = self._store.one("SELECT * FROM projects WHERE user = ? AND name = ? AND NOT removed", user, name)
        if row is None:
            row = self.shelf.row("projects", self.shelf.add_project(user, name))
        return single(self._shown.project(row), self.switches.created_status)

    async def _make_record(self, request: Request) -> Response:
        user, project, asked = (
            self._user(request),
            self.shelf.row("projects", request.path_params["id"]),
            await fields_of(request),
        )
        name = str(asked.get("name") or "")
        if not name:
            raise Refusal(400, "An appresult needs a Name.", "BASESPACE.COMMON.BAD_REQUEST")
        given = query_of(request).get("appsessionid")
        session = int(given) if given else self.shelf.add_session(user, name)
        self.shelf.row("sessions", session)
        number = self.shelf.add_record("appresults", project["id"], name, session, str(asked.get("description") or ""))
        return single(self._shown.record(self.shelf.row("records", number)), self.switches.created_status)

    # -- uploading -------------------------------------------------------------------------------------
    async def _upload(self, request: Request) -> Response:
        return await self._uploads.upload(request, self._record_row(request))

    async def _put_part(self, request: Request) -> Response:
        self._user(request)
        return await self._uploads.put_part(request)

    async def _finish(self, request: Request) -> Response:
        self._user(request)
        return await self._uploads.finish(request)

    # -- v2 and the trash ------------------------------------------------------------------------------

    async def _revoke(self, request: Request) -> Response:
        self._store.run("DELETE FROM tokens WHERE token = ?", self._login(request)["token"])
        return Compact({})

    async def _trash_session(self, request: Request) -> Response:
        self._user(request)
        row = self.shelf.row("sessions", request.path_params["id"])
        self.shelf.set_removed(row["id"], True)
        number = self._store.run("INSERT INTO trash (session, deleted) VALUES (?, ?)", row["id"], time.time())
        return Compact({"Id": str(number), "DateDeleted": self._shown.date(time.time())})

    async def _trash(self, request: Request) -> Response:
        self._user(request)
        rows = self._store.all("SELECT * FROM trash ORDER BY id")
        items = [
            {"Id": str(r["id"]), "ResourceId": str(r["session"]), "DateDeleted": self._shown.date(r["deleted"])}
            for r in rows
        ]
        return Compact({"Items": items, "Paging": paging(len(items), len(items), 0, 50, "DateDeleted")})

    async def _empty_trash(self, request: Request) -> Response:
        self._user(request)
        self._store.run("DELETE FROM trash")
        return Compact({})

    async def _restore(self, request: Request) -> Response:
        self._user(request)
        row = self.shelf.row("trash", request.path_params["id"])
        self.shelf.set_removed(row["session"], False)
        self._store.run("DELETE FROM trash WHERE id = ?", row["id"])
        return Compact({})
