"""Saves as people's programs make them, call by call: on each kind of system as on a local directory, one upload each."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import five_stage
import pytest
from places import SITES, Place
from player import Player
from stage import Mount, Sandbox

from scripts import SCRIPTS

pytestmark = pytest.mark.mount


@pytest.fixture(scope="module")
def lab(running: Sandbox) -> Iterator[five_stage.Lab]:
    with five_stage.opened(running) as made:
        yield made


@pytest.fixture(scope="module")
def mount(lab: five_stage.Lab, running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mount of its own: backups stay in it, and what it saved it goes on showing for a while."""
    made = Mount(tmp_path_factory.mktemp("scripts"), running.config)
    try:
        yield made.start()
    finally:
        made.clean_up()


@pytest.fixture(params=SITES)
def place(request: pytest.FixtureRequest, lab: five_stage.Lab, mount: Mount) -> Place:
    return Place(lab, request.param, mount.path / lab.places[request.param])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_save_ends_as_on_a_local_disk_and_is_one_upload(name: str, place: Place, tmp_path: Path) -> None:
    script, document = SCRIPTS[name], f"{name}.dat"
    if script.before is not None:
        data = random.Random(0).randbytes(script.before)
        (tmp_path / document).write_bytes(data)
        (place.path / document).write_bytes(data)
    there, before = set(os.listdir(place.path)), place.names()
    place.reset()

    played = Player(place.path, document, mounted=True).play(script)

    assert place.uploads() == 1
    assert played == Player(tmp_path, document, mounted=False).play(script)
    wanted = (tmp_path / document).read_bytes()
    assert place.stored()[document] == wanted
    assert set(place.names() - before) <= {document}, "nothing else is on the server"
    assert (place.path / document).read_bytes() == wanted
    assert set(os.listdir(place.path)) - there | {document} == set(os.listdir(tmp_path)), "backups are still here"
