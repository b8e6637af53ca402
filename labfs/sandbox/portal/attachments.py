"""Attachments of the Portal stand-in: uploads, changes, deletions, copies, and downloads of local mode.

Bytes never change: each upload is a new row. A deletion hides the row and keeps the bytes.

Tests: sandbox/test_portal_sandbox, sandbox/test_portal_truths.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from email.header import Header
from pathlib import Path
from typing import Any

import anyio
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from labfs.sandbox.blobs import Blobs
from labfs.sandbox.portal.answers import FORBIDDEN, Answer, Broken, Refusal, page
from labfs.sandbox.portal.forms import Fields, form_of, part_name
from labfs.sandbox.portal.shelf import LINKS, Shelf
from labfs.sandbox.portal.views import Views
from labfs.sandbox.store import MIB, Row

PART = 8 * MIB  # from this size on, the program's storage client uploads in parts of this size
LONGEST_KEY = 255  # characters, the width of the column
LONGEST_FILE_NAME = 255  # bytes, of the server's file system
CONTROLS = re.compile("[\x00-\x1f\x7f]")
NO_NAMES = ("", ".", "..")  # of a part, once its directory is cut off


class Attachments:
    """Handlers; the service has checked already who asks."""

    def __init__(self, shelf: Shelf, views: Views, blobs: Blobs) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._views = views
        self._blobs = blobs
        self._fields = Fields(shelf)

    def _allowed(self, request: Request, user: Row) -> Row:
        row = self._shelf.attachment(request.path_params["id"])
        if not self._shelf.may_change(row, user):
            raise Refusal(403, FORBIDDEN)
        return row

    async def index(self, request: Request, user: Row) -> Response:
        if not user["staff"]:
            raise Refusal(403, FORBIDDEN)
        return page(request, self._shelf.attachments("1"), self._views.attachments)

    async def show(self, request: Request, user: Row) -> Response:
        return Answer(self._views.attachment_detail(self._allowed(request, user)))

    async def delete(self, request: Request, user: Row) -> Response:
        self._shelf.change("attachments", self._allowed(request, user)["id"], removed=1)
        return Response(status_code=204)

    # -- making ----------------------------------------------------------------------------------------

    async def make(self, request: Request, user: Row) -> Response:
        form = await form_of(request, self._shelf)
        try:
            found = form.getlist("file")
            if not found or not isinstance(found[0], UploadFile) or not found[0].filename:
                raise Broken
            return await self._make(form, found[0], user)
        finally:
            await form.close()

    async def _make(self, form: FormData, file: UploadFile, user: Row) -> Response:
        if (file.size or 0) > self._shelf.switches.largest_file:
            raise Broken  # the program means to answer 400 and fails at it
        name = part_name(file.filename or "")
        if name in NO_NAMES and self._shelf.switches.dot_names == "error":
            raise Broken
        given = [(key, value) for key, value in form.multi_items() if key not in ("file", "owned_by_user")]
        if "filename" not in form:
            given.append(("filename", name))
        values, links = self._fields.read(FormData([*given, ("owned_by_user", user["id"])]), partial=False)
        await asyncio.sleep(self._shelf.switches.late_s)
        blob, size, md5 = await self._store.receive(_chunks(file))
        path = self._store.path(blob)
        etag = md5 if size < PART else await anyio.to_thread.run_sync(tag_of_parts, path)
        try:
            with self._store.transaction():
                number = self._shelf.insert("attachments", **values, blob=blob)
                self._place(number, values["filename"], self._local_name(file, name), etag)
                self._link(number, links)
                made = self._views.attachment(self._shelf.attachment(number))
        except Broken:
            self._store.drop(blob)
            raise
        return Answer(made, 201)

    def _local_name(self, file: UploadFile, name: str) -> str:
        """Return the name that local mode stores under; blanks at its ends stay, and its address lacks them."""
        last = re.split(r"[/\\]", file.filename or "")[-1]
        return last if last.strip() == name and self._shelf.switches.blank_ends_in_local == "lost" else name

    def _place(self, number: int, filename: str | None, part: str, etag: str) -> None:
        """Put the bytes of a new row where the mode wants them. Raises Broken for a name that does not fit."""
        if self._shelf.local:
            if len(part.encode()) > LONGEST_FILE_NAME:
                raise Broken
            self._shelf.change("attachments", number, local_name=part)
            return
        key = f"attachment_{number}/{filename}"
        if len(key) > LONGEST_KEY and self._shelf.switches.long_key == "error":
            raise Broken
        row = self._shelf.attachment(number)
        self._shelf.change("attachments", number, s3_key=key, object=self._blobs.add(row["blob"], etag))

    # -- changing --------------------------------------------------------------------------------------

    async def patch(self, request: Request, user: Row) -> Response:
        return await self._change(request, user, partial=True)

    async def put(self, request: Request, user: Row) -> Response:
        return await self._change(request, user, partial=False)

    async def _change(self, request: Request, user: Row, partial: bool) -> Response:
        row = self._allowed(request, user)
        form = await form_of(request, self._shelf)
        values, links = self._fields.read(form, partial)
        await form.close()
        with self._store.transaction():
            self._shelf.change("attachments", row["id"], **values)
            self._link(row["id"], links)
        return Answer(self._views.attachment(self._shelf.attachment(row["id"])))

    def _link(self, number: int, links: dict[str, list[int]]) -> None:
        """Let exactly these materials and requests point to an attachment."""
        for name, ids in links.items():
            table, column = LINKS[name]
            self._store.run(f"UPDATE portal_{table} SET {column} = NULL WHERE {column} = ?", number)
            for target in ids:
                self._store.run(f"UPDATE portal_{table} SET {column} = ? WHERE id = ?", number, target)

    async def copy(self, request: Request, user: Row) -> Response:
        row = self._shelf.find("attachments", request.path_params["number"])
        if row is None or row["removed"]:
            raise Broken
        if not self._shelf.owns(row, user):
            return Response(status_code=403)
        if row["s3_deleted"]:
            raise Broken
        same: dict[str, Any] = {
            name: row[name] for name in ("filename", "description", "user", "organization", "material")
        }
        number = self._shelf.insert("attachments", **same)
        # The new row stays, whatever happens to its bytes.
        if not self._shelf.local or row["filename"] is None or row["filename"] != row["local_name"]:
            raise Broken
        self._store.run(
            "UPDATE portal_attachments SET blob = ?, local_name = ? WHERE id = ?", row["blob"], row["filename"], number
        )
        return Answer(self._views.attachment_detail(self._shelf.attachment(number)), 201)

    # -- local mode ------------------------------------------------------------------------------------

    def download(self, path: str) -> Response:
        """Serve a file of the server's disk: to anybody, whole, also when its row is deleted."""
        number, name = _local(path)
        row = self._store.one("SELECT * FROM portal_attachments WHERE id = ? AND local_name = ?", number, name)
        if row is None:
            raise Broken
        blob = self._store.path(row["blob"])
        # The server refuses to send a control character, such as DEL; the real one sends them.
        disposition = f'attachment; filename="{CONTROLS.sub("?", name)}"'
        try:
            disposition.encode("latin-1")
        except UnicodeEncodeError:
            disposition = Header(disposition, "utf-8", maxlinelen=1 << 30).encode()
        headers = {"Content-Disposition": disposition, "Content-Length": str(blob.stat().st_size)}
        return StreamingResponse(_read(blob), headers=headers, media_type="application/octet-stream")


def _local(path: str) -> tuple[int, str]:
    found = re.fullmatch(r"attachment_(\d{1,18})/([^/]+)", path)
    if found is None:
        raise Broken
    return int(found[1]), found[2]


def tag_of_parts(path: Path) -> str:
    """Return the entity tag of an object that was uploaded in parts: MD5 of MD5s, and their number."""
    digests = []
    with open(path, "rb") as file:
        while part := file.read(PART):
            digests.append(hashlib.md5(part, usedforsecurity=False).digest())
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(MIB):
        yield chunk


async def _read(path: Path) -> AsyncIterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(MIB):
            yield chunk
