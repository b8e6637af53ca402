"""What there is to say about a directory that is not known whole, or not as it is now."""

from __future__ import annotations

import time

from labfs.errors import LabfsError, NotYet, Unavailable
from labfs.tree.listing import Known, unfinished
from labfs.tree.node import Node


def is_whole(container: Node) -> bool:
    """Whether this mount has listed a directory to its end, perhaps a while ago."""
    return container.known is Known.WHOLE


def unknown(container: Node) -> LabfsError:
    """Return why nobody can say now what else is in a directory."""
    if container.doubt is not None:
        return Unavailable(container.doubt)
    return NotYet(unfinished(container.path, container.listing))


def remark(container: Node) -> str | None:
    """Say in which way a directory is not known as it is now."""
    if container.known is Known.PART or (container.known is Known.NOTHING and container.listing is not None):
        return unfinished(container.path, container.listing)
    if container.known is Known.KEPT:
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(container.kept_s))
        why = f": {container.doubt}" if container.doubt else "; it is being listed anew."
        return f"{container.path} is shown as it was listed on {date}{why}"
    return None
