"""The connection to a server: directly or through a proxy, trusted certificates, and connections that may be dead."""
