"""ALSF Resources Portal."""
