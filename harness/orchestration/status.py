"""Progress of a study, read from its storage and records, whether it runs here, elsewhere, or not at all."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.errors import UserError
from harness.orchestration.time_accounting import time_spent, time_table
from harness.records.study_folder import StudyFolder
from harness.search.heartbeat import GRACE_SECONDS
from harness.search.storage import Database
from harness.search.study import N_TRIALS, retried
from harness.spec.result import Record

WORDS = {TrialState.RUNNING: "running", TrialState.WAITING: "waiting", TrialState.COMPLETE: "complete",
         TrialState.PRUNED: "pruned", TrialState.FAIL: "fail"}  # fmt: skip


def print_status(folder: StudyFolder, address: str | None, console: Console) -> None:
    """Print the tables.

    Raises:
        UserError: if the study is not in the storage.
    """
    name = folder.path.name
    if address is None and not (folder.path / "optuna.db").is_file():
        raise UserError(
            f"study {name!r} has no trials in {folder.path}; if it uses a database server, pass --storage URL"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    database = Database(folder.path, address)
    try:
        study = optuna.load_study(study_name=name, storage=database.storage)
    except KeyError:
        raise UserError(f"study {name!r} is not in this storage; pass another one with --storage URL") from None
    trials, records = study.get_trials(deepcopy=False), list(folder.records())
    again = retried(trials)
    used = sum(trial.state.is_finished() and trial.number not in again for trial in trials)
    n_trials = study.user_attrs.get(N_TRIALS)
    best = min(
        ((t.value, t.number) for t in trials if t.state == TrialState.COMPLETE and t.value is not None), default=None
    )
    console.print(f"study {name}: {used} of {n_trials or '?'} trials", style="bold", highlight=False)
    console.print(f"  best: trial {best[1]}, {best[0]:.1%}" if best else "  no completed trial yet", highlight=False)
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    console.print(_states(trials, again))
    if running:
        console.print(_running(running, database.heartbeat_ages()))
    if (others := _others(folder, records)).row_count:
        console.print(others)
    _print_time([record for _, record in records], n_trials - used if n_trials else 0, len(running), console)
    if spent := time_spent(folder):
        console.print(_spent(spent))


def _states(trials: Sequence[FrozenTrial], again: set[int]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("state", no_wrap=True)
    table.add_column("trials", justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    reasons = Counter(
        (list(WORDS).index(t.state), "retried" if t.number in again else "", str(t.user_attrs.get("reason", "")))
        for t in trials
    )
    for (state, note, reason), count in sorted(reasons.items()):
        said = "; ".join(part for part in (reason, note) if part)
        table.add_row(list(WORDS.values())[state], str(count), escape(said))
    return table


def _running(trials: Sequence[FrozenTrial], beats: dict[int, float]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("running", "rungs", "metric", "age", "heartbeat"):
        table.add_column(title, justify="left" if title == "running" else "right", no_wrap=True)
    table.add_column("worker", overflow="fold")
    for trial in trials:
        values = list(trial.intermediate_values.values())
        age = (datetime.now() - trial.datetime_start).total_seconds() if trial.datetime_start else None
        beat = beats.get(trial._trial_id)
        sign = "none" if beat is None else f"{_time(beat)} ago"
        if beat is None or beat > GRACE_SECONDS:
            sign += " (lost?)"
        so_far = f"{values[-1]:.3f}" if values else "-"
        worker = escape(str(trial.user_attrs.get("worker", "")))
        table.add_row(f"trial {trial.number}", str(len(values)), so_far, _time(age), sign, worker)
    return table


def _others(folder: StudyFolder, records: Sequence[tuple[Path, Record]]) -> Table:
    """Count the runs that are not trials: baselines and follow-up runs."""
    found = Counter[tuple[str, str]]((folder.key(path).split("/")[0], r.state) for path, r in records)
    for path in folder.path.glob("attempts/*/run.json"):
        with suppress(OSError, ValueError):  # it has just ended
            found[json.loads(path.read_text(encoding="utf-8"))["record"].split("/")[0], "running"] += 1
    table = Table(box=None, pad_edge=False)
    for title in ("other runs", "complete", "fail", "running"):
        table.add_column(title, justify="left" if title == "other runs" else "right", no_wrap=True)
    for kind in ("baselines", "tuning", "replicates", "fractions", "refit"):
        counts = [found[kind, state] for state in ("complete", "fail", "running")]
        if any(counts):
            table.add_row(kind, *(str(count or "") for count in counts))
    return table


def _print_time(records: Sequence[Record], left: int, workers: int, console: Console) -> None:
    """Print how long the remaining trials may take."""
    tried = [_seconds(r) for r in records if r.kind == "trial" and r.state != "fail"]
    if left and tried:
        ahead = left * sum(tried) / len(tried) / max(1, workers)
        trials_at_once = f"{workers} trials at a time" if workers > 1 else "1 trial at a time"
        console.print(f"time left: about {_time(ahead)} with {trials_at_once}", highlight=False)


def _spent(spent: dict[str, float]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("time", no_wrap=True)
    table.add_column(_time(spent["wall"]), justify="right", no_wrap=True)
    table.add_column("all trainers", overflow="fold")
    for row in time_table(spent):
        table.add_row(*row)
    return table


def _seconds(record: Record) -> float:
    began, ended = (datetime.fromisoformat(text) for text in (record.started, record.ended))
    return (ended - began).total_seconds()


def _time(seconds: float | None) -> str:
    """A duration as text: 45 s, 12 min, 3.5 h."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
