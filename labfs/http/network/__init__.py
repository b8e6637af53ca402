"""The way to a server: directly or through a proxy, whom to trust, and connections that may be dead."""
