"""Mirror the records of a study in MLflow while a sweep runs.

The records are authoritative. MLflow may fail, fall behind or be deleted; `MLflowMirror.catch_up` then brings it in
line with them again.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable, Container, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from harness.records.files import link_files
from harness.records.mlflow_database import (  # before mlflow: sets its environment
    create_tables,
    database_lock,
    database_path,
    make_artifact_location_relative,
)
from harness.records.study_folder import Run, StudyFolder, is_searched
from harness.spec.result import Record, Rung

# isort: split
import mlflow.entities
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "fail": "FAILED"}
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

Parameters = ParamSpec("Parameters")


def _never_raises(
    call: Callable[Concatenate["MLflowMirror", Parameters], None],
) -> Callable[Concatenate["MLflowMirror", Parameters], None]:
    """Decorate a method so that an exception sets `behind` instead of being raised."""

    @wraps(call)
    def guarded(self: "MLflowMirror", /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            call(self, *args, **kwargs)
        except Exception as error:  # no MLflow error may cost a trial
            if not self.behind:
                print(f"MLflow is behind ({error}); the records are complete and it will catch up", file=sys.stderr)
            self.behind = True
            self._logged_steps.clear()
            self.ended.clear()

    return guarded


class MLflowMirror:
    """Mirror of one study in results/<study>/mlflow.db, or on a tracking server.

    The study is a parent run; each record is a child run, identified by the tag `record`. Artifacts are hard links in
    results/<study>/artifacts to the records' files. Their location is stored relative to the study's folder, so that
    the folder can be moved; `make ui` starts the server there.

    No method raises: an exception is printed once and sets `behind`.

    | call | effect in MLflow |
    |---|---|
    | `begin` | opens a child run |
    | `rung` | logs the metrics of one rung |
    | `end` | completes a child run from its record |
    | `catch_up` | brings all child runs in line with the records |
    | `close` | ends the parent run |

    Attributes:
        behind: Whether a call failed since the last `catch_up`.
        ended: Keys of the runs that are known to agree with their records; empty after an error.
    """

    def __init__(self, folder: StudyFolder, study: str, uri: str | None = None) -> None:
        """Connect to the database in the study's folder, or to a tracking server.

        Args:
            folder: The study's folder.
            study: Its name, which is that of the MLflow experiment.
            uri: Address of a tracking server; None for the database in the folder.
        """
        self.folder, self.study, self.uri, self.behind = folder, study, uri, False
        self._runs: dict[str, str] = {}  # key of a record -> id of its run
        # What this process knows to be in MLflow, which saves queries; cleared after an error.
        self._logged_steps: dict[str, set[int]] = {}  # key of a run that this process began -> steps logged
        self.ended = set[str]()
        self._runs_at_connect: dict[str, mlflow.entities.Run] = {}  # saves the first `catch_up` a query
        self._connected = False
        self._try_to_connect()

    @_never_raises
    def _try_to_connect(self) -> None:
        self._connect()

    def _connect(self) -> None:
        database = database_path(self.folder)
        with database_lock(self.folder):
            if self.uri is None:
                create_tables(database)
            self._client = MlflowClient(tracking_uri=self.uri or f"sqlite:///{database}")
            experiment = self._client.get_experiment_by_name(self.study)
            self._experiment = experiment.experiment_id if experiment else self._create_experiment()
            if self.uri is None:
                make_artifact_location_relative(database, self._experiment)
        self._runs_at_connect = self._search_runs()
        self._runs = {record: run.info.run_id for record, run in self._runs_at_connect.items()}
        if "study" not in self._runs:
            self._create("study", {"mlflow.runName": self.study, "kind": "study"})
        self._parent = self._runs["study"]
        self._client.update_run(self._parent, status="RUNNING")
        self._connected = True

    def _search_runs(self, filter_string: str = "") -> dict[str, mlflow.entities.Run]:
        """Return the runs of the study by the key of their record."""
        runs = self._client.search_runs([self._experiment], filter_string=filter_string, max_results=50_000)
        return {run.data.tags.get("record", ""): run for run in runs}

    def _create_experiment(self) -> str:
        tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.sharedViewState.sweep": json.dumps(VIEW)}
        experiment: str = self._client.create_experiment(self.study, tags=tags)
        return experiment

    def _create(self, key: str, tags: dict[str, str]) -> str:
        run = self._client.create_run(self._experiment, tags={"record": key, "study": self.study, **tags})
        run_id: str = run.info.run_id
        self._runs[key] = run_id
        return run_id

    def _ensure_run(self, run: Run) -> str:
        """Return the id of a child run; create it if missing, and log its parameters, which a crash may have lost."""
        key = self.folder.key(run.folder)
        if key not in self._runs:
            self._create(key, {"mlflow.runName": run.name, "mlflow.parentRunId": self._parent, "kind": run.kind})
        params = [Param(k, _param_value(v)) for k, v in {**run.config.settings(), "seed": run.seed}.items()]
        self._client.log_batch(self._runs[key], params=params)
        return self._runs[key]

    @_never_raises
    def begin(self, run: Run) -> None:
        """Open the child run of a run that starts."""
        key = self.folder.key(run.folder)
        exists = key in self._runs
        self.ended.discard(key)
        run_id = self._ensure_run(run)
        if exists:
            self._client.update_run(run_id, status="RUNNING")
        else:  # a new run has the status RUNNING, and nothing is logged in it
            self._logged_steps[key] = set()

    @_never_raises
    def rung(self, run: Run, rung: Rung) -> None:
        """Log the metrics of one rung."""
        key = self.folder.key(run.folder)
        self._client.log_batch(self._runs.get(key) or self._ensure_run(run), metrics=_rung_metrics(rung))
        self._logged_steps.get(key, set()).add(rung.step)

    @_never_raises
    def end(self, run: Run, record: Record) -> None:
        """Complete a child run from its record: missing metrics, tags, artifacts, status."""
        key = self.folder.key(run.folder)
        logged_steps, run_id = self._logged_steps.pop(key, None), self._runs.get(key, "")
        logged: Container[str] = ()
        if logged_steps is None:
            run_id = self._ensure_run(run)
            logged_steps = {point.step for point in self._client.get_metric_history(run_id, "loss")}
            logged = self._client.get_run(run_id).data.metrics
        rungs = (rung for rung in record.rungs if rung.step not in logged_steps)
        metrics = [metric for rung in rungs for metric in _rung_metrics(rung)]
        if record.cost is not None:
            last_step = record.cost.steps
            numbers = {k: v for k, v in record.cost.model_dump().items() if isinstance(v, int | float)}
            metrics += [Metric(name, value, _now(), last_step) for name, value in numbers.items() if name not in logged]
        tags = [
            RunTag("state", record.state),
            RunTag("reason", record.reason or ""),
            RunTag("notes", "; ".join(record.notes)),
        ]
        self._client.log_batch(run_id, metrics=metrics, tags=tags)
        self._attach(run, run_id)
        self._client.set_terminated(run_id, status=STATUS[record.state])
        self.ended.add(key)

    def _attach(self, run: Run, run_id: str) -> None:
        """Attach a record's files; without the weights of searched trials, most of which are removed later."""
        skipped = ("checkpoint", "weights") if is_searched(run) else ("checkpoint",)
        files = [path for path in run.folder.rglob("*") if path.is_file()]
        files = [path for path in files if path.relative_to(run.folder).parts[0] not in skipped]
        if self.uri is None:
            link_files(files, run.folder, self._artifacts(run_id))
            return
        for path in files:
            subfolder = path.relative_to(run.folder).parent.as_posix()
            self._client.log_artifact(run_id, str(path), None if subfolder == "." else subfolder)

    def _artifacts(self, run_id: str) -> Path:
        return self.folder.path / "artifacts" / run_id / "artifacts"

    @_never_raises
    def catch_up(self, records: Iterable[tuple[Path, Record]]) -> None:
        """Bring every child run in line with its record, and terminate running ones that have none.

        Args:
            records: Folder and record of the finished runs of the study; those whose key is in `ended` may be left out.
        """
        if not self._connected:
            self._connect()
        self.behind = False
        # Searching takes seconds with thousands of runs. Once the rest agrees, it is enough to look for runs that are
        # still marked as running; ending a run again, because it is not among those, changes nothing.
        runs = self._runs_at_connect
        runs = runs or self._search_runs("attributes.status = 'RUNNING'" if self.ended else "")
        self._runs_at_connect = {}
        recorded = {self.folder.key(folder): (folder, record) for folder, record in records}
        for key, (folder, record) in recorded.items():
            if key not in runs or runs[key].info.status != STATUS[record.state]:
                self.end(Run.of(folder, record), record)
            if self.behind:
                return
            self.ended.add(key)
        for key, run in runs.items():
            if key != "study" and key not in recorded and key not in self.ended and run.info.status == "RUNNING":
                self._client.set_terminated(run.info.run_id, status="KILLED")

    @_never_raises
    def close(self, best: Record | None) -> None:
        """End the parent run, with the error rate and weights of the best trial."""
        if best is not None and best.scores is not None:
            self._client.log_batch(self._parent, metrics=[Metric("best_wer", best.scores.wer, _now(), 0)])
            self._client.set_tag(self._parent, "best", best.name)
            self._attach_weights(self.folder.trial(best.number or 0))
        self._client.set_terminated(self._parent, status="FINISHED")

    def _attach_weights(self, best: Path) -> None:
        """Attach the best trial's weights only: links to other weights would keep deleted ones on the disk."""
        if self.uri is not None:
            return
        for key, run_id in self._runs.items():
            if key.startswith("trials/"):
                shutil.rmtree(self._artifacts(run_id) / "weights", ignore_errors=True)
        files = [path for path in (best / "weights").rglob("*") if path.is_file()]
        link_files(files, best, self._artifacts(self._runs[self.folder.key(best)]))


def _rung_metrics(rung: Rung) -> list[Metric]:
    """Return the scores and losses of a rung that are not missing."""
    values: dict[str, Any] = {
        "wer": rung.scores and rung.scores.wer,
        "wer_raw": rung.scores and rung.scores.wer_raw,
        "cer": rung.scores and rung.scores.cer,
        "loss": rung.loss,
        "train_loss": rung.train_loss,
    }
    return [Metric(name, value, _now(), rung.step) for name, value in values.items() if value is not None]


def _now() -> int:
    return round(1000 * time.time())  # MLflow stores milliseconds


def _param_value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
