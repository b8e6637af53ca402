"""Datasets of BaseSpace, which the second version of its API (v2) lists.

A sample or an app result is a dataset too and says so in `V1pre3Id`; a dataset that tells none, or one that the first
version did not list, is a record of its own (nothing is joined by a guess). Where a site has no v2, or it is not for
this token, there are none. Where v2 is away the rest is shown, and what is not shown is not known to be absent.

A list of a dataset's files brings the address of each (`filehrefcontentresolution`), which saves the request for it
as long as that lives: seven days, by the recorded answers.

Tests: backends/test_basespace_datasets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import trio
from cachetools import TTLCache

from labfs.backend import Entry, Page
from labfs.backends.basespace import entries
from labfs.backends.basespace.entries import PAGE, SECOND, Json
from labfs.backends.common import sift
from labfs.backends.paging import Paging
from labfs.errors import LabfsError, Malformed, Unavailable
from labfs.http.client import Client, Request
from labfs.http.contents import Address
from labfs.http.pace import Patience

ROWS = 256  # of datasets in a page: one has 12 kB of JSON with what it came from
ADDRESSES = 20_000  # that are remembered
LIVES_S = 3600.0  # for which an address of a list is used: far less than the store's seven days
PROJECTS = 64  # of which it is remembered what the first version listed


class Datasets:
    """The datasets of one account."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._listed: dict[str, set[str]] = {}  # project → ids of the records that the first version listed
        self._addresses: TTLCache[tuple[str, str | None], str] = TTLCache(ADDRESSES, LIVES_S, timer=trio.current_time)

    def listed(self, project: str, records: Collection[Entry], *, anew: bool) -> None:
        """Take note of what the first version lists of a project, `anew` from its first page on."""
        known = set() if anew else self._listed.pop(project, set())
        self._listed.pop(project, None)
        self._listed[project] = known | {record.id for record in records}
        while len(self._listed) > PROJECTS:
            del self._listed[next(iter(self._listed))]

    async def page(self, project: str, cursor: str | None) -> Page:
        """Return datasets of a project that the first version did not list."""
        path = f"projects/{project}/datasets"
        try:
            items, following, total = await self._page(path, cursor, ROWS, SortBy="DateCreated", SortDir="Asc")
        except Unavailable as error:
            remark = f"Datasets that only API version 2 lists are missing here: {error}"
            return Page((), None, 0, remark=remark, lacking=True)
        except (
            LabfsError
        ) as error:  # not here, not for this token, or a page of somebody else's: version 1 has answered
            return Page((), None, 0, remark=f"This shows what API version 1 lists; version 2 is not to be had: {error}")
        listed = self._listed.get(project, set())
        others = [item for item in items if not isinstance(item, dict) or entries.first_id(item) not in listed]
        good, left_out = sift(entries.dataset, others)
        return Page(good, following, total, left_out + len(items) - len(others))

    async def files(self, number: str, cursor: str | None) -> Page:
        query = {"SortBy": "Path", "filehrefcontentresolution": "true"}
        items, following, total = await self._page(f"datasets/{number}/files", cursor, PAGE, **query)
        good, left_out = sift(entries.file, items)
        addresses = {str(item.get("Id")): item.get("HrefContent") for item in items if isinstance(item, dict)}
        for entry in good:
            url = addresses.get(entry.label)
            if isinstance(url, str) and "?" in url and url.startswith(("http://", "https://")):  # it is signed
                self._addresses[entry.id, entry.version] = url
        return Page(good, following, total, left_out)

    def address(self, entry: Entry) -> Address | None:
        """Return, once, the address of a file's bytes that a list brought along."""
        url = self._addresses.pop((entry.id, entry.version), None)
        return None if url is None else Address(url, trio.current_time() + LIVES_S)

    async def stat(self, entry_id: str) -> Entry:
        """Return a dataset by the id of its entry. Raises NotFound."""
        return entries.dataset(await self._get(entry_id))

    async def describe(self, entry_id: str) -> Mapping[str, Any]:
        """Return a dataset's own record: type, analysis, QC, total size, and the biosamples that went into it."""
        return await self._get(entry_id, {"include": "properties"})

    async def _page(self, path: str, cursor: str | None, most: int, **query: str) -> tuple[list[Any], str | None, int]:
        paging = Paging.at(cursor)
        items, total = await paging.joined(lambda offset, rows: self._rows(path, offset, rows, query))
        return items, paging.then(len(items), total, most), total

    async def _rows(self, path: str, offset: int, rows: int, query: Mapping[str, str]) -> tuple[list[Any], int]:
        # What there is beside it is not kept waiting for a version that is away.
        patience = Patience.PROMPT if path.startswith("datasets/") else Patience.BRIEF
        found = await self._get(path, {**query, "Offset": str(offset), "Limit": str(rows)}, patience)
        items, counts = found.get("Items"), found.get("Paging")
        total = counts.get("TotalCount") if isinstance(counts, dict) else None
        if not isinstance(items, list) or not isinstance(total, int):
            raise Malformed(f"{self._client.site} answered {path} without a list of items.")
        return items, total

    async def _get(
        self, path: str, params: Mapping[str, str] | None = None, patience: Patience = Patience.PROMPT
    ) -> Json:
        found = (await self._client.call(Request("GET", f"{SECOND}/{path}", params=params, patience=patience))).json()
        if not isinstance(found, dict):
            raise Malformed(f"{self._client.site} answered {path} without an object.")
        return found
