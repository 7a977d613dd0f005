"""Select the runs of a study that are compared, and hold each system with its error counts."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harness.compare.scoring.counts import Counts
from harness.errors import UserError
from harness.records.study_folder import StudyFolder, configuration_name, is_searched, without_attempts
from harness.records.tuned_baselines import tuned_baselines
from harness.spec.result import Kind, Record

Metric = Literal["wer", "wer_raw", "cer"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """The hypotheses and error counts of one run."""

    seed: int | None
    hypotheses: tuple[str, ...]
    counts: Counts


@dataclass(frozen=True)
class System:
    """One row of the leaderboard: its runs, one for each seed, and their origin."""

    name: str
    kind: Kind
    runs: tuple[Run, ...]
    record: Record | None = None
    study: str | None = None
    rtfx: float | None = None
    decoding: dict[str, Any] | None = None
    latency_seconds: float | None = None
    tuning: tuple[float, int] | None = None  # seconds and trials of the search that it was chosen from
    failed_seeds: int = 0  # replicates that diverged or failed, and are missing from `runs`
    notes: tuple[str, ...] = ()

    @property
    def deterministic(self) -> bool:
        """Whether another seed would change nothing, because nothing was trained."""
        return self.kind == "zero_shot"

    @property
    def is_part(self) -> bool:
        """Whether it was trained on a part of train: a point of the data curve, not a row."""
        return self.record is not None and self.record.portion.fraction < 1

    @property
    def validation_wer(self) -> float | None:
        """Validation WER of the selected run."""
        return self.record.scores.wer if self.record and self.record.scores else None

    def errors(self, metric: Metric) -> Floats:
        """Return the errors of each utterance, averaged over seeds, (utterances,)."""
        return self.mean_over_seeds(lambda counts: run_errors(counts, metric))

    def length(self, metric: Metric) -> Floats:
        """Return the reference words or characters of each utterance, (utterances,)."""
        return reference_length(self.runs[0].counts, metric)

    def rates(self, metric: Metric) -> dict[int | None, float]:
        """Return the pooled rate of each seed."""
        length = self.length(metric).sum()
        return {run.seed: float(run_errors(run.counts, metric).sum() / length) for run in self.runs}

    def mean_over_seeds(self, values: Callable[[Counts], npt.NDArray[Any]]) -> Floats:
        """Return a count of each utterance, averaged over seeds, (utterances,)."""
        found: Floats = np.mean([values(run.counts) for run in self.runs], axis=0)
        return found


def run_errors(counts: Counts, metric: Metric) -> npt.NDArray[np.int32]:
    """Return the errors of each utterance, (utterances,)."""
    if metric == "cer":
        return counts.character_errors
    return counts.words.errors if metric == "wer" else counts.raw.errors


def reference_length(counts: Counts, metric: Metric) -> Floats:
    """Return the reference words or characters of each utterance, (utterances,)."""
    if metric == "cer":
        return counts.characters.astype(np.float64)
    return (counts.words if metric == "wer" else counts.raw).reference.astype(np.float64)


@dataclass(frozen=True)
class Candidate:
    """A system before its transcripts are read: the selected run, and the runs that are scored."""

    study: StudyFolder
    name: str
    record: Record
    runs: tuple[tuple[Path, Record], ...]
    tuning: tuple[float, int] | None = None
    failed_seeds: int = 0
    notes: tuple[str, ...] = ()


Records = list[tuple[Path, Record]]


def candidates(folder: StudyFolder, records: Records, top: int, split: str = "test") -> list[Candidate]:
    """Return every complete baseline, as it is and tuned, the `top` trials on validation, and every repeated trial.

    The best trial's settings on parts of train come too, and on test its refit, which has seen validation.

    Where a configuration was run again with fresh seeds, those runs are scored, and the run that was tuned, or that
    used the tuning seed, is left out. Replicates that failed are counted, and named in the notes.

    Raises:
        UserError: if nothing was completed.
    """
    complete = [(path, record) for path, record in records if record.state == "complete"]
    if not complete:
        raise UserError(f"study {folder.path.name!r} has no completed run yet; run_sweep.py resumes it")
    again: dict[str, Records] = defaultdict(list)
    first: dict[str, Records] = defaultdict(list)
    other: dict[str, Records] = defaultdict(list)
    for path, record in complete:
        if not record.portion.whole:
            other[path.parent.name].append((path, record))
        elif record.kind == "replicate":
            again[path.parent.name].append((path, record))
        elif record.kind in ("zero_shot", "recipe") and not is_searched(record):
            first[record.name].append((path, record))
    trials = sorted(
        (item for item in complete if item[1].kind == "trial" and item[1].scores),
        key=lambda item: (item[1].scores.wer if item[1].scores else 0.0, item[1].number),
    )
    chosen = trials[:top] + [item for item in trials[top:] if str(item[1].number) in again]

    failed = _failed_replicates(records)

    def candidate(name: str, runs: Records, notes: tuple[str, ...], **about: Any) -> Candidate:
        path, record = runs[0]
        scored = sorted(again[configuration_name(path)] or runs, key=lambda item: item[1].seed)
        if lost := failed[configuration_name(path)]:
            total = len(lost) + len(again[configuration_name(path)])
            notes = (f"{len(lost)} of {total} replicates failed ({', '.join(sorted(set(lost)))})", *notes)
        return Candidate(folder, name, record, tuple(scored), failed_seeds=len(lost), notes=notes, **about)

    search = _tuning(records)
    return [
        *(candidate(name, runs, notes=runs[0][1].notes) for name, runs in first.items()),
        *(
            candidate(t.name, [t.best], notes=(t.note, *t.best[1].notes), tuning=(t.seconds, t.trials))
            for t in tuned_baselines(records)
        ),
        *(candidate(r.name, [(path, r)], notes=r.notes, tuning=search) for path, r in chosen),
        *(
            Candidate(folder, runs[0][1].name, runs[0][1], tuple(runs), search, notes=runs[0][1].notes)
            for runs in other.values()
            if trials and runs[0][1].number == trials[0][1].number and _may_stand(runs[0][1], split)
        ),
    ]


def _may_stand(record: Record, split: str) -> bool:
    """Whether a run with other training data is compared: a refit on test only, a fraction also on validation."""
    return split == "test" or (split == "validation" and not record.portion.with_validation)


def _failed_replicates(records: Records) -> dict[str, list[str]]:
    """Return the reasons of the replicates that did not complete, by the name of their configuration."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for path, record in records:
        if record.kind == "replicate" and record.state != "complete" and record.portion.whole:
            reasons[path.parent.name].append((record.reason or "failed").splitlines()[0])
    return reasons


def _tuning(records: Records) -> tuple[float, int]:
    costs = [record.cost for _, record in without_attempts(records) if record.kind == "trial"]
    return sum(cost.train_seconds + cost.evaluation_seconds for cost in costs if cost), len(costs)


def best_on_validation(systems: list[System]) -> System | None:
    """Return the system with the lowest validation WER, the first by name of equals."""
    validated = [system for system in systems if system.validation_wer is not None]
    return min(validated, key=lambda system: (system.validation_wer, system.name), default=None)
