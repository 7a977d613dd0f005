"""Mirror the records of a study in MLflow while a sweep runs.

The records are authoritative. MLflow may fail, fall behind or be deleted; `MLflowMirror.catch_up` then brings it in
line with them again.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec

from harness.records.files import link_files, sqlite_url
from harness.records.mlflow_database import (  # before mlflow: sets its environment
    create_experiment,
    create_tables,
    database_lock,
    database_path,
    make_artifact_location_relative,
)
from harness.records.mlflow_values import (
    HASH,
    STATUS,
    cost_metrics,
    milliseconds,
    params,
    record_hash,
    rung_metrics,
    tags,
)
from harness.records.study_folder import Run, StudyFolder, is_searched
from harness.spec.result import Record, Rung

# isort: split
import mlflow.entities
from mlflow import MlflowClient
from mlflow.entities import Metric

Parameters = ParamSpec("Parameters")
METRICS_AT_ONCE = 500  # MLflow takes at most 1000


@dataclass(frozen=True)
class OpenRun:
    """A run that this process began and has not ended.

    Attributes:
        run: The run.
        started: When its attempt started, as the record will say.
        rungs: The rungs that were logged.
    """

    run: Run
    started: str
    rungs: list[Rung] = field(default_factory=list)


def _never_raises(
    call: Callable[Concatenate["MLflowMirror", Parameters], None],
) -> Callable[Concatenate["MLflowMirror", Parameters], None]:
    """Decorate a method so that an exception sets `behind` instead of being raised; while behind, it does nothing."""

    @wraps(call)
    def guarded(self: "MLflowMirror", /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        if self.behind:
            return
        try:
            call(self, *args, **kwargs)
        except Exception as error:  # no MLflow error may cost a trial
            if not self._said:
                print(f"MLflow is behind ({error}); the records are complete and it will catch up", file=sys.stderr)
            self.behind = self._said = True
            self._logged.clear()
            self.ended.clear()

    return guarded


class MLflowMirror:
    """Mirror of one study in results/<study>/mlflow.db, or on a tracking server.

    The study is a parent run; each record is a child run, identified by the tag `record`. MLflow can neither change a
    parameter nor remove a metric, so a child run is replaced by a new one for another attempt at the same run, and when
    it may hold values that are not the record's. Artifacts are hard links in results/<study>/artifacts to the records'
    files. Their location is stored relative to the study's folder, so that the folder can be moved; `make ui` starts
    the server there.

    No method raises: an exception is printed once and sets `behind`; until the next `catch_up`, calls are only noted.

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
        self.folder, self.study, self.uri, self.behind, self._said = folder, study, uri, False, False
        self._runs: dict[str, str] = {}  # key of a record -> id of its run
        self._open: dict[str, OpenRun] = {}  # what this process began and did not end, in MLflow or not
        self._logged: set[str] = set()  # keys of open runs of which MLflow holds what `_open` says, and no more
        self.ended = set[str]()
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
            self._client = MlflowClient(tracking_uri=self.uri or sqlite_url(database))
            experiment = self._client.get_experiment_by_name(self.study)
            self._experiment = experiment.experiment_id if experiment else create_experiment(self._client, self.study)
            if self.uri is None:
                make_artifact_location_relative(database, self._experiment)
        self._find_runs()
        self._client.update_run(self._parent, status="RUNNING")
        self._connected = True

    def _find_runs(self) -> dict[str, mlflow.entities.Run]:
        """Return the runs of all records by key; of two runs of a record, which a lost answer leaves, delete one."""
        found: dict[str, mlflow.entities.Run] = {}
        for run in reversed(self._client.search_runs([self._experiment], max_results=50_000)):  # the oldest first
            key = run.data.tags.get("record")
            if key in found:
                self._delete(run.info.run_id)
            elif key is not None:
                found[key] = run
        self._runs = {key: run.info.run_id for key, run in found.items()}
        if "study" not in self._runs:
            self._create("study", {"mlflow.runName": self.study, "kind": "study"}, _now())
        self._parent = self._runs["study"]
        return found

    def _create(self, key: str, tags: dict[str, str], time: int) -> None:
        run = self._client.create_run(self._experiment, time, tags={"record": key, "study": self.study, **tags})
        self._runs[key] = run.info.run_id

    def _delete(self, run_id: str) -> None:
        self._client.delete_run(run_id)
        if self.uri is None:
            shutil.rmtree(self._artifacts(run_id).parent, ignore_errors=True)

    def _begin_anew(self, run: Run, started: str) -> None:
        """Create the child run of an attempt, in place of that of an earlier one."""
        key = self.folder.key(run.folder)
        self.ended.discard(key)
        if key in self._runs:
            self._delete(self._runs.pop(key))
        tags = {"mlflow.runName": run.name, "mlflow.parentRunId": self._parent, "kind": run.kind}
        self._create(key, tags, milliseconds(started))
        self._client.log_batch(self._runs[key], params=params(run))

    def begin(self, run: Run, started: str) -> None:
        """Open the child run of an attempt that starts; `started` is what the record will say."""
        key = self.folder.key(run.folder)
        self._open[key] = OpenRun(run, started)
        self._logged.discard(key)
        self._log_open(key)

    @_never_raises
    def _log_open(self, key: str) -> None:
        opened = self._open[key]
        opened.rungs.clear()
        self._begin_anew(opened.run, opened.started)
        self._logged.add(key)

    @_never_raises
    def rung(self, run: Run, rung: Rung) -> None:
        """Log the metrics of one rung."""
        key = self.folder.key(run.folder)
        if key in self._logged:
            self._client.log_batch(self._runs[key], metrics=rung_metrics(rung, self._open[key].started))
            self._open[key].rungs.append(rung)

    def end(self, run: Run, record: Record) -> None:
        """Complete a child run from its record: missing metrics, tags, artifacts, status."""
        self._end(run, record)
        self._open.pop(self.folder.key(run.folder), None)

    @_never_raises
    def _end(self, run: Run, record: Record) -> None:
        key = self.folder.key(run.folder)
        opened = self._open.get(key) if key in self._logged else None
        self._logged.discard(key)
        known = opened.rungs if opened else []
        same = opened and (opened.run.config, opened.run.seed, opened.started) == (run.config, run.seed, record.started)
        if not same or any(rung not in record.rungs for rung in known):
            self._begin_anew(run, record.started)
            known = []
        missing = [rung for rung in record.rungs if rung not in known]
        metrics = [metric for rung in missing for metric in rung_metrics(rung, record.started)] + cost_metrics(record)
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(self._runs[key], metrics=metrics[start : start + METRICS_AT_ONCE])
        self._client.log_batch(self._runs[key], tags=tags(record))
        self._attach(run, self._runs[key])
        self._client.set_terminated(self._runs[key], STATUS[record.state], milliseconds(record.ended))
        self._client.set_tag(self._runs[key], HASH, record_hash(record))
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

    def catch_up(self, records: Iterable[tuple[Path, Record]], over: bool = False) -> None:
        """Bring every child run in line with its record, and terminate running ones that have none.

        Args:
            records: Folder and record of the finished runs of the study; those whose key is in `ended` may be left out.
            over: Whether no run is under way any more; one that was begun and has not ended was given up.
        """
        self.behind = False
        if over and self._open:
            self._open.clear()
            self._logged.clear()
            self.ended.clear()
        self._catch_up(records)

    @_never_raises
    def _catch_up(self, records: Iterable[tuple[Path, Record]]) -> None:
        if not self._connected:
            self._connect()
        # Searching takes seconds with thousands of runs. It is not needed once the rest agrees.
        found = {} if self.ended else self._find_runs()
        for folder, record in records:
            key = self.folder.key(folder)
            run = found.get(key)
            if key in self._open or key in self.ended:
                continue
            if run is None or run.data.tags.get(HASH) != record_hash(record):
                self._end(Run.of(folder, record), record)
            if self.behind:
                return
            self.ended.add(key)
        for key in self._open.keys() - self._logged:
            self._log_open(key)
        for key, run in found.items():
            if run.info.status == "RUNNING" and key not in {"study", *self._open, *self.ended}:
                self._client.set_terminated(run.info.run_id, status="KILLED")
        self._said = self.behind

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


def _now() -> int:
    return round(1000 * time.time())  # MLflow stores milliseconds
