"""Genestack / Genedata Open Data Manager, API v1.

    site → studies → attached files, each in a folder named after its data class

Facts used here, with their sources: every object has an accession, `GSF` and digits, and names are not
unique; the files of a study come in one array without sizes, dates or versions (FilesAsUserApi); an
accession's bytes never change, since no route replaces them; downloads take one byte range, or ignore it;
a file is imported by one form with `file` last, as a job that is polled, and the accession in the job's
output is the only proof of success (multipart uploads and import job references). Listing studies is
audited study by study, so nothing here lists them to answer for one.

Tests: backends/test_backends, mount/test_odm.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import trio

from labfs.backend import (
    NOTHING,
    Accept,
    Capabilities,
    Content,
    Entry,
    Page,
    Replace,
    Source,
    Takes,
    Target,
)
from labfs.backends.common import Settings, sift
from labfs.backends.looking import Change, Looking, holds
from labfs.backends.odm import imports
from labfs.backends.odm.download import Download
from labfs.backends.paging import Paging, Usual
from labfs.errors import (
    Denied,
    Exists,
    Invalid,
    LabfsError,
    Malformed,
    NotFound,
    NotPermitted,
    Unsupported,
)
from labfs.errors.health import Health
from labfs.http.client import Answer, Client, Patience, Request

log = logging.getLogger(__name__)

API = "api/v1"
PAGE = 2000  # the largest page there is
GIB = 1024**3
OTHER = "Other"
CURATORS = 'Curators attach files: audience = "as-curator" in the configuration, with the token of one.'
ELSEWHERE = "ODM itself shows what it is, and can remove it."
# The data classes of attached files (import request of client 1.64.1): the folders of a study.
CLASSES = (
    "Bulk transcriptomics", "Single-cell transcriptomics", "Differential abundance (FC, pval, etc.)",
    "Pathway analysis", "Proteomics", "Single-cell proteomics", "Metabolomics", "Lipidomics", "Epigenomics",
    "DNA methylation", "Chemoinformatics", "Imaging features", "Gene panel data", "Biomarker data",
    "Physical measures", "Blood counts", "Other body fluid counts",
    "Long-read sequencing (Nanopore, PacBio)", "Flow Cytometry (FCS)", "Spatial transcriptomics", "Phenomics",
    "Copy number alterations", "Microbiome / Metagenomics", "Immune repertoire",
    "Genetic screens (CRISPR / RNAi)", "Cell imaging", "Document", OTHER,
)  # fmt: skip

CAPABILITIES = Capabilities(
    ranged=True,
    deletable=True,
    replace=Replace.BY_DELETE,
    whole=5 * GIB,  # the ceiling that the vendor documents for its own pages; none is for the API
    connections=8,
)

Json = dict[str, Any]


def build(settings: Settings) -> Odm:
    token, bearer = settings.secrets["token"], settings.options["sign_in"] == "bearer"

    def credentials() -> dict[str, str]:
        return {"Authorization": f"Bearer {token()}"} if bearer else {"Genestack-API-Token": token()}

    client = Client(
        settings.name,
        settings.url,
        credentials,
        connections=CAPABILITIES.connections,
        timeout_s=settings.timeout_s,
        proxy=settings.proxy,
        ca=settings.ca,
        gate=settings.gate,
        login=settings.login(_is_own),
        explain=_explain,
    )
    return Odm(client, settings.options["audience"])


class Odm:
    """One ODM server, seen as curator (also what is unpublished, and to write) or as user."""

    capabilities = CAPABILITIES

    def __init__(self, client: Client, audience: str) -> None:
        self._client = client
        self._audience = audience
        self._curator = audience == "as-curator"
        self.looking = Looking(client.timeout_s)
        self._usual = Usual(client.timeout_s)

    @property
    def root(self) -> Entry:
        reason = "Studies are made in ODM itself, from a table that its server can reach."
        return Entry(id="", name=self._client.site, is_dir=True, read_only=reason)

    @property
    def multipart(self) -> None:
        """A file goes up in one piece only."""

    @property
    def health(self) -> Health:
        return self._client.health

    async def aclose(self) -> None:
        await self._client.aclose()

    async def check(self) -> str:
        # The smallest question there is: how many studies, and none of them.
        await self._get(f"{self._audience}/studies", {"pageLimit": "0"})
        return self._audience.removeprefix("as-")

    async def rights(self) -> str:
        """Tell the role that is asked for; which groups its user is in, the system does not tell."""
        return "drafts and published data, imports" if self._curator else "published data"

    # -- looking -------------------------------------------------------------------------------------

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        if parent.id == "":
            return await self._studies(Paging.at(cursor))
        items = await self._files(_accession(parent, "studies"))
        entries, left_out = sift(_file, items)
        return Page(entries, None, len(items), left_out)

    async def _files(self, study: str) -> list[Any]:
        """Return all files of a study, for which there is one answer, also where that is asked for by a save."""
        with self._usual.patience(study):
            found = await self._get(f"{self._audience}/integration/link/files/by/study/{study}")
        return found if isinstance(found, list) else []

    async def _studies(self, paging: Paging) -> Page:
        params = {
            "pageLimit": str(paging.rows),
            "pageOffset": str(paging.offset),
            "sort": "id",
            "returnedMetadataFields": "minimal_data",
        }
        found = await self._get(f"{self._audience}/studies", params)
        try:
            items, total = list(found["data"]), int(found["meta"]["pagination"]["total"])
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(f"{self._client.site} listed its studies in a form that makes no sense.") from error
        following = paging.then(len(items), total, PAGE)
        entries, left_out = sift(self._study, items)
        return Page(entries, following, total, left_out)

    def _study(self, item: Json) -> Entry:
        accession, number = _numbered(item)
        title = item.get("Study Title") or item.get("genestack:name") or accession
        return Entry(
            id=f"studies/{accession}",
            name=str(title),
            is_dir=True,
            age=number,
            label=accession,
            takes=Takes(frozenset({Accept.FILE, Accept.FOLDER}), CLASSES) if self._curator else NOTHING,
            read_only=None if self._curator else CURATORS,
        )

    async def stat(self, entry_id: str) -> Entry:
        kind, _, accession = entry_id.partition("/")
        found = await self._get(f"{self._audience}/{kind}/{accession}")
        if not isinstance(found, dict):
            raise Malformed(f"{self._client.site} answered for {accession} with something else.")
        return _file(found) if kind == "files" else self._study(found)

    async def measure(self, entry: Entry) -> int | None:
        try:
            return await self._client.measure_own(self._download(entry))
        except (Unsupported, NotFound, Invalid) as error:
            log.info("%s has no size: %s", entry.label, error)
            return None

    async def describe(self, entry: Entry) -> Mapping[str, Any]:
        if not entry.id:
            return {"audience": self._audience}
        found = await self._get(f"{self._audience}/{entry.id}")
        return found if isinstance(found, dict) else {}

    def content(self, entry: Entry) -> Content:
        return Download(self._client, self._download(entry), entry)

    def _download(self, entry: Entry) -> str:
        return f"{API}/{self._audience}/files/{entry.label}/download"

    async def _get(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        headers = {"Accept": "application/json"}
        return (await self._client.call(Request("GET", f"{API}/{path}", params=params, headers=headers))).json()

    # -- saving --------------------------------------------------------------------------------------

    async def make(self, parent: Entry, name: str) -> Entry:
        raise NotPermitted(f"{self._client.site} makes no study on request, and so not “{name}”.")

    async def upload(self, target: Target, source: Source) -> Entry:
        """Import a file and wait for the job."""
        began = Began({entry.id for entry in (await self.page(target.parent, None)).entries})
        change = Change(
            f"{target.parent.id}/{'/'.join((*target.folders, target.name))}",
            began,
            lambda: self._import(target, source, change.began),
            lambda began: self._ours(target, source, began),
            mark=await trio.to_thread.run_sync(source.md5),  # a job that is under way is of these bytes alone
            withdraw=self._remove,
        )
        accession = await self.looking.once(change)
        with self.looking.confirming(change):
            return await self._checked(target, source, accession)

    async def _checked(self, target: Target, source: Source, accession: str) -> Entry:
        """Compare what was imported with what was sent. Raises Invalid and Malformed."""
        entry = await self.stat(f"files/{accession}")
        if entry.name != target.name:
            await self.delete(entry)
            raise Invalid(f"{self._client.site} would call this file “{entry.name}”; choose a plainer name.")
        size = await self.measure(entry)
        if size not in (source.size, None):
            raise Malformed(f"{self._client.site} holds {size} bytes of the {source.size} that were sent; not saved.")
        return replace(entry, size=source.size)

    async def _import(self, target: Target, source: Source, began: Began) -> str:
        """Import a file and return its accession; a job that was started is only asked about."""
        if began.job is None:
            began.job = await imports.start(self._client, target, _class_of(target), source)
        try:
            accession = await imports.outcome(self._client, began.job)
        except (Invalid, NotFound):
            began.job = None
            raise
        if f"files/{accession}" in began.known:
            began.job = None
            raise Exists(f"{self._client.site} takes “{target.name}” for what was imported as {accession} before.")
        return accession

    async def _ours(self, target: Target, source: Source, began: Began) -> list[str]:
        """Return the accessions of new files of this name, class and bytes: imports whose answer was lost."""
        place = target.name, (_class_of(target),)
        found = (await self.page(target.parent, None)).entries
        alike = [entry for entry in found if (entry.name, entry.folders) == place and entry.id not in began.known]
        return [entry.label for entry in alike if await self._is(entry, source)]

    async def _is(self, entry: Entry, source: Source) -> bool:
        if await self.measure(entry) not in (source.size, None):
            return False
        try:
            return await holds(self.content(entry), source)
        except NotFound:
            return False

    async def rename(self, entry: Entry, target: Target) -> Entry:
        raise Unsupported(f"{self._client.site} cannot rename “{entry.name}”.")

    async def delete(self, entry: Entry) -> None:
        try:
            await self._remove(entry.label)
        except Denied as error:
            raise Denied(f"“{entry.name}” was not deleted: {error.said}").advised(error.remedy) from error
        except Invalid as error:
            raise NotPermitted(f"“{entry.name}” is of a kind that is not deleted: {error.said}").advised(
                ELSEWHERE
            ) from error

    async def _remove(self, accession: str) -> None:
        # No other file ever has this accession: after a lost answer it is simply said again.
        params = {"accessions": accession}
        with suppress(NotFound):
            await self._client.call(
                Request("DELETE", f"{API}/manage-data/data", params=params, patience=Patience.PERSISTENT)
            )


class Began:
    """The files that a study had before an import, and the number of the job once it is told."""

    def __init__(self, known: set[str]) -> None:
        self.known = known
        self.job: int | None = None


# -- JSON → entries ------------------------------------------------------------------------------------


def _numbered(item: Json) -> tuple[str, int]:
    accession = str(item["genestack:accession"])
    match = re.fullmatch(r"GSF(\d+)", accession)
    if match is None:
        raise ValueError("an accession that is none")
    return accession, int(match[1])


def _file(item: Json) -> Entry:
    accession, number = _numbered(item)
    given = item.get("Data Class")
    return Entry(
        id=f"files/{accession}",
        name=str(item.get("genestack:name") or accession),
        is_dir=False,
        age=number,
        label=accession,
        folders=(given if given in CLASSES else OTHER,),
        version="1",  # an accession's bytes never change
    )


def _class_of(target: Target) -> str:
    if len(target.folders) != 1 or target.folders[0] not in CLASSES:
        raise Invalid(f"A file is saved in a folder named after its data class: {', '.join(CLASSES[-2:])}, ….")
    return target.folders[0]


def _accession(entry: Entry, kind: str) -> str:
    if not entry.id.startswith(f"{kind}/"):
        raise NotFound(f"“{entry.name}” holds nothing that could be listed.")
    return entry.label


def _is_own(headers: Mapping[str, str], said: str) -> bool:
    """Whether a 401 can be the service's: no source tells more than that it takes tokens, and asks for no login."""
    challenge = headers.get("www-authenticate", "").lower()
    return not challenge or challenge.startswith("bearer")


def _explain(answer: Answer) -> str:
    """Return the service's own sentence: it has two forms of error, and plain text."""
    try:
        body = answer.json()
        inner = body.get("error")
        message = inner.get("message") if isinstance(inner, dict) else body.get("detail") or body.get("title")
    except (LabfsError, AttributeError):
        text = answer.body[:200].decode("utf-8", "replace").strip() if len(answer.body) < 1000 else ""
        message = "" if text.startswith("<") else text  # a page of something in between
    return f"{answer.what}: {message}" if message else ""
