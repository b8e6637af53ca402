"""`mount.fuse.labfs SOURCE MOUNTPOINT -o OPTIONS`: what mount(8) runs for the type fuse.labfs, also from fstab(5).

It begins `labfs mount` and ends when that serves. Options that only mount(8) or systemd acts on are accepted, as are
those that say what is so in every mount of labfs: nothing in it can be executed, is a device or has a date of access.

Source: mount(8) of util-linux 2.38, EXTERNAL HELPERS and EXIT STATUS; mount.fuse3(8) for `setuid`.

Tests: mount/test_host.
"""

from __future__ import annotations

import os
import pwd
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from labfs.cli.mounting import refusal, spawn
from labfs.daemon import config, mounts
from labfs.errors import ConfigError, LabfsError

WRONG, NOT_MOUNTED = 1, 32  # exit statuses: called wrongly, and the mount failed
USUAL = ("none", "labfs")  # sources that stand for the usual configuration
FOR_OTHERS = {
    *("rw", "auto", "noauto", "nofail", "defaults", "_netdev", "user", "nouser", "users", "owner", "group", "sync"),
    *("async", "dev", "nodev", "suid", "nosuid", "exec", "noexec", "atime", "noatime", "relatime", "norelatime"),
    *("strictatime", "diratime", "nodiratime", "lazytime", "nolazytime", "default_permissions", "comment", "fsname"),
}
OURS = ("ro", "allow_other", "site=NAME", "setuid=USER")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the options ask for: flags of `labfs mount`, the sites (none: all of them), and who is to mount."""

    options: tuple[str, ...]
    sites: tuple[str, ...]
    account: pwd.struct_passwd | None


@click.command("mount.fuse.labfs", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-o", "told", multiple=True, metavar="OPTIONS", help=f"Separated by commas: {', '.join(OURS)}.")
@click.option("-s", "sloppy", is_flag=True, help="Accept unknown options.")
@click.option("-f", "fake", is_flag=True, help="Check everything, and mount nothing.")
@click.option("-n", "-v", "ignored", is_flag=True, expose_value=False, help="Nothing; mount(8) gives it.")
@click.option("-t", "fstype", expose_value=False, help="Nothing; mount(8) gives it.")
@click.argument("source")
@click.argument("mountpoint")
def helper(told: tuple[str, ...], sloppy: bool, fake: bool, source: str, mountpoint: str) -> None:
    """Mount the sites of a configuration at MOUNTPOINT, for mount(8) and fstab(5).

    SOURCE is the configuration file; none is the usual one of whoever mounts.
    """
    wanted = _wanted([option for text in told for option in text.split(",") if option], sloppy=sloppy)
    if wanted.account is not None:
        _become(wanted.account)
    settings = config.load(None if source in USUAL else Path(source)).only(wanted.sites)
    where = mounts.absolute(mountpoint)
    mounts.check(where)
    mounts.Place(where).prepare()
    if not fake:
        options = [*wanted.options, *(f"--site={name}" for name in wanted.sites), f"--source={source}"]
        for line in spawn(settings.path, options, where).splitlines()[1:]:
            click.echo(line, err=True)  # what is amiss; that it is mounted is what mount(8) was asked for


def _wanted(given: list[str], *, sloppy: bool) -> Wanted:
    """Return what the options ask for. Raises click.UsageError for one that labfs does not have."""
    account = None
    options, sites = [], []
    for option in given:
        key, _, value = option.partition("=")
        match key:
            case "ro":
                options.append("--read-only")
            case "allow_other":
                options.append("--allow-other")
            case "site" if value:
                sites.append(value)
            case "setuid" if value:
                account = _account(value)
            case "remount":
                raise click.UsageError("A mount of labfs cannot be changed; unmount it, and mount it again.")
            case _ if key not in FOR_OTHERS and not key.lower().startswith("x-") and not sloppy:
                raise click.UsageError(f"labfs has no mount option “{option}”; it has: {', '.join(OURS)}.")
    return Wanted(tuple(options), tuple(sites), account)


def _account(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise click.UsageError(f"This machine has no user “{name}”, which setuid names.") from None


def _become(account: pwd.struct_passwd) -> None:
    """Go on as another user, at home there. Raises ConfigError without root's rights."""
    if account.pw_uid == os.geteuid():
        return
    try:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    except PermissionError:
        raise ConfigError(f"Only root can mount for {account.pw_name} (setuid); leave that out.") from None
    for variable in [name for name in os.environ if name.startswith("XDG_")]:
        del os.environ[variable]
    os.environ |= {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}


def main() -> None:
    """Run the helper and exit with a status of mount(8); each failure is one sentence."""
    try:
        helper.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(error.format_message(), WRONG)
    except LabfsError as error:
        _fail(str(error), NOT_MOUNTED)
    except OSError as error:
        _fail(refusal(error), NOT_MOUNTED)
    except (click.Abort, KeyboardInterrupt):
        _fail("Interrupted.", NOT_MOUNTED)


def _fail(sentence: str, status: int) -> None:
    click.echo(f"mount.fuse.labfs: {sentence}", err=True)
    sys.exit(status)
