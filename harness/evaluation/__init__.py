"""Decoding, long recordings, error rates and text normalizers."""
