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
    """Return where a file is to be saved, once that was found to destroy nothing. Raises Conflict."""
    # Where the bytes do not change in place theirs stay, beside ours or as an older version.
    opened = target.replaces
    if opened is None or not policy.destroys_old(node):
        return target
    backend = node.site.backend
    try:
        if opened.version is not None:
            changed = (await backend.stat(opened.id)).version != opened.version
        else:  # the size is all that can tell, where that can be asked for
            size = await backend.measure(opened) if backend.capabilities.measured else None
            changed = None not in (size, opened.size) and size != opened.size
    except NotFound:
        return target if await _is_listed(backend, opened) else replace(target, replaces=None)
    if changed:
        raise Conflict(
            f"Somebody else has saved “{node.name}” since you opened it. Theirs is on the server;"
            " yours is in the outbox: labfs outbox list."
        )
    return target


async def _is_listed(backend: Backend, entry: Entry) -> bool:
    """Whether a file is there, though perhaps without its bytes; one that was removed makes ours a new one."""
    try:
        await backend.stat(entry.id)
    except NotFound:
        return False
    return True
