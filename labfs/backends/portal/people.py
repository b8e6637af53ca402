"""Who the caller is to the Portal, by calls that cost nothing.

No call tells whose a token is, and the list of all users prepares the attachments of each before it drops those of
others: ten milliseconds a row (the real program, measured). But every user has an organization of his own, the list
of organizations names the members of each, and `organizations/<id>/members/` answers to members alone (its view's
permission). A few such answers leave one user.

Tests: backends/test_portal_backend, mount/test_portal_mount.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote
from uuid import UUID

import trio

from labfs.backends.portal import rows
from labfs.backends.portal.requests import Requests
from labfs.errors import Denied, Malformed, NotFound

log = logging.getLogger(__name__)

AT_ONCE = 4  # organizations that are asked whether we are a member
ONE_BY_ONE = 1000  # users at most, whose records are looked at where that tells nothing

Teams = dict[int, set[str]]  # organizations and their members


class Myself:
    """The caller. `configured` is his id as the configuration has it, or empty."""

    def __init__(self, requests: Requests, configured: str) -> None:
        self._requests = requests
        self._configured = configured.lower()
        self._known = ""
        self._names: dict[str, str] = {}
        self._learning = trio.Lock()

    async def id(self) -> str:
        """Return our id: as it is configured, or learnt once, since a token belongs to one person for good."""
        if self._configured:
            return self._well_formed()
        async with self._learning:
            if not self._known:
                self._known = await self._learn()
            return self._known

    async def path(self) -> str:
        """Return the path of our own record."""
        return f"users/{quote(await self.id(), safe='')}"

    async def check(self) -> str:
        """Return our name. Raises Denied where the token is no good, or that of another than is configured."""
        if self._configured and not self._names:
            await self._verify()
        me = await self.id()
        return self._names.get(me) or me

    def refuted(self, why: str) -> Denied:
        """Return what to raise when our id turns out to be somebody else's, or nobody's; a learnt one is forgotten."""
        me, self._known = self._configured or self._known, ""
        return Denied(f"{self._requests.site}: {why} user {me}: is user_id right?")

    def _well_formed(self) -> str:
        try:
            UUID(self._configured)
        except ValueError:
            raise self.refuted("an id has another form than that of") from None
        return self._configured

    async def _verify(self) -> None:
        """Make sure of what is configured, by the organization of his that has the fewest members: his own."""
        me = self._well_formed()
        found, _ = await self._requests.all(f"users/{me}/organizations")
        teams = [item for item in found if rows.refs([item])]
        if not teams:
            raise self.refuted("no organization has the")
        smallest = min(teams, key=lambda item: len(_people(item)))
        if me not in await self._members(rows.ref(smallest)):
            raise self.refuted("the token is not that of")

    async def _learn(self) -> str:
        """Find the only user who is in all organizations that tell us their members, and in none that do not."""
        teams: Teams = {}
        for item in (await self._requests.all("organizations"))[0]:
            teams.update({number: _people(item) for number in rows.refs([item])})
        suspects: set[str] = set().union(*teams.values())
        member = False
        while teams and suspects and not (member and len(suspects) == 1):
            half = len(suspects) / 2
            asked = sorted(teams, key=lambda number: abs(len(teams[number] & suspects) - half))[:AT_ONCE]
            told = await self._asked(asked)
            for number in asked:
                listed, shown = teams.pop(number), told.get(number)
                member = member or bool(shown)
                suspects = suspects & shown if shown else suspects - listed
            teams = {number: people for number, people in teams.items() if people & suspects}
        return next(iter(suspects)) if member and len(suspects) == 1 else await self._look_through()

    async def _asked(self, numbers: list[int]) -> Teams:
        told: Teams = {}

        async def ask(number: int) -> None:
            told[number] = await self._members(number)

        async with trio.open_nursery() as nursery:
            for number in numbers:
                nursery.start_soon(ask, number)
        return told

    async def _members(self, number: int) -> set[str]:
        """Return the members of an organization, as it tells its members; nobody if we are none."""
        found = set()
        try:
            for item in (await self._requests.all(f"organizations/{number}/members"))[0]:
                if isinstance(item, dict) and item.get("id"):
                    found.add(str(item["id"]))
                    self._names[str(item["id"])] = str(item.get("full_name") or item.get("username") or "")
        except (Denied, NotFound):
            return set()
        return found

    async def _look_through(self) -> str:
        """Find the caller among the users one by one: the only one who shows what he owns. Each costs what he has."""
        seen: set[str] = set()
        for place in range(ONE_BY_ONE):
            items, total, _ = await self._requests.some("users", place, 1)
            user = items[0] if items and isinstance(items[0], dict) else {}
            if "owned_attachments" in user and user.get("id"):
                return str(user["id"])
            if str(user.get("id")) in seen or place >= total:  # it makes no sense, or it is over
                break
            seen.add(str(user.get("id")))
        raise Malformed(f"{self._requests.site} does not list the token's own user; set user_id in the configuration.")


def _people(item: Any) -> set[str]:
    """Return the ids of an organization's members and owner."""
    if not isinstance(item, dict):
        return set()
    members = item.get("members")
    people = [item.get("owner"), *(members if isinstance(members, list) else [])]
    return {rows.person(each) for each in people if each}
