"""REDCap, API from 2020 on: the projects whose tokens the configuration holds, by alias.

    site → alias → record → [event →] [instrument-n →] field → at most one file
                 → .repository → folders and files

Facts used here, with their sources: a token is one user's in one project; one flat and one eav export tell
all files of all records, which clients let take up to twenty minutes; importing into a field replaces what is
there without a question, and answers with nothing; no listing knows sizes, no call knows ranges (PyCap, PHPCap,
REDCapR, redcapAPI); more than 600 requests a minute get an address banned (vendor's control centre pages), so
that the pace is 5 a second.
The numbers of documents tell versions apart.

Tests: backends/test_redcap_backend, backends/test_redcap_oddities.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from labfs.backend import Capabilities, Content, Entry, Page, Replace, Sink, Source, Stretch, Target
from labfs.backends.common import Settings
from labfs.backends.looking import Change, Looking
from labfs.backends.redcap import entries
from labfs.backends.redcap.entries import Place, mint, parse
from labfs.backends.redcap.projects import Projects
from labfs.backends.redcap.saving import Saving
from labfs.backends.redcap.wire import Rounds, Secret, Wire, explain, is_own, site_url
from labfs.backends.several import each
from labfs.errors import Exists, Invalid, NameTooLong, NotFound, NotPermitted, Stale, Unranged, Unsupported
from labfs.errors.health import Health
from labfs.http.client import Client

REQUESTS_PER_S = 5
CHECKED = 20  # projects that are asked for when a mount starts
COMPILING = 150.0  # times the usual silence: with the usual 8 s twenty minutes, which clients let an export take
LONGEST_FOLDER = 150  # characters

CAPABILITIES = Capabilities(
    ranged=False,
    measured=False,
    deletable=True,
    replace=Replace.IN_PLACE,
    whole=1 << 30,  # what most servers take; no call tells a server's own limit
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
        compiling=COMPILING,
        proxy=settings.proxy,
        ca=settings.ca,
        gate=settings.gate,
        login=settings.login(is_own),
        explain=partial(explain, tuple(tokens.values()), renewal=settings.renewed),
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
        self.looking = Looking(client.timeout_s)
        self._saving = Saving(self._wire, self._projects, self.looking, self.stat, self.address)
        self._rounds = {alias: Rounds(partial(self._projects.documents, alias)) for alias in tokens}

    @property
    def root(self) -> Entry:
        reason = "Projects are listed in the configuration, each with its token."
        return Entry(id="", name=self._client.site, is_dir=True, read_only=reason)

    @property
    def multipart(self) -> None:
        """A file goes up in one piece only."""

    @property
    def health(self) -> Health:
        return self._client.health

    async def aclose(self) -> None:
        await self._client.aclose()

    async def check(self) -> str:
        """Ask each project for its dictionary, which is needed next anyway."""
        await each(self._projects.schema, self._aliases[:CHECKED], CAPABILITIES.connections)
        return "the token's user" if len(self._aliases) == 1 else f"the users of {len(self._aliases)} tokens"

    async def rights(self) -> str:
        return ""

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
                raise Stale(f"{self._wire.where(alias)}: “{entry.name}” was replaced or removed on the server.")

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
        await self._once(
            f"make {made}",
            lambda: self._wire.change(alias, "record", type="flat", data=json.dumps([row])),
            lambda: self._saving.seek(made),
        )
        try:
            return await self.stat(made)
        except NotFound as error:
            raise Invalid(f"{self._wire.where(alias)} did not make “{name}”; choose a plainer name.") from error

    async def _once(
        self, key: str, send: Callable[[], Awaitable[Any]], find: Callable[[], Awaitable[Entry | None]]
    ) -> None:
        """Make something that has a name of its own, and look for it by that name after a lost answer."""

        async def found(began: None) -> list[Any]:
            entry = await find()
            return [] if entry is None else [entry.id]

        await self.looking.once(Change(key, None, send, found, name=lambda made: None))

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
            raise NameTooLong(
                f"A folder's name has at most {LONGEST_FOLDER} characters in REDCap; choose a shorter one."
            )

        async def find() -> Entry | None:
            found = (await self._projects.folder(alias, folder)).entries
            return next((entry for entry in found if entry.is_dir and entry.name == name), None)

        if await find():
            raise Exists(f"{self._wire.where(alias)} has a folder “{name}” there already.")
        number = str(folder) if folder else None
        await self._once(
            f"make {mint('folder', alias, folder, 0)} {name}",
            lambda: self._wire.change(alias, "fileRepository", action="createFolder", name=name, folder_id=number),
            find,
        )
        made = await find()
        if made is None:
            raise Invalid(f"{self._wire.where(alias)} did not make “{name}”; choose a plainer name.")
        return made

    async def upload(self, target: Target, source: Source) -> Entry:
        kind, alias, *rest = self._parse(target.parent.id, "field", "folder")
        if target.folders or not target.name or set(target.name) & set('/\\"') or not target.name.isprintable():
            raise Invalid(
                f"REDCap takes no file named “{target.name}”: choose a name without quotes, slashes and control"
                " characters."
            )
        if kind == "folder":
            return await self._saving.shelve(alias, rest[1], target, source)
        return await self._saving.fill(alias, Place(*rest), target, source)

    async def rename(self, entry: Entry, target: Target) -> Entry:
        raise Unsupported(f"{self._client.site} cannot rename “{entry.name}”; save it under the other name.")

    async def delete(self, entry: Entry) -> None:
        await self._saving.delete(entry)

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

    async def stream(self, stretch: Stretch) -> None:
        raise Unranged(f"“{self._entry.name}”: REDCap sends files whole only.")

    async def pour(self, sink: Sink) -> None:
        await self._backend.pour(self._entry, sink)
