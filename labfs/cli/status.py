"""`labfs status`: what is mounted and how it is, once or watched, for people, scripts and Prometheus.

On a terminal rich draws it; elsewhere it is plain text, so that it can be searched. README.md beside this module lists
the exit statuses, the fields of `--json` and the names of the metrics.

Tests: mount/test_status.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from labfs.cli.looking import dead
from labfs.cli.outbox import leftovers_in, size
from labfs.daemon import control, mounts
from labfs.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

Found = dict[str, Any]

WELL, PENDING, FAILED, DEAD = 0, 3, 4, 5  # exit statuses; 1 and 2 are those of every command that fails
ASKED_S = 20.0  # for a daemon to answer
WATCHED_S = 3.0  # … while somebody watches
DRAIN_S = 0.5  # between two looks at the uploads that are waited for
MARKS = {"well": "green", "unasked": "dim", "doubtful": "yellow", "silent": "red", "refused": "red"}
SHOWN = 5  # errors, and saves in the outbox


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON; watched, one line each time.")
@click.option("--prometheus", is_flag=True, help="Print metrics in Prometheus's text format, with their meaning.")
@click.option("-w", "--watch", is_flag=True, help="Show it anew until Ctrl-C.")
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(0.1, 3600), help="Seconds between.")
def status(as_json: bool, prometheus: bool, watch: bool, interval: float) -> None:
    """Show mounts, sites, uploads, cache, outbox and what failed last.

    \b
    Exit status:
      0  all is well
      3  uploads are under way, or files are written that were not closed yet
      4  something failed: the outbox is not empty, or a site does not answer or refuses its credentials
      5  a mount is dead, or its labfs does not answer
    """
    if watch:
        _watch(as_json, prometheus, interval)
    found = gather()
    _print(found, as_json, prometheus)
    sys.exit(verdict(found))


def gather(timeout_s: float = ASKED_S) -> Found:
    """Return the state of all mounts, and what is in the outboxes, as plain data."""
    found, kept = [], []
    for place in mounts.places():
        if place.in_use():
            try:
                found.append(control.ask(place.socket, {"op": "status"}, timeout_s))
            except ConfigError as error:  # the other mounts may answer
                found.append({"mountpoint": place.mountpoint, "silent": str(error)})
        elif mounts.left_behind(place.mountpoint):
            found.append({"mountpoint": place.mountpoint, "dead": True})
        kept += [left.report() for left in leftovers_in(place)]
    return {"mounts": found, "outbox": kept}


def verdict(found: Found) -> int:
    """Return the exit status that tells a script how all is."""
    living = [mount for mount in found["mounts"] if "sites" in mount]
    if len(living) < len(found["mounts"]):
        return DEAD
    troubled = any(trouble(site) for mount in living for site in mount["sites"])
    if found["outbox"] or troubled:
        return FAILED
    return PENDING if any(mount["uploads"] for mount in living) else WELL


def trouble(site: Found) -> str | None:
    """Return why a site cannot be used at present, or could not be at the mount."""
    told: str | None = site["outage"] or site["refusal"] or site["doubt"]
    return told


def _print(found: Found, as_json: bool, prometheus: bool) -> None:
    if as_json:
        click.echo(json.dumps(found))
    elif prometheus:
        click.echo("\n".join(metrics(found)))
    elif _can_draw():
        from rich.console import Console

        Console().print(panel(found))
    else:
        click.echo("\n".join(map(visible, plain(found))))


def _can_draw() -> bool:
    """Whether the output is a terminal with a cursor that can be moved."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def visible(text: str) -> str:
    """Return a text without control characters: a server's word must not reach the terminal as a command."""
    return "".join(letter if letter.isprintable() else "·" for letter in text)


def _watch(as_json: bool, prometheus: bool, interval: float) -> NoReturn:
    """Show the state until Ctrl-C or SIGTERM, on a screen of its own, which leaves the terminal as it was."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if as_json or prometheus or not _can_draw():
            while True:
                _print(gather(WATCHED_S), as_json, prometheus)
                sys.stdout.flush()
                time.sleep(interval)
        from rich.live import Live

        with Live(panel(gather(WATCHED_S)), screen=True, auto_refresh=False) as live:
            while True:
                live.update(panel(gather(WATCHED_S)), refresh=True)
                time.sleep(interval)
    except KeyboardInterrupt:
        sys.exit(0)  # the usual end


# -- as plain text -------------------------------------------------------------------------------------


def plain(found: Found) -> Iterator[str]:
    """Yield the lines of the state as text."""
    if not found["mounts"]:
        yield "Nothing is mounted."
    for mount in found["mounts"]:
        yield from _describe(mount)
    if found["outbox"]:
        yield f"{len(found['outbox'])} save(s) never reached their server; their bytes are safe: labfs outbox list"


def _describe(mount: Found) -> Iterator[str]:
    where = mount["mountpoint"]
    if "sites" not in mount:
        yield _absence(mount)
        return
    made = ", read-only" if mount["read_only"] else ""
    yield f"{where}  process {mount['pid']}{made}, log {mount['log']}"
    for site in mount["sites"]:
        yield f"  {site['name']:<16} {site['kind']:<10} {site['access']:<6} {_state(site)}"
        if trouble(site):
            yield f"  {'':<16} {trouble(site)}"
    for remark in mount["listings"]:
        yield f"  {remark}"
    yield f"  {_room(mount)}"
    if mount["shared"]:
        yield f"  {_shared(mount['shared'])}"
    if mount["local_files"]:
        yield f"  {mount['local_files']} temporary file(s) stay on this machine"
    for upload in mount["uploads"]:
        if upload["state"] == "draft":
            yield f"  draft: {upload['path']}, {size(upload['size'])}, waits for its last name"
            continue
        yield f"  {upload['state']}: {upload['path']}, {size(upload['sent'])} of {size(upload['size'])}{_speed(upload)}"
    for problem in mount["errors"][:SHOWN]:
        yield f"  {problem['path']}: {problem['reason']}"


def _absence(mount: Found) -> str:
    if mount.get("dead"):
        return dead(mount["mountpoint"])
    return f"{mount['mountpoint']}  is starting, ending or busy: {mount['silent']}"


def _state(site: Found) -> str:
    took = "" if site["latency_s"] is None else f", answers in {1000 * site['latency_s']:.0f} ms"
    return f"{site['state']:<8} {site['url']}{took}"


def _room(mount: Found) -> str:
    cache, rate = mount["cache"], hit_rate(mount)
    hits = "" if rate is None else f", {100 * rate:.0f} % of what was read was there"
    free = size(mount["spool"]["free"])
    return f"cache {size(cache['bytes'])} of {size(cache['capacity'])}{hits}; {free} free for writing"


def _shared(tier: Found) -> str:
    if tier["trouble"]:
        since = time.strftime("%H:%M:%S", time.localtime(tier["since"]))
        return f"shared tier {tier['store']} left alone since {since}: {tier['trouble']}"
    return f"shared tier {tier['store']}, {tier['blocks']:,} block(s) came from other machines"


def hit_rate(mount: Found) -> float | None:
    """Return the share of the bytes given to programs that did not have to be fetched; None before the first."""
    given, fetched = mount["reads"]["given"], mount["reads"]["fetched"]
    return max(1 - fetched / given, 0.0) if given else None


def _speed(upload: Found) -> str:
    if upload["state"] != "uploading":
        return ""
    left_s = remaining_s(upload)
    return f", {size(upload['rate'])}/s" + ("" if left_s is None else f", {span(left_s)} left")


def remaining_s(upload: Found) -> float | None:
    """Return how many seconds an upload takes yet, at the rate of late; None while nothing moves."""
    return (upload["size"] - upload["sent"]) / upload["rate"] if upload["rate"] else None


def span(seconds: float) -> str:
    """Return a duration for people."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# -- on a terminal -------------------------------------------------------------------------------------


def _text(text: str, style: str = "") -> RenderableType:
    from rich.text import Text

    return Text(visible(text), style)


def panel(found: Found) -> RenderableType:
    """Return the state as rich draws it."""
    from rich.console import Group

    parts: list[RenderableType] = []
    for mount in found["mounts"]:
        if "sites" in mount:
            parts += _panel_of(mount)
        else:
            parts.append(_text(_absence(mount), "bold red"))
        parts.append("")
    if not found["mounts"]:
        parts.append("Nothing is mounted.")
    if found["outbox"]:
        parts.append(
            _text(f"outbox: {len(found['outbox'])} save(s) never reached their server (labfs outbox list)", "bold red")
        )
        parts += [
            _text(f"  {left['path'] or '?'}: {left['error'] or left['state']}") for left in found["outbox"][:SHOWN]
        ]
    return Group(*parts)


def _panel_of(mount: Found) -> Iterator[RenderableType]:
    from rich.table import Table

    made = "  read-only" if mount["read_only"] else ""
    yield _text(f"{mount['mountpoint']}  process {mount['pid']}{made}", "bold")
    sites = Table("site", "kind", "access", "state", "latency", "url", box=None, pad_edge=True, header_style="dim")
    sites.columns[-1].no_wrap, sites.columns[-1].overflow = True, "ellipsis"
    for site in mount["sites"]:
        took = "" if site["latency_s"] is None else f"{1000 * site['latency_s']:.0f} ms"
        state = _text(site["state"], MARKS[site["state"]])
        sites.add_row(_text(site["name"]), site["kind"], site["access"], state, took, _text(site["url"], "dim"))
    yield sites
    for site in mount["sites"]:
        if trouble(site):
            yield _text(f" {site['name']}: {trouble(site)}", "red")
    if mount["uploads"]:
        yield _bars(mount["uploads"])
    yield _text(f" {_room(mount)}")
    if mount["shared"]:
        yield _text(f" {_shared(mount['shared'])}", "yellow" if mount["shared"]["trouble"] else "")
    for remark in mount["listings"]:
        yield _text(f" {remark}", "yellow")
    for problem in mount["errors"][:SHOWN]:
        yield _text(f" {problem['path']}: {problem['reason']}", "red")


def _bars(uploads: list[Found]) -> RenderableType:
    """Return a table of uploads: path, bar, bytes, rate and the time that is left."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table(box=None, pad_edge=True, show_header=False, expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for width in (24, None, None, None):
        table.add_column(width=width, no_wrap=True)
    for upload in uploads:
        left_s = remaining_s(upload)
        moving = upload["state"] == "uploading"
        table.add_row(
            _text(f"↑ {upload['path']}"),
            ProgressBar(total=max(upload["size"], 1), completed=upload["sent"], width=24)
            if moving
            else upload["state"],
            f"{size(upload['sent'])} of {size(upload['size'])}" if moving else size(upload["size"]),
            f"{size(upload['rate'])}/s" if moving else "",
            "" if left_s is None or not moving else f"{span(left_s)} left",
        )
    return table


def show_uploads(pending: Callable[[], list[Found]], *, err: bool = False) -> None:
    """Wait while uploads are `pending`, and show how far they are: bars on a terminal, else lines."""
    if not (uploads := pending()):
        return
    if (sys.stderr if err else sys.stdout).isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(_bars(uploads), console=Console(stderr=err), transient=True, auto_refresh=False) as live:
            while uploads := pending():
                live.update(_bars(uploads), refresh=True)
                time.sleep(DRAIN_S)
        return
    said = ""
    while uploads:
        text = ", ".join(f"{u['path']} ({size(u['sent'])} of {size(u['size'])}{_speed(u)})" for u in uploads[:3])
        if text != said:
            click.echo(f"Waiting for {len(uploads)} upload(s): {text}", err=err)
        said = text
        time.sleep(DRAIN_S)
        uploads = pending()


# -- for Prometheus ------------------------------------------------------------------------------------

Samples = list[tuple[dict[str, Any], float]]
METRICS = {
    "labfs_up": "1 where a labfs serves the mount and answers, 0 where it is dead or silent",
    "labfs_site_up": "1 while a site answers and takes the credentials, 0 while it does not",
    "labfs_site_latency_seconds": "how long the answers of a site took of late",
    "labfs_uploads": "files that are not on their server yet, by state",
    "labfs_upload_remaining_bytes": "bytes of uploads under way that have not left this machine",
    "labfs_upload_bytes_per_second": "rate of all uploads of late",
    "labfs_outbox_saves": "saves that never reached their server, by state",
    "labfs_cache_bytes": "bytes cached, in memory (blocks), and on disk (disk) and as whole files (copies)",
    "labfs_read_bytes_total": "bytes of servers' files given to programs since the mount",
    "labfs_fetched_bytes_total": "bytes of files fetched from servers since the mount",
    "labfs_spool_free_bytes": "room for what is written",
    "labfs_failing_paths": "paths whose last failure has not passed",
}


def metrics(found: Found) -> Iterator[str]:
    """Yield the lines of the text exposition format, version 0.0.4."""
    for name, meaning in METRICS.items():
        yield f"# HELP {name} {meaning}"
        yield f"# TYPE {name} {'counter' if name.endswith('_total') else 'gauge'}"
        for labels, value in _samples(name, found):
            told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"{name}{{{told}}} {value}" if told else f"{name} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _samples(name: str, found: Found) -> Samples:
    if name == "labfs_up":
        return [({"mountpoint": mount["mountpoint"]}, int("sites" in mount)) for mount in found["mounts"]]
    if name == "labfs_outbox_saves":
        return [({"state": state}, n) for state, n in Counter(left["state"] for left in found["outbox"]).items()]
    return [
        ({"mountpoint": mount["mountpoint"], **labels}, value)
        for mount in found["mounts"]
        if "sites" in mount
        for labels, value in _of_mount(name, mount)
    ]


def _of_mount(name: str, mount: Found) -> Samples:
    moving = [upload for upload in mount["uploads"] if upload["state"] == "uploading"]
    sites = [({"site": site["name"], "kind": site["kind"]}, site) for site in mount["sites"]]
    values: dict[str, Samples] = {
        "labfs_site_up": [(labels, int(trouble(site) is None)) for labels, site in sites],
        "labfs_site_latency_seconds": [(labels, s["latency_s"]) for labels, s in sites if s["latency_s"] is not None],
        "labfs_uploads": [({"state": s}, n) for s, n in Counter(u["state"] for u in mount["uploads"]).items()],
        "labfs_upload_remaining_bytes": [({}, sum(u["size"] - u["sent"] for u in moving))],
        "labfs_upload_bytes_per_second": [({}, sum(u["rate"] for u in moving))],
        "labfs_cache_bytes": [({"cache": kind}, mount[field]["bytes"]) for kind, field in
                              (("blocks", "cache"), ("disk", "blocks_on_disk"), ("copies", "copies"))],
        "labfs_read_bytes_total": [({}, mount["reads"]["given"])],
        "labfs_fetched_bytes_total": [({}, mount["reads"]["fetched"])],
        "labfs_spool_free_bytes": [({}, mount["spool"]["free"])],
        "labfs_failing_paths": [({}, len(mount["errors"]))],
    }  # fmt: skip
    return values[name]
