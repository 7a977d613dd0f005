"""The supervisor process: workers, trainer processes, cluster jobs, recovery, progress and follow-up runs.

What starts, watches, resumes and records runs belongs here, and the actions of run_sweep.py. Tensors do not, nor what
Optuna decides (`search`), nor the files of a study (`records`).
"""
