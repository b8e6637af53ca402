"""Files of the server that are hidden in this mount, since another file is about to take their name.

A program that moves a file aside, or removes it to create it again, finds the name free until then. If no file takes
the name, the hidden file is shown again.

Tests: core/test_drafts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from labfs.backend import Entry
from labfs.tree.node import Folder, Hidden, Kind, Node

log = logging.getLogger(__name__)

ASIDE_S = 60.0  # in which a newer file may take the name of one that was moved aside


def hide(node: Node, entry: Entry, over: Callable[[], bool] | None = None) -> None:
    """Hide a file, which the server has as `entry`, until another has its name, or `over` returns true."""
    if node.parent.children.get(node.name) is node:
        del node.parent.children[node.name]
    until = trio.current_time() + ASIDE_S
    node.parent.hidden[node.name] = Hidden(entry, over or (lambda: trio.current_time() >= until))


def show_again(parent: Folder, name: str) -> None:
    """Show a hidden file again; the caller then has the directory listed anew."""
    hidden = parent.hidden.pop(name, None)
    if hidden is not None and name not in parent.children:
        log.info("Nothing took the place of “%s” in %s, so it is there again.", name, parent.path)
        parent.children[name] = Node(name, parent, Kind.SERVER, hidden.entry)


def show_what_is_over(parent: Folder) -> bool:
    """Show the hidden files of a directory whose time is over again; return whether there were any."""
    over = [name for name, hidden in parent.hidden.items() if hidden.over()]
    for name in over:
        show_again(parent, name)
    return bool(over)
