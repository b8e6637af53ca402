"""What may be done where: questions about nodes, answered without asking any server.

A refusal carries the sentence that says why.
"""

from __future__ import annotations

from labfs.backend import Accept, Replace
from labfs.errors import NotPermitted, ReadOnly
from labfs.scratch import is_scratch
from labfs.tree import Node


def stays_local(parent: Node, name: str, program: str = "") -> bool:
    """Tell whether what gets this name here, made by this program, is kept from the server."""
    if parent.site is None or not parent.site.may_write:
        return False
    return parent.in_scratch or is_scratch(name, program, parent.children)


def why_read_only(node: Node) -> str | None:
    """Say why nothing can be written to a file or into a directory; None if something can."""
    if node.site is None:
        return "Only the configuration adds sites here."
    if not node.site.may_write:
        return f'{node.site.name} is mounted read-only (access = "read" in the configuration).'
    if node.local:
        return None
    if node.older:
        return "This is an older version of the file, kept to be read."
    home = node if node.is_dir else node.parent
    assert home is not None
    entry = home.container.entry
    assert entry is not None
    if entry.read_only or not entry.accepts:
        return entry.read_only or f"Nothing can be written in “{entry.name}”."
    return None


def check_writable(node: Node) -> None:
    """Raises ReadOnly or NotPermitted for a file that cannot be changed."""
    if node.text is not None:
        raise NotPermitted(f"“{node.name}” is labfs's own view of a record and cannot be changed.")
    reason = why_read_only(node)
    if reason is not None:
        raise ReadOnly(reason)
    if node.entry is None or node.local or node.site is None:
        return
    site = node.site
    match site.backend.capabilities.replace:
        case Replace.NEVER:
            raise NotPermitted(f"{site.name} cannot save over a file, and so not over “{node.name}”.")
        case Replace.BY_DELETE if not site.may_delete:
            raise NotPermitted(
                f"Saving over “{node.name}” would delete the old one, which is off for {site.name};"
                ' access = "full" in the configuration allows it.'
            )


def check_holds(parent: Node, what: Accept, name: str) -> None:
    """Raises ReadOnly or NotPermitted where no such thing can be made in a directory."""
    reason = why_read_only(parent)
    if reason is not None:
        raise ReadOnly(reason)
    entry = parent.container.entry
    assert entry is not None
    if what not in entry.accepts:
        kind = "Files" if what is Accept.FILE else "Directories"
        raise NotPermitted(f"{kind} cannot be made in {parent.path}, and so not “{name}”.")
