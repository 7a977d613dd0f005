"""The feature store: log-mel features and decoded audio, prepared once and memory-mapped."""
