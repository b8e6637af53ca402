"""`labfs mount` and `umount`: a daemon started and waited for, uploads waited for and shown, and the mount's end.

Tests: mount/test_cli, mount/test_status.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from labfs.cli.host import notify
from labfs.cli.host.completion import directories
from labfs.cli.outbox import leftovers_in
from labfs.cli.status import show_uploads
from labfs.daemon import config, control, mounts
from labfs.errors import ConfigError, LabfsError

END_S = 60.0  # for a daemon to end after its mount is gone


@click.command()
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--site", "sites", multiple=True, metavar="NAME", help="Mount only this site; may be repeated.")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option("--allow-other", is_flag=True, help="Let other users of this machine in.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in front and log to the terminal.")
@click.option("--ready-fd", type=int, hidden=True)
@click.option("--until-fd", type=int, hidden=True, help="End when this descriptor is at its end.")
@click.option("--temporary", is_flag=True, hidden=True, help="Remove the mount point and its state at the end.")
@click.option("--source", default="labfs", hidden=True, help="What the mount table has as the source.")
@click.argument("mountpoint", shell_complete=directories)
def mount(
    path: Path | None,
    sites: tuple[str, ...],
    read_only: bool,
    allow_other: bool,
    foreground: bool,
    ready_fd: int | None,
    until_fd: int | None,
    temporary: bool,
    source: str,
    mountpoint: str,
) -> None:
    """Mount the configured sites at MOUNTPOINT; return when they can be used."""
    settings = config.load(path).only(sites)
    where = mounts.absolute(mountpoint)
    place = mounts.Place(where)
    mounts.check(where)
    place.prepare()
    if not foreground:
        options = [*(f"--site={name}" for name in sites), *(["--read-only"] if read_only else [])]
        options += ["--allow-other"] if allow_other else []
        click.echo(spawn(settings.path, options, where))
        return
    if not place.claim():
        raise ConfigError(f"{where} is being mounted by another labfs.")
    from labfs.daemon.logs import Log

    log = Log(place.log if ready_fd is not None else None)
    with _announcer(ready_fd) as announce:
        # Imported here: only the daemon needs libfuse, and `labfs sandbox` runs without it.
        from labfs.daemon.daemon import Daemon, Options

        how = Options(read_only, allow_other, source)
        try:
            Daemon(settings, place, announce, log, how, until_fd=until_fd).run()
        finally:
            if temporary:
                clean_up(place)


def spawn(path: Path, options: list[str], where: str, keep: tuple[int, ...] = ()) -> str:
    """Start the daemon in a session of its own; return what it says once it serves. Raises ConfigError.

    It inherits the descriptors `keep`.
    """
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "labfs", "mount", "-f", f"--ready-fd={theirs}", "-c", str(path.absolute())]
    process = subprocess.Popen(
        [*command, *options, "--", where],
        pass_fds=[theirs, *keep],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    os.close(theirs)
    try:
        with open(ours) as said:
            text = said.read()  # until the daemon has closed its end of the pipe
    except KeyboardInterrupt:
        process.terminate()
        process.wait(END_S)
        raise
    if text.startswith("ok "):
        return text.removeprefix("ok ")
    process.wait(END_S)
    raise ConfigError(text.strip() or f"The labfs daemon ended before it served; see {mounts.Place(where).log}.")


def refusal(error: OSError) -> str:
    """Return what the machine refuses, as a sentence."""
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."


@contextmanager
def _announcer(fd: int | None) -> Iterator[Any]:
    """Yield a function that tells the waiting parent, or the terminal, that the mount serves; send errors there too."""
    if fd is None:
        yield _announce
        return
    pipe = os.fdopen(fd, "w")

    def announce(text: str) -> None:
        if not pipe.closed:
            pipe.write(f"ok {text}")
            pipe.close()

    try:
        yield announce
    except LabfsError as error:
        logging.getLogger(__name__).error("%s", error)
        if not pipe.closed:
            pipe.write(str(error))
    except OSError as error:
        logging.getLogger(__name__).exception("The daemon ended on what this machine refused")
        if not pipe.closed:
            pipe.write(refusal(error))
    except Exception:
        logging.getLogger(__name__).exception("The daemon ended on a mistake of its own")
        raise
    finally:
        pipe.close()


def _announce(text: str) -> None:
    click.echo(text)
    notify.ready(text)


@click.command()
@click.argument("mountpoint", shell_complete=directories)
def umount(mountpoint: str) -> None:
    """Wait for uploads, then unmount. Exit status 0 only when everything is saved."""
    where = mounts.absolute(mountpoint)
    there = mounts.mounted_at(where)
    place = mounts.Place(where)
    if there is None or there.fstype != mounts.FSTYPE:
        raise ConfigError(f"{where} is not mounted by labfs.")
    if not place.is_served():
        if mounts.alive(where):
            raise ConfigError(f"{where} is served {mounts.ELSEWHERE}; unmount it from there.")
        mounts.detach(where)
        click.echo(f"{where} was left behind by a labfs that died; it is unmounted now.")
    else:
        show_uploads(lambda: uploads(place, "uploading"))
        drafts = uploads(place, "draft")
        if drafts:
            click.echo(f"{len(drafts)} draft(s) end with the mount, and are saved under the name that they have.")
        if not mounts.unmount(where):
            raise ConfigError(f"{where} is in use by {users(where)}; close it and try again.")
        wait_for_end(place)
        click.echo(f"Unmounted {where}.")
    kept = leftovers_in(place)
    if kept:
        raise ConfigError(f"{len(kept)} save(s) never reached their server; their bytes are safe: labfs outbox list")


def uploads(place: mounts.Place, state: str) -> list[dict[str, Any]]:
    """Return the uploads of a mount in a state; files that programs still write are in none."""
    return [u for u in control.ask(place.socket, {"op": "status"})["uploads"] if u["state"] == state]


def users(where: str) -> str:
    """Return which programs use a mount, for a sentence."""
    from labfs.fuse import holders  # imported here, since it imports the whole core

    found = holders.using(where)
    return ", ".join(f"{h.program} (process {h.pid}, {h.path})" for h in found[:5]) or "another program"


def wait_for_end(place: mounts.Place, seconds: float = END_S) -> None:
    """Wait until a daemon has ended. Raises ConfigError."""
    deadline = time.monotonic() + seconds
    while place.in_use():
        if time.monotonic() > deadline:
            raise ConfigError(f"The daemon of {place.mountpoint} has not ended yet; see {place.log}.")
        time.sleep(0.05)


def clean_up(place: mounts.Place) -> None:
    """Remove a temporary mount point, and its state unless the outbox holds something."""
    place.erase(keep_spool=any(place.spool.glob("*.data")))
