"""The commands of `labfs outbox`: list the saves that failed or wait, and retry, export or discard them.

Tests: mount/test_cli, mount/test_recovery.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from labfs.daemon import control, mounts
from labfs.errors import ConfigError
from labfs.write.journal import NEVER_CLOSED, OVERTAKEN, Leftover, Spooled, State, Strange, heard
from labfs.write.pairs import leftovers, remove

ENDED = (State.LOCAL, State.SAVED)  # states of files that end with the mount


@click.group()
def outbox() -> None:
    """Saves that never reached their server."""


def leftovers_in(place: mounts.Place) -> list[Leftover]:
    """Return the saves in the spool of a mount that no living daemon has open."""
    if not place.is_served():
        kept = [left for left in leftovers(place.spool) if _state(left) not in ENDED]
        return [left for left in kept if left.bytes or _state(left) is not State.WRITING]
    try:  # the daemon also knows the saves whose notes a full disk refused
        return [heard(told) for told in control.ask(place.socket, {"op": "outbox"})["notes"]]
    except ConfigError:
        left_over = (State.WAITING, State.FAILED, State.REPLACING)
        return [left for left in leftovers(place.spool) if _state(left) in left_over]


def _state(left: Leftover) -> State:
    return State.FAILED if isinstance(left, Strange) else left.note.state


def _find(what: str) -> tuple[mounts.Place, Leftover]:
    """Return the save of that name, or the only one at that path: of the file, or of its copy beside it."""
    where, found = mounts.absolute(what), []
    for place in mounts.places():
        path = place.inside(where)
        for left in leftovers_in(place):
            if left.file.stem == what:
                return place, left
            if path is not None and isinstance(left, Spooled) and path in mounts.paths(left):
                found.append((place, left))
    if not found:
        raise ConfigError(f"The outbox has no “{what}”; see: labfs outbox list")
    if len(found) > 1:
        stems = ", ".join(left.file.stem for _, left in found)
        raise ConfigError(f"The outbox has {len(found)} saves of {what}; name one of them: {stems}")
    return found[0]


@outbox.command("list")
def outbox_list() -> None:
    """List them: name, size, where they belong, why they failed."""
    for place in mounts.places():
        for left in leftovers_in(place):
            state = left.note.shown if isinstance(left, Spooled) else State.FAILED
            path = left.note.path if isinstance(left, Spooled) else left.path or "?"
            click.echo(f"{left.file.stem}  {state}  {size(left.bytes)}  {path}  {_reason(left)}")


def _reason(left: Leftover) -> str:
    if isinstance(left, Strange):
        return left.problem
    note = left.note
    if note.is_duty:
        return note.error or "its old file is still to be deleted"
    ended = NEVER_CLOSED[0] if note.state is State.WRITING else "labfs ended before it was saved"
    reason = note.error or ended
    return f"{reason}; {OVERTAKEN}" if note.is_overtaken and "since" not in reason else reason


@outbox.command("retry")
@click.argument("name", metavar="[NAME|PATH]", required=False)
def outbox_retry(name: str | None) -> None:
    """Send a save once more, by its name or path, over what is there now.

    Without one all that failed, was closed and is the latest is sent. With one it says first what it is about to do to
    which version, and does it to that version only.
    """
    chosen = _retry_all() if name is None else _retry_one(name)
    click.echo(f"{chosen} save(s) are sent again; labfs outbox list shows what is left of them.")


def _retry_all() -> int:
    chosen = left = 0
    for place in mounts.places():
        kept = leftovers_in(place)
        if kept:
            _check_mounted(place)
            count = control.ask(place.socket, {"op": "retry"})["count"]
            chosen, left = chosen + count, left + len(kept) - count
    if left:
        click.echo(f"{left} more are sent only by name, since they were not closed or something newer was saved since.")
    return chosen


def _retry_one(name: str) -> int:
    place, left = _find(name)
    name = left.file.stem
    if isinstance(left, Strange):
        raise ConfigError(f"{name} cannot be sent: {left.problem}.")
    _check_mounted(place)
    plan = control.ask(place.socket, {"op": "plan", "name": name})
    click.echo(plan["sentence"])
    return int(control.ask(place.socket, {"op": "retry", "name": name, "over": plan.get("over")})["count"])


def _check_mounted(place: mounts.Place) -> None:
    if place.in_use():
        return
    if place.mountpoint.startswith(mounts.NAMELESS):
        raise ConfigError(
            f"The program that wrote to {place.mountpoint} has ended; the next one that opens labfs:// with this"
            " configuration sends what waits."
        )
    raise ConfigError(f"{place.mountpoint} is not mounted; mount it, and what waits is sent.")


@outbox.command("export")
@click.argument("name", metavar="NAME|PATH")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--partial", is_flag=True, help="Also an edit of which bytes are missing.")
def outbox_export(name: str, file: Path, partial: bool) -> None:
    """Copy the bytes of a save to FILE, which must not exist."""
    _, left = _find(name)
    missing = sum(stop - start for start, stop in left.note.missing) if isinstance(left, Spooled) else 0
    if missing and not partial:
        raise ConfigError(
            f"{name} was an edit of a file on the server and lacks {size(missing)} that are only there; "
            "get that file first, or export what there is, zeros between, with --partial."
        )
    if not left.file.is_file():
        raise ConfigError(f"{name} cannot be exported: {_reason(left)}.")
    with open(left.file, "rb") as source, open(file, "xb") as sink:
        try:
            while chunk := source.read(1024 * 1024):
                sink.write(chunk)
            sink.flush()
            os.fsync(sink.fileno())  # a full or remote disk may fail only now, and the save may be discarded next
        except BaseException:
            file.unlink(missing_ok=True)  # a partial copy would look complete
            raise


@outbox.command("cancel")
@click.argument("what", metavar="NAME|PATH")
def outbox_cancel(what: str) -> None:
    """Stop an upload that is under way, by its path, or a save that waits; its bytes stay in the outbox.

    The program that saves is told that the save was cancelled (ECANCELED).
    """
    where, refused = mounts.absolute(what), f"“{what}” is neither in anything that labfs has mounted nor in the outbox."
    for place in mounts.places():
        for name in filter(None, (place.inside(where), what)) if place.in_use() else ():
            try:
                path = control.ask(place.socket, {"op": "cancel", "what": name})["path"]
            except ConfigError as error:
                refused = str(error)
                continue
            click.echo(f"The upload of {path} is cancelled; its bytes stay in the outbox: labfs outbox list")
            return
    raise ConfigError(refused)


@outbox.command("discard")
@click.argument("name", metavar="NAME|PATH")
def outbox_discard(name: str) -> None:
    """Delete the bytes of a save for good."""
    place, left = _find(name)
    if place.in_use() and isinstance(left, Spooled):
        control.ask(place.socket, {"op": "discard", "name": left.file.stem})
    else:
        remove(left.file)


def size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
