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
from labfs.sandbox.basespace.lists import Lists
from labfs.sandbox.basespace.shelf import Shelf
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


class Second:
    """Routes below `/v2` that read; `user` returns who asks, or refuses."""

    def __init__(self, shelf: Shelf, shown: Shown, lists: Lists, user: Callable[[Request], int]) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._shown = shown
        self._lists = lists
        self._user = user

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
        }
        return [Route(f"/v2/{path}", self._guarded(handler)) for path, handler in handlers.items()]

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
        return Compact(v2(self._lists.page(request, "records", where, values, lambda row: self._item(request, row))))

    async def _biosamples(self, request: Request) -> Response:
        project = query_of(request).get("projectid")
        where, values = ("project = ?", (int(project),)) if project else ("id > 0", ())
        return Compact(v2(self._lists.page(request, "biosamples", where, values, lambda row: self._bio(request, row))))

    async def _sessions(self, request: Request) -> Response:
        where, values = "user = ? AND NOT removed", (self._user(request),)
        return Compact(
            v2(self._lists.page(request, "sessions", where, values, lambda row: self._session(request, row)))
        )

    async def _files(self, request: Request) -> Response:
        return self._files_of(request, self._row(request))

    async def _run_files(self, request: Request) -> Response:
        return self._files_of(request, self._shelf.row("records", request.path_params["id"]))

    def _files_of(self, request: Request, record: Row) -> Response:
        resolved = query_of(request).get("filehrefcontentresolution", "").lower() == "true"

        def item(row: Row) -> dict[str, Any]:
            url = self._shelf.address(row)[0] if resolved else _href(request, f"files/{row['id']}/content")
            return {**self._shown.file(row), "Href": _href(request, f"files/{row['id']}"), "HrefContent": url}

        where = "record = ? AND status = 'complete'"
        return Compact(v2(self._lists.page(request, "files", where, (record["id"],), item)))

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
        row = self._row(request)
        return Compact({**self._item(request, row), "Properties": self._properties(request, row)})

    async def _biosample(self, request: Request) -> Response:
        return Compact(self._bio(request, self._shelf.row("biosamples", request.path_params["id"])))

    # -- as they are shown -----------------------------------------------------------------------------

    def _item(self, request: Request, row: Row) -> dict[str, Any]:
        number, date = f"ds.{row['id']:032x}", self._shown.date(row["created"])
        kind, name = TYPES[row["kind"]]
        session = self._store.one("SELECT * FROM sessions WHERE id = ?", row["session"])
        size = self._store.count("SELECT coalesce(sum(size), 0) FROM files WHERE record = ?", row["id"])
        item = {
            "Id": number,
            "Href": _href(request, f"datasets/{number}"),
            "HrefFiles": _href(request, f"datasets/{number}/files"),
            "Name": row["name"],
            "DateCreated": date,
            "DateModified": date,
            **({} if session is None else {"AppSession": self._session(request, session)}),
            "Project": self._shown.project(self._shelf.row("projects", row["project"])),
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
            "UploadStatus": "Completed",
            "UploadStatusSummary": "",
            "ValidationStatus": "Passed",
        }  # fmt: skip
        if row["kind"] in FIRST and self._shelf.switches.v2_joined:
            item["V1pre3Id"] = f"{FIRST[row['kind']]}.{row['id']}"
        return {**item, "HrefComments": _href(request, f"datasets/{number}/comments"), "ContainsComments": False}

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
