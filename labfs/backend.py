"""The waist: what a lab system must offer so that labfs can mount it. Types and protocols, no I/O.

Above this file nobody knows a vendor's name; below it nobody knows a path, a cache, the kernel or trio.

Obligations on every backend:

* only exceptions from `labfs.errors` leave it;
* any await may be cancelled, and then no connection stays checked out;
* nothing is cached and nothing is retried (the client retries; the core caches), except that a
  change whose answer was lost is looked for before it is sent again;
* names are given as the system shows them; making them safe is the core's work;
* sizes are bytes, ranges half-open `[start, stop)`, times nanoseconds since 1970 UTC.

Tests: backends/test_backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from labfs.errors.health import Health

Buffer = bytes | bytearray | memoryview


class Accept(Enum):
    """What may be made inside a directory."""

    DIRECTORY = "directory"  # mkdir makes an entity on the server
    FILE = "file"  # files may be created and saved
    FOLDER = "folder"  # sub-directories that exist as part of the files' own paths


class Replace(Enum):
    """What saving over a file that is there means to a system."""

    NEWER = "newer"  # a second upload to a path is its newer version; the older one stays reachable
    IN_PLACE = "in place"  # the bytes behind an entry change, its id stays
    BY_DELETE = "by delete"  # the backend uploads the new file; once that is there the core deletes the old one
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Takes:
    """What can be made in a directory, and what saving over a file in it means."""

    kinds: frozenset[Accept] = frozenset()
    folders: tuple[str, ...] = ()  # the only ones for files; they can be entered although nothing is in them yet
    room: int | None = None  # how many files a directory can hold
    replace: Replace | None = None  # where that is not the site's usual way
    whole: int | None = None  # bytes of the largest file where all go up in one body; None: as on the rest of the site

    def __contains__(self, what: Accept) -> bool:
        return what in self.kinds


NOTHING = Takes()


def takes(*kinds: Accept) -> Takes:
    """Return that such things can be made in a directory."""
    return Takes(frozenset(kinds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One thing a server holds: a project, a record or an attachment."""

    id: str  # minted and parsed by the backend alone; fit for a journal and a cache key
    name: str  # as the system shows it, not yet safe for a file system
    is_dir: bool
    age: int = 0  # when it was made, in any unit that grows; equal where the system does not tell two apart
    label: str = ""  # the id as people know it; tells twins apart in `name [label]`
    inside: str | None = None  # id of the `complete` directory that holds this; None: the one that was listed
    complete: bool = False  # a directory whose contents are listed along with it, by its parent's `page`
    folders: tuple[str, ...] = ()  # sub-directories inside the parent, outermost first
    size: int | None = None  # bytes; None where the system does not say
    modified_ns: int | None = None
    version: str | None = None  # changes whenever the bytes do; None where there is no such token
    checksum: str | None = None  # "md5:<hex>", or "md5-of-parts:<hex>-<count>" of unknown part size
    takes: Takes = NOTHING
    unreadable: str | None = None  # why the bytes cannot be had at present, as a sentence
    read_only: str | None = None  # why nothing can be written here, or this file not changed, as a sentence
    url: str | None = None  # where a person finds it, free of secrets


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a directory's entries. `total` is the server's count of all of them, if it tells.

    `left_out` says how many of those that the server counted are not shown here: uploads under way, and
    what makes no sense. `remark` says, as a sentence, why the directory may hold more than is listed; where that is so
    for a while only, the list is `lacking`, and what it does not show is not known to be absent.
    """

    entries: tuple[Entry, ...]
    cursor: str | None = None  # of the next page; None at the end
    total: int | None = None
    left_out: int = 0
    remark: str | None = None
    lacking: bool = False


@dataclass(frozen=True, slots=True)
class Parts:
    """The rules of a multipart upload, sizes in bytes."""

    least: int  # of every part but the last
    greatest: int
    count: int  # highest part number
    preferred: int  # a good part size where the rules leave a choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The facts about a system on which the core decides before it calls."""

    ranged: bool  # any byte range can be asked for; else a file is only poured, whole
    measured: bool = True  # a size that a listing lacks costs one small request at most
    deletable: bool  # a file can be deleted
    renames: bool = False  # a file's name, and its place within the site, can be changed
    replace: Replace
    whole: int  # largest file, in bytes, that goes up in one body
    connections: int  # greatest number of requests at the same time
    longest_name: int = 255  # of a file, in bytes of UTF-8
    checksums_prove: bool = True  # False once a checksum of this site was seen to be none, though the bytes were right


class Source(Protocol):
    """A body that can be sent more than once. Both methods block on the disk: call them in a thread."""

    @property
    def size(self) -> int: ...

    def chunks(self) -> Iterator[bytes]:
        """Yield all bytes, from the first one at every call."""
        ...

    def md5(self) -> bytes:
        """Return the digest of all bytes."""
        ...


class Sink(Protocol):
    """Where a file goes that is sent in one pass. Both methods block and may raise: call them in a thread."""

    @property
    def received(self) -> int:
        """The most bytes that any pass brought; what an unlucky pass must exceed to count as progress."""
        ...

    def begin(self, size: int | None) -> None:
        """Start from the first byte, perhaps anew; `size` is what the server announced, in bytes."""
        ...

    def write(self, data: Buffer) -> None:
        """Take the next bytes. Raises Stale if an earlier pass brought others, Enough to end it."""
        ...


class Stretch:
    """A range of a file that one request fetches, taken in pieces of `step` bytes as they arrive; the last is shorter.

    `take` is called with the offset of each piece and its bytes, in order, in whatever thread they arrive, and before
    that `delayed` with the seconds until an answer began. A request that is repeated goes on at `next`: no byte is
    taken twice.
    """

    def __init__(
        self,
        start: int,
        stop: int,
        step: int,
        take: Callable[[int, Buffer], None],
        delayed: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.next = start  # offset of the first byte that was not taken
        self.stop = stop
        self._step = step
        self._take = take
        self.delayed = delayed

    @property
    def piece(self) -> int:
        """The size of the next piece in bytes, 0 at the end."""
        return min(self._step, self.stop - self.next)

    def arrived(self, piece: Buffer) -> None:
        """Hand out the next piece."""
        start, self.next = self.next, self.next + len(piece)
        self._take(start, piece)


class Content(Protocol):
    """The bytes of one version of one file."""

    async def prepare(self) -> None:
        """Make the first read fast, and raise now what would make every read fail."""
        ...

    async def stream(self, stretch: Stretch) -> None:
        """Fetch a stretch of the version; what arrives before an error is taken.

        Raises Stale when the version is gone, and Unranged where ranges turn out not to be had.
        """
        ...

    async def pour(self, sink: Sink) -> None:
        """Send the whole file to `sink`; returns when that was all of this version. Raises Stale."""
        ...


async def fetched(content: Content, start: int, stop: int) -> Buffer:
    """Return the bytes `[start, stop)` of a content, as many as it sent."""
    pieces: list[Buffer] = []
    await content.stream(Stretch(start, stop, stop - start, lambda offset, piece: pieces.append(piece)))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a server answered to a part, as plain data that a journal can keep."""

    number: int
    tag: str
    size: int


class Upload(Protocol):
    """A multipart upload under way. Nothing of it is visible to others before `complete`."""

    @property
    def token(self) -> str:
        """What resumes this upload in another process."""
        ...

    async def put_part(self, number: int, source: Source) -> Receipt:
        """Send part `number`, counted from 1: any order, several at a time, again if need be."""
        ...

    async def complete(self, receipts: list[Receipt], size: int) -> Entry:
        """Make the file visible; the same answer when called again after a lost reply."""
        ...

    async def abort(self) -> None:
        """Forget the upload. Harmless when repeated, and after a `complete` that failed half-way."""
        ...


class Multipart(Protocol):
    """How larger files go up: in parts, of which nothing is visible before the end."""

    @property
    def rules(self) -> Parts: ...

    async def begin(self, target: Target, size: int | None) -> Upload:
        """Start an upload; `size` is in bytes, or None while still unknown."""
        ...

    async def resume(self, target: Target, token: str) -> Upload:
        """Go on with an upload of an earlier process. Raises NotFound where the system has given it up."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where a file is to be saved: a directory entry, sub-directories in it, and a name."""

    parent: Entry
    folders: tuple[str, ...]
    name: str
    replaces: Entry | None = None  # the file whose place this one takes


class Backend(Protocol):
    """One site of one system."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def multipart(self) -> Multipart | None:
        """How files go up that are larger than one body may be; None: they cannot."""
        ...

    @property
    def health(self) -> Health: ...

    @property
    def root(self) -> Entry:
        """The entry of the site itself; known without a request."""
        ...

    async def check(self) -> str:
        """Ask by the cheapest calls who we are, and return that name. Raises Denied for a bad credential."""
        ...

    async def rights(self) -> str:
        """Return what this account may do, in the system's words; "" where it does not tell that without a change."""
        ...

    async def page(self, parent: Entry, cursor: str | None) -> Page:
        """Return one page of what is in `parent`; each entry once, in a stable order."""
        ...

    async def stat(self, entry_id: str) -> Entry:
        """Return the entry as `page` would. Raises NotFound."""
        ...

    async def measure(self, entry: Entry) -> int | None:
        """Find out the size in bytes of a file listed without one, by the cheapest honest request; None if not told."""
        ...

    async def describe(self, entry: Entry) -> Mapping[str, Any]:
        """Return the system's own record of an entry, as JSON-able data."""
        ...

    def content(self, entry: Entry) -> Content:
        """Return the bytes of the entry's version; no request is made yet."""
        ...

    async def make(self, parent: Entry, name: str) -> Entry:
        """Make a directory entity in `parent`. Raises Exists where the system knows the name."""
        ...

    async def upload(self, target: Target, source: Source) -> Entry:
        """Save a file in one body; returns when the server holds it and its length matched.

        Where saving is `BY_DELETE` the file that `target.replaces` names stays: the core deletes it afterwards.
        What points at that one may be let point at the new one first.
        """
        ...

    async def rename(self, entry: Entry, target: Target) -> Entry:
        """Give a file another name or place, its bytes untouched. Raises CrossDevice where that is no rename.

        The core deletes what `target.replaces` names afterwards; a backend may first let what points at that
        one point at this.
        """
        ...

    async def delete(self, entry: Entry) -> None:
        """Delete a file. Deleting what is gone is not an error."""
        ...

    async def aclose(self) -> None: ...


def largest(backend: Backend, place: Takes = NOTHING) -> int:
    """Return the largest file in bytes that a system takes in a place, however the file goes up."""
    if place.whole is not None:
        return place.whole
    whole, multipart = backend.capabilities.whole, backend.multipart
    return whole if multipart is None else max(whole, multipart.rules.greatest * multipart.rules.count)


# -- what a request is worth: marks that go along with a task and those it begins --------------------------------

_DISPENSABLE: ContextVar[bool] = ContextVar("dispensable", default=False)


@contextmanager
def dispensable() -> Iterator[None]:
    """Mark what is asked in here, and in tasks begun in here, as something that can be done without."""
    before = _DISPENSABLE.set(True)
    try:
        yield
    finally:
        _DISPENSABLE.reset(before)


def is_dispensable() -> bool:
    """Whether a request made now is worth no more than a second try."""
    return _DISPENSABLE.get()


_UNHURRIED: ContextVar[bool] = ContextVar("unhurried", default=False)


@contextmanager
def unhurried(yes: bool = True) -> Iterator[None]:
    """Mark what is asked in here as something that a server may take long over, and that nobody asks for twice."""
    before = _UNHURRIED.set(yes)
    try:
        yield
    finally:
        _UNHURRIED.reset(before)


def is_unhurried() -> bool:
    """Whether a request made now is let go on for as long as its server may be at work on it."""
    return _UNHURRIED.get() and not is_dispensable()
