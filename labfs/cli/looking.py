"""Commands about one path or one mount: why it failed, what it is, its page on the web, the log, and a trace.

Tests: mount/test_looking, mount/test_why.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from labfs.cli.host.completion import directories, files
from labfs.daemon import control, mounts
from labfs.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")
LOOK_S = 0.2  # between two looks at a log that is followed


def inside(path: str) -> tuple[mounts.Place, str]:
    """Return the living mount that a path lies in, and the path from its mount point. Raises ConfigError."""
    where = mounts.absolute(path)
    for place in mounts.places():
        found = place.inside(where)
        if found is not None and place.in_use():
            return place, found
        if found is not None and mounts.left_behind(place.mountpoint):
            raise ConfigError(f"{dead(place.mountpoint)} Its log: labfs log {place.mountpoint}")
    raise ConfigError(f"{path} is not in anything that labfs has mounted.")


def dead(mountpoint: str) -> str:
    """Return the sentence about a mount that was left behind, and what to do."""
    return (
        f"{mountpoint} is dead: its labfs ended without unmounting; run: labfs mount {mountpoint},"
        f" or labfs umount {mountpoint} to be rid of it. What was written is kept: labfs outbox list."
    )


@click.command()
@click.argument("path", shell_complete=files)
def why(path: str) -> None:
    """Say why the last thing that failed at PATH failed: there, in a folder above it, or on its site."""
    place, within = inside(path)
    told = control.ask(place.socket, {"op": "why", "path": within})
    click.echo(told["reason"] or "Nothing has failed there.")
    if told["change"]:
        click.echo(f"It cannot be changed: {told['change']}")


@click.command()
@click.argument("path", shell_complete=files)
def info(path: str) -> None:
    """Show what the lab system says about PATH."""
    place, within = inside(path)
    for name, value in control.ask(place.socket, {"op": "info", "path": within}).items():
        click.echo(f"{name.removeprefix('user.labfs.'):<10} {value}")


@click.command()
@click.argument("path", shell_complete=files)
def refresh(path: str) -> None:
    """Have PATH and everything below asked of its server again."""
    place, within = inside(path)
    control.ask(place.socket, {"op": "refresh", "path": within})


@click.command()
@click.option("--pin", is_flag=True, help="Keep this version on the disk until it is unpinned, or another pinned.")
@click.option("--unpin", is_flag=True, help="Fetch nothing, and let it be evicted again.")
@click.argument("path", shell_complete=files)
def fetch(pin: bool, unpin: bool, path: str) -> None:
    """Bring PATH, or all files below it, onto this machine's disk, so that they are read from there.

    Ctrl-C ends it; what has come stays.
    """
    place, within = inside(path)
    if unpin:
        count = control.ask(place.socket, {"op": "unpin", "path": within})["count"]
        click.echo(f"{count} file(s) may be evicted again.")
        return
    files, total, failed, ended = 0, 0, 0, False
    for told in control.follow(place.socket, {"op": "fetch", "path": within, "pin": pin}):
        ended = bool(told.get("end"))
        if ended:
            break
        if told["problem"]:
            failed += 1
            click.echo(f"{told['path']}: {told['problem']}", err=True)
        elif told["bytes"] >= told["size"]:
            files, total = files + 1, total + told["size"]
            click.echo(f"{told['path']}  {told['size']:,} bytes")
    if not ended:
        raise ConfigError(f"The labfs of {place.mountpoint} has ended; run it again once it is mounted.")
    click.echo(f"{files} file(s), {total:,} bytes are on this machine{' and stay there' if pin else ''}.")
    if failed:
        raise ConfigError(f"{failed} could not be fetched, for the reasons above.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each file.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, shell_complete=files)
def verify(as_json: bool, paths: tuple[str, ...]) -> None:
    """Read each PATH, or all files below it, whole from the server, and compare with the server's checksums.

    What is kept on this machine is not looked at. A file is proved; or equal, where its system has no checksum, and it
    came twice and was the same; or wrong; or unread. The exit status is 0 if none is wrong or unread.
    """
    where = [inside(path) for path in paths]
    counts: Counter[str] = Counter()
    for place in dict.fromkeys(place for place, _ in where):
        ended = False
        within = [path for of, path in where if of == place]
        for told in control.follow(place.socket, {"op": "verify", "paths": within}):
            ended = bool(told.get("end"))
            if ended:
                break
            counts[told["verdict"]] += 1
            line = f"{told['verdict']:7} {told['path']}  {told['size']:,} bytes  {told['remark']}".rstrip()
            click.echo(json.dumps(told) if as_json else line)
        if not ended:
            raise ConfigError(f"The labfs of {place.mountpoint} has ended; run it again once it is mounted.")
    if not as_json:
        click.echo(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "There is no file.")
    if counts["wrong"] or counts["unread"]:
        raise ConfigError("Not every file is as its server says; each line above says why.")


@click.command("open")
@click.option("--print", "only_print", is_flag=True, help="Print the address only.")
@click.argument("path", shell_complete=files)
def open_(only_print: bool, path: str) -> None:
    """Print the address of PATH's page in the lab system's web application, and open it where there is a display.

    Where PATH has no page of its own, that of the record, project or site that it is in.
    """
    place, within = inside(path)
    told = control.ask(place.socket, {"op": "page", "path": within})
    if told["url"] is None:
        raise ConfigError(f"{told['site']} tells no web address for {path}, nor for what it is in.")
    click.echo(told["url"])
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if only_print or not shown:
        return
    if shutil.which("xdg-open") is None:
        raise ConfigError("The page cannot be opened: xdg-open is missing; install the package xdg-utils.")
    done = subprocess.run(["xdg-open", told["url"]], check=False, cwd="/")
    if done.returncode:
        raise ConfigError(f"The page cannot be opened: xdg-open ended with status {done.returncode}.")


# -- the log -------------------------------------------------------------------------------------------


@click.command()
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), help="Log from this level on, from now on.")
@click.option("-f", "--follow", is_flag=True, help="Show what is added, until Ctrl-C.")
@click.option("-n", "--lines", default=50, show_default=True, help="How many of the last lines to show; 0 for none.")
@click.argument("mountpoint", required=False, shell_complete=directories)
def log(level: str | None, follow: bool, lines: int, mountpoint: str | None) -> None:
    """Show the log of the mount at MOUNTPOINT, or of the only one; set its level while it runs.

    Levels: debug (every request), info, warning, error. LABFS_LOG sets the one that a mount begins with.
    """
    place = _place(mountpoint)
    path: Path | None = place.log
    if place.in_use():
        told = control.ask(place.socket, {"op": "log", "level": level and level.upper()})
        path = Path(told["file"]) if told["file"] else None
        if level:
            click.echo(f"{place.mountpoint} logs from level {told['level'].lower()} on.", err=True)
    elif level:
        raise ConfigError(
            f"{place.mountpoint} is not served; LABFS_LOG={level.upper()} sets the level of its next mount."
        )
    if path is None:
        raise ConfigError(f"The labfs of {place.mountpoint} runs in the foreground, and logs to its terminal.")
    if not path.exists():
        raise ConfigError(f"{place.mountpoint} has no log.")
    if level and not follow:
        return
    try:
        for line in _followed(path, lines) if follow else _last(path, lines):
            click.echo(line, nl=False)
    except KeyboardInterrupt:
        pass  # the usual end


def _place(mountpoint: str | None) -> mounts.Place:
    known = mounts.places()
    if mountpoint is not None:
        where = mounts.absolute(mountpoint)
        return next((place for place in known if place.inside(where) is not None), None) or _unknown(where)
    known = [place for place in known if not place.mountpoint.startswith(mounts.NAMELESS)]  # no mounts, and no logs
    living = [place for place in known if place.in_use()] or known
    if len(living) != 1:
        named = ", ".join(place.mountpoint for place in living)
        raise ConfigError(f"Which mount? Name one of: {named}" if living else "Nothing was mounted yet.")
    return living[0]


def _unknown(where: str) -> mounts.Place:
    raise ConfigError(f"labfs has never mounted anything at {where}.")


def _last(path: Path, count: int) -> Iterator[str]:
    with open(path, errors="replace") as file:
        yield from deque(file, count)


def _followed(path: Path, count: int) -> Iterator[str]:
    """Yield the last lines of a log and those that are added, also after it was begun anew."""
    file: IO[str] = open(path, errors="replace")
    try:
        yield from deque(file, count)
        while True:
            yield from file
            time.sleep(LOOK_S)
            if path.exists() and not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield from file
                file.close()
                file = open(path, errors="replace")
    finally:
        file.close()


@click.command()
@click.argument("path", shell_complete=files)
def trace(path: str) -> None:
    """Show what happens at PATH and below, until Ctrl-C.

    Each request of the kernel and how it ended, and the requests to the server that were made for it.
    """
    place, within = inside(path)
    try:
        for told in control.follow(place.socket, {"op": "trace", "path": within}):
            if "line" in told:
                click.echo(told["line"])
            else:
                click.echo(f"Tracing {place.mountpoint.rstrip('/')}{within.rstrip('/')}; Ctrl-C ends it.", err=True)
    except KeyboardInterrupt:
        return
    raise ConfigError(f"The labfs of {place.mountpoint} has ended.")
