"""A stand-in of Clarity LIMS: REST API v2, as far as its files are concerned.

Strict where the service is strict (credentials at every request, namespaces, one file an artifact, allocated
locations, completed steps, the upload limit) and awkward where it is awkward: no size and no date of a
file, no answer to a range, links instead of things. What no source settles is a field of `Switches`.

Tests: sandbox/test_clarity_sandbox, clients/test_clarity_clients.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from labfs.sandbox.blobs import Blobs
from labfs.sandbox.clarity import seed as seeds
from labfs.sandbox.clarity.files import Files
from labfs.sandbox.clarity.lists import Lists
from labfs.sandbox.clarity.others import KINDS, SHOWN_ELSEWHERE, Others
from labfs.sandbox.clarity.shelf import BASE, REMOTE, Shelf, Switches
from labfs.sandbox.clarity.shown import LISTS, Shown
from labfs.sandbox.clarity.wire import Node, Refusal, answer, error, node, refused, unknown, xml_of
from labfs.sandbox.cost import Workers, prepare
from labfs.sandbox.store import Row, Store

Handler = Callable[[Request], Awaitable[Response]]
BATCHES = ("samples", "artifacts", "files")  # the kinds that can be asked for in one request
LIMIT_PROPERTY = "api.artifacts.max.resultfile.upload.size"


class Clarity:
    """The service: routes over a store, behind Basic authentication."""

    name = "clarity"

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self.url = ""
        self.switches = Switches()
        self.credentials: dict[str, Any] = {
            "username": seeds.USERNAME, "password": seeds.PASSWORD,
            "powerless": {"username": seeds.POWERLESS, "password": seeds.PASSWORD},
        }  # fmt: skip
        self.site: dict[str, Any] = {"username": seeds.USERNAME, "password": seeds.PASSWORD, "access": "full"}
        self.shelf = Shelf(store, self.switches)
        self._store = store
        self._shown = Shown(self.shelf, lambda: self.url)
        self._lists = Lists(self.shelf, self._shown)
        self._others = Others(self.shelf, self._shown)
        self._files = Files(self.shelf, self._shown)
        self._routes = Starlette(routes=self._table(), exception_handlers={Refusal: refused, HTTPException: unknown})
        self._routes.router.redirect_slashes = False
        self.app: ASGIApp = Workers(self._guard, self.switches)

    def _table(self) -> list[Route]:
        files = self._files
        return [
            Route("/api", self._versions),
            Route("/api/", self._versions),
            Route(BASE, self._index),
            Route(f"{BASE}/", self._index),
            *(Route(f"{BASE}/{kind}", self._lister(kind)) for kind in LISTS),
            *(Route(f"{BASE}/{kind}/batch/retrieve", self._batcher(kind), methods=["POST"]) for kind in BATCHES),
            Route(f"{BASE}/projects/{{limsid}}", self._project),
            Route(f"{BASE}/samples/{{limsid}}", self._sample),
            Route(f"{BASE}/artifacts/{{limsid}}", self._artifact),
            Route(f"{BASE}/processes/{{limsid}}", self._process),
            Route(f"{BASE}/steps/{{limsid}}", self._step),
            Route(f"{BASE}/steps/{{limsid}}/details", self._details),
            Route(f"{BASE}/steps/{{limsid}}/setup", self._setup),
            Route(f"{BASE}/processtypes/{{id:int}}", self._process_type),
            Route(f"{BASE}/researchers/{{id:int}}", self._researcher),
            *(Route(f"{BASE}/{name}", self._other_list(name)) for name in KINDS),
            *(Route(f"{BASE}/{name}/{{id}}", self._other(name)) for name in KINDS if name not in SHOWN_ELSEWHERE),
            Route(f"{BASE}/glsstorage", files.allocate, methods=["POST"]),
            Route(f"{BASE}/files", files.attach, methods=["POST"]),
            Route(f"{BASE}/files/{{limsid}}", files.one),
            Route(f"{BASE}/files/{{limsid}}", files.change, methods=["PUT"]),
            Route(f"{BASE}/files/{{limsid}}", files.delete, methods=["DELETE"]),
            Route(f"{BASE}/files/{{limsid}}/download", files.download),
            Route(f"{BASE}/files/{{limsid}}/upload", files.upload, methods=["POST"]),
            Route(f"{BASE}/configuration/properties", self._properties),
            Route(f"{REMOTE}{{name:path}}", files.remote),
        ]

    def error(self, status: int) -> Response:
        return error(status)

    def seed(self) -> None:
        seeds.seed(self.shelf)

    # -- who asks --------------------------------------------------------------------------------------

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through whose credentials are right; all paths want them, known or not."""
        request = Request(scope)
        refusal = None if scope["path"].startswith(REMOTE) else self._refusal(request)
        if refusal is None and request.method == "HEAD" and not self.switches.head:
            refusal = error(405, "Method Not Allowed")
        await (refusal or self._routes)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if self.switches.https_only:
            return RedirectResponse(str(request.url.replace(scheme="https")), 301)
        username, password = _basic(request.headers.get("authorization", ""), self.switches.basic)
        row = self._store.one("SELECT * FROM clarity_users WHERE username = ?", username)
        known = self.switches.password or (row and row["password"])
        if row is None or known != password:
            return Response(status_code=401, headers={"WWW-Authenticate": f'Basic realm="{self.switches.realm}"'})
        return None if row["api"] else Response(status_code=403)

    # -- what there is ---------------------------------------------------------------------------------

    async def _versions(self, _: Request) -> Response:
        version = node("version", {"major": "v2", "minor": "r32", "uri": self._shown.address()})
        return answer(node("ver:versions", children=[version]))

    async def _index(self, _: Request) -> Response:
        names = (*LISTS, *KINDS, "glsstorage", "configuration/properties")
        return answer(
            node("ri:index", children=[node("link", {"rel": n, "uri": self._shown.address(f"/{n}")}) for n in names])
        )

    async def _properties(self, _: Request) -> Response:
        known = {"clarity.sandbox": "true"}
        if self.switches.limit_in_properties:
            known[LIMIT_PROPERTY] = str(self.switches.upload_limit)
        children = [
            node("property", {
                "uri": self._shown.address(f"/configuration/properties/{number}"), "name": name, "value": value
            })
            for number, (name, value) in enumerate(known.items(), 1)
        ]  # fmt: skip
        return answer(node("prop:properties", children=children))

    def _lister(self, kind: str) -> Handler:
        async def listed(request: Request) -> Response:
            return answer(self._lists.page(kind, request.url.query))

        return listed

    def _other_list(self, name: str) -> Handler:
        async def listed(request: Request) -> Response:
            return answer(self._others.page(name, request.url.query))

        return listed

    def _other(self, name: str) -> Handler:
        async def one(request: Request) -> Response:
            return answer(self._others.one(name, request.path_params["id"]))

        return one

    # -- single things ---------------------------------------------------------------------------------

    def _asked(self, kind: str, request: Request) -> Row:
        return self.shelf.row(kind, request.path_params["limsid"])

    async def _project(self, request: Request) -> Response:
        return answer(self._shown.project(self._asked("projects", request)))

    async def _sample(self, request: Request) -> Response:
        return answer(self._shown.sample(self._asked("samples", request)))

    async def _artifact(self, request: Request) -> Response:
        state = request.query_params.get("state", "")
        return answer(
            self._shown.artifact(self._asked("artifacts", request), int(state) if state.isdecimal() else None)
        )

    async def _process(self, request: Request) -> Response:
        if not self.switches.processes_served:
            raise HTTPException(404)
        return answer(self._shown.process(self._asked("processes", request)))

    async def _step(self, request: Request) -> Response:
        return answer(self._shown.step(self._asked("processes", request)))

    async def _details(self, request: Request) -> Response:
        return answer(self._shown.details(self._asked("processes", request)))

    async def _setup(self, request: Request) -> Response:
        return answer(self._shown.setup(self._asked("processes", request)))

    async def _process_type(self, request: Request) -> Response:
        number = request.path_params["id"]
        row = self._store.one("SELECT type FROM clarity_processes WHERE type_id = ?", number)
        if row is None:
            raise Refusal(404, f"Requested resource not found: process type {number}")
        return answer(self._shown.process_type(number, row["type"]))

    async def _researcher(self, request: Request) -> Response:
        number = request.path_params["id"]
        row = self._store.one("SELECT * FROM clarity_researchers WHERE id = ?", number)
        if row is None:
            raise Refusal(404, f"Requested resource not found: researcher {number}")
        return answer(self._shown.researcher(row))

    # -- several things at once ------------------------------------------------------------------------

    def _batcher(self, kind: str) -> Handler:
        async def retrieve(request: Request) -> Response:
            root = await xml_of(request, "ri:links", self.switches.wrong_type_status)
            uris = [link.get("uri", "") for link in root.findall("link")]
            if len(set(uris)) != len(uris):
                raise Refusal(400, "The links are not unique")
            return answer(node(f"{LISTS[kind]}:details", children=self._batch(kind, uris)))

        return retrieve

    def _batch(self, kind: str, uris: list[str]) -> list[Node]:
        """Return the things once each, oldest first; of an artifact's states the last one asked for."""
        rows: dict[str, Row] = {}
        states: dict[str, int | None] = {}
        for uri in uris:
            address = urlsplit(uri)
            found, _, limsid = address.path.removeprefix(f"{BASE}/").partition("/")
            if found != kind:
                raise Refusal(400, f"Not an address of one of the {kind}: {uri!r}")
            row = self.shelf.find(kind, limsid)
            if row is None:
                raise Refusal(self.switches.unresolved_status, f"Requested resource not found: {uri!r}")
            rows[limsid] = row
            state = address.query.removeprefix("state=")
            states[limsid] = int(state) if state.isdecimal() else None
        prepare(len(rows))
        ordered = sorted(rows.values(), key=lambda row: int(row["id"]))
        if kind == "artifacts":
            return [self._shown.artifact(row, states[row["limsid"]]) for row in ordered]
        shape = self._shown.file if kind == "files" else self._shown.sample
        return [shape(row) for row in ordered]


def _basic(header: str, encoding: str) -> tuple[str, str]:
    """Return user name and password of an Authorization header; empty ones for another scheme."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        username, _, password = base64.b64decode(value, validate=True).decode(encoding).partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return username, password
