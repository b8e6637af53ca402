"""BaseSpace Sequence Hub, as far as a client can see it.

service  routes, lists and single things    uploads  bodies and parts
shelf    rows and how they are shown         answers  envelopes and errors
seed     what a new one holds
"""

from labfs.sandbox.basespace.service import BaseSpace

__all__ = ["BaseSpace"]
