"""One mount being served: its sites as configured, its state on this machine, and the socket for commands."""
