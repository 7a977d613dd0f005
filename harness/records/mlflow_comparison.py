"""Log the results of a comparison to the MLflow run of its study."""

import re
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from harness.records.files import link_files
from harness.records.mlflow_database import database_client, database_path  # before mlflow: sets its environment
from harness.records.study_folder import StudyFolder

# isort: split
from mlflow import MlflowClient
from mlflow.entities import Metric


def log_comparison(folder: StudyFolder, comparison: Path, metrics: dict[str, float], uri: str | None = None) -> None:
    """Attach a comparison's files to the study's parent run, and log one metric for each system.

    The error counts that comparisons are computed from are not attached. An MLflow error is printed and has no other
    effect.

    Args:
        folder: The study.
        comparison: The folder that compare.py wrote.
        metrics: Error rate of each system.
        uri: Address of the tracking server that holds the study; None for the database in the study's folder.
    """
    try:
        client = MlflowClient(tracking_uri=uri) if uri else database_client(database_path(folder))
        run = _parent_run(client, folder.path.name)
        if run is None:
            if uri:
                print(f"MLflow at {uri} has no study {folder.path.name!r}; nothing is logged there", file=sys.stderr)
            return
        now = round(1000 * time.time())  # MLflow shows the value with the greatest step, then time
        names = metric_names(metrics)
        client.log_batch(run, metrics=[Metric(names[name], value, now, 0) for name, value in metrics.items()])
        files = [path for path in (*comparison.iterdir(), *comparison.glob("figures/*")) if path.is_file()]
        inside = comparison.is_relative_to(folder.comparison)  # else --output
        place = PurePosixPath("comparison", comparison.relative_to(folder.comparison) if inside else "")
        if uri is None:
            target = folder.path / "artifacts" / run / "artifacts" / place
            _remove_files(target)
            link_files(files, comparison, target)
            return
        for path in files:
            client.log_artifact(run, str(path), str(place / path.parent.relative_to(comparison).as_posix()))
    except Exception as error:  # no MLflow error may cost a comparison
        print(f"MLflow could not log the comparison ({error}); its files are complete", file=sys.stderr)


def _parent_run(client: MlflowClient, study: str) -> str | None:
    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        return None
    runs = client.search_runs([experiment.experiment_id], filter_string="tags.record = 'study'", max_results=1)
    return runs[0].info.run_id if runs else None


def metric_names(names: Iterable[str]) -> dict[str, str]:
    """Return a name of MLflow's for each metric: forbidden characters become underscores, equals get a number."""
    found: dict[str, str] = {}
    for name in names:
        allowed = re.sub(r"[^\w\-. :/]|(?<=/)/|/$", "_", name)
        number, given = 1, allowed
        while given in found.values():
            number += 1
            given = f"{allowed}_{number}"
        found[name] = given
    return found


def _remove_files(target: Path) -> None:
    """Remove the files of an earlier comparison, but not the folders of other splits and metrics."""
    shutil.rmtree(target / "figures", ignore_errors=True)
    for path in target.glob("*"):
        if path.is_file():
            path.unlink()
