"""What BaseSpace says in JSON → entries. Ids are digits, times ISO 8601 in UTC with seven digits of a second."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from labfs.backend import Accept, Entry

CLOSED = ("complete", "aborted")  # states of an analysis after which its record takes no more files

Json = dict[str, Any]

EMPTY_MD5 = "md5:d41d8cd98f00b204e9800998ecf8427e"


def project(item: Json) -> Entry:
    return Entry(
        id=f"projects/{int(item['Id'])}",
        name=str(item["Name"]),
        is_dir=True,
        age=int(item["Id"]),
        label=str(item["Id"]),
        modified_ns=time_ns(item),
        accepts=frozenset({Accept.DIRECTORY}),
        url=item.get("HrefBaseSpaceUI"),
    )


def app_result(item: Json) -> Entry:
    status = str((item.get("AppSession") or {}).get("Status") or item.get("Status") or "").lower()
    closed = status in CLOSED
    return Entry(
        id=f"appresults/{int(item['Id'])}",
        name=str(item["Name"]),
        is_dir=True,
        age=int(item["Id"]),
        label=str(item["Id"]),
        modified_ns=time_ns(item),
        accepts=frozenset() if closed else frozenset({Accept.FILE, Accept.FOLDER}),
        read_only=f"The analysis of “{item['Name']}” is {status}: it takes no more files." if closed else None,
        url=item.get("HrefBaseSpaceUI"),
    )


def sample(item: Json) -> Entry:
    return Entry(
        id=f"samples/{int(item['Id'])}",
        name=str(item.get("Name") or item["SampleId"]),
        is_dir=True,
        age=int(item["Id"]),
        label=str(item["Id"]),
        modified_ns=time_ns(item),
        read_only="Samples come from the sequencer and cannot be changed.",
        url=item.get("HrefBaseSpaceUI"),
    )


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
        age=int(item["Id"]),
        label=str(item["Id"]),
        folders=tuple(folders),
        size=size,
        modified_ns=time_ns(item),
        version=tag,
        checksum=_checksum(tag),
        unreadable=archived if item.get("IsArchived") else None,
    )


def _checksum(tag: str | None) -> str | None:
    """Return what an object store's entity tag proves: MD5 of the bytes, or of the MD5s of its parts."""
    if tag and re.fullmatch(r"[0-9a-f]{32}", tag):
        return f"md5:{tag}"
    if tag and re.fullmatch(r"[0-9a-f]{32}-[1-9]\d{0,4}", tag):
        return f"md5-of-parts:{tag}"
    return None


def time_ns(item: Json) -> int | None:
    for key in ("DateModified", "DateCreated"):
        moment = parse_time(item.get(key))
        if moment is not None and moment.year > 1:
            return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
    return None


def parse_time(text: Any) -> datetime | None:
    """Parse `2018-07-18T18:49:07.0000000Z`; older answers lack the Z and mean UTC all the same."""
    try:
        return datetime.fromisoformat(str(text).rstrip("Z")[:26] + "+00:00")
    except ValueError:
        return None
