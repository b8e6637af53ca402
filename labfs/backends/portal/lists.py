"""What is in an organization of the Portal, in one answer where that comes soon, else row by row.

Its record tells all files at once and takes ten milliseconds for each (the real program, measured); after 30 s the
published proxy gives up, though the program goes on. The list of all organizations has the ids of its files at no
cost, as the list of its materials has their names. So directories come first, and where the files would take long to
be told together they are asked for one by one, the oldest first.

Tests: backends/test_portal_backend, mount/test_portal_mount.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import trio

from labfs.backend import Entry, Page
from labfs.backends.common import sift
from labfs.backends.portal import rows
from labfs.backends.portal.people import Myself
from labfs.backends.portal.requests import Requests
from labfs.backends.portal.rows import Addresses, Json
from labfs.errors import Denied, Malformed, NotFound, Stale
from labfs.http.client import Answer

FEW = 100  # files, which are asked for together in any case
TOGETHER_S = 5.0  # for an answer about all files of an organization
TRIED = 3  # rows that are asked for to learn what one costs
PAGE = 32  # files of a page, where they are asked for one by one
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Contents:
    """What an organization's row tells of all that is in it: its directories, and where each file belongs."""

    number: int
    me: str
    locked: str | None  # why nothing can be changed
    directories: tuple[Entry, ...]
    known: frozenset[int]  # its materials
    agreeing: frozenset[int]  # those that have an agreement

    @classmethod
    def of(cls, found: Json, me: str) -> tuple[Contents, int]:
        """Return it, and how many materials made no sense."""
        number, locked = rows.ref(found), None if rows.is_member(found, me) else rows.OUTSIDER
        folders, bad = sift(lambda item: rows.material(item, number, locked), found["materials"])
        agreeing = [item for item in found["materials"] if isinstance(item, dict) and item.get("needs_mta") is True]
        known = frozenset(int(entry.label) for entry in folders)
        directories = (rows.attachments(number, locked), *folders)
        return cls(number, me, locked, directories, known, frozenset(rows.refs(agreeing))), bad

    def files(self, items: list[Any]) -> tuple[tuple[Entry, ...], int]:
        """Return its own files, each once more in the materials whose agreement it is, and how many made no sense."""
        files, bad = sift(self._own, items)
        shown = {(entry.id, entry.inside) for entry in files}
        links, _ = sift(self._link, [(item, user) for item in items for user in rows.users(item) if user in self.known])
        return (*files, *(entry for entry in links if (entry.id, entry.inside) not in shown)), bad

    def _own(self, item: Json) -> Entry:
        theirs = self.locked if str(rows.person(item["owned_by_user"])) != self.me else None
        return rows.file(item, rows.home(item, self.number, self.known), theirs)

    def _link(self, pair: tuple[Json, int]) -> Entry:
        item, user = pair
        kept = rows.KEPT_BY_MATERIAL if rows.home(item, self.number, self.known).material else rows.KEPT_BY_ORGANIZATION
        return rows.file(item, rows.Place(self.number, user), self.locked or kept)

    def foreign(self, pair: tuple[Json, int]) -> Entry:
        """Return an agreement that belongs to nobody in the organization, in the material that uses it."""
        return rows.file(pair[0], rows.Place(self.number, pair[1]), rows.KEPT_ELSEWHERE)


@dataclass(slots=True)
class Course:
    """A list that is being read row by row."""

    number: int  # of the organization
    serial: int
    shown: Contents
    ids: list[int]
    explained: set[int]  # materials whose agreement was among the files


class Organizations:
    """The organizations that a caller sees, and what is in them."""

    def __init__(self, requests: Requests, myself: Myself, addresses: Addresses) -> None:
        self._requests = requests
        self._myself = myself
        self._addresses = addresses
        self._places: dict[int, int] = {}  # in the list of all organizations, where each was last
        self._few: set[int] = set()  # organizations that had no more than FEW files
        self._courses: dict[int, Course] = {}
        self._serials = count(1)

    async def row(self, number: int) -> tuple[Json, Answer]:
        """Return an organization's row in the list of all: relations are ids there. Raises NotFound."""
        place = self._places.get(number)
        if place is not None:
            items, _, answer = await self._requests.some("organizations", place, 1)
            if items and rows.refs(items) == [number]:
                return items[0], answer
        items, answer = await self._requests.all("organizations")
        self._places = {each: place for place, item in enumerate(items) for each in rows.refs([item])}
        if number in self._places:
            return items[self._places[number]], answer
        raise NotFound(f"{self._requests.site} has no organization {number}.")

    async def page(self, number: int, cursor: str | None) -> Page:
        """Return directories first, and then files."""
        course, (serial, _, start) = self._courses.get(number), (cursor or "").partition("/")
        if start == "all" or (cursor is None and number in self._few):
            return await self._together(number)
        if cursor is None:
            return await self._first(number)
        if course is None or str(course.serial) != serial:
            raise Stale(f"The list of organization {number} was begun anew meanwhile.")
        return await self._some(course, int(start))

    async def _first(self, number: int) -> Page:
        row, _ = await self.row(number)
        ids = rows.refs(row.get("attachments"))
        if len(ids) <= FEW:
            return await self._together(number)
        started = trio.current_time()
        materials, _ = await self._requests.all(f"organizations/{number}/materials")
        nothing_s = trio.current_time() - started
        shown, left_out = Contents.of({**row, "materials": materials}, await self._myself.id())
        course = Course(number, next(self._serials), shown, sorted(ids), set())
        alone = shown.locked is None and await self._row_s(number, course.ids, nothing_s) * len(ids) > TOGETHER_S
        self._courses[number] = course
        return Page(shown.directories, f"{course.serial}/{0 if alone else 'all'}", None, left_out)

    async def _row_s(self, number: int, ids: list[int], nothing_s: float) -> float:
        """Return about how long a row takes to be told, in seconds, beyond what any answer takes."""
        least = float("inf")
        for each in ids[:TRIED]:
            started = trio.current_time()
            await self._row(number, each)
            least = min(least, trio.current_time() - started)
        return max(least - nothing_s, 0.0)

    async def _together(self, number: int) -> Page:
        """Return all that an organization's own record tells."""
        found, answer = await self._requests.get(f"organizations/{number}")
        if not all(isinstance(found.get(key), list) for key in ("materials", "attachments")):
            raise Malformed(f"{answer.what} answered without materials and attachments.")
        self._addresses.record(found["attachments"], answer)
        (self._few.add if len(found["attachments"]) <= FEW else self._few.discard)(number)
        try:
            shown, left_out = Contents.of(found, await self._myself.id())
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(f"{answer.what} answered in a form of no sense.") from error
        files, unread = shown.files(found["attachments"])
        explained = {user for item in found["attachments"] for user in rows.users(item)}
        foreign, unread_too = await self._foreign(shown, explained)
        linked = [entry for entry in foreign if (entry.id, entry.inside) not in {(e.id, e.inside) for e in files}]
        return Page((*shown.directories, *files, *linked), None, None, left_out + unread + unread_too)

    async def _some(self, course: Course, start: int) -> Page:
        """Return the next files of an organization, each told for itself."""
        waiting, found = iter(course.ids[start : start + PAGE]), dict[int, Json]()

        async def ask() -> None:
            for each in waiting:
                row = await self._row(course.number, each)
                found.update({each: row} if row is not None else {})

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(ask)
        items = [found[each] for each in sorted(found)]
        course.explained |= {user for item in items for user in rows.users(item)}
        files, left_out = course.shown.files(items)
        end = start + PAGE
        if end < len(course.ids):
            return Page(files, f"{course.serial}/{end}", None, left_out)
        foreign, unread = await self._foreign(course.shown, course.explained)
        self._courses.pop(course.number, None)
        return Page((*files, *foreign), None, None, left_out + unread)

    async def _row(self, number: int, each: int) -> Json | None:
        """Return the row of an organization's file as lists have it; None for one that is not there any more."""
        try:
            found, answer = await self._requests.get(f"attachments/{each}")
        except NotFound:
            return None
        except Denied:
            if each in rows.refs((await self.row(number))[0].get("attachments")):
                raise
            return None  # it was moved to where it is not ours to see
        self._addresses.record([found], answer)
        return rows.summary(found)

    async def _foreign(self, shown: Contents, explained: set[int]) -> tuple[tuple[Entry, ...], int]:
        """Return agreements that are not the organization's own, in its materials, and no deleted ones."""
        wanting = shown.agreeing - explained
        if not wanting:
            return (), 0
        pairs = []
        items, answer = await self._requests.all("materials", organization__id=str(shown.number))
        for item in items:
            agreement, user = rows.agreement(item)
            # One of the organization's own that is not among its files is deleted.
            foreign = user in wanting and agreement.get("owned_by_org") != shown.number
            if foreign and await self._is_live(agreement):
                self._addresses.record([agreement], answer)
                pairs.append((agreement, user))
        return sift(shown.foreign, pairs)

    async def _is_live(self, item: Json) -> bool:
        try:
            await self._requests.get(f"attachments/{int(item['id'])}")
        except Denied:
            return True  # somebody else's, and there
        except (NotFound, KeyError, TypeError, ValueError):
            return False
        return True

    async def material(self, number: int, wanted: int) -> tuple[Json, Answer]:
        """Return a material of an organization as its list has it. Raises NotFound."""
        items, answer = await self._requests.all(f"organizations/{number}/materials")
        for item in items:
            if rows.refs([item]) == [wanted]:
                return item, answer
        raise NotFound(f"Organization {number} has no material {wanted}.")

    async def listed(self, number: int) -> tuple[Json, Answer]:
        """Return a material as the list of all materials has it: its files are ids there. Raises NotFound."""
        items, _, answer = await self._requests.some("materials", 0, 1, id=str(number))
        if rows.refs(items) != [number]:
            raise NotFound(f"{self._requests.site} has no material {number}.")
        return items[0], answer

    async def newer(self, number: int, than: int) -> tuple[list[Any], Answer]:
        """Return the rows of an organization's files whose ids are greater, and what told them."""
        row, answer = await self.row(number)
        told = [await self._row(number, each) for each in sorted(rows.refs(row.get("attachments"))) if each > than]
        return [item for item in told if item is not None], answer
