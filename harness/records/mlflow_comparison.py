"""Log the results of a comparison to the MLflow run of its study."""

import re
import sys
from pathlib import Path

from harness.records.files import link_files
from harness.records.mlflow_database import database_client, database_path  # before mlflow: sets its environment
from harness.records.study_folder import StudyFolder

# isort: split
from mlflow.entities import Metric


def log_comparison(folder: StudyFolder, comparison: Path, metrics: dict[str, float]) -> None:
    """Link a comparison's files into the study's parent run, and log one metric for each system.

    The error counts that comparisons are computed from are not linked. An MLflow error is printed and has no other
    effect.

    Args:
        folder: The study; nothing is logged if MLflow does not have it.
        comparison: The folder that compare.py wrote.
        metrics: Error rate of each system; characters that MLflow does not allow in a name become underscores.
    """
    try:
        client = database_client(database_path(folder))
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        parents = client.search_runs(experiments, filter_string="tags.record = 'study'", max_results=1)
        if not parents:
            return
        run = parents[0].info.run_id
        forbidden = re.compile(r"[^\w\-. :/]", re.ASCII)
        metric_values = [Metric(forbidden.sub("_", name), value, 0, 0) for name, value in metrics.items()]
        client.log_batch(run, metrics=metric_values)
        files = [path for path in (*comparison.iterdir(), *comparison.glob("figures/*")) if path.is_file()]
        target = folder.path / "artifacts" / run / "artifacts" / "comparison"
        inside = comparison.is_relative_to(folder.comparison)  # else --output
        link_files(files, comparison, target / comparison.relative_to(folder.comparison) if inside else target)
    except Exception as error:  # no MLflow error may cost a comparison
        print(f"MLflow could not log the comparison ({error}); its files are complete", file=sys.stderr)
