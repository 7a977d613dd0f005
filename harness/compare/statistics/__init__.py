"""Confidence intervals, significance tests, groups of utterances, and curves of the search.

What says how sure a figure or a difference is belongs here. Counting errors does not (`compare.scoring`), nor how a
figure is shown (`compare.tables`, `compare.report`).
"""
