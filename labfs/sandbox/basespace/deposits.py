"""What version 2 of the API writes: analyses, datasets, and files that go straight to the store.

A file is put to an address that the service signs, and reported to the service afterwards; it is there from then on
(`file-upload-info` of the vendor's description). What the template for parts looks like is not published: this
stand-in offers the address for one part and no other.

Tests: sandbox/test_basespace_second.
"""

from __future__ import annotations

import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from labfs.sandbox.basespace.answers import FORBIDDEN, Compact, Refusal, fields_of, query_of
from labfs.sandbox.basespace.shelf import OPEN_STATES, Shelf
from labfs.sandbox.basespace.shown import Shown
from labfs.sandbox.store import Row

BAD = "BASESPACE.COMMON.BAD_REQUEST"
REPORT = ("uploadid", "filepath", "partetags", "size", "contenttype")  # all are required
LIFE_S = 3600.0  # of an address to put a file to


class Deposits:
    """Makes analyses and datasets, and takes files of datasets."""

    def __init__(self, shelf: Shelf, shown: Shown) -> None:
        self._shelf = shelf
        self._shown = shown
        self._store = shelf.store
        self._store.script(
            "CREATE TABLE IF NOT EXISTS deposits (token TEXT PRIMARY KEY, record INTEGER, path TEXT, key TEXT);"
        )

    async def make_session(self, request: Request, user: int) -> Row:
        name = str((await fields_of(request)).get("name") or "")
        if not name:
            raise Refusal(400, "An appsession needs a Name.", BAD)
        return self._shelf.row("sessions", self._shelf.add_session(user, name))

    async def make_dataset(self, request: Request, project: Row) -> Row:
        asked = await fields_of(request)
        missing = [field for field in ("name", "appsessionid", "datasettypeid", "attributes") if field not in asked]
        if missing or not str(asked["name"]) or not str(asked["appsessionid"]).isdigit():
            raise Refusal(400, f"A dataset needs {', '.join(missing) or 'a Name and an AppSessionId'}.", BAD)
        session = self._shelf.row("sessions", int(asked["appsessionid"]))
        number = self._shelf.add_record("datasets", project["id"], str(asked["name"]), session["id"])
        return self._shelf.row("records", number)

    def offer(self, request: Request, record: Row) -> Response:
        """Sign an address for a file."""
        self._check_open(record)
        asked = query_of(request)
        path, count = asked.get("filepath", "").strip("/"), asked.get("uploadpartcount", "1")
        if not path or not count.isdigit():
            raise Refusal(400, "filepath and uploadpartcount are needed.", BAD)
        if int(count) != 1:
            raise Refusal(400, "This stand-in offers addresses for one part only.", BAD)
        key, token = secrets.token_hex(16), secrets.token_urlsafe(24)
        self._store.run("INSERT INTO deposits VALUES (?, ?, ?, ?)", token, record["id"], path, key)
        method = "aws:kms" if self._shelf.kms else "AES256"
        address = self._shelf.blobs.place(key, path.rsplit("/", 1)[-1], LIFE_S, self._shelf.kms, method)
        return Compact({
            "SinglePartUrl": address,
            "MultipartUploadId": token,
            "MultipartSignatures": [],
            "ServerSideEncryptionMethod": method,
        })  # fmt: skip

    async def report(self, request: Request, record: Row) -> int:
        """Make a file of what was put to an address; return its id."""
        self._check_open(record)
        told = await fields_of(request)
        missing = [field for field in REPORT if field not in told]
        if missing:
            raise Refusal(400, f"The report lacks {', '.join(missing)}.", BAD)
        sql = "SELECT * FROM deposits WHERE token = ? AND record = ? AND path = ?"
        row = self._store.one(sql, str(told["uploadid"]), record["id"], str(told["filepath"]))
        held = None if row is None else self._shelf.blobs.held(row["key"])
        if row is None or held is None:
            raise Refusal(400, "Nothing was uploaded under this id and path.", BAD)
        self._check_same(told, held["etag"], size := self._store.path(held["blob"]).stat().st_size)
        if size == 0 and self._shelf.switches.empty_upload == "refuse":
            raise Refusal(400, "The file has no bytes.", BAD)
        self._store.run("DELETE FROM deposits WHERE token = ?", row["token"])
        if self._shelf.switches.same_path == "conflict" and self._is_there(record, row["path"]):
            raise Refusal(409, "A file of this path exists.", "BASESPACE.COMMON.CONFLICT")
        return self._shelf.add_stored(record["id"], row["path"], row["key"], held, size, str(told["contenttype"]))

    def _is_there(self, record: Row, path: str) -> bool:
        sql = "SELECT count(*) FROM files WHERE record = ? AND path = ? AND status = 'complete'"
        return self._store.count(sql, record["id"], path) > 0

    def _check_same(self, told: dict[str, Any], etag: str, size: int) -> None:
        parts = told["partetags"]
        if not isinstance(parts, list) or [(part.get("Part"), part.get("Etag")) for part in parts] != [(1, etag)]:
            raise Refusal(400, "The tags are not those of the parts.", BAD)
        if told["size"] != size:
            raise Refusal(400, f"{size} bytes were uploaded.", BAD)

    def _check_open(self, record: Row) -> None:
        if record["kind"] == "runs":
            raise Refusal(403, "Files cannot be uploaded to a run.", FORBIDDEN)
        session = None if record["session"] is None else self._shelf.row("sessions", record["session"])
        if session is None or session["status"].lower() not in OPEN_STATES:
            raise Refusal(403, "Sorry but this requires WRITE access to this Dataset resource.", FORBIDDEN)
