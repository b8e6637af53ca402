"""Whether a save would destroy what somebody else saved meanwhile: asked just before it is sent.

Tests: core/test_vfs, core/test_crossing.
"""

from __future__ import annotations

from dataclasses import replace

from labfs.backend import Backend, Entry, Target
from labfs.errors import Conflict, NotFound
from labfs.tree.node import Node
from labfs.vfs import policy


async def unchanged(node: Node, target: Target) -> Target:
    """Return the target of a save, after a check that it destroys no newer version. Raises Conflict."""
    # Where a save does not overwrite in place the other version stays, beside ours or as an older version.
    opened = target.replaces
    if opened is None or not policy.destroys_old(node):
        return target
    backend = node.site.backend
    try:
        if opened.version is not None:
            changed = (await backend.stat(opened.id)).version != opened.version
        else:  # only the size can show a change, where the server can be asked for it
            size = await backend.measure(opened) if backend.capabilities.measured else None
            changed = None not in (size, opened.size) and size != opened.size
    except NotFound:
        return target if await _is_listed(backend, opened) else replace(target, replaces=None)
    if changed:
        raise Conflict(
            f"Somebody else has saved “{node.name}” since you opened it. Theirs is on the server; yours is in the"
            " outbox, and in a mount beside theirs."
        )
    return target


async def _is_listed(backend: Backend, entry: Entry) -> bool:
    """Whether the server still has an entry, even without its bytes; if it was removed the save makes a new file."""
    try:
        await backend.stat(entry.id)
    except NotFound:
        return False
    return True
