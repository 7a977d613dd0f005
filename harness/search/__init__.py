"""The Optuna study: samplers, pruners, constraints, warm start, baseline tuning, storage and heartbeats.

What is asked of Optuna or told to it belongs here. Trainer processes, files of runs and tensors do not; the GP sampler,
which needs torch, runs in a process of its own (`gp_process`).
"""
