"""The command line: the commands, those of the outbox, and the tour."""
