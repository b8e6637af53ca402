"""What a file system means: names, open files, the life of a save, and the outbox, for whatever door asks.

A door needs what is exported here: it sets a core up with `assembled`, asks `Vfs` by node and `Files` by handle, and
tells with a `Maker` which program asks, where that is known.
"""

from labfs.backend import Buffer
from labfs.vfs.assembly import Storage, assembled
from labfs.vfs.drafts.signs import NOBODY, Maker
from labfs.vfs.files import Files, Handle
from labfs.vfs.outbox.pending import LEFT
from labfs.vfs.policy import why_read_only
from labfs.vfs.polling import Change
from labfs.vfs.vfs import Attributes, Vfs

__all__ = [
    "LEFT",
    "NOBODY",
    "Attributes",
    "Buffer",
    "Change",
    "Files",
    "Handle",
    "Maker",
    "Storage",
    "Vfs",
    "assembled",
    "why_read_only",
]
