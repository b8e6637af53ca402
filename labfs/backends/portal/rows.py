"""The Portal's rows: what it says in JSON → entries, their ids, and the bytes that a row points at.

    organizations/3                 an organization
    organizations/3/materials/7     one of its materials: sequence maps, and links to its transfer agreement
    organizations/3/attachments     what belongs to it and to none of its materials
    mine                            what belongs to the caller and to no organization
    attachments/12                  a file, wherever it is shown

Ids are whole numbers, times ISO 8601 in UTC with up to six digits of a second, relations either ids or whole
objects, depending on the call. Sizes and checksums are in no answer.

Bytes lie behind presigned addresses in production, and whole on the site's own disk in development. Addresses
come with every row, so those of the last listings are kept for as long as they are good: else a size would
cost two requests. Bytes of an id never change, and an address serves them until it expires.

Tests: backends/test_portal_backend, mount/test_portal_mount.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import trio

from labfs.backend import (
    NOTHING,
    Accept,
    Entry,
    Sink,
    Stretch,
    takes,
)
from labfs.errors import Malformed, NotFound, Unanswered, Unranged
from labfs.http.client import Answer, Client
from labfs.http.contents import Address, Presigned, address

ATTACHMENTS, MINE = "_attachments", "_mine"
VERSION = "1"  # no call replaces the bytes of an id
# Relations that point at an attachment from elsewhere; a form can set each as a list of ids.
LINKS = ("mta_materials", "requests_signed_mta", "requests_irb", "requests_executed_mta")

ADDRESSES = 10_000  # kept at most, about half a kilobyte each
API = "v1"
LOCAL = "/uploaded-file/"  # in the path of an address on the server's own disk

NO_MATERIALS = (
    "Materials are made on the portal's web site, which asks for a category and a contact; a file goes into"
    " a material or into _attachments."
)
UPLOAD_AGAIN = "Whoever uploaded it can do so again."
NO_ORGANIZATIONS = "Organizations are made on the portal's web site."
OUTSIDER = (
    "You are not a member of this organization: you can read its files and change none; its owner can make you one."
)
NO_BYTES = "The portal has a row for this file but no bytes any more; whoever uploaded it must do so again."
NO_ADDRESS = "A step up in its stored name makes an address that no program can ask for; the bytes are out of reach."
KEPT_BY_ORGANIZATION = f"This is the material's transfer agreement (MTA); change it in {ATTACHMENTS}."
KEPT_BY_MATERIAL = "This is the material's transfer agreement (MTA); change it in the folder of its own material."
KEPT_ELSEWHERE = "This transfer agreement (MTA) belongs to nobody in the organization; its owner can change it."

JSON = {"Accept": "application/json"}  # headers; browsers get pages
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that holds files: the caller's own, an organization's, or a material's."""

    organization: int | None = None
    material: int | None = None

    @property
    def id(self) -> str:
        if self.organization is None:
            return "mine"
        last = "attachments" if self.material is None else f"materials/{self.material}"
        return f"organizations/{self.organization}/{last}"

    @property
    def inside(self) -> str | None:
        """The id for `Entry.inside`: the caller's own files are listed for themselves."""
        return None if self.organization is None else self.id


def place(entry_id: str | None) -> Place:
    """Return the place of that id. Raises NotFound for an id of something else."""
    if entry_id in (None, "mine"):
        return Place()
    match = re.fullmatch(r"organizations/(\d{1,19})/(?:attachments|materials/(\d{1,19}))", str(entry_id))
    if match is None:
        raise NotFound(f"There is no directory {entry_id}.")
    return Place(int(match[1]), int(match[2]) if match[2] else None)


# -- directories ---------------------------------------------------------------------------------------


def mine() -> Entry:
    return Entry(id="mine", name=MINE, is_dir=True, label="mine", takes=takes(Accept.FILE))


def organization(item: Json) -> Entry:
    number = ref(item)
    return Entry(
        id=f"organizations/{number}",
        name=str(item.get("name") or f"organization_{number}"),
        is_dir=True,
        age=time_ns(item.get("created_at")) or 0,
        label=str(number),
        modified_ns=time_ns(item.get("updated_at")),
        read_only=NO_MATERIALS,
    )


def attachments(number: int, locked: str | None) -> Entry:
    return Entry(
        id=Place(number).id,
        name=ATTACHMENTS,
        is_dir=True,
        label=str(number),
        complete=True,
        takes=NOTHING if locked else takes(Accept.FILE),
        read_only=locked,
    )


def material(item: Json, organization: int, locked: str | None) -> Entry:
    number = ref(item)
    return Entry(
        id=Place(organization, number).id,
        name=str(item.get("title") or f"material_{number}"),
        is_dir=True,
        age=time_ns(item.get("created_at")) or 0,
        label=str(number),
        complete=True,
        modified_ns=time_ns(item.get("updated_at")),
        takes=NOTHING if locked else takes(Accept.FILE),
        read_only=locked,
    )


# -- files ---------------------------------------------------------------------------------------------


def file(item: Json, at: Place, locked: str | None = None) -> Entry:
    number, name, url = ref(item), item.get("filename"), item.get("download_url")
    if not isinstance(name, str | None) or not isinstance(url, str | None):
        raise TypeError("a name or an address that is no text")
    return Entry(
        id=f"attachments/{number}",
        name=name or f"attachment_{number}",
        is_dir=False,
        age=time_ns(item.get("created_at")) or 0,
        label=str(number),
        inside=at.inside,
        modified_ns=time_ns(item.get("created_at")),  # the other date moves with names and links
        version=VERSION,
        unreadable=_unreadable(url),
        read_only=locked,
    )


def _unreadable(url: str | None) -> str | None:
    if not url:
        return NO_BYTES
    # Every client takes such a step out of an address before it asks (WHATWG URL), and the signature breaks.
    steps = {unquote(step) for step in urlsplit(url).path.split("/")}
    return NO_ADDRESS if steps & {".", ".."} else None


def home(item: Json, organization: int, materials: Set[int]) -> Place:
    """Return where a file of an organization belongs, given the organization's materials."""
    number = optional(item.get("sequence_map_for"))
    return Place(organization, number if number in materials else None)


def summary(item: Json) -> Json:
    """Return a file's own record as lists have it: relations are ids there, and whole objects here."""
    known: Json = {name: refs(item.get(name)) for name in LINKS}
    for name in ("sequence_map_for", "owned_by_org", "owned_by_user"):
        value = item.get(name)
        known[name] = value.get("id") if isinstance(value, dict) else value
    return {**item, **known}


def users(item: Any) -> list[int]:
    """Return the materials whose agreement a file is."""
    return refs(item.get("mta_materials") if isinstance(item, dict) else None)


def agreement(item: Any) -> tuple[Json, int]:
    """Return a listed material's agreement, and the material; nothing, and 0, where there is none."""
    given = item.get("mta_attachment") if isinstance(item, dict) else None
    number = refs([item])
    return (given, number[0]) if isinstance(given, dict) and number else ({}, 0)


def is_member(found: Json, me: str) -> bool:
    members = found.get("members")
    people = [found.get("owner"), *(members if isinstance(members, list) else [])]
    return me in {person(each) for each in people}


# -- values --------------------------------------------------------------------------------------------


def ref(value: Any) -> int:
    """Return the id that a relation names, alone or within a whole object."""
    number = value["id"] if isinstance(value, dict) else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 1 << 63:
        raise ValueError("an id that is none")
    return number


def refs(values: Any) -> list[int]:
    """Return the ids in a list of relations, without what makes no sense."""
    found = []
    for value in values if isinstance(values, list) else []:
        with suppress(KeyError, TypeError, ValueError):
            found.append(ref(value))
    return found


def optional(value: Any) -> int | None:
    return None if value is None else ref(value)


def says(row: Json, name: str, wanted: str | list[str]) -> bool:
    """Tell whether a row has this value, as a form carries it: a text, an id or "" for none, or ids."""
    value = row.get(name)
    if isinstance(wanted, list):
        return sorted(refs(value)) == sorted(map(int, wanted))
    if isinstance(value, str):
        return value == wanted
    return refs([value]) == ([int(wanted)] if wanted.isdecimal() else [])


def person(value: Any) -> str:
    return str(value.get("id") if isinstance(value, dict) else value)


def object_of(answer: Answer) -> Json:
    found = answer.json()
    if not isinstance(found, dict):
        raise Malformed(f"{answer.what} answered with something else than an object.")
    return found


def converted(convert: Callable[[], Entry], answer: Answer) -> Entry:
    """Return an entry made of an answer. Raises Malformed for an answer that makes none."""
    try:
        return convert()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Malformed(f"{answer.what} answered with something that makes no sense.") from error


def time_ns(text: Any) -> int | None:
    """Parse `2026-11-21T19:21:23.099220Z`; the fraction is absent where it is 0."""
    try:
        moment = datetime.fromisoformat(str(text).removesuffix("Z") + "+00:00")
        return int(moment.timestamp()) * 10**9 + moment.microsecond * 1000
    except (ValueError, OverflowError):
        return None


# -- bytes ---------------------------------------------------------------------------------------------


def is_local(url: str) -> bool:
    """Tell an address of development, on the server's own disk, from a presigned one."""
    return local_path(url) is not None


def local_path(url: str) -> str | None:
    """Return the path, below the site's own url, of an address on the server's own disk; None for a presigned one.

    The service itself has these bytes, whatever host and path it believes to be found at.
    """
    parts = urlsplit(url)
    at = parts.path.find(LOCAL)
    return None if at < 0 or parts.query else f"{API}{parts.path[at:]}"


def located(row: Mapping[str, Any], answer: Answer) -> Address:
    """Return where a row says that its bytes are. Raises Malformed where it does not."""
    url = row.get("download_url")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise Malformed(f"{answer.what} did not say where the bytes of the file are: perhaps they are lost.")
    return address(url, answer, _expires_s(url))


def _expires_s(url: str) -> float | None:
    """Return when a presigned address expires, in seconds since 1970 (S3, signature version 4)."""
    try:
        query = parse_qs(urlsplit(url).query)
        signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return signed.timestamp() + float(query["X-Amz-Expires"][0])
    except (KeyError, ValueError, OverflowError):
        return None


class Addresses:
    """The addresses that the last answers told, by attachment id; `local` is what the newest of them is."""

    def __init__(self) -> None:
        self._known: dict[str, Address] = {}
        self.local = False
        self.greatest = 0  # id that was seen; those that are made from now on are greater

    def record(self, rows: Any, answer: Answer) -> None:
        """Keep the addresses in a list of rows, of which each may be nonsense."""
        for row in rows if isinstance(rows, list) else []:
            self.greatest = max([self.greatest, *refs([row])])
            try:
                self.remember(f"attachments/{row['id']}", located(row, answer))
            except (AttributeError, KeyError, TypeError, Malformed):
                continue

    def remember(self, entry_id: str, there: Address) -> None:
        self._known.pop(entry_id, None)
        self._known[entry_id] = there
        self.local = is_local(there.url)
        if len(self._known) > ADDRESSES:
            del self._known[next(iter(self._known))]

    def get(self, entry_id: str) -> Address | None:
        there = self._known.get(entry_id)
        return there if there is not None and trio.current_time() < there.until else None


class Attached:
    """The bytes of one attachment: `known` is a good address or None, `ask` gets a new one."""

    def __init__(
        self, client: Client, entry: Entry, known: Address | None, ask: Callable[[], Awaitable[Address]]
    ) -> None:
        self._client = client
        self._name = entry.name
        self._known = known
        self._ask = ask
        self._local: str | None = None  # path on the server's own disk
        self._presigned = Presigned(client, None, self._locate, entry.size)

    async def _locate(self) -> Address:
        known, self._known = self._known, None
        there = known or await self._ask()
        self._local = local_path(there.url)
        return there

    async def prepare(self) -> None:
        await self._presigned.prepare()

    async def stream(self, stretch: Stretch) -> None:
        await self.prepare()
        if self._local is not None:
            raise Unranged(f"{self._client.site} sends files whole only.")
        with self._explained():
            await self._presigned.stream(stretch)

    async def pour(self, sink: Sink) -> None:
        await self.prepare()
        with self._explained():
            if self._local is not None:
                await self._client.pour_own(self._local, sink)
            else:
                await self._presigned.pour(sink)

    async def measure(self) -> int | None:
        """Return the size in bytes: a range of one byte, or a HEAD where there are no ranges."""
        await self.prepare()
        with self._explained():
            if self._local is not None:
                return await self._client.measure_own(self._local)
            return await self._presigned.measure()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what it means that the bytes are not there: 404 from the bucket, 500 from the server's disk."""
        lost = f"{self._client.site} has lost the bytes of “{self._name}”, or cannot find them under this name"
        try:
            yield
        except NotFound as error:
            raise Malformed(f"{lost}: {error.said}").advised(UPLOAD_AGAIN) from error
        except Unanswered as error:
            if self._local is None or "answered 500" not in error.said:
                raise
            raise Malformed(f"{lost}: {error.said}").advised(UPLOAD_AGAIN) from error
