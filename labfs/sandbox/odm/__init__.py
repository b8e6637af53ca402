"""Open Data Manager: studies and the files attached to them, as far as a client can see it.

service    routes, and who may take them      jobs       imports as jobs: made, polled, finished
shelf      objects and how they are shown     uploads    the form that carries a file
downloads  bytes of a file, whole or a range  filters    the filter and query language
answers    envelopes, errors, parameters      contents   the inner tree of archives and HDF5 files
groups     samples, libraries and links       seed       what a new one holds
signin     the older door of the scripts
"""

from labfs.sandbox.odm.service import Odm

__all__ = ["Odm"]
