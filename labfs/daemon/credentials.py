"""Secrets as they are configured: from a variable, a file, the keyring or the configuration itself; fit to be sent.

White space around a secret comes from copying or an editor, and is stripped; a file may be UTF-8 or UTF-16. A password
in the configuration itself keeps its blanks: they were put between quotes on purpose. An error about a secret names
its key and never its value; nor does it show a text that may be a secret in place of the name of a variable or a file.

Tests: unit/test_credentials.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

from labfs.errors import ConfigError, Denied
from labfs.errors.secrecy import know

Secret = Callable[[], str]

PASSWORD, USERNAME = "password", "username"
LINE_ENDS = "\r\n"
MARK = "\ufeff"  # the byte order mark
JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
HEX = re.compile(r"[0-9A-Fa-f]{16,}")


def secret(where: str, key: str, service: str, value: Any) -> Secret:
    """Return a reader of the secret of a key such as `sites.hub.token`; `service` is the site's name in the keyring.

    The secret is read once here. Raises ConfigError if it is missing or unfit; the reader then raises Denied instead.
    """
    name = key.rpartition(".")[2]
    read, literal = _reader(where, key, service, value), isinstance(value, str)

    def fit() -> str:
        text = _trimmed(name, read(), literal=literal)
        if not text:
            raise ConfigError(f"{where}: {key} is empty.")
        unfit = _unfit(name, text)
        if unfit:
            raise ConfigError(f"{where}: {key} holds {unfit}, which cannot be sent; copy it once more, without that.")
        if name != USERNAME:
            know(text)
        return text

    def later() -> str:
        try:
            return fit()
        except ConfigError as error:
            raise Denied(str(error)) from None

    fit()
    return later


def plain(where: str, key: str, service: str, value: Any) -> Secret:
    """Return a reader of a text that may hold a secret, and may be empty: the address of a proxy."""
    read = _reader(where, key, service, value)
    return lambda: read().removeprefix(MARK).strip()


def _trimmed(name: str, text: str, *, literal: bool) -> str:
    text = text.removeprefix(MARK)
    return text.strip(LINE_ENDS) if name == PASSWORD and literal else text.strip()


def _unfit(name: str, text: str) -> str:
    """Return a description, which does not reveal the secret, of a character that no request can carry; "" if none."""
    for letter in text:
        kind = unicodedata.category(letter)
        if letter in LINE_ENDS:
            return "a line end"
        if kind == "Cc":
            return f"a control character (U+{ord(letter):04X})"
        if kind == "Cs":
            return "bytes that are no UTF-8"
        if kind in ("Cf", "Zl", "Zp") and not (name == PASSWORD and letter in JOINERS):
            return f"an invisible character (U+{ord(letter):04X})"
        if kind == "Zs" and letter != " " and name != PASSWORD:
            return f"an invisible character (U+{ord(letter):04X})"
        if name not in (PASSWORD, USERNAME) and not letter.isascii():
            return "a letter that is not ASCII"
    return "a colon" if name == USERNAME and ":" in text else ""


def _reader(where: str, key: str, service: str, value: Any) -> Secret:
    match value:
        case str():
            return lambda: value
        case {"env": str(variable), **rest} if not rest:
            return lambda: _from_env(where, key, variable)
        case {"file": str(file), **rest} if not rest:
            return lambda: _from_file(where, key, Path(file).expanduser())
        case {"keyring": True, **rest} if not rest:
            return lambda: _from_keyring(where, key, service)
        case None:
            name = key.rpartition(".")[2]
            ways = f'{name} = {{ env = "NAME" }}, {{ file = "PATH" }} or {{ keyring = true }}'
            raise ConfigError(f"{where} has no {name}; add {ways}.")
    raise ConfigError(f"{where}: {key} must be a text, or one of env, file and keyring.")


def _from_env(where: str, key: str, variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        shown = f" {variable}" if VARIABLE.fullmatch(variable) and not HEX.fullmatch(variable) else " that it names"
        raise ConfigError(f"{where}: {key} should be in the environment variable{shown}, which is not set.")
    return value


def _from_file(where: str, key: str, path: Path) -> str:
    shown = str(path) if len(path.parts) > 1 else "the file that it names"  # a bare name may be the secret itself
    try:
        check_private(path)
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: {key} cannot be read from {shown}: {error.strerror}.") from None
    except ValueError:  # a NUL in its name
        raise ConfigError(f"{where}: {key} names no file.") from None
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as some Windows programs save text
    try:
        return data.decode("utf-16" if utf16 else "utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {key} is not UTF-8 text in {shown}; save that file as UTF-8.") from None


def _from_keyring(where: str, key: str, service: str) -> str:
    # Imported here: the search for a desktop's keyring is slow, and few configurations use a keyring.
    import keyring
    import keyring.errors

    name = key.rpartition(".")[2]
    try:
        value = keyring.get_password(f"labfs:{service}", name)
    except keyring.errors.KeyringError as error:
        raise ConfigError(
            f"{where}: the keyring did not give {key} ({type(error).__name__}); unlock it, or keep it in a file:"
            f" {_kept_by(service, name)}"
        ) from None
    if not value:
        raise ConfigError(f"{where}: the keyring has no {name}; store it with: {_kept_by(service, name)}")
    return value


def _kept_by(service: str, name: str) -> str:
    """Return the command that stores a secret; a service that is no site's begins with a colon."""
    site = service.partition(":")[0]
    return f"labfs login {quote(site)}" if site else f"keyring set labfs:{service} {name}"


def check_private(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} holds a secret and others may read it; run: chmod 600 {path}")
