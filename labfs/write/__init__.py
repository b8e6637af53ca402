"""One file on its way to a server: the bytes that were written, the journal beside them, and the upload.

README.md tells the life of a save, WINDOWS.md what a crash leaves of it.
"""
