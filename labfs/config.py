"""A TOML file → frozen site settings, each mistake told in one plain sentence.

Secrets are read when they are needed and never kept in a setting's text form: `repr` of a setting shows
none. A file that holds a literal secret must be readable by its owner alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from labfs.backend import Backend, Settings, Site
from labfs.backends import KINDS
from labfs.errors import ConfigError

Secret = Callable[[], str]
ACCESS = ("read", "write", "full")
COMMON = ("kind", "url", "access", "timeout_s")


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """One site as configured. `timeout_s` is the silence, in seconds, after which a request is given up."""

    name: str
    kind: str
    url: str
    access: str = "write"
    timeout_s: float = 8.0
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    projects: Mapping[str, Mapping[str, Secret]] = field(default_factory=dict, repr=False)

    def account(self, salt: bytes) -> str:
        """Return what tells this account at this address from any other, and nothing of its secrets. Takes a while."""
        own = {key: secret() for key, secret in self.secrets.items()}
        members = {name: {key: secret() for key, secret in each.items()} for name, each in self.projects.items()}
        known = json.dumps([self.kind, self.url, dict(self.options), own, members], sort_keys=True)
        return hashlib.scrypt(known.encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=16).hex()

    def open(self, *, read_only: bool = False) -> Site:
        """Make the site; must be called where trio runs."""
        settings = Settings(
            name=self.name, url=self.url, secrets=self.secrets, options=self.options, projects=self.projects,
            timeout_s=self.timeout_s,
        )  # fmt: skip
        backend: Backend = KINDS[self.kind].build(settings)
        return Site(
            self.name,
            self.kind,
            backend,
            may_write=self.access != "read" and not read_only,
            may_delete=self.access == "full" and not read_only,
        )


@dataclass(frozen=True, slots=True)
class Config:
    path: Path
    sites: tuple[SiteSettings, ...]
    cache_bytes: int = 128 * 1024 * 1024
    copies_bytes: int = 4096 * 1024 * 1024

    def only(self, names: tuple[str, ...]) -> Config:
        """Return the configuration with just these sites; all of them if none is named."""
        known = {site.name: site for site in self.sites}
        for name in names:
            if name not in known:
                raise ConfigError(f"There is no site “{name}” in {self.path}; it has: {', '.join(known)}.")
        return Config(
            self.path, tuple(known[name] for name in names) or self.sites, self.cache_bytes, self.copies_bytes
        )


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
    try:
        text = path.read_text()
        data = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration at {path}; write one, or name it with -c.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The configuration {path} is not valid TOML: {error}.") from error
    unknown = set(data) - {"sites", "cache"}
    if unknown:
        raise ConfigError(f"{path}: unknown section “{min(unknown)}”; known are sites and cache.")
    tables = data.get("sites")
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{path} names no site; add a section such as [sites.hub] with kind, url and token.")
    sites = tuple(_site(path, name, table) for name, table in tables.items())
    if any(_has_literal(table) for table in tables.values()):
        _check_private(path)
    return Config(path, sites, *_cache_bytes(path, data.get("cache", {})))


def _site(path: Path, name: str, table: Any) -> SiteSettings:
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
        if key not in allowed:
            raise ConfigError(f"{where} has an unknown key “{key}”; known are: {', '.join(allowed)}.")
    access = table.get("access", "write")
    if access not in ACCESS:
        raise ConfigError(f"{where} has access “{access}”; it must be read, write or full.")
    timeout_s = table.get("timeout_s", 8.0)
    if not isinstance(timeout_s, int | float) or not 0 < timeout_s <= 300:
        raise ConfigError(f"{where}: timeout_s must be a number of seconds up to 300.")
    secrets = {key: _secret(where, name, key, table.get(key)) for key in KINDS[kind].secrets}
    options = {key: _option(where, key, table.get(key), known) for key, known in KINDS[kind].options.items()}
    url = _url(where, table.get("url"))
    projects = _projects(where, name, table.get("projects"), KINDS[kind].projects)
    return SiteSettings(name, kind, url, access, float(timeout_s), secrets, options, projects)


def _has_literal(table: Mapping[str, Any]) -> bool:
    """Whether a secret of a site stands in the file itself."""
    kind = KINDS[table["kind"]]
    own = [table.get(key) for key in kind.secrets]
    members = [project.get(key) for key in kind.projects for project in table["projects"].values()]
    return any(isinstance(value, str) for value in (*own, *members))


def _projects(where: str, site: str, tables: Any, keys: tuple[str, ...]) -> dict[str, dict[str, Secret]]:
    """Return the secrets of each project by its alias."""
    if not keys:
        return {}
    example = f'projects = {{ "study" = {{ {keys[0]} = {{ env = "NAME" }} }} }}'
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{where} names no project; add {example}.")
    found = {}
    for alias, table in tables.items():
        if not isinstance(table, dict) or set(table) - set(keys):
            raise ConfigError(f"{where}: project “{alias}” takes {' and '.join(keys)} and nothing else: {example}.")
        _check_name(f"{where}: project “{alias}”", alias)
        inner = f"{where}: project “{alias}”"
        found[alias] = {key: _secret(inner, f"{site}:{alias}", key, table.get(key)) for key in keys}
    _check_own(where, found)
    return found


def _check_own(where: str, projects: Mapping[str, Mapping[str, Secret]]) -> None:
    """Raises ConfigError for two aliases of one project: each would be unaware of what is saved by the other's name."""
    seen: dict[tuple[str, ...], str] = {}
    for alias, secrets in projects.items():
        other = seen.setdefault(tuple(secret() for secret in secrets.values()), alias)
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
    if not isinstance(url, str) or not url:
        raise ConfigError(f"{where} has no url; give the address of its API, https://….")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{where}: “{url}” is not a web address; it should begin with https://.")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(f"{where}: with http the credentials would travel unencrypted; use https.")
    return url


def _secret(where: str, site: str, key: str, value: Any) -> Secret:
    """Return what reads the secret; read once here, so that a missing one is told at once."""
    secret = _reader(where, site, key, value)
    if not secret():
        raise ConfigError(f"{where}: its {key} is empty.")
    return secret


def _reader(where: str, site: str, key: str, value: Any) -> Secret:
    match value:
        case str():
            return lambda: value
        case {"env": str(variable), **rest} if not rest:
            return lambda: _from_env(where, key, variable)
        case {"file": str(file), **rest} if not rest:
            return lambda: _from_file(where, key, Path(file).expanduser())
        case {"keyring": True, **rest} if not rest:
            return lambda: _from_keyring(where, site, key)
        case None:
            raise ConfigError(
                f'{where} has no {key}; add {key} = {{ env = "NAME" }}, {{ file = "PATH" }} or {{ keyring = true }}.'
            )
    raise ConfigError(f"{where}: {key} must be a text, or one of env, file and keyring.")


def _from_env(where: str, key: str, variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(f"{where}: its {key} should be in the environment variable {variable}, which is not set.")
    return value


def _from_file(where: str, key: str, path: Path) -> str:
    try:
        _check_private(path)
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{where}: its {key} cannot be read from {path}: {error.strerror}.") from error


def _from_keyring(where: str, site: str, key: str) -> str:
    # Imported here: looking for a desktop's keyring takes a while, and few configurations use one.
    import keyring
    import keyring.errors

    try:
        value = keyring.get_password(f"labfs:{site}", key)
    except keyring.errors.KeyringError as error:
        raise ConfigError(f"{where}: the keyring did not give its {key}: {error}.") from error
    if not value:
        raise ConfigError(f"{where}: the keyring has no {key}; store it with: keyring set labfs:{site} {key}")
    return value


def _check_private(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} holds a secret and others may read it; run: chmod 600 {path}")


def _cache_bytes(path: Path, table: Any) -> tuple[int, int]:
    """Return the bytes of blocks in memory, and of whole files on disk."""
    known = {"mib": 128, "disk_mib": 4096}
    if not isinstance(table, dict) or set(table) - set(known):
        raise ConfigError(f"{path}: the section cache takes mib (in memory) and disk_mib (on disk) and nothing else.")
    found = {key: table.get(key, usual) for key, usual in known.items()}
    for key, value in found.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 64 <= value <= 1 << 24:
            raise ConfigError(f"{path}: in the section cache {key} must be a whole number from 64.")
    return found["mib"] * 1024 * 1024, found["disk_mib"] * 1024 * 1024
