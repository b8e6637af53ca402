"""What a mount stores for the next, in SQLite and JSON: sizes, dates, the order of equal names, the last listings."""
