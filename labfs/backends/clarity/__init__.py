"""Illumina Clarity LIMS."""
