"""Illumina BaseSpace Sequence Hub, API version v1pre3.

    site → projects → app results (writable), samples and datasets (read-only) → files, in the folders of their `Path`
         → _runs    → runs (read-only) → files

Facts used here, with their sources: tokens travel in `x-access-token` (API reference); file bytes come
from a presigned address on another origin, which lives for days and answers 403 once it has expired;
parts are numbered 1 to 10000, each of 5 MiB or more but the last, none above 25 MiB, checked by
`Content-MD5` and an ETag that is the MD5 in hex (multipart upload guide). A file can be neither
overwritten nor deleted: saving to a path again is a new file, and the newest complete one counts. Ids do not
grow with time (recorded traffic): what is newer is told by dates of creation, which have whole seconds.

Tests: backends/test_backends, backends/test_basespace_saving.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from labfs.backend import (
    Accept,
    Capabilities,
    Content,
    Entry,
    Page,
    Replace,
    Source,
    Target,
    takes,
)
from labfs.backends.basespace import entries
from labfs.backends.basespace.datasets import Datasets
from labfs.backends.basespace.entries import API, PAGE, Json, response_of
from labfs.backends.basespace.saving import Began, Saving
from labfs.backends.common import Settings, sift
from labfs.backends.looking import Change, Looking
from labfs.backends.paging import Paging
from labfs.errors import Denied, Exists, LabfsError, Malformed, NotFound, Unsupported
from labfs.errors.health import Health
from labfs.http.client import Answer, Client, Request
from labfs.http.contents import Address, Presigned, address

log = logging.getLogger(__name__)

MIB = 1024 * 1024
LISTS = ("appresults", "samples", "datasets")  # of a project, one after the other

CAPABILITIES = Capabilities(
    ranged=True,
    deletable=False,
    replace=Replace.NEWER,
    whole=5 * MIB,
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
        proxy=settings.proxy,
        ca=settings.ca,
        login=settings.login(_is_own, entries.RIGHTS),
        gate=settings.gate,
        explain=_explain,
    )
    return BaseSpace(client)


class BaseSpace:
    """One account on one BaseSpace server."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.looking = Looking(client.timeout_s)
        self._saving = Saving(client, self.looking, self._bytes)
        self._datasets = Datasets(client)

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES if self._saving.tags.prove else replace(CAPABILITIES, checksums_prove=False)

    @property
    def root(self) -> Entry:
        return Entry(id="", name=self._client.site, is_dir=True, takes=takes(Accept.DIRECTORY))

    @property
    def multipart(self) -> Saving:
        return self._saving

    @property
    def health(self) -> Health:
        return self._client.health

    async def aclose(self) -> None:
        await self._client.aclose()

    async def check(self) -> str:
        return str((await self._get("users/current")).get("Name") or "somebody without a name")

    async def rights(self) -> str:
        try:
            scopes = (await self._get("oauthv2/token/current")).get("Scopes")
        except (Denied, NotFound, Malformed) as error:
            log.info("%s does not tell what its token may do: %s", self._client.site, error)
            return ""
        return ", ".join(str(scope) for scope in scopes) if isinstance(scopes, list) else ""

    # -- looking -------------------------------------------------------------------------------------

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        if parent.id == "":
            return await self._projects(cursor)
        kind, _, number = parent.id.partition("/")
        match kind:
            case "projects":
                return await self._records(number, cursor)
            case "appresults" | "samples" | "runs" if number:
                return await self._files(kind, number, cursor)
            case "datasets":
                page = await self._datasets.files(number, cursor)
                self._saving.seen.add(parent.id, {entry.label for entry in page.entries})
                return page
            case "runs":
                return await self._page("users/current/runs", entries.run, cursor)
        raise NotFound(f"“{parent.name}” holds nothing that could be listed.")

    async def _projects(self, cursor: str | None) -> Page:
        """Projects, and at their end the branch of runs, which costs no request before somebody looks into it."""
        page = await self._page("users/current/projects", entries.project, cursor)
        if page.cursor is not None:
            return page
        runs = Entry(id="runs", name=entries.RUNS, is_dir=True, label="runs", read_only=entries.RUNS_FIXED)
        return replace(page, entries=(*page.entries, runs), total=(page.total or 0) + 1)

    async def _records(self, project: str, cursor: str | None) -> Page:
        """App results, samples, and then datasets that are neither; the cursor carries the count of those before."""
        kind, offset, before = (cursor or "appresults:0:0").split(":")
        if kind == "datasets":
            page = await self._datasets.page(project, offset)
        else:
            page = await self._page(f"projects/{project}/{kind}", entries.RECORDS[kind], offset)
            self._datasets.listed(project, page.entries, anew=cursor is None)
        if page.cursor is not None:
            return replace(page, cursor=f"{kind}:{page.cursor}:{before}")
        count = (page.total or 0) + int(before)
        if kind != LISTS[-1]:
            return replace(page, cursor=f"{LISTS[LISTS.index(kind) + 1]}:0:{count}")
        return replace(page, total=count)

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
        paging = Paging.at(cursor)
        items, total = await paging.joined(lambda offset, rows: self._rows(path, offset, rows, filters))
        following = paging.then(len(items), total, PAGE)
        good, left_out = sift(convert, items)
        self._saving.seen.add(path.rpartition("/")[0], {entry.label for entry in good})
        return Page(good, following, total, left_out)

    async def _rows(self, path: str, offset: int, rows: int, filters: Mapping[str, str]) -> tuple[list[Any], int]:
        window = {"Offset": str(offset), "Limit": str(rows)}
        found = await self._get(path, {"SortBy": "Id", "SortDir": "Asc", **window, **filters})
        items, total = found.get("Items"), found.get("TotalCount")
        if not isinstance(items, list) or not isinstance(total, int):
            raise Malformed(f"{self._client.site} answered {path} without a list of items.")
        if (found.get("SortBy"), found.get("SortDir")) != ("Id", "Asc"):
            # The service replaces an order that it does not know. Pages may then overlap or leave gaps,
            # which the count in `scan` finds out.
            log.warning("%s lists %s in another order than by id.", self._client.site, path)
        return items, total

    async def stat(self, entry_id: str) -> Entry:
        kind = entry_id.partition("/")[0]
        if kind == "datasets":
            return await self._datasets.stat(entry_id)
        found = await self._get(entry_id)
        if kind == "files" and str(found.get("UploadStatus", "complete")).lower() != "complete":
            raise NotFound("The upload of this file is not complete.")
        convert = {"projects": entries.project, "files": entries.file, "runs": entries.run, **entries.RECORDS}.get(kind)
        if convert is None:
            raise NotFound(f"There is no {entry_id}.")
        return convert(found)

    async def measure(self, entry: Entry) -> int | None:
        return (await self.stat(entry.id)).size

    async def describe(self, entry: Entry) -> Mapping[str, Any]:
        if entries.is_dataset(entry.id):
            return await self._datasets.describe(entry.id)
        return await self._get({"": "users/current", "runs": "users/current/runs"}.get(entry.id, entry.id))

    def content(self, entry: Entry) -> Content:
        return self._bytes(entry)

    def _bytes(self, entry: Entry) -> Presigned:
        return Presigned(self._client, entry.version, lambda: self._address(entry), entry.size)

    async def _address(self, entry: Entry) -> Address:
        known = self._datasets.address(entry)
        if known is not None:
            return known
        answer = await self._client.call(Request("GET", f"{API}/{entry.id}/content", params={"redirect": "meta"}))
        found = response_of(answer)
        url, until = found.get("HrefContent"), entries.parse_time(found.get("Expires"))
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise Malformed(f"{answer.what} did not say where the bytes are.")
        return address(url, answer, until.timestamp() if until else None)

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        return response_of(await self._client.call(Request("GET", f"{API}/{path}", params=params)))

    # -- making and saving ---------------------------------------------------------------------------

    async def make(self, parent: Entry, name: str) -> Entry:
        if parent.id == "":
            return await self._make_project(name)
        began = self._saving.seen.before(parent.id)
        change = Change(
            f"{parent.id}/{name}",
            began,
            lambda: self._make_record(parent, name),
            lambda began: self._records_made(parent, name, began),
        )
        return entries.app_result(await self.looking.once(change))

    async def _make_record(self, parent: Entry, name: str) -> Json:
        path, body = f"{API}/{parent.id}/appresults", {"Name": name, "Description": "", "References": []}
        return response_of(await self._client.call(Request("POST", path, json=body, repeatable=False)))

    async def _records_made(self, parent: Entry, name: str, began: Began) -> list[Json]:
        """Return the app results that a `make` whose answer was lost has made."""
        made = await self._saving.made_since(f"{API}/{parent.id}/appresults", began)
        return [item for item in made if item.get("Name") == name]

    async def _make_project(self, name: str) -> Entry:
        # Creating a project that exists quietly returns the old one: look first.
        listed = await self._get("users/current/projects", {"Name": name, "Limit": str(PAGE)})
        if any(item.get("Name") == name for item in listed.get("Items", [])):
            raise Exists(f"There already is a project “{name}”.")
        return entries.project(
            response_of(await self._client.call(Request("POST", f"{API}/projects", json={"Name": name})))
        )

    async def upload(self, target: Target, source: Source) -> Entry:
        return await self._saving.upload(target, source)

    async def rename(self, entry: Entry, target: Target) -> Entry:
        raise Unsupported(f"{self._client.site} cannot rename “{entry.name}”.")

    async def delete(self, entry: Entry) -> None:
        raise Denied(f"{self._client.site} cannot delete a single file.")


def _is_own(headers: Mapping[str, str], said: str) -> bool:
    """Whether a 401 is the service's: each of its errors has a message."""
    return bool(said)


def _explain(answer: Answer) -> str:
    """Return the service's own sentence from an error answer, "" if it has none."""
    try:
        body = answer.json()
        message = body["ResponseStatus"]["Message"] if "ResponseStatus" in body else body["ErrorMessage"]
    except (LabfsError, KeyError, TypeError):
        return ""
    return f"{answer.what}: {message}"
