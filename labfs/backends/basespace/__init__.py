"""Illumina BaseSpace Sequence Hub."""
