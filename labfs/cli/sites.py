"""`labfs sites`: the configured sites, and how each is.

Tests: mount/test_sites.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from labfs.daemon import config
from labfs.errors.secrecy import hidden


@click.command()
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--offline", is_flag=True, help="Only list them; ask no server.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def sites(path: Path | None, offline: bool, as_json: bool) -> None:
    """Show the configured sites: kind, user, rights, health and latency.

    All servers are asked at once, for a few seconds. Exit status 0 only if all of them accept us.
    """
    # Imported here: HTTP libraries take half a second, which `labfs --help` does not need.
    from labfs.daemon.setup import asking

    path = path or config.default_path()
    if offline:
        known = [one if isinstance(one, asking.Standing) else asking.plainly(one) for one in asking.configured(path)]
    else:
        known = asking.ask(path)
    if as_json:
        click.echo(hidden(json.dumps({"sites": [asdict(one) for one in known]}, ensure_ascii=False)))
    else:
        for one in known:
            click.echo(_row(one, offline=offline))
    if any(one.problem for one in known):
        sys.exit(1)


def _row(one: object, *, offline: bool) -> str:
    from labfs.daemon.setup.asking import Standing

    assert isinstance(one, Standing)
    row = f"{one.name:<16} {one.kind:<10} {one.access:<6}"
    if one.problem:
        return f"{row} {one.problem}"
    if offline:
        return f"{row} {one.url}"
    rights = f"; may: {one.rights}" if one.rights else ""
    return f"{row} well, {1000 * (one.latency_s or 0):.0f} ms, as {one.user}{rights}"
