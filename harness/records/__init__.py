"""Run folders on disk, which are the truth, and their MLflow mirror."""
