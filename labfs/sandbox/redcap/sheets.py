"""What a project tells about itself: settings, dictionary, events, users, groups and its log.

Tests: sandbox/test_redcap_sandbox, clients/test_redcap_clients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labfs.sandbox.redcap.answers import Ask, Refusal
from labfs.sandbox.redcap.shelf import Caller, Shelf

LOG_COLUMNS = ("timestamp", "username", "action", "details", "record")
LOG_KINDS = {  # what is asked for → the kinds of its lines
    "export": ("export",), "manage": ("manage",), "user": ("user",), "lock_record": ("lock_record",),
    "record": ("record_add", "record_edit", "record_delete"), "record_add": ("record_add",),
    "record_edit": ("record_edit",), "record_delete": ("record_delete",), "page_view": ("page_view",),
}  # fmt: skip

Rows = list[dict[str, Any]]


def metadata(caller: Caller, ask: Ask) -> Rows:
    design = caller.design
    fields = ask.array("fields") or ask.commas("fields")
    forms = ask.array("forms") or ask.commas("forms")
    for name, asked, known in (("fields", fields, design.fields), ("forms", forms, design.forms)):
        wrong = [value for value in asked or () if value not in known]
        if wrong and ask.array(name):
            listed = ", ".join(f"'{value}'" for value in wrong)
            raise Refusal(400, f'The following values in the parameter "{name}" are not valid: {listed}')
    return [dict(row) for row in design.metadata(fields, forms)]


def export_names(caller: Caller, ask: Ask) -> Rows:
    rows = [dict(row) for row in caller.design.export_names(ask.get("field"))]
    if not rows:
        raise Refusal(400, "The value of the parameter 'field' is not valid")
    return rows


def _longitudinal(what: str, find: Callable[[Caller, list[str] | None], Rows]) -> Callable[[Caller, Ask], Rows]:
    def rows(caller: Caller, ask: Ask) -> Rows:
        if not caller.design.longitudinal:
            raise Refusal(400, f"You cannot export {what} for classic projects")
        return find(caller, ask.array("arms") or ask.commas("arms"))

    return rows


arms = _longitudinal("arms", lambda caller, wanted: caller.design.arm_rows(wanted))
events = _longitudinal("events", lambda caller, wanted: caller.design.event_rows(wanted))
mapping = _longitudinal("form/event mappings", lambda caller, wanted: caller.design.mapping_rows(wanted))


def repeating(caller: Caller, _: Ask) -> Rows:
    rows = caller.design.repeating_rows()
    if not rows:
        raise Refusal(
            400,
            "You cannot export repeating instruments and events because the project does not contain any repeating"
            " instruments and events",
        )
    return rows


def project(shelf: Shelf, caller: Caller) -> dict[str, Any]:
    row, design = caller.project, caller.design
    return {
        "project_id": row["id"],
        "project_title": row["title"],
        "creation_time": shelf.clock(row["created"]),
        "production_time": "",
        "in_production": 0,
        "project_language": "English",
        "purpose": 2,
        "purpose_other": "",
        "project_notes": row["notes"],
        "custom_record_label": "",
        "secondary_unique_field": "",
        "is_longitudinal": int(design.longitudinal),
        "has_repeating_instruments_or_events": int(bool(design.repeating)),
        "surveys_enabled": 0,
        "scheduling_enabled": 0,
        "record_autonumbering_enabled": row["autonumber"],
        "randomization_enabled": 0,
        "ddp_enabled": 0,
        "project_irb_number": "",
        "project_grant_number": "",
        "project_pi_firstname": "Ada",
        "project_pi_lastname": "Lab",
        "project_pi_email": "ada@lab.example",
        "display_today_now_button": 1,
        "missing_data_codes": "",
        "external_modules": "",
        "bypass_branching_erase_field_prompt": 0,
    }


def users(shelf: Shelf, caller: Caller) -> Rows:
    """Return all users for who may manage them, and else only the caller."""
    found = shelf.store.all("SELECT * FROM redcap_rights WHERE project = ? ORDER BY username", caller.id)
    return [
        {
            "username": row["username"],
            "email": f"{row['username']}@lab.example",
            "firstname": row["username"].capitalize(),
            "lastname": "Lab",
            "expiration": "",
            "data_access_group": row["dag"],
            "design": 0,
            "user_rights": row["user_rights"],
            "data_access_groups": 0,
            "logging": row["logging"],
            "file_repository": row["file_repository"],
            "api_export": row["api_export"],
            "api_import": row["api_import"],
            "record_create": 1,
            "record_rename": row["record_rename"],
            "record_delete": row["record_delete"],
            "forms": dict.fromkeys(caller.design.forms, 1),
            "forms_export": dict.fromkeys(caller.design.forms, row["data_export"]),
        }
        for row in found
        if caller.rights["user_rights"] or row["token"] == caller.rights["token"]
    ]


def groups(shelf: Shelf, caller: Caller) -> Rows:
    return [
        {"data_access_group_name": group["name"], "unique_group_name": group["unique"]}
        for group in shelf.groups(caller.project)
    ]


def log(shelf: Shelf, caller: Caller, ask: Ask) -> Rows:
    """Return the lines of the audit trail, newest first, to the minute."""
    where = "project = ?"
    values: list[Any] = [caller.id]
    kind = ask.get("logtype")
    if kind and kind not in LOG_KINDS:
        raise Refusal(400, "The value of the parameter 'logtype' is not valid")
    if kind:
        where += f" AND kind IN ({', '.join('?' * len(LOG_KINDS[kind]))})"
        values += LOG_KINDS[kind]
    for name, column in (("user", "username"), ("record", "record")):
        if ask.get(name):
            where += f" AND {column} = ?"
            values.append(ask.get(name))
    for name, sign in (("beginTime", ">="), ("endTime", "<=")):
        if ask.get(name):
            where += f" AND happened {sign} ?"
            values.append(shelf.moment(ask.get(name), name))
    group = caller.dag or ask.get("dag")
    if group:
        where += " AND record IN (SELECT name FROM redcap_records r WHERE r.project = redcap_log.project AND dag = ?)"
        values.append(group)
    rows = shelf.store.all(f"SELECT * FROM redcap_log WHERE {where} ORDER BY id DESC", *values)
    return [
        {
            "timestamp": shelf.clock(row["happened"], "%Y-%m-%d %H:%M"),
            "username": row["username"],
            "action": row["action"],
            "details": row["details"],
            "record": row["record"],
        }
        for row in rows
    ]
