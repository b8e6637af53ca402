"""What the README shows is there: the tree of the demo, the configuration, the commands."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from stage import Mount

from labfs.backends import KINDS
from labfs.cli.main import cli
from labfs.daemon import config
from labfs.http.network import route, trust

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
SYSTEMS = (ROOT / "labfs/backends/README.md").read_text()
MOST_LINES = 150  # that a scientist reads to the end


def shown(text: str) -> list[str]:
    """Return the paths that the picture of the tree shows, from the mount point."""
    found, above = [], []
    for line in text.splitlines():
        branch = re.match(r"([│ ]*)[├└]── (.+?)(?: {2,}.*)?$", line)
        if branch:
            del above[len(branch[1]) // 4 :]
            above.append(branch[2].rstrip("/"))
            found.append("/".join(above))
    return found


def test_the_tree_is_the_one_of_the_demo(drive: Mount) -> None:
    paths = shown(TEXT)
    assert {path.partition("/")[0] for path in paths} == set(KINDS)
    for path in paths:
        assert (drive.path / path).exists(), path


def test_the_configuration_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = re.search(r"```toml\n(.*?)```", SYSTEMS, re.DOTALL)
    assert text is not None
    (tmp_path / "token").write_text("secret")
    (tmp_path / "token").chmod(0o600)
    for variable in re.findall(r'env = "([^"]+)"', text[1]):
        monkeypatch.setenv(variable, f"secret of {variable}")
    (tmp_path / "labfs.toml").write_text(
        text[1]
        .replace("{ keyring = true }", '"in the keyring"')
        .replace("~/.config/labfs/odm-token", str(tmp_path / "token"))
    )
    (tmp_path / "labfs.toml").chmod(0o600)
    found = config.load(tmp_path / "labfs.toml")
    assert {site.kind for site in found.sites} == set(KINDS)
    assert (found.cache_bytes >> 20, found.disk_bytes >> 20) == (128, 4096)
    for site in found.sites:
        keys = {*KINDS[site.kind].secrets, *KINDS[site.kind].options}
        assert all(f"{key} = " in text[1] for key in keys)


def test_all_that_leads_to_a_site_is_named() -> None:
    lower = {name.lower() for name in route.VARIABLES}
    for word in (
        *lower,
        *trust.FILES,
        *trust.DIRECTORIES,
        *(f"{scheme}://" for scheme in route.SCHEMES),
        *config.COMMON,
    ):
        assert f"`{word}" in SYSTEMS or f"\n{word} = " in SYSTEMS, word


def test_the_commands_exist() -> None:
    named = re.findall(r"^labfs (\w+)(?: (\w+))?", TEXT, re.MULTILINE)
    outbox = cli.commands["outbox"]
    assert isinstance(outbox, click.Group)
    assert {first for first, _ in named} == set(cli.commands) - {"demo"}
    assert {second for first, second in named if first == "outbox"} == set(outbox.commands)


def test_it_is_short_and_what_it_leads_to_is_there() -> None:
    assert len(TEXT.splitlines()) <= MOST_LINES
    for page in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / page).exists(), page
    for path in re.findall(
        r"`((?:labfs|tests|scripts)/[\w/.]+)`", TEXT + SYSTEMS + (ROOT / "SEMANTICS.md").read_text()
    ):
        assert (ROOT / path).exists(), path


def test_the_short_configuration_is_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert text is not None
    monkeypatch.setenv("BASESPACE_TOKEN", "secret of the hub")
    (tmp_path / "labfs.toml").write_text(text[1])
    (site,) = config.load(tmp_path / "labfs.toml").sites
    assert (site.name, site.kind) == ("hub", "basespace")
