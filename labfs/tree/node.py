"""One place in the tree: a file, or a folder.

A node keeps its identity while listings come and go, so that a door can attach an inode number or an open file to
the node; what the server says about a node is its `entry`. Any module may read a node. Only modules of this package
write to a node: others use the methods of `Tree` (tests/unit/test_layers.py).

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

Version = tuple[str, str | None]  # id and version of an entry: where a path has one id, a new file is a new version


class Kind(Enum):
    """What a node is to its server."""

    SERVER = auto()  # on the server: listed, or saved here, or a folder that is part of listed files' paths
    UNBORN = auto()  # created here: on the server with its first save, a folder with that of a file in it
    SCRATCH = auto()  # stays on this machine; a file that was moved aside still shows the server's `entry`
    OLDER = auto()  # a version of a file that is not the newest of its path: read-only
    VIEW = auto()  # a text that labfs itself generates
    YOURS = auto()  # a save that conflicts with what the server has, shown beside that


@dataclass(frozen=True, slots=True)
class Hidden:
    """A file of the server that is hidden in this mount until another has its name, or `over` returns true."""

    entry: Entry
    over: Callable[[], bool]


class Node:
    """A file, and the base class of a folder. The root of the tree is its own parent."""

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
        self.seen_ns: int | None = None  # when its version was first seen or saved here; None if the server has a date
        self.saves = 0  # how often this mount saved it
        self.generation = 0  # grows when the kernel's cached pages of the file become invalid
        self.unlinked = False
        self.least = 1  # a lower bound of the size in bytes, where the size is unknown
        self.trouble: LabfsError | None = None  # why its size, and so its bytes, cannot be read
        self.committed_at = float("-inf")
        self.serial = next(self._serials)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}>"

    @property
    def is_dir(self) -> bool:
        return isinstance(self, Folder)

    @property
    def is_root(self) -> bool:
        """Whether this is the root of the mount, which is in no site."""
        return self.parent is self

    @property
    def site(self) -> Site:
        """The site that the node is in. The root has none."""
        assert self._site is not None, "the root is in no site"
        return self._site

    @property
    def stays_here(self) -> bool:
        """Whether the node exists on this machine only."""
        return self.kind is Kind.SCRATCH or self.is_view

    @property
    def is_view(self) -> bool:
        """Whether the node is a file that labfs itself shows, and nobody writes to."""
        return self.kind in (Kind.VIEW, Kind.YOURS)

    @property
    def on_server(self) -> bool:
        """Whether the node is a file that the server has, so that a change is made on the server."""
        return self.entry is not None and not self.stays_here and not self.is_dir

    @property
    def is_forgettable(self) -> bool:
        """Whether the server knows all of a file that this mount does."""
        return self.kind in (Kind.SERVER, Kind.OLDER) and self.writer is None and self.modified_ns is None

    @property
    def key(self) -> str:
        """A string that identifies the node; the same in every mount for nodes that a server holds."""
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
        """The node itself if it is a directory, else the directory that the file is in."""
        return self if isinstance(self, Folder) else self.parent

    @property
    def container(self) -> Folder:
        """The nearest directory, from this node up, that has a listing of its own, apart from the directory above."""
        return next(
            node
            for node in self.ancestry()
            if isinstance(node, Folder) and (node.is_root or (node.entry is not None and not node.entry.complete))
        )

    @property
    def home(self) -> Folder:
        """The nearest directory, from this node up, that has an entry: where the server stores the files."""
        return next(node for node in self.ancestry() if isinstance(node, Folder) and (node.entry or node.is_root))

    @property
    def entity(self) -> Entry:
        """The entry of `home`. The root has none."""
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
        """Whether this directory, or one above it, is local, so that all files created here stay local."""
        return any(node.kind is Kind.SCRATCH and node.is_dir for node in self.ancestry())


class Folder(Node):
    """A directory: its children, and the state of its listing."""

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
        self.unlisted: dict[str, Node] = {}  # found by name but not listed: older versions, views, offered folders
        self.hidden: dict[str, Hidden] = {}  # names that were freed here → the file that the server has there
        self.listed_at = float("-inf")
        self.known = Known.NOTHING
        self.listing: Listing | None = None  # the listing under way
        self.progress: Progress | None = None  # of a first listing that was interrupted
        self.rest = Rest()
        self.took_s = 0.0  # duration of the last listing
        self.kept_s = 0.0  # when the KEPT listing was made, in seconds since 1970
        self.recent: dict[str, Node] = {}  # id → node saved here, until a listing shows it or `MERGING_S` have passed
        self.gone: set[Version] = set()  # versions that were deleted and may be listed for a while yet
        self.stamp = 0  # grows whenever the listing is expired
        self.doubt: str | None = None  # why the listing could not be renewed
        self.remark: str | None = None  # why the last listing may be incomplete

    @classmethod
    def of_site(cls, site: Site, root: Folder) -> Folder:
        """Return the directory of a site, in the root of a tree."""
        folder = cls(site.name, root, Kind.SERVER, site.backend.root)
        folder._site = site
        return folder

    @property
    def is_whole(self) -> bool:
        """Whether this mount has listed the whole directory, perhaps a while ago."""
        return self.known is Known.WHOLE

    def listed_with(self) -> Iterator[Folder]:
        """Yield the directory, and the folders below it that have no listing of their own."""
        yield self
        for child in [*self.children.values(), *self.unlisted.values()]:
            if isinstance(child, Folder) and (child.entry is None or child.entry.complete):
                yield from child.listed_with()

    def files(self) -> list[Node]:
        return [node for node in [*self.children.values(), *self.unlisted.values()] if not node.is_dir]

    def has(self, node: Node) -> bool:
        """Whether a node is in this directory under its name, listed or not."""
        return node in (self.children.get(node.name), self.unlisted.get(node.name))

    def spelled(self, name: str) -> str:
        """Return the name that a file of a listed directory has here, which `name` may spell otherwise."""
        if self.is_root or name in self.children or name in self.unlisted or not self.container.is_whole:
            return name
        others = {**self.children, **self.hidden}
        return names.other_spelling(name, others, any_case=self.site.any_case) or name

    def called(self, name: str) -> list[Entry]:
        """Return the files in a directory that the server calls `name`, older versions among them."""
        nodes = [*self.children.values(), *self.unlisted.values()]
        files = [node.entry for node in nodes if node.entry is not None and node.on_server]
        return [entry for entry in files if entry.name == name]
