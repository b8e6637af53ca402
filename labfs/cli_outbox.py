"""The commands of `labfs outbox`: what could not be saved, and the only ways out of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from labfs import control, mounts
from labfs.errors import ConfigError
from labfs.notes import known, leftovers, remove


@click.group()
def outbox() -> None:
    """Saves that never reached their server."""


def kept_in(place: mounts.Place) -> list[dict[str, Any]]:
    """Return what lies in the spool of a mount and is no living daemon's work."""
    alive = place.in_use()
    kept = [note for note in leftovers(place.spool) if note["state"] not in ("local", "saved")]
    if alive:
        return [note for note in kept if note["state"] in ("waiting", "failed")]
    return [note for note in kept if note["bytes"] or note["state"] != "writing"]


def _find(name: str) -> dict[str, Any]:
    for place in mounts.places():
        for note in kept_in(place):
            if Path(note["file"]).stem == name:
                return note
    raise ConfigError(f"The outbox has no “{name}”; see: labfs outbox list")


@outbox.command("list")
def outbox_list() -> None:
    """List them: name, size, where they belong, why they failed."""
    for place in mounts.places():
        for note in kept_in(place):
            reason = note.get("error") or "labfs ended before it was saved"
            state = "waiting" if note["state"] in ("waiting", "sending") else "failed"
            click.echo(f"{Path(note['file']).stem}  {state}  {size(note['bytes'])}  {note.get('path', '?')}  {reason}")


@outbox.command("retry")
@click.argument("name", required=False)
def outbox_retry(name: str | None) -> None:
    """Send NAME once more, also over what was saved since; without NAME all that failed and nothing overtook."""
    if name is not None and not known(note := _find(name)):
        raise ConfigError(f"{name} cannot be sent: {note['error']}.")
    chosen = 0
    for place in mounts.places():
        notes = [note for note in kept_in(place) if name in (None, Path(note["file"]).stem)]
        if notes and not place.in_use():
            raise ConfigError(f"{place.mountpoint} is not mounted; mount it, and what waits is sent.")
        if notes:
            chosen += control.ask(place.socket, {"op": "retry", "name": name})["count"]
    click.echo(f"{chosen} save(s) are sent again; labfs outbox list shows what is left of them.")


@outbox.command("export")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--partial", is_flag=True, help="Also an edit of which bytes are missing.")
def outbox_export(name: str, file: Path, partial: bool) -> None:
    """Copy the bytes of NAME to FILE, which must not exist."""
    note = _find(name)
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
    remove(Path(_find(name)["file"]))


def size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
