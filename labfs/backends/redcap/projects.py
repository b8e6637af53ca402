"""What REDCap tells of its projects, as entries: their set-up, their records, their repositories.

Facts used here, with their sources: one flat and one eav export tell all files of all records, flat rows
their names and eav rows the numbers of their documents; the key must be named for rows to tell whose they
are; whether events and repeats exist shows in the columns (PyCap, REDCapR); an export that is too large dies
of memory, and public clients then ask for 100 records at a time (redcapAPI, redcap-toolbox).

Tests: backends/test_redcap_backend, backends/test_redcap_oddities.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import trio

from labfs.backend import Entry, Page
from labfs.backends.common import sift
from labfs.backends.redcap import entries
from labfs.backends.redcap.entries import Layout, Place, Schema
from labfs.backends.redcap.wire import TooMuch, Wire
from labfs.errors import Invalid, Malformed, NotFound

SCHEMA_S = 600.0  # after which the set-up of a project is asked for anew
QUICK_S = 5.0  # an export of all records that took no longer is followed by the other one
BATCH_S = 4.0  # what an export of some of them should take
BATCH = 100  # records of an export where all at once are too many
MOST = 500  # records of any export that names them
INPUTS = 900  # fields and records in one request: of more than 1,000 variables PHP drops what is over, without a word
START = "[]"  # the cursor of the first records
Documents = Mapping[Place, str]


@dataclass(slots=True)
class Walk:
    """What is known of all records while they are gone through."""

    names: list[str]  # in order; none where only an export of all tells them
    documents: Documents | None  # None: each batch must ask for its own
    size: int  # records of a batch
    quick: bool  # whether all can be asked for at once


class Projects:
    """Questions about projects; nothing of the answers outlasts a listing but how a project is set up."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._schemas: dict[str, Schema] = {}
        self._walks: dict[str, Walk] = {}  # under way; one that is lost costs its first export again
        self.versioned = True  # until a new file turns up under its predecessor's number

    def forget(self, alias: str) -> None:
        """Ask for the set-up anew the next time."""
        self._schemas.pop(alias, None)

    async def page(self, alias: str, cursor: str | None) -> Page:
        """Return the repository, which costs no request, and then records: all at once where that is quick.

        The cursor of a batch is the name before it, so that a list can be read on also where its walk was forgotten.
        """
        if cursor is None:
            return Page((entries.shelf(alias),), START)
        after = json.loads(cursor)
        walk = self._walks.get(alias) if after else None
        if walk is None:
            walk = await self._begin(alias)
        if walk.quick and not after:
            try:
                found, left_out = await self._found(alias, None, walk.documents)
                return Page(found, None, None, left_out)
            except TooMuch:
                walk.names = walk.names or await self._names(alias)
        self._walks[alias] = walk
        return await self._batch(alias, walk, after)

    async def _begin(self, alias: str) -> Walk:
        """Ask for the documents of all records, which tells their names too, and what such an export costs."""
        began = trio.current_time()
        for last in (False, True):
            schema = await self.schema(alias)
            if not schema.fields:
                return Walk([], {}, BATCH, quick=True)
            try:
                rows = await self._documents(alias, schema, None)
            except TooMuch:
                return Walk(await self._names(alias), None, BATCH, quick=False)
            except (Invalid, NotFound):
                if last:
                    raise
                self.forget(alias)
            else:
                break
        took_s = trio.current_time() - began
        names, documents = entries.names(rows, schema.key), entries.documents(rows, schema.fields)
        if took_s <= QUICK_S or not names:
            return Walk(names, documents, BATCH, quick=True)
        most = max(min(MOST, INPUTS - len(schema.fields)), 1)
        return Walk(names, documents, min(max(int(len(names) * BATCH_S / took_s), BATCH), most), quick=False)

    async def _batch(self, alias: str, walk: Walk, after: list[str]) -> Page:
        """Return the next records, fewer if they are too many."""
        start = bisect_right(walk.names, entries.natural(after[0]), key=entries.natural) if after else 0
        while True:
            names = walk.names[start : start + walk.size]
            try:
                found, left_out = await self._found(alias, names, walk.documents) if names else ((), 0)
                break
            except TooMuch:
                if walk.size <= BATCH:
                    raise
                walk.size = max(walk.size // 2, BATCH)
        if start + walk.size >= len(walk.names):
            self._walks.pop(alias, None)
            return Page(found, None, None, left_out)
        return Page(found, json.dumps(names[-1:]), None, left_out)

    async def _names(self, alias: str) -> list[str]:
        schema = await self.schema(alias)
        rows = await self._wire.rows(alias, "record", type="flat", fields=[schema.key])
        return list(entries.records(rows, replace(schema, fields={}))[0])

    async def records(self, alias: str, names: Sequence[str]) -> tuple[tuple[Entry, ...], int]:
        """Return these records with all that is in them, and how many rows made no sense."""
        return await self._found(alias, names, None)

    async def _found(
        self, alias: str, names: Sequence[str] | None, documents: Documents | None
    ) -> tuple[tuple[Entry, ...], int]:
        schema, rows, documents = await self.exports(alias, names, documents)
        found, left_out = entries.records(rows, schema)
        visible = frozenset(name for row in rows if isinstance(row, dict) for name in schema.fields if name in row)
        layout = Layout(alias, schema, documents, visible, self.versioned)
        return tuple(entry for name, record in found.items() for entry in layout.record(name, record)), left_out

    async def exports(
        self, alias: str, names: Sequence[str] | None, documents: Documents | None = None
    ) -> tuple[Schema, list[Any], Documents]:
        """Return set-up, flat rows and documents; from the start again if the set-up turns out to be an old one.

        `documents` are given where they are known already.
        """
        for last in (False, True):
            schema = await self.schema(alias)
            try:
                # Documents before names: a file that is replaced in between is stale then, never taken for the other.
                documents = await self.documents(alias, names) if documents is None else documents
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
            documents = None
        raise AssertionError("unreachable")

    async def documents(self, alias: str, names: Sequence[str] | None) -> Documents:
        """Return the number of each file's document: of these records, or of all where they are many."""
        schema = await self.schema(alias)
        if not schema.fields:
            return {}
        few = None if names is None or len(names) > MOST else names
        return entries.documents(await self._documents(alias, schema, few), schema.fields)

    async def _documents(self, alias: str, schema: Schema, names: Sequence[str] | None) -> list[Any]:
        fields = [schema.key, *schema.fields]
        return await self._wire.rows(alias, "record", type="eav", fields=fields, records=names)

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
