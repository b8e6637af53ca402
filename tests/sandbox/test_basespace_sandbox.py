"""The BaseSpace stand-in: what recorded traffic shows beside the guide, and the switches for what others meet."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from stage import Folder, Sandbox

from labfs.sandbox.basespace.ids import ALLOCATORS, BLOCK, Ids
from labfs.sandbox.basespace.shelf import SCHEMA
from labfs.sandbox.basespace.switches import Switches
from labfs.sandbox.blobs import Blobs
from labfs.sandbox.store import Store

MIB = 1024 * 1024
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.(\d{7})Z")
ALL = {"Limit": "1024"}


@pytest.fixture
def behind(sandbox: Sandbox) -> Folder:
    return sandbox.fresh()


def dates(found: Any) -> list[str]:
    """Return the digits behind the second of each date in an answer."""
    if isinstance(found, dict):
        return [digits for value in found.values() for digits in dates(value)]
    if isinstance(found, list):
        return [digits for value in found for digits in dates(value)]
    match = DATE.fullmatch(found) if isinstance(found, str) else None
    return [match[1]] if match else []


def address(sandbox: Sandbox, file: str) -> str:
    return str(sandbox.api("GET", f"files/{file}/content", params={"redirect": "meta"})["HrefContent"])


def multipart(sandbox: Sandbox, record: str, *parts: bytes) -> tuple[str, list[str]]:
    """Upload a file in parts; return its id, and the tags of the receipts."""
    params, headers = {"name": "big", "multipart": "true"}, {"Content-Type": "a/b"}
    file = sandbox.api("POST", f"appresults/{record}/files", params=params, headers=headers)["Id"]
    tags = [
        sandbox.api("PUT", f"files/{file}/parts/{number}", content=part, headers={"Content-MD5": md5(part)})["ETag"]
        for number, part in enumerate(parts, 1)
    ]
    sandbox.api("POST", f"files/{file}", params={"uploadstatus": "complete"})
    return file, tags


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


# -- ids -------------------------------------------------------------------------------------------------


def ids_in(directory: Path, kind: str) -> Ids:
    store = Store(directory)
    store.script(SCHEMA)
    return Ids(store, Switches(ids=kind))


def inverted(numbers: list[int]) -> int:
    return sum(later < earlier for earlier, later in pairwise(numbers))


def test_ids_come_from_the_blocks_of_several_allocators(tmp_path: Path) -> None:
    ids = ids_in(tmp_path, "blocks")
    numbers = [ids.next("files", 1)[0] for _ in range(4 * ALLOCATORS * BLOCK)]
    assert len(set(numbers)) == len(numbers)
    assert 0.3 < inverted(numbers[:100]) / 100 < 0.45, "18 of 51 in the recordings"
    assert inverted(numbers[-100:]) / 100 > 0.3, "and so it goes on"
    assert max(numbers) < 5 * ALLOCATORS * BLOCK, "blocks are used up"
    other = tmp_path / "other"
    assert [ids_in(other, "blocks").next("files", 1)[0]] == numbers[:1], "a run can be repeated"


def test_no_id_is_given_twice_by_any_order_or_after_a_restart(tmp_path: Path) -> None:
    numbers: list[int] = []
    for kind in ("blocks", "swapped", "growing", "blocks", "swapped", "blocks"):
        ids = ids_in(tmp_path, kind)
        numbers += [ids.next("files", 1)[0] for _ in range(333)]
    assert len(set(numbers)) == len(numbers)


def test_growing_ids_are_above_all_others_and_swapped_ones_come_in_pairs(tmp_path: Path) -> None:
    ids_in(tmp_path, "blocks").next("files", 1)
    growing = ids_in(tmp_path, "growing")
    numbers = [growing.next("files", 1)[0] for _ in range(10)]
    assert (inverted(numbers), numbers[0] > ALLOCATORS * BLOCK) == (0, True)
    swapped = ids_in(tmp_path, "swapped")
    for parent in (1, 2):
        one, two, three, four = (swapped.next("files", parent)[0] for _ in range(4))
        assert numbers[-1] < two < one < four < three
        swapped.next("files", parent)  # one of a pair, which does not matter to the next parent


def test_a_store_of_an_older_version_goes_on_above_its_ids(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.script("CREATE TABLE files (id INTEGER PRIMARY KEY AUTOINCREMENT, record INTEGER, name TEXT, path TEXT,"
                 " type TEXT, size INTEGER, etag TEXT, status TEXT, archived INTEGER DEFAULT 0, created REAL,"
                 " modified REAL, blob TEXT, key TEXT)")  # fmt: skip
    store.script("CREATE TABLE objects (key TEXT PRIMARY KEY, blob TEXT, etag TEXT, modified REAL)")
    store.run("INSERT INTO files (id, record, path) VALUES (700, 1, 'old')")
    from labfs.sandbox.basespace.shelf import Shelf

    for _ in range(2):  # adding the columns twice is no error
        shelf = Shelf(store, Blobs(store, b"secret"), Switches())
    assert shelf.add_file(1, "new", store.put(b"x"), 1, "0" * 32, "a/b") > 700
    assert [row["path"] for row in store.all("SELECT path FROM files ORDER BY made")] == ["old", "new"]


def test_neighbours_get_inverted_ids_and_lists_are_sorted_by_them(sandbox: Sandbox, behind: Folder) -> None:
    files = [int(behind.put(f"f{index}", b"x")) for index in range(30)]
    project = sandbox.project(f"Many {behind.record}")
    records = [int(sandbox.record(project, f"r{index}")) for index in range(30)]
    projects = [int(sandbox.project(f"p{index} {behind.record}")) for index in range(30)]
    for made, path in [(files, f"appresults/{behind.record}/files"), (records, f"projects/{project}/appresults"),
                       (projects, "users/current/projects")]:  # fmt: skip
        assert 3 < inverted(made) < 27
        listed = [int(item["Id"]) for item in sandbox.api("GET", path, params={**ALL, "SortBy": "Id"})["Items"]]
        assert (sorted(listed), set(made) <= set(listed)) == (listed, True)
    sessions = [int(item["Id"]) for item in sandbox.api("GET", "users/current/appsessions", params=ALL)["Items"]]
    assert sessions == sorted(sessions)
    assert [row["id"] for row in sandbox.rows(behind.record)] == files, "in the order in which they were made"


def test_two_saves_can_be_swapped_for_sure(sandbox: Sandbox, behind: Folder) -> None:
    sandbox.switch(ids="swapped")
    first, second = behind.put("f", b"first"), behind.put("f", b"second")
    assert int(second) == int(first) - 1
    assert behind.stored == {"f": b"second"}
    sandbox.switch(ids="growing")
    assert int(first) < int(behind.put("f", b"third")) < int(multipart(sandbox, behind.record, b"x")[0])


# -- dates -----------------------------------------------------------------------------------------------


def test_dates_have_whole_seconds_and_only_the_end_of_an_address_has_more(sandbox: Sandbox, behind: Folder) -> None:
    file = behind.put("f", b"x")
    session = sandbox.api("GET", f"appresults/{behind.record}")["AppSession"]["Id"]
    paths = [f"files/{file}", f"appresults/{behind.record}", f"appresults/{behind.record}/files",
             f"appsessions/{session}", "users/current/projects", "users/current/appsessions"]  # fmt: skip
    for path in paths:
        assert set(dates(sandbox.api("GET", path))) == {"0000000"}
    until = sandbox.api("GET", f"files/{file}/content", params={"redirect": "meta"})["Expires"]
    assert dates(until) != ["0000000"]
    sandbox.switch(date_digits=7)
    assert all(set(dates(sandbox.api("GET", path))) != {"0000000"} for path in paths)


def test_dates_within_a_second_are_a_tie_that_the_id_breaks(sandbox: Sandbox, behind: Folder) -> None:
    sandbox.switch(ids="swapped")
    while time.time() % 1 > 0.5:
        time.sleep(0.01)
    first, second = behind.put("b", b"first"), behind.put("a", b"second")
    project = sandbox.api("GET", f"appresults/{behind.record}")["Projects"][0]["Id"]

    def listed(by: str, direction: str, path: str = f"appresults/{behind.record}/files") -> list[str]:
        params = {**ALL, "SortBy": by, "SortDir": direction}
        found = sandbox.api("GET", path, params=params)
        assert (found["SortBy"], found["SortDir"]) == (by, direction)
        return [item["Id"] for item in found["Items"]]

    assert [listed("DateCreated", way) for way in ("Asc", "Desc", "Asc")] == [[second, first]] * 3
    assert listed("Path", "Asc") == [second, first]
    assert listed("Path", "Desc") == [first, second]
    sandbox.switch(date_digits=7)
    assert listed("DateCreated", "Asc") == [first, second]
    assert listed("DateCreated", "Desc") == [second, first]
    one, two = sandbox.record(project, "b"), sandbox.record(project, "a")
    for path, made in [(f"projects/{project}/appresults", [one, two]), ("users/current/projects", [project])]:
        assert listed("DateCreated", "Desc", path)[: len(made)] == made[::-1]


# -- what a tag proves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kms", [True, "silent"])
def test_under_kms_a_tag_looks_like_an_md5_and_is_none(sandbox: Sandbox, behind: Folder, kms: bool | str) -> None:
    sandbox.switch(kms=kms)
    one, two = (sandbox.api("GET", f"files/{behind.put('f', b'same')}")["ETag"] for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", one)
    assert len({one, two, hashlib.md5(b"same").hexdigest()}) == 3, "the same bytes get another tag each time"
    big, tags = multipart(sandbox, behind.record, bytes(5 * MIB), b"end")
    assert all(re.fullmatch("[0-9a-f]{32}", tag) for tag in tags)
    assert not {hashlib.md5(part).hexdigest() for part in (bytes(5 * MIB), b"end")} & set(tags)
    whole = sandbox.api("GET", f"files/{big}")["ETag"]
    outer = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in (bytes(5 * MIB), b"end"))).hexdigest()
    assert re.fullmatch("[0-9a-f]{32}-2", whole)
    assert whole != f"{outer}-2"
    with pytest.raises(httpx.HTTPStatusError):
        multipart_with_wrong_md5(sandbox, behind.record)
    sandbox.switch(kms=False)  # what is stored keeps its tag, and says how it is encrypted
    blob = httpx.get(address(sandbox, big), headers={"If-Match": f'"{whole}"'})
    assert (blob.content, blob.headers["etag"]) == (bytes(5 * MIB) + b"end", f'"{whole}"')
    assert blob.headers.get("x-amz-server-side-encryption") == ("aws:kms" if kms is True else None)
    assert ("x-amz-server-side-encryption-aws-kms-key-id" in blob.headers) is (kms is True)
    plain = httpx.get(address(sandbox, behind.put("plain", b"same")))
    assert plain.headers["etag"] == f'"{hashlib.md5(b"same").hexdigest()}"'
    assert plain.headers["x-amz-server-side-encryption"] == "AES256"


def multipart_with_wrong_md5(sandbox: Sandbox, record: str) -> None:
    params, headers = {"name": "f", "multipart": "true"}, {"Content-Type": "a/b"}
    file = sandbox.api("POST", f"appresults/{record}/files", params=params, headers=headers)["Id"]
    sandbox.api("PUT", f"files/{file}/parts/1", content=b"x", headers={"Content-MD5": md5(b"y")})


def test_a_multipart_upload_is_encrypted_as_it_was_begun(sandbox: Sandbox, behind: Folder) -> None:
    params, headers = {"name": "f", "multipart": "true"}, {"Content-Type": "a/b"}
    file = sandbox.api("POST", f"appresults/{behind.record}/files", params=params, headers=headers)["Id"]
    sandbox.switch(kms=True)
    part = sandbox.api("PUT", f"files/{file}/parts/1", content=b"x")
    assert part["ETag"] == hashlib.md5(b"x").hexdigest()
    sandbox.api("POST", f"files/{file}", params={"uploadstatus": "complete"})
    assert httpx.get(address(sandbox, file)).headers["x-amz-server-side-encryption"] == "AES256"


# -- the blob origin -------------------------------------------------------------------------------------


def test_the_blob_origin_ignores_a_token_unless_a_switch_refuses_it(sandbox: Sandbox, behind: Folder) -> None:
    url = address(sandbox, behind.put("f", b"bytes"))
    sent: list[dict[str, Any]] = [
        {"headers": {"x-access-token": sandbox.token}},
        {"params": {**httpx.URL(url).params, "access_token": sandbox.token}},
    ]
    assert [httpx.get(url, **each).content for each in sent] == [b"bytes"] * 2
    sandbox.switch(blob_tokens="refuse")
    for each in sent:
        answer = httpx.get(url, **each)
        assert (answer.status_code, b"<Code>InvalidArgument" in answer.content) == (400, True)
    assert httpx.get(url).content == b"bytes"


def test_where_the_bytes_are_is_told_with_ranges_and_an_end_in_seven_days(sandbox: Sandbox, behind: Folder) -> None:
    url, headers = f"{sandbox.url}/v1pre3/files/{behind.put('f', b'x')}/content", {"x-access-token": sandbox.token}
    answer = httpx.get(url, params={"redirect": "meta"}, headers=headers)
    assert answer.headers["accept-ranges"] == "bytes"
    (until,) = answer.headers.get_list("expires")
    left_s = parsedate_to_datetime(until).timestamp() - time.time()
    assert 7 * 86400 - 60 < left_s <= 7 * 86400
    assert answer.json()["Response"]["Expires"].startswith(f"{parsedate_to_datetime(until):%Y-%m-%dT%H:%M:%S}")


# -- lists and single things -----------------------------------------------------------------------------


def names(found: dict[str, Any]) -> list[str]:
    return sorted(item["Name"] for item in found["Items"])


def test_statuses_filter_app_results(sandbox: Sandbox) -> None:
    project = sandbox.project("Statuses")
    records = {name: sandbox.record(project, name) for name in ("open", "done", "given up")}
    for name, status in (("done", "complete"), ("given up", "aborted")):
        session = sandbox.api("GET", f"appresults/{records[name]}")["AppSession"]["Id"]
        sandbox.api("POST", f"appsessions/{session}", json={"Status": status})

    def ask(statuses: str | None) -> list[str]:
        params = {} if statuses is None else {"Statuses": statuses}
        found = sandbox.api("GET", f"projects/{project}/appresults", params=params)
        assert found["TotalCount"] == len(found["Items"])
        return names(found)

    assert ask(None) == ["done", "given up", "open"]
    assert ask("Complete") == ["done"]
    assert ask("running, ABORTED") == ["given up", "open"]
    assert ask("timedout") == []
    sandbox.switch(statuses_ignored=True)
    assert ask("Complete") == ["done", "given up", "open"]


def test_statuses_filter_files(sandbox: Sandbox, behind: Folder) -> None:
    behind.put("done", b"x")
    for name in ("half", "given up"):
        params, headers = {"name": name, "multipart": "true"}, {"Content-Type": "a/b"}
        file = sandbox.api("POST", f"appresults/{behind.record}/files", params=params, headers=headers)["Id"]
    sandbox.api("POST", f"files/{file}", params={"uploadstatus": "aborted"})

    def ask(**params: str) -> list[str]:
        return names(sandbox.api("GET", f"appresults/{behind.record}/files", params=params))

    assert (ask(), ask(statuses="complete"), ask(Statuses="pending")) == (["done"], ["done"], ["half"])
    assert ask(Statuses="Complete,Aborted") == ["done", "given up"]
    sandbox.switch(pending_listed=True)
    assert (ask(), ask(Statuses="complete")) == (["done", "half"], ["done"])
    sandbox.switch(statuses_ignored=True)
    assert ask(Statuses="complete") == ["done", "half"]


def seeded(sandbox: Sandbox, kind: str) -> list[dict[str, Any]]:
    params = {"Name": "Tumour panel 2026"}
    project = sandbox.api("GET", "users/current/projects", params=params)["Items"][0]["Id"]
    found: list[dict[str, Any]] = sandbox.api("GET", f"projects/{project}/{kind}", params=ALL)["Items"]
    return found


def test_samples_in_lists_have_reads_and_a_library_but_no_session(sandbox: Sandbox) -> None:
    listed = seeded(sandbox, "samples")
    for item in listed:
        assert "AppSession" not in item
        assert item["Read1"] == item["Read2"] > 0
        assert item["TotalReadsPF"] == 2 * item["NumReadsPF"] > 0
        assert (item["IsPairedEnd"], item["Genome"]["Build"]) == (True, "hg19")
        assert item["Library"]["BiologicalSample"]["UserSampleId"] == item["SampleId"] == item["Name"]
        assert item["ExperimentName"]
    whole = sandbox.api("GET", f"samples/{listed[0]['Id']}")
    assert (whole["AppSession"]["Status"], "Library" in whole) == ("Complete", False)
    assert whole["HrefFiles"] == f"v1pre3/samples/{whole['Id']}/files"
    sandbox.switch(sample_sessions=True)
    assert all("AppSession" in item for item in seeded(sandbox, "samples"))


def test_property_types_are_in_lower_case_and_lists_have_items(sandbox: Sandbox, behind: Folder) -> None:
    samples = {item["Id"] for item in seeded(sandbox, "samples")}
    (signed,) = [item for item in seeded(sandbox, "appresults") if item["Name"] == "Signed off"]
    found = sandbox.api("GET", f"appresults/{signed['Id']}")["Properties"]
    assert (found["DisplayedCount"], found["TotalCount"]) == (1, 1)
    assert found["Href"] == f"v1pre3/appresults/{signed['Id']}/properties"
    (given,) = found["Items"]
    assert (given["Type"], given["Name"], given["ItemsTotalCount"]) == ("sample[]", "Input.Samples", 2)
    assert {item["Id"] for item in given["Items"]} == samples
    items = [{"Type": "String", "Name": "lab.note", "Description": "", "Content": "text"},
             {"Type": "String[]", "Name": "lab.tags", "Items": ["one", "two"]}]  # fmt: skip
    path = f"appresults/{behind.record}/properties"
    note, tags = sandbox.api("POST", path, json={"Properties": items})["Items"]
    assert (note["Type"], note["Content"]) == ("string", "text")
    assert (tags["Type"], tags["Items"], tags["ItemsDisplayedCount"]) == ("string[]", ["one", "two"], 2)
    sandbox.switch(property_types="sent")
    assert sandbox.api("GET", path)["Items"][0]["Type"] == "String"


def test_sessions_tell_who_made_them_how_large_they_are_and_when_they_ended(sandbox: Sandbox, behind: Folder) -> None:
    behind.put("f", b"12345")
    session = sandbox.api("GET", f"appresults/{behind.record}")["AppSession"]
    assert "DateCompleted" not in session
    assert (session["QcStatus"], session["TotalSize"]) == ("Undefined", 5)
    assert session["UserCreatedBy"]["Name"] == "Ada Lab"
    ended = sandbox.api("POST", f"appsessions/{session['Id']}", json={"status": "complete"})
    assert ended["DateCompleted"] == ended["ModifiedOn"]


def test_a_file_tells_its_properties_and_its_parent(sandbox: Sandbox, behind: Folder) -> None:
    found = sandbox.api("GET", f"files/{behind.put('f', b'x')}")
    href = f"v1pre3/files/{found['Id']}/properties"
    assert found["Properties"] == {"Items": [], "DisplayedCount": 0, "TotalCount": 0, "Href": href}
    assert found["ParentAppResult"]["Id"] == behind.record
    assert found["ParentAppResult"]["AppSession"]["Status"] == "Running"
    sample = seeded(sandbox, "samples")[0]["Id"]
    file = sandbox.api("GET", f"samples/{sample}/files")["Items"][0]["Id"]
    assert sandbox.api("GET", f"files/{file}")["ParentSample"]["Id"] == sample


@pytest.mark.parametrize("form", ["data", "files", "raw"])
def test_forms_are_taken_where_json_is(sandbox: Sandbox, form: str) -> None:
    def send(path: str, **fields: str) -> dict[str, Any]:
        """Send an urlencoded form, one of parts, or JSON that is called a form as curl does."""
        text = "{" + ", ".join(f'"{name}": "{value}"' for name, value in fields.items()) + "}"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        bodies: dict[str, dict[str, Any]] = {
            "data": {"data": fields},
            "files": {"files": {name: (None, value) for name, value in fields.items()}},
            "raw": {"content": text, "headers": headers},
        }
        found: dict[str, Any] = sandbox.api("POST", path, **bodies[form])
        return found

    project = send("projects", Name=f"By {form} & more")
    assert project["Name"] == f"By {form} & more"
    record = send(f"projects/{project['Id']}/appresults", name="Record", Description="Made by a form")
    assert (record["Name"], record["Status"]) == ("Record", "Running")
    assert sandbox.api("GET", f"appresults/{record['Id']}")["Description"] == "Made by a form"
    ended = send(f"appsessions/{record['AppSession']['Id']}", Status="Complete", StatusSummary="done")
    assert (ended["Status"], ended["StatusSummary"]) == ("Complete", "done")


@pytest.mark.parametrize("path", ["v1pre3/nonsense", "v2/nonsense", "v1pre3/projects/1/nonsense", "v1pre3/files/x"])
def test_unknown_routes_are_said_to_be_no_path_and_nothing_more(sandbox: Sandbox, path: str) -> None:
    answer = httpx.get(f"{sandbox.url}/{path}", headers={"x-access-token": sandbox.token})
    assert answer.status_code == 404
    body = answer.json()
    assert body["ResponseStatus"].keys() == {"Message"}
    assert body["ResponseStatus"]["Message"].startswith("This isn't a recognized path.")
    assert body["Notifications"] == []


def test_calm_turns_every_switch_back(sandbox: Sandbox) -> None:
    sandbox.switch(ids="growing", date_digits=7, kms="silent", blob_tokens="refuse", redirect_status=307)
    sandbox.calm()
    found = httpx.get(f"{sandbox.control}/switches").json()["basespace"]
    assert found == {name: getattr(Switches(), name) for name in found}
