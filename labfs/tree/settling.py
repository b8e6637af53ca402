"""Making a directory's nodes what a listing says, and keeping those that are still there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from labfs.backend import Entry
from labfs.tree.layout import Layout
from labfs.tree.node import Node

SETTLING_S = 10.0  # for which our own commit outlives a listing that does not show it yet


def settle(node: Node, layout: Layout, began: float, dates: Mapping[str, int], *, whole: bool = True) -> None:
    """Make the node's children what a listing begun then says; by one that is not `whole` nothing is removed.

    `dates` holds, by id, the dates of what the server tells none of.
    """
    before = node.children
    node.children = {}
    for name, folder in layout.folders.items():
        child = before.get(name)
        if child is None or not child.is_dir:
            child = Node(name, node, node.site, is_dir=True)
        child.local = child.made_here = False
        node.children[name] = child
        settle(child, folder, began, dates, whole=whole)
    for name, entry in layout.entries.items():
        if name in node.hidden and node.hidden[name].entry.id == entry.id and not node.hidden[name].over():
            continue
        node.hidden.pop(name, None)
        child = _renewed(before.get(name), name, node, entry)
        child.seen_ns = dates.get(entry.id)
        node.children[name] = child
        if entry.complete:
            settle(child, layout.complete[name], began, dates, whole=whole)
    node.unlisted = {name: _renewed(node.unlisted.get(name), name, node, entry) for name, entry in layout.older.items()}
    for child in node.unlisted.values():
        child.older = True
        child.seen_ns = dates.get(child.entry.id) if child.entry is not None else None
    for name, child in before.items():
        if name not in node.children and (not whole or _ours(child, began)):
            node.children[name] = child


def _renewed(known: Node | None, name: str, parent: Node, entry: Entry) -> Node:
    if known is None or known.is_dir != entry.is_dir:
        return Node(name, parent, parent.site, is_dir=entry.is_dir, entry=entry)
    if known.local and known.writer is not None:
        return known  # a temporary file of ours, whatever somebody else calls by its name
    old = known.entry
    if old is not None and (old.id, old.version) != (entry.id, entry.version):
        known.generation += 1
        known.modified_ns = None
    known.entry = entry
    known.trouble = None
    known.local = False
    return known


def _ours(node: Node, began: float) -> bool:
    """Whether a node stays although a listing begun then does not show it."""
    if node.local or node.made_here or node.writer is not None:
        return True
    if (
        node.is_dir
        and (node.entry is None or node.entry.complete)
        and any(_ours(child, began) for child in node.children.values())
    ):
        return True
    return began - node.committed_at < SETTLING_S


def is_at(node: Node, number: str, container: Node) -> bool:
    """Whether a node still shows what was saved as it, in a directory that is listed with `container`."""
    parent, entry = node.parent, node.entry
    if entry is None or entry.id != number or parent is None or node.unlinked:
        return False
    return parent.children.get(node.name) is node and parent.container is container


def is_called(entry: Entry, node: Node) -> bool:
    """Whether a node's entity has the name still under which it was saved."""
    ours = node.entry
    return ours is not None and (entry.name, entry.folders, entry.inside) == (ours.name, ours.folders, ours.inside)


def placed(node: Node, container: Node) -> Entry:
    """Return a node's entry as a listing of `container` would show it."""
    assert node.parent is not None
    assert node.entry is not None
    home = node.parent.home
    inside = home.entry.id if home is not container and home.entry is not None else None
    return replace(node.entry, folders=node.parent.folders, inside=inside)
