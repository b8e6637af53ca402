"""`labfs doctor`: what is in the way on this machine and at each server, and how each is put right.

Tests: mount/test_doctor.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from labfs.daemon import config
from labfs.errors import ConfigError
from labfs.errors.secrecy import hidden

if TYPE_CHECKING:
    from labfs.daemon.setup.findings import Finding

MARKS = {"good": "ok   ", "note": "note ", "wrong": "WRONG"}


@click.command()
@click.option("-c", "--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Write findings, configuration and logs, without secrets, to this .zip or .tar.gz.",
)
def doctor(path: Path | None, as_json: bool, bundle: Path | None) -> None:
    """Look for what is in the way, on this machine and at each server; write nothing there.

    Exit status 0 only if nothing needs fixing.
    """
    # Imported here: HTTP libraries take half a second, which `labfs --help` does not need.
    from labfs.daemon.setup import examination

    path = path or config.default_path()
    if bundle is not None and bundle.exists():
        raise ConfigError(f"{bundle} is there already; name another file.")
    report = examination.examine(path)
    if as_json:
        click.echo(hidden(json.dumps(report.as_data(), ensure_ascii=False)))
    else:
        for finding in report.findings:
            click.echo(_told(finding))
        click.echo(_sum(report.findings))
    if bundle is not None:
        examination.bundle(report, path, bundle)
        click.echo(f"{bundle} holds findings, configuration and the ends of the logs, without secrets.", err=as_json)
    if report.wrong:
        sys.exit(1)


def _told(finding: Finding) -> str:
    fix = f"\n      {'':<16} → {finding.fix}" if finding.fix else ""
    return hidden(f"{MARKS[finding.level]} {finding.topic:<16} {finding.sentence}{fix}")


def _sum(findings: list[Finding]) -> str:
    count = sum(finding.level == "wrong" for finding in findings)
    return "Nothing needs fixing." if not count else f"{count} thing(s) need fixing."
