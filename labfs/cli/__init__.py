"""What is typed: the commands, the outbox of what could not be saved, and the tour."""
