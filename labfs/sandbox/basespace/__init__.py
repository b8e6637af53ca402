"""BaseSpace Sequence Hub, as far as a client can see it.

service  routes, lists and single things    uploads  bodies and parts
shelf    rows and how they are shown         answers  envelopes and errors
seed     what a new one holds
"""

from labfs.sandbox.basespace.answers import error
from labfs.sandbox.basespace.seed import TOKEN, seed
from labfs.sandbox.basespace.service import BaseSpace

SERVICE = "basespace"

__all__ = ["SERVICE", "TOKEN", "BaseSpace", "error", "seed"]
