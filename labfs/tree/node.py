"""One place in the tree.

A node keeps its identity while listings come and go, so that a door can hang an inode number or an open file on
it; what the server says about it is its `entry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from labfs.backend import Entry
from labfs.errors import LabfsError
from labfs.tree import names
from labfs.tree.listing import Known, Listing, Rest
from labfs.tree.scan import Progress
from labfs.tree.site import Site
from labfs.write.writer import Writer

Version = tuple[str, str | None]  # of an entry: where a place has one id, another file in it is another version


@dataclass(frozen=True, slots=True)
class Hidden:
    """A file of the server that is out of sight here until another has its name, or the time for that is over."""

    entry: Entry
    over: Callable[[], bool]


class Node:
    """One place in the tree: the root, a site, a directory, a folder or a file."""

    __slots__ = (
        "__weakref__",
        "children",
        "committed_at",
        "doubt",
        "entry",
        "generation",
        "gone",
        "hidden",
        "is_dir",
        "kept_s",
        "known",
        "least",
        "listed_at",
        "listing",
        "local",
        "made_here",
        "modified_ns",
        "name",
        "older",
        "parent",
        "progress",
        "recent",
        "rest",
        "saves",
        "seen_ns",
        "serial",
        "site",
        "stamp",
        "text",
        "took_s",
        "trouble",
        "unlinked",
        "unlisted",
        "writer",
    )

    _serials = iter(range(1, 1 << 62))

    def __init__(
        self,
        name: str,
        parent: Node | None,
        site: Site | None,
        *,
        is_dir: bool,
        entry: Entry | None = None,
        local: bool = False,
    ) -> None:
        self.name = name
        self.parent = parent
        self.site = site
        self.is_dir = is_dir
        self.entry = entry
        self.local = local  # stays on this machine: never uploaded
        self.made_here = False  # a folder that the server will know by the first file in it
        self.writer: Writer | None = None
        self.text: bytes | None = None  # content of a node that labfs itself writes
        self.modified_ns: int | None = None  # set by the user; the server keeps its own date
        self.seen_ns: int | None = None  # when its version was first seen or saved here; None where the server tells
        self.older = False  # not the newest version of its path: to read only
        self.saves = 0  # how often this mount saved it
        self.generation = 0  # grows when the bytes changed behind the reader's back
        self.unlinked = False
        self.least = 1  # bytes that are there at least, of a file whose size nobody told
        self.trouble: LabfsError | None = None  # why its size, and so its bytes, cannot be had
        self.committed_at = float("-inf")
        self.serial = next(self._serials)
        if is_dir:
            self.children: dict[str, Node] = {}
            self.unlisted: dict[str, Node] = {}
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

    def __repr__(self) -> str:
        return f"<Node {self.path!r}>"

    @property
    def key(self) -> str:
        """What the node is, stable across mounts for whatever a server holds."""
        if self.entry is not None and self.site is not None:
            return f"{self.site.name}\0{self.entry.id}"
        if self.is_dir and not self.local and self.parent is not None:
            return f"{self.parent.key}\0/{self.name}"
        return f"\0local\0{self.serial}" if self.parent else "\0root"

    @property
    def path(self) -> str:
        """The path from the mount point, which is `/`."""
        parts = [node.name for node in self.ancestry() if node.parent is not None]
        return "/" + "/".join(reversed(parts))

    def ancestry(self) -> Iterator[Node]:
        """Yield the node itself and all nodes above it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def container(self) -> Node:
        """The nearest directory whose own listing shows this one and what is in it."""
        return next(
            node
            for node in self.ancestry()
            if node.is_dir and (not node.parent or (node.entry is not None and not node.entry.complete))
        )

    @property
    def home(self) -> Node:
        """The nearest directory that the server knows: where this folder's files really live."""
        return next(node for node in self.ancestry() if node.is_dir and (node.entry or not node.parent))

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

    def called(self, name: str) -> list[Entry]:
        """Return the files in a directory that the server calls `name`, older versions among them."""
        nodes = [*self.children.values(), *self.unlisted.values()]
        files = [node.entry for node in nodes if node.entry is not None and not (node.is_dir or node.local)]
        return [entry for entry in files if entry.name == name]

    @property
    def in_scratch(self) -> bool:
        """Whether this directory, or one above it, is local, so that whatever is made here stays local."""
        return any(node.local and node.is_dir for node in self.ancestry())
