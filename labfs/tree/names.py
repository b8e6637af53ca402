"""Server names ⇄ file names: pure functions, one reversible rule.

The rule, as the README prints it: what no file name can hold is written `%` and two hexadecimal digits for
each byte, as in a web address. That is `/` and the control characters, and as whole names `.` and `..`; an
empty name becomes `%`. A `%` that would read as such an escape becomes `%25`; any other stays as it is. A
name longer than 255 bytes is cut before its extension, and marked with `~` and eight digits of its hash.

Of several equal names the one that was seen first keeps the plain one, of those seen together the oldest; the
others get ` [id]` before the extension.

Tests: unit/test_units.
"""

from __future__ import annotations

import hashlib
import re
import time
import unicodedata
from collections.abc import Callable, Iterable

from labfs.backend import Entry
from labfs.errors import Invalid, NameTooLong, NotFound, NotUnicode

LONGEST = 255  # bytes, the limit of Linux file systems

_BAD = re.compile(r"[\x00-\x1f\x7f/\ud800-\udfff]")
_HALVES = re.compile("[\ud800-\udfff]")
# The digits of an escape: a control character, a slash, or half a surrogate pair in its UTF-8 form.
_DIGITS = r"(?:[01][0-9A-F]|7F|2F|ED%[AB][0-9A-F]%[89AB][0-9A-F])"
_ESCAPE = re.compile(f"%{_DIGITS}")
# A `%` that reads as an escape, or as an escaped `%` before one, is escaped itself: so nothing is ambiguous.
_PERCENT = re.compile(f"%(?=(?:25)*{_DIGITS})")
_ESCAPED_PERCENT = re.compile(f"%25(?=(?:25)*{_DIGITS})")
_YOURS = " (yours, "
_DOTS = re.compile(r"%((?:25)*)(2E(?:%2E)?)?")


def safe(name: str) -> str:
    """Return the file name for a server's name."""
    if name in ("", ".", ".."):
        return name.replace(".", "%2E") or "%"
    if _DOTS.fullmatch(name):
        return "%25" + name[1:]
    return _fit(_BAD.sub(_escape, _PERCENT.sub("%25", name)))


def original(name: str) -> str:
    """Return the server's name for a file name: the inverse of `safe` for names that were not cut."""
    match = _DOTS.fullmatch(name)
    if match:
        return "%" + name[3:] if match[1] else (match[2] or "").replace("%", "").replace("2E", ".")
    pieces = re.split(f"({_ESCAPED_PERCENT.pattern}|{_ESCAPE.pattern})", name)
    return "".join(_decoded(piece) if index % 2 else piece for index, piece in enumerate(pieces))


def looked_for(name: bytes) -> str:
    """Decode the name in a lookup. Raises NotFound for one that is not UTF-8: no file has such a name."""
    try:
        return _fitting(name).decode()
    except UnicodeDecodeError:
        raise NotFound(f"There is no “{shown(name)}”: all names here are UTF-8.") from None


def to_be_made(name: bytes) -> str:
    """Decode the name of a file to be created. Raises NotUnicode for one that is not UTF-8."""
    try:
        return _fitting(name).decode()
    except UnicodeDecodeError:
        sentence = f"“{shown(name)}” is not UTF-8, as names in lab systems are: rename it before you copy it here."
        raise NotUnicode(sentence) from None


def _fitting(name: bytes) -> bytes:
    if len(name) > LONGEST:
        raise NameTooLong(f"A name can have {LONGEST} bytes at most; choose a shorter one.")
    return name


def shown(name: bytes) -> str:
    r"""Return a file name for people and logs; bytes that are not UTF-8 are shown as `\xff`."""
    return name.decode(errors="backslashreplace")


def meant(path: str, given: str | None) -> str:
    """Return the server's name of the file at `path`: `given` if there is one, else derived from the path."""
    return given or original(path.rpartition("/")[2])


def for_saving(name: str) -> str:
    """Return the server's name for a file to be created. Raises Invalid or NameTooLong for an impossible name."""
    if _BAD.search(name):
        raise Invalid("A name cannot hold control characters, such as the end of a line; choose another.")
    if len(name.encode()) > LONGEST:
        raise NameTooLong(f"A name can have {LONGEST} bytes at most; choose a shorter one.")
    given = original(name)
    if not given:
        raise Invalid("“%” stands for an empty name, which cannot be made; choose another.")
    if _HALVES.search(given):
        raise Invalid("This name stands for bytes that are no text, which cannot be made; choose another.")
    return given


def assign(entries: Iterable[Entry], twins: Callable[[list[Entry]], list[Entry]]) -> dict[str, Entry]:
    """Give each entry a file name of its own; of equal ones the first that `twins` returns keeps the plain name."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(safe(entry.name), []).append(entry)
    named: dict[str, Entry] = {}
    others: list[tuple[str, Entry]] = []
    for name, group in groups.items():
        named[name], *rest = group if len(group) == 1 else twins(group)
        others.extend((name, entry) for entry in rest)
    for name, entry in others:
        marked = name
        while marked in named:
            marked = with_label(marked, entry)
        named[marked] = entry
    return named


def with_label(name: str, entry: Entry) -> str:
    """Return `name` with the entry's id: `reads [42].fastq.gz` for a file, `Run [42]` for a directory."""
    stem, extension = (name, "") if entry.is_dir else split(name)
    return _fit(f"{stem} [{safe(entry.label)}]{extension}")


def other_spelling(name: str, others: Iterable[str], *, any_case: bool) -> str | None:
    """Return the only one of `others` that is the name in another Unicode form, or case; None if none is, or several.

    Source: Unicode Standard Annex 15. macOS and some archives write `é` as two characters; no eye sees the difference.
    """
    if name.isascii() and not any_case:
        return None
    wanted = _spelling(name, any_case=any_case)
    candidates = (other for other in others if any_case or not other.isascii())
    found = [other for other in candidates if _spelling(other, any_case=any_case) == wanted]
    return found[0] if len(found) == 1 else None


def _spelling(name: str, *, any_case: bool) -> str:
    form = unicodedata.normalize("NFC", name)
    return unicodedata.normalize("NFC", form.casefold()) if any_case else form


def yours(name: str, saved_s: float) -> str:
    """Return the name under which a person's own version of a file, saved at `saved_s`, is shown beside the file."""
    stem, extension = split(name)
    return _fit(f"{stem}{_YOURS}{time.strftime('%H:%M', time.localtime(saved_s))}){extension}")


def may_be_yours(name: str) -> bool:
    """Whether `yours` may have made a name."""
    return _YOURS in name


def split(name: str) -> tuple[str, str]:
    """Split a name into stem and extension, which may be a double one such as `.tar.gz`."""
    match = re.fullmatch(r"(.+?)((?:\.[A-Za-z][A-Za-z0-9]{0,7})?\.[A-Za-z0-9]{1,8})", name, re.DOTALL)
    return (match[1], match[2]) if match else (name, "")


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _decoded(escape: str) -> str:
    return "%" if escape == "%25" else bytes.fromhex(escape.replace("%", "")).decode("utf-8", "surrogatepass")


def _fit(name: str) -> str:
    if len(name.encode()) <= LONGEST:
        return name
    mark = "~" + hashlib.sha256(name.encode()).hexdigest()[:8]
    stem, extension = split(name)
    kept = stem.encode()[: LONGEST - len((mark + extension).encode())]
    return kept.decode(errors="ignore") + mark + extension
