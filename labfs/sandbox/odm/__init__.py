"""Open Data Manager: studies and the files attached to them, as far as a client can see it.

service    routes, and who may take them      uploads    the form that carries a file
shelf      objects and how they are shown     filters    the filter and query language
answers    envelopes, errors, parameters      contents   the inner tree of archives and HDF5 files
routes/    what is done on request            seed       what a new one holds
"""

from labfs.sandbox.odm.service import Odm

__all__ = ["Odm"]
