"""Illumina BaseSpace Sequence Hub, API version v1pre3.

    site → projects → app results (writable) and samples (read-only) → files, in the folders of their `Path`

Facts used here, with their sources: tokens travel in `x-access-token` (API reference); file bytes come
from a presigned address on another origin, which lives for days and answers 403 once it has expired;
parts are numbered 1 to 10000, each of 5 MiB or more but the last, none above 25 MiB, checked by
`Content-MD5` and an ETag that is the MD5 in hex (multipart upload guide). A file can be neither
overwritten nor deleted: saving to a path again is a new file, and the newest complete one counts.
"""

from __future__ import annotations

import base64
import logging
import mimetypes
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import trio

from labfs.backend import (
    Accept,
    Capabilities,
    Content,
    Entry,
    Page,
    Parts,
    Receipt,
    Replace,
    Settings,
    Source,
    Target,
    sift,
)
from labfs.backends import basespace_entries as entries
from labfs.backends.basespace_entries import Json
from labfs.client import Answer, Client, Patience
from labfs.errors import (
    Denied,
    Exists,
    Garbled,
    Invalid,
    LabfsError,
    Malformed,
    NotFound,
    ReadOnly,
    Unanswered,
    Unsupported,
)
from labfs.presigned import Address, Presigned, address

log = logging.getLogger(__name__)

MIB = 1024 * 1024
API = "v1pre3"
PAGE = 1024  # the largest page there is
UPLOAD_TRIES = 3
LOOK_BACK = 50  # newest files of a record among which a lost upload is looked for

CAPABILITIES = Capabilities(
    ranged=True,
    deletable=False,
    replace=Replace.NEWER,
    whole=5 * MIB,
    parts=Parts(least=5 * MIB, greatest=25 * MIB, count=10_000, preferred=8 * MIB),
    connections=16,
)


def build(settings: Settings) -> BaseSpace:
    token = settings.secrets["token"]
    client = Client(
        settings.name,
        settings.url,
        lambda: {"x-access-token": token()},
        connections=CAPABILITIES.connections,
        timeout_s=settings.timeout_s,
        explain=_explain,
    )
    return BaseSpace(client)


class BaseSpace:
    """One account on one BaseSpace server."""

    capabilities = CAPABILITIES

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def root(self) -> Entry:
        return Entry(id="", name=self._client.site, is_dir=True, accepts=frozenset({Accept.DIRECTORY}))

    @property
    def outage(self) -> str | None:
        return self._client.outage

    async def aclose(self) -> None:
        await self._client.aclose()

    async def check(self) -> str:
        return str((await self._get("users/current")).get("Name") or "somebody without a name")

    # -- looking -------------------------------------------------------------------------------------

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        if parent.id == "":
            return await self._page("users/current/projects", entries.project, cursor)
        kind, _, number = parent.id.partition("/")
        match kind:
            case "projects":
                return await self._records(number, cursor)
            case "appresults" | "samples":
                return await self._files(kind, number, cursor)
        raise NotFound(f"“{parent.name}” holds nothing that could be listed.")

    async def _records(self, project: str, cursor: str | None) -> Page:
        """App results first, then samples: one list after the other; the cursor carries the first's count."""
        kind, offset, before = (cursor or "appresults:0:0").split(":")
        page = await self._page(f"projects/{project}/{kind}", entries.RECORDS[kind], offset)
        if page.cursor is not None:
            return replace(page, cursor=f"{kind}:{page.cursor}:{before}")
        if kind == "appresults":
            return replace(page, cursor=f"samples:0:{page.total}")
        return replace(page, total=(page.total or 0) + int(before))

    async def _files(self, kind: str, number: str, cursor: str | None) -> Page:
        page = await self._page(f"{kind}/{number}/files", entries.file, cursor, Statuses="complete")
        shown = tuple([entry for entry in page.entries if entry.size or await self._is_complete(entry)])
        pending = len(page.entries) - len(shown)
        return replace(page, entries=shown, left_out=page.left_out + pending)

    async def _is_complete(self, entry: Entry) -> bool:
        """Tell an empty file from an upload under way, which a list shows alike."""
        if entry.checksum == entries.EMPTY_MD5:
            return True
        try:
            found = await self._get(entry.id)
        except (NotFound, Denied):
            return False
        return str(found.get("UploadStatus")).lower() == "complete"

    async def _page(self, path: str, convert: Callable[[Json], Entry], cursor: str | None, **filters: str) -> Page:
        offset = int(cursor or 0)
        params = {"SortBy": "Id", "SortDir": "Asc", "Offset": str(offset), "Limit": str(PAGE), **filters}
        found = await self._get(path, params)
        items, total = found.get("Items"), found.get("TotalCount")
        if not isinstance(items, list) or not isinstance(total, int):
            raise Malformed(f"{self._client.site} answered {path} without a list of items.")
        if (found.get("SortBy"), found.get("SortDir")) != ("Id", "Asc"):
            # The service replaces an order that it does not know. Pages may then overlap or leave gaps,
            # which the count in `scan` finds out.
            log.warning("%s lists %s in another order than by id.", self._client.site, path)
        good, left_out = sift(convert, items)
        end = offset + len(items)
        more = bool(items) and end < total
        return Page(good, str(end) if more else None, total, left_out)

    async def stat(self, entry_id: str) -> Entry:
        kind = entry_id.partition("/")[0]
        found = await self._get(entry_id)
        if kind == "files" and str(found.get("UploadStatus", "complete")).lower() != "complete":
            raise NotFound("The upload of this file is not complete.")
        convert = {"projects": entries.project, "files": entries.file, **entries.RECORDS}.get(kind)
        if convert is None:
            raise NotFound(f"There is no {entry_id}.")
        return convert(found)

    async def measure(self, entry: Entry) -> int | None:
        return (await self.stat(entry.id)).size

    async def describe(self, entry: Entry) -> Mapping[str, Any]:
        return await self._get(entry.id or "users/current")

    def content(self, entry: Entry) -> Content:
        return Presigned(self._client, entry.version, lambda: self._address(entry))

    async def _address(self, entry: Entry) -> Address:
        answer = await self._client.call("GET", f"{API}/{entry.id}/content", params={"redirect": "meta"})
        found = _response(answer)
        url, until = found.get("HrefContent"), entries.parse_time(found.get("Expires"))
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise Malformed(f"{answer.what} did not say where the bytes are.")
        return address(url, answer, until.timestamp() if until else None)

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        return _response(await self._client.call("GET", f"{API}/{path}", params=params))

    # -- making and saving ---------------------------------------------------------------------------

    async def make(self, parent: Entry, name: str) -> Entry:
        if parent.id == "":
            return await self._make_project(name)
        path = f"{API}/{parent.id}/appresults"
        body = {"Name": name, "Description": "", "References": []}
        return entries.app_result(_response(await self._client.call("POST", path, json=body, repeatable=False)))

    async def _make_project(self, name: str) -> Entry:
        # Creating a project that exists quietly returns the old one: look first.
        listed = await self._get("users/current/projects", {"Name": name, "Limit": str(PAGE)})
        if any(item.get("Name") == name for item in listed.get("Items", [])):
            raise Exists(f"There already is a project “{name}”.")
        return entries.project(_response(await self._client.call("POST", f"{API}/projects", json={"Name": name})))

    async def upload(self, target: Target, source: Source) -> Entry:
        digest = (await trio.to_thread.run_sync(source.md5)).hex()
        before = time.time(), trio.current_time()
        for attempt in range(1, UPLOAD_TRIES + 1):
            try:
                sent = await self._send(target, source)
            except (Unanswered, Malformed):
                # Perhaps it was carried out: look before sending it a second time.
                found = await self._find(target, source.size, digest, before)
                if found is not None:
                    return found
                if attempt == UPLOAD_TRIES:
                    raise
                await trio.sleep(attempt)
            else:
                return await self._confirmed(sent, source.size, digest)
        raise AssertionError("unreachable")

    async def _send(self, target: Target, source: Source) -> Json:
        try:
            answer = await self._client.call(
                "POST",
                f"{API}/{target.parent.id}/files",
                params=_where(target),
                source=source,
                headers={"Content-Type": _content_type(target.name)},
                patience=Patience.PERSISTENT,
                repeatable=False,
            )
        except Invalid as error:
            if source.size == 0:
                raise Invalid(f"{self._client.site} does not take empty files ({error}).") from error
            raise
        return _response(answer)

    async def _find(self, target: Target, size: int, md5: str, before: tuple[float, float]) -> Entry | None:
        """Look for an upload whose answer was lost among the newest files of the record."""
        params = {"SortBy": "Id", "SortDir": "Desc", "Offset": "0", "Limit": str(LOOK_BACK)}
        path = "/".join((*target.folders, target.name))
        answer = await self._client.call(
            "GET", f"{API}/{target.parent.id}/files", params=params, patience=Patience.PERSISTENT
        )
        since_ns = int(answer.since_s(*before) * 1e9)
        for item in _response(answer).get("Items", []):
            same = (item.get("Path"), item.get("Size"), item.get("ETag")) == (path, size, md5)
            # An hour of slack: their clock is not ours, and an equal older file is the same bytes anyway.
            if same and (entries.time_ns(item) or since_ns) > since_ns - 3600 * 10**9:
                return await self.stat(f"files/{item['Id']}")
        return None

    async def _confirmed(self, sent: Json, size: int, md5: str | None) -> Entry:
        """Ask for a saved file once more and compare; what the answer to the save said is not proof."""
        answer = await self._client.call("GET", f"{API}/files/{_id(sent)}", patience=Patience.PERSISTENT)
        found = _response(answer)
        if str(found.get("UploadStatus")).lower() != "complete" or found.get("Size") != size:
            raise Malformed(
                f"{self._client.site} holds {found.get('Size')} bytes of the {size} that were sent; not saved."
            )
        if md5 and re.fullmatch("[0-9a-f]{32}", str(found.get("ETag") or "")) and found["ETag"] != md5:
            raise Malformed(f"{self._client.site} holds other bytes than those that were sent; not saved.")
        return entries.file(found)

    async def begin_upload(self, target: Target, size: int | None) -> _Upload:
        params = {**_where(target), "multipart": "true"}
        headers = {"Content-Type": _content_type(target.name)}
        path = f"{API}/{target.parent.id}/files"
        # A repetition after a lost answer leaves a pending upload behind that nobody sees.
        answer = await self._client.call("POST", path, params=params, headers=headers, patience=Patience.PERSISTENT)
        return _Upload(self, self._client, _id(_response(answer)))

    async def resume_upload(self, target: Target, token: str) -> _Upload:
        status = str((await self._get(f"files/{token}")).get("UploadStatus")).lower()
        if status not in ("pending", "uploading", "complete"):
            raise NotFound(f"This upload is {status}.")
        return _Upload(self, self._client, token)

    async def rename(self, entry: Entry, target: Target) -> Entry:
        raise Unsupported(f"{self._client.site} cannot rename “{entry.name}”.")

    async def delete(self, entry: Entry) -> None:
        raise Denied(f"{self._client.site} cannot delete a single file.")


class _Upload:
    """A multipart upload under way; its token is the id of the pending file."""

    def __init__(self, backend: BaseSpace, client: Client, token: str) -> None:
        self._backend = backend
        self._client = client
        self.token = token

    async def put_part(self, number: int, source: Source) -> Receipt:
        digest = await trio.to_thread.run_sync(source.md5)
        path = f"{API}/files/{self.token}/parts/{number}"
        headers = {"Content-MD5": base64.b64encode(digest).decode()}
        try:
            receipt = _response(
                await self._client.call("PUT", path, source=source, headers=headers, patience=Patience.PERSISTENT)
            )
        except (Invalid, Malformed) as error:
            raise Garbled(f"Part {number} was not taken: {error}") from error
        if receipt.get("ETag") != digest.hex() or receipt.get("Size", source.size) != source.size:
            raise Garbled(f"Part {number} arrived damaged.")
        return Receipt(number, digest.hex(), source.size)

    async def complete(self, receipts: list[Receipt], size: int) -> Entry:
        try:
            await self._post("complete")
        except LabfsError:
            # Refused, or carried out and its answer lost: the file itself tells.
            return await self._backend._confirmed({"Id": self.token}, size, None)
        return await self._backend._confirmed({"Id": self.token}, size, None)

    async def abort(self) -> None:
        with suppress(NotFound, Denied, Exists, Invalid):  # gone, or finished already
            await self._post("aborted")

    async def _post(self, status: str) -> None:
        path = f"{API}/files/{self.token}"
        await self._client.call("POST", path, params={"uploadstatus": status}, patience=Patience.PERSISTENT)


def _where(target: Target) -> dict[str, str]:
    if not target.parent.id.startswith("appresults/"):
        raise ReadOnly(f"Files cannot be saved in “{target.parent.name}”.")
    if any("/" in part for part in (*target.folders, target.name)):
        raise Invalid("BaseSpace takes a / in a name for a folder; choose another name.")
    directory = "/".join(target.folders)
    return {"name": target.name, **({"directory": directory} if directory else {})}


def _id(item: Json) -> str:
    number = str(item.get("Id"))
    if not number.isdecimal():
        raise Malformed("The hub answered to an upload without saying what it is called.")
    return number


def _content_type(name: str) -> str:
    return mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"


def _response(answer: Answer) -> Json:
    body = answer.json()
    found = body.get("Response") if isinstance(body, dict) else None
    status = body.get("ResponseStatus") if isinstance(body, dict) else None
    if isinstance(status, dict) and status.get("Message"):
        raise Invalid(f"{answer.what}: {status['Message']}")
    if not isinstance(found, dict):
        raise Malformed(f"{answer.what} answered without a Response; is the site's url right?")
    return cast(Json, found)


def _explain(answer: Answer) -> str:
    """Return the service's own sentence from an error answer, "" if it has none."""
    try:
        body = answer.json()
        message = body["ResponseStatus"]["Message"] if "ResponseStatus" in body else body["ErrorMessage"]
    except (LabfsError, KeyError, TypeError):
        return ""
    return f"{answer.what}: {message}"
