"""Frozen, validated types: what a study is, what a trial is, and what the two processes say to each other."""
