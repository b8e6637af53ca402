"""What one mount tells the next, in SQLite and JSON: sizes, dates, the order of equal names, the last listings."""
