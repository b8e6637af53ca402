"""A stand-in of the Open Data Manager, API v1: studies, attached files, imports as jobs, deletion.

Strict where the service is strict (tokens, audiences, page limits, the form's order, data classes) and
awkward where it is awkward (no sizes in lists, jobs, an index that lags). What no source settles is a
field of `Switches`.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from labfs.sandbox.blobs import Blobs
from labfs.sandbox.cost import Workers
from labfs.sandbox.odm import seed as seeds
from labfs.sandbox.odm.answers import Refusal, error
from labfs.sandbox.odm.routes import downloads
from labfs.sandbox.odm.routes.files import Files
from labfs.sandbox.odm.routes.groups import Groups
from labfs.sandbox.odm.routes.jobs import Jobs
from labfs.sandbox.odm.routes.signin import SignIn
from labfs.sandbox.odm.routes.studies import Studies
from labfs.sandbox.odm.shelf import FILE, GROUPS, STUDY, Caller, Shelf
from labfs.sandbox.odm.switches import Switches
from labfs.sandbox.store import Store

AUDIENCES = ("as-user", "as-curator")
API = "/api/v1"
# The older form of the addresses: an application's name instead of an audience.
LEGACY = "/frontend/rs/genestack/"
APPLICATIONS = {
    "job": "/jobs", "studyUser": "/as-user", "studyCurator": "/as-curator",
    "integrationUser": "/as-user", "integrationCurator": "/as-curator",
}  # fmt: skip
DELETABLE = (STUDY, FILE, *GROUPS, "SAMPLE_OBJECT")

Handler = Callable[[Request, Caller], Awaitable[Response]]


class Odm:
    """The service: routes over a store; it serves the bytes itself and has no presigned addresses."""

    name = "odm"

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self.url = ""
        self.switches = Switches()
        self.credentials: dict[str, Any] = dict(seeds.TOKENS)
        self.site: dict[str, Any] = {"token": seeds.TOKENS["token"], "access": "full"}
        self.shelf = Shelf(store, self.switches)
        self._store = store
        self._jobs = Jobs(self.shelf)
        routes = [*self._reading(), *self._changing(), *SignIn(self.shelf).routes()]
        handlers = {Refusal: self._refused, HTTPException: self._unknown}
        self.app: ASGIApp = _Legacy(Workers(Starlette(routes=routes, exception_handlers=handlers), self.switches))

    def _reading(self) -> list[Route]:
        files, studies, groups = Files(self.shelf), Studies(self.shelf), Groups(self.shelf)
        link = "integration/link"
        rows: list[tuple[str, Handler]] = [
            ("files", files.several),
            ("files/{id}", files.one),
            ("files/{id}/download", self._download),
            (f"{link}/files/by/study/{{id}}", files.of_study),
            (f"{link}/study/by/file/{{id}}", studies.of_file),
            (f"{link}/studies/by/files", studies.by_files),
            (f"{link}/samples/by/study/{{id}}", groups.samples_of_study),
            (f"{link}/{{sort}}/group/by/study/{{id}}", groups.groups_of_study),
            (f"{link}/{{sort}}/by/sample/{{id}}", groups.members_of_sample),
            ("{sort}/by/group/{id}", groups.members_of_group),
            ("links", groups.links),
            ("studies", studies.several),
            ("studies/{id}", studies.one),
            ("studies/{id}/versions", studies.versions),
            ("studies/{id}/versions/{version}", studies.version),
        ]
        found = [self._route(f"/{{audience}}/{path}", handler) for path, handler in rows]
        return [*found, self._route("/{audience}/integration/fulltext/search/studies", studies.search, "POST")]

    def _changing(self) -> list[Route]:
        studies, groups = Studies(self.shelf), Groups(self.shelf)
        return [
            self._route(
                "/as-curator/integration/link/sample/group/{group}/to/study/{study}",
                groups.adopt,
                "POST",
                audience="as-curator",
            ),
            self._route("/as-curator/links", groups.link, "POST", audience="as-curator"),
            self._route("/as-curator/studies/{id}", studies.change, "PATCH", audience="as-curator"),
            self._route(
                "/jobs/import/file/multipart", self._import(self._jobs.from_form), "POST", audience="as-curator"
            ),
            self._route("/jobs/import/file", self._import(self._jobs.from_link), "POST", audience="as-curator"),
            self._route("/jobs/import/study", self._import(self._jobs.study), "POST", audience="as-curator"),
            self._route("/jobs/import/samples", self._import(self._jobs.samples), "POST", audience="as-curator"),
            self._route("/jobs/{job:int}/info", self._job_info, audience="as-user"),
            self._route("/jobs/{job:int}/output", self._job_output, audience="as-user"),
            self._route("/jobs/{job:int}/stop", self._job_stop, "PUT", audience="as-curator"),
            self._route("/jobs/{job:int}/restart", self._job_stop, "PUT", audience="as-curator"),
            self._route("/tasks/{id}", self._task, audience="as-user"),
            self._route("/manage-data/data", self._delete, "DELETE", audience="manage-data"),
        ]

    def error(self, status: int) -> Response:
        return error(status, "An internal server error occurred.", self.switches.error_body)

    def seed(self) -> None:
        seeds.seed(self.shelf)

    # -- who asks ----------------------------------------------------------------------------------------

    def _route(self, path: str, handler: Handler, method: str = "GET", audience: str | None = None) -> Route:
        async def endpoint(request: Request) -> Response:
            return await handler(request, self._caller(request, audience or request.path_params["audience"]))

        return Route(API + path, endpoint, methods=[method])

    def _caller(self, request: Request, audience: str) -> Caller:
        if audience not in (*AUDIENCES, "manage-data"):
            raise Refusal(404, f"There is nothing at {request.url.path}.")
        kind, token = self._token(request)
        row = self._store.one(
            "SELECT odm_users.* FROM odm_tokens JOIN odm_users ON id = user"
            " WHERE token = ? AND kind = ? AND NOT revoked",
            token, kind,
        )  # fmt: skip
        if row is None:
            raise Refusal(401, "User is not authenticated. Please supply a valid Access Token or Genestack API token.")
        if audience == "as-curator" and not row["curator"]:
            raise Refusal(self.switches.forbidden_status, "The user is not in the Curator group.")
        if audience == "manage-data" and not (row["manager"] and row["sees_all"]):
            raise Refusal(403, "The user may not manage the data of the organization.")
        caller = Caller(row["id"], row["email"], bool(row["curator"]), bool(row["manager"]), audience)
        return caller if audience != "manage-data" else replace(caller, audience="as-curator")

    def _token(self, request: Request) -> tuple[str, str]:
        """Return kind and text of the one token that a request carries."""
        switches, header = self.switches, request.headers.get("authorization", "").strip()
        found = {}
        if switches.api_tokens and "genestack-api-token" in request.headers:
            found["api-token"] = request.headers["genestack-api-token"]
        scheme, _, bearer = header.partition(" ")
        if switches.access_tokens and scheme.lower() == "bearer":
            found["access-token"] = bearer.strip()
        elif switches.access_tokens and header and switches.bare_authorization == "accept":
            found["access-token"] = header
        if len(found) > 1:
            if switches.both_kinds == "refuse":
                raise Refusal(401, "Please supply either an Access Token or a Genestack API token, not both.")
            found = {switches.both_kinds: found[switches.both_kinds]}
        return next(iter(found.items()), ("", ""))

    # -- bytes -------------------------------------------------------------------------------------------

    async def _download(self, request: Request, caller: Caller) -> Response:
        row = self.shelf.find(request.path_params["id"], caller)
        if row["kind"] != FILE:
            raise Refusal(406, "File cannot be downloaded.")
        answer = downloads.answer(request, self.shelf, row)
        if request.method == "GET" and (caller.sees_drafts or self.switches.audit_user_downloads):
            self.shelf.note(caller, "file downloaded", [row["number"]])
        return answer

    # -- jobs --------------------------------------------------------------------------------------------

    def _import(self, start: Callable[[Request, Caller], Awaitable[dict[str, Any]]]) -> Handler:
        async def handler(request: Request, caller: Caller) -> Response:
            return JSONResponse(await start(request, caller))

        return handler

    async def _job_info(self, request: Request, caller: Caller) -> Response:
        return JSONResponse(self._jobs.info(self._jobs.row(request.path_params["job"])))

    async def _job_output(self, request: Request, caller: Caller) -> Response:
        return JSONResponse(self._jobs.output(self._jobs.row(request.path_params["job"])))

    async def _job_stop(self, request: Request, caller: Caller) -> Response:
        row = self._jobs.row(request.path_params["job"])
        if self.switches.stop_status != 200:
            raise Refusal(self.switches.stop_status, "Stopping and restarting do not apply to this job.")
        return JSONResponse(self._jobs.info(row))

    async def _task(self, request: Request, caller: Caller) -> Response:
        """Tell how the indexing of a file stands; the sources do not say how a client learns a task's name."""
        row = self.shelf.find(request.path_params["id"], replace(caller, audience="as-curator"), FILE)
        ends = max(row["born"], row["created"]) + self.switches.index_lag_s
        done = time.time() >= ends
        times = {"startedAt": int(row["created"] * 1000), **({"endedAt": int(ends * 1000)} if done else {})}
        about = {"id": f"GSF{row['number']}", "name": "Index metadata", "createdBy": self.shelf.email(row["owner"])}
        return JSONResponse({**about, "status": "DONE" if done else "RUNNING", **times})

    # -- deletion ----------------------------------------------------------------------------------------

    async def _delete(self, request: Request, caller: Caller) -> Response:
        """Mark objects for deletion, all of them or none; they go a little later, and for good."""
        named = [name for part in request.query_params.getlist("accessions") for name in part.split(",") if name]
        if not named:
            named = await self._named(request)
        rows = [self.shelf.find(name.strip(), caller) for name in named]
        for row in rows:
            if row["kind"] not in DELETABLE:
                raise Refusal(406, f"Objects of the type {row['kind']} cannot be deleted.")
        doomed = {each["number"]: each for row in rows for each in self.shelf.below(row)}
        self.shelf.sweep()
        with self._store.transaction():
            self.shelf.doom(doomed.values(), time.time() + self.switches.removal_s)
        shown = doomed.values() if self.switches.doomed == "all" else rows
        return JSONResponse([self.shelf.doomed_item(row) for row in shown], 202)

    async def _named(self, request: Request) -> list[str]:
        """Return the accessions of a JSON body, in which one page of the documentation shows them."""
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = None
        found = body.get("accessions") if isinstance(body, dict) else body
        if not isinstance(found, list) or not found or not all(isinstance(name, str) for name in found):
            raise Refusal(400, "accessions is mandatory.")
        return found

    # -- failure -----------------------------------------------------------------------------------------

    async def _refused(self, request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)
        return error(refusal.status, refusal.message, self.switches.error_body)

    async def _unknown(self, request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        message = f"There is nothing at {request.method} {request.url.path}."
        return error(problem.status_code, message, self.switches.error_body)


class _Legacy:
    """Leads the older addresses to the same handlers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(LEGACY):
            application, _, rest = scope["path"].removeprefix(LEGACY).partition("/default-released/")
            if rest and application in APPLICATIONS:
                path = f"{API}{APPLICATIONS[application]}/{rest}"
                scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
