"""What the tests of the ODM stand-in play on: the service, and a place that links lead to."""

from __future__ import annotations

import contextlib
import http.server
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from stage import Mount, Sandbox

GUT, NULL_TITLE, EMPTY, CELLS = "GSF282799", "GSF282812", "GSF282864", "GSF282877"
DRAFT, ODD, MANY, LARGE = "GSF282890", "GSF282903", "GSF282916", "GSF282929"
PDF = "GSF1283030"


class Service:
    """The running stand-in, seen by plain HTTP and straight in its store."""

    def __init__(self, sandbox: Sandbox) -> None:
        known = json.loads((sandbox.directory / "sandbox.json").read_text())
        self.url: str = known["sites"]["odm"]
        self.tokens: dict[str, str] = known["credentials"]["odm"]
        self.directory = sandbox.directory
        self._control: str = known["control"]
        self.http = httpx.Client(trust_env=False, verify=False, timeout=30)
        self._usual = self.http.get(f"{self._control}/switches").json()["odm"]

    def close(self) -> None:
        self.switch(**self._usual)
        self.http.close()

    def switch(self, **values: Any) -> None:
        self.http.post(f"{self._control}/switches", json={"odm": values}).raise_for_status()

    def ask(self, method: str, path: str, token: str | None = "token", **options: Any) -> httpx.Response:
        headers = {} if token is None else {"Genestack-API-Token": self.tokens[token]}
        headers |= options.pop("headers", {})
        return self.http.request(method, f"{self.url}/api/v1/{path}", headers=headers, **options)

    def get(self, path: str, **params: Any) -> Any:
        answer = self.ask("GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, study: str, name: str, data: bytes, data_class: str = "Document", **more: Any) -> httpx.Response:
        fields = {"studyAccession": study, "dataClass": data_class, **more}
        return self.ask("POST", "jobs/import/file/multipart", data=fields, files={"file": (name, data)})

    def title(self, study: str) -> str:
        found = self.get(f"as-curator/studies/{study}")
        return str(found.get("Study Title") or found["genestack:name"])

    def clear(self, study: str) -> None:
        """Delete all files of a study."""
        for row in self.attached(study):
            self.ask("DELETE", "manage-data/data", params={"accessions": f"GSF{row['number']}"})

    def finished(self, job: int) -> dict[str, Any]:
        """Poll a job to its end and return its output."""
        for _ in range(500):
            status = self.get(f"jobs/{job}/info")["status"]
            assert status != "STARTED", "no state of the schema"
            if status not in ("STARTING", "RUNNING"):
                output: dict[str, Any] = self.get(f"jobs/{job}/output")
                assert output["status"] == status
                return output
            time.sleep(0.02)
        raise AssertionError("the job does not end")

    def put(self, study: str, name: str, data: bytes, data_class: str = "Document") -> str:
        """Attach a file and wait for it; return its accession."""
        answer = self.send(study, name, data, data_class)
        assert answer.status_code == 200, answer.text
        return str(self.finished(answer.json()["jobExecId"])["result"]["accession"])

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.directory / "sandbox.sqlite")) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(sql, values)]

    def stored(self, accession: str) -> dict[str, Any]:
        """Return the row of an object, with its bytes from the blob store as `data`."""
        (row,) = self.rows("SELECT * FROM odm_objects WHERE number = ?", int(accession.removeprefix("GSF")))
        return row | {"data": (self.directory / "blobs" / row["blob"]).read_bytes() if row["blob"] else None}

    def attached(self, study: str) -> list[dict[str, Any]]:
        """Return the files of a study straight from the store, with `data` and `data_class`."""
        sql = "SELECT * FROM odm_objects WHERE study = ? AND kind = 'FILE' AND gone IS NULL ORDER BY number"
        rows = self.rows(sql, int(study.removeprefix("GSF")))
        folder = self.directory / "blobs"
        return [
            row
            | {
                "data": (folder / row["blob"]).read_bytes(),
                "data_class": json.loads(row["attributes"])["Data Class"],
            }
            for row in rows
        ]

    def blobs(self) -> set[str]:
        return {path.name for path in (self.directory / "blobs").iterdir()}


@contextlib.contextmanager
def quick(sandbox: Sandbox) -> Iterator[Service]:
    """Yield the service with nothing in it that takes time; its switches are the usual ones afterwards."""
    service = Service(sandbox)
    service.switch(job_s=0.0, index_lag_s=0.0, removal_s=0.0)
    try:
        yield service
    finally:
        service.close()


@contextlib.contextmanager
def emptied(service: Service, mount: Mount) -> Iterator[Path]:
    """Yield the mounted directory of a study without files, which is without files again afterwards."""
    path = mount.path / "odm" / service.title(EMPTY)
    mount.refresh(path)
    try:
        yield path
    finally:
        service.switch(removal_s=0.0)
        service.clear(EMPTY)


def refused(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]["message"]


def names(listing: Any) -> list[str]:
    return [item["genestack:name"] for item in (listing["data"] if isinstance(listing, dict) else listing)]


class Shop(http.server.BaseHTTPRequestHandler):
    """What a link leads to."""

    def do_GET(self) -> None:
        bodies = {
            "/in/gel%20image.png": b"PNG",
            "/m.tsv": b"Tool\nImageJ\n",
            "/s.tsv": b"Study Title\tYear\nLinked\t2024\n",
            "/samples.tsv": b"Sample Name\tTissue\nT1\tstool\nT2\tblood\n",
            "/script.tsv": b"Study Title\tYear\nBy script\t2025\n",
        }
        body = bodies.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: Any) -> None: ...


@contextlib.contextmanager
def opened() -> Iterator[str]:
    """Yield the address of a shop."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
