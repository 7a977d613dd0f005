"""The progress of a sweep: a live table in a terminal, plain lines elsewhere."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from harness.plan import Plan
from harness.records.study_folder import Run
from harness.spec.messages import Ready
from harness.spec.result import Record, Rung
from harness.spec.trial import TrialConfig

SHORT = {
    "method": "",
    "learning_rate": "lr",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "",
    "per_device_train_batch_size": "batch",
    "gradient_accumulation_steps": "accumulate",
    "weight_decay": "decay",
    "warmup_steps": "warm-up",
    "warmup_ratio": "warm-up",
}


def settings(config: TrialConfig, names: list[str] | None = None) -> str:
    """A configuration in one short line: method lora r=16 alpha=32 q,v lr=0.003 ..."""
    parts = []
    for name, value in config.settings().items():
        if names is not None and name not in names:
            continue
        label = SHORT.get(name, name)
        if isinstance(value, list):
            value = ",".join(item.removesuffix("_proj") for item in value)
        elif isinstance(value, float):
            value = f"{value:.3g}"
        parts.append(f"{label}={value}" if label else str(value))
    return " ".join(parts)


@dataclass
class Row:
    """One run in the table."""

    settings: str
    state: str
    wers: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)


def print_data(report: dict[str, Any], console: Console) -> None:
    """Print the data report: the size of each split by source, the excluded clips with reasons, and the notes."""
    held = Table("source", box=None, pad_edge=False)
    for split in report["splits"]:
        held.add_column(split, justify="right", no_wrap=True)
    rows = {**report["sources"], "all": report["splits"]} if len(report["sources"]) > 1 else report["sources"]
    for name, splits in rows.items():
        held.add_row(name, *(_held(splits.get(split)) for split in report["splits"]))
    console.print(held)
    speakers = ", ".join(f"{split['speakers']} in {name}" for name, split in report["splits"].items())
    console.print(f"speakers: {speakers}", highlight=False)
    if report["excluded"]:
        left = Table("excluded", box=None, pad_edge=False)
        left.add_column("clips", justify="right")
        left.add_column("example")
        for reason, count in report["excluded"].items():
            first = next(item for item in report["excluded_clips"] if item["reason"] == reason)
            detail = f" ({first['detail']})" if first["detail"] else ""
            left.add_row(escape(reason), str(count), escape(f"{first['id']}{detail}"))
        console.print(left)
    for note in report["notes"]:
        console.print(f"  {note}", highlight=False, markup=False)


def _held(split: dict[str, Any] | None) -> str:
    if split is None:
        return "-"
    return f"{split['utterances']:,} clips {split['seconds'] / 60:.1f} min"


class ProgressDisplay:
    """The progress display of run_sweep.py."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console = plan, console
        self._rows: dict[str, Row] = {}
        self._sampled = list(plan.space.sampled)
        self._live = (
            Live(console=console, auto_refresh=False, get_renderable=self._render) if console.is_terminal else None
        )
        self._durations: list[float] = []
        self._lock = threading.RLock()
        self.workers = 1

    def __enter__(self) -> "ProgressDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, highlight=False, markup=False)

    def preparing(self) -> None:
        """Report that the trainer loads the model and prepares the data."""
        self.say(f"loading {self._plan.model} and preparing {self._plan.task.name} …")

    def ready(self, ready: Ready) -> None:
        """Print the data report and the device."""
        print_data(ready.data, self._console)
        self.say(f"  device {ready.environment['device_name']}, {ready.environment['threads']} threads")

    def known(self, record: Record) -> None:
        """Show a run that was finished before this sweep."""
        wers = [rung.scores.wer for rung in record.rungs if rung.scores]
        with self._lock:
            self._rows[record.name] = Row(self._settings(record.name, record.config), record.state, wers)
            self._refresh()

    def begin(self, run: Run, started: str) -> None:
        """Show that a run starts; `started` is for other watchers."""
        with self._lock:
            self._rows[run.name] = Row(self._settings(run.name, run.config), "running")
            if not self._live:
                self.say(f"{run.name}: {self._rows[run.name].settings}")
            self._refresh()

    def rung(self, run: Run, rung: Rung) -> None:
        """Show the evaluation of a rung."""
        with self._lock:
            if rung.scores:
                self._rows[run.name].wers.append(rung.scores.wer)
            if not self._live:
                loss = "" if rung.train_loss is None else f", train loss {rung.train_loss:.3f}"
                result = f"WER {rung.scores.wer:.1%}" if rung.scores else f"loss {rung.loss:.3f}"
                self.say(f"  {self._whose(run)}step {rung.step} ({rung.examples} examples): {result}{loss}")
            self._refresh()

    def end(self, run: Run, record: Record) -> None:
        """Show that a run ended, and why."""
        with self._lock:
            row = self._rows[run.name]
            row.state = record.state
            if record.kind == "trial":
                self._durations.append(time.monotonic() - row.began)
            if not self._live:
                reason = f" ({record.reason})" if record.reason else ""
                self.say(f"  {self._whose(run)}{record.state}{reason}; {self._progress()}")
            elif record.state == "fail":
                self.say(f"{record.name} failed: {record.reason}")
            self._refresh()

    def _whose(self, run: Run) -> str:
        """The run's name as a prefix where lines of several workers alternate."""
        return f"{run.name}: " if self.workers > 1 else ""

    def _settings(self, name: str, config: TrialConfig) -> str:
        """The sampled settings of a trial, or all settings of a baseline."""
        return settings(config, self._sampled if name.startswith("trial") else None)

    def _refresh(self) -> None:
        if self._live:
            self._live.refresh()

    def _done(self) -> int:
        return sum(name.startswith("trial") and row.state != "running" for name, row in self._rows.items())

    def _progress(self) -> str:
        if not self._plan.trials:
            return "no trials requested"
        finished = [
            (row.wers[-1], name)
            for name, row in self._rows.items()
            if row.state == "complete" and name.startswith("trial")
        ]
        best = f"best {min(finished)[1]} at {min(finished)[0]:.1%}" if finished else "no completed trial yet"
        left = max(0, self._plan.trials - self._done())
        ahead = (
            f", about {left * sum(self._durations) / len(self._durations) / 60 / self.workers:.0f} min left"
            if self._durations and left
            else ""
        )
        return f"{min(self._done(), self._plan.trials)} of {self._plan.trials} trials, {best}{ahead}"

    def _render(self) -> Any:
        table = Table(box=None, pad_edge=False)
        table.add_column("run", no_wrap=True)
        table.add_column("settings", overflow="fold")
        table.add_column("WER % by rung", no_wrap=True)
        table.add_column("state", no_wrap=True)
        # Only the latest rows that fit the screen: drawing thousands is slow.
        room = max(1, self._console.height - 4)
        running = [item for item in self._rows.items() if item[1].state == "running"][-room:]
        ended = [item for item in self._rows.items() if item[1].state != "running"]
        for name, row in [*ended[max(0, len(ended) + len(running) - room) :], *running]:
            wers = " ".join(f"{100 * wer:.1f}" for wer in row.wers)
            table.add_row(name, row.settings, wers, row.state, style="bold" if row.state == "running" else "")
        return Group(table, self._progress())
