"""The upload of one file to a server: the bytes that were written, the journal beside them, and the transfer.

README.md describes the life of a save, WINDOWS.md what a crash leaves of a save.
"""
