"""Server names ⇄ file names: pure functions, one reversible rule.

The rule, as the README prints it: a character that no file name can hold is written `%` and two
hexadecimal digits for each byte of its UTF-8 form, as in a web address. That is `/`, NUL and the other
control characters, and a `%` that would otherwise read as such an escape. The names `.` and `..`
become `%2E` and `%2E%2E`, an empty name becomes `%`. A name longer than 255 bytes is cut, before its
extension, and marked with `~` and eight digits of its hash.

Of several equal names the oldest keeps the plain one, the others get ` [id]` before the extension.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from labfs.backend import Entry

LONGEST = 255  # bytes, the limit of Linux file systems

_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\ud800-\udfff]|%(?=[0-9A-Fa-f]{2})")
_ESCAPE = re.compile(r"(?:%[0-9A-F]{2})+")


def safe(name: str) -> str:
    """Return the file name for a server's name."""
    if name in (".", ".."):
        return name.replace(".", "%2E")
    if name in ("", "%"):
        return "%25" if name else "%"
    return _fit(_UNSAFE.sub(_escape, name))


def original(name: str) -> str:
    """Return the server's name for a file name: the inverse of `safe` for names that were not cut."""
    if name == "%":
        return ""
    return _ESCAPE.sub(_unescape, name)


def assign(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Give each entry a file name of its own; the oldest of equal ones keeps the plain name."""
    named: dict[str, Entry] = {}
    twins: list[tuple[str, Entry]] = []
    for entry in sorted(entries, key=lambda entry: (entry.age, entry.id)):
        name = safe(entry.name)
        if name in named:
            twins.append((name, entry))
        else:
            named[name] = entry
    for name, entry in twins:
        marked = name
        while marked in named:
            marked = with_label(marked, entry)
        named[marked] = entry
    return named


def with_label(name: str, entry: Entry) -> str:
    """Return `name` with the entry's id: `reads [42].fastq.gz` for a file, `Run [42]` for a directory."""
    stem, extension = (name, "") if entry.is_dir else split(name)
    return _fit(f"{stem} [{safe(entry.label)}]{extension}")


def split(name: str) -> tuple[str, str]:
    """Split off the extension, a double one such as `.tar.gz` whole."""
    match = re.fullmatch(r"(.+?)((?:\.[A-Za-z][A-Za-z0-9]{0,7})?\.[A-Za-z0-9]{1,8})", name, re.DOTALL)
    return (match[1], match[2]) if match else (name, "")


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _unescape(match: re.Match[str]) -> str:
    return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "surrogatepass")


def _fit(name: str) -> str:
    if len(name.encode()) <= LONGEST:
        return name
    mark = "~" + hashlib.sha256(name.encode()).hexdigest()[:8]
    stem, extension = split(name)
    kept = stem.encode()[: LONGEST - len((mark + extension).encode())]
    return kept.decode(errors="ignore") + mark + extension
