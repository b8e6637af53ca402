"""One file being read: blocks in memory, whole copies on disk, and the check of both against the server's checksum."""
