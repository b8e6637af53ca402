"""Clarity LIMS, REST API v2, as far as a client of its files can see it.

service  routes and who may ask      files  attaching, sending and fetching bytes
lists    filters and pages           shown  rows as XML
shelf    rows, and how they are made wire   XML, errors, and how a body is read
seed     what a new one holds        seeder the plain things it is made of
others   lists that hold no files
"""

from labfs.sandbox.clarity.service import Clarity

__all__ = ["Clarity"]
