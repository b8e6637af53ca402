"""REDCap, as far as a client of its API can see it: one address, and the form says what is wanted.

service  who asks, and for what       answers   forms, formats and errors
shelf    tables, switches, the log    design    what a project is made of
records  rows out                     entry     rows in
files    file fields                  repository  the folders of a project
logic    filters over rows            seed      what a new one holds
"""

from labfs.sandbox.redcap.service import Redcap

__all__ = ["Redcap"]
