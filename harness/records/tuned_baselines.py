"""Find the tuned baselines in the records of a study."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.records.study_folder import is_searched, without_attempts
from harness.spec.result import Record


@dataclass(frozen=True)
class TunedBaseline:
    """A baseline with the best configuration of its own search.

    Attributes:
        baseline: Name of the baseline.
        runs: Folder and record of its completed runs, the lowest validation WER first. The recipe's own configuration
            is the first trial of the search.
        trials: Number of runs, including those that diverged or failed, without interrupted ones.
        seconds: Training and evaluation time of all of them.
    """

    baseline: str
    runs: tuple[tuple[Path, Record], ...]
    trials: int
    seconds: float

    @property
    def name(self) -> str:
        """Its name in tables."""
        return f"{self.baseline}, tuned"

    @property
    def best(self) -> tuple[Path, Record]:
        """Folder and record of the run with the lowest validation WER; of equal ones, the earlier."""
        return self.runs[0]

    @property
    def note(self) -> str:
        """A remark for tables: how it was chosen."""
        own = ": the recipe's own settings" if self.best[1].number is None else ""
        return f"best on validation of {self.trials} trials of learning rate and warm-up{own}"


def tuned_baselines(records: Iterable[tuple[Path, Record]]) -> list[TunedBaseline]:
    """Return the baselines that were tuned and have a completed run."""
    runs = [(path, record) for path, record in without_attempts(records) if record.kind == "recipe"]
    tuned = []
    for name in sorted({path.parent.name for path, record in runs if is_searched(record)}):
        of_baseline = [(path, record) for path, record in runs if path.parent.name == name]
        costs = [record.cost for _, record in of_baseline if record.cost]
        complete = [item for item in of_baseline if item[1].state == "complete" and item[1].scores]
        complete.sort(key=lambda item: (item[1].scores.wer if item[1].scores else 0.0, item[1].number or 0))
        if complete:
            seconds = sum(cost.train_seconds + cost.evaluation_seconds for cost in costs)
            tuned.append(TunedBaseline(name, tuple(complete), len(of_baseline), seconds))
    return tuned
