"""MLflow as a mirror of the records: it may fail, fall behind or be deleted, and catches up."""

import json
import os
import re
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # else a dead server blocks each call for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


import mlflow.entities
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from harness.records.study_folder import Run, StudyFolder, is_searched
from harness.spec.result import Record, Rung

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "fail": "FAILED"}
# What the run table shows when it is opened by the address that `make ui` prints: MLflow's own format of a shared view.
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

Method = ParamSpec("Method")


def _never_stops_training(
    call: Callable[Concatenate["MLflowMirror", Method], None],
) -> Callable[Concatenate["MLflowMirror", Method], None]:
    @wraps(call)
    def guarded(self: "MLflowMirror", /, *arguments: Method.args, **named: Method.kwargs) -> None:
        try:
            call(self, *arguments, **named)
        except Exception as error:  # a mirror's trouble, whatever it is, must not cost a trial
            if not self.behind:
                print(f"MLflow is behind ({error}); the records are safe, and it will catch up", file=sys.stderr)
            self.behind = True
            self._rungs.clear()
            self.ended.clear()

    return guarded


class MLflowMirror:
    """A study in results/<study>/mlflow.db: a parent run, and a child for each record, found by the tag `record`.

    Artifacts lie in results/<study>/artifacts as hard links to the records' files. Their location is stored
    relative to the study's folder, so that it can be moved; `make ui` starts the server there.
    """

    def __init__(self, folder: StudyFolder, study: str, uri: str | None = None) -> None:
        """Open the database in the study's folder, or a tracking server at `uri`; trouble leaves it `behind`."""
        self.folder, self.study, self.uri, self.behind = folder, study, uri, False
        self._runs: dict[str, str] = {}
        # What this process knows to be in MLflow, so that it need not ask: nothing after trouble.
        self._rungs: dict[str, set[int]] = {}  # of a run that it began: the steps logged
        self.ended = set[str]()  # runs that agree with their records
        self._found: dict[str, mlflow.entities.Run] = {}  # when it connected, for who comes first
        self._connected = False
        self._try_to_connect()

    @_never_stops_training
    def _try_to_connect(self) -> None:
        self._connect()

    def _connect(self) -> None:
        database = self.folder.path / "mlflow.db"
        with FileLock(self.folder.path / "databases.lock"):  # processes that open a fresh one together collide
            if self.uri is None and not database.exists():
                _make_whole(database)
            self._client = MlflowClient(tracking_uri=self.uri or f"sqlite:///{database}")
            experiment = self._client.get_experiment_by_name(self.study)
            self._experiment = experiment.experiment_id if experiment else self._create_experiment()
            if self.uri is None:
                _make_relative(database, self._experiment)
        self._found = self._search()
        self._runs = {record: run.info.run_id for record, run in self._found.items()}
        if "study" not in self._runs:
            self._create("study", {"mlflow.runName": self.study, "kind": "study"})
        self._parent = self._runs["study"]
        self._client.update_run(self._parent, status="RUNNING")
        self._connected = True

    def _search(self, which: str = "") -> dict[str, mlflow.entities.Run]:
        """Runs by their record."""
        runs = self._client.search_runs([self._experiment], filter_string=which, max_results=50_000)
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

    def _opened(self, run: Run) -> str:
        """The id of a child run, created where it is missing; a crash may have left it without parameters."""
        key = self.folder.key(run.folder)
        if key not in self._runs:
            self._create(key, {"mlflow.runName": run.name, "mlflow.parentRunId": self._parent, "kind": run.kind})
        params = [Param(k, _shown(v)) for k, v in {**run.config.settings(), "seed": run.seed}.items()]
        self._client.log_batch(self._runs[key], params=params)
        return self._runs[key]

    @_never_stops_training
    def begin(self, run: Run) -> None:
        """Open a child run."""
        key = self.folder.key(run.folder)
        known = key in self._runs
        self.ended.discard(key)
        run_id = self._opened(run)
        if known:
            self._client.update_run(run_id, status="RUNNING")
        else:  # a run begins as running, and nothing is logged in it
            self._rungs[key] = set()

    @_never_stops_training
    def rung(self, run: Run, rung: Rung) -> None:
        """Log one evaluation."""
        key = self.folder.key(run.folder)
        self._client.log_batch(self._runs.get(key) or self._opened(run), metrics=_rung_metrics(rung))
        self._rungs.get(key, set()).add(rung.step)

    @_never_stops_training
    def end(self, run: Run, record: Record) -> None:
        """Complete a child run from its record: metrics, tags, artifacts, status."""
        key = self.folder.key(run.folder)
        seen, run_id = self._rungs.pop(key, None), self._runs.get(key, "")
        logged: Container[str] = ()
        if seen is None:
            run_id = self._opened(run)
            seen = {point.step for point in self._client.get_metric_history(run_id, "loss")}
            logged = self._client.get_run(run_id).data.metrics
        metrics = [metric for rung in record.rungs if rung.step not in seen for metric in _rung_metrics(rung)]
        if record.cost is not None:
            last = record.cost.steps
            numbers = {k: v for k, v in record.cost.model_dump().items() if isinstance(v, int | float)}
            metrics += [Metric(name, value, _now(), last) for name, value in numbers.items() if name not in logged]
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
        """A record's files; of a search's trials not the weights, for those of most are removed again."""
        skipped = ("checkpoint", "weights") if is_searched(run) else ("checkpoint",)
        files = [path for path in run.folder.rglob("*") if path.is_file()]
        files = [path for path in files if path.relative_to(run.folder).parts[0] not in skipped]
        if self.uri is None:
            _link_files(files, run.folder, self._artifacts(run_id))
            return
        for path in files:
            place = path.relative_to(run.folder).parent.as_posix()
            self._client.log_artifact(run_id, str(path), None if place == "." else place)

    def _artifacts(self, run_id: str) -> Path:
        return self.folder.path / "artifacts" / run_id / "artifacts"

    @_never_stops_training
    def catch_up(self, records: Iterable[tuple[Path, Record]]) -> None:
        """Bring every child run in line with its record, and end those that have none; records in `ended` may lack."""
        if not self._connected:
            self._connect()
        self.behind = False
        # A search takes seconds for thousands of runs. What runs and should not is all that is looked for once the
        # rest agrees; a record that is not found is ended again, which changes nothing.
        runs, self._found = self._found or self._search("attributes.status = 'RUNNING'" if self.ended else ""), {}
        known = {self.folder.key(folder): (folder, record) for folder, record in records}
        for key, (folder, record) in known.items():
            if key not in runs or runs[key].info.status != STATUS[record.state]:
                self.end(Run.of(folder, record), record)
            if self.behind:
                return
            self.ended.add(key)
        for name, run in runs.items():
            if name != "study" and name not in known and name not in self.ended and run.info.status == "RUNNING":
                self._client.set_terminated(run.info.run_id, status="KILLED")

    @_never_stops_training
    def close(self, best: Record | None) -> None:
        """End the parent run."""
        if best is not None and best.scores is not None:
            self._client.log_batch(self._parent, metrics=[Metric("best_wer", best.scores.wer, _now(), 0)])
            self._client.set_tag(self._parent, "best", best.name)
            self._attach_weights(self.folder.trial(best.number or 0))
        self._client.set_terminated(self._parent, status="FINISHED")

    def _attach_weights(self, best: Path) -> None:
        """The best trial's weights are at hand in MLflow, and only there: a link would keep others' on the disk."""
        if self.uri is not None:
            return
        for key, run_id in self._runs.items():
            if key.startswith("trials/"):
                shutil.rmtree(self._artifacts(run_id) / "weights", ignore_errors=True)
        files = [path for path in (best / "weights").rglob("*") if path.is_file()]
        _link_files(files, best, self._artifacts(self._runs[self.folder.key(best)]))


def open_database(folder: StudyFolder) -> None:
    """Make a study's tables and load what reads them, seconds not to be waited for; of trouble `Mirror` will tell."""
    with suppress(Exception), FileLock(folder.path / "databases.lock"):
        database = folder.path / "mlflow.db"
        if not database.exists():
            _make_whole(database)
        MlflowClient(tracking_uri=f"sqlite:///{database}").search_experiments(max_results=1)


def _make_whole(database: Path) -> None:
    """Make MLflow's tables beside their place and move them there: half a migration can be neither used nor gone on.

    It takes seconds, in which a sweep may be killed.
    """
    making = database.with_suffix(".making")
    for left in database.parent.glob(f"{making.name}*"):
        left.unlink()
    MlflowClient(tracking_uri=f"sqlite:///{making}").search_experiments()
    os.replace(making, database)


def _make_relative(database: Path, experiment: str) -> None:
    """Store where artifacts lie relative to the study's folder; create_experiment makes it absolute."""
    with sqlite3.connect(database, timeout=60) as connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = 'artifacts' WHERE experiment_id = ?", (experiment,)
        )
    connection.close()


def log_comparison(folder: StudyFolder, comparison: Path, metrics: dict[str, float]) -> None:
    """Link a comparison's files into the study's parent run, and log each system's rate there.

    The counts that comparisons are made from stay out. Trouble with MLflow is said, and costs nothing else.
    """
    try:
        client = MlflowClient(tracking_uri=f"sqlite:///{folder.path / 'mlflow.db'}")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        parents = client.search_runs(experiments, filter_string="tags.record = 'study'", max_results=1)
        if not parents:
            return
        run = parents[0].info.run_id
        allowed = re.compile(r"[^\w\-. :/]", re.ASCII)
        client.log_batch(run, metrics=[Metric(allowed.sub("_", name), value, 0, 0) for name, value in metrics.items()])
        files = (path for path in comparison.rglob("*") if path.is_file() and "counts" not in path.parts)
        _link_files(files, comparison, folder.path / "artifacts" / run / "artifacts" / "comparison")
    except Exception as error:  # a mirror's trouble, whatever it is, must not cost a comparison
        print(f"MLflow could not take the comparison ({error}); its files are safe", file=sys.stderr)


def _link_files(files: Iterable[Path], base: Path, target: Path) -> None:
    """Hard links, or copies where the file system has none."""
    for source in sorted(files):
        link = target / source.relative_to(base)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        try:
            os.link(source, link)
        except OSError:
            link.write_bytes(source.read_bytes())


def _rung_metrics(rung: Rung) -> list[Metric]:
    values: dict[str, Any] = {
        "wer": rung.scores and rung.scores.wer,
        "wer_raw": rung.scores and rung.scores.wer_raw,
        "cer": rung.scores and rung.scores.cer,
        "loss": rung.loss,
        "train_loss": rung.train_loss,
    }
    return [Metric(name, value, _now(), rung.step) for name, value in values.items() if value is not None]


def _now() -> int:
    return round(1000 * time.time())  # MLflow counts milliseconds


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
