"""Secrets as they are configured: from a variable, a file, the keyring or the configuration itself; fit to be sent.

White space around a secret is a copy's or an editor's, and goes, from a file in whatever form an editor saved it.
A password that stands in the configuration itself keeps its blanks: somebody put them between quotes. What cannot be
sent is told by the key that it belongs to, and never by its value; that is also so for what stands where the name
of a variable or of a file should.

Tests: unit/test_credentials.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labfs.errors import ConfigError, Denied
from labfs.errors.secrecy import know

Secret = Callable[[], str]

PASSWORD, USERNAME = "password", "username"
LINE_ENDS = "\r\n"
MARK = "\ufeff"  # of byte order
JOINERS = "\u200c\u200d"  # within words of some scripts, and within emoji
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
HEX = re.compile(r"[0-9A-Fa-f]{16,}")


def secret(where: str, key: str, service: str, value: Any) -> Secret:
    """Return what reads the secret of a key such as `sites.hub.token`; `service` is its keyring's name for the site.

    It is read once here, so that a missing one is told at once, by a ConfigError; later it is Denied.
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
    """Return what reads a text that may hold a secret, and may be empty: the address of a proxy."""
    read = _reader(where, key, service, value)
    return lambda: read().removeprefix(MARK).strip()


def _trimmed(name: str, text: str, *, literal: bool) -> str:
    text = text.removeprefix(MARK)
    return text.strip(LINE_ENDS) if name == PASSWORD and literal else text.strip()


def _unfit(name: str, text: str) -> str:
    """Return what is in a secret that no request can carry, in words that do not give it away; "" if nothing is."""
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
    shown = str(path) if len(path.parts) > 1 else "the file that it names"  # which may be the secret itself
    try:
        check_private(path)
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: {key} cannot be read from {shown}: {error.strerror}.") from None
    except ValueError:  # a NUL in its name
        raise ConfigError(f"{where}: {key} names no file.") from None
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # what some Windows programs save
    try:
        return data.decode("utf-16" if utf16 else "utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {key} is not UTF-8 text in {shown}; save that file as UTF-8.") from None


def _from_keyring(where: str, key: str, service: str) -> str:
    # Imported here: looking for a desktop's keyring takes a while, and few configurations use one.
    import keyring
    import keyring.errors

    name = key.rpartition(".")[2]
    try:
        value = keyring.get_password(f"labfs:{service}", name)
    except keyring.errors.KeyringError as error:
        raise ConfigError(f"{where}: the keyring did not give {key} ({type(error).__name__}).") from None
    if not value:
        raise ConfigError(f"{where}: the keyring has no {name}; store it with: keyring set labfs:{service} {name}")
    return value


def check_private(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} holds a secret and others may read it; run: chmod 600 {path}")
