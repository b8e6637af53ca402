"""An import of ODM: a job that is started by a form, and asked about until it ends.

Sources: multipart uploads and import job references; the accession in the job's output is the only proof of success.

Tests: mount/test_odm, backends/test_lost_answers.
"""

from __future__ import annotations

import mimetypes
import re
from typing import Any

import trio

from labfs.backend import Source, Target
from labfs.errors import Exists, Invalid, Malformed, Unavailable, ended
from labfs.http.client import Client, Patience, Request
from labfs.http.forms import Form

JOBS = "api/v1/jobs"
POLLS_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # between looks at a job; the last one for ever
JOB_S = 1800.0  # after which a job is given up, as the vendor's own script does
UNTOLD = {"STOPPED": "somebody stopped the import", "ABANDONED": "it gave the import up"}  # what no message tells of
ENDED = {"COMPLETED", "FAILED", "STOPPED", "ABANDONED"}

Json = dict[str, Any]


async def start(client: Client, target: Target, data_class: str, source: Source) -> int:
    """Start the import of a file; return the job's number, that of the running one where it was started before."""
    kind = mimetypes.guess_type(target.name, strict=False)[0] or "application/octet-stream"
    fields = [("studyAccession", target.parent.label), ("dataClass", data_class)]
    form = Form(fields, "file", target.name, kind, source)
    request = Request(
        "POST",
        f"{JOBS}/import/file/multipart",
        source=form,
        headers={"Content-Type": form.content_type},
        patience=Patience.PERSISTENT,
        repeatable=False,
    )
    try:
        answer = await client.call(request)
    except Exists as error:
        number = re.search(r"jobExecId=(\d+)", str(error))
        if number is None:
            raise
        return int(number[1])
    try:
        return int(answer.json()["jobExecId"])
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"{answer.what} started no job that can be asked about.") from error


async def outcome(client: Client, job: int) -> str:
    """Poll a job until it ends; return the accession that it made. Raises Invalid where it made none."""
    with trio.move_on_after(JOB_S):
        polls = iter(POLLS_S)
        while True:
            info = await _ask(client, job, "info")
            if info.get("status") in ENDED:
                break
            await trio.sleep(next(polls, POLLS_S[-1]))
        output = await _ask(client, job, "output")
        result = output.get("result")
        if info["status"] == "COMPLETED" and isinstance(result, dict) and result.get("accession"):
            return str(result["accession"])
        said = ended(_why(output) or UNTOLD.get(info["status"], "it does not tell why"))
        raise Invalid(f"{client.site} did not import the file (job {job}): {said}").advised(
            "Those who run it can look the job up; labfs outbox retry imports the file anew."
        )
    raise Unavailable(f"{client.site} is still importing the file (job {job}).")


async def _ask(client: Client, job: int, what: str) -> Json:
    answer = await client.call(Request("GET", f"{JOBS}/{job}/{what}", patience=Patience.PERSISTENT))
    found = answer.json()
    if not isinstance(found, dict):
        raise Malformed(f"{answer.what} is no job.")
    return found


def _why(output: Json) -> str:
    """Return the messages of a failed job."""
    errors = output.get("errors")
    stacks = [error.get("stack") for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    frames = [frame for stack in stacks if isinstance(stack, list) for frame in stack if isinstance(frame, dict)]
    return "; ".join(str(frame["message"]) for frame in frames if frame.get("message"))
