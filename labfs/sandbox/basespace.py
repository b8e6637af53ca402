"""A stand-in of BaseSpace Sequence Hub: v1pre3, and of v2 what clients need beside it.

Strict where the service is strict (tokens, part numbers and sizes, MD5, states, page cap) and awkward
where it is awkward. What no source settles is a field of `Switches`.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from labfs.sandbox.blobs import Blobs
from labfs.sandbox.store import Row, Store

SERVICE = "basespace"
MIB = 1024 * 1024
LEAST_PART, GREATEST_PART, LAST_PART = 5 * MIB, 25 * MIB, 10_000
LARGEST_PAGE = 1024
RECORDS = ("appresults", "samples", "runs")
OPEN_STATES = ("running", "needsattention", "timedout")

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, email TEXT);
CREATE TABLE IF NOT EXISTS tokens (token TEXT PRIMARY KEY, user INTEGER, scopes TEXT);
CREATE TABLE IF NOT EXISTS projects (id INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER, name TEXT, description TEXT,
    created REAL, modified REAL, removed INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS sessions (id INTEGER PRIMARY KEY AUTOINCREMENT, user INTEGER, name TEXT, status TEXT,
    summary TEXT, created REAL, modified REAL, removed INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, project INTEGER, session INTEGER,
    name TEXT, description TEXT, created REAL, removed INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS files (id INTEGER PRIMARY KEY AUTOINCREMENT, record INTEGER, name TEXT, path TEXT, type TEXT,
    size INTEGER, etag TEXT, status TEXT, archived INTEGER DEFAULT 0, created REAL, modified REAL,
    blob TEXT, key TEXT);
CREATE INDEX IF NOT EXISTS files_of ON files (record, id);
CREATE TABLE IF NOT EXISTS parts (file INTEGER, number INTEGER, etag TEXT, size INTEGER, blob TEXT,
    PRIMARY KEY (file, number));
CREATE TABLE IF NOT EXISTS properties (resource TEXT, name TEXT, type TEXT, description TEXT, content TEXT,
    PRIMARY KEY (resource, name));
CREATE TABLE IF NOT EXISTS trash (id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER, deleted REAL);
"""


@dataclass(slots=True)
class Switches:
    """What the sources leave open, each with the variant that is likelier."""

    created_status: int = 201  # of a project, a record and a simple upload
    redirect_status: int = 302  # of a file's content
    default_limit: int = 10
    over_limit: str = "clamp"  # or "refuse"
    same_path: str = "duplicate"  # or "replace" or "conflict"
    pending_listed: bool = False
    empty_upload: str = "refuse"  # or "accept"
    after_complete_status: int = 403
    bad_md5_status: int = 400
    url_life_s: float = 7 * 24 * 3600.0
    sort_ignored: bool = False
    short_pages: int = 0  # items in a page at most; 0 for no such limit


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


FORBIDDEN = "BASESPACE.COMMON.INSUFFICIENT_RESOURCE_PERMISSIONS"
NO_CACHE = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache", "Expires": "0"}


class Compact(JSONResponse):
    """JSON without spaces and, as the real service sends it, without a Content-Length."""

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers({**NO_CACHE, "X-Request-ID": "sandbox", **(headers or {})})
        if self.status_code < 400:
            self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]


def error(status: int, message: str = "Internal Server Error", code: str | None = None) -> Response:
    answer: dict[str, Any] = {"Message": message}
    if code:
        answer["ErrorCode"] = code
    body = {"ResponseStatus": answer, "Notifications": [{"Type": "error", "Item": message}]}
    return Compact(body, status, media_type="application/json; charset=utf-8")


def single(found: Any, status: int = 200) -> Response:
    return Compact({"Response": found, "ResponseStatus": {}, "Notifications": []}, status)


def moment(seconds: float | None) -> str:
    """Return an ISO time with seven digits of a second."""
    if seconds is None:
        return "0001-01-01T00:00:00.0000000Z"
    utc = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond:06d}0Z"


class BaseSpace:
    """The service: routes over a store, bytes in the blob origin."""

    def __init__(self, store: Store, blobs: Blobs, switches: Switches | None = None) -> None:
        self.store = store
        self.blobs = blobs
        self.switches = switches or Switches()
        store.script(SCHEMA)
        v1, v2 = "/v1pre3", "/v2"
        self.app = Starlette(
            routes=[
                Route(f"{v1}/users/current", self._me),
                Route(f"{v1}/users/current/projects", self._projects),
                Route(f"{v1}/users/current/runs", self._runs),
                Route(f"{v1}/users/current/appsessions", self._sessions),
                Route(f"{v1}/oauthv2/token/current", self._token),
                Route(f"{v1}/projects", self._make_project, methods=["POST"]),
                Route(f"{v1}/projects/", self._make_project, methods=["POST"]),
                Route(f"{v1}/projects/{{id:int}}", self._project),
                Route(f"{v1}/projects/{{id:int}}/appresults", self._make_record, methods=["POST"]),
                Route(f"{v1}/projects/{{id:int}}/{{kind}}", self._records),
                Route(f"{v1}/appsessions/{{id:int}}", self._session, methods=["GET", "POST"]),
                Route(f"{v1}/files/{{id:int}}", self._file),
                Route(f"{v1}/files/{{id:int}}", self._finish, methods=["POST"]),
                Route(f"{v1}/files/{{id:int}}/content", self._content),
                Route(f"{v1}/files/{{id:int}}/parts", self._parts),
                Route(f"{v1}/files/{{id:int}}/parts/{{number:int}}", self._put_part, methods=["PUT"]),
                Route(f"{v1}/{{kind}}/{{id:int}}/properties", self._properties, methods=["GET", "POST"]),
                Route(f"{v1}/{{kind}}/{{id:int}}/files", self._files),
                Route(f"{v1}/{{kind}}/{{id:int}}/files", self._upload, methods=["POST"]),
                Route(f"{v1}/{{kind}}/{{id:int}}", self._record),
                Route(f"{v2}/oauthv2tokens/current", self._revoke, methods=["DELETE"]),
                Route(f"{v2}/appsessions/{{id:int}}", self._trash_session, methods=["DELETE"]),
                Route(f"{v2}/trash", self._trash),
                Route(f"{v2}/trash", self._empty_trash, methods=["DELETE"]),
                Route(f"{v2}/trash/{{id:int}}/restorefromtrash", self._restore, methods=["POST"]),
                Route(f"{v2}/projects/{{id:int}}/datasets", self._datasets),
                Route(f"{v2}/datasets/{{id}}/files", self._dataset_files),
            ],
            exception_handlers={Refusal: _refused, HTTPException: _unknown},
        )

    # -- who asks, and for what ------------------------------------------------------------------------

    def _user(self, request: Request) -> int:
        """Return the user of the token, which may come in three ways but only in one of them."""
        bearer = request.headers.get("authorization", "")
        given = [
            request.headers.get("x-access-token"),
            bearer.removeprefix("Bearer ").strip() if bearer.lower().startswith("bearer ") else None,
            _query(request).get("access_token"),
        ]
        tokens = [token for token in given if token]
        if len(tokens) > 1:
            raise Refusal(400, "More than one access token was sent.", "BASESPACE.COMMON.BAD_REQUEST")
        row = self.store.one("SELECT user FROM tokens WHERE token = ?", tokens[0] if tokens else "")
        if row is None:
            raise Refusal(401, "Unrecognized access token", "BASESPACE.COMMON.UNAUTHORIZED")
        return int(row["user"])

    def _row(self, table: str, number: int) -> Row:
        """Return a row that is there; a stranger's, or none, looks the same from outside."""
        row = self.store.one(f"SELECT * FROM {table} WHERE id = ?", number)  # a table name of our own
        if row is None:
            message = "Sorry but this requires READ access to this Run resource."
            raise Refusal(403, message, FORBIDDEN)
        if "removed" in row.keys() and row["removed"]:  # noqa: SIM118, a sqlite3.Row is no dict
            raise Refusal(410, "The resource has been removed.", "BASESPACE.COMMON.RESOURCE_REMOVED")
        return row

    def _kind(self, request: Request) -> str:
        kind = str(request.path_params["kind"])
        if kind not in RECORDS:
            raise Refusal(404, f"Unable to find a route for {request.url.path}")
        return kind

    def _record_row(self, request: Request) -> Row:
        self._user(request)
        kind = self._kind(request)
        row = self._row("records", request.path_params["id"])
        if row["kind"] != kind:
            raise Refusal(403, "Sorry but this requires READ access to this Run resource.", FORBIDDEN)
        return row

    # -- lists -----------------------------------------------------------------------------------------

    def _list(self, request: Request, table: str, where: str, values: tuple[Any, ...], convert: Any) -> dict[str, Any]:
        """Answer one page; an order that the list does not know is silently replaced."""
        query = _query(request)
        orders = {"id": "id", "name": "name", "datecreated": "created"}
        if table == "files":
            orders = {"id": "id", "path": "path", "datecreated": "created"}
        asked = query.get("sortby", "Id").lower()
        known = asked in orders and not self.switches.sort_ignored
        column = orders[asked] if known else ("created" if self.switches.sort_ignored else "id")
        echo = {"id": "Id", "name": "Name", "path": "Path", "created": "DateCreated"}[column]
        descending = query.get("sortdir", "Asc").lower() == "desc"
        offset, limit = self._window(query)
        order = f"ORDER BY {column} {'DESC' if descending else 'ASC'}, id LIMIT ? OFFSET ?"
        rows = self.store.all(f"SELECT * FROM {table} WHERE {where} {order}", *values, limit, offset)
        return {
            "Items": [convert(row) for row in rows],
            "DisplayedCount": len(rows),
            "TotalCount": self.store.count(f"SELECT count(*) FROM {table} WHERE {where}", *values),
            "Offset": offset,
            "Limit": limit,
            "SortDir": "Desc" if descending else "Asc",
            "SortBy": echo,
        }

    def _window(self, query: Mapping[str, str]) -> tuple[int, int]:
        try:
            offset, limit = int(query.get("offset", 0)), int(query.get("limit", self.switches.default_limit))
        except ValueError:
            raise Refusal(400, "Offset and Limit must be numbers.", "BASESPACE.COMMON.BAD_REQUEST") from None
        if limit > LARGEST_PAGE and self.switches.over_limit == "refuse":
            raise Refusal(400, f"Limit must be at most {LARGEST_PAGE}.", "BASESPACE.COMMON.BAD_REQUEST")
        limit = min(max(limit, 0), LARGEST_PAGE, self.switches.short_pages or LARGEST_PAGE)
        return max(offset, 0), limit

    async def _me(self, request: Request) -> Response:
        row = self._row("users", self._user(request))
        me = self._compact_user(row["id"])
        return single({**me, "Email": row["email"], "HrefProjects": "v1pre3/users/current/projects",
                       "HrefRuns": "v1pre3/users/current/runs"})  # fmt: skip

    async def _projects(self, request: Request) -> Response:
        user, name = self._user(request), _query(request).get("name")
        where, values = "user = ? AND NOT removed", (user,)
        if name is not None:
            return single(self._list(request, "projects", f"{where} AND name = ?", (*values, name), self._project_item))
        return single(self._list(request, "projects", where, values, self._project_item))

    async def _runs(self, request: Request) -> Response:
        self._user(request)
        return single(self._list(request, "records", "kind = 'runs' AND NOT removed", (), self._record_item))

    async def _sessions(self, request: Request) -> Response:
        where = "user = ? AND NOT removed"
        return single(self._list(request, "sessions", where, (self._user(request),), self._session_item))

    async def _records(self, request: Request) -> Response:
        self._user(request)
        kind, project = self._kind(request), self._row("projects", request.path_params["id"])
        where = "project = ? AND kind = ? AND NOT removed"
        return single(self._list(request, "records", where, (project["id"], kind), self._record_item))

    async def _files(self, request: Request) -> Response:
        record, query = self._record_row(request), _query(request)
        where, values = "record = ? AND status != 'aborted'", [record["id"]]
        if not self.switches.pending_listed:
            where += " AND status = 'complete'"
        if query.get("extensions"):
            endings = [ending.strip() for ending in query["extensions"].split(",")]
            where += " AND (" + " OR ".join("name LIKE ?" for _ in endings) + ")"
            values += [f"%{ending}" for ending in endings]
        if "directory" in query:
            directory = query["directory"].strip("/")
            where += " AND path = CASE WHEN ? = '' THEN name ELSE ? || '/' || name END"
            values += [directory, directory]
        return single(self._list(request, "files", where, tuple(values), self._file_item))

    # -- single things ---------------------------------------------------------------------------------

    async def _project(self, request: Request) -> Response:
        self._user(request)
        row = self._row("projects", request.path_params["id"])
        href = f"v1pre3/projects/{row['id']}"
        extra = {
            "HrefSamples": f"{href}/samples",
            "HrefAppResults": f"{href}/appresults",
            "HrefBaseSpaceUI": f"https://basespace.illumina.com/projects/{row['id']}",
            "Properties": self._property_list(f"projects/{row['id']}"),
        }
        return single({**self._project_item(row), **extra})

    async def _record(self, request: Request) -> Response:
        row = self._record_row(request)
        resource = f"{row['kind']}/{row['id']}"
        extra = {
            "Description": row["description"],
            "HrefFiles": f"v1pre3/{resource}/files",
            "References": [],
            "Properties": self._property_list(resource),
            "Projects": [self._project_item(self._row("projects", row["project"]))],
        }
        return single({**self._record_item(row), **extra})

    async def _file(self, request: Request) -> Response:
        self._user(request)
        return single(self._file_whole(self._row("files", request.path_params["id"])))

    async def _session(self, request: Request) -> Response:
        self._user(request)
        row = self._row("sessions", request.path_params["id"])
        if request.method == "POST":
            asked = {key.lower(): value for key, value in (await _json(request)).items()}
            if row["status"].lower() not in OPEN_STATES:
                raise Refusal(403, f"An appsession that is {row['status']} cannot be changed.", FORBIDDEN)
            if len(asked.get("statussummary") or "") > 128:
                raise Refusal(400, "StatusSummary must be at most 128 characters.", "BASESPACE.COMMON.BAD_REQUEST")
            status = str(asked.get("status", "")).lower()
            if status not in (*OPEN_STATES, "complete", "aborted"):
                raise Refusal(400, "Unknown status.", "BASESPACE.COMMON.BAD_REQUEST")
            self.store.run(
                "UPDATE sessions SET status = ?, summary = ?, modified = ? WHERE id = ?",
                status.capitalize(), asked.get("statussummary", ""), time.time(), row["id"],
            )  # fmt: skip
            row = self._row("sessions", row["id"])
        return single(self._session_item(row))

    async def _token(self, request: Request) -> Response:
        user = self._user(request)
        row = self.store.one("SELECT * FROM tokens WHERE user = ?", user)
        assert row is not None
        return single({
            "Scopes": json.loads(row["scopes"]),
            "UserResourceOwner": self._compact_user(user),
            "Application": {"Id": "1", "Name": "Sandbox"},
            "DateCreated": moment(None),
        })  # fmt: skip

    async def _properties(self, request: Request) -> Response:
        self._user(request)
        resource = f"{request.path_params['kind']}/{request.path_params['id']}"
        if request.method == "POST":
            for item in (await _json(request)).get("Properties", []):
                values = (item["Name"], item.get("Type", "String"), item.get("Description", ""), item.get("Content"))
                self.store.run("INSERT OR REPLACE INTO properties VALUES (?, ?, ?, ?, ?)", resource, *values)
        return single(self._property_list(resource))

    async def _content(self, request: Request) -> Response:
        self._user(request)
        row = self._row("files", request.path_params["id"])
        if row["status"] != "complete":
            raise Refusal(403, "The file's upload is not complete.", FORBIDDEN)
        if row["archived"]:
            raise Refusal(409, "The file is archived and must be restored first.", "BASESPACE.FILES.ARCHIVED")
        url, until = self._address(row)
        if _query(request).get("redirect", "true").lower() == "meta":
            return single({"Expires": moment(until), "HrefContent": url, "SupportsRange": True})
        return RedirectResponse(url, self.switches.redirect_status)

    def _address(self, row: Row) -> tuple[str, float]:
        return self.blobs.address(row["key"], row["name"], row["type"], self.switches.url_life_s)

    async def _parts(self, request: Request) -> Response:
        self._user(request)
        row = self._row("files", request.path_params["id"])
        rows = self.store.all("SELECT * FROM parts WHERE file = ? ORDER BY number", row["id"])
        items = [{"Number": part["number"], "ETag": part["etag"], "Size": part["size"]} for part in rows]
        return single({"Items": items, "DisplayedCount": len(items), "TotalCount": len(items)})

    # -- making ----------------------------------------------------------------------------------------

    async def _make_project(self, request: Request) -> Response:
        user, name = self._user(request), str((await _json(request)).get("Name") or "")
        if not name:
            raise Refusal(400, "A project needs a Name.", "BASESPACE.COMMON.BAD_REQUEST")
        row = self.store.one("SELECT * FROM projects WHERE user = ? AND name = ? AND NOT removed", user, name)
        if row is None:
            row = self._row("projects", self.add_project(user, name))
        return single(self._project_item(row), self.switches.created_status)

    async def _make_record(self, request: Request) -> Response:
        user, project, asked = self._user(request), self._row("projects", request.path_params["id"]), await _json(request)
        name = str(asked.get("Name") or "")
        if not name:
            raise Refusal(400, "An appresult needs a Name.", "BASESPACE.COMMON.BAD_REQUEST")
        given = _query(request).get("appsessionid")
        session = int(given) if given else self.add_session(user, name)
        self._row("sessions", session)
        number = self.add_record("appresults", project["id"], name, session, str(asked.get("Description") or ""))
        return single(self._record_item(self._row("records", number)), self.switches.created_status)

    def add_project(self, user: int, name: str, created: float | None = None) -> int:
        when = created or time.time()
        return self.store.run(
            "INSERT INTO projects (user, name, description, created, modified) VALUES (?, ?, '', ?, ?)",
            user, name, when, when,
        )  # fmt: skip

    def add_session(self, user: int, name: str, status: str = "Running", created: float | None = None) -> int:
        when = created or time.time()
        return self.store.run(
            "INSERT INTO sessions (user, name, status, summary, created, modified) VALUES (?, ?, ?, '', ?, ?)",
            user, name, status, when, when,
        )  # fmt: skip

    def add_record(
        self, kind: str, project: int, name: str, session: int | None, text: str = "", created: float | None = None
    ) -> int:
        return self.store.run(
            "INSERT INTO records (kind, project, session, name, description, created) VALUES (?, ?, ?, ?, ?, ?)",
            kind, project, session, name, text, created or time.time(),
        )  # fmt: skip

    # -- uploading -------------------------------------------------------------------------------------

    async def _upload(self, request: Request) -> Response:
        record, query = self._writable(request), _query(request)
        name = query.get("name") or ""
        if not name:
            raise Refusal(400, "A file needs a name.", "BASESPACE.COMMON.BAD_REQUEST")
        if "content-type" not in request.headers:
            raise Refusal(400, "A file needs a Content-Type.", "BASESPACE.COMMON.BAD_REQUEST")
        path = "/".join(part for part in (query.get("directory", "").strip("/"), name) if part)
        self._check_path(record["id"], path)
        if query.get("multipart", "").lower() == "true":
            async for _ in request.stream():
                pass  # the body of such a request is ignored
            return single(self._begin(record["id"], name, path, request.headers["content-type"]))
        blob, size, md5 = await self.store.receive(_body_of(request))
        if size == 0 and self.switches.empty_upload == "refuse":
            self.store.drop(blob)
            raise Refusal(400, "The request has no body.", "BASESPACE.COMMON.BAD_REQUEST")
        number = self.add_file(record["id"], path, blob, size, md5, request.headers["content-type"])
        return single(self._file_whole(self._row("files", number)), self.switches.created_status)

    def _writable(self, request: Request) -> Row:
        record = self._record_row(request)
        if record["kind"] == "runs":
            raise Refusal(403, "Files cannot be uploaded to a run.", FORBIDDEN)
        if record["session"] is not None:
            session = self._row("sessions", record["session"])
            if session["status"].lower() not in OPEN_STATES:
                raise Refusal(403, "Sorry but this requires WRITE access to this AppResult resource.", FORBIDDEN)
        if record["kind"] == "samples":
            raise Refusal(403, "Files of a sample must be valid FASTQ files of a whole sample.", FORBIDDEN)
        return record

    def _check_path(self, record: int, path: str) -> None:
        where = "record = ? AND path = ? AND status = 'complete'"
        if self.switches.same_path == "conflict" and self.store.count(
            f"SELECT count(*) FROM files WHERE {where}", record, path
        ):
            raise Refusal(409, "A file of this path exists.", "BASESPACE.COMMON.CONFLICT")

    def _begin(self, record: int, name: str, path: str, content_type: str) -> dict[str, Any]:
        now = time.time()
        number = self.store.run(
            "INSERT INTO files (record, name, path, type, size, status, created, modified)"
            " VALUES (?, ?, ?, ?, 0, 'pending', ?, ?)",
            record, name, path, content_type, now, now,
        )  # fmt: skip
        return self._file_whole(self._row("files", number))

    def add_file(
        self, record: int, path: str, blob: str, size: int, etag: str, content_type: str,
        created: float | None = None, archived: bool = False,
    ) -> int:  # fmt: skip
        """Make a complete file of a blob."""
        when = created or time.time()
        self._supersede(record, path)
        return self.store.run(
            "INSERT INTO files (record, name, path, type, size, etag, status, archived, created, modified, blob, key)"
            " VALUES (?, ?, ?, ?, ?, ?, 'complete', ?, ?, ?, ?, ?)",
            record, path.rsplit("/", 1)[-1], path, content_type, size, etag, archived, when, when, blob,
            self.blobs.add(blob, etag),
        )  # fmt: skip

    def _supersede(self, record: int, path: str) -> None:
        if self.switches.same_path == "replace":
            self.store.run("UPDATE files SET status = 'aborted' WHERE record = ? AND path = ?", record, path)

    async def _put_part(self, request: Request) -> Response:
        self._user(request)
        row, number = self._row("files", request.path_params["id"]), request.path_params["number"]
        if not 1 <= number <= LAST_PART:
            raise Refusal(400, f"Part numbers go from 1 to {LAST_PART}.", "BASESPACE.FILES.INVALID_PART")
        self._check_pending(row)
        blob, size, md5 = await self.store.receive(_body_of(request))
        try:
            if size > GREATEST_PART:
                raise Refusal(400, "A part may not be larger than 25 MB.", "BASESPACE.FILES.INVALID_PART")
            _check_md5(request.headers.get("content-md5"), md5, self.switches.bad_md5_status)
            self._check_pending(self._row("files", row["id"]))
        except Refusal:
            self.store.drop(blob)
            raise
        before = self.store.one("SELECT blob FROM parts WHERE file = ? AND number = ?", row["id"], number)
        self.store.run("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?)", row["id"], number, md5, size, blob)
        if before is not None:
            self.store.drop(before["blob"])
        return single({"Number": number, "ETag": md5, "Size": size})

    def _check_pending(self, row: Row) -> None:
        if row["status"] != "pending":
            message = f"The upload of this file is {row['status']}."
            raise Refusal(self.switches.after_complete_status, message, "BASESPACE.FILES.UPLOAD_NOT_PENDING")

    async def _finish(self, request: Request) -> Response:
        self._user(request)
        row, status = self._row("files", request.path_params["id"]), _query(request).get("uploadstatus", "").lower()
        if status == "aborted":
            self._check_pending(row) if row["status"] == "complete" else self._abort(row)
            return single(self._file_whole(self._row("files", row["id"])))
        if status != "complete":
            raise Refusal(400, "uploadstatus must be complete or aborted.", "BASESPACE.COMMON.BAD_REQUEST")
        self._check_pending(row)
        await self._assemble(row)
        return single(self._file_whole(self._row("files", row["id"])), 201)

    def _abort(self, row: Row) -> None:
        for part in self.store.all("SELECT blob FROM parts WHERE file = ?", row["id"]):
            self.store.drop(part["blob"])
        self.store.run("DELETE FROM parts WHERE file = ?", row["id"])
        self.store.run("UPDATE files SET status = 'aborted' WHERE id = ?", row["id"])

    async def _assemble(self, row: Row) -> None:
        parts = self.store.all("SELECT * FROM parts WHERE file = ? ORDER BY number", row["id"])
        if not parts:
            raise Refusal(400, "The upload has no parts.", "BASESPACE.FILES.NO_PARTS")
        small = [part["number"] for part in parts[:-1] if part["size"] < LEAST_PART]
        if small:
            message = f"Part {small[0]} is smaller than 5 MB and not the last one."
            raise Refusal(400, message, "BASESPACE.FILES.INVALID_PART")
        blob = await anyio.to_thread.run_sync(self.store.join, [part["blob"] for part in parts])
        digest = hashlib.md5(b"".join(bytes.fromhex(part["etag"]) for part in parts), usedforsecurity=False)
        etag = f"{digest.hexdigest()}-{len(parts)}"
        self._supersede(row["record"], row["path"])
        self.store.run("DELETE FROM parts WHERE file = ?", row["id"])
        self.store.run(
            "UPDATE files SET status = 'complete', size = ?, etag = ?, modified = ?, blob = ?, key = ? WHERE id = ?",
            sum(part["size"] for part in parts), etag, time.time(), blob, self.blobs.add(blob, etag), row["id"],
        )  # fmt: skip

    # -- v2 and the trash ------------------------------------------------------------------------------

    async def _revoke(self, request: Request) -> Response:
        user = self._user(request)
        self.store.run("DELETE FROM tokens WHERE user = ?", user)
        return Compact({})

    async def _trash_session(self, request: Request) -> Response:
        self._user(request)
        row = self._row("sessions", request.path_params["id"])
        self._set_removed(row["id"], True)
        number = self.store.run("INSERT INTO trash (session, deleted) VALUES (?, ?)", row["id"], time.time())
        return Compact({"Id": str(number), "DateDeleted": moment(time.time())})

    async def _trash(self, request: Request) -> Response:
        self._user(request)
        rows = self.store.all("SELECT * FROM trash ORDER BY id")
        items = [{"Id": str(r["id"]), "ResourceId": str(r["session"]), "DateDeleted": moment(r["deleted"])} for r in rows]
        return Compact({"Items": items, "Paging": _paging(len(items), len(items), 0, 50, "DateDeleted")})

    async def _empty_trash(self, request: Request) -> Response:
        self._user(request)
        self.store.run("DELETE FROM trash")
        return Compact({})

    async def _restore(self, request: Request) -> Response:
        self._user(request)
        row = self._row("trash", request.path_params["id"])
        self._set_removed(row["session"], False)
        self.store.run("DELETE FROM trash WHERE id = ?", row["id"])
        return Compact({})

    def _set_removed(self, session: int, removed: bool) -> None:
        self.store.run("UPDATE sessions SET removed = ? WHERE id = ?", removed, session)
        self.store.run("UPDATE records SET removed = ? WHERE session = ?", removed, session)

    async def _datasets(self, request: Request) -> Response:
        self._user(request)
        project = self._row("projects", request.path_params["id"])
        where = "project = ? AND kind != 'runs' AND NOT removed"
        return Compact(_v2(self._list(request, "records", where, (project["id"],), self._dataset_item)))

    async def _dataset_files(self, request: Request) -> Response:
        self._user(request)
        record = self._row("records", int(request.path_params["id"].removeprefix("ds."), 16))
        resolved = _query(request).get("filehrefcontentresolution", "").lower() == "true"

        def item(row: Row) -> dict[str, Any]:
            url = self._address(row)[0] if resolved else f"{request.base_url}v2/files/{row['id']}/content"
            return {**self._file_item(row), "HrefContent": url}

        where = "record = ? AND status = 'complete'"
        return Compact(_v2(self._list(request, "files", where, (record["id"],), item)))

    # -- rows → JSON -----------------------------------------------------------------------------------

    def _compact_user(self, number: int) -> dict[str, Any]:
        row = self.store.one("SELECT * FROM users WHERE id = ?", number)
        name = row["name"] if row else "Somebody"
        return {"Id": str(number), "Href": f"v1pre3/users/{number}", "Name": name, "DateCreated": moment(None)}

    def _project_item(self, row: Row) -> dict[str, Any]:
        size = "SELECT coalesce(sum(size), 0) FROM files JOIN records ON records.id = record WHERE project = ?"
        return {
            "Id": str(row["id"]),
            "Href": f"v1pre3/projects/{row['id']}",
            "Name": row["name"],
            "UserOwnedBy": self._compact_user(row["user"]),
            "Description": row["description"],
            "DateCreated": moment(row["created"]),
            "DateModified": moment(row["modified"]),
            "HasCollaborators": False,
            "TotalSize": self.store.count(size, row["id"]),
        }

    def _record_item(self, row: Row) -> dict[str, Any]:
        session = self.store.one("SELECT * FROM sessions WHERE id = ?", row["session"])
        item = {
            "Id": str(row["id"]),
            "Href": f"v1pre3/{row['kind']}/{row['id']}",
            "Name": row["name"],
            "UserOwnedBy": self._compact_user(session["user"] if session else 1),
            "Status": session["status"] if session else "Complete",
            "StatusSummary": session["summary"] if session else "",
            "DateCreated": moment(row["created"]),
            "TotalSize": self.store.count("SELECT coalesce(sum(size), 0) FROM files WHERE record = ?", row["id"]),
        }
        if session is not None:
            item["AppSession"] = self._session_item(session)
        if row["kind"] == "samples":
            item["SampleId"] = row["name"]
        return item

    def _session_item(self, row: Row) -> dict[str, Any]:
        return {
            "Id": str(row["id"]),
            "Name": row["name"],
            "Href": f"v1pre3/appsessions/{row['id']}",
            "Status": row["status"],
            "StatusSummary": row["summary"],
            "Application": {"Id": "1", "Name": "Sandbox"},
            "DateCreated": moment(row["created"]),
            "ModifiedOn": moment(row["modified"]),
        }

    def _file_item(self, row: Row) -> dict[str, Any]:
        item = {
            "Id": str(row["id"]),
            "Href": f"v1pre3/files/{row['id']}",
            "HrefContent": f"v1pre3/files/{row['id']}/content",
            "Name": row["name"],
            "Path": row["path"],
            "ContentType": row["type"],
            "Size": row["size"],
            "IsArchived": bool(row["archived"]),
            "DateCreated": moment(row["created"]),
            "DateModified": moment(row["modified"]),
            "IdAsLong": row["id"],
        }
        return {**item, "ETag": row["etag"]} if row["etag"] else item

    def _file_whole(self, row: Row) -> dict[str, Any]:
        whole = {**self._file_item(row), "UploadStatus": row["status"], "Properties": []}
        del whole["IdAsLong"]
        if row["status"] == "pending":
            whole["HrefParts"] = f"v1pre3/files/{row['id']}/parts"
        return whole

    def _dataset_item(self, row: Row) -> dict[str, Any]:
        return {
            "Id": f"ds.{row['id']:032x}",
            "Name": row["name"],
            "DateCreated": moment(row["created"]),
            "DatasetType": {"Id": "common.files" if row["kind"] == "appresults" else "illumina.fastq.v1.8"},
        }

    def _property_list(self, resource: str) -> dict[str, Any]:
        rows = self.store.all("SELECT * FROM properties WHERE resource = ? ORDER BY name", resource)
        items = [
            {"Type": r["type"], "Name": r["name"], "Description": r["description"], "Content": r["content"]}
            for r in rows
        ]
        return {"Items": items, "DisplayedCount": len(items), "TotalCount": len(items)}


def _query(request: Request) -> dict[str, str]:
    """Return the query with its names in lower case: the service does not mind theirs."""
    return {name.lower(): value for name, value in request.query_params.items()}


async def _json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await request.body() or b"{}")
    except ValueError:
        raise Refusal(400, "The body is not valid JSON.", "BASESPACE.COMMON.BAD_REQUEST") from None
    if not isinstance(found, dict):
        raise Refusal(400, "The body is not a JSON object.", "BASESPACE.COMMON.BAD_REQUEST")
    return found


async def _body_of(request: Request) -> AsyncIterator[bytes]:
    """Yield the bytes of the file: the body, or the first file of a form."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        async for chunk in request.stream():
            yield chunk
        return
    async with request.form() as form:
        for value in form.values():
            if not isinstance(value, str):
                while chunk := await value.read(MIB):
                    yield chunk
                return


def _check_md5(header: str | None, found: str, status: int) -> None:
    if header is None:
        return
    try:
        wanted = base64.b64decode(header, validate=True).hex()
    except binascii.Error:
        wanted = ""
    if wanted != found:
        raise Refusal(status, "The Content-MD5 does not match the body.", "BASESPACE.FILES.BAD_DIGEST")


def _paging(shown: int, total: int, offset: int, limit: int, by: str) -> dict[str, Any]:
    return {"DisplayedCount": shown, "TotalCount": total, "Offset": offset, "Limit": limit,
            "SortDir": "Asc", "SortBy": by}  # fmt: skip


def _v2(found: dict[str, Any]) -> dict[str, Any]:
    return {"Items": found.pop("Items"), "Paging": found}


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    if request.url.path.startswith("/v2/"):
        body = {"ErrorCode": refusal.code, "ErrorMessage": refusal.message, "RequestId": "sandbox", "AdditionalData": {}}
        return Compact(body, refusal.status)
    return error(refusal.status, refusal.message, refusal.code)


async def _unknown(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return error(problem.status_code, f"Unable to find a route for {request.method} {request.url.path}")
