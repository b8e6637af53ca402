"""`labfs unit`: a systemd service that mounts when a user or the machine starts, and waits for uploads at the end.

Tests: mount/test_host.
"""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import click

from labfs.cli.host.completion import directories
from labfs.daemon import config, mounts
from labfs.errors import ConfigError

PLACES = ("LABFS_STATE_DIR", "LABFS_CACHE_DIR")  # else the service would have other ones than this shell
UPLOADS_S = 300  # for uploads under way at the end; the next mount goes on with those that take longer

USE = {
    False: """\
#   labfs unit … > ~/.config/systemd/user/labfs.service
#   systemctl --user daemon-reload && systemctl --user enable --now labfs
# Mounted when you sign in; from the start of the machine on with: loginctl enable-linger""",
    True: """\
#   labfs unit --system … | sudo tee /etc/systemd/system/labfs.service
#   sudo systemctl daemon-reload && sudo systemctl enable --now labfs""",
}
OF_MACHINE = """\
After=network-online.target nss-user-lookup.target
Wants=network-online.target
RequiresMountsFor={above}
"""
UNIT = """\
# A service that mounts with labfs; made by labfs {made}. To use it:
{use}
[Unit]
Description=labfs at {described}
StartLimitIntervalSec=600
StartLimitBurst=5
{of_machine}
[Service]
Type=notify
{settings}ExecStart={mount}
ExecStop={umount}
TimeoutStartSec=60
TimeoutStopSec={uploads_s}
Restart=on-failure
RestartSec=10

[Install]
WantedBy={target}
"""


@click.command()
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--site", "sites", multiple=True, metavar="NAME", help="Mount only this site; may be repeated.")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option("--allow-other", is_flag=True, help="Let other users of this machine in.")
@click.option("--system", is_flag=True, help="For the machine's service manager, which starts it without a session.")
@click.option("--user", metavar="NAME", help="With --system: who mounts (default: you).")
@click.argument("mountpoint", shell_complete=directories)
def unit(
    path: Path | None,
    sites: tuple[str, ...],
    read_only: bool,
    allow_other: bool,
    system: bool,
    user: str | None,
    mountpoint: str,
) -> None:
    """Print a systemd service that mounts at MOUNTPOINT; its first lines say where it belongs.

    The service is up when the mount serves, is started again if labfs fails, and waits for uploads when it is stopped.
    It has none of the shell's variables: keep secrets in a file or the keyring, or add EnvironmentFile= to it.
    """
    if user and not system:
        raise ConfigError("A service of your own runs as you; --user needs --system.")
    settings = config.load(path).only(sites)
    where = mounts.absolute(mountpoint)
    options = ["-c", str(settings.path.absolute()), *(f"--site={name}" for name in sites)]
    options += [*(["--read-only"] if read_only else []), *(["--allow-other"] if allow_other else [])]
    variables = [f"Environment={word(f'{name}={os.environ[name]}')}" for name in PLACES if name in os.environ]
    if system:
        variables.insert(0, f"User={_account(user)}")
    click.echo(
        UNIT.format(
            made="unit --system" if system else "unit",
            use=USE[system],
            described=where.replace("%", "%%"),
            of_machine=OF_MACHINE.format(above=word(os.path.dirname(where))) if system else "",
            settings="".join(f"{line}\n" for line in variables),
            mount=command("mount", "-f", *options, "--", where),
            umount=command("umount", "--", where),
            uploads_s=UPLOADS_S,
            target="multi-user.target" if system else "default.target",
        ),
        nl=False,
    )


def _account(user: str | None) -> str:
    """Return the name of the account that a service runs as. Raises ConfigError if there is none of that name."""
    try:
        return (pwd.getpwnam(user) if user else pwd.getpwuid(os.getuid())).pw_name
    except KeyError:
        raise ConfigError(f"This machine has no user {user or os.getuid()}; name one with --user.") from None


def command(*arguments: str) -> str:
    """Return a command of labfs as a line of a unit."""
    return " ".join(word(each).replace("$", "$$") for each in [*program(), *arguments])


def program() -> list[str]:
    """Return how labfs is started from anywhere: by its script, or by its interpreter where there is none."""
    script = Path(sys.argv[0]).absolute()
    if script.name == "labfs" and script.is_file():
        return [str(script)]
    return [sys.executable, "-P", "-m", "labfs"]


def word(text: str) -> str:
    """Return a word as systemd.syntax(7) reads it. Raises ConfigError for what no line of a unit can hold."""
    if not text.isprintable():
        raise ConfigError(f"“{text!a}” has a character that no unit can hold.")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if escaped and not set(escaped) & set(" \"';\\") else f'"{escaped}"'
