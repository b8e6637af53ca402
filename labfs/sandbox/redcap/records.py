"""Rows out of a project: who is asked for, what is shown of it, in which order.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from labfs.sandbox.cost import prepare
from labfs.sandbox.redcap.answers import Ask, Refusal
from labfs.sandbox.redcap.design import STATES, Design, Field
from labfs.sandbox.redcap.logic import parse
from labfs.sandbox.redcap.shelf import Caller, Shelf
from labfs.sandbox.store import Row

Cells = dict[str, Any]
AMONG = "(SELECT value FROM json_each(?))"  # of any number of values, in one
FULL, DEIDENTIFIED, NO_IDENTIFIERS = 1, 2, 3  # levels of data export; 0 is no access


@dataclass(slots=True)
class Line:
    """One row to be: all values of a record in an event and, where that repeats, in an instance."""

    record: str
    event: Row
    form: str  # of a repeating instrument, else ""
    instance: int | None  # None where nothing repeats
    values: dict[str, str] = field(default_factory=dict)


class Export:
    """One export of records, as far as the form asks."""

    def __init__(self, shelf: Shelf, caller: Caller, ask: Ask) -> None:
        self._shelf = shelf
        self._caller = caller
        self._ask = ask
        self._design: Design = caller.design
        self._eav = ask.get("type").lower() == "eav"
        self._labels = ask.get("rawOrLabel").lower() == "label"
        self._columns = self._wanted_columns()
        self._names: dict[str, str] = {}  # of documents, once it is known which

    def rows(self) -> tuple[list[Cells], list[str]]:
        """Return the rows and the names of their columns. Raises Refusal."""
        lines = self._lines()
        prepare(len({line.record for line in lines}))
        if self._eav:
            names = ["record", *self._identity(), "field_name", "value"]
            if self._shelf.switches.eav_identity_last:
                names = ["record", "field_name", "value", *self._identity()]
            return [{name: row[name] for name in names} for line in lines for row in self._triples(line)], names
        key = self._design.key
        asked_for_key = any(column == key for column, _, _ in self._columns)
        self._names = self._names_of(lines)
        identity = self._identity() if asked_for_key or self._shelf.switches.identity_without_key else []
        names = [*([key] if asked_for_key else []), *identity, *(c for c, _, _ in self._columns if c != key)]
        return [self._flat(line, names) for line in lines], names

    # -- what is asked for -------------------------------------------------------------------------------

    def _choice(self, name: str, known: set[str]) -> set[str] | None:
        """Return the wanted names; None for all of them."""
        asked = self._ask.array(name)
        if asked is not None:
            wrong = [value for value in asked if value not in known]
            if wrong:
                quote = '"' if self._shelf.switches.quoted_parameter else ""
                values = ", ".join(f"'{value}'" for value in wrong)
                message = f"The following values in the parameter {quote}{name}{quote} are not valid: {values}"
                raise Refusal(400, message)
            return set(asked)
        listed = self._ask.commas(name)
        if listed is None:
            return None
        if not set(listed) <= known:
            if self._shelf.switches.bad_comma_list == "drop":
                return None
            raise Refusal(400, f'The value of the parameter "{name}" is not valid')
        return set(listed)

    def _wanted_columns(self) -> list[tuple[str, str, Field | None]]:
        states = {f"{form}_complete" for form in self._design.forms}
        fields = self._choice("fields", set(self._design.fields) | states)
        forms = self._choice("forms", set(self._design.forms))
        level = self._caller.rights["data_export"]
        found = []
        for column, form, known in self._design.columns():
            name = known.name if known else column
            if (fields or forms) and not (name in (fields or ()) or form in (forms or ())):
                continue
            if known and known.identifier and level != FULL:
                continue  # silently
            if known and known.free_text and known.name != self._design.key and level == DEIDENTIFIED:
                continue
            found.append((column, form, known))
        return found

    def _asked_records(self) -> list[str] | None:
        """Return the records that the form names; None where it names none."""
        asked = self._ask.array("records")
        return self._ask.commas("records") if asked is None else asked

    def _wanted_records(self) -> set[str]:
        """Return the names of the records in question."""
        asked = self._asked_records()
        sql = "SELECT * FROM redcap_records WHERE project = ?"
        if asked is None:
            rows = self._shelf.store.all(sql, self._caller.id)
        else:
            rows = self._shelf.store.all(f"{sql} AND name IN {AMONG}", self._caller.id, json.dumps(asked))
        dag = self._caller.dag
        rows = [row for row in rows if not dag or row["dag"] == dag]
        if self._ask.get("dateRangeBegin"):
            begin = self._shelf.moment(self._ask.get("dateRangeBegin"), "dateRangeBegin")
            rows = [row for row in rows if row["modified"] > begin]
        if self._ask.get("dateRangeEnd"):
            end = self._shelf.moment(self._ask.get("dateRangeEnd"), "dateRangeEnd")
            rows = [row for row in rows if row["modified"] < end]
        return {str(row["name"]) for row in rows}

    # -- the lines ---------------------------------------------------------------------------------------

    def _lines(self) -> list[Line]:
        design, records = self._design, self._wanted_records()
        unique_names = {str(event["unique_name"]) for event in design.events}
        chosen = self._choice("events", unique_names) if design.longitudinal else None
        events = {e["id"]: e for e in design.events if chosen is None or e["unique_name"] in chosen}
        forms = {column: form for column, form, _ in design.columns()}
        repeating = {(e, f) for e in events for f in design.forms if design.form_repeats(e, f)}
        whole = {e for e in events if design.whole_repeats(e)}
        lines: dict[tuple[str, int, str, int | None], Line] = {}
        for record, event, instance, name, value in self._values(records):
            if record not in records or event not in events or name not in forms:
                continue
            form = forms[name] if (event, forms[name]) in repeating else ""
            place = (record, event, form, instance if form or event in whole else None)
            if place not in lines:
                lines[place] = Line(record, events[event], form, place[3])
            lines[place].values[name] = value
        asked = {(event, form) for event in events for _, form, _ in self._columns if design.has(event, form)}
        found = [line for line in lines.values() if self._asked(line, asked, repeating)]
        if self._ask.get("filterLogic"):
            found = self._filtered(found)
        return sorted(found, key=self._order())

    def _values(self, records: set[str]) -> list[Row]:
        """Return the values of records: where the form names some, those alone are looked up."""
        sql = "SELECT record, event, instance, field, value FROM redcap_values WHERE project = ?"
        if self._asked_records() is None:
            return self._shelf.store.all(sql, self._caller.id)
        return self._shelf.store.all(f"{sql} AND record IN {AMONG}", self._caller.id, json.dumps(sorted(records)))

    def _names_of(self, lines: list[Line]) -> dict[str, str]:
        """Return the names of the documents in rows."""
        columns = [column for column, _, known in self._columns if known and known.kind == "file"]
        ids = {int(line.values[c]) for line in lines for c in columns if line.values.get(c, "").isdecimal()}
        sql = f"SELECT id, name FROM redcap_documents WHERE project = ? AND id IN {AMONG}"
        rows = self._shelf.store.all(sql, self._caller.id, json.dumps(sorted(ids)))
        return {str(row["id"]): str(row["name"]) for row in rows}

    @staticmethod
    def _asked(line: Line, asked: set[tuple[int, str]], repeating: set[tuple[int, str]]) -> bool:
        """Tell whether any of the wanted columns can be in a line."""
        event = line.event["id"]
        if line.form:
            return (event, line.form) in asked
        return any(e == event and (e, form) not in repeating for e, form in asked)

    def _filtered(self, lines: list[Line]) -> list[Line]:
        test, columns = parse(self._ask.get("filterLogic"))
        if not columns <= {column for column, _, _ in self._design.columns()}:
            raise Refusal(400, "The value of the parameter 'filterLogic' is not valid: it names an unknown field")
        return [line for line in lines if test({**line.values, "redcap_event_name": line.event["unique_name"]})]

    def _order(self) -> Callable[[Line], Any]:
        forms = ["", *self._design.forms]

        def place(line: Line) -> Any:
            rest = (line.record, line.event["arm"], line.event["id"], forms.index(line.form), line.instance or 0)
            if self._shelf.switches.record_order == "text":
                return rest
            # As a database takes text for a number: its leading digits, and 0 for none.
            digits = line.record[: len(line.record) - len(line.record.lstrip("0123456789"))]
            return (int(digits) if digits.isascii() and digits else 0, *rest)

        return place

    # -- as rows -----------------------------------------------------------------------------------------

    def _identity(self) -> list[str]:
        names = ["redcap_event_name"] if self._design.longitudinal else []
        if self._design.repeating:
            names += ["redcap_repeat_instrument", "redcap_repeat_instance"]
        if self._ask.flag("exportDataAccessGroups") and not self._caller.dag and not self._eav:
            names.append("redcap_data_access_group")
        return names

    def _identity_of(self, line: Line) -> Cells:
        row: Cells = {
            "redcap_event_name": line.event["name"] if self._labels else line.event["unique_name"],
            "redcap_repeat_instrument": self._design.forms[line.form] if line.form and self._labels else line.form,
            "redcap_repeat_instance": "" if line.instance is None else line.instance,
        }
        if self._ask.flag("exportDataAccessGroups"):
            record = self._shelf.record(self._caller, line.record)
            row["redcap_data_access_group"] = record["dag"] if record else ""
        return row

    def _has(self, line: Line, form: str) -> bool:
        """Tell whether a form's values belong in a line."""
        event = line.event["id"]
        if line.form:
            return form == line.form
        return self._design.has(event, form) and not self._design.form_repeats(event, form)

    def _flat(self, line: Line, names: list[str]) -> Cells:
        row = self._identity_of(line)
        for column, form, known in self._columns:
            row[column] = self._shown(line, column, form, known)
        row[self._design.key] = line.record
        return {name: row[name] for name in names}

    def _shown(self, line: Line, column: str, form: str, known: Field | None) -> str:
        value = line.values.get(column, "")
        if not self._has(line, form):
            return value
        if known is None:
            return STATES[value or "0"] if self._labels else value or "0"
        if known.kind == "checkbox":
            return ("Checked" if value else "Unchecked") if self._labels else value or "0"
        if known.kind == "file" and value:
            if self._shelf.switches.file_value == "document":
                return "[document]"
            return self._names.get(value, "")
        return known.choices.get(value, value) if self._labels else value

    def _triples(self, line: Line) -> list[Cells]:
        """Return a row for each value; that of a file is its document's number."""
        rows = []
        for column, _, known in self._columns:
            value = line.values.get(column, "")
            if column == self._design.key and not line.form:
                value = line.record
            if not value:
                continue
            name = column
            if known and known.kind == "checkbox":
                name, _, value = column.partition("___")
            rows.append({**self._identity_of(line), "record": line.record, "field_name": name, "value": value})
        return rows
