"""Saving to the Portal: uploads, what saving over a file means there, names, places and deletion.

Each upload is a new row, so saving over a file is: upload, check, let everything that pointed at the old row
point at the new one. A failure takes the new row away again; the core deletes the old one.

Tests: backends/test_portal_backend, mount/test_portal_mount.
"""

from __future__ import annotations

import html
import logging
import mimetypes
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import trio

from labfs.backend import Entry, Source, Target
from labfs.backends.looking import Change, Doubtful, Looking, holds
from labfs.backends.portal import rows
from labfs.backends.portal.rows import Addresses, Attached, Json, Place, located
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
    Unavailable,
)
from labfs.http.client import Answer, Client, Patience, Request
from labfs.http.contents import Address
from labfs.http.forms import Form

log = logging.getLogger(__name__)

ATTACHMENTS = "v1/attachments/"
LARGEST = 1_000_000_000  # bytes of a file: the program's own limit, checked once everything has arrived
WITHDRAW_S = 8.0  # for taking away an upload that failed
NAMED = ("filename", "owned_by_org", "sequence_map_for")  # by which an upload is known again

Detail = Callable[[str], Awaitable[tuple[Json, Answer]]]
Row = tuple[Json, Answer]  # and what told it
Listing = Callable[[Place, int], Awaitable[tuple[list[Any], Answer]]]


class Saving:
    """Changes of attachments. `detail` asks for one's own row, `listing` for all rows of a
    place's owner whose ids are greater than one."""

    def __init__(self, client: Client, addresses: Addresses, detail: Detail, listing: Listing) -> None:
        self._client = client
        self._addresses = addresses
        self._detail = detail
        self._listing = listing
        self.looking = Looking(client.timeout_s)
        self._handed_over: set[str] = set()  # ids of files of which nothing is left but to delete them

    @property
    def whole(self) -> int:
        """The largest file in bytes; less once the proxy in front refused the form of a smaller one."""
        return self._client.limit.most(LARGEST)

    # -- uploads -------------------------------------------------------------------------------------

    async def upload(self, target: Target, source: Source) -> Entry:
        if target.parent.read_only:
            raise ReadOnly(target.parent.read_only)
        at, old = rows.place(target.parent.id), target.replaces
        self._check_name(target.name)
        if source.size > self.whole:
            raise TooLarge(f"“{target.name}” has {source.size} bytes; this portal takes at most {self.whole}.")
        past = None if old is None else await self._past(old)
        change = self._upload(target, at, source, _fields(target, at, past))
        row, answer = await self.looking.once(change)
        entry = rows.converted(lambda: rows.file(row, at), answer)
        try:
            with self.looking.confirming(change):
                await self._check(target, entry, located(row, answer), source.size)
            if old is not None and past is not None:
                await self._inherit(entry, past)
                self._handed_over.add(old.id)
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

    def _upload(self, target: Target, at: Place, source: Source, fields: dict[str, str]) -> Change[Row]:
        old = {target.replaces.id} if target.replaces is not None else set()
        return Change(
            f"{at.id}/{target.name}",
            Began(self._addresses.greatest, frozenset(old)),
            lambda: self._sent(target, at, source, fields),
            lambda began: self._ours(at, source, fields, began),
            mark=source.size,
            name=lambda made: made[0].get("id"),
            withdraw=lambda made: self._remove(f"attachments/{rows.ref(made[0])}"),
        )

    async def _sent(self, target: Target, at: Place, source: Source, fields: dict[str, str]) -> Row:
        """Upload; return the new row."""
        answer = await self._post(target, source, fields)
        row = rows.object_of(answer)
        rows.converted(lambda: rows.file(row, at), answer)
        return row, answer

    async def _post(self, target: Target, source: Source, fields: dict[str, str]) -> Answer:
        kind = mimetypes.guess_type(target.name, strict=False)[0] or "application/octet-stream"
        # On its own disk the program stores under the name of the part and looks under the field's: the same.
        form = Form(list(fields.items()), "file", target.name, kind, source)
        request = Request(
            "POST",
            ATTACHMENTS,
            source=form,
            headers={**rows.JSON, "Content-Type": form.content_type},
            patience=Patience.PERSISTENT,
            repeatable=False,
        )
        return await self._client.call(request)

    async def _ours(self, at: Place, source: Source, fields: dict[str, str], began: Began) -> list[Row]:
        """Return rows that are an upload of `source` begun then: made since, of this name, place and bytes."""
        listed, answer = await self._listing(at, began.greatest)
        since_s = answer.since_s(*began.moment)
        alike = [row for row in listed if _is_candidate(row, fields, began, since_s)]
        return [(row, answer) for row in alike if await self._holds(row, answer, source)]

    async def _holds(self, row: Json, answer: Answer, source: Source) -> bool:
        """Whether a row's bytes are the source's; compared whole, since no answer tells a checksum."""
        try:
            return await holds(self._attached(rows.file(row, Place()), located(row, answer)), source)
        except Unavailable:
            raise
        except (LabfsError, KeyError, TypeError, ValueError):
            return False

    def _attached(self, entry: Entry, there: Address) -> Attached:
        async def again() -> Address:
            return located(*await self._detail(entry.id))

        return Attached(self._client, entry, there, again)

    async def _check(self, target: Target, entry: Entry, there: Address, size: int) -> None:
        """Compare what the system holds now with what was sent. Raises Invalid or Malformed."""
        self._addresses.remember(entry.id, there)
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

    async def _change(self, entry_id: str, form: Mapping[str, str | list[str]]) -> Row:
        """Change fields of a row; one that was changed late, after another change, would undo that."""

        async def send() -> Row:
            return await self._patch(entry_id, form=form)

        async def done(began: None) -> list[Row]:
            row, answer = await self._detail(entry_id)
            return [(row, answer)] if all(rows.says(row, name, value) for name, value in form.items()) else []

        return await self.looking.once(Change(f"{entry_id} {sorted(form.items())}", None, send, done))

    async def _patch(self, path: str, **sent: Any) -> Row:
        answer = await self._client.call(
            Request("PATCH", f"v1/{path}/", headers=rows.JSON, patience=Patience.PERSISTENT, repeatable=False, **sent)
        )
        try:
            return rows.object_of(answer), answer
        except Malformed as error:  # some answer is there, and the same change again changes nothing
            raise Unanswered(str(error), lost=False) from error

    async def delete(self, entry: Entry) -> None:
        """Delete a file; one that is an agreement is taken from its materials first, which would go on showing it."""
        past = {} if entry.id in self._handed_over else await self._past(entry)
        self._handed_over.discard(entry.id)
        if past is None:
            return
        taken: list[int] = []
        try:
            for material in rows.refs(past.get("mta_materials")):
                await self._agree(material, None)
                taken.append(material)
            await self._remove(entry.id)
        except LabfsError as error:
            # Whether it is gone is known before its materials are given a file that nobody can read.
            if isinstance(error, Doubtful) and await self.looking.seen(lambda: self._gone(entry), error):
                return
            for material in taken:
                with suppress(LabfsError):
                    await self._agree(material, int(entry.label))
            raise

    async def _gone(self, entry: Entry) -> list[Entry]:
        return [] if await self._past(entry) else [entry]

    async def _agree(self, material: int, agreement: int | None) -> None:
        """Make a file a material's agreement, or leave it without one."""
        path = f"materials/{material}"

        async def send() -> Json:
            return (await self._patch(path, json={"mta_attachment": agreement}))[0]

        async def done(began: None) -> list[Json]:
            found = rows.object_of(await self._client.call(Request("GET", f"v1/{path}/", headers=rows.JSON)))
            return [found] if rows.says(found, "mta_attachment", str(agreement or "")) else []

        await self.looking.once(Change(f"{path} {agreement}", None, send, done))

    async def _remove(self, entry_id: str) -> None:
        try:
            await self._client.call(
                Request("DELETE", f"v1/{entry_id}/", headers=rows.JSON, patience=Patience.PERSISTENT)
            )
        except NotFound:
            log.debug("%s was gone already.", entry_id)


def _fields(target: Target, at: Place, past: Json | None) -> dict[str, str]:
    """Return the fields of a new row, with what is worth keeping of the one whose place it takes."""
    past = past or {}
    # A map of somebody else's material is listed with the organization's own files, or the caller's.
    material = at.material or next(iter(rows.refs([past.get("sequence_map_for")])), None)
    given = {"owned_by_org": at.organization, "sequence_map_for": material, "description": past.get("description")}
    return {"filename": target.name, **{name: str(value) for name, value in given.items() if value}}


class Began:
    """A moment, and what was known to be there then: all ids up to the greatest, since they grow, and some by name."""

    def __init__(self, greatest: int, known: frozenset[str]) -> None:
        self.greatest = greatest
        self.known = known
        self.moment = time.time(), trio.current_time()


def _is_candidate(row: Any, fields: dict[str, str], began: Began, since_s: float) -> bool:
    """Whether a row may be an upload of these fields, begun then, that nobody answered for."""
    if not isinstance(row, dict) or not all(str(row.get(name) or "") == fields.get(name, "") for name in NAMED):
        return False
    number = next(iter(rows.refs([row])), 0)
    made_ns = rows.time_ns(row.get("created_at"))
    fresh = number > began.greatest and f"attachments/{number}" not in began.known
    return fresh and (made_ns or 0) > since_s * 1e9
