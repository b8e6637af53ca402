"""ALSF Resources Portal, API v1.

    site → organizations → materials, and `_attachments` without one → files;  `_mine` → files of no organization

Facts used here, with their sources: one answer about an organization tells all its materials and all its
attachments (organization serializer); an attachment's bytes never change, a save is a new row and id
(attachment view); a row carries the address of its bytes, presigned for a day in production, and no size;
a request body above the proxy's limit is refused with 413, whose value nothing tells before; deleted rows go
on being shown as the agreements of materials (safe deletion), so nothing here trusts those. PUT detaches a
file from everything that its form does not name, and a copy leaves rows without bytes: neither is used.

A file shows as the system links it: sequence maps in their material, all else of an organization in
`_attachments`, and a transfer agreement (MTA) once more, read-only, in each material that uses it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

import trio

from labfs.backend import (
    Capabilities,
    Content,
    Entry,
    Page,
    Replace,
    Settings,
    Source,
    Target,
    Upload,
    is_dispensable,
    sift,
)
from labfs.backends import portal_rows as rows
from labfs.backends.portal_rows import Addresses, Attached, Json, Place, located
from labfs.backends.portal_saving import LARGEST, Saving
from labfs.client import Answer, Client
from labfs.errors import Denied, Invalid, LabfsError, Malformed, NotFound, NotPermitted, Unsupported
from labfs.presigned import Address

log = logging.getLogger(__name__)

API = "v1"
PAGE = 1000  # there is no maximum; many rows at once, since lists shift while they are read
OWN_PAGE = b"Server Error (500)"  # the application's, not that of a server in front
MOST_PAGES = 100  # of users, among whom we are looked for

CAPABILITIES = Capabilities(
    ranged=True,
    deletable=True,
    renames=True,
    replace=Replace.BY_DELETE,
    whole=LARGEST,
    parts=None,
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
        explain=_explain,
    )
    return Portal(client, settings.options["organizations"] == "all", settings.options["user_id"])


class Portal:
    """One account on one portal. `user` is its id where that is known; the service tells it only in a list."""

    def __init__(self, client: Client, everybodys: bool, user: str) -> None:
        self._client = client
        self._everybodys = everybodys
        self._configured, self._me = bool(user), user
        self._learning = trio.Lock()
        self._addresses = Addresses()
        self._saving = Saving(client, self._addresses, self._detail, self._beside)
        self.looking = self._saving.looking

    @property
    def capabilities(self) -> Capabilities:
        return replace(CAPABILITIES, ranged=not self._addresses.local, whole=self._saving.whole)

    @property
    def root(self) -> Entry:
        return Entry(id="", name=self._client.site, is_dir=True, read_only=rows.NO_ORGANIZATIONS)

    @property
    def outage(self) -> str | None:
        return self._client.outage

    async def aclose(self) -> None:
        await self._client.aclose()

    # -- who we are ----------------------------------------------------------------------------------

    async def check(self) -> str:
        found = await self._user()
        return str(found.get("full_name") or found.get("username") or self._me)

    async def _who(self) -> str:
        """Return our own id: a token belongs to one person for good, so it is learnt once."""
        async with self._learning:
            if not self._me:
                self._me = await self._learn()
            return self._me

    async def _learn(self) -> str:
        """Find the caller in the list of all users: the only entry that shows what its user owns."""
        offset = 0
        for _ in range(MOST_PAGES):
            items, total, _answer = await self._list("users", offset)
            for item in items:
                if isinstance(item, dict) and "owned_attachments" in item and item.get("id"):
                    return str(item["id"])
            end = _next(offset, items, total)
            if end is None:
                break
            offset = end
        raise Malformed(f"{self._client.site} does not list the token's own user; set user_id in the configuration.")

    async def _user(self) -> Json:
        """Return our own record, with everything that we own."""
        me = await self._who()
        try:
            found, answer = await self._get(f"users/{quote(me, safe='')}")
        except NotFound as error:
            self._forget()
            raise Denied(f"{self._client.site} knows no user {me}: is user_id right?") from error
        if not isinstance(found.get("owned_attachments"), list):
            self._forget()
            raise Denied(f"{self._client.site}: the token is not that of user {me}: is user_id right?")
        self._addresses.note(found["owned_attachments"], answer)
        return found

    def _forget(self) -> None:
        if not self._configured:
            self._me = ""

    # -- looking -------------------------------------------------------------------------------------

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        if parent.id == "":
            return await self._organizations(int(cursor or 0))
        if parent.id == "mine":
            found = await self._user()
            loose = [item for item in found["owned_attachments"] if _is_loose(item)]
            files, left_out = sift(partial(rows.file, at=Place()), loose)
            return Page(files, None, None, left_out)
        return await self._organization(_number(parent.id, "organizations"))

    async def _organizations(self, offset: int) -> Page:
        me = await self._who()
        path = "organizations" if self._everybodys else f"users/{quote(me, safe='')}/organizations"
        items, total, _ = await self._list(path, offset)
        found, left_out = sift(rows.organization, items)
        end = _next(offset, items, total)
        first = (rows.mine(), *found) if offset == 0 else found
        return Page(first, None if end is None else str(end), total + 1, left_out)

    async def _organization(self, number: int) -> Page:
        found, strangers = await self._whole(number)
        try:
            shown, left_out = rows.contents(found, await self._who(), strangers)
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(f"{self._client.site} described organization {number} in a form of no sense.") from error
        return Page(shown, None, None, left_out)

    async def _whole(self, number: int) -> tuple[Json, list[tuple[Json, int]]]:
        """Return an organization's own record, and agreements of its materials that it does not own."""
        found, answer = await self._get(f"organizations/{number}")
        if not all(isinstance(found.get(key), list) for key in ("materials", "attachments")):
            raise Malformed(f"{answer.what} answered without materials and attachments.")
        self._addresses.note(found["attachments"], answer)
        wanting = rows.unexplained(found)
        return found, await self._strangers(number, wanting) if wanting else []

    async def _strangers(self, number: int, wanting: set[int]) -> list[tuple[Json, int]]:
        """Return agreements that are not the organization's own, with their materials, and no deleted ones."""
        items, _, answer = await self._list("materials", 0, organization__id=str(number))
        pairs = []
        for item in items:
            agreement, user = rows.agreement(item)
            # One of the organization's own that is not among its files is deleted.
            foreign = user in wanting and agreement.get("owned_by_org") != number
            if foreign and await self._is_live(agreement):
                self._addresses.note([agreement], answer)
                pairs.append((agreement, user))
        return pairs

    async def _is_live(self, item: Json) -> bool:
        try:
            await self._get(f"attachments/{int(item['id'])}")
        except Denied:
            return True  # somebody else's, and there
        except (NotFound, KeyError, TypeError, ValueError):
            return False
        return True

    async def stat(self, entry_id: str) -> Entry:
        if entry_id in ("", "mine"):
            return self.root if entry_id == "" else rows.mine()
        if entry_id.startswith("attachments/"):
            return await self._file(entry_id)
        if entry_id.count("/") == 1:
            found, answer = await self._get(f"organizations/{_number(entry_id, 'organizations')}")
            return rows.converted(partial(rows.organization, found), answer)
        at = rows.place(entry_id)
        found, answer = await self._get(f"organizations/{at.organization}")
        locked = None if rows.is_member(found, await self._who()) else rows.OUTSIDER
        if at.material is None:
            return rows.attachments(at.organization or 0, locked)
        listed = found.get("materials")
        for item in listed if isinstance(listed, list) else []:
            if isinstance(item, dict) and item.get("id") == at.material:
                return rows.converted(partial(rows.material, item, at.organization or 0, locked), answer)
        raise NotFound(f"Organization {at.organization} has no material {at.material}.")

    async def _file(self, entry_id: str) -> Entry:
        item, answer = await self._detail(entry_id)
        me = await self._who()

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
        return (await self._get(_record_of(entry.id)))[0]

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
        self._addresses.note([row], answer)
        return located(row, answer)

    async def _row(self, entry: Entry) -> tuple[Json, Answer]:
        """Return a file's row; where its own address is for owners only, from what it is shown in."""
        try:
            return await self._detail(entry.id)
        except Denied:
            if entry.inside is None:
                raise
            found, answer = await self._get(_record_of(entry.inside))
            for key in ("attachments", "sequence_maps", "mta_attachment"):
                listed = found.get(key) or []
                for row in listed if isinstance(listed, list) else [listed]:
                    if isinstance(row, dict) and f"attachments/{row.get('id')}" == entry.id:
                        return row, answer
            raise

    async def _detail(self, entry_id: str) -> tuple[Json, Answer]:
        return await self._get(f"attachments/{_number(entry_id, 'attachments')}")

    # -- requests ------------------------------------------------------------------------------------

    async def _get(self, path: str) -> tuple[Json, Answer]:
        answer = await self._client.call("GET", f"{API}/{path}/", headers=rows.JSON)
        return rows.object_of(answer), answer

    async def _list(self, path: str, offset: int, **filters: str) -> tuple[list[Any], int, Answer]:
        params = {"limit": str(PAGE), "offset": str(offset), **filters}
        answer = await self._client.call("GET", f"{API}/{path}/", params=params, headers=rows.JSON)
        found = rows.object_of(answer)
        items, total = found.get("results"), found.get("count")
        if not isinstance(items, list) or not isinstance(total, int):
            raise Malformed(f"{answer.what} answered without a list of results.")
        return items, total, answer

    # -- saving --------------------------------------------------------------------------------------

    async def _beside(self, at: Place) -> tuple[list[Any], Answer]:
        """Return all rows among which a file of that place is listed."""
        path, key = f"organizations/{at.organization}", "attachments"
        if at.organization is None:
            path, key = f"users/{quote(await self._who(), safe='')}", "owned_attachments"
        found, answer = await self._get(path)
        listed = found.get(key)
        return listed if isinstance(listed, list) else [], answer

    async def make(self, parent: Entry, name: str) -> Entry:
        raise NotPermitted(f"{self._client.site} makes no directory on request, and so not “{name}”.")

    async def upload(self, target: Target, source: Source) -> Entry:
        return await self._saving.upload(target, source)

    async def begin_upload(self, target: Target, size: int | None) -> Upload:
        raise Unsupported(f"{self._client.site} takes a file in one piece only.")

    async def resume_upload(self, target: Target, token: str) -> Upload:
        raise Unsupported(f"{self._client.site} takes a file in one piece only.")

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


def _next(offset: int, items: list[Any], total: int) -> int | None:
    """Return where the next page of a list starts, None at the end."""
    end = offset + len(items)
    return end if items and end < total else None


def _is_loose(item: Any) -> bool:
    """Whether a file of ours is in no organization; nonsense counts, to be counted as that."""
    return not isinstance(item, dict) or item.get("owned_by_org") is None


def _without_addresses(value: Any) -> Any:
    """Return a record without addresses of bytes: who has one can read the file for a day."""
    if isinstance(value, dict):
        return {key: _without_addresses(each) for key, each in value.items() if key != "download_url"}
    return [_without_addresses(each) for each in value] if isinstance(value, list) else value


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
