"""The commands of `labfs outbox`: what could not be saved, and the only ways out of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from labfs.daemon import control, mounts
from labfs.errors import ConfigError
from labfs.write.journal import NEVER_CLOSED, OVERTAKEN, is_duty, known, leftovers, overtaken, remove

Note = dict[str, Any]


@click.group()
def outbox() -> None:
    """Saves that never reached their server."""


def kept_in(place: mounts.Place) -> list[Note]:
    """Return what lies in the spool of a mount and is no living daemon's work."""
    if not place.is_served():
        kept = [note for note in leftovers(place.spool) if note["state"] not in ("local", "saved")]
        return [note for note in kept if note["bytes"] or note["state"] != "writing"]
    try:  # the daemon knows also what a full disk took no note of
        found: list[Note] = control.ask(place.socket, {"op": "outbox"})["notes"]
    except ConfigError:
        return [note for note in leftovers(place.spool) if note["state"] in ("waiting", "failed", "replacing")]
    return found


def _find(name: str) -> tuple[mounts.Place, Note]:
    for place in mounts.places():
        for note in kept_in(place):
            if _stem(note) == name:
                return place, note
    raise ConfigError(f"The outbox has no “{name}”; see: labfs outbox list")


def _stem(note: Note) -> str:
    return Path(note["file"]).stem


@outbox.command("list")
def outbox_list() -> None:
    """List them: name, size, where they belong, why they failed."""
    for place in mounts.places():
        for note in kept_in(place):
            click.echo(
                f"{_stem(note)}  {_state(note)}  {size(note['bytes'])}  {note.get('path', '?')}  {_reason(note)}"
            )


def _state(note: Note) -> str:
    return "waiting" if note["state"] in ("waiting", "sending", "replacing") else "failed"


def _reason(note: Note) -> str:
    if is_duty(note):
        return str(note.get("error") or "its old file is still to be deleted")
    reason = str(
        note.get("error") or (NEVER_CLOSED[0] if note["state"] == "writing" else "labfs ended before it was saved")
    )
    return f"{reason}; {OVERTAKEN}" if known(note) and overtaken(note) and "since" not in reason else reason


@outbox.command("retry")
@click.argument("name", required=False)
def outbox_retry(name: str | None) -> None:
    """Send NAME once more, over what is there now; without NAME all that failed, was closed and is the latest.

    With NAME it says first what it is about to do to which version, and does it to that version only.
    """
    chosen = _retry_all() if name is None else _retry_one(name)
    click.echo(f"{chosen} save(s) are sent again; labfs outbox list shows what is left of them.")


def _retry_all() -> int:
    chosen = left = 0
    for place in mounts.places():
        notes = kept_in(place)
        if notes:
            _check_mounted(place)
            count = control.ask(place.socket, {"op": "retry"})["count"]
            chosen, left = chosen + count, left + len(notes) - count
    if left:
        click.echo(f"{left} more are sent only by name, since they were not closed or something newer was saved since.")
    return chosen


def _retry_one(name: str) -> int:
    place, note = _find(name)
    if not known(note):
        raise ConfigError(f"{name} cannot be sent: {note['error']}.")
    _check_mounted(place)
    plan = control.ask(place.socket, {"op": "plan", "name": name})
    click.echo(plan["sentence"])
    return int(control.ask(place.socket, {"op": "retry", "name": name, "over": plan.get("over")})["count"])


def _check_mounted(place: mounts.Place) -> None:
    if not place.in_use():
        raise ConfigError(f"{place.mountpoint} is not mounted; mount it, and what waits is sent.")


@outbox.command("export")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--partial", is_flag=True, help="Also an edit of which bytes are missing.")
def outbox_export(name: str, file: Path, partial: bool) -> None:
    """Copy the bytes of NAME to FILE, which must not exist."""
    _, note = _find(name)
    missing = sum(stop - start for start, stop in note.get("missing", []))
    if missing and not partial:
        raise ConfigError(
            f"{name} was an edit of a file on the server and lacks {size(missing)} that are only there; "
            "get that file first, or export what there is, zeros between, with --partial."
        )
    if not Path(note["file"]).is_file():
        raise ConfigError(f"{name} cannot be exported: {note['error']}.")
    with open(note["file"], "rb") as source, open(file, "xb") as sink:
        try:
            while chunk := source.read(1024 * 1024):
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())  # a disk that is full or far away may say so only now, and what is here may go next
        except BaseException:
            file.unlink(missing_ok=True)  # half of it would look like all of it
            raise


@outbox.command("discard")
@click.argument("name")
def outbox_discard(name: str) -> None:
    """Delete the bytes of NAME for good."""
    place, note = _find(name)
    if place.in_use() and known(note):
        control.ask(place.socket, {"op": "discard", "name": name})
    else:
        remove(Path(note["file"]))


def size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
