"""The command line: commands ⇄ calls of the other packages. Every failure is reported in one plain sentence.

The exit status is 0 only when a command did what it says.

Tests: mount/test_cli.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from labfs import __version__
from labfs.cli.doctor import doctor
from labfs.cli.host.completion import completion
from labfs.cli.host.unit import unit
from labfs.cli.login import login
from labfs.cli.looking import fetch, info, log, open_, refresh, trace, verify, why
from labfs.cli.manual.command import manual
from labfs.cli.mounting import mount, refusal, umount
from labfs.cli.outbox import outbox
from labfs.cli.run import run
from labfs.cli.sites import sites
from labfs.cli.status import status
from labfs.errors import ConfigError, LabfsError, secrecy, sentence

COMMANDS = (
    mount, umount, run, status, why, info, open_, refresh, fetch, verify, log, trace, outbox, login, sites, doctor,
    unit, completion, manual,
)  # fmt: skip


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
        _fail(refusal(error))
    except Exception as error:
        logging.getLogger(__name__).debug("A mistake of labfs", exc_info=True)
        _fail(sentence(error))
    sys.exit(0)


def _fail(sentence: str, status: int = 1) -> NoReturn:
    click.echo(f"labfs: {sentence}", err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="labfs")
def cli() -> None:
    """Mount laboratory data systems as one ordinary drive."""


# -- sandbox and demo ----------------------------------------------------------------------------------


@cli.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Where it keeps its files, and writes labfs.toml and sandbox.json.",
)
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


for command in COMMANDS:
    cli.add_command(command)
