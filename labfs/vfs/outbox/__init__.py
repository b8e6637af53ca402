"""Saves that did not reach their server: what waits, what is sent again, and what a person still has to decide."""
