"""What BaseSpace says in JSON → entries. Ids are digits, times ISO 8601 in UTC with seven digits of a second.

Tests: backends/test_backends, backends/test_basespace_saving.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

from labfs.backend import (
    NOTHING,
    Accept,
    Buffer,
    Entry,
    Takes,
    Target,
    takes,
)
from labfs.errors import Invalid, Malformed
from labfs.http.client import Answer

API = "v1pre3"
PAGE = 1024  # the largest page there is
SECOND = "v2"
DATASET = re.compile(r"ds\.[0-9a-f]{32}")
FIRST_KINDS = {
    "sample": "samples",
    "appresult": "appresults",
}  # what a dataset's V1pre3Id begins with → a record's kind
RUNS = "_runs"  # the branch beside the projects
RIGHTS = (  # which an unknown id is told as well
    "It is not there any more, or not shared with this account (403); its owner can share it, and labfs refresh PATH"
    " asks for the folder anew."
)
RUNS_FIXED = "Runs come from the sequencer and take no files; an app result does."
CLOSED = ("complete", "aborted")  # states of an analysis after which its record takes no more files
OPEN = ("running", "needsattention", "timedout")  # states in which it takes them
WHOLE = 5 * 1024**3  # bytes of a file of a dataset, which goes into the object store in one piece
DEPOSITS = Takes(frozenset({Accept.FILE, Accept.FOLDER}), whole=WHOLE)

Json = dict[str, Any]

_TAG = re.compile(r"[0-9a-f]{32}(-[1-9]\d{0,4})?")
EMPTY_MD5 = "md5:d41d8cd98f00b204e9800998ecf8427e"


def project(item: Json) -> Entry:
    return Entry(
        id=f"projects/{int(item['Id'])}",
        name=str(item["Name"]),
        is_dir=True,
        age=created_ns(item),
        label=str(item["Id"]),
        modified_ns=time_ns(item),
        takes=takes(Accept.DIRECTORY),
        url=item.get("HrefBaseSpaceUI"),
    )


def app_result(item: Json) -> Entry:
    status = str((item.get("AppSession") or {}).get("Status") or item.get("Status") or "").lower()
    closed = status in CLOSED
    return Entry(
        id=f"appresults/{int(item['Id'])}",
        name=str(item["Name"]),
        is_dir=True,
        age=created_ns(item),
        label=str(item["Id"]),
        modified_ns=time_ns(item),
        takes=NOTHING if closed else takes(Accept.FILE, Accept.FOLDER),
        read_only=_over(item, f"is {status}") if closed else None,
        url=item.get("HrefBaseSpaceUI"),
    )


def sample(item: Json) -> Entry:
    return Entry(
        id=f"samples/{int(item['Id'])}",
        name=str(item.get("Name") or item["SampleId"]),
        is_dir=True,
        age=created_ns(item),
        label=str(item["Id"]),
        modified_ns=time_ns(item),
        read_only="Samples come from the sequencer and take no files; an app result does.",
        url=item.get("HrefBaseSpaceUI"),
    )


def dataset(item: Json) -> Entry:
    number = str(item["Id"])
    if not DATASET.fullmatch(number):
        raise ValueError("an id that no dataset has")
    fixed = _why_fixed(item)
    return Entry(
        id=f"datasets/{number}",
        name=str(item["Name"]),
        is_dir=True,
        age=created_ns(item),
        label=number[-12:],
        modified_ns=time_ns(item),
        takes=DEPOSITS if fixed is None else NOTHING,
        read_only=fixed,
        url=item.get("HrefBaseSpaceUI"),
    )


def _over(item: Json, state: str) -> str:
    return f"The analysis of “{item['Name']}” {state}: it takes no more files; a new app result does."


def _why_fixed(item: Json) -> str | None:
    """Say why a dataset takes no files: only an analysis that goes on adds to its datasets."""
    status = str((item.get("AppSession") or {}).get("ExecutionStatus") or "").lower()
    if status not in OPEN:
        state = f"is {status}" if status else "tells no state"
        return _over(item, state)
    if str(item.get("UploadStatus") or "").lower().startswith("complete"):
        return f"“{item['Name']}” is complete and takes no more files; a new app result does."
    return None


def run(item: Json) -> Entry:
    return Entry(
        id=f"runs/{int(item['Id'])}",
        name=str(item.get("Name") or item.get("ExperimentName") or item["Id"]),
        is_dir=True,
        age=created_ns(item),
        label=str(item["Id"]),
        modified_ns=time_ns(item),
        read_only=RUNS_FIXED,
    )


def first_id(item: Json) -> str | None:
    """Return which record of the first version a dataset is, as the id of its entry; None where it tells none."""
    kind, _, number = str(item.get("V1pre3Id") or "").partition(".")
    found = FIRST_KINDS.get(kind.lower())
    return f"{found}/{int(number)}" if found is not None and number.isdigit() else None


RECORDS: dict[str, Callable[[Json], Entry]] = {"appresults": app_result, "samples": sample}


def file(item: Json) -> Entry:
    size, tag = item["Size"], str(item.get("ETag") or "") or None
    if not isinstance(size, int) or not 0 <= size < 1 << 63:
        raise ValueError("a size that no file has")
    *folders, name = [part for part in str(item.get("Path") or item["Name"]).split("/") if part] or [str(item["Name"])]
    archived = f"“{name}” is archived; restore it in BaseSpace, which takes about two days."
    return Entry(
        id=f"files/{int(item['Id'])}",
        name=name,
        is_dir=False,
        age=created_ns(item),
        label=str(item["Id"]),
        folders=tuple(folders),
        size=size,
        modified_ns=time_ns(item),
        version=tag,
        checksum=_checksum(tag),
        unreadable=archived if item.get("IsArchived") else None,
    )


def md5_of(data: Buffer) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def tag_of_parts(digests: list[str]) -> str:
    """Return the tag that an object store gives a file of these parts, by their MD5s in hex."""
    return f"{md5_of(b''.join(map(bytes.fromhex, digests)))}-{len(digests)}"


def _checksum(tag: str | None) -> str | None:
    """Return what an object store's entity tag proves: MD5 of the bytes, or of the MD5s of its parts."""
    found = _TAG.fullmatch(tag) if tag else None
    if found is None:
        return None
    return f"md5:{tag}" if found[1] is None else f"md5-of-parts:{tag}"


def time_ns(item: Json) -> int | None:
    for key in ("DateModified", "DateCreated"):
        if (moment_ns := _ns(item.get(key))) is not None:
            return moment_ns
    return None


def created_ns(item: Json) -> int:
    """Return the date of creation, 0 where none is told: the only thing that grows with time."""
    return _ns(item.get("DateCreated")) or 0


def _ns(text: Any) -> int | None:
    return _moment_ns(str(text))


@lru_cache(maxsize=4096)  # a file's dates are often equal, and its neighbours'
def _moment_ns(text: str) -> int | None:
    moment = parse_time(text)
    if moment is None or moment.year <= 1:
        return None
    return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000


def parse_time(text: Any) -> datetime | None:
    """Parse `2018-07-18T18:49:07.0000000Z`; older answers lack the Z and mean UTC all the same."""
    try:
        return datetime.fromisoformat(str(text).rstrip("Z")[:26] + "+00:00")
    except ValueError:
        return None


def content_type(name: str) -> str:
    return mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"


def path_of(target: Target) -> str:
    """Return the path of a file in its record. Raises Invalid for a name that the service would take for several."""
    if any("/" in part for part in (*target.folders, target.name)):
        raise Invalid("BaseSpace takes a / in a name for a folder; choose another name.")
    return "/".join((*target.folders, target.name))


def is_dataset(entry_id: str) -> bool:
    return entry_id.startswith("datasets/")


def files_of(record: str) -> str:
    """Return the path of the list of a record's files, by the id of its entry."""
    return f"{SECOND if is_dataset(record) else API}/{record}/files"


def list_of(answer: Answer) -> Json:
    """Return a list as the first version gives it, `Items` beside counts and order, of either version's answer."""
    body = answer.json()
    if isinstance(body, dict) and isinstance(body.get("Paging"), dict):
        return {**body["Paging"], "Items": body.get("Items")}
    return response_of(answer)


def response_of(answer: Answer) -> Json:
    """Return what the service wraps its answers in. Raises Malformed for an answer without it."""
    body = answer.json()
    found = body.get("Response") if isinstance(body, dict) else None
    status = body.get("ResponseStatus") if isinstance(body, dict) else None
    if isinstance(status, dict) and status.get("Message"):
        raise Invalid(f"{answer.what}: {status['Message']}")
    if not isinstance(found, dict):
        raise Malformed(f"{answer.what} answered without a Response; is the site's url right?")
    return cast(Json, found)
