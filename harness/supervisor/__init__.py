"""The process that knows studies: it asks Optuna, hands configurations to a trainer, and keeps the records."""
