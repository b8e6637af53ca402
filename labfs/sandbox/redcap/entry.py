"""Rows into a project: imports, deletions and new names of records.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from starlette.responses import Response

from labfs.sandbox.redcap.answers import DELIMITERS, XML, Ask, Refusal, Writer, php_json
from labfs.sandbox.redcap.shelf import Caller, Shelf
from labfs.sandbox.store import Row

Cells = dict[str, str]
IDENTITY = ("redcap_event_name", "redcap_repeat_instrument", "redcap_repeat_instance", "redcap_data_access_group")
BAD_DATA = "The data being imported is not formatted correctly"


class Entry:
    """Takes rows apart into values."""

    def __init__(self, shelf: Shelf, caller: Caller, ask: Ask) -> None:
        self._shelf = shelf
        self._caller = caller
        self._ask = ask
        self._design = caller.design
        self._owner = {column: (form, field) for column, form, field in caller.design.columns()}

    # -- import ------------------------------------------------------------------------------------------

    def run(self, writer: Writer) -> Response:
        """Import all rows or none."""
        rows = _rows(self._ask)
        if self._ask.get("type").lower() == "eav":
            rows = [self._from_triple(row) for row in rows]
        pairs = self._numbered(rows)
        self._check(rows)
        with self._shelf.store.transaction():
            for row in rows:
                self._keep(row)
        names = list(dict.fromkeys(row[self._design.key] for row in rows))
        return self._answer(writer, names, pairs)

    def _from_triple(self, row: Cells) -> Cells:
        if not row.keys() >= {"record", "field_name", "value"}:
            raise Refusal(406, BAD_DATA)
        name, value = row["field_name"], row["value"]
        field = self._design.fields.get(name)
        if field and field.kind == "checkbox":
            name, value = f"{name}___{value}", "1"
        return {self._design.key: row["record"], **{n: row[n] for n in IDENTITY if n in row}, name: value}

    def _numbered(self, rows: list[Cells]) -> list[tuple[str, str]]:
        """Give new numbers to the records, if that is wanted; return pairs of new and sent names."""
        key = self._design.key
        if not self._ask.flag("forceAutoNumber"):
            return [(row.get(key, ""), row.get(key, "")) for row in rows]
        least = int(next_name(self._shelf, self._caller.id))
        sent = list(dict.fromkeys(row.get(key, "") for row in rows))
        fresh = {name: str(least + index) for index, name in enumerate(sent)}
        for row in rows:
            row[key] = fresh[row.get(key, "")]
        return [(number, name) for name, number in fresh.items()]

    def _check(self, rows: list[Cells]) -> None:
        unknown = {name for row in rows for name in row if name not in self._owner and name not in IDENTITY}
        if unknown:
            listed = ", ".join(f"'{name}'" for name in sorted(unknown))
            raise Refusal(400, f"The following fields were not found in the project as real data fields: {listed}")
        errors = [line for row in rows for line in self._errors(row)]
        if errors:
            raise Refusal(400, "\n".join(errors))

    def _errors(self, row: Cells) -> list[str]:
        record, event = row.get(self._design.key, ""), self._event(row)
        if not record.strip():
            raise Refusal(400, f"The record identifier field ('{self._design.key}') is missing in the data")
        kept = self._shelf.record(self._caller, record)
        if kept is not None and kept["locked"]:
            text = "This record has been locked and cannot be changed"
            raise Refusal(self._shelf.switches.locked_status, f'"{record}","","","{text}"')
        lines = []
        for name, value in self._values(row).items():
            form, field = self._owner[name]
            if not value or name == self._design.key:
                continue
            if not self._design.has(event["id"], form):
                text = (
                    f"This field ('{name}') exists on an instrument that is not designated for the event named"
                    f" '{event['unique_name']}'. You are not allowed to import data for this field into this event."
                )
                lines.append(f'"{record}","{name}","{value}","{text}"')
            elif field and field.choices and value not in (field.choices if field.kind != "checkbox" else "01"):
                lines.append(f'"{record}","{name}","{value}","The value is not a valid category for {name}"')
            elif field and field.kind == "file" and self._shelf.switches.file_value_import == "refuse":
                lines.append(f'"{record}","{name}","{value}","File upload fields cannot be imported"')
        return lines

    def _event(self, row: Cells) -> Row:
        name = row.get("redcap_event_name", "")
        if not self._design.longitudinal or not name:
            return self._design.events[0]
        event = self._design.event(name)
        if event is None:
            raise Refusal(400, f'"{row.get(self._design.key, "")}","redcap_event_name","{name}","Invalid event name"')
        return event

    @staticmethod
    def _values(row: Cells) -> Cells:
        return {name: value for name, value in row.items() if name not in IDENTITY}

    def _instance(self, row: Cells) -> int:
        text = row.get("redcap_repeat_instance", "").strip()
        if text and not (text.isascii() and text.isdigit() and int(text)):
            raise Refusal(400, f'"{row[self._design.key]}","redcap_repeat_instance","{text}","Invalid instance"')
        return int(text or 1)

    def _keep(self, row: Cells) -> None:
        shelf, project, key = self._shelf, self._caller.id, self._design.key
        record, event, instance = row[key], self._event(row)["id"], self._instance(row)
        kept = shelf.store.one("SELECT * FROM redcap_records WHERE project = ? AND name = ?", project, record)
        if kept is None:
            shelf.add_record(project, record, self._caller.dag or row.get("redcap_data_access_group", ""))
        elif self._caller.dag and kept["dag"] != self._caller.dag:
            raise Refusal(400, shelf.switches.unknown_record_text.format(record=record))
        whole = self._design.whole_repeats(event)
        shelf.set_value(project, record, event, instance if whole else 1, key, record)
        changed = [f"{key} = '{record}'"] if kept is None else []
        for name, value in self._values(row).items():
            form, field = self._owner[name]
            if name == key or (field and field.kind == "file"):
                continue
            if not value and self._ask.get("overwriteBehavior") != "overwrite":
                continue
            if field and field.kind == "checkbox" and value == "0":
                value = ""
            place = instance if self._design.repeats(event, form) else 1
            shelf.set_value(project, record, event, place, name, value)
            if self._design.form_repeats(event, form):
                self._start(record, event, place, form)
            changed.append(f"{name} = '{value}'")
        shelf.touch(project, record)
        kind, verb = ("record_add", "Create") if kept is None else ("record_edit", "Update")
        shelf.note(self._caller, kind, f"{verb} record (API) {record}", ", ".join(changed), record)

    def _start(self, record: str, event: int, instance: int, form: str) -> None:
        start_form(self._shelf, self._caller.id, (record, event, instance), form)

    def _answer(self, writer: Writer, names: list[str], pairs: list[tuple[str, str]]) -> Response:
        content, form = self._ask.get("returnContent", "count"), self._ask.return_format
        if content == "nothing":
            return writer.text("", "text/html")
        if content in ("ids", "auto_ids"):
            shown = names if content == "ids" else [f"{number},{name}" for number, name in pairs]
            if form == "json":
                return writer.text(php_json(shown), "application/json")
            if form == "csv":
                return writer.text("\n".join(["id", *shown]), "text/csv")
            items = "".join(f"<id>{name}</id>" for name in shown)
            return writer.text(f"{XML}\n<ids>{items}</ids>", "text/xml")
        if form == "json":
            return writer.text(php_json({"count": len(names)}), "application/json")
        if form == "csv":
            return writer.text(str(len(names)), "text/csv")
        return writer.text(f"{XML}<count>{len(names)}</count>", "text/xml")

    # -- deletion and new names --------------------------------------------------------------------------

    def delete(self) -> int:
        """Delete records, or as much of them as the form says; return how many were met."""
        asked = self._ask.array("records") or []
        if not asked:
            raise Refusal(400, "The parameter 'records' is missing or empty")
        missing = [name for name in asked if self._shelf.record(self._caller, name) is None]
        if missing:
            listed = ", ".join(f"'{name}'" for name in missing)
            raise Refusal(
                400,
                "One or more of the records provided cannot be deleted because they do not exist in the project."
                f" The following records do not exist: {listed}",
            )
        where, values = self._part()
        with self._shelf.store.transaction():
            for name in asked:
                self._delete(name, where, values)
        return len(asked)

    def _part(self) -> tuple[str, list[Any]]:
        """Return which values are deleted, as SQL; nothing for all of them."""
        where = ""
        values: list[Any] = []
        instrument, event, arm = self._ask.get("instrument"), self._ask.get("event"), self._ask.number("arm")
        if instrument:
            if instrument not in self._design.forms:
                raise Refusal(400, "The value of the parameter 'instrument' is not valid")
            if self._design.longitudinal and not event:
                raise Refusal(400, "The parameter 'event' is required with 'instrument' in a longitudinal project")
            columns = [c for c, (form, _) in self._owner.items() if form == instrument and c != self._design.key]
            where += f" AND field IN ({', '.join('?' * len(columns))})"
            values += columns
        if event and self._design.longitudinal:
            row = self._design.event(event)
            if row is None:
                raise Refusal(400, "The value of the parameter 'event' is not valid")
            where += " AND event = ?"
            values.append(row["id"])
        if arm is not None and self._design.longitudinal:
            where += " AND event IN (SELECT id FROM redcap_events WHERE project = ? AND arm = ?)"
            values += [self._caller.id, arm]
        if self._ask.number("repeat_instance") is not None:
            where += " AND instance = ?"
            values.append(self._ask.number("repeat_instance"))
        return where, values

    def _delete(self, name: str, where: str, values: Sequence[Any]) -> None:
        store, project = self._shelf.store, self._caller.id
        store.run(f"DELETE FROM redcap_values WHERE project = ? AND record = ?{where}", project, name, *values)
        if not store.count("SELECT count(*) FROM redcap_values WHERE project = ? AND record = ?", project, name):
            store.run("DELETE FROM redcap_records WHERE project = ? AND name = ?", project, name)
        self._shelf.touch(project, name)
        self._shelf.note(self._caller, "record_delete", f"Delete record (API) {name}", "", name)

    def rename(self) -> int:
        old, new, project = self._ask.get("record"), self._ask.get("new_record_name"), self._caller.id
        if self._shelf.record(self._caller, old) is None:
            raise Refusal(400, self._shelf.switches.unknown_record_text.format(record=old))
        if not new or self._shelf.store.one(
            "SELECT * FROM redcap_records WHERE project = ? AND name = ?", project, new
        ):
            raise Refusal(400, f'The new record name "{new}" is empty or already exists')
        with self._shelf.store.transaction():
            for table, column in (("records", "name"), ("values", "record")):
                sql = f"UPDATE redcap_{table} SET {column} = ? WHERE project = ? AND {column} = ?"
                self._shelf.store.run(sql, new, project, old)
            sql = "UPDATE redcap_values SET value = ? WHERE project = ? AND record = ? AND field = ?"
            self._shelf.store.run(sql, new, project, new, self._design.key)
            self._shelf.touch(project, new)
            details = f"{self._design.key} = '{new}'"
            self._shelf.note(self._caller, "record_edit", f"Update record (API) {new}", details, new)
        return 1


def next_name(shelf: Shelf, project: int) -> str:
    """Return the number after the greatest of all records that are named by a number."""
    rows = shelf.store.all("SELECT name FROM redcap_records WHERE project = ?", project)
    return str(
        1 + max((int(row["name"]) for row in rows if row["name"].isascii() and row["name"].isdigit()), default=0)
    )


def start_form(shelf: Shelf, project: int, place: tuple[str, int, int], form: str) -> None:
    """Make a form's instance exist: its state is set, whatever becomes of its values."""
    record, event, instance = place
    if shelf.value(project, record, event, instance, f"{form}_complete") is None:
        shelf.set_value(project, record, event, instance, f"{form}_complete", "0")


def _rows(ask: Ask) -> list[Cells]:
    """Return the imported rows, all values as text. Raises Refusal."""
    data = ask.get("data")
    if ask.format == "json":
        return _from_json(data)
    if ask.format == "csv":
        reader = csv.DictReader(io.StringIO(data), delimiter=DELIMITERS.get(ask.get("csvDelimiter"), ","))
        found = list(reader)
        if not found or any(None in row or None in row.values() for row in found):
            raise Refusal(406, BAD_DATA)
        return found
    try:
        root = ElementTree.fromstring(data)  # noqa: S314, a stand-in on the developer's own machine
    except ElementTree.ParseError:
        raise Refusal(406, BAD_DATA) from None
    return [{value.tag: value.text or "" for value in item} for item in root]


def _from_json(data: str) -> list[Cells]:
    try:
        found = json.loads(data)
    except ValueError:
        raise Refusal(406, BAD_DATA) from None
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found) or not found:
        raise Refusal(406, BAD_DATA)
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in found]
