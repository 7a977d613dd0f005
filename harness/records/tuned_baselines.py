"""Baselines with a search of their own, as they are found in a study's records."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.records.study_folder import is_searched
from harness.spec.result import Record


@dataclass(frozen=True)
class Tuned:
    """A baseline under the best settings of its own search; its completed runs, the best on validation first.

    The recipe's own run, under its own settings, is the first trial of that search.
    """

    baseline: str
    runs: tuple[tuple[Path, Record], ...]
    trials: int
    seconds: float  # of training and evaluation, of all of them

    @property
    def name(self) -> str:
        """What its row is called."""
        return f"{self.baseline}, tuned"

    @property
    def best(self) -> tuple[Path, Record]:
        """The run with the lowest validation WER; the earlier of equals."""
        return self.runs[0]

    @property
    def note(self) -> str:
        """What a reader of its row must know."""
        own = ": the recipe's own settings" if self.best[1].number is None else ""
        return f"best on validation of {self.trials} trials of learning rate and warm-up{own}"


def tuned_baselines(records: Iterable[tuple[Path, Record]]) -> list[Tuned]:
    """Every baseline of which a search was run, and a run completed."""
    runs = [(path, record) for path, record in records if record.kind == "recipe"]
    found = []
    for name in sorted({path.parent.name for path, record in runs if is_searched(record)}):
        held = [(path, record) for path, record in runs if path.parent.name == name]
        costs = [record.cost for _, record in held if record.cost]
        complete = [item for item in held if item[1].state == "complete" and item[1].scores]
        complete.sort(key=lambda item: (item[1].scores.wer if item[1].scores else 0.0, item[1].number or 0))
        if complete:
            seconds = sum(cost.train_seconds + cost.evaluation_seconds for cost in costs)
            found.append(Tuned(name, tuple(complete), len(held), seconds))
    return found
