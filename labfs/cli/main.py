"""The command line: commands ⇄ calls of the other packages. Every failure is reported in one plain sentence.

The exit status is 0 only when a command did what it says.

Tests: mount/test_cli.
"""

from __future__ import annotations

import io
import json
import logging
import logging.handlers
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from labfs import __version__
from labfs.cli.doctor import doctor
from labfs.cli.login import login
from labfs.cli.outbox import leftovers_in, outbox, size
from labfs.cli.sites import sites
from labfs.daemon import config, control, mounts
from labfs.errors import ConfigError, LabfsError, secrecy, sentence

END_S = 60.0  # for a daemon to end after its mount is gone
LOG_BYTES = 5 * 1024 * 1024


def main() -> NoReturn:
    """Run the command line and exit; every exception is reported as a sentence, without a traceback."""
    secrecy.guard_tracebacks()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name from a server need not be valid text
            stream.reconfigure(errors="backslashreplace")
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        _fail("Interrupted.", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _fail("Interrupted.", 130)
    except LabfsError as error:
        _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except OSError as error:
        _fail(_refusal(error))
    except Exception as error:
        logging.getLogger(__name__).debug("A mistake of labfs", exc_info=True)
        _fail(sentence(error))
    sys.exit(0)


def _refusal(error: OSError) -> str:
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."


def _fail(sentence: str, status: int = 1) -> NoReturn:
    click.echo(f"labfs: {sentence}", err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="labfs")
def cli() -> None:
    """Mount laboratory data systems as one ordinary drive."""


# -- mounting ------------------------------------------------------------------------------------------


@cli.command()
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--site", "sites", multiple=True, metavar="NAME", help="Mount only this site; may be repeated.")
@click.option("--read-only", is_flag=True, help="Refuse every change.")
@click.option("--allow-other", is_flag=True, help="Let other users of this machine in.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in front and log to the terminal.")
@click.option("--ready-fd", type=int, hidden=True)
@click.argument("mountpoint")
def mount(
    path: Path | None,
    sites: tuple[str, ...],
    read_only: bool,
    allow_other: bool,
    foreground: bool,
    ready_fd: int | None,
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
        _spawn(settings.path, options, where)
        return
    if not place.claim():
        raise ConfigError(f"{where} is being mounted by another labfs.")
    _set_up_log(place.log if ready_fd is not None else None)
    with _announcer(ready_fd) as announce:
        # Imported here: only the daemon needs libfuse, and `labfs sandbox` runs without it.
        from labfs.daemon.daemon import Daemon

        Daemon(settings, place, announce, read_only=read_only, allow_other=allow_other).run()


def _spawn(path: Path, options: list[str], where: str) -> None:
    """Start the daemon in a session of its own and wait until it serves or reports an error."""
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "labfs", "mount", "-f", f"--ready-fd={theirs}", "-c", str(path.absolute())]
    process = subprocess.Popen(
        [*command, *options, "--", where],
        pass_fds=[theirs],
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
        click.echo(text.removeprefix("ok "))
        return
    process.wait(END_S)
    raise ConfigError(text.strip() or f"The labfs daemon ended before it served; see {mounts.Place(where).log}.")


@contextmanager
def _announcer(fd: int | None) -> Iterator[Any]:
    """Yield a function that tells the waiting parent, or the terminal, that the mount serves; send errors there too."""
    if fd is None:
        yield click.echo
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
            pipe.write(_refusal(error))
    except Exception:
        logging.getLogger(__name__).exception("The daemon ended on a mistake of its own")
        raise
    finally:
        pipe.close()


def _set_up_log(path: Path | None) -> None:
    """Log to a file of bounded size, or to the terminal."""
    level = os.environ.get("LABFS_LOG", "INFO").upper()
    handler: logging.Handler = logging.StreamHandler()
    if path is not None:
        path.touch(mode=0o600)
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8", errors="backslashreplace"
        )
    handler.setFormatter(secrecy.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # Libraries log whole addresses and headers: of their records only warnings and errors.
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("labfs").setLevel(level if level in logging.getLevelNamesMapping() else "INFO")


@cli.command()
@click.argument("mountpoint")
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
        _drain(place)
        drafts = _uploads(place, "draft")
        if drafts:
            click.echo(f"{len(drafts)} draft(s) end with the mount, and are saved under the name that they have.")
        if not mounts.unmount(where):
            raise ConfigError(f"{where} is in use by {_users(where)}; close it and try again.")
        _wait_for_end(place)
        click.echo(f"Unmounted {where}.")
    kept = leftovers_in(place)
    if kept:
        raise ConfigError(f"{len(kept)} save(s) never reached their server; their bytes are safe: labfs outbox list")


def _drain(place: mounts.Place) -> None:
    """Wait while uploads are under way, and print them; files that programs still write are not waited for."""
    said = ""
    while True:
        under_way = _uploads(place, "uploading")
        if not under_way:
            return
        text = ", ".join(f"{u['path']} ({size(u['sent'])} of {size(u['size'])})" for u in under_way[:3])
        if text != said:
            click.echo(f"Waiting for {len(under_way)} upload(s): {text}")
        said = text
        time.sleep(0.5)


def _uploads(place: mounts.Place, state: str) -> list[dict[str, Any]]:
    return [u for u in control.ask(place.socket, {"op": "status"})["uploads"] if u["state"] == state]


def _users(where: str) -> str:
    from labfs.fuse import holders  # imported here, since it imports the whole core

    found = holders.using(where)
    return ", ".join(f"{h.program} (process {h.pid}, {h.path})" for h in found[:5]) or "another program"


def _wait_for_end(place: mounts.Place) -> None:
    deadline = time.monotonic() + END_S
    while place.in_use():
        if time.monotonic() > deadline:
            raise ConfigError(f"The daemon of {place.mountpoint} has not ended yet; see {place.log}.")
        time.sleep(0.05)


# -- looking -------------------------------------------------------------------------------------------


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> None:
    """Show mounts, sites, uploads, cache and spool."""
    found = []
    for place in mounts.places():
        if place.in_use():
            try:
                found.append(control.ask(place.socket, {"op": "status"}))
            except ConfigError as error:  # the other mounts may answer
                found.append({"mountpoint": place.mountpoint, "silent": str(error)})
        elif mounts.left_behind(place.mountpoint):
            found.append({"mountpoint": place.mountpoint, "dead": True})
    if as_json:
        click.echo(
            json.dumps(
                {"mounts": found, "outbox": [left.report() for p in mounts.places() for left in leftovers_in(p)]}
            )
        )
        return
    if not found:
        click.echo("Nothing is mounted.")
    for mount in found:
        click.echo("\n".join(_describe(mount)))
    kept = sum(len(leftovers_in(place)) for place in mounts.places())
    if kept:
        click.echo(f"{kept} save(s) never reached their server; their bytes are safe: labfs outbox list")


def _describe(mount: dict[str, Any]) -> Iterator[str]:
    where = mount["mountpoint"]
    if mount.get("silent"):
        yield f"{where}  is starting, ending or busy: {mount['silent']}"
        return
    if mount.get("dead"):
        yield f"{where}  dead: its labfs ended without unmounting; run: labfs umount {where}"
        return
    cache, spool = mount["cache"], mount["spool"]
    yield f"{mount['mountpoint']}  process {mount['pid']}, log {mount['log']}"
    for site in mount["sites"]:
        yield f"  {site['name']:<16} {site['kind']:<10} {site['access']:<6} {site['outage'] or site['url']}"
        if site["doubt"]:
            yield f"  {'':<16} {site['doubt']}"
    for remark in mount["listings"]:
        yield f"  {remark}"
    yield f"  cache {size(cache['bytes'])} of {size(cache['capacity'])}; {size(spool['free'])} free for writing"
    if mount["local_files"]:
        yield f"  {mount['local_files']} temporary file(s) stay on this machine"
    for upload in mount["uploads"]:
        if upload["state"] == "draft":
            yield f"  draft: {upload['path']}, {size(upload['size'])}, waits for its last name"
            continue
        yield f"  {upload['state']}: {upload['path']}, {size(upload['sent'])} of {size(upload['size'])}"
    for problem in mount["errors"][:5]:
        yield f"  {problem['path']}: {problem['reason']}"


@cli.command()
@click.argument("path")
def why(path: str) -> None:
    """Say why the last thing that failed at PATH failed."""
    place, inside = _inside(path)
    reason = control.ask(place.socket, {"op": "why", "path": inside})["reason"]
    click.echo(reason or "Nothing has failed there.")


@cli.command()
@click.argument("path")
def info(path: str) -> None:
    """Show what the lab system says about PATH."""
    place, inside = _inside(path)
    for name, value in control.ask(place.socket, {"op": "info", "path": inside}).items():
        click.echo(f"{name.removeprefix('user.labfs.'):<10} {value}")


@cli.command()
@click.argument("path")
def refresh(path: str) -> None:
    """Have PATH and everything below asked of its server again."""
    place, inside = _inside(path)
    control.ask(place.socket, {"op": "refresh", "path": inside})


def _inside(path: str) -> tuple[mounts.Place, str]:
    """Return the mount that a path lies in, and the path from its mount point."""
    where = mounts.absolute(path)
    for place in mounts.places():
        if (where + "/").startswith(place.mountpoint.rstrip("/") + "/") and place.in_use():
            return place, where[len(place.mountpoint) :] or "/"
    raise ConfigError(f"{path} is not in anything that labfs has mounted.")


# -- sandbox and demo ----------------------------------------------------------------------------------


@cli.command()
@click.option("--dir", "directory", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--port", default=0, help="Port of the control origin; the services take the next ones.")
def sandbox(directory: Path, port: int) -> None:
    """Serve a local stand-in of the lab systems until interrupted."""
    try:
        from labfs import sandbox as stand_in
    except ImportError as error:
        raise ConfigError(f"The sandbox needs more packages ({error.name}): pip install 'labfs[sandbox]'") from error
    try:
        stand_in.run(directory.absolute(), port, click.echo)
    except OSError as error:
        raise ConfigError(f"The sandbox cannot start: {error.strerror or error}.") from error


@cli.command()
@click.option("--keep", is_flag=True, help="Leave everything mounted at the end.")
def demo(keep: bool) -> None:
    """Mount a sandbox and give a tour of it with ordinary tools."""
    from labfs.cli.demo import tour

    sys.exit(tour(keep=keep))


cli.add_command(doctor)
cli.add_command(login)
cli.add_command(outbox)
cli.add_command(sites)
