"""ALSF Resources Portal, API v1.

    site → organizations → materials, and `_attachments` without one → files;  `_mine` → files of no organization

Facts used here, with their sources: an organization's record tells all its materials and attachments, each
of which costs the service time (organization serializer); an attachment's bytes never change, a save is a new
row and id (attachment view); a row carries the address of its bytes, presigned for a day in production, and no size;
a request body above the proxy's limit is refused with 413, whose value nothing tells before; deleted rows go
on being shown as the agreements of materials (safe deletion), so nothing here trusts those. PUT detaches a
file from everything that its form does not name, and a copy leaves rows without bytes: neither is used.

A file shows as the system links it: sequence maps in their material, all else of an organization in
`_attachments`, and a transfer agreement (MTA) once more, read-only, in each material that uses it.

Tests: backends/test_portal_backend, mount/test_portal_mount.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from labfs.backend import Capabilities, Content, Entry, Page, Replace, Source, Target, is_dispensable
from labfs.backends.common import Settings, sift
from labfs.backends.portal import rows
from labfs.backends.portal.lists import Organizations
from labfs.backends.portal.people import Myself
from labfs.backends.portal.requests import Requests, after
from labfs.backends.portal.rows import Addresses, Attached, Json, Place, located
from labfs.backends.portal.saving import LARGEST, Saving
from labfs.errors import Denied, Invalid, LabfsError, Malformed, NotFound, NotPermitted, Unsupported
from labfs.errors.health import Health
from labfs.http.client import Answer, Client
from labfs.http.contents import Address

log = logging.getLogger(__name__)

OWN_PAGE = b"Server Error (500)"  # the application's, not that of a server in front

CAPABILITIES = Capabilities(
    ranged=True,
    deletable=True,
    renames=True,
    replace=Replace.BY_DELETE,
    whole=LARGEST,
    connections=8,
    longest_name=236,  # bucket keys have 255 characters, of which `attachment_<id>/` takes up to 19
)


def build(settings: Settings) -> Portal:
    token = settings.secrets["token"]
    client = Client(
        settings.name,
        settings.url,
        lambda: {"Authorization": f"Token {token()}"},
        connections=CAPABILITIES.connections,
        timeout_s=settings.timeout_s,
        proxy=settings.proxy,
        ca=settings.ca,
        gate=settings.gate,
        login=settings.login(_is_own),
        explain=_explain,
    )
    return Portal(client, settings.options["organizations"] == "all", settings.options["user_id"])


class Portal:
    """One account on one portal. `user` is its id where that is known; the service tells it only in a list."""

    def __init__(self, client: Client, everybodys: bool, user: str) -> None:
        self._client = client
        self._everybodys = everybodys
        self._addresses = Addresses()
        self._requests = Requests(client)
        self._myself = Myself(self._requests, user)
        self._organizations = Organizations(self._requests, self._myself, self._addresses)
        self._saving = Saving(client, self._addresses, self._detail, self._beside)
        self.looking = self._saving.looking

    @property
    def capabilities(self) -> Capabilities:
        return replace(CAPABILITIES, ranged=not self._addresses.local, whole=self._saving.whole)

    @property
    def root(self) -> Entry:
        return Entry(id="", name=self._client.site, is_dir=True, read_only=rows.NO_ORGANIZATIONS)

    @property
    def multipart(self) -> None:
        """A file goes up in one piece only."""

    @property
    def health(self) -> Health:
        return self._client.health

    async def aclose(self) -> None:
        await self._client.aclose()

    async def check(self) -> str:
        return await self._myself.check()

    async def _user(self) -> Json:
        """Return our own record, with everything that we own; that costs the service time for each file."""
        try:
            found, answer = await self._requests.get(await self._myself.path())
        except NotFound as error:
            raise self._myself.refuted("there is no") from error
        if not isinstance(found.get("owned_attachments"), list):
            raise self._myself.refuted("the token is not that of")
        self._addresses.record(found["owned_attachments"], answer)
        return found

    async def rights(self) -> str:
        return ""

    # -- looking -------------------------------------------------------------------------------------

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        if parent.id == "":
            return await self._site(cursor)
        if parent.id == "mine":
            found = await self._user()
            loose = [item for item in found["owned_attachments"] if _is_loose(item)]
            files, left_out = sift(partial(rows.file, at=Place()), loose)
            return Page(files, None, None, left_out)
        return await self._organizations.page(_number(parent.id, "organizations"), cursor)

    async def _site(self, cursor: str | None) -> Page:
        """Return what is known without asking, and then a page of organizations."""
        if cursor is None:
            return Page((rows.mine(),), "0")
        path = "organizations" if self._everybodys else f"{await self._myself.path()}/organizations"
        items, total, _ = await self._requests.some(path, int(cursor))
        found, left_out = sift(rows.organization, items)
        end = after(int(cursor), items, total)
        return Page(found, None if end is None else str(end), total + 1, left_out)

    async def stat(self, entry_id: str) -> Entry:
        if entry_id in ("", "mine"):
            return self.root if entry_id == "" else rows.mine()
        if entry_id.startswith("attachments/"):
            return await self._file(entry_id)
        if entry_id.count("/") == 1:
            found, answer = await self._organizations.row(_number(entry_id, "organizations"))
            return rows.converted(partial(rows.organization, found), answer)
        at = rows.place(entry_id)
        number = at.organization or 0
        found, answer = await self._organizations.row(number)
        locked = None if rows.is_member(found, await self._myself.id()) else rows.OUTSIDER
        if at.material is None:
            return rows.attachments(number, locked)
        item, answer = await self._organizations.material(number, at.material)
        return rows.converted(partial(rows.material, item, number, locked), answer)

    async def _file(self, entry_id: str) -> Entry:
        item, answer = await self._detail(entry_id)
        me = await self._myself.id()

        def convert() -> Entry:
            owner = rows.optional(item.get("owned_by_org"))
            if owner is None:
                return rows.file(item, Place())
            ours = rows.is_member(item["owned_by_org"], me) or rows.person(item["owned_by_user"]) == me
            map_for = item.get("sequence_map_for")
            known = {map_for["id"]} if isinstance(map_for, dict) and map_for.get("organization") == owner else set()
            return rows.file(item, rows.home(item, owner, known), None if ours else rows.OUTSIDER)

        return rows.converted(convert, answer)

    async def describe(self, entry: Entry) -> Mapping[str, Any]:
        try:
            found: Json = _without_addresses(await self._record(entry))
        except RecursionError as error:
            raise Malformed(f"{self._client.site} described “{entry.name}” without end.") from error
        return found

    async def _record(self, entry: Entry) -> Json:
        if entry.id in ("", "mine"):
            return await self._user()
        if not entry.is_dir:
            return (await self._row(entry))[0]
        if entry.id.count("/") == 1:
            return (await self._organizations.row(_number(entry.id, "organizations")))[0]
        at = rows.place(entry.id)
        if at.material is None:
            return (await self._organizations.row(at.organization or 0))[0]
        return (await self._organizations.listed(at.material))[0]  # its own record takes time for each of its files

    # -- bytes ---------------------------------------------------------------------------------------

    def content(self, entry: Entry) -> Content:
        return self._bytes(entry)

    def _bytes(self, entry: Entry) -> Attached:
        return Attached(self._client, entry, self._addresses.get(entry.id), partial(self._locate, entry))

    async def measure(self, entry: Entry) -> int | None:
        try:
            return await self._bytes(entry).measure()
        except (Denied, NotFound, Invalid, Malformed, Unsupported) as error:
            if is_dispensable():
                raise
            log.info("%s has no size: %s", entry.id, error)
            return None

    async def _locate(self, entry: Entry) -> Address:
        row, answer = await self._row(entry)
        self._addresses.record([row], answer)
        return located(row, answer)

    async def _row(self, entry: Entry) -> tuple[Json, Answer]:
        """Return a file's row; where its own address is for owners only, from what it is shown in."""
        try:
            return await self._detail(entry.id)
        except Denied:
            if entry.inside is None:
                raise
            found, answer = await self._requests.get(_record_of(entry.inside))
            for key in ("attachments", "sequence_maps", "mta_attachment"):
                listed = found.get(key) or []
                for row in listed if isinstance(listed, list) else [listed]:
                    if isinstance(row, dict) and f"attachments/{row.get('id')}" == entry.id:
                        return row, answer
            raise

    async def _detail(self, entry_id: str) -> tuple[Json, Answer]:
        return await self._requests.get(f"attachments/{_number(entry_id, 'attachments')}")

    # -- saving --------------------------------------------------------------------------------------

    async def _beside(self, at: Place, greatest: int) -> tuple[list[Any], Answer]:
        """Return all rows among which a file of that place is listed, if its id is greater than `greatest`."""
        if at.organization is not None:
            return await self._organizations.newer(at.organization, greatest)
        found, answer = await self._requests.get(await self._myself.path())
        listed = found.get("owned_attachments")
        return listed if isinstance(listed, list) else [], answer

    async def make(self, parent: Entry, name: str) -> Entry:
        raise NotPermitted(f"{self._client.site} makes no directory on request, and so not “{name}”.")

    async def upload(self, target: Target, source: Source) -> Entry:
        return await self._saving.upload(target, source)

    async def rename(self, entry: Entry, target: Target) -> Entry:
        return await self._saving.rename(entry, target)

    async def delete(self, entry: Entry) -> None:
        await self._saving.delete(entry)


def _number(entry_id: str, kind: str) -> int:
    """Return the number in an id of that kind. Raises NotFound for another."""
    found, _, number = entry_id.partition("/")
    if found != kind or not number.isdecimal() or not number.isascii():
        raise NotFound(f"There is no {kind.rstrip('s')} {entry_id}.")
    return int(number)


def _record_of(entry_id: str) -> str:
    """Return the path of the system's own record of a directory."""
    if entry_id.count("/") == 1:
        return entry_id
    at = rows.place(entry_id)
    return f"organizations/{at.organization}" if at.material is None else f"materials/{at.material}"


def _is_loose(item: Any) -> bool:
    """Whether a file of ours is in no organization; nonsense counts, to be counted as that."""
    return not isinstance(item, dict) or item.get("owned_by_org") is None


def _without_addresses(value: Any) -> Any:
    """Return a record without addresses of bytes: who has one can read the file for a day."""
    if isinstance(value, dict):
        return {key: _without_addresses(each) for key, each in value.items() if key != "download_url"}
    return [_without_addresses(each) for each in value] if isinstance(value, list) else value


def _is_own(headers: Mapping[str, str], said: str) -> bool:
    """Whether a 401 is the service's: it names its scheme."""
    return headers.get("www-authenticate", "").lower().startswith("token")


def _explain(answer: Answer) -> str:
    """Return the service's own sentence: it has four forms of error in JSON, and one page for what it failed over."""
    try:
        body = answer.json()
    except LabfsError:
        return f"{answer.what} answered 500: {OWN_PAGE.decode()}." if OWN_PAGE in answer.body else ""
    said = body
    if isinstance(body, dict):
        said = next((body[key] for key in ("detail", "error", "message") if body.get(key)), None)
        said = said or "; ".join(f"{field}: {_joined(problems)}" for field, problems in body.items())
    text = _joined(said)[:500]
    return f"{answer.what}: {text}" if text else ""


def _joined(problems: Any) -> str:
    return " ".join(map(str, problems)) if isinstance(problems, list) else str(problems or "")
