"""The trainer process: it holds the model and the data, and trains one trial, or several packed ones.

The training loop, checkpoints, evaluation at a rung and the cost of a trial belong here. Optuna and MLflow do not: the
supervisor process decides which configuration is tried, and whether it is pruned.
"""
