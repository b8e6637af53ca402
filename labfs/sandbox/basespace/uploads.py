"""Uploads to the BaseSpace stand-in: in one body or in parts, by the rules of the vendor's guide.

Tests: sandbox/test_basespace_sandbox, sandbox/test_guide.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import Response

from labfs.sandbox.basespace.answers import FORBIDDEN, Refusal, body_of, check_md5, query_of, single
from labfs.sandbox.basespace.shelf import OPEN_STATES, Shelf, entity_tag
from labfs.sandbox.basespace.shown import Shown
from labfs.sandbox.store import Row

MIB = 1024 * 1024
LEAST_PART, GREATEST_PART, LAST_PART = 5 * MIB, 25 * MIB, 10_000


class Uploads:
    """Handlers that take bytes; the service has checked already who sends them."""

    def __init__(self, shelf: Shelf, shown: Shown) -> None:
        self._shelf = shelf
        self._shown = shown
        self._store = shelf.store
        self._switches = shelf.switches

    async def upload(self, request: Request, record: Row) -> Response:
        self._check_writable(record)
        asked = query_of(request)
        name = asked.get("name") or ""
        if not name:
            raise Refusal(400, "A file needs a name.", "BASESPACE.COMMON.BAD_REQUEST")
        if "content-type" not in request.headers:
            raise Refusal(400, "A file needs a Content-Type.", "BASESPACE.COMMON.BAD_REQUEST")
        path = "/".join(part for part in (asked.get("directory", "").strip("/"), name) if part)
        self._check_path(record["id"], path)
        if asked.get("multipart", "").lower() == "true":
            async for _ in request.stream():
                pass  # the body of such a request is ignored
            return single(self._whole(self._shelf.begin_file(record["id"], path, request.headers["content-type"])))
        blob, size, md5 = await self._store.receive(body_of(request))
        if size == 0 and self._switches.empty_upload == "refuse":
            self._store.drop(blob)
            raise Refusal(400, "The request has no body.", "BASESPACE.COMMON.BAD_REQUEST")
        number = self._shelf.add_file(record["id"], path, blob, size, md5, request.headers["content-type"])
        return single(self._whole(number), self._switches.created_status)

    def _whole(self, number: int) -> dict[str, Any]:
        return self._shown.whole_file(self._shelf.row("files", number))

    def _check_writable(self, record: Row) -> None:
        if record["kind"] == "runs":
            raise Refusal(403, "Files cannot be uploaded to a run.", FORBIDDEN)
        if record["session"] is not None:
            session = self._shelf.row("sessions", record["session"])
            if session["status"].lower() not in OPEN_STATES:
                raise Refusal(403, "Sorry but this requires WRITE access to this AppResult resource.", FORBIDDEN)
        if record["kind"] == "samples":
            raise Refusal(403, "Files of a sample must be valid FASTQ files of a whole sample.", FORBIDDEN)

    def _check_path(self, record: int, path: str) -> None:
        where = "record = ? AND path = ? AND status = 'complete'"
        if self._switches.same_path == "conflict" and self._store.count(
            f"SELECT count(*) FROM files WHERE {where}", record, path
        ):
            raise Refusal(409, "A file of this path exists.", "BASESPACE.COMMON.CONFLICT")

    async def put_part(self, request: Request) -> Response:
        row, number = self._shelf.row("files", request.path_params["id"]), request.path_params["number"]
        if not 1 <= number <= LAST_PART:
            raise Refusal(400, f"Part numbers go from 1 to {LAST_PART}.", "BASESPACE.FILES.INVALID_PART")
        self._check_pending(row)
        blob, size, md5 = await self._store.receive(body_of(request))
        try:
            if size > GREATEST_PART:
                raise Refusal(400, "A part may not be larger than 25 MB.", "BASESPACE.FILES.INVALID_PART")
            check_md5(request.headers.get("content-md5"), md5, self._switches.bad_md5_status)
            self._check_pending(self._shelf.row("files", row["id"]))
        except Refusal:
            self._store.drop(blob)
            raise
        before = self._store.one("SELECT blob FROM parts WHERE file = ? AND number = ?", row["id"], number)
        etag = entity_tag(row["kms"], md5, blob)
        self._store.run("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?)", row["id"], number, etag, size, blob)
        if before is not None:
            self._store.drop(before["blob"])
        return single({"Number": number, "ETag": etag, "Size": size})

    def _check_pending(self, row: Row) -> None:
        if row["status"] != "pending":
            message = f"The upload of this file is {row['status']}."
            raise Refusal(self._switches.after_complete_status, message, "BASESPACE.FILES.UPLOAD_NOT_PENDING")

    async def finish(self, request: Request) -> Response:
        row, status = (
            self._shelf.row("files", request.path_params["id"]),
            query_of(request).get("uploadstatus", "").lower(),
        )
        if status == "aborted":
            self._check_pending(row) if row["status"] == "complete" else self._abort(row)
            return single(self._whole(row["id"]))
        if status != "complete":
            raise Refusal(400, "uploadstatus must be complete or aborted.", "BASESPACE.COMMON.BAD_REQUEST")
        self._check_pending(row)
        await self._assemble(row)
        return single(self._whole(row["id"]), 201)

    def _abort(self, row: Row) -> None:
        for part in self._store.all("SELECT blob FROM parts WHERE file = ?", row["id"]):
            self._store.drop(part["blob"])
        self._store.run("DELETE FROM parts WHERE file = ?", row["id"])
        self._store.run("UPDATE files SET status = 'aborted' WHERE id = ?", row["id"])

    async def _assemble(self, row: Row) -> None:
        parts = self._store.all("SELECT * FROM parts WHERE file = ? ORDER BY number", row["id"])
        if not parts:
            raise Refusal(400, "The upload has no parts.", "BASESPACE.FILES.NO_PARTS")
        small = [part["number"] for part in parts[:-1] if part["size"] < LEAST_PART]
        if small:
            message = f"Part {small[0]} is smaller than 5 MB and not the last one."
            raise Refusal(400, message, "BASESPACE.FILES.INVALID_PART")
        blob = await anyio.to_thread.run_sync(self._store.join, [part["blob"] for part in parts])
        digest = hashlib.md5(b"".join(bytes.fromhex(part["etag"]) for part in parts), usedforsecurity=False)
        etag = entity_tag(row["kms"], f"{digest.hexdigest()}-{len(parts)}", blob)
        size, key = sum(part["size"] for part in parts), self._shelf.blobs.add(blob, etag, row["kms"])
        self._shelf.supersede(row["record"], row["path"])
        self._store.run("DELETE FROM parts WHERE file = ?", row["id"])
        self._store.run(
            "UPDATE files SET status = 'complete', size = ?, etag = ?, modified = ?, blob = ?, key = ? WHERE id = ?",
            size, etag, time.time(), blob, key, row["id"],
        )  # fmt: skip
