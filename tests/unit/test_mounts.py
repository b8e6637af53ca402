"""Where a mount keeps its state, and what one that does not answer keeps from others."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from click.testing import CliRunner

from labfs.cli import main as cli
from labfs.daemon import mounts
from labfs.daemon.config import cache_dir, state_dir
from labfs.errors import ConfigError

Clock = trio.testing.MockClock


@pytest.mark.parametrize("variable", ["LABFS_STATE_DIR", "LABFS_CACHE_DIR"])
def test_a_directory_of_state_is_the_same_wherever_one_stands(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "labfs")
    with pytest.raises(ConfigError, match=variable):
        state_dir() if variable == "LABFS_STATE_DIR" else cache_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["LABFS_STATE_DIR", "LABFS_CACHE_DIR"])
def test_labfs_keeps_nothing_of_its_own_below_its_mount(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab").mkdir()
    monkeypatch.setenv("LABFS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LABFS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(variable, str(tmp_path / "lab" / "own"))
    monkeypatch.setattr("os.listdir", lambda path: [])
    with pytest.raises(ConfigError, match="which this mount would hide"):
        mounts.check(str(tmp_path / "lab"))


def test_a_mount_that_does_not_answer_keeps_no_other_from_telling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABFS_STATE_DIR", str(tmp_path))
    place = mounts.Place(str(tmp_path / "mnt"))
    place.directory.mkdir(parents=True)
    assert place.claim()
    done = CliRunner().invoke(cli.cli, ["status"])
    assert (done.exit_code, "is starting, ending or busy" in done.output) == (5, True)
