"""The Optuna study: samplers, pruners, constraints, warm start, baseline tuning. No tensors."""
