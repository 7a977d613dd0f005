"""The HTML report: figures, captions, examples and the reproducibility checklist.

What a reader sees beside the tables belongs here, with its templates. It computes no rates and no tests.
"""
