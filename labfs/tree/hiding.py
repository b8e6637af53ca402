"""Files of the server that are out of sight here, since another is about to take their name.

A program that moves a file aside, or removes it to make it anew, has the name free until then. If nothing takes it,
the file is there again.

Tests: core/test_drafts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from labfs.backend import Entry
from labfs.tree.node import Folder, Hidden, Kind, Node

log = logging.getLogger(__name__)

ASIDE_S = 60.0  # for something newer to take the name of what was moved aside


def hide(node: Node, entry: Entry, over: Callable[[], bool] | None = None) -> None:
    """Hide a file, which the server has as `entry`, until another takes its name or `over`, else a timeout, is True."""
    if node.parent.children.get(node.name) is node:
        del node.parent.children[node.name]
    until = trio.current_time() + ASIDE_S
    node.parent.hidden[node.name] = Hidden(entry, over or (lambda: trio.current_time() >= until))


def show_again(parent: Folder, name: str) -> None:
    """Show a file that was hidden; the directory is to be listed anew then."""
    hidden = parent.hidden.pop(name, None)
    if hidden is not None and name not in parent.children:
        log.info("Nothing took the place of “%s” in %s, so it is there again.", name, parent.path)
        parent.children[name] = Node(name, parent, Kind.SERVER, hidden.entry)


def show_what_is_over(parent: Folder) -> bool:
    """Show what was hidden in a directory to make room for what did not come; whether there was such a thing."""
    over = [name for name, hidden in parent.hidden.items() if hidden.over()]
    for name in over:
        show_again(parent, name)
    return bool(over)
