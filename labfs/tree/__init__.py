"""Path → node: listings, the names and sizes in them, and what is remembered of both."""
