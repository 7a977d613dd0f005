"""Carry out a sweep: workers, trainer processes, clusters, recovery, progress and follow-up runs. No tensors."""
