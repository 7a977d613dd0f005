"""Decode speech and score it: greedy decoding, long recordings, text normalizers, error rates.

What turns audio into a transcript, and transcripts into `Scores`, belongs here. Intervals, significance tests and the
rates of the leaderboard are in `compare`.
"""
