"""Compare systems on the same test set: transcripts, error counts, statistics, the leaderboard and the report.

What happens after a sweep with its results, and with transcripts of other systems, belongs here. It imports no tensor
library: test is decoded by a trainer process. How a trial is evaluated on validation is in `evaluation` and `training`.
"""
