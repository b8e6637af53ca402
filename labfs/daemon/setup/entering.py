"""Credentials that a person enters: tried with the server first, and stored only if it accepts them.

Tests: mount/test_login.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from labfs.backends import KINDS, Kind
from labfs.daemon import config
from labfs.daemon.config import SiteSettings
from labfs.daemon.setup import keeping
from labfs.daemon.setup.asking import Standing, standing
from labfs.errors import ConfigError, LabfsError, ungrouped

ASKED_S = 30.0  # for the server's answer to new credentials


@dataclass(frozen=True, slots=True)
class Stored:
    """What `store` did: how the site is, where each secret is, and whether the configuration points elsewhere now."""

    standing: Standing
    places: tuple[str, ...]
    moved: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A site whose credentials are entered: of the configuration, or a new one. `alias` is a project's, or empty."""

    path: Path
    site: str
    alias: str
    table: Mapping[str, Any] = field(repr=False)  # as configured so far
    fresh: Mapping[str, str]  # what begins its section, if it has none yet

    @property
    def kind(self) -> Kind:
        return KINDS[self.table["kind"]]

    @property
    def keys(self) -> tuple[str, ...]:
        return self.kind.projects or self.kind.secrets

    def settings(self, secrets: Mapping[str, str]) -> SiteSettings:
        """Return the site with these secrets alone. Raises ConfigError for what cannot be sent."""
        own = {self.alias: dict(secrets)} if self.kind.projects else {}
        table = {key: value for key, value in self.table.items() if key not in (*self.keys, "projects")}
        return config.site(self.path, self.site, {**table, **({"projects": own} if own else secrets)})

    def store(self, secrets: Mapping[str, str]) -> Stored:
        """Try secrets with the server, store them, and have the configuration point there. Raises ConfigError."""
        settings = self.settings(secrets)
        told = trio.run(standing, settings, ASKED_S)
        if told.problem:
            raise ConfigError(f"Nothing was stored: {told.problem}")
        known = self._known()
        self._check_own(secrets)
        values, places = {}, []
        for key, secret in secrets.items():
            values[key], place = keeping.keep(self.path, self.site, self.alias, key, secret, known.get(key))
            places.append(place)
        moved = values != {key: known.get(key) for key in secrets}
        if moved:
            keeping.point(self.path, self.site, self.alias, values, self.fresh)
        return Stored(told, tuple(place for place in dict.fromkeys(places) if place != str(self.path)), moved)

    def _known(self) -> Mapping[str, Any]:
        """Return what the configuration says of each secret so far."""
        if not self.alias:
            return self.table
        projects = self.table.get("projects")
        known = projects.get(self.alias) if isinstance(projects, dict) else None
        return known if isinstance(known, dict) else {}

    def _check_own(self, secrets: Mapping[str, str]) -> None:
        """Raises ConfigError for the secrets of another project of the site, which would be mounted twice."""
        projects: Any = self.table.get("projects")
        for alias, table in projects.items() if isinstance(projects, dict) and self.alias else ():
            one = {**self.table, "projects": {alias: table}}
            try:
                other = config.site(self.path, self.site, one).projects[alias]
                same = alias != self.alias and {key: read() for key, read in other.items()} == dict(secrets)
            except LabfsError:  # it cannot be read now
                continue
            if same:
                raise ConfigError(f"Nothing was stored: the project “{alias}” has the same {' and '.join(secrets)}.")


def entry(path: Path, site: str, kind: str | None, url: str | None) -> Entry:
    """Return what is known of a site. Raises ConfigError if that is too little, or contradicts the options."""
    data = config.read(path) if path.exists() else {}
    tables = data.get("sites", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: sites must be sections, such as [sites.hub].")
    table = tables.get(site)
    if table is None:
        if not kind or not url:
            raise ConfigError(
                f"There is no site “{site}” in {path}; to add one, name its system and its address:"
                f" labfs login NAME --kind KIND --url URL. The kinds are {', '.join(KINDS)}."
            )
        fresh = {"kind": kind, "url": url}
        if kind not in KINDS:
            config.site(path, site, fresh)  # which raises
        return Entry(path, site, "", fresh, fresh)
    if not isinstance(table, dict) or table.get("kind") not in KINDS:
        config.site(path, site, table)  # which raises
        raise AssertionError("unreachable")
    for key, given in (("kind", kind), ("url", url)):
        if given and given != table.get(key):
            now = table.get(key)
            raise ConfigError(f"{path}: site “{site}” has the {key} {now}; change it there, or take a new name.")
    return Entry(path, site, "", table, {})


def allowed(site: Entry, client_id: str, client_secret: str, show: Callable[[str], None]) -> str:
    """Return a token that a person allows on a page; `show` is given its address."""
    if not site.kind.device:
        known = ", ".join(name for name, kind in KINDS.items() if kind.device)
        raise ConfigError(f"{site.kind.title} has no page on which a program is allowed a token; {known} has.")
    settings = site.settings(dict.fromkeys(site.keys, "x"))

    async def wait() -> str:
        flow = site.kind.device_flow(settings.basis(), client_id, client_secret)
        try:
            show(await flow.begin())
            return await flow.token()
        finally:
            await flow.aclose()

    try:
        return trio.run(wait)
    except BaseExceptionGroup as group:
        raise ungrouped(group) from None
