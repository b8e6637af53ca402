"""What tells a draft from a final file: its name, its neighbours, and the program that makes it.

A draft is a file that its program is about to rename or to remove again. No single sign is enough: `cp -a`, `tar`
and `gzip` create files as mkstemp does, `samtools index` names its product after a neighbour, and scientists number
their files. So a file counts as a draft if two signs agree (`judge`), and none says that its name is final.
The rules were chosen on the recorded calls of programs (tests/support/recordings), and are measured there.

Tests: unit/test_signs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from itertools import pairwise

LOCKS = (".lock", ".lck")  # of a file created with O_EXCL; `poetry.lock` is written over
PID_DIGITS = 3  # a shorter number is no sign: chromosomes, replicates and containers have such numbers

# Names of files that are not whole yet, whoever makes them.
UNFINISHED = ("*.crdownload", "*.part", "*.partial", "*.filepart", "*.opdownload", "*.aria2", "*.aria2__temp", "*.!ut")
MARKS = (".aria2", ".st")  # suffixes of a mark: a file beside another, of its name, while that other is incomplete
# Temporary names, whoever makes them.
TEMPORARY = ("*.tmp", "*.temp", "*.TMP", "*___jb_tmp___", "~WR[A-Z]*.tmp", ".com.google.Chrome.*", ".org.chromium.*")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Unpackers and installers create again the files that they remove. Packers remove their arguments for good. `EITHER`
# do both: the files that they do not create again are deleted after all.
UNPACKERS = _set("tar bsdtar star pax cpio bsdcpio unzip bsdunzip 7z 7za 7zr 7zz unrar unrar-free unar ar")
INSTALLERS = _set("cp install ginstall ld ld.bfd ld.gold ld.lld strip objcopy as")
PACKERS = _set("gzip gunzip pigz unpigz bzip2 bunzip2 pbzip2 xz unxz lzma zstd unzstd lz4 brotli bgzip")
EITHER = _set("java jar git")
SOURCES_GO = ("--remove-files", "-sdel", "--delete")  # arguments with which an archiver removes what it packs

# Programs that give each file its final name at once, in whatever way they make it.
FINAL = UNPACKERS - {"ar"} | PACKERS | _set("cp mv install ginstall funzip jar scp sftp-server git")
SHELLS = _set("sh bash dash zsh ksh mksh fish busybox ash")

_WORDS = re.compile(
    r"(?i)(tmp|temp|temporary|part|partial|new|bak|backup|old|orig|sav|save|autosave|swp|lock|download|incomplete|unfinished|journal)\d*"
)
_TEMPISH = re.compile(r"(?i)(tmp|temp|temporary|incomplete|unfinished|partial)([0-9._-].*|$)|(tmp|temp)[a-z0-9_]{6,}")
_NUMBER = re.compile(r"\d+")


class Draft(Enum):
    """Why a closed file stays on this machine, and until when (`drafts.life`)."""

    EMPTY = "empty"  # its system takes no empty file
    UNFINISHED = "unfinished"  # its name says that it is incomplete; never sent unasked
    TEMPORARY = "temporary"  # to be renamed or removed soon
    PRIVATE = "private"  # created as by mkstemp: to be renamed or removed soon, or a program's own
    SPILLED = "spilled"  # a program's own, for as long as the program runs


def _running() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Maker:
    """The process that makes a request, as far as known; the defaults stand for an unknown process."""

    pid: int = 0
    program: str = ""  # the kernel's name, at most 15 bytes
    arguments: tuple[str, ...] = ()
    directory: str = ""  # its working directory
    reading: frozenset[str] = frozenset()  # names, without folders, of the files that it has open
    exclusive: bool = False  # O_EXCL: the name must be new
    private: bool = False  # the new file's mode is for its owner alone, and not because of the umask
    runs: Callable[[], bool] = field(default=_running, compare=False)

    def names(self, name: str) -> bool:
        """Whether a file of that name is among the arguments: then the program did not choose the name."""
        return any(_last(word) == name for argument in self.arguments[1:] for word in _words(argument))


NOBODY = Maker()


class Known:
    """The names that are a draft's whoever makes it: a small table, to which the configuration adds."""

    def __init__(self, more: Iterable[str] = ()) -> None:
        self._temporary = (*TEMPORARY, *more)

    def kind(self, name: str) -> Draft | None:
        if any(fnmatchcase(name, pattern) for pattern in UNFINISHED):
            return Draft.UNFINISHED
        if any(fnmatchcase(name, pattern) for pattern in self._temporary):
            return Draft.TEMPORARY
        return None


def judge(name: str, maker: Maker, beside: Container[str], known: Known) -> Draft | None:
    """Return what kind of draft a new file is, judged by its creation; None for a file with its final name.

    `beside` holds the names that are in the directory.
    """
    if name in maker.reading and maker.program not in SHELLS:  # a copy of a file of the same name
        return None
    kind = known.kind(name)
    if kind is not None:
        return kind
    if maker.program in FINAL or maker.program in SHELLS or maker.names(name):
        return None
    neighbour = _neighbour(name, beside)
    rest = _without(name, neighbour)
    odd, hidden = looks_random(rest) or _has_pid(rest, maker.pid), name.startswith(".")
    if maker.exclusive and maker.private and (odd or _is_tempish(rest) or _is_drawn(rest, maker.program)):
        return Draft.PRIVATE
    if neighbour is not None and (maker.exclusive or hidden or odd or _says_so(rest)):
        return Draft.TEMPORARY
    if maker.exclusive and (name.endswith(LOCKS) or _is_random(name.rpartition(".")[2])):
        return Draft.TEMPORARY
    if _has_pid(name, maker.pid) or (_is_tempish(rest) and odd) or (hidden and _ends_so(name)):
        return Draft.TEMPORARY
    if (_is_tempish(rest) or (maker.exclusive and _NUMBER.search(rest))) and _extends_argument(name, maker):
        return Draft.SPILLED
    return None


def judge_folder(name: str, maker: Maker) -> bool:
    """Whether a new folder is a program's own, for its drafts: created as by mkdtemp, or private and hidden."""
    if maker.program in FINAL or maker.program in SHELLS:
        return False
    if not maker.private:
        return bool(maker.program) and name.startswith(maker.program) and _has_pid(name, maker.pid)
    return name.startswith(".") or ((looks_random(name) or _is_tempish(name)) and not maker.names(name))


def replaces(name: str, path: str, maker: Maker, *, has_draft: bool) -> bool:
    """Whether a program removes a file in order to put another in its place.

    `path` is the file's path as the program sees it, `has_draft` whether the program has a closed draft in that
    directory.
    """
    program = maker.program
    if has_draft:
        return True
    if program in UNPACKERS:
        return not any(argument.startswith(SOURCES_GO) for argument in maker.arguments)
    if program in INSTALLERS or program in EITHER:
        return True
    if program in PACKERS:
        return not maker.names(name)
    if program == "mv":
        return _is_target(path, maker)
    if program == "perl":  # -i of an old perl, and the idiom: the file is read while it is created again
        return name in maker.reading
    return any(_last(value) == name for value in _outputs(maker.arguments))


def looks_random(text: str) -> bool:
    """Whether a part of a name looks random, as by mkstemp, tempfile and File.createTempFile."""
    return any(_is_random(token) for token in re.split(r"[^A-Za-z0-9]+", text))


def _is_random(token: str) -> bool:
    if len(token) < 6:
        return False
    digits = sum(letter.isdigit() for letter in token)
    if digits == len(token):
        return digits >= 10  # a date has 8 digits, with a time 14; a random number has more than 10
    mixed = re.search(r"[a-z][A-Z]|[A-Z][a-z]+[A-Z]{2}|[A-Z]{2,}[a-z]", token) is not None
    scattered = len(re.findall(r"\d+", token)) >= 2 or re.search(r"\d[A-Za-z]", token) is not None
    return mixed if not digits else mixed or scattered


def _is_drawn(rest: str, program: str) -> bool:
    """Whether a name may be random, of a file created as by mkstemp: `sortgewbo9`, `job_a3_x81q`."""
    after = rest.removeprefix(program) if program else rest
    return (after != rest and 6 <= len(after) <= 10 and after.isalnum()) or any(
        _is_random(token) for token in re.split(r"[^A-Za-z0-9_]+", rest)
    )


def _is_tempish(text: str) -> bool:
    return any(_TEMPISH.fullmatch(token) for token in re.split(r"[.\-]+", text))


def _says_so(rest: str) -> bool:
    """Whether the part added to a neighbour's name marks it as temporary."""
    return rest.endswith("~") or any(_WORDS.fullmatch(token) for token in re.split(r"[^A-Za-z0-9]+", rest))


def _ends_so(name: str) -> bool:
    """Whether the end of a hidden name marks it as temporary: `.x.tmp`, `.RDataTmp`."""
    return _is_tempish(name) or re.search(r"(?i)(tmp|temp)\d*$", name) is not None


def _has_pid(text: str, pid: int) -> bool:
    return len(str(pid)) >= PID_DIGITS and str(pid) in _NUMBER.findall(text)


def _neighbour(name: str, beside: Container[str]) -> str | None:
    """Return the longest name in the directory that is a part of this one, with characters before or after it."""
    bare = name.lstrip(".~#_$")
    starts = {len(name) - len(bare), 0}
    found = [
        name[start:stop]
        for start in starts
        for stop in range(start + 1, len(name) + 1)
        if name[start:stop] in beside and stop - start < len(name)
    ]
    return max(found, key=len, default=None)


def _without(name: str, neighbour: str | None) -> str:
    return name if neighbour is None else name.replace(neighbour, " ", 1)


def _extends_argument(name: str, maker: Maker) -> bool:
    """Whether a name begins with an argument, such as the prefix that a program was given for its own files."""
    words = [_last(word) for argument in maker.arguments[1:] for word in _words(argument)]
    return any(len(word) > 1 and name.startswith(word) and name != word for word in words)


def _is_target(path: str, maker: Maker) -> bool:
    """Whether a path is the target of mv, or in it: `--target-directory`, `-t`, or the last argument."""
    operands = [argument for argument in maker.arguments[1:] if not argument.startswith("-")]
    if not operands:
        return False
    chosen = [a.partition("=")[2] for a in maker.arguments if a.startswith("--target-directory=")]
    if "-t" in maker.arguments[:-1]:
        chosen.append(maker.arguments[maker.arguments.index("-t") + 1])
    target = chosen[0] if chosen else operands[-1]
    folder = path.rpartition("/")[0]
    where = _absolute(target, maker.directory)
    return where == path or folder == where or folder.startswith(where.rstrip("/") + "/")


def _outputs(arguments: tuple[str, ...]) -> Iterable[str]:
    """Yield the values of arguments that name a program's output file."""
    for option, value in pairwise(arguments):
        if option in ("-o", "-O", "--output", "--out"):
            yield value
    for argument in arguments[1:]:
        if argument.startswith(("--output=", "--out=", "of=")):
            yield argument.partition("=")[2]


def _absolute(path: str, directory: str) -> str:
    parts: list[str] = []
    whole = path if path.startswith("/") else f"{directory}/{path}"
    for part in whole.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def _words(argument: str) -> Iterable[str]:
    """Yield the possible paths in an argument: the argument, and the value of an option."""
    yield argument
    if "=" in argument:
        yield argument.rpartition("=")[2]
    if argument.startswith("-") and len(argument) > 2:
        yield argument[2:]


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
