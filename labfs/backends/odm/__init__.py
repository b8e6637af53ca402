"""Genestack Open Data Manager."""
