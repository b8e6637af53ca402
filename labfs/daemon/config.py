"""A TOML file → frozen site settings, each mistake told in one plain sentence.

Secrets are read when they are needed and never kept in a setting's text form: `repr` of a setting shows
none. A file that holds a literal secret must be readable by its owner alone.

Tests: mount/test_cli, unit/test_credentials.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import platformdirs

from labfs.backend import Backend
from labfs.backends import KINDS
from labfs.backends.common import Settings
from labfs.daemon import sharing
from labfs.daemon.credentials import Secret, check_private, plain, secret
from labfs.errors import ConfigError
from labfs.http.pace import Gate
from labfs.shared.where import Where
from labfs.tree.site import Site

if TYPE_CHECKING:
    from labfs.shared.share import Share

ACCESS = ("read", "write", "full")
COMMON = ("kind", "url", "access", "timeout_s", "poll_s", "any_case", "proxy", "ca")

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One site as configured. `timeout_s` is the silence, in seconds, after which a request is given up."""

    name: str
    kind: str
    url: str
    access: str = "write"
    timeout_s: float = 8.0
    poll_s: float = 30.0
    any_case: bool = False
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    projects: Mapping[str, Mapping[str, Secret]] = field(default_factory=dict, repr=False)
    proxy: Secret | None = field(default=None, repr=False)
    ca: str = ""

    def account(self, salt: bytes) -> str:
        """Return what tells this account at this address from any other, and nothing of its secrets. Takes a while."""
        own = {key: secret() for key, secret in self.secrets.items()}
        members = {name: {key: secret() for key, secret in each.items()} for name, each in self.projects.items()}
        known = json.dumps([self.kind, self.url, dict(self.options), own, members], sort_keys=True)
        return hashlib.scrypt(known.encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=16).hex()

    def basis(self, gate: Gate | None = None) -> Settings:
        """Return what a backend is built from."""
        kind = KINDS[self.kind]
        return Settings(
            name=self.name, url=self.url, secrets=self.secrets, options=self.options, projects=self.projects,
            timeout_s=self.timeout_s, proxy=self.proxy, ca=self.ca, title=kind.title, renewal=kind.renewal,
            gate=gate,
        )  # fmt: skip

    def open(self, share: Share | None = None, *, read_only: bool = False) -> Site:
        """Make the site; must be called where trio runs."""
        gate = None if share is None else share.gate(self.kind, self.url)
        backend: Backend = KINDS[self.kind].build(self.basis(gate))
        return Site(
            self.name,
            self.kind,
            backend,
            may_write=self.access != "read" and not read_only,
            may_delete=self.access == "full" and not read_only,
            any_case=self.any_case,
            poll_s=self.poll_s,
            address=self.url,
        )


@dataclass(frozen=True, slots=True)
class Config:
    path: Path
    sites: tuple[SiteSettings, ...]
    cache_bytes: int = 128 * MIB
    disk_bytes: int = 4096 * MIB
    draft_s: float = 60.0  # for a draft to get its last name
    draft_names: tuple[str, ...] = ()  # patterns of names that are a draft's, besides those that labfs knows
    previews_bytes: int = MIB  # of the largest file that thumbnailers and indexers may open
    shared: Where | None = None  # the store that is shared with other machines
    xattrs: bool = False  # whether files have `user.labfs.*`: a program that asks each file for its own takes longer

    def share(self) -> Share | None:
        """Return what is shared with other machines, if anything; must be called where trio runs."""
        if self.shared is None:
            return None
        from labfs.shared.share import Share  # here, since few configurations need it

        return Share(self.shared)

    def only(self, names: tuple[str, ...]) -> Config:
        """Return the configuration with just these sites; all of them if none is named."""
        known = {site.name: site for site in self.sites}
        for name in names:
            if name not in known:
                raise ConfigError(f"There is no site “{name}” in {self.path}; it has: {', '.join(known)}.")
        return replace(self, sites=tuple(known[name] for name in names) or self.sites)


def default_path() -> Path:
    named = os.environ.get("LABFS_CONFIG")
    return Path(named) if named else platformdirs.user_config_path("labfs") / "labfs.toml"


def state_dir() -> Path:
    """Return the private directory of spool, log and control sockets, making it if need be."""
    named = os.environ.get("LABFS_STATE_DIR")
    return _private(Path(named) if named else platformdirs.user_state_path("labfs"))


def cache_dir() -> Path:
    """Return the private directory of fetched files, making it if need be."""
    named = os.environ.get("LABFS_CACHE_DIR")
    return _private(Path(named) if named else platformdirs.user_cache_path("labfs"), "cache")


def _private(path: Path, what: str = "state") -> Path:
    cannot, remedy = f"labfs cannot keep its {what} in {path}", f"Set LABFS_{what.upper()}_DIR."
    if not path.is_absolute():  # it would be another one for the daemon, and in the next terminal
        raise ConfigError(f"{cannot}: its path must begin with “/”. {remedy}")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = path.stat()
        if there.st_uid != os.getuid():
            raise ConfigError(f"{cannot}: it belongs to another user. {remedy}")
        if stat.S_IMODE(there.st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"{cannot}: {error.strerror}. {remedy}") from error
    return path.resolve()


def load(path: Path | None = None) -> Config:
    """Read and check the configuration. Raises ConfigError with what is wrong and what to do."""
    path = path or default_path()
    data = read(path)
    tables = data.get("sites")
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{path} names no site; add a section such as [sites.hub] with kind, url and token.")
    sites = tuple(site(path, name, table) for name, table in tables.items())
    if sharing.has_literal(data.get("shared")) or any(has_literal(table) for table in tables.values()):
        check_private(path)
    xattrs = data.get("xattrs", False)
    if not isinstance(xattrs, bool):
        raise ConfigError(f"{path}: xattrs must be true or false, without quotes.")
    cache, drafts = _cache_bytes(path, data.get("cache", {})), _drafts(path, data.get("drafts", {}))
    previews = data.get("previews_mib", 1)
    if not isinstance(previews, int) or isinstance(previews, bool) or not 0 <= previews <= 1 << 24:
        raise ConfigError(f"{path}: previews_mib must be a whole number of MiB from 0.")
    shared = sharing.where(path, data["shared"]) if "shared" in data else None
    return Config(path, sites, *cache, *drafts, previews * MIB, shared, xattrs)


def read(path: Path) -> dict[str, Any]:
    """Return the tables of a configuration, its sites not checked yet. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(
            f"There is no configuration at {path}; name another with -c, or begin one:"
            " labfs login NAME --kind KIND --url URL"
        ) from None
    except OSError as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise ConfigError(f"The configuration {path} is not UTF-8 text; save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The configuration {path} is not valid TOML: {error}.{_typographic(text)}") from error
    unknown = set(data) - {"sites", "cache", "drafts", "previews_mib", "shared", "xattrs"}
    if unknown:
        known = "sites, cache, drafts, previews_mib, shared and xattrs"
        raise ConfigError(f"{path}: unknown section “{min(unknown)}”; known are {known}.")
    return data


def _typographic(text: str) -> str:
    """Say on which line a word processor has put quotes that are none in TOML; nothing where it has not."""
    for number, line in enumerate(text.splitlines(), 1):
        if any(quote in line.partition("#")[0] for quote in "“”„‘’"):
            return f' Line {number} has typographic quotes; write " instead.'
    return ""


def site(path: Path, name: str, table: Any) -> SiteSettings:
    """Check one site's table of the configuration at a path. Raises ConfigError."""
    where = f"{path}: site “{name}”"
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a section, [sites.{name}].")
    _check_name(where, name)
    kind = table.get("kind")
    if kind not in KINDS:
        given = f"unknown kind “{kind}”" if kind else "no kind"
        raise ConfigError(f"{where} has {given}; known are: {', '.join(KINDS)}.")
    allowed = (*COMMON, *KINDS[kind].secrets, *KINDS[kind].options, *(["projects"] if KINDS[kind].projects else []))
    for key in table:
        if key in KINDS[kind].projects and key not in allowed:
            raise ConfigError(f"{where}: each project has a {key} of its own; write {_example(KINDS[kind].projects)}.")
        if key not in allowed:
            raise ConfigError(f"{where} has an unknown key “{key}”{_others(key)}; known are: {', '.join(allowed)}.")
    access = table.get("access", "write")
    if access not in ACCESS:
        raise ConfigError(f"{where} has access “{access}”; it must be read, write or full.")
    timeout_s = table.get("timeout_s", 8.0)
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 300:
        raise ConfigError(f"{where}: timeout_s must be a number of seconds up to 300.")
    poll_s = table.get("poll_s", 30.0)
    if not isinstance(poll_s, int | float) or isinstance(poll_s, bool) or not (poll_s == 0 or 1 <= poll_s <= 86400):
        raise ConfigError(f"{where}: poll_s must be a number of seconds from 1 to a day, or 0 for never.")
    any_case = table.get("any_case", False)
    if not isinstance(any_case, bool):
        raise ConfigError(f"{where}: any_case must be true or false.")
    secrets = {key: secret(where, f"sites.{name}.{key}", name, table.get(key)) for key in KINDS[kind].secrets}
    options = {key: _option(where, key, table.get(key), known) for key, known in KINDS[kind].options.items()}
    url = _base(_url(where, table.get("url")), KINDS[kind].api)
    projects = _projects(where, name, table.get("projects"), KINDS[kind].projects)
    proxy = plain(where, f"sites.{name}.proxy", name, table["proxy"]) if "proxy" in table else None
    if proxy is not None:
        proxy()  # one that cannot be read is told at once
    ca = _beside(path, where, table["ca"]) if "ca" in table else ""
    return SiteSettings(
        name, kind, url, access, float(timeout_s), float(poll_s), any_case, secrets, options, projects, proxy, ca
    )


def _others(key: str) -> str:
    """Say which kinds of site take a key that this one does not."""
    takers = [name for name, kind in KINDS.items() if key in (*kind.secrets, *kind.options)]
    if key == "projects":
        takers = [name for name, kind in KINDS.items() if kind.projects]
    return f", which belongs to {' and '.join(takers)}" if takers else ""


def _beside(path: Path, where: str, ca: Any) -> str:
    """Return the path of a site's certificates: below the home directory, or beside the configuration."""
    if not isinstance(ca, str) or not ca:
        raise ConfigError(f"{where}: ca must be the path of a file of certificates.")
    return str(path.absolute().parent / Path(ca).expanduser())


def has_literal(table: Any) -> bool:
    """Whether a secret of a site stands in the file itself; the table need not be valid."""
    kind = KINDS.get(str(table.get("kind"))) if isinstance(table, dict) else None
    if kind is None:
        return False
    own = [table.get(key) for key in kind.secrets]
    if "@" in str(table.get("proxy", "")):  # has a password
        own.append(table["proxy"])
    projects = table.get("projects")
    tables = [one for one in projects.values() if isinstance(one, dict)] if isinstance(projects, dict) else []
    members = [project.get(key) for key in kind.projects for project in tables]
    return any(isinstance(value, str) for value in (*own, *members))


def _example(keys: tuple[str, ...]) -> str:
    return f'projects = {{ "study" = {{ {keys[0]} = {{ env = "NAME" }} }} }}'


def _projects(where: str, site: str, tables: Any, keys: tuple[str, ...]) -> dict[str, dict[str, Secret]]:
    """Return the secrets of each project by its alias."""
    if not keys:
        return {}
    example = _example(keys)
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{where} names no project; add {example}.")
    found = {}
    for alias, table in tables.items():
        if not isinstance(table, dict) or set(table) - set(keys):
            raise ConfigError(f"{where}: project “{alias}” takes {' and '.join(keys)} and nothing else: {example}.")
        _check_name(f"{where}: project “{alias}”", alias)
        inner = f"{where}: project “{alias}”"
        own = f"sites.{site}.projects.{alias}"
        found[alias] = {key: secret(inner, f"{own}.{key}", f"{site}:{alias}", table.get(key)) for key in keys}
    _check_own(where, found)
    return found


def _check_own(where: str, projects: Mapping[str, Mapping[str, Secret]]) -> None:
    """Raises ConfigError for two aliases of one project: each would be unaware of what is saved by the other's name."""
    seen: dict[tuple[str, ...], str] = {}
    for alias, secrets in projects.items():
        other = seen.setdefault(tuple(read() for read in secrets.values()), alias)
        if other != alias:
            known = " and ".join(secrets)
            raise ConfigError(f"{where}: “{other}” and “{alias}” have the same {known}; each project has its own.")


def _check_name(what: str, name: str) -> None:
    if not name or "/" in name or name.startswith(".") or not name.isprintable() or len(name.encode()) > 255:
        raise ConfigError(f"{what} has a name that cannot be a directory; use letters and digits.")


def _option(where: str, key: str, value: Any, known: tuple[str, ...]) -> str:
    if value is None:
        return known[0] if known else ""
    if not known:
        if not isinstance(value, str):
            raise ConfigError(f"{where}: {key} must be a text.")
        return value
    if value not in known:
        raise ConfigError(f"{where} has {key} “{value}”; it must be {' or '.join(known)}.")
    return str(value)


def _url(where: str, url: Any) -> str:
    if not isinstance(url, str) or not url.strip():
        raise ConfigError(f"{where} has no url; give the address of its API, https://….")
    address = url.strip()
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and address.isprintable()
    except ValueError:  # a port, or brackets, that are none
        known = False
    if not known:
        raise ConfigError(f"{where}: “{address}” is not a web address; it should begin with https://.")
    if "@" in parts.netloc:
        raise ConfigError(f"{where}: its url holds a user name or a password; these have keys of their own.")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(f"{where}: with http the credentials would travel unencrypted; use https.")
    return address


def _base(url: str, api: tuple[str, ...]) -> str:
    """Return the address of a server without the path of its API, which many documents print along with it."""
    bare = url.rstrip("/")
    return next((bare.removesuffix(f"/{path}") for path in api if bare.endswith(f"/{path}")), url)


def _drafts(path: Path, table: Any) -> tuple[float, tuple[str, ...]]:
    """Return the seconds that a draft waits for its last name, and patterns of names that are a draft's."""
    if not isinstance(table, dict) or set(table) - {"names", "seconds"}:
        raise ConfigError(f"{path}: the section drafts takes names and seconds and nothing else.")
    seconds, patterns = table.get("seconds", 60), table.get("names", [])
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= 86_400:
        raise ConfigError(f"{path}: in the section drafts seconds must be a number from 1 to 86,400.")
    if not isinstance(patterns, list) or not all(isinstance(one, str) and one.strip("*?") for one in patterns):
        raise ConfigError(f'{path}: in the section drafts names must be a list of patterns, such as ["*.mine"].')
    return float(seconds), tuple(patterns)


def _cache_bytes(path: Path, table: Any) -> tuple[int, int]:
    """Return the bytes of blocks in memory, and of whole files on disk."""
    known = {"mib": 128, "disk_mib": 4096}
    if not isinstance(table, dict) or set(table) - set(known):
        raise ConfigError(f"{path}: the section cache takes mib (in memory) and disk_mib (on disk) and nothing else.")
    found = {key: table.get(key, usual) for key, usual in known.items()}
    for key, value in found.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 64 <= value <= 1 << 24:
            raise ConfigError(f"{path}: in the section cache {key} must be a whole number from 64.")
    return found["mib"] * MIB, found["disk_mib"] * MIB
