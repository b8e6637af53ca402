"""REDCap, API from 2020 on: the projects whose tokens the configuration holds, by alias.

    site → alias → record → [event →] [instrument-n →] field → at most one file
                 → .repository → folders and files

Facts used here, with their sources: a token is one user's in one project; one flat and one eav export tell
all files of all records; importing into a field replaces what is there without a question, and answers
with nothing; no listing knows sizes, no call knows ranges (PyCap, PHPCap, REDCapR, redcapAPI); more than 600
requests a minute get an address banned (vendor's control centre pages), so that the pace is 5 a second.
The numbers of documents tell versions apart.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from labfs.backend import (
    Buffer,
    Capabilities,
    Content,
    Entry,
    Page,
    Replace,
    Settings,
    Sink,
    Source,
    Target,
    Upload,
)
from labfs.backends import redcap_entries as entries
from labfs.backends.redcap_entries import Place, mint, parse
from labfs.backends.redcap_projects import Projects
from labfs.backends.redcap_wire import Rounds, Secret, Wire, explain, site_url
from labfs.client import Client
from labfs.errors import (
    Conflict,
    Denied,
    Exists,
    Invalid,
    Malformed,
    NameTooLong,
    NotFound,
    NotPermitted,
    Stale,
    TooLarge,
    Unanswered,
    Unavailable,
    Unranged,
    Unsupported,
)

REQUESTS_PER_S = 5
CHECKED = 20  # projects that are asked for when a mount starts
MIB = 1024 * 1024
DOCUMENT = "[document]"  # what servers from before 2020-11 show for any name
POLLS_S = (0.2, 0.5, 1.0, 2.0, 5.0)  # between looks for a file whose answer was lost
LONGEST_FOLDER = 150  # characters

CAPABILITIES = Capabilities(
    ranged=False,
    measured=False,
    deletable=True,
    replace=Replace.IN_PLACE,
    whole=1 << 30,  # what most servers take; no call tells a server's own limit
    parts=None,
    connections=4,
)


def build(settings: Settings) -> Redcap:
    tokens = {alias: secrets["token"] for alias, secrets in settings.projects.items()}
    client = Client(
        settings.name,
        site_url(settings.url),
        dict,  # the token is a field of each form
        connections=CAPABILITIES.connections,
        requests_per_s=REQUESTS_PER_S,
        timeout_s=settings.timeout_s,
        explain=partial(explain, tuple(tokens.values())),
    )
    return Redcap(client, tokens)


class Redcap:
    """One REDCap server, as far as the tokens of its projects go."""

    capabilities = CAPABILITIES

    def __init__(self, client: Client, tokens: Mapping[str, Secret]) -> None:
        self._client = client
        self._aliases = tuple(tokens)
        self._wire = Wire(client, tokens)
        self._projects = Projects(self._wire)
        self._rounds = {alias: Rounds(partial(self._projects.documents, alias)) for alias in tokens}

    @property
    def root(self) -> Entry:
        reason = "Projects are listed in the configuration, each with its token."
        return Entry(id="", name=self._client.site, is_dir=True, read_only=reason)

    @property
    def outage(self) -> str | None:
        return self._client.outage

    async def aclose(self) -> None:
        await self._client.aclose()

    async def check(self) -> str:
        """Ask each project for its dictionary, which is needed next anyway."""
        for alias in self._aliases[:CHECKED]:
            await self._projects.schema(alias)
        return f"the users of {len(self._aliases)} tokens"

    # -- looking -------------------------------------------------------------------------------------

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        if parent.id == "":
            found = tuple(entries.project(alias) for alias in self._aliases)
            return Page(found, None, len(found))
        kind, alias, *rest = self._parse(parent.id, "project", "folder")
        return await (self._projects.folder(alias, rest[1]) if kind == "folder" else self._projects.page(alias, cursor))

    async def stat(self, entry_id: str) -> Entry:
        kind, alias, *rest = self._parse(entry_id, *entries.SHAPES)
        if kind == "project":
            return entries.project(alias)
        if kind == "folder" and rest[1] == 0:
            return entries.shelf(alias)
        if kind in ("folder", "document"):
            found = (await self._projects.folder(alias, rest[0])).entries
        else:
            found = (await self._projects.records(alias, [rest[0]]))[0]
        for entry in found:
            if entry.id == entry_id:
                return entry
        raise NotFound(f"{self._wire.where(alias)}: this is not there any more.")

    async def measure(self, entry: Entry) -> int | None:
        """Say nothing: no call tells a size."""
        return None

    async def describe(self, entry: Entry) -> Mapping[str, Any]:
        if not entry.id:
            return {"projects": list(self._aliases)}
        kind, alias, *rest = self._parse(entry.id, *entries.SHAPES)
        if kind == "project":
            found = await self._wire.ask(alias, "project")
            return found if isinstance(found, dict) else {}
        if kind in ("folder", "document"):
            return {"document" if kind == "document" else "folder": rest[1], "name": entry.name}
        values = await self._wire.rows(alias, "record", type="flat", records=[rest[0]])
        told = dict(zip(("record", "event", "instrument", "instance", "field"), rest, strict=False))
        return {**told, "values": values}

    def content(self, entry: Entry) -> Content:
        return _Bytes(self, entry)

    # -- for the content of a file --------------------------------------------------------------------

    def address(self, entry: Entry) -> tuple[str, dict[str, Any]]:
        """Return the alias of a file's project, and the fields that lead to the file."""
        kind, alias, *rest = self._parse(entry.id, "file", "document")
        if kind == "document":
            return alias, {"content": "fileRepository", "doc_id": str(rest[1])}
        return alias, {"content": "file", **Place(*rest).address()}

    async def pour(self, entry: Entry, sink: Sink) -> None:
        alias, address = self.address(entry)
        try:
            await self._wire.pour(alias, sink, **address)
        except NotFound as error:
            self._projects.forget(alias)  # perhaps it is the field that is gone
            raise Stale(f"{self._wire.where(alias)}: “{entry.name}” is not there any more.") from error
        if address["content"] == "file" and entry.version is not None:
            place = Place(*parse(entry.id, "file")[2:])
            # All who finished before the question is put share it: readers by the dozen stay within the pace.
            documents = await self._rounds[alias].answer(place.record)
            if documents.get(place) != entry.version:
                raise Stale(f"{self._wire.where(alias)}: “{entry.name}” was replaced on the server.")

    # -- saving --------------------------------------------------------------------------------------

    async def make(self, parent: Entry, name: str) -> Entry:
        """Make a record, another instance of what repeats, or a folder of the repository."""
        if not parent.id:
            raise NotPermitted(str(self.root.read_only))
        kind, alias, *rest = self._parse(parent.id, "project", "record", "event", "folder")
        if kind == "folder":
            return await self._make_folder(alias, rest[1], name)
        if kind == "project":
            made = mint("record", alias, name)
            row = await self._new_record(alias, name)
        else:
            made, row = await self._new_instance(alias, rest[0], rest[1] if kind == "event" else "", name)
        with suppress(NotFound):
            await self.stat(made)
            raise Exists(f"{self._wire.where(alias)} has a “{name}” already.")
        with suppress(Unanswered):  # whether it is there is asked for anyway
            await self._wire.change(alias, "record", type="flat", data=json.dumps([row]))
        try:
            return await self.stat(made)
        except NotFound as error:
            raise Invalid(f"{self._wire.where(alias)} did not make “{name}”; choose a plainer name.") from error

    async def _new_record(self, alias: str, name: str) -> dict[str, str]:
        events = await self._projects.events(alias)
        event = {entries.EVENT: next(iter(events))} if events else {}
        return {(await self._projects.schema(alias)).key: name, **event}

    async def _new_instance(self, alias: str, record: str, event: str, name: str) -> tuple[str, dict[str, str]]:
        """Return the id of an instance by its folder's name, and the row that makes it."""
        schema, _, _ = await self._projects.exports(alias, [record])
        stem, _, digits = name.rpartition("-")
        group = next((g for g in schema.groups(event) if g.repeats and g.stem == stem), None)
        if group is None or not re.fullmatch(r"[1-9][0-9]{0,4}", digits):
            known = ", ".join(f"{g.stem}-2" for g in schema.groups(event) if g.repeats)
            raise NotPermitted(f"Only what repeats can be made here, by name and number such as {known}.")
        row = {schema.key: record, **({entries.EVENT: event} if event else {})}
        row |= {entries.FORM: group.form, entries.INSTANCE: digits, f"{group.fields[0].form}_complete": "0"}
        return mint("instance", alias, record, event, group.form, int(digits)), row

    async def _make_folder(self, alias: str, folder: int, name: str) -> Entry:
        if len(name) > LONGEST_FOLDER:
            raise NameTooLong(f"A folder's name has at most {LONGEST_FOLDER} characters in REDCap.")

        async def find() -> Entry | None:
            found = (await self._projects.folder(alias, folder)).entries
            return next((entry for entry in found if entry.is_dir and entry.name == name), None)

        if await find():
            raise Exists(f"{self._wire.where(alias)} has a folder “{name}” there already.")
        number = str(folder) if folder else None
        with suppress(Unanswered):
            await self._wire.change(alias, "fileRepository", action="createFolder", name=name, folder_id=number)
        made = await find()
        if made is None:
            raise Invalid(f"{self._wire.where(alias)} did not make “{name}”; choose a plainer name.")
        return made

    async def upload(self, target: Target, source: Source) -> Entry:
        kind, alias, *rest = self._parse(target.parent.id, "field", "folder")
        if target.folders or not target.name or set(target.name) & set('/\\"') or not target.name.isprintable():
            raise Invalid(f"REDCap takes no file named “{target.name}”: no quotes, slashes or control characters.")
        if kind == "folder":
            return await self._shelve(alias, rest[1], target, source)
        return await self._fill(alias, Place(*rest), target, source)

    async def begin_upload(self, target: Target, size: int | None) -> Upload:
        raise Unsupported(f"{self._client.site} takes a file in one piece only.")

    async def resume_upload(self, target: Target, token: str) -> Upload:
        raise Unsupported(f"{self._client.site} takes a file in one piece only.")

    async def rename(self, entry: Entry, target: Target) -> Entry:
        raise Unsupported(f"{self._client.site} cannot rename “{entry.name}”; save it under the other name.")

    async def _fill(self, alias: str, place: Place, target: Target, source: Source) -> Entry:
        """Put a file into its field, unless somebody else has put another one there since it was listed."""
        before = (await self._projects.documents(alias, [place.record])).get(place)
        self._check_unchanged(alias, place, before, target.replaces)
        address = {"content": "file", **place.address()}
        lost = await self._send(alias, target.name, source, address)
        entry_id = mint("file", alias, place.record, place.event, place.form, place.instance, place.field)
        entry = None
        for pause_s in (0.0, *POLLS_S) if lost else (0.0,):
            await trio.sleep(pause_s)
            entry = await self._seek(entry_id)
            if entry is not None and entry.label != before:
                break
        fresh = entry is not None and entry.label != before
        if entry is None or ((lost or not fresh) and not await self._wire.holds(alias, source, **address)):
            raise lost or Unavailable(
                f"{self._wire.where(alias)} took “{target.name}” and does not hold it; not saved."
            )
        if not fresh:  # the same number for other bytes: it tells nothing on this server
            self._projects.versioned = False
            entry = replace(entry, version=None)
        await self._check_length(alias, source, address)
        if entry.name not in (target.name, DOCUMENT):
            if before is None:
                await self._clear(alias, address)
            raise Invalid(f"REDCap calls this file “{entry.name}” and not “{target.name}”; choose a plainer name.")
        return replace(entry, size=source.size)

    def _check_unchanged(self, alias: str, place: Place, now: str | None, opened: Entry | None) -> None:
        # No call has a precondition: between this look and the import somebody may still come.
        if now is None or (opened is not None and opened.version is None):
            return
        where = f"{self._wire.where(alias)}: “{place.field}” of {place.record}"
        if opened is None:
            raise Exists(f"{where} already holds a file, which this one would replace.")
        if opened.version != now:
            raise Conflict(f"{where} holds another file than the one that was opened; it was not replaced.")

    async def _send(self, alias: str, name: str, source: Source, address: Mapping[str, Any]) -> Unanswered | None:
        """Send a file once; return why it is not known to have arrived."""
        try:
            await self._wire.send(alias, name, source, **address)
        except Unanswered as error:
            return error
        except Denied as error:
            # The token was good a moment ago. PHP drops the whole form, token and all, when it is too large.
            if source.size > MIB and not re.search(r"privilege|\bright", str(error), re.IGNORECASE):
                raise TooLarge(
                    f"{self._wire.where(alias)}: “{name}” was refused as if it had no token, which REDCap says of files"
                    " above its server's limit; it is too large, or the token was just revoked."
                ) from error
            raise
        return None

    async def _seek(self, entry_id: str) -> Entry | None:
        with suppress(NotFound):
            return await self.stat(entry_id)
        return None

    async def _check_length(self, alias: str, source: Source, address: Mapping[str, Any]) -> None:
        length = await self._wire.length(alias, **address)
        if length != source.size:
            where = self._wire.where(alias)
            raise Malformed(f"{where} holds {length} bytes of the {source.size} that were sent; not saved.")

    async def _shelve(self, alias: str, folder: int, target: Target, source: Source) -> Entry:
        """Put a file into the repository, beside the one whose place it takes."""
        before = {entry.id for entry in (await self._projects.folder(alias, folder)).entries}
        number = str(folder) if folder else None
        lost = await self._send(alias, target.name, source, {"content": "fileRepository", "folder_id": number})
        fresh: list[Entry] = []
        for pause_s in (0.0, *POLLS_S) if lost else (0.0,):
            await trio.sleep(pause_s)
            listed = (await self._projects.folder(alias, folder)).entries
            fresh = [entry for entry in listed if entry.id not in before and not entry.is_dir]
            if fresh:
                break
        # The import tells no number: of several new files, or after a lost answer, the bytes tell which it is.
        named = [entry for entry in fresh if entry.name == target.name] or fresh
        if lost or len(named) != 1:
            named = [e for e in named if await self._wire.holds(alias, source, **self.address(e)[1])]
        if not named:
            raise lost or Unavailable(
                f"{self._wire.where(alias)} took “{target.name}” and does not list it; not saved."
            )
        entry = named[-1]
        await self._check_length(alias, source, self.address(entry)[1])
        if entry.name != target.name:
            await self.delete(entry)
            raise Invalid(f"REDCap would call this file “{entry.name}”; choose a plainer name.")
        return replace(entry, size=source.size)

    async def delete(self, entry: Entry) -> None:
        """Delete a file; from a field only the one that was listed, since what takes its place has no copy."""
        alias, address = self.address(entry)
        now = await self._seek(entry.id)
        if now is None:
            return
        if entry.version is not None and now.version != entry.version:
            raise Stale(f"{self._wire.where(alias)}: “{entry.name}” was replaced on the server; it was not deleted.")
        await self._clear(alias, address)
        if (left := await self._seek(entry.id)) is not None and left.label == now.label:
            raise Unavailable(f"{self._wire.where(alias)} did not delete “{entry.name}”.")

    async def _clear(self, alias: str, address: Mapping[str, Any]) -> None:
        # After a lost answer the next look tells whether the file is gone.
        with suppress(NotFound, Unanswered):
            await self._wire.change(alias, action="delete", **address)

    def _parse(self, entry_id: str, *kinds: str) -> list[Any]:
        found = parse(entry_id, *kinds)
        if found[1] not in self._aliases:
            raise NotFound(f"{self._client.site} has no project “{found[1]}” in the configuration.")
        return found


class _Bytes:
    """The content of one version of a file, which comes whole or not at all."""

    def __init__(self, backend: Redcap, entry: Entry) -> None:
        self._backend = backend
        self._entry = entry

    async def prepare(self) -> None:
        """Nothing to do: any question would cost as much as the bytes."""

    async def read(self, start: int, stop: int) -> Buffer:
        raise Unranged(f"“{self._entry.name}”: REDCap sends files whole only.")

    async def pour(self, sink: Sink) -> None:
        await self._backend.pour(self._entry, sink)
