"""Saving to the Portal: uploads, what saving over a file means there, names, places and deletion.

Each upload is a new row, so saving over a file is: upload, check, let everything that pointed at the old row
point at the new one. A failure takes the new row away again; the core deletes the old one.
"""

from __future__ import annotations

import hashlib
import html
import logging
import mimetypes
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import trio

from labfs.backend import Buffer, Entry, Source, Target
from labfs.backends import portal_rows as rows
from labfs.backends.portal_rows import Addresses, Attached, Json, Place, located
from labfs.client import Answer, Client, Patience
from labfs.errors import (
    CrossDevice,
    Invalid,
    LabfsError,
    Malformed,
    NotFound,
    NotPermitted,
    ReadOnly,
    TooLarge,
    Unanswered,
)
from labfs.forms import Form
from labfs.presigned import Address

log = logging.getLogger(__name__)

ATTACHMENTS = "v1/attachments/"
LARGEST = 1_000_000_000  # bytes of a file: the program's own limit, checked once everything has arrived
UPLOAD_TRIES = 3
# Between looks for an upload whose answer was lost. One that the service fell silent over may go on for as
# long as its workers live, 90 s.
LOOKS_S, LONG_LOOKS_S = (0.0, 1.0), (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0)
CLOCKS_S = 3600  # by which their clock and ours may differ
WITHDRAW_S = 8.0  # for taking away an upload that failed
NAMED = ("filename", "owned_by_org", "sequence_map_for")  # by which an upload is known again

Detail = Callable[[str], Awaitable[tuple[Json, Answer]]]
Listing = Callable[[Place], Awaitable[tuple[list[Any], Answer]]]


class Saving:
    """Changes of attachments. `detail` asks for one's own row, `listing` for all rows of a place's owner."""

    def __init__(self, client: Client, addresses: Addresses, detail: Detail, listing: Listing) -> None:
        self._client = client
        self._addresses = addresses
        self._detail = detail
        self._listing = listing
        self.whole = LARGEST  # less once the proxy in front refused a smaller file; nothing tells its limit

    # -- uploads -------------------------------------------------------------------------------------

    async def upload(self, target: Target, source: Source) -> Entry:
        if target.parent.read_only:
            raise ReadOnly(target.parent.read_only)
        at, old = rows.place(target.parent.id), target.replaces
        self._check_name(target.name)
        if source.size > self.whole:
            raise TooLarge(f"“{target.name}” has {source.size} bytes; this portal takes at most {self.whole}.")
        past = None if old is None else await self._past(old)
        row, answer = await self._sent(target, at, source, _fields(target, at, past))
        entry = rows.converted(lambda: rows.file(row, at), answer)
        try:
            await self._check(target, entry, located(row, answer), source.size)
            if past is not None:
                await self._inherit(entry, past)
        except BaseException:
            await self._withdraw(entry)
            raise
        return replace(entry, size=source.size)

    async def _past(self, old: Entry) -> Json | None:
        """Return the row of the file that is saved over, None where it is gone already."""
        if old.read_only:
            raise NotPermitted(old.read_only)
        try:
            return (await self._detail(old.id))[0]
        except NotFound:
            return None

    async def _sent(self, target: Target, at: Place, source: Source, fields: dict[str, str]) -> tuple[Json, Answer]:
        """Upload; return the new row. A lost answer is looked for before anything is sent again."""
        began = time.time(), trio.current_time()
        for attempt in range(1, UPLOAD_TRIES + 1):
            try:
                answer = await self._post(target, source, fields)
                row = rows.object_of(answer)
                rows.converted(lambda row=row: rows.file(row, at), answer)  # type: ignore[misc]
            except TooLarge as error:
                self.whole = min(self.whole, max(source.size - 1, 0))
                text = f"{self._client.site} takes no files of {source.size} bytes: the server in front refused it"
                raise TooLarge(f"{text} ({error})") from error
            except (Unanswered, Malformed) as error:
                silent = isinstance(error, Unanswered) and error.silent
                found = await self._find(target, source, fields, began, LONG_LOOKS_S if silent else LOOKS_S)
                if found is not None:
                    return found
                if attempt == UPLOAD_TRIES:
                    raise
                log.info("%s Nothing of “%s” arrived; sending it again.", error, target.name)
            else:
                return row, answer
        raise AssertionError("unreachable")

    async def _post(self, target: Target, source: Source, fields: dict[str, str]) -> Answer:
        kind = mimetypes.guess_type(target.name, strict=False)[0] or "application/octet-stream"
        # On its own disk the program stores under the name of the part and looks under the field's: the same.
        form = Form(list(fields.items()), "file", target.name, kind, source)
        return await self._client.call(
            "POST",
            ATTACHMENTS,
            source=form,
            headers={**rows.JSON, "Content-Type": form.content_type},
            patience=Patience.PERSISTENT,
            repeatable=False,
        )

    async def _find(
        self,
        target: Target,
        source: Source,
        fields: dict[str, str],
        began: tuple[float, float],
        looks_s: tuple[float, ...],
    ) -> tuple[Json, Answer] | None:
        """Look for an upload whose answer was lost: a row made since, of this name, place and bytes."""
        for pause_s in looks_s:
            await trio.sleep(pause_s)
            listed, answer = await self._listing(rows.place(target.parent.id))
            since_s = answer.since_s(*began)
            for row in listed:
                if _is_candidate(row, target, fields, since_s) and await self._holds(row, answer, source):
                    return row, answer
        return None

    async def _holds(self, row: Json, answer: Answer, source: Source) -> bool:
        """Whether a row's bytes are the source's; compared whole, since no answer tells a checksum."""
        basket = _Digest()
        try:
            await self._attached(rows.file(row, Place()), located(row, answer)).pour(basket)
        except (LabfsError, KeyError, TypeError, ValueError):
            return False
        return basket.digest() == await trio.to_thread.run_sync(source.md5)

    def _attached(self, entry: Entry, there: Address) -> Attached:
        async def again() -> Address:
            return located(*await self._detail(entry.id))

        return Attached(self._client, entry.name, there, again)

    async def _check(self, target: Target, entry: Entry, there: Address, size: int) -> None:
        """Compare what the system holds now with what was sent. Raises Invalid or Malformed."""
        self._addresses.keep(entry.id, there)
        self._check_name(target.name)  # by now it is known where the bytes lie
        if entry.name != target.name:
            raise Invalid(f"{self._client.site} would call this file “{entry.name}”; choose a plainer name.")
        held = await self._attached(entry, there).measure()
        if held != size:
            raise Malformed(f"{self._client.site} holds {held} bytes of the {size} that were sent; not saved.")

    def _check_name(self, name: str) -> None:
        if name != name.strip():
            raise Invalid(f"{self._client.site} cuts blanks off the ends of a name; choose another than “{name}”.")
        if name in (".", "..") or set(name.split("/")) & {".", ".."}:
            raise Invalid(f"A file called “{name}” could be saved and never be read again; choose another name.")
        if not self._addresses.local:
            return
        # Its own disk: the name of a part loses entities and directories, and a line end breaks all lists.
        if html.unescape(name) != name or set(name) & set('"\\/\r\n'):
            raise Invalid(f"{self._client.site} would not find “{name}” again; choose a plainer name.")

    async def _inherit(self, entry: Entry, past: Json) -> None:
        """Let the agreements and requests that point at the old row point at this one, all at once."""
        form = {name: [str(number) for number in rows.refs(past.get(name))] for name in rows.LINKS}
        if any(form.values()):
            await self._change(entry.id, {name: numbers for name, numbers in form.items() if numbers})

    async def _withdraw(self, entry: Entry) -> None:
        """Take away an upload that is not as it should be, also when whoever wanted it has given up."""
        with trio.move_on_after(WITHDRAW_S, shield=True):
            try:
                await self._remove(entry.id)
            except LabfsError as error:
                log.warning("“%s” was uploaded in vain and could not be deleted: %s", entry.name, error)

    # -- names, places, deletion ---------------------------------------------------------------------

    async def rename(self, entry: Entry, target: Target) -> Entry:
        for reason in (entry.read_only, target.parent.read_only):
            if reason:
                raise NotPermitted(reason)
        at, before = rows.place(target.parent.id), rows.place(entry.inside)
        self._check_name(target.name)
        form: dict[str, str] = {}
        if target.name != entry.name:
            if self._addresses.local:
                raise CrossDevice(f"{self._client.site} loses the bytes of a file that is renamed; copy it instead.")
            form["filename"] = target.name
        if at.organization != before.organization:
            form["owned_by_org"] = str(at.organization or "")
        if at != before:
            form["sequence_map_for"] = str(at.material or "")
        past = None if target.replaces is None else await self._past(target.replaces)
        changed, answer = await self._change(entry.id, form)
        renamed = rows.converted(lambda: rows.file(changed, at), answer)
        if past is not None:
            await self._inherit(renamed, past)
        return replace(renamed, size=entry.size)

    async def _change(self, entry_id: str, form: Mapping[str, str | list[str]]) -> tuple[Json, Answer]:
        answer = await self._client.call(
            "PATCH", f"v1/{entry_id}/", form=form, headers=rows.JSON, patience=Patience.PERSISTENT
        )
        return rows.object_of(answer), answer

    async def delete(self, entry: Entry) -> None:
        """Delete a file; one that is an agreement is taken from its materials first, which would go on showing it."""
        past = await self._past(entry)
        if past is None:
            return
        taken: list[int] = []
        try:
            for material in rows.refs(past.get("mta_materials")):
                await self._agree(material, None)
                taken.append(material)
            await self._remove(entry.id)
        except LabfsError:
            for material in taken:
                with suppress(LabfsError):
                    await self._agree(material, int(entry.label))
            raise

    async def _agree(self, material: int, agreement: int | None) -> None:
        path, body = f"v1/materials/{material}/", {"mta_attachment": agreement}
        await self._client.call("PATCH", path, json=body, headers=rows.JSON, patience=Patience.PERSISTENT)

    async def _remove(self, entry_id: str) -> None:
        try:
            await self._client.call("DELETE", f"v1/{entry_id}/", headers=rows.JSON, patience=Patience.PERSISTENT)
        except NotFound:
            log.debug("%s was gone already.", entry_id)


def _fields(target: Target, at: Place, past: Json | None) -> dict[str, str]:
    """Return the fields of a new row, with what is worth keeping of the one whose place it takes."""
    past = past or {}
    # A map of somebody else's material is listed with the organization's own files, or the caller's.
    material = at.material or next(iter(rows.refs([past.get("sequence_map_for")])), None)
    given = {"owned_by_org": at.organization, "sequence_map_for": material, "description": past.get("description")}
    return {"filename": target.name, **{name: str(value) for name, value in given.items() if value}}


def _is_candidate(row: Any, target: Target, fields: dict[str, str], began: float) -> bool:
    """Whether a row may be an upload of these fields, begun then, that nobody answered for."""
    if not isinstance(row, dict) or (
        target.replaces is not None and f"attachments/{row.get('id')}" == target.replaces.id
    ):
        return False
    same = all(str(row.get(name) or "") == fields.get(name, "") for name in NAMED)
    made_ns = rows.time_ns(row.get("created_at"))
    return same and (made_ns or 0) > (began - CLOCKS_S) * 1e9


class _Digest:
    """A sink that keeps the MD5 of what it was sent, and nothing else."""

    def __init__(self) -> None:
        self.received = 0
        self._begin()

    def _begin(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._count = 0

    def begin(self, size: int | None) -> None:
        self._begin()

    def write(self, data: Buffer) -> None:
        self._md5.update(data)
        self._count += len(data)
        self.received = max(self.received, self._count)

    def digest(self) -> bytes:
        return self._md5.digest()
