"""Asking sites who we are, all at once and for a short time, and what it means that another system answers.

Tests: mount/test_sites.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import trio

from labfs.backend import dispensable
from labfs.backends import KINDS
from labfs.daemon import config
from labfs.daemon.config import SiteSettings
from labfs.errors import (
    ConfigError,
    Invalid,
    LabfsError,
    Malformed,
    NotFound,
    Unsupported,
    ended,
    sentence,
    ungrouped,
)
from labfs.http.network.contact import contact
from labfs.http.pace import curious
from labfs.tree.site import Site

SOON_S = 6.0  # for a site to say who we are
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one site of the configuration is. `problem` says, as sentences, why it does not serve us; "" if it does."""

    name: str
    kind: str
    url: str
    access: str
    user: str = ""
    rights: str = ""
    latency_s: float | None = None  # of one small answer over a new connection
    problem: str = ""


async def introduced(site: Site) -> str:
    """Return whom a site takes us for. Raises Malformed where another system is at its address."""
    with curious():
        try:
            return await site.backend.check()
        except (NotFound, Unsupported, Invalid) as error:
            title = KINDS[site.kind].title
            raise Malformed(
                f"{site.name}: no {title} answers at {site.address}; is the site's url right? ({error})"
            ) from error


def at_once(work: Callable[[T], Awaitable[None]], items: Sequence[T]) -> None:
    """Do something for all items at the same time; Ctrl-C ends it as anything else."""

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for item in items:
                nursery.start_soon(work, item)

    try:
        trio.run(all_of_them)
    except BaseExceptionGroup as group:
        raise ungrouped(group) from None


def configured(path: Path) -> list[Standing | SiteSettings]:
    """Return the sites of a configuration, one with a mistake as its standing: it hides none of the others."""
    tables: Any = config.read(path).get("sites")
    if not isinstance(tables, dict) or not tables:
        config.load(path)  # which raises
    found: list[Standing | SiteSettings] = []
    for name, table in tables.items():
        try:
            found.append(config.site(path, name, table))
        except ConfigError as error:
            known = table if isinstance(table, dict) else {}
            kind, url = str(known.get("kind", "?")), str(known.get("url", "?"))
            found.append(Standing(name=name, kind=kind, url=url, access="", problem=str(error)))
    return found


def ask(path: Path) -> list[Standing]:
    """Return how each site of a configuration is, in its order. Raises ConfigError if it cannot be read."""
    known = configured(path)
    told: dict[str, Standing] = {one.name: one for one in known if isinstance(one, Standing)}

    async def one(settings: SiteSettings) -> None:
        told[settings.name] = await standing(settings)

    at_once(one, [each for each in known if isinstance(each, SiteSettings)])
    return [told[one.name] for one in known]


def plainly(settings: SiteSettings) -> Standing:
    """Return what is known of a site without asking it."""
    return Standing(name=settings.name, kind=settings.kind, url=settings.url, access=settings.access)


async def standing(settings: SiteSettings, soon_s: float = SOON_S) -> Standing:
    """Ask one site who we are, and what we may do; never raises for a site that does not answer."""
    known = plainly(settings)
    try:
        site = settings.open()
    except LabfsError as error:
        return replace(known, problem=str(error))
    try:
        with trio.move_on_after(soon_s), dispensable():
            known = replace(known, user=await introduced(site))
            known = replace(known, latency_s=await _latency_s(settings))
            known = replace(known, rights=await site.backend.rights())
    except Exception as error:  # a mistake in one backend hides no other site
        return replace(known, problem=ended(sentence(error)))
    finally:
        await site.backend.aclose()
    if not known.user:
        return replace(known, problem=f"{settings.name} has not answered within {soon_s:.0f} s.")
    return known


async def _latency_s(settings: SiteSettings) -> float:
    """Return what one small answer takes; the question who we are can be several, at a pace below the site's limit."""
    found = await contact(
        settings.name, settings.url, proxy=settings.proxy, ca=settings.ca, timeout_s=settings.timeout_s
    )
    return found.latency_s
