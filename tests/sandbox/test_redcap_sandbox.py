"""REDCap's stand-in by plain requests: tokens, rights, errors, what a project tells and how it changes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redcap_stage import Redcap, opened
from stage import Sandbox

from labfs.sandbox.blobs import Blobs
from labfs.sandbox.redcap import Redcap as Service
from labfs.sandbox.store import Store

FIELD_ERROR = "The field 'mugshott' does not exist or is not a 'file' field"


@pytest.fixture
def redcap(sandbox: Sandbox) -> Iterator[Redcap]:
    with opened(sandbox) as redcap:
        yield redcap


# -- transport, tokens, rights, errors -----------------------------------------------------------------------


def test_only_posts_to_one_address(redcap: Redcap) -> None:
    answer = redcap.http.get(redcap.url)
    wanted = (
        '<?xml version="1.0" encoding="UTF-8" ?><hash><error>The requested method is not implemented.</error></hash>'
    )
    assert (answer.status_code, answer.text) == (501, wanted)
    elsewhere = redcap.http.post(f"{redcap.site}/nonsense/")
    assert (elsewhere.status_code, elsewhere.text.startswith("<!DOCTYPE html>")) == (404, True)
    moved = redcap.http.post(redcap.url.rstrip("/"))
    assert (moved.status_code, moved.headers["location"]) == (301, "/api/")
    form = {"token": redcap.tokens["biobank"], "content": "version"}
    assert redcap.http.post(f"{redcap.site}/redcap/api/", data=form).text == "16.1.3"
    multipart = {name: (None, value) for name, value in form.items()}
    assert redcap.http.post(redcap.url, files=multipart).text == "16.1.3"


def test_errors_come_in_three_formats_and_xml_is_the_usual_one(redcap: Redcap) -> None:
    form = {"content": "file", "action": "export", "record": "1", "field": "mugshott"}
    xml = f'<?xml version="1.0" encoding="UTF-8" ?><hash><error>{FIELD_ERROR}</error></hash>'
    for fields, body, kind in (
        ({}, xml, "text/xml"),
        ({"returnFormat": "json"}, json.dumps({"error": FIELD_ERROR}), "application/json"),
        ({"format": "json"}, json.dumps({"error": FIELD_ERROR}), "application/json"),
        ({"returnFormat": "csv", "format": "json"}, f"ERROR: {FIELD_ERROR}", "text/csv"),
    ):
        answer = redcap.post("biobank", **form, **fields)
        assert (answer.status_code, answer.text) == (400, body)
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"


def test_a_token_is_missing_malformed_or_unknown(redcap: Redcap) -> None:
    redcap.refusal(401, "", content="version")
    redcap.refusal(401, "short", content="version")
    assert redcap.refusal(403, "0" * 32, content="version") == "You do not have permissions to use the API"
    redcap.refusal(403, "biobank/nobody", content="version")
    redcap.switch(missing_token_status=403)
    redcap.refusal(403, "", content="version")
    # A form that PHP cannot read has no token either.
    assert redcap.http.post(redcap.url, json={"token": redcap.tokens["biobank"]}).status_code == 403


def test_rights_are_those_of_the_token(redcap: Redcap) -> None:
    slot = {"content": "file", "record": "1", "field": "slide_image"}
    no_import = "You do not have API Import/Update privileges"
    assert redcap.refusal(403, "biobank/reader", **slot, action="delete") == no_import
    assert redcap.refusal(403, "biobank/reader", content="record", data="[]") == no_import
    redcap.refusal(403, "biobank/reader", content="log")
    assert redcap.refusal(403, "biobank/writer", **slot, action="export") == "You do not have API Export privileges"
    redcap.refusal(403, "biobank/writer", content="record")
    redcap.refusal(403, "biobank/writer", content="fileRepository", action="import")
    redcap.refusal(403, "biobank/no-data", **slot, action="export")
    redcap.refusal(403, "biobank/no-data", content="record")
    assert redcap.ask("biobank/no-data", "metadata")


def test_a_new_service_is_filled_once_and_soon(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for _ in range(2):  # as at a restart
        service = Service(store, Blobs(store, b"secret"))
        start = time.process_time()  # on a busy machine it may take longer, but no more work
        service.seed()
        assert time.process_time() - start < 1
    assert store.count("SELECT count(*) FROM redcap_projects") == 6
    assert len(service.site["projects"]) == 6, "a token each"


def test_identifiers_are_left_out_silently_and_their_files_refused(redcap: Redcap) -> None:
    (row,) = redcap.ask("biobank/deidentified", "record", records=["1"])
    assert (
        "sample_name" not in row
        and "patient_number" not in row
        and "consent_scan" not in row
        and row["counts"] == "counts.h5"
    )
    redcap.refusal(403, "biobank/deidentified", content="file", action="export", record="1", field="consent_scan")
    assert redcap.file("export", "biobank/deidentified", record="1", field="counts").status_code == 200


def test_a_group_sees_its_own_records_and_folders(redcap: Redcap) -> None:
    assert [row["record_id"] for row in redcap.ask("biobank/north", "record")] == ["1", "2"]
    redcap.refusal(400, "biobank/north", content="file", action="export", record="3", field="counts")
    names = {row["name"] for row in redcap.ask("biobank/north", "fileRepository", action="list")}
    assert "North only" in names and "Staff" not in names
    groups = redcap.ask("biobank", "dag")
    assert groups[0] == {"data_access_group_name": "Site north", "unique_group_name": "site_north"}
    row = redcap.ask("biobank", "record", records=["3"], fields=["record_id"], exportDataAccessGroups="True")[0]
    assert row == {"record_id": "3", "redcap_data_access_group": "site_south"}
    assert "redcap_data_access_group" not in redcap.ask("biobank/north", "record", exportDataAccessGroups="1")[0]


def test_a_bad_content_and_a_call_without_a_project_for_it(redcap: Redcap) -> None:
    text = 'The value of the parameter "content" is not valid'
    assert redcap.refusal(400, "biobank", content="nonsense") == text
    for content, what in (("arm", "arms"), ("event", "events"), ("formEventMapping", "form/event mappings")):
        wanted = f"You cannot export {what} for classic projects"
        assert redcap.refusal(400, "biobank", content=content) == wanted
    assert "does not contain any repeating" in redcap.refusal(400, "biobank", content="repeatingFormsEvents")


def test_who_asks_too_often_is_banned_until_an_administrator_lifts_it(redcap: Redcap) -> None:
    redcap.switch(requests_per_minute=3)
    statuses = [redcap.post("biobank", content="version").status_code for _ in range(6)]
    assert statuses == [200, 200, 200, 403, 403, 403]
    redcap.switch(requests_per_minute=600)
    answer = redcap.post("biobank", content="version")
    assert (answer.status_code, "retry-after" in answer.headers) == (403, False)
    redcap.switch(requests_per_minute=0)
    assert redcap.post("biobank", content="version").status_code == 200


def test_a_loaded_server_answers_200_and_nothing_or_a_page(redcap: Redcap) -> None:
    redcap.switch(empty_answers=1)
    answer = redcap.post("biobank", content="version")
    assert (answer.status_code, answer.content) == (200, b"")
    assert redcap.post("biobank", content="version").text == "16.1.3"
    redcap.switch(memory_rows=2)
    answer = redcap.post("biobank", content="record", format="json")
    assert (answer.status_code, answer.headers["content-type"][:9]) == (200, "text/html")
    assert '{"error":"REDCap ran out of server memory.' in answer.text


def test_faults_answer_in_the_services_own_form(redcap: Redcap, sandbox: Sandbox) -> None:
    sandbox.faults({"action": "status", "service": "redcap", "argument": 503})
    answer = redcap.post("biobank", content="version")
    assert (answer.status_code, list(answer.json())) == (503, ["error"])
    assert redcap.post("biobank", content="version").status_code == 200


# -- what a project tells ------------------------------------------------------------------------------------


def test_a_project_is_one_object_of_numbers_and_texts(redcap: Redcap) -> None:
    project = redcap.ask("trial", "project")
    assert list(project)[:4] == ["project_id", "project_title", "creation_time", "production_time"]
    assert len(project) == 27
    assert (project["is_longitudinal"], project["has_repeating_instruments_or_events"]) == (1, 1)
    assert isinstance(project["project_id"], int)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", project["creation_time"])
    assert redcap.ask("empty", "project")["project_title"] == redcap.ask("plates", "project")["project_title"]


def test_the_dictionary_begins_with_the_primary_key(redcap: Redcap) -> None:
    rows = redcap.ask("biobank", "metadata")
    assert (rows[0]["field_name"], len(rows[0])) == ("record_id", 18)
    assert all(isinstance(value, str) for row in rows for value in row.values())
    signed = [row["field_name"] for row in rows if row["text_validation_type_or_show_slider_number"] == "signature"]
    assert signed == ["consent_signature"]
    assert [row["form_name"] for row in redcap.ask("biobank", "metadata", forms=["laboratory"])] == ["laboratory"] * 4
    names = redcap.ask("biobank", "exportFieldNames", field="stains")
    assert names[1] == {"original_field_name": "stains", "choice_value": "2", "export_field_name": "stains___2"}
    forms = redcap.ask("biobank", "instrument")
    assert forms[0] == {"instrument_name": "intake", "instrument_label": "Intake"}


def test_events_forms_and_what_repeats(redcap: Redcap) -> None:
    event = redcap.ask("trial", "event")[0]
    assert list(event) == ["event_name", "arm_num", "unique_event_name", "custom_event_label", "event_id"]
    assert [e["unique_event_name"] for e in redcap.ask("trial", "event", arms=["2"])] == ["baseline_arm_2"]
    assert redcap.ask("trial", "arm") == [{"arm_num": 1, "name": "Arm 1"}, {"arm_num": 2, "name": "Arm 2"}]
    mapping = redcap.ask("trial", "formEventMapping")
    assert {"arm_num": 1, "unique_event_name": "baseline_arm_1", "form": "imaging"} in mapping
    repeating = redcap.ask("trial", "repeatingFormsEvents")
    assert {"event_name": "visit_arm_1", "form_name": "", "custom_form_label": ""} in repeating
    assert redcap.ask("plates", "repeatingFormsEvents") == [{"form_name": "run", "custom_form_label": ""}]


def test_users_and_what_they_may(redcap: Redcap) -> None:
    users = {user["username"]: user for user in redcap.ask("biobank", "user")}
    assert (users["reader"]["api_import"], users["ada"]["api_import"], len(users)) == (0, 1, 8)
    assert [user["username"] for user in redcap.ask("biobank/reader", "user")] == ["reader"]


# -- changes -------------------------------------------------------------------------------------------------


def test_a_changed_record_is_found_by_date_and_in_the_log(redcap: Redcap) -> None:
    record = redcap.record()
    redcap.put("biobank", "a.txt", b"a", record=record, field="counts")
    (log,) = redcap.rows("SELECT max(happened) AS last FROM redcap_log")
    (row,) = redcap.rows("SELECT * FROM redcap_records WHERE name = ?", record)
    assert row["modified"] <= log["last"]
    lines = redcap.ask("biobank", "log", logtype="record", record=record)
    assert [line["action"] for line in lines] == [f"Update record (API) {record}", f"Create record (API) {record}"]
    (number,) = redcap.ask("biobank", "record", records=[record], fields=["counts"], type="eav")
    assert lines[0]["details"] == f"counts = '{number['value']}'"
    assert list(lines[0]) == ["timestamp", "username", "action", "details", "record"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", lines[0]["timestamp"])
    begin = redcap.ask("biobank", "record", dateRangeBegin="2026-06-01 00:00:00", fields=["record_id"])
    assert record in {row["record_id"] for row in begin} and "1" not in {row["record_id"] for row in begin}
    end = redcap.ask("biobank", "record", dateRangeEnd="2026-06-01 00:00:00", fields=["record_id"])
    assert "1" in {row["record_id"] for row in end} and record not in {row["record_id"] for row in end}
    redcap.refusal(400, "biobank", content="record", dateRangeBegin="soon")
    redcap.refusal(400, "biobank", content="log", logtype="nonsense")


def test_whether_an_upload_changes_its_record_is_a_switch(redcap: Redcap) -> None:
    record = redcap.record()

    def changed() -> bool:
        before = redcap.rows("SELECT modified FROM redcap_records WHERE name = ?", record)
        redcap.put("biobank", "a.txt", b"a", record=record, field="counts")
        return before != redcap.rows("SELECT modified FROM redcap_records WHERE name = ?", record)

    assert changed()
    redcap.switch(upload_modifies=False)
    assert not changed()


def test_times_are_the_servers_own(redcap: Redcap) -> None:
    def created() -> str:
        return str(redcap.ask("biobank", "project")["creation_time"])

    assert created().startswith("2026-03-02 03:4")
    redcap.switch(zone_hours=2.0)
    assert created().startswith("2026-03-02 11:4")
