"""REDCap's rows as entries: what is where in a project, without any request.

    alias → record → [event →] [instrument-n →] field → at most one file
    alias → .repository → folders and files

Facts used here, with their sources: the first row of the dictionary is the key, fields of type `file` hold
files and those validated as `signature` take no import (REDCapR, redcapAPI); flat rows hold names of files
and eav rows the numbers of their documents (REDCapR's baselines); the columns of events and of repeats are
there only where a project has them, and an instance is a number, or empty on a record's base row (PyCap,
issue 191).

Tests: backends/test_redcap_backend, backends/test_redcap_oddities.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from labfs.backend import (
    NOTHING,
    Accept,
    Entry,
    Replace,
    Takes,
    takes,
)
from labfs.errors import NotFound

log = logging.getLogger(__name__)

EVENT, FORM, INSTANCE = "redcap_event_name", "redcap_repeat_instrument", "redcap_repeat_instance"
WHOLE = "instance"  # what the folders of a repeating event are called, with their number
SHELF = ".repository"
FIXED = "The fields of a project are designed in REDCap itself; a file goes into the folder of a field."
SIGNATURE = "This field takes signatures, which are given on REDCap's own pages only."
LONGEST_NUMBER = 20  # digits of a document's number

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one file may be. The event is empty in a classic project, the instance 0 where nothing repeats."""

    record: str
    event: str
    form: str  # of a repeating instrument, else empty
    instance: int
    field: str

    def address(self) -> dict[str, str | None]:
        """Return the fields of a request about it; of the form no call wants to know."""
        return {
            "record": self.record,
            "field": self.field,
            "event": self.event or None,
            "repeat_instance": str(self.instance) if self.instance else None,
        }


@dataclass(frozen=True, slots=True)
class FileField:
    name: str
    form: str
    signature: bool


@dataclass(frozen=True, slots=True)
class Event:
    name: str  # the unique one
    arm: str
    forms: frozenset[str]


@dataclass(frozen=True, slots=True)
class Group:
    """Fields of an event that repeat together, or that do not repeat; `form` is empty for a whole event."""

    form: str
    fields: tuple[FileField, ...]
    repeats: bool

    @property
    def stem(self) -> str:
        return self.form or WHOLE


@dataclass(slots=True)
class Schema:
    """How a project is set up. Events and repeats are None until rows show that it has some."""

    key: str
    fields: dict[str, FileField]
    learnt_at: float
    events: dict[str, Event] | None = None
    repeats: frozenset[tuple[str, str]] | None = None  # event and form

    def groups(self, event: str) -> list[Group]:
        forms = None if self.events is None else self.events[event].forms if event in self.events else frozenset()
        fields = tuple(f for f in self.fields.values() if forms is None or f.form in forms)
        repeats = self.repeats or frozenset()
        if (event, "") in repeats:
            return [Group("", fields, True)] if fields else []
        single = tuple(f for f in fields if (event, f.form) not in repeats)
        names = dict.fromkeys(f.form for f in fields if (event, f.form) in repeats)
        several = [Group(name, tuple(f for f in fields if f.form == name), True) for name in names]
        return [*([Group("", single, False)] if single else []), *several]

    def events_of(self, seen: set[str]) -> list[str]:
        """Return the events of a record's arms; one without a name where there are none."""
        if self.events is None:
            return [""]
        arms = {self.events[name].arm for name in seen if name in self.events}
        return [e.name for e in self.events.values() if (e.arm in arms or not arms) and self.groups(e.name)]

    def fits(self, rows: Iterable[Any]) -> bool:
        """Tell whether rows can come from a project of this set-up: it may have been changed since."""
        for row in rows:
            if not isinstance(row, dict):
                continue
            event = str(row.get(EVENT, ""))
            if (self.events is not None and event not in self.events) or (self.repeats is not None and FORM not in row):
                return False
            if row.get(FORM) and (event, str(row[FORM])) not in (self.repeats or ()):
                return False
        return True


def schema(rows: list[Json], now: float) -> Schema:
    """Read the data dictionary. Raises ValueError, KeyError and the like for one that is none."""
    fields = {
        name: FileField(name, text(row["form_name"]), row.get(VALIDATION) == "signature")
        for row in rows
        if row["field_type"] == "file"
        for name in [text(row["field_name"])]
    }
    return Schema(text(rows[0]["field_name"]), fields, now)


VALIDATION = "text_validation_type_or_show_slider_number"


def events(rows: list[Json]) -> dict[str, Event]:
    """Read which forms belong to which events."""
    forms: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        forms.setdefault((text(row["unique_event_name"]), str(row["arm_num"])), set()).add(text(row["form"]))
    return {name: Event(name, arm, frozenset(found)) for (name, arm), found in forms.items()}


def repeats(rows: list[Json]) -> frozenset[tuple[str, str]]:
    return frozenset((str(row.get("event_name") or ""), str(row.get("form_name") or "")) for row in rows)


# -- ids ------------------------------------------------------------------------------------------------


def mint(kind: str, *parts: str | int) -> str:
    return json.dumps([kind, *parts], separators=(",", ":"))


def parse(entry_id: str, *kinds: str) -> list[Any]:
    """Return kind and parts of an id. Raises NotFound unless it is one of these kinds."""
    try:
        found = json.loads(entry_id)
        if found[0] in kinds and [type(part) for part in found[1:]] == SHAPES[found[0]]:
            return list(found)
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    raise NotFound("There is nothing of this kind in REDCap.")


SHAPES: dict[str, list[type]] = {
    "project": [str],
    "record": [str, str],
    "event": [str, str, str],
    "instance": [str, str, str, str, int],
    "field": [str, str, str, str, int, str],
    "file": [str, str, str, str, int, str],
    "folder": [str, int, int],  # the folder that it is in, and its own number
    "document": [str, int, int],
}


def text(value: Any) -> str:
    """Return a name. Raises ValueError for what is none."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError("a name that is none")
    return str(value)


def number(value: Any) -> int:
    """Return a whole number that came as one or as text. Raises ValueError for anything else."""
    found = str(value)
    if not (found.isascii() and found.isdigit() and len(found) <= LONGEST_NUMBER):
        raise ValueError("a number that is none")
    return int(found)


# -- rows → places --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Record:
    """What the rows of one record tell."""

    events: set[str] = field(default_factory=set)
    instances: dict[tuple[str, str], set[int]] = field(default_factory=dict)  # of an event's form
    names: dict[Place, str] = field(default_factory=dict)


def documents(rows: Iterable[Any], fields: Mapping[str, FileField]) -> dict[Place, str]:
    """Read which document is where from eav rows."""
    found = {}
    for row in rows:
        try:
            if row["field_name"] in fields and row["value"]:
                place = _place(text(row["record"]), row, row["field_name"])
                found[place] = str(number(row["value"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("A document that makes no sense was listed (%r).", error)
    return found


def names(rows: Iterable[Any], key: str) -> list[str]:
    """Read the names of all records from eav rows, in order; none where the rows do not show the key itself."""
    found, shown = set(), False
    for row in rows:
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            found.add(text(row["record"]))
            shown = shown or row["field_name"] == key
    return sorted(found, key=natural) if shown else []


def records(rows: Iterable[Any], schema: Schema) -> tuple[dict[str, Record], int]:
    """Read names of files by record from flat rows; return too how many rows made no sense."""
    found: dict[str, Record] = {}
    wrong = 0
    for row in rows:
        try:
            name = text(row[schema.key])
            base = _place(name, row, "")
            names = {file: text(row[file]) for file in schema.fields if row.get(file)}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("A row that makes no sense was listed (%r).", error)
            wrong += 1
            continue
        record = found.setdefault(name, Record())
        record.events.add(base.event)
        if base.instance:
            record.instances.setdefault((base.event, base.form), set()).add(base.instance)
        for file, given in names.items():
            record.names[Place(name, base.event, base.form, base.instance, file)] = given
    return dict(sorted(found.items(), key=lambda pair: natural(pair[0]))), wrong


def _place(record: str, row: Mapping[str, Any], name: str) -> Place:
    instance = row.get(INSTANCE, "")
    count = 0 if instance in ("", None) else number(instance)
    return Place(record, str(row.get(EVENT) or ""), str(row.get(FORM) or ""), count, name)


def natural(name: str) -> tuple[int, int, str]:
    """Sort numbers as numbers, before everything else; of any length, which `int` would refuse."""
    bare = name.lstrip("0")
    return (0, len(bare), name) if name.isascii() and name.isdigit() else (1, 0, name)


# -- places → entries -----------------------------------------------------------------------------------


def project(alias: str) -> Entry:
    return Entry(id=mint("project", alias), name=alias, is_dir=True, label=alias, takes=takes(Accept.DIRECTORY))


@dataclass(frozen=True, slots=True)
class Layout:
    """Turns what is known of a project into entries."""

    alias: str
    schema: Schema
    documents: Mapping[Place, str]
    visible: frozenset[str]  # fields that the rows have at all: less rights hide columns
    versioned: bool = True  # whether a document's number tells one file from the next

    def record(self, name: str, record: Record) -> Iterator[Entry]:
        top = mint("record", self.alias, name)
        classic = self.schema.events is None
        yield self._folder(top, name, None, self.schema.groups("") if classic else [])
        for event in self.schema.events_of(record.events):
            groups, home = self.schema.groups(event), top
            if not classic:
                home = mint("event", self.alias, name, event)
                yield self._folder(home, event, top, groups)
            for group in groups:
                yield from self._group(name, record, event, group, home)

    def _group(self, name: str, record: Record, event: str, group: Group, home: str) -> Iterator[Entry]:
        if not group.repeats:
            yield from self._fields(Place(name, event, "", 0, ""), record, group, home)
            return
        # The first is there to be filled, as it is in REDCap itself, also while nothing is in it.
        for instance in sorted({1, *record.instances.get((event, group.form), ())}):
            inner = mint("instance", self.alias, name, event, group.form, instance)
            yield self._folder(inner, f"{group.stem}-{instance}", home, [], age=instance)
            yield from self._fields(Place(name, event, group.form, instance, ""), record, group, inner)

    def _folder(self, entry_id: str, name: str, inside: str | None, groups: list[Group], age: int = 0) -> Entry:
        repeats = any(group.repeats for group in groups)
        return Entry(
            id=entry_id,
            name=name,
            is_dir=True,
            age=age,
            label=name,
            inside=inside,
            complete=True,
            takes=takes(Accept.DIRECTORY) if repeats else NOTHING,
            read_only=None if repeats else FIXED,
        )

    def _fields(self, base: Place, record: Record, group: Group, home: str) -> Iterator[Entry]:
        for file in group.fields:
            if file.name not in self.visible:
                continue
            place = Place(base.record, base.event, base.form, base.instance, file.name)
            parts = (place.record, place.event, place.form, place.instance, place.field)
            slot = mint("field", self.alias, *parts)
            yield Entry(
                id=slot,
                name=file.name,
                is_dir=True,
                label=file.name,
                inside=home,
                complete=True,
                takes=Takes(
                    frozenset() if file.signature else frozenset({Accept.FILE}), room=1, replace=Replace.IN_PLACE
                ),
                read_only=SIGNATURE if file.signature else None,
            )
            if place in record.names:
                yield self._file(mint("file", self.alias, *parts), record.names[place], slot, place, file)

    def _file(self, entry_id: str, name: str, slot: str, place: Place, file: FileField) -> Entry:
        document = self.documents.get(place)
        return Entry(
            id=entry_id,
            name=name,
            is_dir=False,
            age=int(document or 0),
            label=document or file.name,
            inside=slot,
            version=document if self.versioned else None,
            read_only=SIGNATURE if file.signature else None,
        )


# -- the repository -------------------------------------------------------------------------------------


def shelf(alias: str) -> Entry:
    """Return the uppermost folder of a project's repository; a record of its name gives way."""
    return _shelf(mint("folder", alias, 0, 0), SHELF, -1, SHELF)


def _shelf(entry_id: str, name: str, age: int, label: str) -> Entry:
    here = Takes(frozenset({Accept.FILE, Accept.DIRECTORY}), replace=Replace.BY_DELETE)
    return Entry(id=entry_id, name=name, is_dir=True, age=age, label=label, takes=here)


def shelved(alias: str, folder: int, item: Json) -> Entry:
    """Return a folder or a document of a repository's folder. Raises ValueError and the like."""
    name = text(item["name"])
    if item.get("folder_id"):
        own = number(item["folder_id"])
        return _shelf(mint("folder", alias, folder, own), name, own, str(own))
    own = number(item["doc_id"])
    entry_id = mint("document", alias, folder, own)
    # No call puts other bytes behind a number.
    return Entry(id=entry_id, name=name, is_dir=False, age=own, label=str(own), version=str(own))
