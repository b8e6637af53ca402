"""REDCap's stand-in as its tests see it: plain requests, the control origin and the store itself."""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import httpx
from stage import Sandbox

from labfs.sandbox.redcap.shelf import Switches


class Redcap:
    """The service, seen by plain requests, from the control origin and from its store."""

    def __init__(self, sandbox: Sandbox) -> None:
        known = json.loads((sandbox.directory / "sandbox.json").read_text())
        self.directory = sandbox.directory
        self.site: str = known["sites"]["redcap"]
        self.url = f"{self.site}{known['credentials']['redcap']['path']}"
        self.tokens: dict[str, str] = known["credentials"]["redcap"]["tokens"]
        self.http = httpx.Client(timeout=30, trust_env=False, verify=False)
        self._control = f"{known['control']}/switches"

    def switch(self, **values: Any) -> None:
        self.http.post(self._control, json={"redcap": values}).raise_for_status()

    def post(self, alias: str, files: Any = None, headers: Any = None, **fields: Any) -> httpx.Response:
        """Ask as the holder of a token; a list is sent as PHP takes one."""
        form: dict[str, Any] = {"token": self.tokens.get(alias, alias)}
        for name, value in fields.items():
            if isinstance(value, list):
                form.update({f"{name}[{index}]": item for index, item in enumerate(value)})
            else:
                form[name] = value
        return self.http.post(self.url, data=form, files=files, headers=headers)

    def ask(self, alias: str, content: str, **fields: Any) -> Any:
        """Return the JSON of a call that succeeds."""
        answer = self.post(alias, content=content, format="json", **fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refusal(self, status: int, alias: str, **fields: Any) -> str:
        """Return the text of a call that is refused."""
        answer = self.post(alias, returnFormat="json", **fields)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text
        return str(answer.json()["error"])

    def file(self, action: str, alias: str, **fields: Any) -> httpx.Response:
        return self.post(alias, content="file", action=action, **fields)

    def put(self, alias: str, name: str, data: bytes, **fields: Any) -> httpx.Response:
        return self.file("import", alias, files={"file": (name, data)}, **fields)

    def record(self, alias: str = "biobank", **values: str) -> str:
        """Make a record of one test's own; return its name."""
        name = f"T-{secrets.token_hex(4)}"
        data = json.dumps([{"record_id": name, **values}])
        self.post(alias, content="record", format="json", data=data).raise_for_status()
        return name

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.directory / "sandbox.sqlite")) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql, values)]

    def bytes_of(self, blob: str) -> bytes:
        return (self.directory / "blobs" / blob).read_bytes()

    def stored(self, record: str) -> dict[tuple[str, int], tuple[str, bytes]]:
        """Return name and bytes of a record's files by field and instance, straight from the store."""
        found = self.rows(
            "SELECT v.field, v.instance, d.name, d.blob FROM redcap_values v"
            " JOIN redcap_fields f ON f.project = v.project AND f.name = v.field"
            " JOIN redcap_documents d ON d.id = v.value"
            " WHERE v.record = ? AND json_extract(f.spec, '$.field_type') = 'file'",
            record,
        )
        return {(row["field"], row["instance"]): (row["name"], self.bytes_of(row["blob"])) for row in found}

    def shelved(self, folder: int) -> list[tuple[str, bytes]]:
        """Return name and bytes of a folder's documents, straight from the store."""
        found = self.rows(
            "SELECT d.name, d.blob FROM redcap_repository r JOIN redcap_documents d ON d.id = r.document"
            " WHERE r.folder = ? AND r.deleted IS NULL ORDER BY d.id",
            folder,
        )
        return [(row["name"], self.bytes_of(row["blob"])) for row in found]


@contextlib.contextmanager
def opened(sandbox: Sandbox) -> Iterator[Redcap]:
    """Give the service with its usual switches, and leave it so."""
    redcap = Redcap(sandbox)
    usual = {**asdict(Switches()), "requests_per_minute": 0}  # a whole run is one address
    redcap.switch(**usual)
    try:
        yield redcap
    finally:
        redcap.switch(**usual)
        redcap.http.close()
