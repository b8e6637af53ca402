"""`labfs login`: a person's credentials for a site, tried with the server and stored where nobody else reads them.

Tests: mount/test_login.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labfs.daemon import config, mounts
from labfs.errors import ConfigError

if TYPE_CHECKING:
    from labfs.daemon.setup.entering import Entry

SHOWN = "username"  # the only one of all keys whose typing may be seen


@click.command()
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--kind", help="Of a new site: the kind of its system.")
@click.option("--url", help="Of a new site: the address of its server.")
@click.option("--project", metavar="NAME", help="Where each project has a token: which one, by its folder's name.")
@click.option("--stdin", "piped", is_flag=True, help="Read the credentials from standard input, one a line.")
@click.option("--device", "client_id", metavar="CLIENT_ID", help="Have a token allowed on the system's own page.")
@click.argument("site")
def login(
    path: Path | None,
    kind: str | None,
    url: str | None,
    project: str | None,
    piped: bool,
    client_id: str | None,
    site: str,
) -> None:
    """Ask for the credentials of SITE, try them, and store them.

    Into the desktop's keyring, else a file beside the configuration that you alone can read. A site that is not
    configured yet is added: labfs login NAME --kind KIND --url URL
    """
    from labfs.daemon.setup import entering  # imported here: HTTP libraries take half a second

    entry = entering.entry(path or config.default_path(), site, kind, url)
    if project and not entry.kind.projects:
        raise ConfigError(f"{entry.kind.title} has one login for the whole site; leave out --project.")
    if not piped and not sys.stdin.isatty():
        raise ConfigError("Nobody can be asked here; give the credentials on standard input, with --stdin.")
    if not piped:
        click.echo(f"{site} is {entry.kind.title}. {entry.kind.renewal}")
    if entry.kind.projects:
        entry = replace(entry, alias=project or _project(piped))
    entry.settings(dict.fromkeys(entry.keys, "x"))  # before anything is asked for in vain
    if client_id:
        secret = _piped(("client_secret",))[0] if piped else click.prompt("Client secret", hide_input=True)
        token = entering.allowed(entry, client_id, secret.strip(), _show)
        secrets = dict.fromkeys(entry.keys, token)
    else:
        secrets = dict(zip(entry.keys, _piped(entry.keys) if piped else _typed(entry), strict=True))
    done = entry.store(secrets)
    told, where = done.standing, " and ".join(done.places)
    rights = f"; it may: {told.rights}" if told.rights else ""
    click.echo(f"{site}: signed in as {told.user}{rights}.")
    click.echo(f"What you entered is in {where}{f'; {entry.path} points there' if done.moved else ''}.")
    if done.moved and any(place.in_use() for place in mounts.places()):
        click.echo("A mount that runs keeps what it began with: unmount it, and mount again.")


def _project(piped: bool) -> str:
    if piped:
        raise ConfigError("Each project has a token of its own; name its folder with --project.")
    return str(click.prompt("Project, as its folder is to be called")).strip()


def _typed(entry: Entry) -> list[str]:
    return [str(click.prompt(key.capitalize(), hide_input=key != SHOWN)).strip() for key in entry.keys]


def _piped(keys: tuple[str, ...]) -> list[str]:
    """Read as many lines as there are keys. Raises ConfigError for fewer."""
    lines = [sys.stdin.readline() for _ in keys]
    if not all(line.strip() for line in lines):
        raise ConfigError(f"Standard input ended too soon; it must have one line each for {' and '.join(keys)}.")
    return [line.removeprefix("\ufeff").strip() for line in lines]


def _show(page: str) -> None:
    click.echo(f"Open this page in a browser, and allow labfs there: {page}")
    click.echo("Waiting…")
