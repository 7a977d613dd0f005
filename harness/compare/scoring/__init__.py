"""The systems of a comparison, their transcripts of the test set, and error counts per utterance.

Decoding, reading, aligning and counting belong here, and each rate of one system alone (`rates`). What compares two
systems is in `compare.statistics`.
"""
