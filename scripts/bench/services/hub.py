"""An API of BaseSpace's shape, as far as labfs asks it, so that labfs and others can read the same bytes from nginx.

Each folder below `--root` is a record of the project `Files`; `--generated N` adds a record `N` of N files that have
no bytes to the project `Generated`; `--records N` adds a project `Many` of N records of 1,000 files. Addresses of
bytes lead to `--data`, or, without it, back here, where each range that is asked for is counted. `DELETE /counters`
returns all that was counted, and counts anew.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

DATE = "2026-03-01T00:00:00.0000000Z"
FILES, GENERATED, MANY = "1", "2", "3"  # projects
IN_RECORD = 1000  # files of each record of `Many`
FIRST_FILE, FIRST_GENERATED, FIRST_OF_MANY = 1000, 1_000_000, 2_000_000  # ids of files, and of generated records
SPAN = 1_000_000  # ids of the files of one generated record

Json = dict[str, Any]


@dataclass
class File:
    """One file on the hub; `parts` is what came so far, as (bytes, MD5 in hex)."""

    number: int
    name: str
    record: str
    path: str = ""  # below the root
    size: int = 0
    tag: str = ""
    complete: bool = True
    parts: dict[int, tuple[int, str]] = field(default_factory=dict)

    def row(self) -> Json:
        state = "complete" if self.complete else "pending"
        return row(self.number, self.name, self.size, self.tag, state)


def row(number: int, name: str, size: int, tag: str, state: str = "complete") -> Json:
    return {"Id": str(number), "Name": name, "Path": name, "Size": size, "ETag": tag, "DateCreated": DATE,
            "UploadStatus": state, "ContentType": "a/b", "Href": f"v1pre3/files/{number}"}  # fmt: skip


def tag_of(path: Path) -> str:
    """Return the tag that nginx gives a file: its time and its size in hex."""
    there = path.stat()
    return f"{int(there.st_mtime):x}-{there.st_size:x}"


def record(number: int, name: str) -> Json:
    return {"Id": str(number), "Name": name, "DateCreated": DATE, "Status": "Running"}


class Hub:
    def __init__(self, root: Path, data: str, generated: Sequence[int], records: int) -> None:
        self.root, self.data = root, data
        self.generated, self.records = generated, records
        self.requests: Counter[str] = Counter()
        self.ranges: list[tuple[str, int, int]] = []  # (path, first byte, byte after the last), as asked for
        self.folders = sorted(path.name for path in root.iterdir() if path.is_dir())
        self.files: dict[int, File] = {}
        self.known: dict[str, list[File]] = {name: [] for name in self.folders}
        for folder in self.folders:
            for path in sorted((root / folder).iterdir()):
                self.add(File(0, path.name, folder, f"{folder}/{path.name}", path.stat().st_size, tag_of(path)))

    def add(self, file: File) -> File:
        file.number = FIRST_FILE + len(self.files)
        self.files[file.number] = file
        self.known[file.record].append(file)
        return file

    # -- looking -------------------------------------------------------------------------------------

    async def unknown(self, request: Request, _: Exception) -> Response:
        """Answer a route that this hub has not, such as those of version 2."""
        self.requests[f"unknown {request.url.path}"] += 1
        return answer({}, 404)

    async def me(self, _: Request) -> Response:
        return answer({"Id": "1", "Name": "Bench"})

    async def projects(self, request: Request) -> Response:
        self.requests["projects"] += 1
        wanted = {FILES: "Files", GENERATED: "Generated", MANY: "Many"}
        return page(request, [{"Id": number, "Name": name, "DateCreated": DATE} for number, name in wanted.items()])

    async def results(self, request: Request) -> Response:
        self.requests["records"] += 1
        match request.path_params["id"]:
            case "1":
                rows = [record(number, name) for number, name in enumerate(self.folders, 1)]
            case "2":
                rows = [record(FIRST_GENERATED + count, str(count)) for count in self.generated]
            case _:
                rows = [record(FIRST_OF_MANY + n, f"record {n:05}") for n in range(self.records)]
        return page(request, rows)

    async def samples(self, request: Request) -> Response:
        self.requests["records"] += 1
        return page(request, [])

    async def listing(self, request: Request) -> Response:
        self.requests["list"] += 1
        number = int(request.path_params["id"])
        if number < FIRST_GENERATED:
            complete = [file for file in self.known[self.folders[number - 1]] if file.complete]
            return window(request, len(complete), lambda i: complete[i].row())
        first = number * SPAN
        count = IN_RECORD if number >= FIRST_OF_MANY else number - FIRST_GENERATED
        return window(request, count, lambda i: row(first + i, f"read_{i:07}.fastq.gz", 1000 + i, f"{first + i:032x}"))

    async def one(self, request: Request) -> Response:
        self.requests["stat"] += 1
        file = self.files.get(int(request.path_params["id"]))
        return answer(file.row()) if file else answer({}, 404)

    # -- bytes ---------------------------------------------------------------------------------------

    async def content(self, request: Request) -> Response:
        self.requests["address"] += 1
        file = self.files[int(request.path_params["id"])]
        where = f"{self.data or f'{request.url.scheme}://{request.url.netloc}/data'}/{file.path}"
        return answer({"HrefContent": where, "Expires": "2036-01-01T00:00:00.0000000Z", "SupportsRange": True})

    async def blob(self, request: Request) -> Response:
        self.requests["bytes"] += 1
        name = request.path_params["path"]
        path = self.root / name
        size, asked = path.stat().st_size, request.headers.get("range", "")
        first, after = 0, size
        if asked:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            first, after = int(low), min(int(high) + 1, size) if high else size
        self.ranges.append((name, first, after))
        headers = {"ETag": f'"{tag_of(path)}"', "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {first}-{after - 1}/{size}"
        with path.open("rb") as file:
            file.seek(first)
            return Response(file.read(after - first), 206 if asked else 200, headers, "application/octet-stream")

    # -- saving --------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        folder = self.folders[int(request.path_params["id"]) - 1]
        file = self.add(File(0, request.query_params["name"], folder, complete=False))
        if request.query_params.get("multipart") == "true":
            self.requests["begin"] += 1
            return answer(file.row())
        self.requests["whole"] += 1
        body = await request.body()
        file.size, file.tag, file.complete = len(body), hashlib.md5(body).hexdigest(), True
        return answer(file.row(), 201)

    async def part(self, request: Request) -> Response:
        self.requests["part"] += 1
        body = await request.body()
        digest = (await asyncio.to_thread(hashlib.md5, body)).hexdigest()
        number = int(request.path_params["part"])
        self.files[int(request.path_params["id"])].parts[number] = (len(body), digest)
        return answer({"Number": number, "ETag": digest, "Size": len(body)})

    async def finish(self, request: Request) -> Response:
        file = self.files[int(request.path_params["id"])]
        if request.query_params.get("uploadstatus") == "complete":
            self.requests["finish"] += 1
            parts = [file.parts[number] for number in sorted(file.parts)]
            whole = hashlib.md5(b"".join(bytes.fromhex(digest) for _, digest in parts)).hexdigest()
            file.size, file.tag, file.complete = sum(size for size, _ in parts), f"{whole}-{len(parts)}", True
        return answer(file.row(), 201)

    async def counters(self, _: Request) -> Response:
        parts = {f.name: [f.parts[n][0] for n in sorted(f.parts)] for f in self.files.values() if f.parts}
        found = {"requests": dict(self.requests), "ranges": list(self.ranges), "parts": parts}
        self.requests.clear()
        self.ranges.clear()
        return JSONResponse(found)


def answer(content: Json, status: int = 200) -> Response:
    return JSONResponse({"Response": content, "ResponseStatus": {}, "Notifications": []}, status)


def page(request: Request, rows: Sequence[Json]) -> Response:
    return window(request, len(rows), rows.__getitem__)


def window(request: Request, count: int, make: Callable[[int], Json]) -> Response:
    """Answer one page of a list whose rows are made when they are asked for."""
    first, limit = int(request.query_params.get("Offset", 0)), min(int(request.query_params.get("Limit", 10)), 1024)
    rows = [make(i) for i in range(first, min(first + limit, count))]
    return answer({"Items": rows, "DisplayedCount": len(rows), "TotalCount": count, "Offset": first, "Limit": limit,
                   "SortDir": "Asc", "SortBy": "Id"})  # fmt: skip


def application(hub: Hub) -> Starlette:
    api = "/v1pre3"
    return Starlette(
        exception_handlers={404: hub.unknown},
        routes=[
            Route("/counters", hub.counters, methods=["DELETE"]),
            Route("/data/{path:path}", hub.blob),
            Route(f"{api}/users/current", hub.me),
            Route(f"{api}/users/current/projects", hub.projects),
            Route(f"{api}/projects/{{id}}/appresults", hub.results),
            Route(f"{api}/projects/{{id}}/samples", hub.samples),
            Route(f"{api}/appresults/{{id}}/files", hub.listing, methods=["GET"]),
            Route(f"{api}/appresults/{{id}}/files", hub.create, methods=["POST"]),
            Route(f"{api}/files/{{id}}", hub.one, methods=["GET"]),
            Route(f"{api}/files/{{id}}", hub.finish, methods=["POST"]),
            Route(f"{api}/files/{{id}}/content", hub.content),
            Route(f"{api}/files/{{id}}/parts/{{part}}", hub.part, methods=["PUT"]),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--data", default="", help="address below which the same files are served")
    parser.add_argument("--generated", type=int, nargs="*", default=[])
    parser.add_argument("--records", type=int, default=0)
    given = parser.parse_args()
    hub = Hub(given.root, given.data, given.generated, given.records)
    options: Json = {"http": "httptools", "loop": "uvloop", "access_log": False, "log_level": "warning"}
    uvicorn.run(application(hub), host="127.0.0.1", port=given.port, **options)


if __name__ == "__main__":
    main()
