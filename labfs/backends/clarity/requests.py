"""Requests to Clarity: lists that hold links, batches that turn links into things, and files' bytes.

Facts used here, with their sources: a batch fails as a whole when one of its links leads nowhere
(Introduction to Batch Resources).

Tests: backends/test_clarity_backend, mount/test_clarity_mount.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from xml.etree import ElementTree as ET

from labfs.backend import Entry, Sink, Stretch
from labfs.backends.clarity.entries import RI, Node, children, ids_of, parsed
from labfs.backends.several import each
from labfs.errors import Invalid, Malformed, NoBytes, NotFound, Unranged
from labfs.http.client import Client, Patience, Request

log = logging.getLogger(__name__)

API = "api/v2"
CONNECTIONS = 4  # at the same time; no limit is documented
BATCHES = {"samples": 300, "artifacts": 300, "files": 100}  # links in one request, as public clients send them
ONE = {"projects": "project", "samples": "sample", "artifacts": "artifact", "processes": "process", "files": "file"}


class Api:
    """Requests to one server, and their answers as elements."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._base = ""  # the address of the API as the server knows it, which a proxy may show as another

    def address(self, path: str) -> str:
        """Return the address of a thing as it goes into a body: in the server's own words, once some were heard."""
        return f"{self._base or self._client.url + API}/{path}"

    async def get(self, path: str, root: str, params: Mapping[str, str] | None = None) -> Node:
        """Return what a path answers, which must be an element of that name."""
        answer = parsed(await self._client.call(Request("GET", f"{API}/{path}", params=params)), root)
        for node in (answer, *answer[:1]):
            head, found, _ = node.get("uri", "").partition(f"/{API}/")
            if found and head.startswith(("http://", "https://")):
                self._base = f"{head}/{API}"
        return answer

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
        request = Request(
            "POST",
            f"{API}/{path}",
            body=ET.tostring(body, "UTF-8", xml_declaration=True),
            headers={"Content-Type": "application/xml"},
            patience=patience,
            repeatable=repeatable,
        )
        answer = await self._client.call(request)
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
        answers = await each(lambda chunk: self._retrieve(kind, chunk), chunks, CONNECTIONS)
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


class Whole:
    """The content of a file, which comes in one pass: without versions, ranges could be of two."""

    def __init__(self, client: Client, entry: Entry) -> None:
        self._client = client
        self._entry = entry

    async def prepare(self) -> None:
        """Nothing to do: the address is known."""

    async def stream(self, stretch: Stretch) -> None:
        raise Unranged(f"{self._client.site} sends files whole.")

    async def pour(self, sink: Sink) -> None:
        try:
            await self._client.pour_own(download(self._entry), sink, check=self._check)
        except NotFound as error:
            if "File does not exist" in str(error):
                name, site = self._entry.name, self._client.site
                raise NoBytes(f"The bytes of “{name}” never reached {site}, or are lost there.").advised(
                    "Whoever attached it can save it again."
                ) from error
            raise

    def _check(self, headers: Mapping[str, str]) -> None:
        if "content-disposition" not in headers:
            raise Malformed(f"{self._client.site} sent a page instead of “{self._entry.name}”.")


def download(entry: Entry) -> str:
    return f"{API}/{entry.id}/download"
