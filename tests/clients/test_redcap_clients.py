"""REDCap's stand-in proved by two clients that other people wrote, PyCap and redcaplite."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redcap_stage import Redcap, opened
from stage import Sandbox

FIELD_ERROR = "The field 'mugshott' does not exist or is not a 'file' field"

pytestmark = pytest.mark.timeout(600)  # the first run installs them


@pytest.fixture
def redcap(sandbox: Sandbox) -> Iterator[Redcap]:
    with opened(sandbox) as redcap:
        yield redcap


def client(redcap_python: Path, redcap: Redcap, alias: str, code: str, cwd: Path) -> Any:
    """Run a client's code, which finds `url` and `token` and sets `result`; return that."""
    script = f"import json\nurl, token = {redcap.url!r}, {redcap.tokens[alias]!r}\n{code}\nprint()\nprint(json.dumps(result))"
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [redcap_python, "-c", script], capture_output=True, text=True, timeout=90, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


PYCAP_READS = """
from redcap import Project
p = Project(url, token)
result = dict(
    fields=p.field_names, forms=sorted(p.forms), key=p.def_field, longitudinal=p.is_longitudinal,
    version=str(p.export_version()), project=p.export_project_info(), instruments=p.export_instruments(),
    records=p.export_records(fields=["image", "reads"], records=["1"]),
    eav=p.export_records(fields=["reads"], record_type="eav"),
    csv=p.export_records(format_type="csv", fields=["initials"], records=["2"]),
    frame=p.export_records(format_type="df").shape,
    events=p.export_events(arms=["1"]), mapping=p.export_instrument_event_mappings(), arms=p.export_arms(),
    repeating=p.export_repeating_instruments_events(), names=p.export_field_names(), users=p.export_users(),
    metadata=p.export_metadata(format_type="df").shape, log=p.export_logging()[0], dags=p.export_dags(),
    next=p.generate_next_record_name(),
)
"""


def test_pycap_reads_a_longitudinal_project(redcap: Redcap, redcap_python: Path, tmp_path: Path) -> None:
    found = client(redcap_python, redcap, "trial", PYCAP_READS, tmp_path)
    assert (found["key"], found["longitudinal"], found["version"]) == ("record_id", True, "16.1.3")
    assert (found["forms"], found["metadata"]) == (["enrolment", "imaging", "sequencing"], [6, 17])
    assert [row["image"] for row in found["records"]] == ["", "scan.png", "scan.png", "", ""]
    assert [row["redcap_repeat_instance"] for row in found["records"]] == ["", 1, 2, 1, 2]
    assert all(row["value"].isdigit() for row in found["eav"] if row["field_name"] == "reads")
    assert found["csv"].splitlines()[1] == '2,baseline_arm_1,,,"A. B."'
    assert [event["unique_event_name"] for event in found["events"]] == ["baseline_arm_1", "visit_arm_1"]
    assert (len(found["mapping"]), len(found["arms"]), len(found["repeating"])) == (4, 2, 2)
    assert (found["project"]["project_title"], found["dags"]) == ("Treatment response", [])
    assert found["users"][0]["username"] == "ada"


PYCAP_FILES = """
import io
from redcap import Project, RedcapError
p = Project(url, token)
errors = []
def fails(call, **options):
    try:
        call(**options)
    except (RedcapError, ValueError) as error:
        errors.append(type(error).__name__ + " " + str(error))
slot = dict(record=RECORD, field="counts")
result = dict(
    longitudinal=p.is_longitudinal,
    count=p.import_records([{"record_id": RECORD, "sample_name": "S", "stains___1": "1"}]),
    put=p.import_file(file_name="Größe.txt", file_object=io.BytesIO(b"one"), **slot),
    again=p.import_file(file_name="myupload.txt", file_object=io.BytesIO(b"test upload"), **slot),
)
content, headers = p.export_file(**slot)
result.update(content=content.decode(), headers=headers)
p.import_file(record=RECORD, field="slide_image", file_name="s.png", file_object=io.BytesIO(b"png"))
result.update(deleted=p.delete_file(record=RECORD, field="slide_image"))
fails(p.export_file, record=RECORD, field="slide_image")
fails(p.export_file, record="nobody", field="counts")
fails(p.export_file, record=RECORD, field="tissue")
fails(p.import_records, to_import=[{"record_id": RECORD, "nonsense": "1"}])
fails(p.export_records, fields=["nonsense"])
# This client says nothing of a refusal.
result.update(silent=p.import_file(record=RECORD, field="variants", file_name="x.exe", file_object=io.BytesIO(b"MZ")))
result.update(errors=errors)
"""


def test_pycap_saves_reads_replaces_and_deletes_files(redcap: Redcap, redcap_python: Path, tmp_path: Path) -> None:
    record = f"T-{secrets.token_hex(4)}"
    found = client(redcap_python, redcap, "biobank", PYCAP_FILES.replace("RECORD", repr(record)), tmp_path)
    assert (found["longitudinal"], found["count"]) == (False, {"count": 1})
    assert (found["content"], found["headers"]) == ("test upload", {"name": "myupload.txt", "charset": "UTF-8"})
    assert redcap.stored(record) == {("counts", 1): ("myupload.txt", b"test upload")}
    assert found["put"] == found["again"] == found["deleted"] == found["silent"] == [{}]
    wanted = ("There is no file to download", 'The record "nobody" does not exist', "not a 'file' field",
              "nonsense", "are not valid")  # fmt: skip
    assert len(found["errors"]) == len(wanted)
    assert all(part in error for part, error in zip(wanted, found["errors"], strict=True))


PYCAP_EVENTS = """
import io
from redcap import Project
p = Project(url, token)
p.import_records([{"record_id": RECORD, "redcap_event_name": "baseline_arm_1", "initials": "X"}])
slot = dict(record=RECORD, field="image", event="baseline_arm_1", repeat_instance=3)
p.import_file(file_name="i.png", file_object=io.BytesIO(b"third"), **slot)
p.import_file(record=RECORD, field="reads", event="visit_arm_1", file_name="r.gz", file_object=io.BytesIO(b"reads"))
result = p.export_file(**slot)[0].decode()
p.delete_file(record=RECORD, field="reads", event="visit_arm_1")
"""


def test_pycap_addresses_events_and_instances(redcap: Redcap, redcap_python: Path, tmp_path: Path) -> None:
    record = f"T-{secrets.token_hex(4)}"
    found = client(redcap_python, redcap, "trial", PYCAP_EVENTS.replace("RECORD", repr(record)), tmp_path)
    assert found == "third"
    assert redcap.stored(record) == {("image", 3): ("i.png", b"third")}


PYCAP_REPOSITORY = """
import io
from redcap import Project, RedcapError
p = Project(url, token)
folder = p.create_folder_in_repository(NAME)[0]["folder_id"]
for data in (b"one", b"two"):
    p.import_file_into_repository("same.txt", io.BytesIO(data), folder_id=folder)
files = p.export_file_repository(folder_id=folder)
content, headers = p.export_file_from_repository(files[0]["doc_id"])
p.delete_file_from_repository(files[0]["doc_id"])
try:
    p.export_file_repository(folder_id=1)
except RedcapError as error:
    problem = str(error)
result = dict(folder=folder, files=files, content=content.decode(), headers=headers, problem=problem,
              root=p.export_file_repository(format_type="csv", return_format_type="csv"),
              mistaken=p.export_file_from_repository(files[0]["doc_id"])[0].decode())
"""


def test_pycap_keeps_a_repository(redcap: Redcap, redcap_python: Path, tmp_path: Path) -> None:
    name = f"T-{secrets.token_hex(4)}"
    found = client(redcap_python, redcap, "biobank", PYCAP_REPOSITORY.replace("NAME", repr(name)), tmp_path)
    assert [file["name"] for file in found["files"]] == ["same.txt", "same.txt"]
    assert (found["content"], found["headers"]["name"]) == ("one", "same.txt")
    assert "folder_id=1 does not exist" in found["problem"]
    assert found["mistaken"].startswith('{"error": '), "this client takes an error for the file"
    assert f"{found['folder']},,{name},," in found["root"].splitlines()
    assert redcap.shelved(found["folder"]) == [("same.txt", b"two")]


REDCAPLITE = """
import os
from json import JSONDecodeError
from redcaplite import RedcapClient
c = RedcapClient(url, token)
errors = []
def fails(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        errors.append(type(error).__name__ + " " + str(error))
open("größe.txt", "wb").write(b"one")
open("plate.csv", "wb").write(b"a,b\\n")
open("x.exe", "wb").write(b"MZ")
os.mkdir("back")
result = dict(
    ids=c.import_records(data=[{"record_id": RECORD, "sample_name": "S"}]),
    records=c.export_records(records=[RECORD], fields=["record_id", "sample_name"]).to_dict("records"),
    metadata=c.get_metadata().shape, instruments=len(c.get_instruments()), version=c.get_version(),
    project=c.get_project()["project_title"], names=len(c.get_field_names()), logs=list(c.get_logs().columns),
)
slot = dict(record=RECORD, field="counts")
c.import_file("größe.txt", **slot)
c.import_file("plate.csv", **slot)
c.get_file(file_dictionary="back", **slot)
result.update(back=open("back/plate.csv").read())
c.import_file("plate.csv", record=RECORD, field="variants")
fails(c.delete_file, record=RECORD, field="variants")
fails(c.get_file, record=RECORD, field="variants")
fails(c.get_file, record=RECORD, field="mugshott")
fails(c.import_file, "x.exe", **slot)
fails(c.get_events)
folder = c.create_folder_file_repository(name=RECORD)[0]["folder_id"]
c.import_file_repository("plate.csv", folder_id=folder)
c.import_file_repository("plate.csv", folder_id=folder)
files = c.list_file_repository(folder_id=folder)
c.export_file_repository(doc_id=files[0]["doc_id"], file_dictionary="back")
fails(c.delete_file_repository, doc_id=files[0]["doc_id"])
fails(RedcapClient(url, "0" * 32).get_version)
result.update(folder=folder, files=files, errors=errors)
"""


def test_redcaplite_works_throughout(redcap: Redcap, redcap_python: Path, tmp_path: Path) -> None:
    record = f"T-{secrets.token_hex(4)}"
    found = client(redcap_python, redcap, "biobank", REDCAPLITE.replace("RECORD", repr(record)), tmp_path)
    assert (found["ids"], found["records"]) == ([record], [{"record_id": record, "sample_name": "S"}])
    assert (found["metadata"], found["project"], found["back"]) == ([11, 18], "Tumour biobank 2026", "a,b\n")
    assert found["logs"] == ["timestamp", "username", "action", "details", "record"]
    assert redcap.stored(record) == {("counts", 1): ("plate.csv", b"a,b\n")}, "deleted, although it raised an error"
    assert redcap.shelved(found["folder"]) == [("plate.csv", b"a,b\n")], "deleted, although it raised an error"
    wanted = ("JSONDecodeError", "There is no file to download", FIELD_ERROR, "not allowed",
              "You cannot export events", "JSONDecodeError", "Forbidden")  # fmt: skip
    assert len(found["errors"]) == len(wanted)
