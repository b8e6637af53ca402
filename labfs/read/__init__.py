"""One file being read: blocks in memory, whole copies on disk, and the proof that both are what the server has."""
