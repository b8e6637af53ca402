"""The section `shared` of a configuration: where the store is that machines share, and how much may be in it.

Tests: mount/test_shared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from labfs.daemon.credentials import secret
from labfs.errors import ConfigError
from labfs.shared.where import Where

KEYS = ("url", "username", "password", "ca", "mib")
MIB = 1024 * 1024
USUAL_MIB = 1024
SERVICE = ":shared"  # in the keyring, where sites have their names


def where(path: Path, table: Any) -> Where:
    """Check the section of the configuration at a path. Raises ConfigError."""
    own = f"{path}: the section shared"
    if not isinstance(table, dict) or set(table) - set(KEYS):
        raise ConfigError(f"{own} takes {', '.join(KEYS[:-1])} and {KEYS[-1]}, and nothing else.")
    url, room = _url(own, table.get("url")), table.get("mib", USUAL_MIB)
    if not isinstance(room, int) or isinstance(room, bool) or not 16 <= room <= 1 << 24:
        raise ConfigError(f"{own}: mib must be a whole number from 16: how much of files may be in the store.")
    username, ca = table.get("username", ""), table.get("ca", "")
    for key, value in (("username", username), ("ca", ca)):
        if not isinstance(value, str):
            raise ConfigError(f"{own}: {key} must be a text.")
    if username and "password" not in table:
        raise ConfigError(f"{own} has a username and no password.")
    password = secret(own, "shared.password", SERVICE, table["password"]) if "password" in table else None
    if ca:
        ca = str(path.absolute().parent / Path(ca).expanduser())
    return Where(url, room * MIB, username, password, ca)


def has_literal(table: Any) -> bool:
    """Whether the password stands in the configuration itself."""
    return isinstance(table, dict) and isinstance(table.get("password"), str)


def _url(own: str, url: Any) -> str:
    example = "redis://HOST:6379, or rediss://HOST:6379 for TLS"
    if not isinstance(url, str) or not url.strip():
        raise ConfigError(f"{own} has no url; give the address of a Redis or Valkey, {example}.")
    try:
        parts = urlsplit(url.strip())
        known = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
        known = known and (not parts.path.strip("/") or parts.path.strip("/").isdecimal()) and not parts.query
    except ValueError:  # a port, or brackets, that are none
        parts, known = None, False
    if parts is not None and "@" in parts.netloc:
        raise ConfigError(f"{own}: its url holds a user name or a password; these have keys of their own.")
    if not known:
        raise ConfigError(f"{own}: “{url.strip()}” is not the address of a Redis or Valkey; write {example}.")
    return url.strip()
