"""Files of the Clarity stand-in: attached in three requests, fetched in one.

Tests: sandbox/test_clarity_sandbox, clients/test_clarity_clients.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from labfs.sandbox.clarity.shelf import REMOTE, UNDER_REVIEW, Shelf, Target
from labfs.sandbox.clarity.shown import Shown, bare
from labfs.sandbox.clarity.wire import Refusal, answer, text_of, xml_of
from labfs.sandbox.store import MIB

TYPES = {
    "csv": "text/csv", "txt": "text/plain", "html": "text/html", "xml": "application/xml", "pdf": "application/pdf",
    "png": "image/png", "jpg": "image/jpeg", "gz": "application/gzip", "zip": "application/zip",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}  # fmt: skip
UNKNOWN_TYPE = "application/octet-stream"


class Files:
    """Handlers of files; the service has checked already who asks."""

    def __init__(self, shelf: Shelf, shown: Shown) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._switches = shelf.switches
        self._shown = shown

    # -- attaching -------------------------------------------------------------------------------------

    async def allocate(self, request: Request) -> Response:
        """Give a location. What else the client sends along is dropped: its own idea of one, and the flag."""
        root = await xml_of(request, "file:file", self._switches.wrong_type_status)
        target, original = self._read(text_of(root, "attached-to").strip(), text_of(root, "original-location"))
        with self._store.transaction():
            location = self._shelf.allocate(target, original)
        return answer(self._shown.storage(f"{target.kind}/{target.limsid}", location, original))

    async def attach(self, request: Request) -> Response:
        root = await xml_of(request, "file:file", self._switches.wrong_type_status)
        target, original = self._read(text_of(root, "attached-to").strip(), text_of(root, "original-location"))
        location = self._shown.inside(text_of(root, "content-location").strip())
        self._check_free(location)
        with self._store.transaction():
            row = self._shelf.attach(target, location, original, text_of(root, "is-published").strip() in ("true", "1"))
        return answer(self._shown.file(row), 201)

    def _read(self, attached_to: str, original: str) -> tuple[Target, str]:
        if not attached_to:
            raise Refusal(400, "attached-to is missing")
        if not original:
            raise Refusal(400, "original-location is missing")
        return self._shelf.target(attached_to), original

    def _check_free(self, location: str) -> None:
        """Refuse a location that was not given by us, except on the remote store, or that is in use."""
        count = self._store.count
        given = count("SELECT count(*) FROM clarity_locations WHERE location = ?", location)
        if not given and not location.startswith(REMOTE):
            raise Refusal(400, f"Not an allocated content-location: {location!r}", "Ask glsstorage for one.")
        if count("SELECT count(*) FROM clarity_files WHERE location = ?", location):
            raise Refusal(400, f"The content-location is in use by another file: {location!r}")
        if self._switches.bytes_first and self._shelf.blob(location) is None:
            raise Refusal(400, f"File does not exist: {self._shown.outside(location)}")

    async def upload(self, request: Request) -> Response:
        """Take the bytes of a file, first or anew: its LIMS ID and its name stay."""
        row = self._shelf.row("files", request.path_params["limsid"])
        if row["location"].startswith(REMOTE):
            raise Refusal(400, "A file on a remote store cannot be uploaded to")
        self._check_open(Target(row["kind"], row["owner"]))
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise Refusal(self._switches.wrong_type_status, "Cannot consume content type")
        async with request.form() as form:
            part = self._part(form)
            blob, _, _ = await self._store.receive(_chunks(part))
        # The record may be gone by now; the bytes stay all the same.
        self._shelf.fill(row["location"], blob)
        return Response(status_code=200)

    def _check_open(self, target: Target) -> None:
        process = self._shelf.process_of(target)
        if process is None:
            return
        if process["completed"] and self._switches.completed_step == "refuse":
            message = f"Step {process['limsid']} is completed; files cannot be uploaded to it"
            raise Refusal(self._switches.completed_status, message)
        if process["state"] == UNDER_REVIEW and self._switches.review == "refuse":
            message = f"Samples of step {process['limsid']} are UNDER_REVIEW; files cannot be uploaded to it"
            raise Refusal(self._switches.completed_status, message)

    def _part(self, form: FormData) -> UploadFile:
        parts = form.multi_items()
        if len(parts) != 1 or parts[0][0] != "file" or not isinstance(parts[0][1], UploadFile):
            raise Refusal(self._switches.part_status, "Exactly one part named “file” is expected")
        part = parts[0][1]
        if (part.size or 0) > self._switches.upload_limit:
            message = f"The file is larger than the limit of {self._switches.upload_limit} bytes"
            raise Refusal(self._switches.over_limit_status, message)
        return part

    # -- records ---------------------------------------------------------------------------------------

    async def one(self, request: Request) -> Response:
        return answer(self._shown.file(self._shelf.row("files", request.path_params["limsid"])))

    async def change(self, request: Request) -> Response:
        """Set whether a file is published, which it is not unless the body says so; nothing else changes."""
        limsid = self._shelf.row("files", request.path_params["limsid"])["limsid"]
        root = await xml_of(request, "file:file", self._switches.wrong_type_status)
        published = text_of(root, "is-published").strip() in ("true", "1")
        self._store.run("UPDATE clarity_files SET published = ? WHERE limsid = ?", published, limsid)
        return answer(self._shown.file(self._shelf.row("files", limsid)))

    async def delete(self, request: Request) -> Response:
        """Forget the record; the bytes stay where they are."""
        row = self._shelf.row("files", request.path_params["limsid"])
        self._store.run("DELETE FROM clarity_files WHERE id = ?", row["id"])
        return Response(status_code=204)

    # -- bytes -----------------------------------------------------------------------------------------

    async def download(self, request: Request) -> Response:
        row = self._shelf.row("files", request.path_params["limsid"])
        blob = self._shelf.blob(row["location"])
        if blob is None:
            message = f"File does not exist: {self._shown.outside(row['location'])}"
            raise Refusal(self._switches.missing_status, message, "Check the content-location.")
        return await self._send(request, blob, bare(row["original"]))

    async def remote(self, request: Request) -> Response:
        """Serve the remote store, which is no part of the service and wants none of its credentials."""
        if "authorization" in request.headers:
            return Response("This store takes no credentials.", 400)
        blob = self._shelf.blob(request.url.path)
        if blob is None:
            return Response("Not found", 404)
        return await self._send(request, blob, bare(request.url.path))

    async def _send(self, request: Request, blob: str, name: str) -> Response:
        # The first look at a large file makes it, which takes a while.
        path = await anyio.to_thread.run_sync(self._store.path, blob)
        headers = {
            "content-type": TYPES.get(name.rpartition(".")[2].lower(), UNKNOWN_TYPE),
            "content-disposition": f'attachment; filename="{_header(name)}"',
        }
        if self._switches.ranges:
            return FileResponse(path, headers=headers)
        headers["content-length"] = str(path.stat().st_size)
        if request.method == "HEAD":
            return Response(headers=headers)
        return StreamingResponse(_bytes(path), headers=headers)


async def _chunks(part: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await part.read(MIB):
        yield chunk


async def _bytes(path: Path) -> AsyncIterator[bytes]:
    # Read where it is called: the bytes are in the page cache, and a thread for each MiB costs more.
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(MIB):
            yield chunk


def _header(name: str) -> str:
    """Return a name fit for a header, as a servlet makes it: Latin-1 with question marks, no control characters."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in name).encode("latin-1", "replace")
    return plain.decode("latin-1").replace("\\", "\\\\").replace('"', '\\"')
