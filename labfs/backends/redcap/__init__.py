"""REDCap."""
