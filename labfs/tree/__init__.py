"""Path → node: listings, the names and sizes in them, and their caches on disk."""
