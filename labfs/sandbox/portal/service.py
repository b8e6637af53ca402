"""A stand-in of the ALSF Resources Portal: attachments, and what leads to them.

It is what the program's source and runs of it show, its failures included: where the real program answers
500, so does this one. `Switches.mode` chooses between production (bytes in a bucket, presigned addresses)
and development (bytes on the server's disk).

Tests: sandbox/test_portal_sandbox, sandbox/test_portal_truths.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from labfs.sandbox.blobs import Blobs
from labfs.sandbox.cost import Workers
from labfs.sandbox.portal import answers, forms
from labfs.sandbox.portal import seed as seeds
from labfs.sandbox.portal.answers import ANONYMOUS, Answer, Broken, Refusal
from labfs.sandbox.portal.attachments import Attachments
from labfs.sandbox.portal.bucket import Bucket
from labfs.sandbox.portal.proxy import Proxy
from labfs.sandbox.portal.shelf import Shelf, Switches
from labfs.sandbox.portal.tree import Tree
from labfs.sandbox.portal.views import Views
from labfs.sandbox.store import Row, Store

KINDS = ("materials", "organizations", "users")  # that the search knows
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
Handler = Callable[[Request, Any], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]

# The fields of an attachment as OPTIONS tells them: type, whether they are only read, label.
FIELDS = {
    "id": ("integer", True, "ID"), "filename": ("string", False, "Filename"),
    "description": ("string", False, "Description"), "download_url": ("field", True, "Download url"),
    "s3_resource_deleted": ("boolean", False, "S3 resource deleted"),
    "created_at": ("datetime", True, "Created at"), "updated_at": ("datetime", True, "Updated at"),
    "sequence_map_for": ("field", False, "Sequence map for"), "mta_materials": ("field", False, "Mta materials"),
    "requests_signed_mta": ("field", False, "Requests signed mta"),
    "requests_irb": ("field", False, "Requests irb"),
    "requests_executed_mta": ("field", False, "Requests executed mta"),
    "owned_by_org": ("field", False, "Owned by org"), "owned_by_user": ("field", False, "Owned by user"),
}  # fmt: skip


class Portal:
    """The service: routes over a store, bytes in a bucket of the blob origin or on its own disk."""

    name = "portal"

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self.url = ""
        self.switches = Switches()
        self.credentials: dict[str, Any] = dict(seeds.CREDENTIALS)
        self.site: dict[str, Any] = {"token": seeds.CREDENTIALS["token"], "access": "full"}
        self.shelf = Shelf(store, self.switches)
        self._store = store
        self._blobs = blobs
        self.views = Views(self.shelf, Bucket(self.shelf, blobs))
        self._attachments = Attachments(self.shelf, self.views, blobs)
        self._tree = Tree(self.shelf, self.views)
        program = Starlette(
            routes=self._routes(),
            exception_handlers={HTTPException: self._unrouted, Broken: self._broken},
        )
        program.router.redirect_slashes = False
        self.app: ASGIApp = Proxy(Workers(program, self.switches), self.shelf)

    def error(self, status: int) -> Response:
        return answers.error(status)

    def seed(self) -> None:
        self.views.url = self.url
        seeds.seed(self.shelf, self._blobs)

    # -- routes ----------------------------------------------------------------------------------------

    def _routes(self) -> list[Route]:
        files, tree = self._attachments, self._tree
        one: dict[str, Handler] = {"GET": files.show, "PUT": files.put, "PATCH": files.patch, "DELETE": files.delete}
        material: dict[str, Handler] = {"GET": tree.material, "PATCH": tree.change_material}
        slashed: list[tuple[str, dict[str, Handler], tuple[str, ...]]] = [
            ("attachments", {"GET": files.index, "POST": files.make}, ()),
            ("attachments/{id}", one, ()),
            ("users", {"GET": tree.users}, ()),
            ("users/{id}", {"GET": tree.user}, ()),
            ("users/{id}/organizations", {"GET": tree.user_organizations}, ()),
            ("organizations", {"GET": tree.organizations}, ()),
            ("organizations/{id}", {"GET": tree.organization}, ()),
            ("organizations/{id}/members", {"GET": tree.members}, ()),
            ("organizations/{id}/members/{user}", {"GET": tree.member, "DELETE": tree.remove_member}, ()),
            ("organizations/{id}/materials", {"GET": tree.organization_materials}, ("GET",)),
            ("organizations/{id}/materials/{material}", {"GET": tree.organization_material}, ("GET",)),
            ("materials", {"GET": tree.materials}, ("GET",)),
            ("materials/{id}", material, ("GET",)),
            ("material-requests", {"GET": tree.requests}, ()),
            ("material-requests/{id}", {"GET": tree.request, "PATCH": tree.change_request}, ()),
        ]
        routes = [
            Route(f"/v1/{path}{end}", self._endpoint(path, handlers, opened), methods=METHODS)
            for path, handlers, opened in slashed
            for end in ("", "/")
        ]
        copy = self._endpoint("attachment copy", {"POST": files.copy}, ())
        requests = self._endpoint("material requests", {"GET": tree.requests}, ())
        search = self._endpoint("search", {"GET": tree.search}, ("GET",))
        return [
            Route("/v1/attachments/{number:int}/copy", copy, methods=METHODS),
            Route("/v1/materials/{material:int}/requests", requests, methods=METHODS),
            Route("/v1/search/", self._endpoint("search root", {"GET": self._search_root}, ("GET",)), methods=METHODS),
            *(Route(f"/v1/search/{kind}/", search, methods=METHODS) for kind in KINDS),
            Route("/v1/login/", self._endpoint("login", {"POST": self._login}, ("POST",)), methods=METHODS),
            Route("/v1/uploaded-file/{path:path}", self._uploaded_file, methods=METHODS),
            Route("/", self._front, methods=METHODS),
            *routes,
        ]

    def _endpoint(self, name: str, handlers: dict[str, Handler], opened: tuple[str, ...]) -> Endpoint:
        """Return one path's answer to all methods; those in `opened` need no token."""
        allowed = [*handlers, *(["HEAD"] if "GET" in handlers else []), "OPTIONS"]
        open_to_all = {*opened, *(["HEAD"] if "GET" in opened else [])}

        async def answer(request: Request) -> Response:
            method = request.method
            user = self._who(request)
            if user is None and not (method in open_to_all or (opened and method not in handlers)):
                raise answers.unauthorized(ANONYMOUS["detail"])
            if method == "OPTIONS":
                return self._described(name, handlers)
            handler = handlers.get("GET" if method == "HEAD" else method)
            if handler is None:
                raise Refusal(405, {"detail": f'Method "{method}" not allowed.'})
            return await handler(request, user)

        async def endpoint(request: Request) -> Response:
            if any("." in str(value) for value in request.path_params.values()):
                return answers.no_such_page()
            as_html = False
            try:
                as_html = answers.wants_html(request)
                found = await answer(request)
            except Refusal as refusal:
                found = Answer(refusal.body, refusal.status, refusal.headers)
            found.headers["Allow"] = ", ".join(allowed)
            return answers.browsable(found) if as_html else found

        return endpoint

    async def _unrouted(self, request: Request, problem: Exception) -> Response:
        return answers.no_such_page()

    async def _broken(self, request: Request, problem: Exception) -> Response:
        return answers.server_error()

    def _described(self, name: str, handlers: dict[str, Handler]) -> Response:
        parent, _, last = name.partition("/")
        kind = "Instance" if last == "{id}" else "List"
        body: dict[str, Any] = {
            "name": f"{parent.rstrip('s').replace('-', ' ').title()} {kind}",
            "description": "",
            "renders": ["application/json", "text/html"],
            "parses": list(forms.FORMS) if parent == "attachments" else ["application/json", *reversed(forms.FORMS)],
        }
        if parent == "attachments":
            fields = {
                field: {"type": kind, "required": field == "owned_by_user", "read_only": fixed, "label": label}
                for field, (kind, fixed, label) in FIELDS.items()
            }
            body["actions"] = {method: fields for method in ("POST", "PUT") if method in handlers}
        return Answer(body)

    # -- who asks --------------------------------------------------------------------------------------

    def _who(self, request: Request) -> Row | None:
        """Return the user of the token, None without one. Raises Refusal for a bad one, wherever it is sent."""
        words = request.headers.get("authorization", "").split()
        if not words or words[0].lower() != "token":
            return None
        if len(words) == 1:
            raise answers.unauthorized("Invalid token header. No credentials provided.")
        if len(words) > 2:
            raise answers.unauthorized("Invalid token header. Token string should not contain spaces.")
        token = self._store.one("SELECT * FROM portal_tokens WHERE key = ?", words[1])
        if token is None:
            raise answers.unauthorized("Invalid Token")
        user = self.shelf.get("users", token["user"])
        if not user["active"]:
            raise answers.unauthorized("User is not active")
        if self._renewed(token) != token["key"]:
            raise answers.unauthorized("The Token is expired")
        return user

    def _renewed(self, token: Row) -> str:
        """Return the key, a new one in place of one too old; note the call in the token's row, as each call is."""
        now, life = time.time_ns() // 1000, int(self.switches.token_life_s * 1e6)
        if token["created"] + life < now:
            return self.shelf.add_token(token["user"])
        self._store.run("UPDATE portal_tokens SET expires = ? WHERE key = ?", now + life, token["key"])
        return str(token["key"])

    async def _login(self, request: Request, user: Row | None) -> Response:
        """Answer a sign-in by ORCID. The stand-in of ORCID knows one access token for each user."""
        asked = await forms.fields_of(request, self.shelf)
        for field in ("orcid", "access_token", "refresh_token"):
            if field not in asked:
                return JSONResponse({"error": f"{field} parameter was not found in the request."}, 400)
        row = self._store.one("SELECT * FROM portal_users WHERE orcid = ?", str(asked["orcid"]))
        if row is None:
            text = "A user with the provided ORCID does not exist."
            return JSONResponse({"error": text, "USER_DOES_NOT_EXIST": True}, 400)
        if row["orcid_token"] != asked["access_token"]:
            raise Broken
        token = self._store.one("SELECT * FROM portal_tokens WHERE user = ?", row["id"])
        key = self.shelf.add_token(row["id"]) if token is None else self._renewed(token)
        token = self._store.one("SELECT * FROM portal_tokens WHERE key = ?", key)
        assert token is not None
        return JSONResponse({"user_id": row["id"], "token": key, "expires": answers.moment(token["expires"])})

    # -- the rest --------------------------------------------------------------------------------------

    async def _front(self, request: Request) -> Response:
        return RedirectResponse("/v1/search/", 302)

    async def _search_root(self, request: Request, user: Row | None) -> Response:
        return Answer({kind: f"{request.base_url}v1/search/{kind}/" for kind in KINDS})

    async def _uploaded_file(self, request: Request) -> Response:
        if not self.shelf.local or not request.path_params["path"]:
            return answers.no_such_page()
        return self._attachments.download(request.path_params["path"])
