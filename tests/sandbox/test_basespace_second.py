"""The second version of BaseSpace's API in the sandbox has the shapes of recorded traffic: keys, and what they hold."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from stage import Sandbox

TEXT, NUMBER, TRUTH, OBJECT, LIST = str, int, bool, dict, list
# Recorded answers of 2018 to 2025, by route: the keys of an item, and the type of each value.
FILE = {
    "Id": TEXT, "Href": TEXT, "HrefContent": TEXT, "Name": TEXT, "ContentType": TEXT, "Size": NUMBER, "Path": TEXT,
    "IsArchived": TRUTH, "DateCreated": TEXT, "DateModified": TEXT, "ETag": TEXT, "IdAsLong": NUMBER,
}  # fmt: skip
SESSION = {
    "Id": TEXT, "Name": TEXT, "Href": TEXT, "Application": OBJECT, "UserCreatedBy": OBJECT, "ExecutionStatus": TEXT,
    "QcStatus": TEXT, "StatusSummary": TEXT, "Purpose": TEXT, "DateCreated": TEXT, "DateModified": TEXT,
    "DateCompleted": TEXT, "TotalSize": NUMBER, "DeliveryStatus": TEXT, "ContainsComments": TRUTH, "HrefComments": TEXT,
}  # fmt: skip
DATASET = {
    "Id": TEXT, "Href": TEXT, "HrefFiles": TEXT, "Name": TEXT, "DateCreated": TEXT, "DateModified": TEXT,
    "AppSession": OBJECT, "Project": OBJECT, "TotalSize": NUMBER, "IsArchived": TRUTH, "UserOwnedBy": OBJECT,
    "DatasetType": OBJECT, "Attributes": OBJECT, "QcStatus": TEXT, "QcStatusSummary": TEXT, "UploadStatus": TEXT,
    "UploadStatusSummary": TEXT, "ValidationStatus": TEXT, "V1pre3Id": TEXT, "HrefComments": TEXT,
    "ContainsComments": TRUTH,
}  # fmt: skip
BIOSAMPLE = {
    "Id": TEXT, "Href": TEXT, "UserOwnedBy": OBJECT, "BioSampleName": TEXT, "DefaultProject": OBJECT,
    "DateModified": TEXT, "DateCreated": TEXT, "Status": TEXT, "LabStatus": TEXT,
}  # fmt: skip
PAGING = {
    "DisplayedCount": NUMBER, "TotalCount": NUMBER, "Offset": NUMBER, "Limit": NUMBER, "SortDir": TEXT, "SortBy": TEXT,
}  # fmt: skip
SOMETIMES = {"V1pre3Id", "DateCompleted"}  # not in all recorded items


class Client:
    def __init__(self, sandbox: Sandbox) -> None:
        self._url = sandbox.url
        self._headers = {"x-access-token": sandbox.token}

    def get(self, path: str, **query: Any) -> Any:
        return httpx.get(f"{self._url}/{path}", params=query, headers=self._headers)

    def items(self, path: str, **query: Any) -> list[dict[str, Any]]:
        found = self.get(path, limit=1024, **query).json()
        assert {key: type(value) for key, value in found["Paging"].items()} == PAGING
        assert len(found["Items"]) == found["Paging"]["DisplayedCount"]
        items: list[dict[str, Any]] = found["Items"]
        return items


@pytest.fixture
def api(sandbox: Sandbox) -> Client:
    return Client(sandbox)


def project(api: Client, name: str = "Germline biosamples") -> str:
    items = api.get("v1pre3/users/current/projects", limit=1024).json()["Response"]["Items"]
    return next(item["Id"] for item in items if item["Name"] == name)


def shaped(item: dict[str, Any], shape: dict[str, type]) -> bool:
    told = {key: type(value) for key, value in item.items()}
    return told | {key: shape[key] for key in SOMETIMES & shape.keys()} == shape


def test_items_have_the_recorded_shapes(api: Client) -> None:
    number = project(api)
    datasets = api.items(f"v2/projects/{number}/datasets")
    assert len(datasets) == 5
    assert all(shaped(item, DATASET) for item in datasets)
    assert all(shaped(item["AppSession"], SESSION) for item in datasets)
    assert all(shaped(item, SESSION) for item in api.items("v2/appsessions"))
    assert all(shaped(item, BIOSAMPLE) for item in api.items("v2/biosamples", projectid=number))
    files = api.items(f"v2/datasets/{datasets[0]['Id']}/files")
    assert files
    assert all(shaped(item, FILE) for item in files)


# Header names of the recorded answers, but for `Connection` and `Server`, which are of the machine in front.
HEADERS = {
    "cache-control", "content-type", "date", "expires", "pragma", "strict-transport-security",
    "transfer-encoding", "x-basespace-source", "x-content-type-options", "x-request-id",
}  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "v1pre3/users/current/projects", "v1pre3/projects/{}", "v1pre3/projects/{}/appresults", "v2/biosamples",
        "v2/projects/{}/datasets", "v2/datasets", "v2/appsessions",
    ],
)  # fmt: skip
def test_answers_have_the_recorded_headers(path: str, api: Client) -> None:
    answer = api.get(path.format(project(api)))
    assert {name.lower() for name in answer.headers} - {"connection"} == HEADERS
    assert answer.headers["content-type"] == "application/json"


def test_the_address_of_a_file_has_the_recorded_headers(api: Client) -> None:
    dataset = api.items(f"v2/projects/{project(api)}/datasets")[0]
    (file,) = api.items(f"v2/datasets/{dataset['Id']}/files")
    answer = api.get(f"v1pre3/files/{file['Id']}/content", redirect="meta")
    assert {name.lower() for name in answer.headers} - {"connection"} == HEADERS | {"accept-ranges"}


@pytest.mark.parametrize(
    ("path", "asked", "told"),
    [
        ("v2/biosamples", "Name", "Id"), ("v2/biosamples", "BioSampleName", "BioSampleName"),
        ("v2/datasets", "", "DateCreated"), ("v2/datasets", "Id", "DateCreated"), ("v2/datasets", "Name", "Name"),
        ("v2/appsessions", "Name", "Name"),
    ],
)  # fmt: skip
def test_an_order_that_a_list_does_not_know_is_replaced_by_its_own(
    path: str, asked: str, told: str, api: Client
) -> None:
    assert api.get(path, **({"sortby": asked} if asked else {})).json()["Paging"]["SortBy"] == told


# -- writing: `file-upload-info` as the vendor describes it ------------------------------------------------


def offer(sandbox: Sandbox, dataset: str, path: str = "a/f.txt") -> dict[str, Any]:
    found: dict[str, Any] = sandbox.second(
        "GET", f"datasets/{dataset}/file-upload-info", params={"filepath": path, "uploadpartcount": 1}
    )
    return found


def report(sandbox: Sandbox, dataset: str, told: dict[str, Any], tag: str, **other: Any) -> httpx.Response:
    body = {"UploadId": told["MultipartUploadId"], "FilePath": "a/f.txt", "PartEtags": [{"Part": 1, "Etag": tag}],
            "Size": 5, "ContentType": "text/plain", **other}  # fmt: skip
    url, headers = f"{sandbox.url}/v2/datasets/{dataset}/file-upload-info", {"x-access-token": sandbox.token}
    return httpx.post(url, json={key: value for key, value in body.items() if value is not None}, headers=headers)


def stored(told: dict[str, Any]) -> str:
    method = {"x-amz-server-side-encryption": told["ServerSideEncryptionMethod"]}
    assert httpx.put(told["SinglePartUrl"], content=b"bytes").status_code == 403, "the method is signed"
    answer = httpx.put(told["SinglePartUrl"], content=b"bytes", headers=method)
    assert answer.status_code == 200
    return answer.headers["etag"].strip('"')


def test_a_file_of_a_dataset_is_there_once_it_is_reported(sandbox: Sandbox) -> None:
    made = sandbox.fresh("datasets")
    told = offer(sandbox, made.record)
    tag = stored(told)
    assert made.stored == {}
    for wrong in ({"Size": 4}, {"FilePath": "f.txt"}, {"PartEtags": []}, {"UploadId": "x"}, {"ContentType": None}):
        assert report(sandbox, made.record, told, tag, **wrong).status_code == 400, wrong
    found = report(sandbox, made.record, told, tag).json()
    assert shaped(found, FILE)
    assert (made.stored, found["Path"], found["Size"]) == ({"a/f.txt": b"bytes"}, "a/f.txt", 5)
    assert report(sandbox, made.record, told, tag).status_code == 400, "an upload is reported once"


def test_a_dataset_whose_analysis_is_over_is_closed(sandbox: Sandbox) -> None:
    made = sandbox.fresh("datasets")
    told = offer(sandbox, made.record)
    tag = stored(told)
    session = sandbox.second("GET", f"datasets/{made.record}")["AppSession"]["Id"]
    sandbox.api("POST", f"appsessions/{session}", json={"status": "complete"})
    assert report(sandbox, made.record, told, tag).status_code == 403
    assert sandbox.second("GET", f"datasets/{made.record}")["UploadStatus"] == "Completed"
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        offer(sandbox, made.record)


def test_both_versions_show_one_store(api: Client) -> None:
    number = project(api)
    datasets = api.items("v2/datasets", projectid=number)
    (joined,) = [item["V1pre3Id"] for item in datasets if "V1pre3Id" in item]
    kind, _, first = joined.partition(".")
    assert kind == "appresult"
    record = api.get(f"v1pre3/appresults/{first}").json()["Response"]
    assert record["Name"] in {item["Name"] for item in datasets}
    biosample = next(item for item in api.items("v2/biosamples", projectid=number) if item["BioSampleName"] == "HG001")
    mine = api.items("v2/datasets", inputbiosamples=biosample["Id"])
    assert {item["Name"] for item in mine} == {"HG001_L001", "HG001_L002", "HG001 calls"}
    (file,) = api.items(f"v2/datasets/{mine[0]['Id']}/files", filehrefcontentresolution="true")
    assert httpx.get(file["HrefContent"]).content[:2] == b"\x1f\x8b"
    assert api.get(f"v1pre3/files/{file['Id']}").json()["Response"]["Size"] == file["Size"]


@pytest.mark.parametrize(("how", "status"), [("absent", 404), ("forbidden", 403), ("down", 503)])
def test_a_server_without_it(how: str, status: int, api: Client, sandbox: Sandbox) -> None:
    number = project(api)
    sandbox.switch(v2=how)
    try:
        assert api.get(f"v2/projects/{number}/datasets").status_code == status
        assert api.get(f"v1pre3/projects/{number}/appresults").status_code == 200
    finally:
        sandbox.switch(v2="on")
