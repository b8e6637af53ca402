"""`labfs run`: a mount for one command, which ends with it, whatever ends it.

The daemon holds the end of a pipe that this process holds the other end of: when this process is killed, the daemon
unmounts and cleans up by itself. Signals are waited for rather than handled, since only so can it be told whether the
terminal sent one, to the command as well, or a process to us alone.

Tests: mount/test_run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from labfs.cli.mounting import clean_up, spawn, uploads, users, wait_for_end
from labfs.cli.outbox import leftovers_in
from labfs.cli.status import show_uploads
from labfs.daemon import config, mounts
from labfs.errors import LabfsError

OURS, NOT_RUN, NOT_FOUND, UNSAVED = 125, 126, 127, 75  # exit statuses, as those of env(1); the last is EX_TEMPFAIL
PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
SI_KERNEL = 0x80  # asm-generic/siginfo.h: sent by the kernel, as for Ctrl-C, which the command gets by itself


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--site", "sites", multiple=True, metavar="NAME", help="Mount only this site; may be repeated.")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option("--at", "where", metavar="DIR", help="Mount at this empty directory, and keep its cache.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    path: Path | None, sites: tuple[str, ...], read_only: bool, where: str | None, command: tuple[str, ...]
) -> None:
    """Mount, run COMMAND, wait for its uploads, unmount.

    The mount point is a temporary directory, or DIR; COMMAND finds it in LABFS_MOUNT, and in place of {} in its words.

    \b
    Exit status:
      that of COMMAND; 128 and the number of the signal that ended it
      75   COMMAND succeeded, but saves did not reach their server (labfs outbox list)
      125  the mount or its end failed
      126  COMMAND cannot be run;  127  COMMAND is not found
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    directory = mounts.absolute(where) if where else os.path.realpath(tempfile.mkdtemp(prefix="labfs-run-"))
    place = mounts.Place(directory)
    options = [*(f"--site={name}" for name in sites), *(["--read-only"] if read_only else [])]
    options += [] if where else ["--temporary"]
    try:
        status = _inside(place, config.load(path).only(sites).path, options, command)
    except LabfsError as error:
        click.echo(f"labfs: {error}", err=True)
        status = OURS
    kept = leftovers_in(place)
    if kept:
        _tell(place, len(kept), temporary=where is None)
        status = status or UNSAVED
    if where is None and not place.in_use():
        clean_up(place)
    sys.exit(status)


def _tell(place: mounts.Place, count: int, *, temporary: bool) -> None:
    how = (
        f"mkdir -p {place.mountpoint} && labfs mount {place.mountpoint}"
        if temporary
        else f"labfs mount {place.mountpoint}"
    )
    click.echo(
        f"labfs: {count} save(s) did not reach their server; their bytes are safe. labfs outbox list shows them, and"
        f" `{how}` sends what only waits.",
        err=True,
    )


def _inside(place: mounts.Place, path: Path, options: list[str], command: tuple[str, ...]) -> int:
    """Run a command while the mount is there; return its exit status. Raises ConfigError."""
    theirs, ours = os.pipe()
    try:
        mounts.check(place.mountpoint)
        place.prepare()
        for line in spawn(path, [f"--until-fd={theirs}", *options], place.mountpoint, (theirs,)).splitlines()[1:]:
            click.echo(f"labfs: {line}", err=True)
        os.close(theirs)
        status = _run([word.replace("{}", place.mountpoint) for word in command], place.mountpoint)
        _unmount(place)
        return status
    except KeyboardInterrupt:
        click.echo("labfs: interrupted; what was not saved is in the outbox.", err=True)
        return 128 + signal.SIGINT
    finally:
        os.close(ours)  # now the daemon ends in any case
        if place.in_use():
            wait_for_end(place)
        if mounts.left_behind(place.mountpoint):
            mounts.detach(place.mountpoint)


def _run(command: list[str], mountpoint: str) -> int:
    """Run a command, passing on signals; return its exit status."""
    waited = {*PASSED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        process = subprocess.Popen(
            command,
            env={**os.environ, "LABFS_MOUNT": mountpoint},
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, before),  # noqa: PLW1509, no other thread
        )
        while process.poll() is None:
            told = signal.sigwaitinfo(waited)
            if told.si_signo != signal.SIGCHLD and told.si_code != SI_KERNEL:
                process.send_signal(told.si_signo)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode
    except FileNotFoundError:
        click.echo(f"labfs: {command[0]}: there is no such command.", err=True)
        return NOT_FOUND
    except OSError as error:
        click.echo(f"labfs: {command[0]} cannot be run: {error.strerror}.", err=True)
        return NOT_RUN
    finally:
        while signal.sigtimedwait({signal.SIGINT}, 0):  # the terminal's, which were meant for the command
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unmount(place: mounts.Place) -> None:
    """Wait for uploads, and unmount; a mount that is still in use ends all the same, and that is told."""
    show_uploads(lambda: uploads(place, "uploading"), err=True)
    if mounts.unmount(place.mountpoint):
        wait_for_end(place)
        return
    click.echo(f"labfs: {users(place.mountpoint)} still uses the mount, which ends now.", err=True)
