"""Reduces what strace tells of a program to events on the files of one directory (tests/support/recordings/README.md)."""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

# What strace is asked for.
CALLS = """
    open openat openat2 creat close close_range dup dup2 dup3 fcntl read readv pread64 preadv write writev pwrite64
    pwritev pwritev2 copy_file_range sendfile splice rename renameat renameat2 unlink unlinkat rmdir link linkat
    symlink symlinkat mkdir mkdirat fsync fdatasync ftruncate truncate fallocate chmod fchmod fchmodat utimensat
    utime utimes stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents64 mmap flock
    clone clone3 fork vfork execve exit_group prctl chdir fchdir
"""
LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)")
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
NAMED = re.compile(r"([\w-]+)<(.*?)>(\(deleted\))?$")
ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|[0-7]{1,3}|.)")
ORDINARY = {"largefile", "cloexec", "noctty", "nonblock", "noatime"}  # flags that tell nothing here
IGNORED = [["signal", "SIGCHLD"], ["signal", "SIGURG"]]  # ends of children, which are told; Go's scheduler
PAIRS = {"<": ">", "[": "]", "{": "}", "(": ")"}
AT = ("newfstatat", "statx", "faccessat", "faccessat2")  # calls that begin with a directory
ALIKE = {"pread64": "pread", "pwrite64": "pwrite", "readv": "read", "writev": "write", "preadv": "pread",
         "pwritev": "pwrite", "pwritev2": "pwrite", "fdatasync": "fsync", "openat": "open", "openat2": "open"}  # fmt: skip
PLAIN = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"v": b"\v", b"f": b"\f"}


def unescaped(text: str) -> str:
    def one(match: re.Match[bytes]) -> bytes:
        code = match[1]
        if code[:1] == b"x":
            return bytes([int(code[1:], 16)])
        if code[:1].isdigit():
            return bytes([int(code, 8)])
        return PLAIN.get(code, code)

    return os.fsdecode(ESCAPE.sub(one, os.fsencode(text)))


def split(text: str) -> list[str]:
    """Split the arguments of a call at the commas between them."""
    found, inside, start, at, quoted = [], "", 0, 0, False
    while at < len(text):
        letter = text[at]
        if quoted:
            at += letter == "\\"
            quoted = letter != '"'
        elif letter == '"':
            quoted = True
        elif letter in PAIRS and not inside.endswith("<"):
            inside += letter
        elif inside and letter == PAIRS[inside[-1]]:
            inside = inside[:-1]
        elif letter == "," and not inside:
            found.append(text[start:at].strip())
            start = at + 1
        at += 1
    return [*found, text[start:].strip()]


def shown(path: str) -> str:
    """A path without blanks."""
    return re.sub(r"[\s%]", lambda match: f"%{ord(match[0]):02X}", path)


@dataclass
class Handle:
    """One open file, as open() made it: dup() and fork() share it."""

    number: int
    descriptors: int = 0


@dataclass
class Table:
    """The descriptors of a process: those that are files of the directory, and whether exec closes them."""

    files: dict[int, tuple[Handle, bool]] = field(default_factory=dict)


@dataclass
class Thread:
    label: str
    process: int
    comm: str
    table: Table
    cwd: list[str]
    children: int = 0
    threads: int = 1


@dataclass
class Event:
    ms: int
    label: str
    comm: str
    words: list[str]
    failed: str = ""
    count: int = 1

    def line(self) -> str:
        text = " ".join([str(self.ms), self.label, quote(self.comm, safe="-_./:+#()[]@,"), *self.words])
        return text + (f" *{self.count}" if self.count > 1 else "") + (f" !{self.failed}" if self.failed else "")


class Reduction:
    """Turns the lines of strace into events on the files of one directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._folders = {directory, *(path for path, _, _ in os.walk(directory))}
        self._threads: dict[int, Thread] = {}
        self._pending: dict[int, str] = {}
        self._waiting: dict[int, list[str]] = {}
        self._start = 0.0
        self._handles = self._processes = 0
        self._ms = 0
        self.events: list[Event] = []
        self.made: dict[str, None] = {}
        self.became: dict[str, str] = {}

    def read(self, lines: Iterator[str]) -> None:
        for line in lines:
            match = LINE.match(line)
            if match is None:
                continue
            tid, text = int(match[1]), match[3]
            self._start = self._start or float(match[2])
            self._ms = round((float(match[2]) - self._start) * 1000)
            if text.endswith("<unfinished ...>"):
                self._pending[tid] = text.removesuffix("<unfinished ...>")
                continue
            if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text):
                text = self._pending.pop(tid, "") + resumed[1]
            if "<unfinished ...>" in text:  # its process ended within the call
                continue
            self._heard(tid, text)

    def _heard(self, tid: int, text: str) -> None:
        if not self._threads:
            self._processes = 1
            self._threads[tid] = Thread("1", tid, "record", Table(), [self._directory])
        thread = self._threads.get(tid)
        if thread is None:  # the child runs before the call that made it has returned
            self._waiting.setdefault(tid, []).append(text)
            return
        if text.startswith("+++"):
            self._gone(tid, thread, text)
        elif text.startswith("---"):
            self._say(thread, "signal", text.split()[1])
        elif match := re.match(r"(\w+)\((.*)\) += (-?\w+)(<.*>)?( \w+)?", text):
            failed = (match[5] or "").strip() if match[3] == "-1" else ""
            try:
                self._call(thread, match[1], split(match[2]), match[3], failed)
            except (IndexError, ValueError, KeyError):
                sys.stderr.write(f"not understood: {text}\n")
        elif text.startswith("exit_group("):
            self._say(thread, "exit", text[11:].split(")")[0].strip())

    def _say(self, thread: Thread, *words: str, failed: str = "") -> None:
        self.events.append(Event(self._ms, thread.label, thread.comm, list(words), failed))

    def _gone(self, tid: int, thread: Thread, text: str) -> None:
        words = text.split()
        del self._threads[tid]
        if tid != thread.process:
            return
        if words[1] == "killed":
            self._say(thread, "killed", words[3])
        for descriptor in list(thread.table.files):
            self._close(thread, descriptor)

    # Paths and descriptors

    def _path(self, thread: Thread, directory: str, name: str) -> str | None:
        """Return the path that a call names, relative to the directory; None outside."""
        found = self._whole(thread, directory, name)
        return self._inside(found) if found else None

    @staticmethod
    def _whole(thread: Thread, directory: str, name: str) -> str | None:
        match = STRING.match(name)
        at = NAMED.match(directory) if directory else None
        if match is None or (at and at[3]):
            return None
        base = unescaped(at[2]) if at else thread.cwd[0]
        return os.path.normpath(os.path.join(base, unescaped(match[1])))

    def _inside(self, path: str) -> str | None:
        if not path.startswith(self._directory + "/"):
            return None
        return path.removeprefix(self._directory + "/")

    def _held(self, thread: Thread, argument: str) -> Handle | None:
        number = re.match(r"\d+", argument)
        found = thread.table.files.get(int(number[0])) if number else None
        return found[0] if found else None

    def _keep(self, thread: Thread, descriptor: int, handle: Handle, cloexec: bool) -> None:
        self._close(thread, descriptor)
        handle.descriptors += 1
        thread.table.files[descriptor] = (handle, cloexec)

    def _close(self, thread: Thread, descriptor: int) -> None:
        found = thread.table.files.pop(descriptor, None)
        if found is not None:
            found[0].descriptors -= 1
            self._say(thread, "close", str(found[0].number), *(["last"] if found[0].descriptors == 0 else []))

    # Calls

    def _call(self, thread: Thread, name: str, args: list[str], result: str, failed: str) -> None:
        name = ALIKE.get(name, name)
        if method := getattr(self, f"_do_{name}", None):
            method(thread, args, result, failed)
        elif name in PATHS:
            self._named(thread, name, args, failed)
        elif name in ("stat", "lstat", "access", *AT):
            at = name in AT
            if path := self._path(thread, args[0] if at else "", args[1 if at else 0]):
                self._say(thread, "stat", shown(path), failed=failed)
        elif name in ("fsync", "ftruncate", "fallocate", "flock", "read", "write", "pread", "pwrite"):
            self._on_handle(thread, name, args, result, failed)

    def _on_handle(self, thread: Thread, name: str, args: list[str], result: str, failed: str) -> None:
        handle = self._held(thread, args[0])
        if handle is None:
            return
        more = {"ftruncate": args[1:2], "fallocate": args[1:4], "flock": [args[-1].lower()]}.get(name, [])
        if name in ("read", "write", "pread", "pwrite") and not failed:
            more = [result]
        self._say(thread, name, str(handle.number), *more, failed=failed)

    def _named(self, thread: Thread, name: str, args: list[str], failed: str) -> None:
        """A call that changes names or attributes: its paths that are inside, then what else it says."""
        plain, pairs, more = PATHS[name]
        paths = [
            self._path(thread, "" if where is None else args[where], args[what]) if what < len(args) else None
            for where, what in pairs
        ]
        if not any(paths):
            return
        rest = [args[at].lower() for at in more if at < len(args) and args[at] not in ("0", "NULL")]
        if plain == "symlink":
            told = [quote(unescaped(args[0].strip('"')), safe="/._-~#@:"), shown(paths[-1] or "")]
        else:
            told = [shown(path) if path else "(elsewhere)" for path in paths]
        if plain == "unlink" and "at_removedir" in rest:
            plain, rest = "rmdir", []
        self._say(thread, plain, *told, *rest, failed=failed)
        if failed:
            return
        if plain == "mkdir" and paths[0]:
            self._folders.add(os.path.join(self._directory, paths[0]))
        if plain in ("rename", "link", "symlink", "mkdir") and paths[-1]:
            self.made.setdefault(paths[-1])
        if plain in ("rename", "link") and paths[0] and paths[1]:
            self.became.setdefault(paths[0], paths[1])

    def _do_open(self, thread: Thread, args: list[str], result: str, failed: str) -> None:
        at = not STRING.match(args[0])
        path = self._whole(thread, args[0] if at else "", args[1 if at else 0])
        rest = args[2 if at else 1 :]
        flags = [flag.removeprefix("O_").lower() for flag in rest[0].split("|")] if rest else []
        if path and "tmpfile" in flags:
            path = os.path.join(path, "(nameless)")
        path = self._inside(path) if path else None
        self._opened(thread, path, flags, rest[1].lstrip("0") if len(rest) > 1 else "", result, failed)

    def _do_creat(self, thread: Thread, args: list[str], result: str, failed: str) -> None:
        flags = ["wronly", "creat", "trunc"]
        self._opened(thread, self._path(thread, "", args[0]), flags, args[1].lstrip("0"), result, failed)

    def _opened(self, thread: Thread, path: str | None, flags: list[str], mode: str, result: str, failed: str) -> None:
        if path is None or "path" in flags or ("directory" in flags and "tmpfile" not in flags):
            return
        if os.path.join(self._directory, path) in self._folders and not failed:
            return
        number = "-"
        if not failed:
            self._handles += 1
            number = str(self._handles)
            self._keep(thread, int(result), Handle(self._handles), "cloexec" in flags)
            if "creat" in flags:
                self.made.setdefault(path)
        told = ",".join(flag for flag in flags if flag not in ORDINARY)
        words = [number, shown(path), told, *([mode or "0"] if {"creat", "tmpfile"} & set(flags) else [])]
        self._say(thread, "open", *words, failed=failed)

    def _do_close(self, thread: Thread, args: list[str], _result: str, _failed: str) -> None:
        self._close(thread, int(args[0].split("<")[0]))

    def _do_close_range(self, thread: Thread, args: list[str], _result: str, failed: str) -> None:
        if "CLOEXEC" not in args[2] and not failed:
            for descriptor in [d for d in thread.table.files if int(args[0]) <= d <= int(args[1])]:
                self._close(thread, descriptor)

    def _do_dup(self, thread: Thread, args: list[str], result: str, failed: str) -> None:
        handle = self._held(thread, args[0])
        if handle and not failed:
            self._keep(thread, int(result), handle, "CLOEXEC" in args[-1])

    def _do_dup2(self, thread: Thread, args: list[str], result: str, failed: str) -> None:
        if failed or args[0].split("<")[0] == result:
            return
        if self._held(thread, args[0]):
            self._do_dup(thread, args, result, failed)
        else:
            self._close(thread, int(result))

    _do_dup3 = _do_dup2

    def _do_fcntl(self, thread: Thread, args: list[str], result: str, failed: str) -> None:
        handle = self._held(thread, args[0])
        if handle is None or failed:
            return
        if args[1].startswith("F_DUPFD"):
            self._keep(thread, int(result), handle, args[1] == "F_DUPFD_CLOEXEC")
        elif args[1] == "F_SETFD":
            thread.table.files[int(args[0].split("<")[0])] = (handle, "FD_CLOEXEC" in args[2])
        elif "LK" in args[1]:
            kind = re.search(r"l_type=F_(\w+)", args[2])
            self._say(thread, "lock", str(handle.number), kind[1].lower() if kind else "?", failed=failed)

    def _moved(self, thread: Thread, source: str, target: str, result: str, failed: str) -> None:
        """Bytes that go from file to file in the kernel."""
        for word, descriptor in (("read", source), ("write", target)):
            if (handle := self._held(thread, descriptor)) and not failed:
                self._say(thread, word, str(handle.number), result)

    def _do_copy_file_range(self, thread: Thread, args: list[str], result: str, failed: str) -> None:
        self._moved(thread, args[0], args[2], result, failed)

    _do_splice = _do_copy_file_range

    def _do_sendfile(self, thread: Thread, args: list[str], result: str, failed: str) -> None:
        self._moved(thread, args[1], args[0], result, failed)

    def _do_mmap(self, thread: Thread, args: list[str], _result: str, failed: str) -> None:
        if handle := self._held(thread, args[4]):
            how = "write" if "PROT_WRITE" in args[2] and "MAP_SHARED" in args[3] else "read"
            self._say(thread, "map", str(handle.number), how, failed=failed)

    def _do_fchmod(self, thread: Thread, args: list[str], _result: str, failed: str) -> None:
        if handle := self._held(thread, args[0]):
            self._say(thread, "fchmod", str(handle.number), args[1].lstrip("0"), failed=failed)

    def _do_utimensat(self, thread: Thread, args: list[str], _result: str, failed: str) -> None:
        path = self._path(thread, args[0], args[1])
        if path:
            self._say(thread, "utimens", shown(path), failed=failed)
        elif handle := self._held(thread, args[0]):
            self._say(thread, "futimens", str(handle.number), failed=failed)

    def _do_getdents64(self, thread: Thread, args: list[str], _result: str, _failed: str) -> None:
        named = NAMED.match(args[0])
        path = unescaped(named[2]) if named else ""
        if path == self._directory or self._inside(path):
            self._say(thread, "list", shown(os.path.relpath(path, self._directory)))

    def _do_chdir(self, thread: Thread, args: list[str], _result: str, failed: str) -> None:
        match = STRING.match(args[0])
        if match and not failed:
            thread.cwd[0] = os.path.normpath(os.path.join(thread.cwd[0], unescaped(match[1])))

    def _do_fchdir(self, thread: Thread, args: list[str], _result: str, failed: str) -> None:
        named = NAMED.match(args[0])
        if named and not failed:
            thread.cwd[0] = unescaped(named[2])

    def _do_prctl(self, thread: Thread, args: list[str], _result: str, _failed: str) -> None:
        match = STRING.match(args[1]) if args[0] == "PR_SET_NAME" else None
        if match:
            thread.comm = unescaped(match[1])[:15]

    # Processes

    def _do_clone(self, thread: Thread, args: list[str], result: str, failed: str) -> None:
        if failed or not result.isdigit():
            return
        told, child = " ".join(args), int(result)
        if "CLONE_THREAD" in told:
            leader = self._threads.get(thread.process, thread)
            leader.threads += 1
            label = f"{thread.label.split('.')[0]}.{leader.threads}"
            made = Thread(label, thread.process, thread.comm, thread.table, thread.cwd)
        else:
            self._processes += 1
            made = Thread(str(self._processes), child, thread.comm, Table(), list(thread.cwd))
            for descriptor, (handle, cloexec) in thread.table.files.items():
                handle.descriptors += 1
                made.table.files[descriptor] = (handle, cloexec)
            self._say(thread, "fork", made.label)
        self._threads[child] = made
        for text in self._waiting.pop(child, []):
            self._heard(child, text)

    _do_clone3 = _do_fork = _do_vfork = _do_clone

    def _do_execve(self, thread: Thread, args: list[str], _result: str, failed: str) -> None:
        match = STRING.match(args[0])
        if failed or match is None:
            return
        for descriptor in [d for d, (_, cloexec) in thread.table.files.items() if cloexec]:
            self._close(thread, descriptor)
        thread.comm = os.path.basename(unescaped(match[1]))[:15]
        self._say(thread, "exec")


# What a call is called in a recording, (directory, path) by the places of its arguments, and what else is told.
PATHS: dict[str, tuple[str, list[tuple[int | None, int]], list[int]]] = {
    "rename": ("rename", [(None, 0), (None, 1)], []),
    "renameat": ("rename", [(0, 1), (2, 3)], []),
    "renameat2": ("rename", [(0, 1), (2, 3)], [4]),
    "unlink": ("unlink", [(None, 0)], []),
    "unlinkat": ("unlink", [(0, 1)], [2]),
    "rmdir": ("rmdir", [(None, 0)], []),
    "link": ("link", [(None, 0), (None, 1)], []),
    "linkat": ("link", [(0, 1), (2, 3)], []),
    "symlink": ("symlink", [(None, 1)], []),
    "symlinkat": ("symlink", [(1, 2)], []),
    "mkdir": ("mkdir", [(None, 0)], [1]),
    "mkdirat": ("mkdir", [(0, 1)], [2]),
    "truncate": ("truncate", [(None, 0)], [1]),
    "chmod": ("chmod", [(None, 0)], [1]),
    "fchmodat": ("chmod", [(0, 1)], [2]),
    "utime": ("utimens", [(None, 0)], []),
    "utimes": ("utimens", [(None, 0)], []),
    "readlink": ("readlink", [(None, 0)], []),
    "readlinkat": ("readlink", [(0, 1)], []),
}


def collapsed(events: list[Event]) -> list[Event]:
    """Join what is repeated: reads and writes of one file while names stay, stats that find the same."""
    kept: list[Event] = []
    since: dict[tuple[str, ...], Event] = {}
    for event in events:
        word = event.words[0]
        if word in ("read", "pread", "write", "pwrite", "stat", "list", "readlink"):
            key = (event.label, event.failed, *event.words[:2])
            first = since.setdefault(key, event)
            if first is not event:
                if word not in ("stat", "list", "readlink"):
                    first.count += 1
                    if not event.failed:
                        first.words[2] = str(int(first.words[2]) + int(event.words[2]))
                continue
        elif word not in ("fork", "exec", "signal", "lock", "flock"):
            since.clear()
        kept.append(event)
    return kept


def relevant(events: list[Event], without: list[str]) -> list[Event]:
    """Leave out processes that touch no file here and end well, and the programs that are of no interest."""
    plain = {"fork", "exec", "signal", "stat", "list"}
    busy = {
        event.label.split(".")[0]
        for event in events
        if event.words[0] not in plain and event.words != ["exit", "0"] and event.comm not in without
    }
    kept = []
    for event in events:
        if event.words[0] == "fork" and event.words[1] not in busy:
            continue
        if event.label.split(".")[0] in busy and event.words[:2] not in IGNORED:
            kept.append(event)
    return kept


def truths(made: dict[str, None], became: dict[str, str], patterns: list[str]) -> Iterator[str]:
    """Say what each name is; a `draft` names what it was renamed to, and is scratch where it was not."""
    for name in made:
        for pattern in patterns:
            glob, _, word = pattern.rpartition(" ")
            if fnmatch.fnmatchcase(name, glob):
                if word == "draft":
                    word = f"draft→{shown(became[name])}" if name in became else "scratch"
                yield f"# truth: {shown(name)} {word}"
                break
        else:
            sys.stderr.write(f"no truth: {name}\n")
