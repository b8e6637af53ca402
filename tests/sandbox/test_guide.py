"""The vendor's multipart guide against the sandbox: its own curl commands, and its rules."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from stage import Folder, Sandbox, run

MIB = 1024 * 1024
MD5_OF_PART = "9mvo6qaA+FL1sbsIn1tnTg=="  # as the guide prints it

START = r"""curl -v -H "x-access-token: {access token}" \
-H "Content-Type: application/zip" \
-X POST https://api.basespace.illumina.com/v1pre3/appresults/38040/files?name=reportarchive.zip\&multipart=true"""
PART = r"""curl -v -H "x-access-token: {access token}" \
-H "Content-MD5: 9mvo6qaA+FL1sbsIn1tnTg==" \
-T reportarchive.zipaa \
-X PUT https://api.basespace.illumina.com/v1pre3/files/7094087/parts/1"""
FINISH = r"""curl -v -H "x-access-token: {access token}" \
-X POST https://api.basespace.illumina.com/v1pre3/files/7094087?uploadstatus=complete"""


@pytest.fixture
def behind(sandbox: Sandbox) -> Folder:
    return sandbox.fresh()


def test_the_guides_own_commands_get_the_answers_it_prints(sandbox: Sandbox, behind: Folder, tmp_path: Path) -> None:
    def curl(command: str, file: str = "7094087", md5: str = MD5_OF_PART) -> tuple[str, dict[str, Any]]:
        for old, new in [("{access token}", sandbox.token), ("https://api.basespace.illumina.com", sandbox.url),
                         ("38040", behind.record), ("7094087", file), (MD5_OF_PART, md5)]:  # fmt: skip
            command = command.replace(old, new)
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stderr
        (status,) = [line for line in done.stderr.splitlines() if line.startswith("< HTTP/1.1") and " 100 " not in line]
        assert "< content-type: application/json" in done.stderr.lower()
        return status.removeprefix("< ").strip(), json.loads(done.stdout)

    status, answer = curl(START)
    started = answer["Response"]
    assert status == "HTTP/1.1 200 OK"
    file = started["Id"]
    assert answer == {"Response": started, "ResponseStatus": {}, "Notifications": []}
    wanted = {
        "UploadStatus": "pending",
        "HrefContent": f"v1pre3/files/{file}/content",
        "Id": file,
        "Href": f"v1pre3/files/{file}",
        "Name": "reportarchive.zip",
        "ContentType": "application/zip",
        "Size": 0,
        "Path": "reportarchive.zip",
    }
    assert started | wanted == started
    assert len(started["DateCreated"]) == len("2012-07-18T14:51:50.0475813Z")

    part = random.Random(1).randbytes(10_496_561)  # the size that the guide's answer shows
    (tmp_path / "reportarchive.zipaa").write_bytes(part)
    digest = hashlib.md5(part)
    status, answer = curl(PART, file, base64.b64encode(digest.digest()).decode())
    assert status == "HTTP/1.1 200 OK"
    assert answer == {
        "Response": {"Number": 1, "ETag": digest.hexdigest(), "Size": 10_496_561},
        "ResponseStatus": {},
        "Notifications": [],
    }

    status, answer = curl(FINISH, file)
    assert status == "HTTP/1.1 201 Created"
    assert answer["Response"] | wanted | {"UploadStatus": "complete", "Size": 10_496_561} == answer["Response"]
    assert behind.stored == {"reportarchive.zip": part}


class Client:
    """Plain requests with the sandbox's token."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.http = httpx.Client(
            base_url=f"{sandbox.url}/v1pre3/",
            headers={"x-access-token": sandbox.token},
            trust_env=False,
            verify=False,
            timeout=30,
        )

    def start(self, record: str, name: str = "f") -> str:
        params = {"name": name, "multipart": "true"}
        answer = self.http.post(f"appresults/{record}/files", params=params, headers={"Content-Type": "a/b"})
        return str(answer.json()["Response"]["Id"])

    def part(self, file: str, number: int, data: bytes, md5: str | None = None) -> httpx.Response:
        headers = {"Content-MD5": md5} if md5 else {}
        return self.http.put(f"files/{file}/parts/{number}", content=data, headers=headers)

    def finish(self, file: str, status: str = "complete") -> httpx.Response:
        return self.http.post(f"files/{file}", params={"uploadstatus": status})


@pytest.fixture
def client(sandbox: Sandbox) -> Any:
    client = Client(sandbox)
    yield client
    client.http.close()


def refused(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status
    body = answer.json()
    assert "Response" not in body
    assert body["ResponseStatus"]["Message"]


@pytest.mark.parametrize("number", [0, 10001])
def test_part_numbers_outside_1_to_10000(client: Client, behind: Folder, number: int) -> None:
    refused(client.part(client.start(behind.record), number, b"x"), 400)


def test_a_part_above_25_mib(client: Client, behind: Folder) -> None:
    file = client.start(behind.record)
    refused(client.part(file, 1, bytes(25 * MIB + 1)), 400)
    assert client.part(file, 1, bytes(25 * MIB)).status_code == 200


def test_a_part_below_5_mib_that_is_not_the_last(client: Client, behind: Folder) -> None:
    file = client.start(behind.record)
    client.part(file, 1, bytes(5 * MIB - 1))
    client.part(file, 2, b"the last may be small")
    refused(client.finish(file), 400)
    assert behind.stored == {}
    client.part(file, 1, bytes(5 * MIB))  # each part may be sent again
    assert client.finish(file).status_code == 201
    assert behind.stored["f"] == bytes(5 * MIB) + b"the last may be small"


def test_a_wrong_md5(client: Client, behind: Folder) -> None:
    refused(client.part(client.start(behind.record), 1, b"x", MD5_OF_PART), 400)


def test_completion_without_parts_and_after_completion(client: Client, behind: Folder) -> None:
    file = client.start(behind.record)
    refused(client.finish(file), 400)
    client.part(file, 7, b"one part, any number")
    assert client.finish(file).status_code == 201
    refused(client.finish(file), 403)
    refused(client.part(file, 8, b"late"), 403)


def test_an_aborted_upload_is_gone(client: Client, behind: Folder) -> None:
    file = client.start(behind.record)
    client.part(file, 1, b"x")
    assert client.finish(file, "aborted").json()["Response"]["UploadStatus"] == "aborted"
    refused(client.finish(file), 403)
    assert behind.stored == {}


def test_tokens_in_three_ways_but_only_one_at_a_time(sandbox: Sandbox) -> None:
    url = f"{sandbox.url}/v1pre3/users/current"
    token = sandbox.token
    assert httpx.get(url, headers={"x-access-token": token}).json()["Response"]["Name"] == "Ada Lab"
    assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert httpx.get(url, params={"access_token": token}).status_code == 200
    refused(httpx.get(url, headers={"x-access-token": token}, params={"access_token": token}), 400)
    refused(httpx.get(url), 401)
    refused(httpx.get(url, headers={"x-access-token": "no"}), 401)


def test_the_blob_origin_refuses_credentials_expiry_and_forgery(sandbox: Sandbox, behind: Folder) -> None:
    file = behind.put("f.txt", b"0123456789")
    content = f"files/{file}/content"
    url = sandbox.api("GET", content, params={"redirect": "meta"})["HrefContent"]
    assert url.startswith(sandbox.blobs)
    plain = httpx.get(url)
    assert (plain.status_code, plain.content) == (200, b"0123456789")
    assert plain.headers["etag"] == f'"{hashlib.md5(b"0123456789").hexdigest()}"'
    answer = httpx.get(url, headers={"Authorization": f"Bearer {sandbox.token}"})
    assert (answer.status_code, b"<Code>InvalidArgument" in answer.content) == (400, True)
    assert httpx.get(url.replace("Signature=", "Signature=x")).status_code == 403
    assert httpx.get(url, headers={"If-Match": '"other"'}).status_code == 412
    partial = httpx.get(url, headers={"Range": "bytes=2-4"})
    assert (partial.status_code, partial.content) == (206, b"234")
    assert partial.headers["content-range"] == "bytes 2-4/10"
    assert httpx.get(url, headers={"Range": "bytes=10-"}).status_code == 416
    sandbox.switch(url_life_s=-1.0)
    expired = httpx.get(sandbox.api("GET", content, params={"redirect": "meta"})["HrefContent"])
    assert (expired.status_code, b"expired" in expired.content) == (403, True)


def test_lists_have_a_page_cap_an_echo_and_any_case(sandbox: Sandbox) -> None:
    projects = "users/current/projects"
    assert len(sandbox.api("GET", projects, params={"LIMIT": "2", "oFFset": "1"})["Items"]) == 2
    found = sandbox.api("GET", projects, params={"SortBy": "Nonsense", "SortDir": "Desc", "Limit": "9999"})
    assert (found["SortBy"], found["SortDir"], found["Limit"]) == ("Id", "Desc", 1024)
    past = sandbox.api("GET", projects, params={"Offset": "99999"})
    assert (past["Items"], past["DisplayedCount"], past["TotalCount"] > 0) == ([], 0, True)
    sandbox.switch(over_limit="refuse")
    with pytest.raises(httpx.HTTPStatusError):
        sandbox.api("GET", projects, params={"Limit": "1025"})


def test_making_a_project_twice_returns_the_first(sandbox: Sandbox) -> None:
    assert sandbox.project("Twice") == sandbox.project("Twice")


def test_absent_and_forbidden_look_the_same_and_unknown_routes_have_no_code(client: Client) -> None:
    answer = client.http.get("files/1111111")
    assert answer.status_code == 403
    assert answer.json()["ResponseStatus"]["ErrorCode"] == "BASESPACE.COMMON.INSUFFICIENT_RESOURCE_PERMISSIONS"
    answer = client.http.get("nonsense")
    assert answer.status_code == 404
    assert "ErrorCode" not in answer.json()["ResponseStatus"]


def test_part_answers_are_compact_json(client: Client, behind: Folder) -> None:
    # The vendor's Python client keeps only the last word of this answer.
    assert b" " not in client.part(client.start(behind.record), 1, b"x").content


@pytest.mark.parametrize(
    ("switch", "paths", "last"), [("duplicate", 2, 201), ("replace", 1, 201), ("conflict", 1, 409)]
)
def test_uploading_to_a_path_again_is_a_switch(
    switch: str, paths: int, last: int, sandbox: Sandbox, client: Client, behind: Folder
) -> None:
    behind.put("f", b"one")
    sandbox.switch(same_path=switch)
    headers = {"Content-Type": "a/b"}
    answer = client.http.post(f"appresults/{behind.record}/files?name=f", content=b"two", headers=headers)
    assert (answer.status_code, len(behind.paths)) == (last, paths)


def test_the_large_seed_file_has_the_tag_it_claims() -> None:
    from labfs.sandbox.basespace.seed import LARGE_ETAG, LARGE_MIB
    from labfs.sandbox.store import large_block

    outer = hashlib.md5()
    for part in range(LARGE_MIB // 8):
        inner = hashlib.md5()
        for index in range(8):
            inner.update(large_block(8 * part + index))
        outer.update(inner.digest())
    assert f"{outer.hexdigest()}-{LARGE_MIB // 8}" == LARGE_ETAG


def test_seeded_specimens_are_valid() -> None:
    import gzip
    import struct
    import zlib

    from labfs.sandbox import specimens

    assert gzip.decompress(specimens.fastq_gz("S1", 1)).count(b"\n") == 1600
    assert gzip.decompress(specimens.vcf_gz("S1")).startswith(b"##fileformat=VCFv4.2\n")
    image = specimens.png()
    (length,) = struct.unpack(">I", image[33:37])
    assert len(zlib.decompress(image[41 : 41 + length])) == 48 * (1 + 3 * 64)
    assert specimens.hdf5().startswith(b"\x89HDF\r\n\x1a\n")
    document = specimens.pdf(["x"])
    table = int(document.split(b"startxref\n")[1].split()[0])
    assert document[table:].startswith(b"xref")
