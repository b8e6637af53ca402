"""What REDCap tells of its projects, as entries: their set-up, their records, their repositories.

Facts used here, with their sources: one flat and one eav export tell all files of all records, flat rows
their names and eav rows the numbers of their documents; the key must be named for rows to tell whose they
are; whether events and repeats exist shows in the columns (PyCap, REDCapR); an export that is too large dies
of memory, and public clients then ask for 100 records at a time (redcapAPI, redcap-toolbox).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from labfs.backend import Entry, Page, sift
from labfs.backends import redcap_entries as entries
from labfs.backends.redcap_entries import Layout, Place, Schema
from labfs.backends.redcap_wire import TooMuch, Wire
from labfs.errors import Invalid, Malformed, NotFound

SCHEMA_S = 600.0  # after which the set-up of a project is asked for anew
BATCH = 100  # records of an export where all at once are too many


class Projects:
    """Questions about projects; nothing of the answers is kept but how a project is set up."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._schemas: dict[str, Schema] = {}
        self.versioned = True  # until a new file turns up under its predecessor's number

    def forget(self, alias: str) -> None:
        """Ask for the set-up anew the next time."""
        self._schemas.pop(alias, None)

    async def page(self, alias: str, cursor: str | None) -> Page:
        if cursor is not None:
            return await self._batch(alias, json.loads(cursor))
        try:
            found, left_out = await self.records(alias, None)
        except TooMuch:
            names = await self._names(alias)
            page = await self._batch(alias, names)
            return replace(page, entries=(entries.shelf(alias), *page.entries))
        return Page((entries.shelf(alias), *found), None, None, left_out)

    async def _batch(self, alias: str, names: list[str]) -> Page:
        """Return the first of these records, and as cursor the names of the others."""
        found, left_out = await self.records(alias, names[:BATCH])
        rest = names[BATCH:]
        return Page(found, json.dumps(rest) if rest else None, None, left_out)

    async def _names(self, alias: str) -> list[str]:
        schema = await self.schema(alias)
        rows = await self._wire.rows(alias, "record", type="flat", fields=[schema.key])
        return list(entries.records(rows, replace(schema, fields={}))[0])

    async def records(self, alias: str, names: Sequence[str] | None) -> tuple[tuple[Entry, ...], int]:
        """Return these records with all that is in them, and how many rows made no sense."""
        schema, rows, documents = await self.exports(alias, names)
        found, left_out = entries.records(rows, schema)
        visible = frozenset(name for row in rows if isinstance(row, dict) for name in schema.fields if name in row)
        layout = Layout(alias, schema, documents, visible, self.versioned)
        return tuple(entry for name, record in found.items() for entry in layout.record(name, record)), left_out

    async def exports(self, alias: str, names: Sequence[str] | None) -> tuple[Schema, list[Any], dict[Place, str]]:
        """Return set-up, flat rows and documents; from the start again if the set-up turns out to be an old one."""
        for last in (False, True):
            schema = await self.schema(alias)
            try:
                # Documents before names: a file that is replaced in between is stale then, never taken for the other.
                documents = await self.documents(alias, names)
                fields = [schema.key, *schema.fields]
                rows = await self._wire.rows(alias, "record", type="flat", fields=fields, records=names)
                await self._complete(alias, schema, rows)
            except (Invalid, NotFound):
                if last:
                    raise
            else:
                if last or schema.fits(rows):
                    return schema, rows, documents
            self.forget(alias)
        raise AssertionError("unreachable")

    async def documents(self, alias: str, names: Sequence[str] | None) -> dict[Place, str]:
        """Return the number of each file's document: of these records, or of all where they are many."""
        schema = await self.schema(alias)
        if not schema.fields:
            return {}
        few = None if names is None or len(names) > BATCH else names
        fields = [schema.key, *schema.fields]
        rows = await self._wire.rows(alias, "record", type="eav", fields=fields, records=few)
        return entries.documents(rows, schema.fields)

    async def schema(self, alias: str) -> Schema:
        """Return how a project is set up; kept for a while, since people seldom change it."""
        now = trio.current_time()
        known = self._schemas.get(alias)
        if known is None or now > known.learnt_at + SCHEMA_S:
            rows = await self._wire.rows(alias, "metadata")
            try:
                known = self._schemas[alias] = entries.schema(rows, now)
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise self._senseless(alias, "data dictionary") from error
        return known

    async def _complete(self, alias: str, schema: Schema, rows: list[Any]) -> None:
        """Ask for events and repeats where rows show that a project has some."""
        columns = next((row for row in rows if isinstance(row, dict)), {})
        try:
            if entries.EVENT in columns and schema.events is None:
                schema.events = entries.events(await self._wire.rows(alias, "formEventMapping"))
            if entries.FORM in columns and schema.repeats is None:
                schema.repeats = entries.repeats(await self._wire.rows(alias, "repeatingFormsEvents"))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._senseless(alias, "list of events") from error

    async def folder(self, alias: str, number: int) -> Page:
        """List a folder of the repository."""
        at = str(number) if number else None
        items = await self._wire.rows(alias, "fileRepository", action="list", folder_id=at)
        found, left_out = sift(partial(entries.shelved, alias, number), items)
        return Page(found, None, len(items), left_out)

    def _senseless(self, alias: str, what: str) -> Malformed:
        return Malformed(f"{self._wire.where(alias)}: the {what} makes no sense.")

    async def events(self, alias: str) -> dict[str, entries.Event]:
        """Return the events of a project of which there may be no row yet; none if it is a classic one."""
        schema = await self.schema(alias)
        if schema.events is None:
            try:
                await self._complete(alias, schema, [{entries.EVENT: ""}])
            except Invalid:  # which says that a classic project has none
                return {}
        return schema.events or {}
