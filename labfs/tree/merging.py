"""The merge of a listing into a directory's nodes, which keeps those that still exist.

Tests: core/test_vfs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from labfs.backend import Entry
from labfs.tree.layout import Layout
from labfs.tree.node import Folder, Kind, Node

MERGING_S = 10.0  # for which a file committed here stays although a listing does not show it yet


def merge(folder: Folder, layout: Layout, began: float, dates: Mapping[str, int], *, whole: bool = True) -> None:
    """Update a folder's children from a listing that began at `began`; unless it is `whole` no child is removed.

    `dates` holds, by id, the dates of the entries that have none from the server.
    """
    before = folder.children
    folder.children = {}
    for name, below in layout.folders.items():
        known = before.get(name)
        child = known if isinstance(known, Folder) else Folder(name, folder, Kind.SERVER)
        child.kind = Kind.SERVER
        folder.children[name] = child
        merge(child, below, began, dates, whole=whole)
    for name, entry in layout.entries.items():
        if name in folder.hidden and folder.hidden[name].entry.id == entry.id and not folder.hidden[name].over():
            continue
        folder.hidden.pop(name, None)
        node = _renewed(before.get(name), name, folder, entry)
        node.seen_ns = dates.get(entry.id)
        folder.children[name] = node
        if entry.complete and isinstance(node, Folder):
            merge(node, layout.complete[name], began, dates, whole=whole)
    unlisted = folder.unlisted
    folder.unlisted = {}
    for name, entry in layout.older.items():
        older = folder.unlisted[name] = _renewed(unlisted.get(name), name, folder, entry)
        older.kind = Kind.OLDER
        older.seen_ns = dates.get(entry.id)
    for name, node in before.items():
        if name not in folder.children and (not whole or _ours(node, began)):
            folder.children[name] = node


def _renewed(known: Node | None, name: str, parent: Folder, entry: Entry) -> Node:
    if known is None or known.is_dir != entry.is_dir:
        return (Folder if entry.is_dir else Node)(name, parent, Kind.SERVER, entry)
    if known.stays_here and known.writer is not None:
        return known  # a temporary file of ours, even if the server has another file of this name
    old = known.entry
    if old is not None and (old.id, old.version) != (entry.id, entry.version):
        known.generation += 1
        known.modified_ns = None
    known.entry = entry
    known.trouble = None
    known.kind = Kind.SERVER
    return known


def _ours(node: Node, began: float) -> bool:
    """Whether a node stays although a listing that began at `began` does not show it."""
    if node.stays_here or node.kind is Kind.UNBORN or node.writer is not None:
        return True
    if (
        isinstance(node, Folder)
        and (node.entry is None or node.entry.complete)
        and any(_ours(child, began) for child in node.children.values())
    ):
        return True
    return began - node.committed_at < MERGING_S


def is_at(node: Node, number: str, container: Folder) -> bool:
    """Whether a node still has the entry with the id `number`, in a directory that is listed with `container`."""
    if node.entry is None or node.entry.id != number or node.unlinked:
        return False
    return node.parent.children.get(node.name) is node and node.parent.container is container


def is_called(entry: Entry, node: Node) -> bool:
    """Whether an entry still has the name and folders under which its node was saved."""
    ours = node.entry
    return ours is not None and (entry.name, entry.folders, entry.inside) == (ours.name, ours.folders, ours.inside)


def placed(entry: Entry, parent: Folder, container: Folder) -> Entry:
    """Return an entry of the directory `parent` as a listing of `container` would show it."""
    home = parent.home
    inside = home.entry.id if home is not container and home.entry is not None else None
    return replace(entry, folders=parent.folders, inside=inside)
