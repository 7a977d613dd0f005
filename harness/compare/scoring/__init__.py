"""Transcripts of the test split, and their error counts per utterance."""
