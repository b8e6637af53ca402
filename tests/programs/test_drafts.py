"""Programs that make one file to get another: what they are still writing stays here, and the end is one upload."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from places import Place
from stage import Mount, run

pytestmark = [pytest.mark.mount, pytest.mark.timeout(300)]

NOISE = random.Random(7).randbytes(300_000)  # big.bin of the desk
TOKEN = "of-this-test"


def until(said: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def cleared(place: Place, *names: str) -> None:
    """Remove what other tests saved, where that can be; where it cannot, each test has names of its own."""
    for name in names:
        if place.site != "basespace":
            (place.path / name).unlink(missing_ok=True)


# Empty files


def test_touch_makes_a_file_that_is_there_and_is_sent_when_it_can_be(place: Place) -> None:
    cleared(place, "touched.txt")
    place.reset()
    done = run("touch touched.txt && ls touched.txt", place.path)
    assert (done.returncode, done.stdout) == (0, "touched.txt\n"), done.stderr
    empty = place.stored().get("touched.txt")
    assert empty == (None if place.site == "basespace" else b""), "where no empty file is taken, it waits for its bytes"

    place.reset()
    done = run("echo bytes > touched.txt", place.path)
    assert done.returncode == 0, done.stderr
    assert place.uploads() == 1
    assert place.stored()["touched.txt"] == b"bytes\n"


def test_a_file_of_mktemp_is_used_and_removed_and_never_sent(place: Place) -> None:
    before = place.names()
    place.reset()
    done = run('t=$(mktemp -p .) && seq 1000 > "$t" && sort -n "$t" | tail -n 1 && rm "$t"', place.path)
    assert (done.returncode, done.stdout) == (0, "1000\n"), done.stderr
    assert (place.uploads(), place.names()) == (0, before)


# rsync, interrupted and run again

HALVES = {
    "partial-dir": "--partial-dir=.rsync-partial",
    "delay-updates": "--delay-updates",
    "plain": "",
}


def interrupted(place: Place, options: str, source: Path) -> None:
    """Let rsync begin, and end it as Ctrl-C does."""
    slow = f"timeout -s INT 1.5 rsync -a --bwlimit=100 {options} {source} ."
    done = run(slow, place.path)
    assert done.returncode == 124, (done.returncode, done.stderr)


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("old", [False, True], ids=["new", "over"])
def test_rsync_that_was_interrupted_and_resumed_is_one_upload(name: str, old: bool, place: Place, desk: Path) -> None:
    made = f"resumed-{name}-{old}.bin"
    (desk / made).write_bytes(NOISE)
    cleared(place, made)
    if old:
        (place.path / made).write_bytes(b"old")
    before, held, there = place.names(), place.stored(), set(os.listdir(place.path))
    place.reset()

    interrupted(place, HALVES[name], desk / made)
    assert (place.uploads(), place.names(), place.stored()) == (0, before, held), "the half stays here"

    done = run(f"rsync -a {HALVES[name]} {desk / made} .", place.path)
    assert done.returncode == 0, done.stderr
    assert place.uploads() == 1
    assert set(place.names() - before) <= {made}
    assert place.stored()[made] == NOISE == (place.path / made).read_bytes()
    assert set(os.listdir(place.path)) == there | {made}, "no junk here either"


@pytest.mark.parametrize("options", ["--inplace --no-whole-file", "--append-verify"])
def test_rsync_in_place_that_was_interrupted_ends_whole(options: str, place: Place, desk: Path) -> None:
    """Its half stands under the file's own name by the user's wish; it may have been sent, and is then sent again."""
    made = f"in{options.split()[0]}.bin"
    (desk / made).write_bytes(NOISE)
    cleared(place, made)
    (place.path / made).write_bytes(NOISE[:1000])
    before = place.names()
    place.reset()
    interrupted(place, options, desk / made)
    assert place.uploads() <= 1

    done = run(f"rsync -a {options} {desk / made} .", place.path)
    assert done.returncode == 0, done.stderr
    assert place.uploads() <= 2
    assert set(place.names() - before) <= {made}
    assert place.stored()[made] == NOISE == (place.path / made).read_bytes()


def test_what_dd_was_killed_over_is_still_the_good_file(place: Place) -> None:
    (place.path / "good.bin").write_bytes(NOISE)
    before = place.names()
    place.reset()
    done = run("(head -c 100000 /dev/zero; sleep 3) | timeout -s KILL 1 dd of=good.bin bs=4k", place.path)
    assert done.returncode == 137
    assert (place.uploads(), place.names()) == (0, before)
    assert place.stored()["good.bin"] == NOISE


# Jupyter


@pytest.fixture(scope="module")
def jupyter(office: Path, drive: Mount, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """JupyterLab's server, with the mount as its directory."""
    home = tmp_path_factory.mktemp("jupyter")
    command = [office, "-m", "jupyter_server", "--no-browser", "--allow-root", "--port=0", "--ServerApp.port_retries=50",
               f"--ServerApp.root_dir={drive.path}", f"--IdentityProvider.token={TOKEN}"]  # fmt: skip
    surroundings = {**os.environ, "JUPYTER_RUNTIME_DIR": str(home / "run"), "HOME": str(home)}
    with open(home / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=surroundings)
    try:
        until(lambda: answers(home / "run"))
        with jupyter_client(home / "run") as client:
            yield client
    finally:
        server.terminate()
        server.wait(30)


def jupyter_client(told: Path) -> httpx.Client:
    """Return a client of the server that says in that directory where it is."""
    known = json.loads(next(told.glob("jpserver-*.json")).read_text())
    return httpx.Client(base_url=known["url"], headers={"Authorization": f"token {TOKEN}"}, timeout=60)


def answers(told: Path) -> bool:
    with contextlib.suppress(StopIteration, ValueError, httpx.TransportError), jupyter_client(told) as client:
        return client.get("api").is_success
    return False


def contents(place: Place, name: str) -> str:
    """Return the address of a file of the place in the contents API."""
    below = place.path.relative_to(place.path.parents[len(place.lab.places[place.site].parts) - 1])
    return f"api/contents/{quote(str(below / name))}"


def notebook(text: str) -> dict[str, object]:
    cell = {"cell_type": "markdown", "id": "one", "metadata": {}, "source": text}
    return {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_jupyter_makes_a_notebook_and_each_save_of_it_is_one_upload(place: Place, jupyter: httpx.Client) -> None:
    cleared(place, "nb.ipynb")
    before = place.names()
    for text in ("first", "second", "third"):
        place.reset()
        body = {"type": "notebook", "format": "json", "content": notebook(text)}
        answer = jupyter.put(contents(place, "nb.ipynb"), json=body)
        assert answer.is_success, answer.text
        assert place.uploads() == 1
        saved = place.stored()["nb.ipynb"]
        assert saved is not None
        assert "".join(json.loads(saved)["cells"][0]["source"]) == text
        assert set(place.names() - before) <= {"nb.ipynb"}, "nothing else is on the server"


def test_jupyter_saves_a_text_file_as_one_upload(place: Place, jupyter: httpx.Client) -> None:
    (place.path / "notes.md").write_text("old\n")
    before = place.names()
    place.reset()
    answer = jupyter.put(contents(place, "notes.md"), json={"type": "file", "format": "text", "content": "new\n"})
    assert answer.is_success, answer.text
    assert place.uploads() == 1
    assert place.stored()["notes.md"] == b"new\n"
    assert set(place.names() - before) <= {"notes.md"}


# Chromium


def test_chromium_downloads_into_the_mount(place: Place, desk: Path, web: str) -> None:
    cleared(place, "downloaded.bin")
    (desk / "downloaded.bin").write_bytes(NOISE)
    before = place.names()
    wishes = desk / "chromium" / "Default" / "Preferences"
    wishes.parent.mkdir(parents=True)
    wishes.write_text(json.dumps({"download": {"default_directory": str(place.path), "prompt_for_download": False}}))
    place.reset()
    browser = subprocess.Popen(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
         f"--user-data-dir={wishes.parents[1]}", f"{web}/downloaded.bin"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: place.stored().get("downloaded.bin") == NOISE)
        until(lambda: not [name for name in os.listdir(place.path) if "crdownload" in name or "Chromium" in name])
    finally:
        browser.terminate()
        browser.wait(20)
    assert place.uploads() == 1
    assert set(place.names() - before) == {"downloaded.bin"}
    assert (place.path / "downloaded.bin").read_bytes() == NOISE
