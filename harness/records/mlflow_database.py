"""Set up the MLflow database of a study, results/<study>/mlflow.db."""

import json
import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # else a dead server blocks each call for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow import MlflowClient

from harness.records.files import sqlite_url
from harness.records.study_folder import StudyFolder

# Columns of the run table at the address that `make ui` prints, in MLflow's format of a shared view.
COLUMNS = {
    "metrics": ("wer", "wer_raw", "cer", "loss", "train_seconds", "trainable_parameters"),
    "params": ("method", "r", "lora_alpha", "learning_rate", "target_modules"),
    "tags": ("state",),
}
VIEW = {
    "searchFilter": "tags.kind != 'study'",
    "orderByKey": "metrics.`wer`",
    "orderByAsc": True,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "selectedColumns": [f"{group}.`{name}`" for group, names in COLUMNS.items() for name in names],
}


def database_lock(folder: StudyFolder) -> FileLock:
    """Return the lock to hold while opening a new database: processes that create its tables together collide."""
    return FileLock(folder.path / "databases.lock")


def database_path(folder: StudyFolder) -> Path:
    """Return the path of a study's MLflow database."""
    return folder.path / "mlflow.db"


def database_client(path: Path) -> MlflowClient:
    """Return a client of the SQLite database at `path`."""
    return MlflowClient(tracking_uri=sqlite_url(path))


def open_database(folder: StudyFolder) -> None:
    """Create a study's tables if they are missing, and load the modules that read them.

    This takes seconds, so it runs ahead in a thread. Errors are ignored here: `MLflowMirror` reports them.
    """
    with suppress(Exception), database_lock(folder):
        create_tables(database_path(folder))
        database_client(database_path(folder)).search_experiments(max_results=1)


def create_tables(database: Path) -> None:
    """Create MLflow's tables if the database does not exist.

    They are created in another file, which then takes the database's name: this takes seconds, in which a sweep may be
    killed, and a half-finished migration can be neither used nor resumed.
    """
    if database.exists():
        return
    partial = database.with_suffix(".making")
    for leftover in database.parent.glob(f"{partial.name}*"):
        leftover.unlink()
    database_client(partial).search_experiments()
    os.replace(partial, database)


def create_experiment(client: MlflowClient, study: str) -> str:
    """Create the experiment of a study, with a view of its run table; returns its id."""
    tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.sharedViewState.sweep": json.dumps(VIEW)}
    experiment: str = client.create_experiment(study, tags=tags)
    return experiment


def make_artifact_location_relative(database: Path, experiment: str) -> None:
    """Store an experiment's artifact location relative to the study's folder; create_experiment makes it absolute."""
    with sqlite3.connect(database, timeout=60) as connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = 'artifacts' WHERE experiment_id = ?", (experiment,)
        )
    connection.close()
