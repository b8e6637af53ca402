"""A mount among other people's clients: each reads what the other wrote, byte by byte."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import five_stage
import pytest
from clarity_stage import SAMPLE
from five_stage import Lab
from odm_stage import EMPTY
from stage import Mount, Sandbox, run

pytestmark = [pytest.mark.mount, pytest.mark.timeout(600)]  # the first run installs the clients

SCRIPTS = Path(__file__).parent
THEIRS, OURS = "Zählung 7.bin", "plate 9.bin"
FIELDS = {THEIRS: "counts", OURS: "variants"}  # of REDCap, where one holds one file
BELIEVED_S = 0.0
Speak = Callable[..., Any]


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def lab(sandbox: Sandbox) -> Iterator[Lab]:
    with five_stage.opened(sandbox) as made:
        yield made


def connection(site: str, lab: Lab) -> dict[str, str]:
    """Return what a client is told of a site, and of the place there."""
    match site:
        case "redcap":
            return {"url": lab.redcap.url, "token": lab.redcap.tokens["biobank"], "record": lab.record}
        case "clarity":
            known = lab.clarity.credentials
            return {"url": lab.clarity.url, "username": known["username"], "password": known["password"],
                    "sample": SAMPLE}  # fmt: skip
    return {"url": lab.odm.url, "token": lab.odm.tokens["token"], "study": EMPTY}


def scripted(python: Path, script: str, where: dict[str, str]) -> Speak:
    """Return a function that has a client's script do one thing."""

    def speak(action: str, name: str, data: bytes = b"") -> Any:
        request = json.dumps([where, [[action, name, FIELDS.get(name, ""), data.hex()]]])
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "no_proxy": "127.0.0.1"}
        done = subprocess.run([python, SCRIPTS / script], input=request, capture_output=True, text=True, timeout=90,
                              env=environment)  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])  # clients say things too
        return found[0] if found else None

    return speak


def refresh(mount: Mount, place: Path) -> None:
    mount.refresh(place)
    time.sleep(BELIEVED_S)


def dialogue(speak: Speak, mount: Mount, record: Path, theirs: Path, ours: Path) -> None:
    """Save, save over and delete on either side, and look from the other."""
    for data in (noise(70_001, 1), noise(123, 2)):
        speak("put", theirs.name, data)
        refresh(mount, record)
        assert os.listdir(theirs.parent) == [theirs.name]
        assert (theirs.stat().st_size, theirs.read_bytes()) == (len(data), data)
    for data in (noise(80_001, 3), noise(321, 4)):
        ours.write_bytes(data)
        assert speak("get", ours.name) == [ours.name, data.hex()]
    assert speak("get", theirs.name) == [theirs.name, noise(123, 2).hex()], "untouched by our saves"
    speak("delete", theirs.name)
    refresh(mount, record)
    assert theirs.name not in os.listdir(theirs.parent)
    assert "No such file" in run(f"cat '{theirs}'").stderr
    speak("put", theirs.name, noise(99, 6))
    refresh(mount, record)
    theirs.write_bytes(noise(55, 5))
    assert speak("get", theirs.name) == [theirs.name, noise(55, 5).hex()], "theirs, saved over here"
    assert speak("has", ours.name) == ours.name
    for path in (ours, theirs):
        path.unlink()
        assert not speak("has", path.name)


@pytest.mark.parametrize("client", ["pycap", "redcaplite"])
def test_redcap(client: str, lab: Lab, drive: Mount, redcap_python: Path) -> None:
    record = drive.path / lab.places["redcap"].parent
    drive.refresh(record.parent)
    assert (record / "counts").is_dir()
    speak = scripted(redcap_python, f"others_{client}.py", connection("redcap", lab))
    dialogue(speak, drive, record, record / "counts" / THEIRS, record / "variants" / OURS)


@pytest.mark.parametrize("client", ["genologics", "s4"])
def test_clarity(client: str, lab: Lab, drive: Mount, clarity_python: Path) -> None:
    place = drive.path / lab.places["clarity"]
    speak = scripted(clarity_python, f"others_{client}.py", connection("clarity", lab))
    # Names of their own: what a mount has just saved it goes on showing for a while.
    dialogue(speak, drive, place, place / f"{client} {THEIRS}", place / f"{client} {OURS}")


def test_odm(lab: Lab, drive: Mount, odm_programs: Path) -> None:
    place = drive.path / lab.places["odm"]
    drive.refresh(place.parent)
    speak = scripted(odm_programs / "python", "others_odm.py", connection("odm", lab))
    dialogue(speak, drive, place.parent, place / THEIRS, place / OURS)


# -- curl --------------------------------------------------------------------------------------------------


def curl(header: str, *arguments: str, data: bytes | None = None) -> bytes:
    """Run curl with a header that no command line shows, and the body from a file or `data`."""
    config = f'header = "{header}"\n' if header else ""
    read, write = os.pipe()
    os.write(write, config.encode())
    os.close(write)
    command = ["curl", "-sS", "--fail-with-body", "--noproxy", "*", "-K", f"/dev/fd/{read}", *arguments]
    done = subprocess.run(command, input=data or b"", capture_output=True, timeout=60, pass_fds=[read])
    os.close(read)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def portal_by_curl(lab: Lab) -> Speak:
    header, base = f"Authorization: Token {lab.portal.known['token']}", f"{lab.portal.url}/v1"

    def speak(action: str, name: str, data: bytes = b"") -> Any:
        team = json.loads(curl(header, f"{base}/organizations/{lab.team.number}/"))
        held = {item["filename"]: item["id"] for item in team["attachments"]}
        if action == "put":
            curl(header, "-F", f"file=@-;filename={name}", "-F", f"filename={name}",
                 "-F", f"owned_by_org={lab.team.number}", "-F", f"sequence_map_for={lab.team.material}",
                 f"{base}/attachments/", data=data)  # fmt: skip
        if action == "delete" or (action == "put" and name in held):
            curl(header, "-X", "DELETE", f"{base}/attachments/{held[name]}/")
        elif action == "get":
            found = json.loads(curl(header, f"{base}/attachments/{held[name]}/"))
            return [found["filename"], curl("", found["download_url"]).hex()]
        return name if name in held else ""

    return speak


def test_portal(lab: Lab, drive: Mount) -> None:
    drive.refresh(drive.path / "portal")
    place = drive.path / lab.places["portal"]
    dialogue(portal_by_curl(lab), drive, place.parent, place / THEIRS, place / OURS)


def test_basespace(lab: Lab, drive: Mount) -> None:
    """It deletes nothing, and saving over a file is a newer one."""
    header, base = f"x-access-token: {lab.sandbox.token}", f"{lab.sandbox.url}/v1pre3"
    files = f"{base}/appresults/{lab.basespace.record}/files"
    drive.refresh(drive.path / "basespace")
    place = drive.path / lab.places["basespace"]
    lab.sandbox.switch(date_digits=7)  # a client that looks at dates alone must tell saves within a second apart

    def get(name: str) -> list[str]:
        listed = json.loads(curl(header, f"{files}?limit=1000"))["Response"]["Items"]
        newest = max((item for item in listed if item["Name"] == name), key=lambda item: item["DateCreated"])
        meta = json.loads(curl(header, f"{base}/files/{newest['Id']}/content?redirect=meta"))
        return [newest["Name"], curl("", meta["Response"]["HrefContent"]).hex()]

    for data in (noise(70_001, 1), noise(123, 2)):
        curl(header, "-H", "Content-Type: application/octet-stream", "--data-binary", "@-",
             f"{files}?name=Z%C3%A4hlung%207.bin", data=data)  # fmt: skip
        refresh(drive, place)
        assert os.listdir(place) == [THEIRS]
        assert ((place / THEIRS).stat().st_size, (place / THEIRS).read_bytes()) == (len(data), data)
    for data in (noise(80_001, 3), noise(321, 4)):
        (place / OURS).write_bytes(data)
        assert get(OURS) == [OURS, data.hex()]
    assert get(THEIRS) == [THEIRS, noise(123, 2).hex()], "untouched by our saves"
    (place / THEIRS).write_bytes(noise(55, 5))
    assert get(THEIRS) == [THEIRS, noise(55, 5).hex()]
