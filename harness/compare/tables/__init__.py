"""The rows and columns of the leaderboard, and its formats: terminal, CSV, Markdown, LaTeX, JSON.

A new column, preset or format belongs here. HTML pages and figures are in `compare.report`; the values are computed in
`compare.scoring` and `compare.statistics`.
"""
