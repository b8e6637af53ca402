"""Illumina Clarity LIMS, REST API v2.

    site → projects → `_project`, samples and step runs → files

Facts used here, with their sources: HTTP Basic at every request; lists hold links, and only samples,
artifacts and files can be asked for many at a time (API reference); a file's record has neither size, date,
checksum nor version (schemas), so an entry has no version, and a file is taken whole: ranges of one that
was replaced in between would be mixed and nobody could tell. A file is attached by three requests,
replaced by sending bytes to its id again, and sent in one piece below the site's limit (vendor's scripts).
A step's folder is named after its id and the type of the step, both of which last.

Tests: backends/test_clarity_backend, mount/test_clarity_mount.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from labfs.backend import Capabilities, Content, Entry, Page, Replace, Source, Target
from labfs.backends.basic import Basic
from labfs.backends.clarity import entries
from labfs.backends.clarity.entries import Node, checked, children, explain, ids_of, text
from labfs.backends.clarity.files import Files
from labfs.backends.clarity.requests import API, BATCHES, CONNECTIONS, Api, Whole
from labfs.backends.common import Settings, sift
from labfs.backends.several import each
from labfs.errors import Denied, Invalid, Malformed, NotFound, NotPermitted, Unsupported
from labfs.errors.health import Health
from labfs.http.client import Client

log = logging.getLogger(__name__)

LIMIT = "api.artifacts.max.resultfile.upload.size"
USUAL_LIMIT = 10_485_760  # bytes of an upload where the site does not show its own limit
AT_ONCE = CONNECTIONS * BATCHES["files"]  # files of a page
FEW = 8  # steps whose types are asked for one by one

CAPABILITIES = Capabilities(
    ranged=False,
    deletable=True,
    replace=Replace.IN_PLACE,
    whole=USUAL_LIMIT,
    connections=CONNECTIONS,
)


def build(settings: Settings) -> Clarity:
    login = Basic(settings.secrets["username"], settings.secrets["password"])
    client = Client(
        settings.name,
        settings.url.rstrip("/").removesuffix(f"/{API}").removesuffix("/api"),
        login,
        another=login.another,
        connections=CAPABILITIES.connections,
        timeout_s=settings.timeout_s,
        proxy=settings.proxy,
        ca=settings.ca,
        login=settings.login(_is_own, entries.RIGHTS),
        gate=settings.gate,
        explain=explain,
    )
    return Clarity(client, settings.secrets["username"])


class Clarity:
    """One Clarity server, as the login of one user sees it."""

    def __init__(self, client: Client, username: Callable[[], str]) -> None:
        self._client = client
        self._username = username
        self._api = Api(client)
        self._limit: int | None = None  # bytes of an upload, as the site shows it
        self._limit_asked = False
        self._files = Files(client, self._api)
        self._links: dict[str, dict[str, Node]] = {}  # to files, of lists under way; asked for again where one is lost
        self.looking = self._files.looking

    @property
    def capabilities(self) -> Capabilities:
        return replace(CAPABILITIES, whole=self._limit or USUAL_LIMIT, measured=self._files.heads is not False)

    @property
    def root(self) -> Entry:
        return Entry(id="", name=self._client.site, is_dir=True, read_only=entries.READ_ONLY_ROOT)

    @property
    def multipart(self) -> None:
        """A file goes up in one piece only."""

    @property
    def health(self) -> Health:
        return self._client.health

    async def aclose(self) -> None:
        await self._client.aclose()

    async def check(self) -> str:
        await self._api.get("", "index")
        await self._learn_limit()
        return self._username()  # the system has no question for it

    async def rights(self) -> str:
        return ""

    async def _learn_limit(self) -> None:
        """Read the upload limit, where the site shows its properties to this login."""
        try:
            properties = children(await self._api.get("configuration/properties", "properties"), "property")
        except (Denied, NotFound, Invalid, Unsupported, Malformed) as error:
            log.info("%s does not show its upload limit: %s", self._client.site, error)
            self._limit_asked = True
            return
        self._limit_asked = True
        shown = [item.get("value") or "" for item in properties if item.get("name") == LIMIT]
        if shown and re.fullmatch("[0-9]{1,15}", shown[0]) and int(shown[0]):
            self._limit = int(shown[0])

    # -- looking -------------------------------------------------------------------------------------

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        match parent.id.split("/"):
            case [""]:
                if not self._limit_asked:
                    await self._learn_limit()
                links, following = await self._api.listed("projects", int(cursor or 0))
                return _page(entries.project, links, following)
            case ["projects", limsid] if cursor is None:  # what is there in any case, before anything is asked
                return Page((entries.own_files(limsid),), "0")
            case ["projects", limsid] if cursor == "steps":
                return await self._steps(limsid, parent.name)
            case ["projects", limsid]:
                return await self._samples(limsid, int(cursor or 0))
        return await self._held(parent, cursor)

    async def _samples(self, project: str, start: int) -> Page:
        """Samples first; then the project's steps."""
        links, following = await self._api.listed("samples", start, projectlimsid=project)
        samples = await self._api.batch("samples", ids_of(links))
        page = _page(entries.sample, samples.values(), following)
        return replace(page, cursor=page.cursor or "steps", left_out=page.left_out + len(links) - len(samples))

    async def _held(self, parent: Entry, cursor: str | None) -> Page:
        """Return files that are in a directory, a few batches at a time; a record that is there is not asked for.

        The cursor is the id before them, so that a list can be read on also where its links were forgotten.
        """
        links = self._links.get(parent.id) if cursor is not None else None
        if links is None:
            links = {i: link for thing in await self._holders(parent) for i, link in entries.file_links(thing).items()}
        ids = sorted(links, key=_in_order)
        start = 0 if cursor is None else bisect_right(ids, _in_order(cursor), key=_in_order)
        # What a save that failed left here is to be sent again under its name.
        shown = {i: links[i] for i in ids[start : start + AT_ONCE] if i not in self._files.orphans}
        bare = [limsid for limsid, link in shown.items() if not entries.is_record(link)]
        records = shown | await self._api.batch("files", bare)
        found, left_out = sift(entries.file, [node for node in records.values() if entries.is_record(node)])
        self._links.pop(parent.id, None)
        if start + AT_ONCE >= len(ids):
            return Page(found, left_out=left_out)
        self._links[parent.id] = links
        return Page(found, ids[start + AT_ONCE - 1], left_out=left_out)

    async def _holders(self, parent: Entry) -> list[Node]:
        """Return the things whose files are in a directory."""
        match parent.id.split("/"):
            case ["projects", limsid, "self"]:
                return [await self._api.get(f"projects/{limsid}", "project")]
            case ["samples", limsid]:
                return [await self._api.get(f"samples/{limsid}", "sample")]
            case ["processes", limsid]:
                process = await self._process(limsid)
                artifacts = await self._api.batch("artifacts", entries.outputs(process))
                return [process, *artifacts.values()]
        raise NotFound(f"“{parent.name}” holds nothing that could be listed.")

    async def _process(self, limsid: str) -> Node:
        """Return a step run; put together from its step where the deprecated processes are served no more."""
        try:
            return await self._api.get(f"processes/{limsid}", "process")
        except NotFound:
            process = await self._api.get(f"steps/{limsid}", "step")
        log.warning("%s serves no processes: files of the step %s itself are not shown.", self._client.site, limsid)
        for maps in children(await self._api.get(f"steps/{limsid}/details", "details"), "input-output-maps"):
            process.extend(children(maps, "input-output-map"))
        return process

    # -- the steps of a project ----------------------------------------------------------------------

    async def _steps(self, project: str, name: str) -> Page:
        """List a project's step runs, which the system selects by the project's name alone."""
        namesakes = await self._api.ids("projects", name=name)
        if project not in namesakes:
            # It was renamed since it was listed; by its old name it would seem to have no steps.
            name = text(await self._api.get(f"projects/{project}", "project"), "name")
            namesakes = await self._api.ids("projects", name=name)
        runs = await self._api.ids("processes", projectname=name)
        if len(namesakes) > 1:
            types = await self._types_of_own(project, runs)
        else:
            types = await self._types(name, runs)
        return Page(tuple([entries.step(limsid, types[limsid]) for limsid in runs if limsid in types]))

    async def _types(self, project_name: str, runs: list[str]) -> dict[str, str]:
        """Return the types of a project's step runs: asked for by type, since there are few and of steps many.

        A filter that does not keep its word is found out by a second run that it let through.
        """
        types: dict[str, str] = {}
        left = runs
        while len(left) > FEW:
            first = await self._type(left[0])
            if first is None:
                left = left[1:]
                continue
            same = set(await self._api.ids("processes", projectname=project_name, type=first))
            others = [limsid for limsid in left if limsid in same and limsid != left[0]]
            if types.keys() & same or (others and await self._type(others[-1]) not in (first, None)):
                log.warning("%s does not select processes by type.", self._client.site)
                left, types = runs, {}
                break
            types |= dict.fromkeys([left[0], *others], first)
            left = [limsid for limsid in left if limsid not in types]
        singly = await each(self._type, left, CONNECTIONS)
        return types | {limsid: kind for limsid, kind in zip(left, singly, strict=True) if kind is not None}

    async def _type(self, limsid: str) -> str | None:
        """Return the type of a step run; None for one that is gone."""
        try:
            return entries.type_of(await self._process(limsid))
        except NotFound:
            return None

    async def _types_of_own(self, project: str, runs: list[str]) -> dict[str, str]:
        """Tell the step runs of one project from those of its namesakes, by the samples of their inputs."""
        own = set(await self._api.ids("samples", projectlimsid=project))
        processes = dict(zip(runs, await each(self._found, runs, CONNECTIONS), strict=True))
        inputs = {limsid: entries.inputs(process) for limsid, process in processes.items() if process is not None}
        artifacts = await self._api.batch("artifacts", [i for ids in inputs.values() for i in ids])
        ours = {artifact for artifact, node in artifacts.items() if own.intersection(ids_of(children(node, "sample")))}
        return {
            limsid: entries.type_of(process)
            for limsid, process in processes.items()
            if process is not None and ours.intersection(inputs[limsid])
        }

    async def _found(self, limsid: str) -> Node | None:
        try:
            return await self._process(limsid)
        except NotFound:
            return None

    # -- one thing -----------------------------------------------------------------------------------

    async def stat(self, entry_id: str) -> Entry:
        kind, _, rest = entry_id.partition("/")
        limsid, _, own = rest.partition("/")
        try:
            checked(limsid)
            match kind:
                case "projects":
                    found = entries.project(await self._api.get(f"projects/{limsid}", "project"))
                    return entries.own_files(found.label) if own else found
                case "samples":
                    return entries.sample(await self._api.get(f"samples/{limsid}", "sample"))
                case "processes":
                    return entries.step(limsid, entries.type_of(await self._process(limsid)))
                case "files":
                    return entries.file(await self._api.get(f"files/{limsid}", "file"))
        except ValueError as error:
            raise Malformed(f"{self._client.site} answered for {entry_id} with something else.") from error
        raise NotFound(f"There is no {entry_id}.")

    async def describe(self, entry: Entry) -> Mapping[str, Any]:
        kind, limsid, *_ = (*entry.id.split("/"), "")
        if kind == "processes":
            return await self._describe_step(limsid)
        root = {"projects": "project", "samples": "sample", "files": "file"}.get(kind)
        path = f"{kind}/{limsid}" if root else ""
        return entries.as_dict(await self._api.get(path, root or "index"))

    async def _describe_step(self, limsid: str) -> dict[str, Any]:
        process = await self._process(limsid)
        artifacts = await self._api.batch("artifacts", entries.outputs(process))
        try:
            state = entries.state_of(await self._api.get(f"steps/{limsid}", "step"))
        except NotFound:
            state = ""  # of before there were steps
        held = [entries.placeholder(artifact) for artifact in artifacts.values()]
        return {**entries.as_dict(process), "current-state": state, "placeholders": held}

    # -- bytes ---------------------------------------------------------------------------------------

    async def measure(self, entry: Entry) -> int | None:
        return await self._files.measure(entry)

    def content(self, entry: Entry) -> Content:
        return Whole(self._client, entry)

    # -- saving --------------------------------------------------------------------------------------

    async def make(self, parent: Entry, name: str) -> Entry:
        raise NotPermitted(f"{entries.BY_WORK}, and so not “{name}”.")

    async def upload(self, target: Target, source: Source) -> Entry:
        try:
            return await self._files.save(target, source)
        except ValueError as error:
            raise Malformed(f"{self._client.site} told of “{target.name}” in a form that makes no sense.") from error

    async def rename(self, entry: Entry, target: Target) -> Entry:
        raise NotPermitted(f"In {self._client.site} a file keeps its name and its place, and so does “{entry.name}”.")

    async def delete(self, entry: Entry) -> None:
        await self._files.delete(entry.label)


def _is_own(headers: Mapping[str, str], said: str) -> bool:
    """Whether a 401 is the service's, which asks for a login by HTTP Basic."""
    return headers.get("www-authenticate", "").lower().startswith("basic")


def _page(convert: Callable[[Node], Entry], nodes: Iterable[Node], following: int | None) -> Page:
    found, left_out = sift(convert, nodes)
    return Page(found, None if following is None else str(following), left_out=left_out)


def _in_order(limsid: str) -> tuple[int, str]:
    """Sort ids of one kind by their numbers."""
    return len(limsid), limsid
