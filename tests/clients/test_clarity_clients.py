"""The Clarity stand-in and clients that other people wrote, each in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clarity_stage import PROJECT, SAMPLE, STEP, Clarity
from stage import Sandbox

SCRIPTS = Path(__file__).parent


@pytest.fixture
def clarity(running: Sandbox) -> Iterator[Clarity]:
    with Clarity(running) as made:
        yield made


@pytest.fixture
def client(clarity: Clarity, clarity_python: Path, tmp_path: Path) -> Any:
    """Return a function that runs a client's script and gives back what it found."""

    def run(script: str) -> Any:
        known = clarity.credentials
        given = [clarity.url, known["username"], known["password"], str(tmp_path), STEP, clarity.placeholders()[3]]
        done = subprocess.run(
            [str(clarity_python), str(SCRIPTS / script), *given], capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.timeout(600)  # the first run installs the clients
def test_genologics_does_its_whole_work(clarity: Clarity, client: Any, tmp_path: Path) -> None:
    found = client("clarity_genologics.py")
    assert found["projects"] == [["ADM1", "Validation"], ["ADM2", "Validation"], ["LEI162", "Empty project"]]
    assert found["samples"] == ["MNY400A1", "MNY400A1200", 1200]
    assert found["batch"] == [f"well-{number:04d}" for number in range(20)]
    assert found["process"] == [STEP, "Library QC", "Grace Runner", 32]
    assert found["outputs"] == ["Result of KLM300A9", "Summary"]
    assert found["maps"] == ["PerAllInputs", "PerInput"]
    assert found["parents"] == 1
    output = clarity.placeholders()[3]
    assert found["attached"] == [f"projects/{PROJECT}", f"samples/{SAMPLE}", f"processes/{STEP}", f"artifacts/{output}"]
    assert found["listed"] == [[limsid] for limsid in found["made"][:3]]
    assert (found["text"], found["same"], found["published"]) == ("first\n", True, True)
    assert (found["replaced"][1], found["wrong"]) == ("second\n", 401)
    assert found["gone"].startswith("404")
    assert found["others"] == [["Ada", "Grace"], ["Sandbox lab"], "27-4012", ["Automated QC", "Library QC"]]
    # The names are whole local paths: that is what this client sends.
    text, data = str(tmp_path / "notes é.txt"), str(tmp_path / "reads.bin")
    assert clarity.stored(PROJECT) == [(text, b"second\n")]
    assert clarity.stored(SAMPLE) == clarity.stored(STEP) == [(text, b"first\n")]
    assert clarity.stored(output) == [(data, bytes(range(256)) * 4096)]


@pytest.mark.timeout(600)
def test_s4_clarity_does_its_whole_work(clarity: Clarity, client: Any, tmp_path: Path) -> None:
    found = client("clarity_s4.py")
    assert (found["versions"], found["limit"], found["twins"]) == (["v2"], "10485760", True)
    assert found["projects"] == 16
    assert found["samples"] == [1200, "well-0000", "well-1199", "Many samples"]
    assert found["step"] == [STEP, "Record Details", None, "Library QC"]
    assert found["process"] == ["Runner", 16, ["Summary"]]
    assert found["iomaps"] == [16, 16, ["Summary"]]
    assert found["batch"] == ["Result of KLM300A3", "SLX-6078"]
    assert [attached for _, attached in found["made"]] == [
        f"projects/{PROJECT}",
        f"samples/{SAMPLE}",
        f"processes/{STEP}",
    ]
    assert found["fetched"] == ["second", "text of sample ü.txt".encode().decode("latin-1")]
    assert found["local back"] is True
    assert found["files"] == ["project.txt", str(tmp_path / "local.bin")]
    assert found["names"] == ["project.txt", "sample ü.txt", "step.txt"]
    assert found["gone"][0] == "ClarityException" and "code: 404" in found["gone"][1]
    assert found["lost"][0] == "FileNotFoundException"
    assert found["wrong"][0] == "ClarityAuthenticationException"
    assert clarity.stored(PROJECT) == [(str(tmp_path / "local.bin"), bytes(range(256)))]
    assert clarity.stored(SAMPLE) == [("sample ü.txt", "text of sample ü.txt".encode())]
    assert clarity.stored(STEP) == [("step.txt", b"text of step.txt")]
    shared, _, _, output, *_ = clarity.placeholders()
    assert clarity.stored(output) == [("result.bin", b"second")]
    assert clarity.stored(shared) == [("Summary", b"summary")]
