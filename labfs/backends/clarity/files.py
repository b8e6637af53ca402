"""Files of Clarity: their lengths, and how they are saved and deleted.

Facts used here, with their sources: a file is attached by three requests, of which the first gives a place that no
two files can share (glsstorage reference); sending bytes to a file again replaces them (vendor's script for
placeholders); uploads to a completed step are refused (found by a public client's authors).

Tests: backends/test_clarity_backend, mount/test_clarity_mount.
"""

from __future__ import annotations

import logging
import mimetypes
import re
from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from labfs.backend import Buffer, Entry, Source, Target, is_dispensable
from labfs.backends.clarity import entries
from labfs.backends.clarity.entries import Node, children, ids_of, limsid_of, record, text
from labfs.backends.clarity.requests import API, ONE, Api, Whole, download
from labfs.backends.looking import Change, Looking, holds
from labfs.errors import (
    Denied,
    Enough,
    Exists,
    Invalid,
    LabfsError,
    Malformed,
    NoBytes,
    NotFound,
    NotPermitted,
    Unanswered,
    Unavailable,
    Unsupported,
)
from labfs.http.client import Client, Patience, Request
from labfs.http.forms import Form

log = logging.getLogger(__name__)

CLEANUP_S = 15.0
# What XML cannot hold, what a server takes for a path, and control characters.
_UNFIT = re.compile("[\x00-\x1f\x7f/\\\\\ud800-\udfff\ufffe\uffff]")


class Files:
    """The bytes of files: their lengths, and how they are saved."""

    def __init__(self, client: Client, api: Api) -> None:
        self._client = client
        self._api = api
        self._site = client.site
        self.looking = Looking(client.timeout_s)
        self.heads: bool | None = None  # whether HEAD tells a file's length; None before the first one
        self.orphans: set[str] = set()  # records without bytes that could not be deleted yet

    # -- lengths -------------------------------------------------------------------------------------

    async def measure(self, entry: Entry) -> int | None:
        """Return what HEAD tells, where it tells anything; a file whose bytes never came has no size."""
        if self.heads is False:
            return None
        try:
            return await self._head(entry)
        except Unavailable as error:
            if error.silent or is_dispensable():
                raise
            log.info("%s has no size: %s", entry.label, error)
        except (NotFound, Denied, Invalid, Malformed) as error:
            log.info("%s has no size: %s", entry.label, error)
        return None

    async def _head(self, entry: Entry) -> int | None:
        headers = {"Accept-Encoding": "identity"}
        try:
            length = (await self._client.call(Request("HEAD", download(entry), headers=headers))).announced
        except (Unsupported, Denied, Invalid):
            if self.heads:
                raise
            self.heads = False
            return None
        # No source says that HEAD is served, and some servers answer it with the length of its own body.
        if length is None or (length == 0 and await self._announced(entry)):
            log.info("%s does not tell lengths by HEAD.", self._site)
            self.heads = False
            return None
        self.heads = True
        return length

    async def _announced(self, entry: Entry) -> int | None:
        """Return the length that a download announces; its body is not waited for."""
        look = _Look()
        with suppress(Enough):
            await Whole(self._client, entry).pour(look)
        return look.size

    # -- saving --------------------------------------------------------------------------------------

    async def save(self, target: Target, source: Source) -> Entry:
        if target.folders or (target.replaces is None and _UNFIT.search(target.name)):
            raise Invalid(f"{self._site} cannot keep the name “{target.name}”; choose a plainer one.")
        if target.replaces is not None:
            try:
                held = await self._api.get(f"files/{target.replaces.label}", "file")
            except NotFound:
                log.info("%s is gone; “%s” is attached anew.", target.replaces.label, target.name)
            else:
                return await self._overwrite(held, source)
        return await self._attach(target, source)

    async def _overwrite(self, held: Node, source: Source) -> Entry:
        """Send other bytes to a file: its id, its name and its place stay."""
        entry, (kind, owner) = entries.file(held), entries.owner_of(held)
        if text(held, "content-location").startswith(("http:", "https:", "ftp:")):
            raise NotPermitted(f"“{entry.name}” is a link to a file elsewhere, and can be changed there alone.")
        step = owner if kind == "processes" else ""
        if kind == "artifacts":
            made_by = children(await self._api.get(f"artifacts/{owner}", "artifact"), "parent-process")
            step = next(ids_of(made_by), "")
        await self._check_open(step)
        await self._send(entry, step, source)
        return replace(entry, size=source.size)

    async def _attach(self, target: Target, source: Source) -> Entry:
        path, name, step = await self._place(target)
        await self._check_open(step)
        await self._clear()
        made = await self._made(path, name)
        label = limsid_of(made)
        try:
            entry = entries.file(made)
            if entry.name != target.name:
                raise Invalid(f"{self._site} would call this file “{entry.name}”; choose a plainer name.")
            await self._send(entry, step, source)
        except BaseException:
            # Without its bytes it would stay as a file that nobody can read.
            self.orphans.add(label)
            with trio.CancelScope(shield=True):
                await self._clear()
            raise
        return replace(entry, size=source.size)

    async def _place(self, target: Target) -> tuple[str, str, str]:
        """Return what a file is attached to, its name there, and the step that decides whether it may be."""
        kind, limsid, own = (*target.parent.id.split("/"), "", "")[:3]
        if kind == "samples" or (kind == "projects" and own):
            return f"{kind}/{limsid}", target.name, ""
        if kind != "processes":
            raise NotPermitted(f"Files cannot be attached to “{target.parent.name}”.")
        meant = entries.PLACEHOLDER.fullmatch(target.name)
        if meant is None:
            return f"processes/{limsid}", target.name, limsid
        try:
            artifact = await self._api.get(f"artifacts/{meant[1]}", "artifact")
        except NotFound:
            artifact = None
        if artifact is None or limsid not in ids_of(children(artifact, "parent-process")):
            raise Invalid(f"“{target.parent.name}” has no placeholder {meant[1]}; .meta.json there lists its own.")
        if any(entries.file_links(artifact)):
            raise Exists(
                f"The placeholder {meant[1]} holds a file, and takes no second one: save over it or delete it."
            )
        return f"artifacts/{meant[1]}", meant[2], limsid

    async def _check_open(self, step: str) -> None:
        """Raises NotPermitted for a step that takes no more files; one that tells no state is not judged."""
        with suppress(NotFound):
            if step and entries.is_completed(await self._api.get(f"steps/{step}", "step")):
                raise NotPermitted(
                    f"The step {step} is completed, and {self._site} takes no more files for it."
                ).advised("A file can be saved in the step's samples or in its project's _project.")

    async def _made(self, path: str, name: str) -> Node:
        """Make the record of a file; one whose answer was lost is known by its place, which no other file has."""
        home = self._api.address(path)
        given = await self._api.send("glsstorage", record(home, name), "file", patience=Patience.PERSISTENT)
        location = text(given, "content-location").strip()
        if not location:
            raise Malformed(f"{self._site} gave “{name}” no place to be stored.")
        change = Change(
            f"{path}/{name}",
            Making(home, name, location),
            lambda: self._record(change.began),
            lambda began: self._found(path, began),
            name=limsid_of,
        )
        return await self.looking.once(change)

    async def _record(self, making: Making) -> Node:
        """Make a record. One that is refused once it was sent before is there, for no two can have one place."""
        node = record(making.home, making.name, making.location)
        sent, making.sent = making.sent, True
        try:
            made = await self._api.send("files", node, "file", patience=Patience.PERSISTENT, repeatable=False)
            limsid_of(made)
        except ValueError as error:
            raise Malformed(f"{self._site} made a file without an id.") from error
        except Invalid as error:
            if not sent:
                raise
            raise Unanswered(str(error), lost=False) from error
        return made

    async def _found(self, path: str, making: Making) -> list[Node]:
        """Return the record of that place among the files of its owner."""
        kind = path.partition("/")[0]
        links = entries.file_links(await self._api.get(path, ONE[kind]))
        records = links | await self._api.batch("files", [i for i, link in links.items() if not has_place(link)])
        return [node for node in records.values() if text(node, "content-location").strip() == making.location]

    async def _send(self, entry: Entry, step: str, source: Source) -> None:
        """Send a file's bytes, and compare what arrived."""
        name = entry.name
        form = Form([], "file", name, mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream", source)
        headers = {"Content-Type": form.content_type}
        content = Whole(self._client, entry)

        async def send() -> str:
            path = f"{API}/{entry.id}/upload"
            await self._client.call(
                Request("POST", path, source=form, headers=headers, patience=Patience.PERSISTENT, repeatable=False)
            )
            return entry.id

        async def arrived(began: None) -> list[str]:
            with suppress(NotFound, NoBytes):
                if await self.measure(entry) in (source.size, None) and await holds(content, source):
                    return [entry.id]
            return []

        try:
            # Bytes that come late would take the place of newer ones: they are waited for.
            await self.looking.once(Change(f"{entry.id}/upload", None, send, arrived, mark=source.size))
        except (Invalid, Denied) as error:
            await self._check_open(step)  # perhaps it was completed just now
            if "UNDER_REVIEW" in error.said:
                raise NotPermitted(
                    f"Samples of the step {step} are under review; it takes no files until that is over."
                ) from error
            raise
        length = await self.measure(entry)
        if length is None:
            length = await self._announced(entry)
        if length not in (source.size, None):
            raise Malformed(f"{self._site} holds {length} bytes of the {source.size} that were sent; not saved.")

    # -- deleting ------------------------------------------------------------------------------------

    async def delete(self, limsid: str) -> None:
        with suppress(NotFound):
            await self._client.call(Request("DELETE", f"{API}/files/{limsid}", patience=Patience.PERSISTENT))

    async def _clear(self) -> None:
        """Delete the records that saves left behind when the site went away under them."""
        with trio.move_on_after(CLEANUP_S), suppress(LabfsError):
            for limsid in tuple(self.orphans):
                await self.delete(limsid)
                self.orphans.discard(limsid)


@dataclass(slots=True)
class Making:
    """The making of one record, at a place of its own."""

    home: str  # address of what it is attached to
    name: str
    location: str
    sent: bool = False


def has_place(node: Node) -> bool:
    return bool(text(node, "content-location").strip())


class _Look:
    """A sink that only wants to know how much would come."""

    received = 0
    size: int | None = None

    def begin(self, size: int | None) -> None:
        self.size = size
        raise Enough("The length is known.")

    def write(self, data: Buffer) -> None:
        raise Enough("The length is known.")
