"""The second version of the API (v2) over the same store: biosamples, datasets, analyses and runs.

Shapes are those of recorded traffic. A sample or an app result of the first version is a dataset here and says so in
`V1pre3Id`; what a workflow made by this version alone is a dataset and nothing else.

Tests: sandbox/test_basespace_sandbox, sandbox/test_basespace_second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from labfs.sandbox.basespace.answers import FORBIDDEN, Compact, Refusal, query_of, v2
from labfs.sandbox.basespace.deposits import Deposits
from labfs.sandbox.basespace.lists import Lists
from labfs.sandbox.basespace.shelf import OPEN_STATES, Shelf
from labfs.sandbox.basespace.shown import Shown
from labfs.sandbox.store import Row

FIRST = {"samples": "sample", "appresults": "appresult"}  # what a record of the first version is called in its id there
TYPES = {
    "samples": ("illumina.fastq.v1.8", "Illumina Fastq"),
    "appresults": ("common.files", "Files"),
    "datasets": ("illumina.fastq.v1.8", "Illumina Fastq"),
}
REFUSALS = {"forbidden": (403, FORBIDDEN), "down": (503, None)}
Handler = Callable[[Request], Awaitable[Response]]
Above = dict[tuple[str, int], dict[str, Any]]  # what the datasets of a page are in: its size is that of all its files


class Second:
    """Routes below `/v2`; `user` returns who asks, or refuses."""

    def __init__(self, shelf: Shelf, shown: Shown, lists: Lists, user: Callable[[Request], int]) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._shown = shown
        self._lists = lists
        self._user = user
        self._deposits = Deposits(shelf, shown)

    def routes(self) -> list[Route]:
        handlers: dict[str, Handler] = {
            "projects/{id:int}/datasets": self._of_project,
            "datasets": self._datasets,
            "datasets/{id}": self._dataset,
            "datasets/{id}/files": self._files,
            "biosamples": self._biosamples,
            "biosamples/{id:int}": self._biosample,
            "appsessions": self._sessions,
            "runs/{id:int}/files": self._run_files,
            "datasets/{id}/file-upload-info": self._offer,
        }
        changes: dict[str, Handler] = {
            "appsessions": self._make_session,
            "projects/{id:int}/datasets": self._make_dataset,
            "datasets/{id}/file-upload-info": self._report,
        }
        return [
            *(Route(f"/v2/{path}", self._guarded(handler)) for path, handler in handlers.items()),
            *(Route(f"/v2/{path}", self._guarded(handler), methods=["POST"]) for path, handler in changes.items()),
        ]

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            self._user(request)
            how = self._shelf.switches.v2
            if how == "absent":
                raise HTTPException(404)
            if how in REFUSALS:
                status, code = REFUSALS[how]
                raise Refusal(status, "This is not to be had.", code)
            return await handler(request)

        return guarded

    # -- lists -----------------------------------------------------------------------------------------

    async def _of_project(self, request: Request) -> Response:
        project = self._shelf.row("projects", request.path_params["id"])
        return self._page(request, "project = ?", (project["id"],))

    async def _datasets(self, request: Request) -> Response:
        query, where, values = query_of(request), "project IS NOT NULL", []
        filters = {"projectid": "project", "inputbiosamples": "biosample", "appsessionids": "session"}
        for name, column in filters.items():
            if query.get(name):
                numbers = [int(number) for number in query[name].split(",")]
                where += f" AND {column} IN ({', '.join('?' * len(numbers))})"
                values += numbers
        return self._page(request, where, tuple(values))

    def _page(self, request: Request, where: str, values: tuple[Any, ...]) -> Response:
        where = f"{where} AND kind != 'runs' AND NOT removed"
        above: Above = {}
        page = self._lists.page(
            request, "records", where, values, lambda row: self._item(request, row, above), "datasets"
        )
        return Compact(v2(page))

    async def _biosamples(self, request: Request) -> Response:
        project = query_of(request).get("projectid")
        where, values = ("project = ?", (int(project),)) if project else ("id > 0", ())
        return Compact(v2(self._lists.page(request, "biosamples", where, values, lambda row: self._bio(request, row))))

    async def _sessions(self, request: Request) -> Response:
        where, values = "user = ? AND NOT removed", [self._user(request)]
        if project := query_of(request).get("output.projects"):
            where += " AND id IN (SELECT session FROM records WHERE project = ?)"
            values.append(int(project))
        page = self._lists.page(request, "sessions", where, tuple(values), lambda row: self._session(request, row))
        return Compact(v2(page))

    async def _files(self, request: Request) -> Response:
        return self._files_of(request, self._row(request))

    async def _run_files(self, request: Request) -> Response:
        return self._files_of(request, self._shelf.row("records", request.path_params["id"]))

    def _files_of(self, request: Request, record: Row) -> Response:
        resolved = query_of(request).get("filehrefcontentresolution", "").lower() == "true"

        def item(row: Row) -> dict[str, Any]:
            return self._file(request, row, self._shelf.address(row)[0] if resolved else None)

        where = "record = ? AND status = 'complete'"
        return Compact(v2(self._lists.page(request, "files", where, (record["id"],), item, "v2 files")))

    def _file(self, request: Request, row: Row, address: str | None = None) -> dict[str, Any]:
        href = _href(request, f"files/{row['id']}")
        return {**self._shown.file(row), "Href": href, "HrefContent": address or f"{href}/content"}

    # -- what is made ------------------------------------------------------------------------------------

    async def _make_session(self, request: Request) -> Response:
        return Compact(self._session(request, await self._deposits.make_session(request, self._user(request))), 201)

    async def _make_dataset(self, request: Request) -> Response:
        project = self._shelf.row("projects", request.path_params["id"])
        return Compact(self._whole(request, await self._deposits.make_dataset(request, project)))

    async def _offer(self, request: Request) -> Response:
        return self._deposits.offer(request, self._row(request))

    async def _report(self, request: Request) -> Response:
        number = await self._deposits.report(request, self._row(request))
        return Compact(self._file(request, self._shelf.row("files", number)))

    # -- single things ---------------------------------------------------------------------------------

    def _row(self, request: Request) -> Row:
        number = request.path_params["id"].removeprefix("ds.")
        try:
            row = self._shelf.row("records", int(number, 16))
        except (ValueError, OverflowError):
            raise HTTPException(404) from None
        if row["kind"] == "runs":
            raise HTTPException(404)
        return row

    async def _dataset(self, request: Request) -> Response:
        return Compact(self._whole(request, self._row(request)))

    async def _biosample(self, request: Request) -> Response:
        return Compact(self._bio(request, self._shelf.row("biosamples", request.path_params["id"])))

    # -- as they are shown -----------------------------------------------------------------------------

    def _whole(self, request: Request, row: Row) -> dict[str, Any]:
        whole = {"Properties": self._properties(request, row), "ValidationsPerformed": []}
        return {**self._item(request, row, {}), **whole}

    def _item(self, request: Request, row: Row, above: Above) -> dict[str, Any]:
        number, date = f"ds.{row['id']:032x}", self._shown.date(row["created"])
        kind, name = TYPES[row["kind"]]
        session = self._store.one("SELECT * FROM sessions WHERE id = ?", row["session"])
        size = self._store.count("SELECT coalesce(sum(size), 0) FROM files WHERE record = ?", row["id"])
        takes_more = session is not None and session["status"].lower() in OPEN_STATES
        item = {
            "Id": number,
            "Href": _href(request, f"datasets/{number}"),
            "HrefFiles": _href(request, f"datasets/{number}/files"),
            "Name": row["name"],
            "DateCreated": date,
            "DateModified": date,
            **({} if session is None else {"AppSession": self._above(request, above, "sessions", session["id"])}),
            "Project": self._above(request, above, "projects", row["project"]),
            "TotalSize": size,
            "IsArchived": False,
            "UserOwnedBy": self._shown.user(session["user"] if session else 1),
            "DatasetType": {
                "Id": kind, "Href": _href(request, f"datasettypes/{kind}"), "Name": name,
                "ConformsToIds": ["common.files"],
            },
            "Attributes": {},
            "QcStatus": "Undefined",
            "QcStatusSummary": "No thresholds were evaluated",
            "UploadStatus": "InProgress" if takes_more else "Completed",
            "UploadStatusSummary": "",
            "ValidationStatus": "Passed",
        }  # fmt: skip
        if row["kind"] in FIRST and self._shelf.switches.v2_joined:
            item["V1pre3Id"] = f"{FIRST[row['kind']]}.{row['id']}"
        return {**item, "HrefComments": _href(request, f"datasets/{number}/comments"), "ContainsComments": False}

    def _above(self, request: Request, known: Above, table: str, number: int) -> dict[str, Any]:
        if (table, number) not in known:
            row = self._shelf.row(table, number)
            known[table, number] = self._shown.project(row) if table == "projects" else self._session(request, row)
        return known[table, number]

    def _properties(self, request: Request, row: Row) -> dict[str, Any]:
        href, items = _href(request, f"datasets/ds.{row['id']:032x}/properties"), []
        if row["biosample"] is not None:
            sample = self._bio(request, self._shelf.row("biosamples", row["biosample"]))
            items = [{"Type": "biosample[]", "Name": "Input.BioSamples", "Items": [sample]}]
        return {"Items": items, "DisplayedCount": len(items), "TotalCount": len(items), "Href": href}

    def _session(self, request: Request, row: Row) -> dict[str, Any]:
        first, href = self._shown.session(row), _href(request, f"appsessions/{row['id']}")
        kept = ("Id", "Name", "Application", "UserCreatedBy", "QcStatus", "StatusSummary", "DateCreated", "TotalSize")
        return {
            **{key: first[key] for key in kept},
            "Href": href,
            "ExecutionStatus": row["status"],
            "Purpose": "AppTrigger",
            "DateModified": first["ModifiedOn"],
            **({"DateCompleted": first["DateCompleted"]} if "DateCompleted" in first else {}),
            "DeliveryStatus": "None",
            "ContainsComments": False,
            "HrefComments": f"{href}/comments",
        }

    def _bio(self, request: Request, row: Row) -> dict[str, Any]:
        date, project = self._shown.date(row["created"]), self._shelf.row("projects", row["project"])
        return {
            "Id": str(row["id"]),
            "Href": _href(request, f"biosamples/{row['id']}"),
            "UserOwnedBy": self._shown.user(project["user"]),
            "BioSampleName": row["name"],
            "DefaultProject": self._shown.project(project),
            "DateModified": date,
            "DateCreated": date,
            "Status": "New",
            "LabStatus": "Sequencing",
        }


def _href(request: Request, path: str) -> str:
    return f"{request.base_url}v2/{path}"
