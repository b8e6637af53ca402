"""The ALSF Resources Portal, as far as a client can see it.

service  routes, who asks, methods       attachments  uploads, changes, copies, local downloads
tree     users, teams, materials         forms        how forms are read and checked
views    rows as JSON                    bucket       presigned addresses, as S3 signs and serves them
shelf    rows and switches               answers      pages, errors, formats
seed     what a new one holds             proxy        what stands between the program and its clients
"""

from labfs.sandbox.portal.service import Portal

__all__ = ["Portal"]
