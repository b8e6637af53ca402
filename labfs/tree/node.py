"""One place in the tree: a file, or a folder.

A node keeps its identity while listings come and go, so that a door can hang an inode number or an open file on
it; what the server says about it is its `entry`. Everybody may read a node. Only modules of this room write to one:
others use the verbs of `Tree` (tests/unit/test_layers.py).

Tests: core/test_vfs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from labfs.backend import Entry
from labfs.errors import LabfsError
from labfs.tree import names
from labfs.tree.listing import Known, Listing, Rest
from labfs.tree.scan import Progress
from labfs.tree.site import Site
from labfs.write.writer import Writer

Version = tuple[str, str | None]  # of an entry: where a place has one id, another file in it is another version


class Kind(Enum):
    """What a node is to its server."""

    SERVER = auto()  # it is there: listed, or saved here, or a folder that is part of listed files' paths
    UNBORN = auto()  # made here: it is there with its first save, a folder with that of a file in it
    SCRATCH = auto()  # stays on this machine; of a file that was moved aside `entry` is what it shows still
    OLDER = auto()  # a version of a file that is not the newest of its path: to read only
    VIEW = auto()  # a text that labfs writes itself


@dataclass(frozen=True, slots=True)
class Hidden:
    """A file of the server that is out of sight here until another has its name, or the time for that is over."""

    entry: Entry
    over: Callable[[], bool]


class Node:
    """A file, or what a file and a folder have in common. The root of the tree is its own parent."""

    __slots__ = (
        "__weakref__",
        "_site",
        "committed_at",
        "entry",
        "generation",
        "kind",
        "least",
        "modified_ns",
        "name",
        "parent",
        "saves",
        "seen_ns",
        "serial",
        "text",
        "trouble",
        "unlinked",
        "writer",
    )

    _serials = iter(range(1, 1 << 62))

    def __init__(self, name: str, parent: Folder, kind: Kind, entry: Entry | None = None) -> None:
        self.name = name
        self.parent = parent
        self.kind = kind
        self.entry = entry
        self._site: Site | None = None if parent is self else parent._site
        self.writer: Writer | None = None
        self.text = b""  # of a VIEW
        self.modified_ns: int | None = None  # set by the user; the server keeps its own date
        self.seen_ns: int | None = None  # when its version was first seen or saved here; None where the server tells
        self.saves = 0  # how often this mount saved it
        self.generation = 0  # grows when the bytes changed behind the reader's back
        self.unlinked = False
        self.least = 1  # bytes that are there at least, of a file whose size nobody told
        self.trouble: LabfsError | None = None  # why its size, and so its bytes, cannot be had
        self.committed_at = float("-inf")
        self.serial = next(self._serials)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}>"

    @property
    def is_dir(self) -> bool:
        return isinstance(self, Folder)

    @property
    def is_root(self) -> bool:
        """Whether this is the top of the mount, which is in no site."""
        return self.parent is self

    @property
    def site(self) -> Site:
        """The site that the node is in. There is none of the root."""
        assert self._site is not None, "the root is in no site"
        return self._site

    @property
    def stays_here(self) -> bool:
        """Whether a node is of this machine alone."""
        return self.kind in (Kind.SCRATCH, Kind.VIEW)

    @property
    def on_server(self) -> bool:
        """Whether a node is a file that the server has, so that a change of it is one there."""
        return self.entry is not None and not self.stays_here and not self.is_dir

    @property
    def key(self) -> str:
        """What the node is, stable across mounts for whatever a server holds."""
        if self.entry is not None and self._site is not None:
            return f"{self._site.name}\0{self.entry.id}"
        if self.is_root:
            return "\0root"
        if self.is_dir and not self.stays_here:
            return f"{self.parent.key}\0/{self.name}"
        return f"\0local\0{self.serial}"

    @property
    def path(self) -> str:
        """The path from the mount point, which is `/`."""
        parts = [node.name for node in self.ancestry() if not node.is_root]
        return "/" + "/".join(reversed(parts))

    def ancestry(self) -> Iterator[Node]:
        """Yield the node itself and all nodes above it."""
        node = self
        while True:
            yield node
            if node.is_root:
                return
            node = node.parent

    @property
    def folder(self) -> Folder:
        """The directory that this is, or that the file is in."""
        return self if isinstance(self, Folder) else self.parent

    @property
    def container(self) -> Folder:
        """The nearest directory whose own listing shows this one and what is in it."""
        return next(
            node
            for node in self.ancestry()
            if isinstance(node, Folder) and (node.is_root or (node.entry is not None and not node.entry.complete))
        )

    @property
    def home(self) -> Folder:
        """The nearest directory that the server knows: where this folder's files really live."""
        return next(node for node in self.ancestry() if isinstance(node, Folder) and (node.entry or node.is_root))

    @property
    def entity(self) -> Entry:
        """The entry of the home. There is none of the root."""
        entry = self.home.entry
        assert entry is not None, "the root is in no site"
        return entry

    @property
    def folders(self) -> tuple[str, ...]:
        """The server's names of the folders between the home and this directory."""
        home = self.home
        between = []
        for node in self.ancestry():
            if node is home:
                break
            between.append(names.original(node.name))
        return tuple(reversed(between))

    @property
    def in_scratch(self) -> bool:
        """Whether this directory, or one above it, is local, so that whatever is made here stays local."""
        return any(node.kind is Kind.SCRATCH and node.is_dir for node in self.ancestry())


class Folder(Node):
    """A directory: what is in it, and how much of that is known."""

    __slots__ = (
        "children",
        "doubt",
        "gone",
        "hidden",
        "kept_s",
        "known",
        "listed_at",
        "listing",
        "progress",
        "recent",
        "remark",
        "rest",
        "stamp",
        "took_s",
        "unlisted",
    )

    def __init__(self, name: str, parent: Folder | None, kind: Kind, entry: Entry | None = None) -> None:
        super().__init__(name, parent or self, kind, entry)
        self.children: dict[str, Node] = {}
        self.unlisted: dict[str, Node] = {}  # what answers to its name and is not shown: older versions, views
        self.hidden: dict[str, Hidden] = {}  # names that were moved aside here → what the server has there
        self.listed_at = float("-inf")
        self.known = Known.NOTHING
        self.listing: Listing | None = None  # the one under way
        self.progress: Progress | None = None  # how far the first one came that broke off
        self.rest = Rest()
        self.took_s = 0.0  # for the last listing
        self.kept_s = 0.0  # when what is KEPT was listed, in seconds since 1970
        self.recent: dict[str, Node] = {}  # id → what was saved here, until a listing shows it or it is old
        self.gone: set[Version] = set()  # what was deleted and may be listed for a while yet
        self.stamp = 0  # grows whenever the listing is called old
        self.doubt: str | None = None  # why the listing could not be renewed
        self.remark: str | None = None  # why there may be more than the last listing shows

    @classmethod
    def of_site(cls, site: Site, root: Folder) -> Folder:
        """Return the directory of a site, in the root of a tree."""
        folder = cls(site.name, root, Kind.SERVER, site.backend.root)
        folder._site = site
        return folder

    @property
    def is_whole(self) -> bool:
        """Whether this mount has listed a directory to its end, perhaps a while ago."""
        return self.known is Known.WHOLE

    def has(self, node: Node) -> bool:
        """Whether a node has its name here, listed or not."""
        return node in (self.children.get(node.name), self.unlisted.get(node.name))

    def called(self, name: str) -> list[Entry]:
        """Return the files in a directory that the server calls `name`, older versions among them."""
        nodes = [*self.children.values(), *self.unlisted.values()]
        files = [node.entry for node in nodes if node.entry is not None and node.on_server]
        return [entry for entry in files if entry.name == name]
