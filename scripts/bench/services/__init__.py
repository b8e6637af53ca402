"""Processes beside the bench: what is read from and written to, the way there, and the bound of uploads."""
