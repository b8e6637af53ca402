"""A stand-in of REDCap's API: POST to one address, the project implied by the token.

Strict where the service is strict (tokens, rights, fields, error bodies in the format that was asked for,
the limit of requests) and awkward where it is awkward: no sizes, no pages, no ranges, empty answers to
imports. What no source settles is a field of `Switches`.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from labfs.sandbox.blobs import Blobs
from labfs.sandbox.cost import Workers
from labfs.sandbox.redcap import seed as seeds
from labfs.sandbox.redcap import sheets
from labfs.sandbox.redcap.answers import Ask, Refusal, Writer, error
from labfs.sandbox.redcap.entry import Entry, next_name
from labfs.sandbox.redcap.files import Files
from labfs.sandbox.redcap.records import Export
from labfs.sandbox.redcap.repository import Repository
from labfs.sandbox.redcap.shelf import Caller, Shelf, Switches
from labfs.sandbox.store import MIB, Store

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
MINUTE_S = 60.0
LARGEST_VALUE = 512 * MIB  # bytes of one value of a form that is no file
NO_RIGHT = "You do not have permissions to use the API"
NO_MEMORY = (
    '{"error":"REDCap ran out of server memory. The request cannot be processed.'
    ' Please try importing/exporting a smaller amount of data."}'
)

Call = Callable[[Caller, Ask, Writer], Response]


class Redcap:
    """The service: one address, and a call for each pair of content and action."""

    name = "redcap"

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self.url = ""
        self.switches = Switches()
        self.credentials: dict[str, Any] = {"path": "/api/", "tokens": dict(seeds.TOKENS)}
        projects = {alias: {"token": seeds.TOKENS[alias]} for alias in seeds.PROJECTS}
        self.site: dict[str, Any] = {"access": "full", "projects": projects}
        self.shelf = Shelf(store, self.switches)
        self._files = Files(self.shelf)
        self._repository = Repository(self.shelf)
        self._asked: dict[str, deque[float]] = {}  # times of an address's last requests
        self._banned: set[str] = set()
        routes = []
        for path in ("/api", "/redcap/api"):
            routes.append(Route(f"{path}/", self._ask, methods=METHODS))
            routes.append(Route(path, _with_slash, methods=METHODS))
        handlers: dict[Any, Any] = {HTTPException: _not_found}
        plain = Starlette(routes=routes, exception_handlers=handlers)
        plain.router.redirect_slashes = False
        packed = GZipMiddleware(plain, compresslevel=4)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await (packed if self.switches.compression else plain)(scope, receive, send)

        self.app: ASGIApp = Workers(app, self.switches)
        self._calls = self._table()

    def error(self, status: int) -> Response:
        return error(status, "The server could not process the request.", "json", self.switches.charset)

    def seed(self) -> None:
        seeds.seed(self.shelf)

    # -- the one address ---------------------------------------------------------------------------------

    async def _ask(self, request: Request) -> Response:
        if self._is_banned(request.client.host if request.client else ""):
            text = "<!DOCTYPE html><html><body><p>Your IP address has been banned.</p></body></html>"
            return HTMLResponse(text, self.switches.ban_status)
        if request.method != "POST":
            return error(self.switches.get_status, "The requested method is not implemented.", "xml", "")
        if self.switches.empty_answers > 0:
            self.switches.empty_answers -= 1
            return Response(headers={"Content-Type": "text/html; charset=UTF-8"})
        async with request.form(max_files=20, max_fields=1_000_000, max_part_size=LARGEST_VALUE) as form:
            ask = Ask(form)
            try:
                return await self._answer(ask)
            except Refusal as refusal:
                return error(refusal.status, refusal.message, ask.return_format, self.switches.charset)

    def _is_banned(self, address: str) -> bool:
        """Count a request; who goes over the limit stays out until an administrator lifts it."""
        limit = self.switches.requests_per_minute
        if not limit:
            self._banned.clear()
            self._asked.clear()
            return False
        now, times = time.monotonic(), self._asked.setdefault(address, deque())
        times.append(now)
        while times[0] < now - MINUTE_S:
            times.popleft()
        if len(times) > limit:
            self._banned.add(address)
        return address in self._banned

    async def _answer(self, ask: Ask) -> Response:
        caller = self._caller(ask)
        content, action = ask.get("content"), ask.get("action")
        if content == "file":
            return await self._file(caller, ask, action)
        writer = Writer(ask, self.switches.charset)
        if content == "fileRepository":
            return await self._folder(caller, ask, writer, action)
        call = self._calls.get(content)
        if call is None:
            raise Refusal(400, 'The value of the parameter "content" is not valid')
        if content != "record" and action not in ("", "export"):
            raise Refusal(501, "The requested method is not implemented.")
        return call(caller, ask, writer)

    def _caller(self, ask: Ask) -> Caller:
        token = ask.get("token")
        largest = max(self.switches.largest_upload, self.switches.largest_repository_upload)
        if self.switches.too_large == "lost" and ask.file and (ask.file.size or 0) > largest:
            token = ""
        if not re.fullmatch(r"[0-9A-Za-z]{32}", token):
            raise Refusal(self.switches.missing_token_status, self.switches.missing_token_text)
        caller = self.shelf.caller(token)
        if caller is None or not (caller.rights["api_export"] or caller.rights["api_import"]):
            raise Refusal(403, NO_RIGHT)
        return caller

    def _need_export(self, caller: Caller) -> None:
        caller.need("api_export", self.switches.no_export_status, self.switches.no_export_text)

    @staticmethod
    def _need_import(caller: Caller) -> None:
        caller.need("api_import", 403, "You do not have API Import/Update privileges")

    @staticmethod
    def _need_delete(caller: Caller) -> None:
        caller.need("record_delete", 403, "You do not have Delete Record privileges")

    # -- bytes -------------------------------------------------------------------------------------------

    async def _file(self, caller: Caller, ask: Ask, action: str) -> Response:
        if action == "export":
            self._need_export(caller)
            self._need_data(caller)
            return self._files.export(caller, ask)
        if action not in ("import", "delete"):
            raise Refusal(400, 'The value of the parameter "action" is not valid')
        self._need_import(caller)
        if action == "import":
            await self._files.upload(caller, ask)
        else:
            if self.switches.delete_needs_record_right:
                self._need_delete(caller)
            self._files.delete(caller, ask)
        return self._empty()

    async def _folder(self, caller: Caller, ask: Ask, writer: Writer, action: str) -> Response:
        caller.need("file_repository", 403, "You do not have File Repository privileges")
        if action in ("list", "export"):
            self._need_export(caller)
            if action == "list":
                return self._repository.list(caller, ask, writer)
            return self._repository.export(caller, ask)
        if action not in ("import", "delete", "createFolder"):
            raise Refusal(400, 'The value of the parameter "action" is not valid')
        self._need_import(caller)
        if action == "createFolder":
            return self._repository.make_folder(caller, ask, writer)
        if action == "import":
            await self._repository.upload(caller, ask)
        else:
            self._repository.delete(caller, ask)
        return self._empty()

    def _empty(self) -> Response:
        return Response(headers={"Content-Type": self.switches.empty_type})

    # -- everything else ---------------------------------------------------------------------------------

    def _table(self) -> dict[str, Call]:
        """Return the calls without an action."""

        def rows(root: str, find: Callable[[Caller, Ask], list[dict[str, Any]]]) -> Call:
            def call(caller: Caller, ask: Ask, writer: Writer) -> Response:
                self._need_export(caller)
                return writer.table(find(caller, ask), root)

            return call

        shelf = self.shelf
        return {
            "version": self._version,
            "project": self._project,
            "metadata": rows("records", sheets.metadata),
            "instrument": rows("instruments", lambda caller, _: caller.design.instruments()),
            "exportFieldNames": rows("fields", sheets.export_names),
            "arm": rows("arms", sheets.arms),
            "event": rows("events", sheets.events),
            "formEventMapping": rows("items", sheets.mapping),
            "repeatingFormsEvents": rows("items", sheets.repeating),
            "user": rows("users", lambda caller, _: sheets.users(shelf, caller)),
            "dag": rows("dags", lambda caller, _: sheets.groups(shelf, caller)),
            "log": self._log,
            "generateNextRecordName": self._next_name,
            "record": self._record,
        }

    def _version(self, caller: Caller, _: Ask, writer: Writer) -> Response:
        self._need_export(caller)
        return writer.text(self.switches.version, "text/csv")

    def _project(self, caller: Caller, _: Ask, writer: Writer) -> Response:
        self._need_export(caller)
        return writer.single(sheets.project(self.shelf, caller))

    def _log(self, caller: Caller, ask: Ask, writer: Writer) -> Response:
        self._need_export(caller)
        caller.need("logging", 403, "You do not have Logging privileges")
        return writer.table(sheets.log(self.shelf, caller, ask), "logs", sheets.LOG_COLUMNS)

    def _next_name(self, caller: Caller, _: Ask, writer: Writer) -> Response:
        self._need_export(caller)
        return writer.text(next_name(self.shelf, caller.id), "text/csv")

    def _record(self, caller: Caller, ask: Ask, writer: Writer) -> Response:
        action = ask.get("action")
        if action == "delete":
            self._need_import(caller)
            self._need_delete(caller)
            return writer.count(Entry(self.shelf, caller, ask).delete())
        if action == "rename":
            self._need_import(caller)
            caller.need("record_rename", 403, "You do not have Rename Record privileges")
            return writer.count(Entry(self.shelf, caller, ask).rename())
        if action not in ("", "export", "import"):
            raise Refusal(400, 'The value of the parameter "action" is not valid')
        if "data" in ask:
            self._need_import(caller)
            return Entry(self.shelf, caller, ask).run(writer)
        if action == "import":
            raise Refusal(400, "The parameter 'data' is missing")
        return self._export(caller, ask, writer)

    def _export(self, caller: Caller, ask: Ask, writer: Writer) -> Response:
        self._need_export(caller)
        self._need_data(caller)
        if ask.format == "odm":
            raise Refusal(501, "The requested method is not implemented.")
        found, columns = Export(self.shelf, caller, ask).rows()
        if self.switches.memory_rows and len(found) >= self.switches.memory_rows:
            return HTMLResponse(f"<div class='red'><b>ERROR:</b> out of memory</div>{NO_MEMORY}")
        self.shelf.note(caller, "export", "Export data (API)", f"rows = {len(found)}")
        return writer.table(found, "records", columns if found else None)

    def _need_data(self, caller: Caller) -> None:
        caller.need("data_export", self.switches.no_export_status, "You do not have data export privileges")


async def _with_slash(request: Request) -> Response:
    return RedirectResponse(f"{request.url.path}/", 301)


async def _not_found(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    status = problem.status_code
    text = "The requested URL was not found on this server." if status == 404 else problem.detail
    return HTMLResponse(f"<!DOCTYPE html><html><body><h1>{status}</h1><p>{text}</p></body></html>", status)
