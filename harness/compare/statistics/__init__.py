"""Intervals, significance tests, and what the trials tell of the search."""
