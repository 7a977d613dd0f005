"""The feature store: log-mel features and decoded audio, prepared once and memory-mapped.

Building, checking and opening an entry of the cache belong here, and the data report. Encoder states do not: they
depend on the model, and `model.encoder_cache` keeps them.
"""
