"""Saving to BaseSpace: uploads in one body and in parts, and what shows that they arrived.

Facts used here, with their sources: nothing can be deleted, so that what is sent twice is there twice for ever; ids
come from several allocators and dates have whole seconds (recorded traffic, wire contract section 11), so a lost
upload is known by its path, its bytes and its date, and by not having been there before. The store's tag of a file
is the MD5 of one body, or of the MD5s of the parts with their number, unless the store encrypts with managed keys:
then it looks like one and is none, for the whole site. `Content-MD5` of a part is checked all the same.

Tests: backends/test_backends, backends/test_basespace_saving.
"""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import trio

from labfs.backend import (
    Entry,
    Parts,
    Receipt,
    Source,
    Target,
    fetched,
)
from labfs.backends.basespace import entries
from labfs.backends.basespace.deposits import deposit
from labfs.backends.basespace.entries import (
    API,
    PAGE,
    Json,
    content_type,
    files_of,
    is_dataset,
    list_of,
    path_of,
    response_of,
)
from labfs.backends.looking import Change, Looking, holds
from labfs.backends.paging import Paging
from labfs.errors import (
    Denied,
    Empty,
    Exists,
    Garbled,
    Invalid,
    Malformed,
    NotFound,
    ReadOnly,
    Stale,
    Unanswered,
    Unsupported,
)
from labfs.http.client import Answer, Client, Patience, Request
from labfs.http.contents import Presigned

log = logging.getLogger(__name__)

MIB = 1024 * 1024

MOST_SEEN = 200_000  # ids kept of what was listed, over all records
PART_TRIES = 2  # of a part whose receipt has another tag than its MD5
MANAGED = "x-amz-server-side-encryption"
CUSTOMER = "x-amz-server-side-encryption-customer-algorithm"


class Tags:
    """Whether the store's tags are what they seem: believed until one was seen to be something else, then never."""

    def __init__(self) -> None:
        self.prove = True

    def notice(self, headers: Mapping[str, str]) -> None:
        """Learn from the headers of the store: tags of what is encrypted with managed keys are no checksums."""
        if headers.get(MANAGED, "").startswith("aws:kms") or headers.get(CUSTOMER):
            self.disprove()

    def disprove(self) -> None:
        if self.prove:
            log.info("Tags of this site look like checksums and are none.")
        self.prove = False


class Seen:
    """The ids that were listed, by the record that they are in: what is there before a change is not of it."""

    def __init__(self) -> None:
        self._ids: dict[str, set[str]] = {}

    def add(self, parent: str, ids: set[str]) -> None:
        known = self._ids.pop(parent, set())
        known |= ids
        self._ids[parent] = known
        while len(self._ids) > 1 and sum(map(len, self._ids.values())) > MOST_SEEN:
            del self._ids[next(iter(self._ids))]

    def before(self, parent: str, *others: Entry | None) -> Began:
        return Began(frozenset(self._ids.get(parent, ())) | {entry.label for entry in others if entry is not None})


class Began:
    """A moment, and what was known to be there then."""

    def __init__(self, known: frozenset[str]) -> None:
        self.known = known
        self.moment = time.time(), trio.current_time()


class Saving:
    """Changes of one account. `content` returns the bytes of an entry."""

    rules = Parts(least=5 * MIB, greatest=25 * MIB, count=10_000, preferred=8 * MIB)

    def __init__(self, client: Client, looking: Looking, content: Callable[[Entry], Presigned]) -> None:
        self.client = client
        self.looking = looking
        self.content = content
        self.tags = Tags()
        self.seen = Seen()
        client.watch(self.tags.notice)

    # -- one body ------------------------------------------------------------------------------------

    async def upload(self, target: Target, source: Source) -> Entry:
        digest = (await trio.to_thread.run_sync(source.md5)).hex()
        where = where_of(target)
        change = Change(
            f"{target.parent.id}/{path_of(target)}",
            self.seen.before(target.parent.id, target.replaces),
            lambda: self._send(target, where, source),
            lambda began: self._ours(target, source, digest, began),
            mark=digest,
        )
        number = await self.looking.once(change)
        with self.looking.confirming(change):
            entry = await self._confirmed(number, source, digest)
        self.seen.add(target.parent.id, {number})
        return entry

    async def _send(self, target: Target, where: dict[str, str], source: Source) -> str:
        try:
            if is_dataset(target.parent.id):
                return number_of(await deposit(self.client, target, source))
            request = Request(
                "POST",
                f"{API}/{target.parent.id}/files",
                params=where,
                source=source,
                headers={"Content-Type": content_type(target.name)},
                patience=Patience.PERSISTENT,
                repeatable=False,
            )
            answer = await self.client.call(request)
        except Invalid as error:
            if source.size == 0:
                raise Empty(f"{self.client.site} does not take empty files ({error.said}).") from error
            raise
        return number_of(response_of(answer))

    async def _ours(self, target: Target, source: Source, md5: str, began: Began) -> list[str]:
        """Return the ids of files that are an upload of `source` begun then: of its path, bytes and time, and new."""
        path = path_of(target)
        made = await self.made_since(files_of(target.parent.id), began, Statuses="complete")
        alike = [item for item in made if (item.get("Path"), item.get("Size")) == (path, source.size)]
        return [number_of(item) for item in alike if await self._is(item, source, md5)]

    async def _is(self, item: Json, source: Source, md5: str) -> bool:
        """Tell whether a listed file has these bytes: by its tag, else by reading it, since tags can be none."""
        if item.get("ETag") == md5:
            return True
        try:
            same = await holds(self.content(entries.file(item)), source)
        except (NotFound, Stale, KeyError, TypeError, ValueError):
            return False
        if same and is_md5(item.get("ETag")):
            self.tags.disprove()
        return same

    async def made_since(self, path: str, began: Began, **filters: str) -> list[Json]:
        """Return what was made in the list of a path since a moment, newest first, without what was there before."""
        made: list[Json] = []
        cursor: str | None = None
        while True:
            paging = Paging.at(cursor)
            window = {"Offset": str(paging.offset), "Limit": str(paging.rows)}
            params = {"SortBy": "DateCreated", "SortDir": "Desc", **window, **filters}
            answer = await self.client.call(Request("GET", path, params=params))
            found = list_of(answer)
            items = found.get("Items")
            if not isinstance(items, list):
                raise Malformed(f"{answer.what} answered without a list of items.")
            since_ns = int(answer.since_s(*began.moment) * 1e9)
            # An order that the service does not know is replaced by another, and then all have to be looked at.
            ordered, older = (found.get("SortBy"), found.get("SortDir")) == ("DateCreated", "Desc"), False
            for item in [each for each in items if isinstance(each, dict)]:
                age = entries.created_ns(item)
                if age and age < since_ns:
                    older = True
                elif str(item.get("Id")) not in began.known:
                    made.append(item)
            cursor = paging.then(len(items), int(found.get("TotalCount") or 0), PAGE)
            if cursor is None or (ordered and older):
                return made

    async def _confirmed(self, number: str, source: Source, md5: str) -> Entry:
        """Ask for a saved file once more and compare; what the answer to the save said is not proof."""
        entry = await self.complete(number, source.size)
        differs = is_md5(entry.version) and entry.version != md5
        if not differs and (self.tags.prove or entry.version == md5):
            return entry
        if not await holds(self.content(entry), source):
            raise self.wrong()
        if differs:
            self.tags.disprove()
        return entry

    async def complete(self, number: str, size: int) -> Entry:
        """Return a file that was sent. Raises Malformed unless it is complete and of that size."""
        answer = await self.client.call(Request("GET", f"{API}/files/{number}", patience=Patience.PERSISTENT))
        found = response_of(answer)
        if str(found.get("UploadStatus")).lower() != "complete" or found.get("Size") != size:
            raise Malformed(
                f"{self.client.site} holds {found.get('Size')} bytes of the {size} that were sent; not saved."
            )
        return entries.file(found)

    def wrong(self) -> Malformed:
        return Malformed(f"{self.client.site} holds other bytes than those that were sent; not saved.")

    # -- parts ---------------------------------------------------------------------------------------

    async def begin(self, target: Target, size: int | None) -> PartUpload:
        if is_dataset(target.parent.id):
            raise Unsupported("Files of a dataset go up in one piece.")
        params = {**where_of(target), "multipart": "true"}
        headers = {"Content-Type": content_type(target.name)}
        path = f"{API}/{target.parent.id}/files"
        # A repetition after a lost answer leaves a pending upload behind that nobody sees.
        answer = await self.client.call(
            Request("POST", path, params=params, headers=headers, patience=Patience.PERSISTENT)
        )
        return PartUpload(self, number_of(response_of(answer)))

    async def resume(self, target: Target, token: str) -> PartUpload:
        status = await self.status(token)
        if status not in ("pending", "uploading", "complete"):
            raise NotFound(f"This upload is {status}.")
        return PartUpload(self, token)

    async def status(self, token: str) -> str:
        answer = await self.client.call(Request("GET", f"{API}/files/{token}"))
        return str(response_of(answer).get("UploadStatus")).lower()


class PartUpload:
    """A multipart upload under way; its token is the id of the pending file."""

    def __init__(self, saving: Saving, token: str) -> None:
        self._saving = saving
        self._client = saving.client
        self.token = token
        self._doubted = False  # whether a part's tag was another than its MD5

    async def put_part(self, number: int, source: Source) -> Receipt:
        """Send a part; one whose tag is another than its MD5 once more, and then the service's own check counts."""
        digest = await trio.to_thread.run_sync(source.md5)
        for _ in range(PART_TRIES if self._saving.tags.prove else 1):
            receipt = await self._put(number, source, digest)
            if receipt.get("Size", source.size) != source.size:
                raise Garbled(f"Part {number} arrived damaged.")
            if receipt.get("ETag") == digest.hex():
                break
        else:
            log.info("Part %d has another tag than its MD5; the file is read back once it is whole.", number)
            self._doubted = True
        return Receipt(number, digest.hex(), source.size)

    async def _put(self, number: int, source: Source, digest: bytes) -> Json:
        path = f"{API}/files/{self.token}/parts/{number}"
        headers = {"Content-MD5": base64.b64encode(digest).decode()}
        request = Request("PUT", path, source=source, headers=headers, patience=Patience.PERSISTENT)
        try:
            return response_of(await self._client.call(request))
        except (Invalid, Malformed) as error:
            raise Garbled(f"Part {number} was not taken: {error.said}") from error

    async def complete(self, receipts: list[Receipt], size: int) -> Entry:
        change = Change(f"files/{self.token}", None, self._finish, self._finished)
        try:
            with suppress(Exists, Invalid, Denied):  # refused, perhaps because it is complete: the file itself tells
                await self._saving.looking.once(change)
        except Malformed as error:
            raise Unanswered(error.said) from error  # to go on with later
        entry = await self._saving.complete(self.token, size)
        await self._compare(entry, receipts)
        return entry

    async def _finish(self) -> str:
        response_of(await self._post("complete", repeatable=False))
        return self.token

    async def _finished(self, began: None) -> list[str]:
        return [self.token] if await self._saving.status(self.token) == "complete" else []

    async def _compare(self, entry: Entry, receipts: list[Receipt]) -> None:
        """Read a file back and compare it part by part, unless its tag proves it or there is nothing to doubt."""
        tag = entry.version or ""
        joined = entries.tag_of_parts([receipt.tag for receipt in receipts])
        differs = is_md5(tag.partition("-")[0]) and tag.endswith(f"-{len(receipts)}") and tag != joined
        if tag == joined or not (differs or self._doubted or not self._saving.tags.prove):
            return
        content, start = self._saving.content(entry), 0
        for receipt in receipts:
            part = await fetched(content, start, start + receipt.size)
            if await trio.to_thread.run_sync(partial(entries.md5_of, part)) != receipt.tag:
                raise self._saving.wrong()
            start += receipt.size
        self._saving.tags.disprove()

    async def abort(self) -> None:
        with suppress(NotFound, Denied, Exists, Invalid):  # gone, or finished already
            await self._post("aborted")

    async def _post(self, status: str, *, repeatable: bool = True) -> Answer:
        request = Request(
            "POST",
            f"{API}/files/{self.token}",
            params={"uploadstatus": status},
            patience=Patience.PERSISTENT,
            repeatable=repeatable,
        )
        return await self._client.call(request)


def where_of(target: Target) -> dict[str, str]:
    """Return the parameters that name a file. Raises ReadOnly and Invalid where no file can be saved."""
    if not (target.parent.id.startswith("appresults/") or is_dataset(target.parent.id)):
        raise ReadOnly(f"Files cannot be saved in “{target.parent.name}”.")
    directory = path_of(target).rpartition("/")[0]
    return {"name": target.name, **({"directory": directory} if directory else {})}


def number_of(item: Json) -> str:
    number = str(item.get("Id"))
    if not number.isdecimal():
        raise Malformed("The hub answered to an upload without saying what it is called.")
    return number


def is_md5(tag: Any) -> bool:
    return bool(re.fullmatch("[0-9a-f]{32}", str(tag or "")))
