"""BaseSpace Sequence Hub, as far as a client can see it.

service  routes, and single things           lists     pages, orders and filters
shelf    rows, and how they are made         shown     … and how they are shown
ids      in which order ids are given        uploads   bodies and parts
seed     what a new one holds                answers   envelopes, errors and requests
switches what the sources leave open
"""

from labfs.sandbox.basespace.service import BaseSpace

__all__ = ["BaseSpace"]
