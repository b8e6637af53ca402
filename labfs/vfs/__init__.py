"""What a file system means: names, open files, the life of a save, and the outbox, for whatever door asks."""
