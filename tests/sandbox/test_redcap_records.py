"""REDCap's stand-in by plain requests: rows out and rows in."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from redcap_stage import Redcap, opened
from stage import Sandbox


@pytest.fixture
def redcap(sandbox: Sandbox) -> Iterator[Redcap]:
    with opened(sandbox) as redcap:
        yield redcap


# -- rows out ------------------------------------------------------------------------------------------------


def test_flat_rows_show_names_of_files_and_triples_their_numbers(redcap: Redcap) -> None:
    fields = ["record_id", "slide_image"]
    flat = redcap.ask("biobank", "record", fields=fields, records=["1", "3"])
    assert flat == [{"record_id": "1", "slide_image": "S1 H&E.png"}, {"record_id": "3", "slide_image": ""}]
    triples = redcap.ask("biobank", "record", fields=["slide_image"], type="eav")
    assert [list(triple) for triple in triples] == [["record", "field_name", "value"]] * 2, "only what is not empty"
    assert all(triple["value"].isdigit() for triple in triples)
    redcap.switch(file_value="document")
    assert redcap.ask("biobank", "record", fields=fields, records=["1"])[0]["slide_image"] == "[document]"


def test_rows_of_events_and_instances_and_their_types(redcap: Redcap) -> None:
    rows = redcap.ask("trial", "record", records=["1"], fields=["record_id", "image", "reads"])
    keys = [(r["redcap_event_name"], r["redcap_repeat_instrument"], r["redcap_repeat_instance"]) for r in rows]
    assert keys == [("baseline_arm_1", "", ""), ("baseline_arm_1", "imaging", 1), ("baseline_arm_1", "imaging", 2),
                    ("visit_arm_1", "", 1), ("visit_arm_1", "", 2)]  # fmt: skip
    assert rows[1]["image"] == rows[2]["image"] == "scan.png"
    assert [r["record_id"] for r in redcap.ask("trial", "record", events=["baseline_arm_2"])] == ["7"]
    triple = redcap.ask("trial", "record", type="eav", fields=["reads"])[1]
    assert (triple["redcap_repeat_instance"], triple["redcap_event_name"]) == (2, "visit_arm_1")
    columns = redcap.post("trial", content="record", type="eav", format="csv").text.split("\n")[0]
    assert columns == "record,redcap_event_name,redcap_repeat_instrument,redcap_repeat_instance,field_name,value"
    redcap.switch(eav_identity_last=True)
    columns = redcap.post("trial", content="record", type="eav", format="csv").text.split("\n")[0]
    assert columns.startswith("record,field_name,value,redcap_event_name")
    # Without the primary key a row does not tell whose it is.
    assert list(redcap.ask("trial", "record", fields=["image"])[0]) == ["image"]
    redcap.switch(identity_without_key=True)
    assert len(redcap.ask("trial", "record", fields=["image"])[0]) == 4


def test_an_unknown_field_in_an_array_is_an_error_and_in_a_comma_list_no_filter(redcap: Redcap) -> None:
    text = redcap.refusal(400, "biobank", content="record", fields=["record_id", "x"])
    assert text == "The following values in the parameter \"fields\" are not valid: 'x'"
    redcap.switch(quoted_parameter=False)
    text = redcap.refusal(400, "trial", content="record", fields=["redcap_event_name"])
    assert text == "The following values in the parameter fields are not valid: 'redcap_event_name'"
    assert len(redcap.ask("biobank", "record", fields="record_id,counts")[0]) == 2
    assert len(redcap.ask("biobank", "record", fields="record_id,x")[0]) > 10
    redcap.switch(bad_comma_list="refuse")
    redcap.refusal(400, "biobank", content="record", fields="record_id,x")


def test_rows_in_csv_and_xml_and_nothing_at_all(redcap: Redcap) -> None:
    answer = redcap.post("biobank", content="record", format="csv", fields=["record_id", "slide_image"], records=["1"])
    assert (answer.text, answer.headers["content-type"]) == (
        'record_id,slide_image\n1,"S1 H&E.png"\n', "text/csv; charset=utf-8",
    )  # fmt: skip
    root = ElementTree.fromstring(
        redcap.post("biobank", content="record", fields=["record_id", "tissue"], records=["1"]).text
    )
    assert (root.tag, root[0].find("record_id").text, root[0].find("tissue").text) == ("records", "1", "2")
    assert redcap.ask("empty", "record") == []
    assert redcap.post("empty", content="record", format="csv").content == b""


def test_records_sort_as_numbers_or_as_texts(redcap: Redcap) -> None:
    def order() -> list[str]:
        rows = redcap.ask("biobank", "record", fields=["record_id"], records=["1", "2", "3", "10"])
        return [row["record_id"] for row in rows]

    assert order() == ["1", "2", "3", "10"]
    redcap.switch(record_order="text")
    assert order() == ["1", "10", "2", "3"]


def test_labels_and_filters(redcap: Redcap) -> None:
    row = redcap.ask("biobank", "record", records=["1"], rawOrLabel="label")[0]
    assert (row["tissue"], row["stains___1"], row["stains___2"]) == ("Lung", "Checked", "Unchecked")
    assert row["intake_complete"] == "Incomplete"
    found = redcap.ask("biobank", "record", filterLogic="[sample_name] = 'S10' or [tissue] > 2", fields=["record_id"])
    assert found == [{"record_id": "10"}]
    redcap.refusal(400, "biobank", content="record", filterLogic="[tissue")
    redcap.refusal(400, "biobank", content="record", filterLogic="[nonsense] = 1")


def test_all_rows_of_a_large_project_come_at_once(redcap: Redcap) -> None:
    rows = redcap.ask("wells", "record", fields=["record_id", "table"])
    assert (len(rows), rows[-1]) == (5000, {"record_id": "5000", "table": "well-4999.csv"})


def test_seeded_names_are_as_odd_as_real_ones(redcap: Redcap) -> None:
    names = {row["record_id"]: row["attachment"] for row in redcap.ask("odd", "record")}
    assert {"..", ".", "a/b", "two\nlines.txt", "caf\u00e9.txt", "cafe\u0301.txt"} <= set(names.values())
    assert {"..", ".", "a/b"} <= set(names)
    for record, name in names.items():
        if record != "R 3":
            data = redcap.file("export", "odd", record=record, field="attachment").content
            assert data == f"content of {name!r}\n".encode()


# -- rows in -------------------------------------------------------------------------------------------------


def test_rows_come_in_as_json_csv_xml_and_triples(redcap: Redcap) -> None:
    names = [f"T-{secrets.token_hex(4)}" for _ in range(4)]
    data = json.dumps([{"record_id": names[0], "tissue": 1}])
    assert redcap.ask("biobank", "record", data=data) == {"count": 1}
    data = f"record_id,tissue,stains___2\n{names[1]},1,1\n"
    assert redcap.post("biobank", content="record", format="csv", data=data).text == "1"
    data = f"<records><item><record_id>{names[2]}</record_id><tissue>1</tissue></item></records>"
    assert redcap.post("biobank", content="record", data=data).text.endswith("<count>1</count>")
    data = json.dumps([{"record": names[3], "field_name": "tissue", "value": "1"}])
    assert redcap.ask("biobank", "record", data=data, type="eav", returnContent="ids") == [names[3]]
    rows = redcap.rows("SELECT record FROM redcap_values WHERE field = 'tissue' AND value = '1'")
    assert {row["record"] for row in rows} >= set(names)
    assert (
        redcap.post("biobank", content="record", format="json", data=data, type="eav", returnContent="nothing").text
        == ""
    )


def test_rows_that_are_refused_leave_nothing_behind(redcap: Redcap) -> None:
    assert redcap.refusal(406, "biobank", content="record", format="json", data="{")
    redcap.refusal(406, "biobank", content="record", format="csv", data="record_id,tissue\n1\n")
    redcap.refusal(406, "biobank", content="record", format="xml", data="<records>")
    new = f"T-{secrets.token_hex(4)}"
    data = json.dumps([{"record_id": new}, {"record_id": "1", "nonsense": "1"}])
    assert "'nonsense'" in redcap.refusal(400, "biobank", content="record", format="json", data=data)
    data = json.dumps([{"record_id": new}, {"record_id": "1", "tissue": "9"}])
    redcap.refusal(400, "biobank", content="record", format="json", data=data)
    data = json.dumps([{"record_id": new, "redcap_event_name": "visit_arm_1", "initials": "X"}])
    text = redcap.refusal(400, "trial", content="record", format="json", data=data)
    assert text.startswith(f'"{new}","initials","X","This field (\'initials\') exists on an instrument that is not')
    assert redcap.rows("SELECT * FROM redcap_records WHERE name = ?", new) == []


def test_blank_values_erase_only_when_that_is_wanted_and_files_stay(redcap: Redcap) -> None:
    record = redcap.record(sample_name="S", tissue="1")
    redcap.put("biobank", "a.txt", b"a", record=record, field="counts")
    data = json.dumps([{"record_id": record, "sample_name": "", "counts": "b.txt"}])
    redcap.ask("biobank", "record", data=data)
    row = redcap.ask("biobank", "record", records=[record])[0]
    assert (row["sample_name"], row["counts"]) == ("S", "a.txt")
    redcap.ask("biobank", "record", data=data, overwriteBehavior="overwrite")
    row = redcap.ask("biobank", "record", records=[record])[0]
    assert (row["sample_name"], row["counts"]) == ("", "a.txt")
    redcap.switch(file_value_import="refuse")
    redcap.refusal(400, "biobank", content="record", format="json", data=data)


def test_records_are_numbered_renamed_and_deleted(redcap: Redcap) -> None:
    number = redcap.post("plates", content="generateNextRecordName").text
    data = json.dumps([{"record_id": "x", "label": "new"}])
    made = redcap.ask("plates", "record", data=data, forceAutoNumber="true", returnContent="auto_ids")
    assert made == [f"{number},x"]
    redcap.put("plates", "f", b"f", record=number, field="raw")
    new = f"T-{secrets.token_hex(4)}"
    fields = {"content": "record", "action": "rename", "record": number, "new_record_name": new}
    assert redcap.post("plates", **fields).text == "1"
    assert redcap.stored(new) == {("raw", 1): ("f", b"f")}
    assert number not in {row["record_id"] for row in redcap.ask("plates", "record")}
    assert redcap.ask("plates", "record", action="delete", records=[new]) == 1
    assert "do not exist" in redcap.refusal(400, "plates", content="record", action="delete", records=[new])
    redcap.refusal(403, "biobank/reader", content="record", action="delete", records=["1"])


def test_one_instance_can_be_deleted(redcap: Redcap) -> None:
    record = redcap.record("plates")
    for instance in (1, 2):
        redcap.put("plates", "f", b"f", record=record, field="run_table", repeat_instance=instance)
    redcap.ask("plates", "record", action="delete", records=[record], instrument="run", repeat_instance=1)
    assert list(redcap.stored(record)) == [("run_table", 2)]
