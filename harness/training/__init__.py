"""The trainer process: one trial, several trials in one pass, and what they train on. No Optuna, no MLflow."""
