"""Where credentials are kept: the desktop's keyring, else a private file; and the configuration that points there.

The configuration belongs to its user: comments, order and form of what is not changed stay as they are.

Tests: mount/test_login.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable, Item, Table

from labfs.daemon.credentials import USERNAME
from labfs.errors import ConfigError

SECRETS = "secrets"  # the directory beside the configuration
MARK = "\ufeff"  # the byte order mark, with which some editors begin a file


def keep(path: Path, site: str, alias: str, key: str, secret: str, known: Any) -> tuple[Any, str]:
    """Store a secret; return what the configuration is to say of it, and in words where it is.

    `known` is what the configuration says now: a file is used again. `alias` is a project's, or empty. The name of a
    user stands in the configuration itself, if others cannot read that.
    """
    if key == USERNAME and (not path.exists() or not path.stat().st_mode & 0o077):
        return secret, str(path)
    service = f"labfs:{site}:{alias}" if alias else f"labfs:{site}"
    match known:
        case {"file": str(file)}:
            own = Path(file).expanduser().absolute()
            _write(own, secret)
            return dict(known), str(own)
    if _in_keyring(service, key, secret):
        return {"keyring": True}, "the keyring"
    fresh = path.absolute().parent / SECRETS / "-".join(quote(part, safe=" ") for part in (site, alias, key) if part)
    _write(fresh, secret)
    return {"file": str(fresh)}, str(fresh)


def keyring_name() -> str:
    """Return what the keyring of this session is called; "" if there is none that keeps anything."""
    import keyring

    try:
        ring = keyring.get_keyring()
        return str(ring.name) if ring.priority > 0 else ""
    except Exception:  # as below
        return ""


def _in_keyring(service: str, key: str, secret: str) -> bool:
    """Store a secret in the keyring; False where this machine, or this session, has none that keeps it."""
    import keyring
    import keyring.errors

    try:
        if not keyring_name():
            return False
        keyring.set_password(service, key, secret)
        return keyring.get_password(service, key) == secret
    except Exception:  # backends raise what their libraries do, D-Bus errors among them
        return False


def _write(path: Path, secret: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, secret.encode() + b"\n", 0o600)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all, through a link to where it really is."""
    real = Path(os.path.realpath(path))
    handle, partial = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
    try:
        with open(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)
        os.replace(partial, real)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def point(path: Path, site: str, alias: str, values: Mapping[str, Any], fresh: Mapping[str, str]) -> None:
    """Have the configuration say where secrets are; `fresh` begins the section of a site that it does not have."""
    try:
        text = path.read_text(encoding="utf-8-sig") if path.exists() else ""
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o600
        document = tomlkit.parse(text)
        section: Table | InlineTable = _section(document, site, fresh)
        if alias:
            section = _project(section, alias)
        for key, value in values.items():
            section[key] = _inline(value)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, tomlkit.dumps(document).encode(), mode)
    except OSError as error:
        raise ConfigError(f"The configuration {path} cannot be written: {error.strerror}.") from error
    except TOMLKitError as error:
        raise ConfigError(f"The configuration {path} is not valid TOML: {error}.") from error


def _inline(values: Any) -> Item:
    """Return a value as TOML, a table on one line and with blanks as people write it."""
    if not isinstance(values, dict):
        return cast(Item, tomlkit.item(values))
    inner = ", ".join(f"{key} = {tomlkit.item(value).as_string()}" for key, value in values.items())
    table: Item = tomlkit.value(f"{{ {inner} }}" if inner else "{}")
    return table


def _section(document: tomlkit.TOMLDocument, site: str, fresh: Mapping[str, str]) -> Table:
    if "sites" not in document:
        document["sites"] = tomlkit.table(is_super_table=True)
    sites = cast(Table, document["sites"])
    if site not in sites:
        section = tomlkit.table()
        section.update(fresh)
        if document.as_string().strip() and not document.as_string().endswith("\n\n"):
            document.add(tomlkit.nl())
        sites[site] = section
    return cast(Table, sites[site])


def _project(section: Table | InlineTable, alias: str) -> Table | InlineTable:
    if "projects" not in section:
        section["projects"] = tomlkit.inline_table()
    projects = cast(Table, section["projects"])
    if alias not in projects:
        projects[alias] = tomlkit.inline_table()
    return cast(Table, projects[alias])
