"""Requests to Clarity: lists that hold links, batches that turn links into things, and files' bytes.

Facts used here, with their sources: a batch fails as a whole when one of its links leads nowhere
(Introduction to Batch Resources); a file is attached by three requests, of which the first gives a place
that no two files can share (glsstorage reference); sending bytes to a file again replaces them (vendor's
script for placeholders); uploads to a completed step are refused (found by a public client's authors).
"""

from __future__ import annotations

import logging
import mimetypes
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar
from xml.etree import ElementTree as ET

import trio

from labfs.backend import Buffer, Entry, Sink, Source, Target, is_dispensable
from labfs.backends import clarity_entries as entries
from labfs.backends.clarity_entries import RI, Node, children, ids_of, limsid_of, parsed, record, text
from labfs.client import Client, Patience
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
    Unranged,
    Unsupported,
)
from labfs.forms import Form

log = logging.getLogger(__name__)
T = TypeVar("T")
S = TypeVar("S")

API = "api/v2"
CONNECTIONS = 4  # at the same time; no limit is documented
BATCHES = {"samples": 300, "artifacts": 300, "files": 100}  # links in one request, as public clients send them
ONE = {"projects": "project", "samples": "sample", "artifacts": "artifact", "processes": "process", "files": "file"}
TRIES = 3  # of making a file's record
LOOK_BACK = 100  # newest files of an owner among which a lost record is looked for
CLEANUP_S = 15.0
# What XML cannot hold, what a server takes for a path, and control characters.
_UNFIT = re.compile("[\x00-\x1f\x7f/\\\\\ud800-\udfff\ufffe\uffff]")


class Api:
    """Requests to one server, and their answers as elements."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def address(self, path: str) -> str:
        """Return the address of a thing as it goes into a body."""
        return f"{self._client.url}{API}/{path}"

    async def get(self, path: str, root: str, params: Mapping[str, str] | None = None) -> Node:
        """Return what a path answers, which must be an element of that name."""
        return parsed(await self._client.call("GET", f"{API}/{path}", params=params), root)

    async def send(
        self,
        path: str,
        body: Node,
        root: str,
        *,
        patience: Patience = Patience.PROMPT,
        repeatable: bool = True,
    ) -> Node:
        """Post an element; return what it answers."""
        answer = await self._client.call(
            "POST",
            f"{API}/{path}",
            body=ET.tostring(body, "UTF-8", xml_declaration=True),
            headers={"Content-Type": "application/xml"},
            patience=patience,
            repeatable=repeatable,
        )
        return parsed(answer, root)

    async def listed(self, kind: str, start: int, **filters: str) -> tuple[list[Node], int | None]:
        """Return one page of a list, and where the next one starts."""
        root = await self.get(kind, kind, {"start-index": str(start), **filters})
        following = next(iter(children(root, "next-page")), None)
        if following is None:
            return children(root, ONE[kind]), None
        given = re.search(r"[?&]start-index=([0-9]{1,9})(?![0-9])", following.get("uri", ""))
        if given is None or int(given[1]) <= start:
            raise Malformed(f"{self._client.site} lists its {kind} in pages that lead nowhere.")
        return children(root, ONE[kind]), int(given[1])

    async def ids(self, kind: str, **filters: str) -> list[str]:
        """Return the ids in all pages of a list, each once."""
        found: dict[str, None] = {}
        start: int | None = 0
        while start is not None:
            links, start = await self.listed(kind, start, **filters)
            found.update(dict.fromkeys(ids_of(links)))
        return list(found)

    async def batch(self, kind: str, ids: Iterable[str]) -> dict[str, Node]:
        """Return the things of these ids; those that are gone are left out."""
        wanted, size = list(dict.fromkeys(ids)), BATCHES[kind]
        chunks = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        answers = await each(lambda chunk: self._retrieve(kind, chunk), chunks)
        found = {limsid: thing for answer in answers for limsid, thing in answer.items()}
        return {limsid: found[limsid] for limsid in wanted if limsid in found}

    async def _retrieve(self, kind: str, ids: list[str]) -> dict[str, Node]:
        links = ET.Element(f"{{{RI}}}links")
        for limsid in ids:
            ET.SubElement(links, "link", uri=self.address(f"{kind}/{limsid}"), rel=kind)
        try:
            things = children(await self.send(f"{kind}/batch/retrieve", links, "details"), ONE[kind])
        except (NotFound, Invalid) as error:
            if len(ids) > 1:
                # Something was deleted since it was listed: find it out by halves.
                log.info("A batch of %d %s failed: %s", len(ids), kind, error)
                half = len(ids) // 2
                return {**await self._retrieve(kind, ids[:half]), **await self._retrieve(kind, ids[half:])}
            try:
                things = [await self.get(f"{kind}/{ids[0]}", ONE[kind])]
            except NotFound:
                things = []
        return {limsid: thing for thing in things for limsid in ids_of([thing])}


async def each(work: Callable[[S], Awaitable[T]], items: Iterable[S]) -> list[T]:
    """Do something for all items, a few at a time; the first failure ends it."""
    waiting = enumerate(items)
    done: dict[int, T] = {}
    failures: list[LabfsError] = []

    async def worker(scope: trio.CancelScope) -> None:
        for number, item in waiting:
            try:
                done[number] = await work(item)
            except LabfsError as error:
                failures.append(error)
                scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(worker, nursery.cancel_scope)
    if failures:
        raise failures[0]
    return [done[number] for number in sorted(done)]


class Files:
    """The bytes of files: their lengths, and how they are saved."""

    def __init__(self, client: Client, api: Api) -> None:
        self._client = client
        self._api = api
        self._site = client.site
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
            told = (await self._client.call("HEAD", _download(entry), headers=headers)).headers
        except (Unsupported, Denied, Invalid):
            if self.heads:
                raise
            self.heads = False
            return None
        length = told.get("content-length", "")
        # No source says that HEAD is served, and some servers answer it with the length of its own body.
        if not re.fullmatch("[0-9]{1,18}", length) or (length == "0" and await self._announced(entry)):
            log.info("%s does not tell lengths by HEAD.", self._site)
            self.heads = False
            return None
        self.heads = True
        return int(length)

    async def _announced(self, entry: Entry) -> int | None:
        """Return the length that a download announces; its body is not waited for."""
        look = _Look()
        with suppress(Enough):
            await Whole(self._client, entry).pour(look)
        return look.size

    # -- saving --------------------------------------------------------------------------------------

    async def save(self, target: Target, source: Source) -> Entry:
        if _UNFIT.search(target.name) or target.folders:
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
            raise Invalid(f"“{target.parent.name}” has no placeholder {meant[1]}; its own are made by running a step.")
        if any(entries.file_links(artifact)):
            raise Exists(
                f"The placeholder {meant[1]} holds a file, and takes no second one: save over it or delete it."
            )
        return f"artifacts/{meant[1]}", meant[2], limsid

    async def _check_open(self, step: str) -> None:
        """Raises NotPermitted for a step that takes no more files; one that tells no state is not judged."""
        with suppress(NotFound):
            if step and entries.is_completed(await self._api.get(f"steps/{step}", "step")):
                raise NotPermitted(f"The step {step} is completed, and {self._site} takes no more files for it.")

    async def _made(self, path: str, name: str) -> Node:
        """Make the record of a file; one whose answer was lost is known by its place, which no other file has."""
        home = self._api.address(path)
        given = await self._api.send("glsstorage", record(home, name), "file", patience=Patience.PERSISTENT)
        location = text(given, "content-location").strip()
        if not location:
            raise Malformed(f"{self._site} gave “{name}” no place to be stored.")
        for attempt in range(1, TRIES + 1):
            try:
                made = await self._api.send(
                    "files",
                    record(home, name, location),
                    "file",
                    patience=Patience.PERSISTENT,
                    repeatable=False,
                )
                limsid_of(made)
            except (Unanswered, Malformed, ValueError, Invalid) as error:
                surely_not = isinstance(error, Invalid) and attempt == 1
                found = None if surely_not else await self._find(path, location)
                if found is not None:
                    return found
                if isinstance(error, ValueError):
                    raise Malformed(f"{self._site} made a file without an id.") from error
                if isinstance(error, Invalid) or attempt == TRIES:
                    raise
                await trio.sleep(attempt)
            else:
                return made
        raise AssertionError("unreachable")

    async def _find(self, path: str, location: str) -> Node | None:
        """Look for a record whose making was not answered, among the newest files of its owner."""
        kind = path.partition("/")[0]
        links = entries.file_links(await self._api.get(path, ONE[kind]))
        newest = sorted(links, key=entries.age_of)[-LOOK_BACK:]
        for held in (await self._api.batch("files", newest)).values():
            if text(held, "content-location").strip() == location:
                return held
        return None

    async def _send(self, entry: Entry, step: str, source: Source) -> None:
        """Send a file's bytes, and compare what arrived: sent twice, the same bytes lie there once."""
        name = entry.name
        form = Form([], "file", name, mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream", source)
        headers = {"Content-Type": form.content_type}
        try:
            path = f"{API}/{entry.id}/upload"
            await self._client.call("POST", path, source=form, headers=headers, patience=Patience.PERSISTENT)
        except (Invalid, Denied):
            await self._check_open(step)  # perhaps it was completed just now
            raise
        length = await self.measure(entry)
        if length is None:
            length = await self._announced(entry)
        if length not in (source.size, None):
            raise Malformed(f"{self._site} holds {length} bytes of the {source.size} that were sent; not saved.")

    # -- deleting ------------------------------------------------------------------------------------

    async def delete(self, limsid: str) -> None:
        with suppress(NotFound):
            await self._client.call("DELETE", f"{API}/files/{limsid}", patience=Patience.PERSISTENT)

    async def _clear(self) -> None:
        """Delete the records that saves left behind when the site went away under them."""
        with trio.move_on_after(CLEANUP_S), suppress(LabfsError):
            for limsid in tuple(self.orphans):
                await self.delete(limsid)
                self.orphans.discard(limsid)


class Whole:
    """The content of a file, which comes in one pass: without versions, ranges could be of two."""

    def __init__(self, client: Client, entry: Entry) -> None:
        self._client = client
        self._entry = entry

    async def prepare(self) -> None:
        """Nothing to do: the address is known."""

    async def read(self, start: int, stop: int) -> Buffer:
        raise Unranged(f"{self._client.site} sends files whole.")

    async def pour(self, sink: Sink) -> None:
        try:
            await self._client.pour_own(_download(self._entry), sink, check=self._check)
        except NotFound as error:
            if "File does not exist" in str(error):
                name, site = self._entry.name, self._client.site
                raise NoBytes(f"The bytes of “{name}” never reached {site}, or are lost there.") from error
            raise

    def _check(self, headers: Mapping[str, str]) -> None:
        if "content-disposition" not in headers:
            raise Malformed(f"{self._client.site} sent a page instead of “{self._entry.name}”.")


class _Look:
    """A sink that only wants to know how much would come."""

    received = 0
    size: int | None = None

    def begin(self, size: int | None) -> None:
        self.size = size
        raise Enough("The length is known.")

    def write(self, data: Buffer) -> None:
        raise Enough("The length is known.")


def _download(entry: Entry) -> str:
    return f"{API}/{entry.id}/download"
