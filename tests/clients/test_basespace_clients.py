"""The vendor's own present-day clients of BaseSpace, unchanged, against the sandbox: bssh_sdk_2 and fs_basespace.

Neither is on PyPI: they are installed from their repositories, where those can be reached.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from environments import environment
from stage import Sandbox

pytestmark = pytest.mark.timeout(600)  # the first run installs the clients

SCRIPTS = Path(__file__).parent
PROJECT = "Germline biosamples"
LANES = [f"{sample}_L00{lane}" for sample in ("HG001", "HG002") for lane in (1, 2)]
GITHUB = "git+https://github.com/emedgene"
CLIENTS = [
    f"{GITHUB}/basespace-python-sdk@0.6.0#subdirectory=src",
    f"{GITHUB}/basespace-python-sdk-v2@1.1.3",
    "fs~=2.4",
    "smart-open~=5.1",
]
LAST = f"{GITHUB}/fs_basespace@1.4.9"  # it asks for newer ones than can be had
UNTIL = dt.date(2027, 6, 30)  # when it is looked at again whether the clients are on PyPI


@pytest.fixture(scope="session")
def python() -> Path:
    """An interpreter with the clients: that of LABFS_BASESPACE_CLIENTS, or one made from their repositories."""
    given = os.environ.get("LABFS_BASESPACE_CLIENTS")
    if given:
        return Path(given)
    try:
        return environment("basespace-v2", ["setuptools<80"], CLIENTS, ["--no-deps", LAST]) / "python"
    except subprocess.CalledProcessError as error:
        if dt.date.today() > UNTIL:
            pytest.fail(f"no client was tried since long:\n{error.stderr}")
        pytest.skip(f"until {UNTIL}: the clients' repositories cannot be reached from here")


def spoken(python: Path, script: str, sandbox: Sandbox, project: str) -> Any:
    request = json.dumps({"url": sandbox.url, "token": sandbox.token, "project": project})
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "no_proxy": "127.0.0.1"}
    done = subprocess.run([python, SCRIPTS / script], input=request, capture_output=True, text=True, timeout=300,
                          env=environment)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def held(sandbox: Sandbox) -> tuple[str, dict[str, list[str]]]:
    """Return the project's id, and the digests of the files of each of its records, straight from the store."""
    project = sandbox.api("GET", "users/current/projects", params={"Name": PROJECT})["Items"][0]["Id"]
    records = sandbox.second("GET", f"projects/{project}/datasets", params={"limit": 1024})["Items"]
    found = {item["Name"]: sandbox.stored(item["Id"]).values() for item in records}
    return project, {name: sorted(hashlib.sha256(data).hexdigest() for data in all_) for name, all_ in found.items()}


def test_the_sdk_of_version_2_lists_and_downloads(python: Path, sandbox: Sandbox) -> None:
    project, there = held(sandbox)
    found = spoken(python, "others_bssh.py", sandbox, project)
    assert found["biosamples"] == {
        "HG001": ["HG001 calls", "HG001_L001", "HG001_L002"],
        "HG002": ["HG002_L001", "HG002_L002"],
    }
    assert {name: sorted(digest for _, digest in files) for name, files in found["datasets"].items()} == there
    assert ["Germline calls", "Complete"] in found["sessions"]


def test_fs_basespace_walks_both_versions_and_downloads(python: Path, sandbox: Sandbox) -> None:
    _, there = held(sandbox)
    found = spoken(python, "others_fs_basespace.py", sandbox, PROJECT)
    assert found["appresults/HG001 calls"] == there["HG001 calls"]
    for lane in LANES:
        assert found[f"biosamples/{lane.partition('_')[0]}/{lane}"] == there[lane]
        assert found[f"appsessions/FASTQ Generation {lane.partition('_')[0]}/{lane}"] == there[lane]
