"""What a project is made of: forms, fields, events, and which of them repeat.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from labfs.sandbox.store import Row, Store

STATES = {"0": "Incomplete", "1": "Unverified", "2": "Complete"}  # of a form
# The columns of the data dictionary, in their order.
COLUMNS = (
    "field_name", "form_name", "section_header", "field_type", "field_label", "select_choices_or_calculations",
    "field_note", "text_validation_type_or_show_slider_number", "text_validation_min", "text_validation_max",
    "identifier", "branching_logic", "required_field", "custom_alignment", "question_number", "matrix_group_name",
    "matrix_ranking", "field_annotation",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    form: str
    kind: str  # "text", "radio", "checkbox", "file", …
    choices: dict[str, str]
    signature: bool
    identifier: bool
    row: dict[str, str]  # of the data dictionary

    @property
    def free_text(self) -> bool:
        validation = self.row["text_validation_type_or_show_slider_number"]
        return self.kind == "notes" or (self.kind == "text" and not validation)

    @property
    def columns(self) -> list[str]:
        """The names under which its values are stored and exported."""
        return [f"{self.name}___{code}" for code in self.choices] if self.kind == "checkbox" else [self.name]


class Design:
    """The set-up of one project, read anew for each request."""

    def __init__(self, store: Store, project: Row) -> None:
        number = project["id"]
        self.longitudinal = bool(project["longitudinal"])
        self.forms = {
            str(row["name"]): str(row["label"])
            for row in store.all("SELECT * FROM redcap_forms WHERE project = ? ORDER BY position", number)
        }
        rows = store.all("SELECT * FROM redcap_fields WHERE project = ? ORDER BY position", number)
        self.fields = {str(row["name"]): _field(json.loads(row["spec"])) for row in rows}
        self.key = next(iter(self.fields))
        self.arms = {
            int(row["number"]): str(row["name"])
            for row in store.all("SELECT * FROM redcap_arms WHERE project = ? ORDER BY number", number)
        }
        self.events = store.all("SELECT * FROM redcap_events WHERE project = ? ORDER BY arm, id", number)
        mapping = "SELECT m.* FROM redcap_mapping m JOIN redcap_events e ON e.id = event WHERE project = ?"
        self.designated = {(int(row["event"]), str(row["form"])) for row in store.all(mapping, number)}
        self.repeating = store.all("SELECT * FROM redcap_repeating WHERE project = ? ORDER BY event, form", number)
        self._repeats = {(int(row["event"]), str(row["form"])) for row in self.repeating}

    def event(self, unique_name: str) -> Row | None:
        return next((event for event in self.events if event["unique_name"] == unique_name), None)

    def has(self, event: int, form: str) -> bool:
        """Tell whether a form is part of an event; a classic project has all in its one event."""
        return not self.longitudinal or (event, form) in self.designated

    def whole_repeats(self, event: int) -> bool:
        return (event, "") in self._repeats

    def form_repeats(self, event: int, form: str) -> bool:
        return (event, form) in self._repeats

    def repeats(self, event: int, form: str) -> bool:
        return self.whole_repeats(event) or self.form_repeats(event, form)

    def forms_of(self, event: int) -> list[str]:
        return [form for form in self.forms if self.has(event, form)]

    def columns(self) -> Iterator[tuple[str, str, Field | None]]:
        """Yield every exported column with its form, in order; the state of a form has no field."""
        for form in self.forms:
            for field in self.fields.values():
                if field.form == form:
                    yield from ((column, form, field) for column in field.columns)
            yield f"{form}_complete", form, None

    # -- as answers --------------------------------------------------------------------------------------

    def metadata(self, fields: list[str] | None, forms: list[str] | None) -> list[dict[str, str]]:
        wanted = self.fields.values()
        if fields or forms:
            wanted_names, wanted_forms = set(fields or ()), set(forms or ())
            return [f.row for f in wanted if f.name in wanted_names or f.form in wanted_forms]
        return [field.row for field in wanted]

    def instruments(self) -> list[dict[str, Any]]:
        return [{"instrument_name": name, "instrument_label": label} for name, label in self.forms.items()]

    def export_names(self, wanted: str) -> list[dict[str, str]]:
        rows = []
        for column, form, field in self.columns():
            original = field.name if field else f"{form}_complete"
            choice = column.removeprefix(f"{original}___") if column != original else ""
            if not wanted or wanted == original:
                rows.append({"original_field_name": original, "choice_value": choice, "export_field_name": column})
        return rows

    def arm_rows(self, wanted: list[str] | None) -> list[dict[str, Any]]:
        return [
            {"arm_num": number, "name": name}
            for number, name in self.arms.items()
            if wanted is None or str(number) in wanted
        ]

    def event_rows(self, wanted: list[str] | None) -> list[dict[str, Any]]:
        return [
            {
                "event_name": event["name"],
                "arm_num": event["arm"],
                "unique_event_name": event["unique_name"],
                "custom_event_label": "",
                "event_id": event["id"],
            }
            for event in self.events
            if wanted is None or str(event["arm"]) in wanted
        ]

    def mapping_rows(self, wanted: list[str] | None) -> list[dict[str, Any]]:
        return [
            {"arm_num": event["arm"], "unique_event_name": event["unique_name"], "form": form}
            for event in self.events
            for form in self.forms_of(event["id"])
            if wanted is None or str(event["arm"]) in wanted
        ]

    def repeating_rows(self) -> list[dict[str, Any]]:
        names = {event["id"]: event["unique_name"] for event in self.events}
        rows = []
        for row in self.repeating:
            event = {"event_name": names[row["event"]]} if self.longitudinal else {}
            rows.append({**event, "form_name": row["form"], "custom_form_label": row["label"]})
        return rows


def _field(row: dict[str, str]) -> Field:
    pairs = [pair.partition(",") for pair in row["select_choices_or_calculations"].split("|") if pair.strip()]
    return Field(
        name=row["field_name"],
        form=row["form_name"],
        kind=row["field_type"],
        choices={code.strip(): label.strip() for code, _, label in pairs},
        signature=row["text_validation_type_or_show_slider_number"] == "signature",
        identifier=row["identifier"] == "y",
        row=row,
    )
