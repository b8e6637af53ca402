"""Imports: a job is made at once, takes its time, and its object is there when it ends.

Nothing runs in the background but the fetching of links: what a job has come to is told by the clock.

Tests: sandbox/test_odm_sandbox, sandbox/test_odm_changes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
from starlette.requests import Request

from labfs.sandbox.odm.answers import Item, Refusal, job_moment, json_of, record_of, records_of
from labfs.sandbox.odm.shelf import CLASSES, FILE, STUDY, Caller, Shelf
from labfs.sandbox.odm.uploads import Receiver
from labfs.sandbox.store import Row

PIPELINE = ("sourceAttachmentAccession", "transformationName", "transformationVersion")
FETCH_S = 60.0
FETCH_FAILURES = (Refusal, httpx.HTTPError, httpx.InvalidURL, OSError)
STUDY_KEYS = ("accession", "groupAccession")  # what a script reads, and what the vendor's description has
NO_BUCKET = "No S3 bucket is configured for attached files."


class Jobs:
    """Makes jobs, and tells what they have come to."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._store = shelf.store
        self._switches = shelf.switches
        self._fetching: set[asyncio.Task[None]] = set()
        # What an earlier process was fetching is lost.
        self._store.run("UPDATE odm_jobs SET ends = created, outcome = 'ABANDONED' WHERE ends IS NULL")

    # -- asking ------------------------------------------------------------------------------------------

    def row(self, number: int) -> Row:
        row = self._store.one("SELECT * FROM odm_jobs WHERE id = ?", min(number, 2**62))
        if row is None:
            raise Refusal(404, f"No job execution with id {number}.")
        return row

    def status(self, row: Row) -> str:
        """Return the state of a job: STARTING for a quarter of its time, then RUNNING, then its end."""
        now, created = time.time(), row["created"]
        expected = row["ends"] if row["ends"] is not None else created + self._switches.job_s
        if row["ends"] is not None and now >= row["ends"]:
            return str(row["outcome"])
        return "STARTING" if now < created + (expected - created) / 4 else "RUNNING"

    def info(self, row: Row) -> Item:
        status = self.status(row)
        item = {
            "jobExecId": row["id"],
            "startedBy": self._shelf.email(row["user"]),
            "jobName": row["name"],
            "status": status,
            "createTime": job_moment(row["created"]),
        }
        running = status in ("STARTING", "RUNNING", "UNKNOWN")
        return item if running else {**item, "endTime": job_moment(row["ends"])}

    def output(self, row: Row) -> Item:
        status = self.status(row)
        if status in ("STARTING", "RUNNING") and self._switches.early_output_status != 200:
            raise Refusal(self._switches.early_output_status, f"Job {row['id']} has not ended yet.")
        if status == "COMPLETED":
            return {"status": status, "result": json.loads(row["result"])}
        if status == "FAILED":
            stack = [{"type": "ImportException", "message": row["problem"]}]
            return {"status": status, "errors": [{"stage": "import", "stack": stack}]}
        return {"status": status}

    # -- files -------------------------------------------------------------------------------------------

    async def from_form(self, request: Request, caller: Caller) -> Item:
        form = await Receiver(request, self._switches).receive(self._store)
        problem, study, attributes = None, None, {}
        try:
            extra = [name for name in PIPELINE if name in form.fields]
            if extra and self._switches.pipeline_fields == "refuse":
                raise Refusal(400, f"{extra[0]} must not be provided.")
            study = self._study(form.fields.get("studyAccession"), caller)
            attributes = self._attributes(form.fields.get("dataClass"), form.metadata)
        except Refusal as refusal:
            if self._switches.bad_import == "refuse":
                self._store.drop(form.blob)
                raise Refusal(self._switches.bad_import_status, refusal.message) from None
            problem = refusal.message
        with self._store.transaction():
            job = self._begin(self._switches.job_name, caller, None)
            self._end_file(job, caller, problem, study, self._name(form.name or ""), attributes, form.blob, form.size)
        return self.info(self.row(job))

    async def from_link(self, request: Request, caller: Caller) -> Item:
        asked = await json_of(request)
        link, about = asked.get("dataLink"), asked.get("metadataLink")
        problem, study = None, None
        try:
            _check_link(link, "dataLink")
            study = self._study(asked.get("studyAccession"), caller)
            self._attributes(asked.get("dataClass"), None)
        except Refusal as refusal:
            if self._switches.bad_import == "refuse":
                raise Refusal(self._switches.bad_import_status, refusal.message) from None
            problem = refusal.message
        name = self._switches.job_name
        if self._switches.repeated_file_link == "conflict":
            self._check_new(name, link)
        job = self._begin(name, caller, link)

        async def fetch() -> None:
            blob, size, attributes, trouble = "", 0, {}, problem
            try:
                if trouble is None:
                    table = None if about is None else await _small(about)
                    attributes = self._attributes(asked.get("dataClass"), table)
                    blob, size, _ = await self._store.receive(_pieces(link))
            except FETCH_FAILURES as failure:
                trouble = str(failure) or type(failure).__name__
            with self._store.transaction():
                stored = unquote(urlsplit(str(link)).path.rsplit("/", 1)[-1])
                self._end_file(job, caller, trouble, study, stored, attributes, blob, size)

        self._spawn(fetch())
        return self.info(self.row(job))

    def _study(self, accession: Any, caller: Caller) -> int:
        if not isinstance(accession, str) or not accession:
            raise Refusal(400, "studyAccession is mandatory.")
        return int(self._shelf.find(accession, caller, STUDY)["number"])

    def _attributes(self, data_class: Any, table: bytes | None) -> Item:
        if data_class not in CLASSES:
            raise Refusal(400, f"dataClass must be one of {'; '.join(CLASSES)}.")
        known = {} if table is None else record_of(table)
        return {**{key: value for key, value in known.items() if not key.startswith("genestack:")},
                "Data Class": data_class}  # fmt: skip

    def _name(self, filename: str) -> str:
        if self._switches.decoded_names:
            filename = filename.replace("%22", '"').replace("%0A", "\n").replace("%0D", "\r")
        return filename.rsplit("/", 1)[-1] if self._switches.stored_name == "basename" else filename

    def _end_file(
        self, job: int, caller: Caller, problem: str | None, study: int | None, name: str, attributes: Item,
        blob: str, size: int,
    ) -> None:  # fmt: skip
        """Set how a job ends, and make the file that is there from then on."""
        if problem is None and not self._switches.bucket:
            problem = NO_BUCKET
        ends = self._finish(job, problem)
        row = self.row(job)
        if row["outcome"] != "COMPLETED" or study is None:
            self._store.drop(blob) if blob else None
            return
        made = self._shelf.add(
            FILE, study, name, attributes, caller.user, row["created"], born=ends, blob=blob, size=size
        )
        self._result(job, {"accession": f"GSF{made}"})

    # -- studies and samples -----------------------------------------------------------------------------

    async def study(self, request: Request, caller: Caller) -> Item:
        return await self._from_table("IMPORT_STUDY_TSV", request, caller, record_of, self._make_study)

    async def samples(self, request: Request, caller: Caller) -> Item:
        """Import samples into a group of their own, which a link brings into a study."""
        return await self._from_table("IMPORT_SAMPLES_TSV", request, caller, records_of, self._make_samples)

    async def _from_table(
        self, name: str, request: Request, caller: Caller, read: Callable[[bytes], Any],
        make: Callable[[Any, Caller, float, float], Item],
    ) -> Item:  # fmt: skip
        """Start a job that fetches a TSV, reads it and makes objects, which are there when it ends."""
        asked = await json_of(request)
        link = asked.get("metadataLink")
        _check_link(link, "metadataLink")
        if request.query_params.get("allow_dups", "false").lower() != "true":
            self._check_new(name, link)
        job = self._begin(name, caller, link)

        async def fetch() -> None:
            found, problem = None, None
            try:
                found = read(await _small(link))
            except FETCH_FAILURES as failure:
                problem = str(failure) or type(failure).__name__
            with self._store.transaction():
                ends = self._finish(job, problem)
                row = self.row(job)
                if row["outcome"] == "COMPLETED":
                    self._result(job, make(found, caller, row["created"], ends))

        self._spawn(fetch())
        return self.info(self.row(job))

    def _make_study(self, attributes: Item, caller: Caller, created: float, born: float) -> Item:
        title = attributes.get("Study Title")
        name = None if title is None else str(title)
        made = self._shelf.add(STUDY, None, name, attributes, caller.user, created, born=born)
        keys = STUDY_KEYS if self._switches.study_result == "both" else (self._switches.study_result,)
        return dict.fromkeys(keys, f"GSF{made}")

    def _make_samples(self, records: list[Item], caller: Caller, created: float, born: float) -> Item:
        group = self._shelf.add("SAMPLE_GROUP", None, "Samples", {}, caller.user, created, born=born)
        for record in records:
            name = str(next(iter(record.values())))
            self._shelf.add("SAMPLE_OBJECT", group, name, record, caller.user, created, born=born)
        return {"groupAccession": f"GSF{group}"}

    # -- rows --------------------------------------------------------------------------------------------

    def _begin(self, name: str, caller: Caller, link: str | None) -> int:
        sql = "INSERT INTO odm_jobs (name, user, link, created) VALUES (?, ?, ?, ?)"
        return self._store.run(sql, name, caller.user, link, time.time())

    def _finish(self, job: int, problem: str | None) -> float:
        ends = max(time.time(), float(self.row(job)["created"]) + self._switches.job_s)
        outcome = self._switches.job_end if problem is None else "FAILED"
        if outcome == "FAILED" and problem is None:
            problem = "The import was made to fail."
        self._store.run(
            "UPDATE odm_jobs SET ends = ?, outcome = ?, problem = ? WHERE id = ?", ends, outcome, problem, job
        )
        return ends

    def _result(self, job: int, result: Item) -> None:
        self._store.run("UPDATE odm_jobs SET result = ? WHERE id = ?", json.dumps(result), job)

    def _check_new(self, name: str, link: str) -> None:
        sql = "SELECT id FROM odm_jobs WHERE name = ? AND link = ? AND coalesce(outcome, '') != 'FAILED' ORDER BY id"
        row = self._store.one(sql, name, link)
        if row is not None:
            raise Refusal(409, f"A job instance already exists and is complete for {link}: jobExecId={row['id']}")

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._fetching.add(task)
        task.add_done_callback(self._fetching.discard)


def _check_link(link: Any, name: str) -> None:
    try:
        known = isinstance(link, str) and urlsplit(link).scheme in ("http", "https", "s3", "file")
    except ValueError:
        known = False
    if not known:
        raise Refusal(400, f"{name} must be a link: http, https, s3 or file.")


async def _pieces(link: str) -> AsyncIterator[bytes]:
    """Yield what lies behind a link. A sandbox never leaves its machine, and has no bucket and no shelf of files."""
    parts = urlsplit(link)
    host = parts.hostname or ""
    try:
        near = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        near = False
    if parts.scheme not in ("http", "https") or not near:
        raise Refusal(400, f"Cannot fetch {link}: a sandbox reads from loopback addresses alone.")
    async with httpx.AsyncClient(trust_env=False, timeout=FETCH_S) as client, client.stream("GET", link) as answer:
        answer.raise_for_status()
        async for piece in answer.aiter_bytes():
            yield piece


async def _small(link: Any) -> bytes:
    _check_link(link, "metadataLink")
    return b"".join([piece async for piece in _pieces(link)])
