"""Read and write the folder of a study, results/<study>/, which holds the authoritative record of every run.

Files appear complete or not at all. Nothing stored in the folder names a path outside it, so it can be moved.
"""

import json
import os
import shutil
import uuid
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.errors import UserError, nearest
from harness.records.files import write_json, write_text
from harness.spec.budget import Budget
from harness.spec.data_selection import WHOLE, DataSelection
from harness.spec.result import Kind, Record, Rung, Transcript
from harness.spec.trial import TrialConfig


@dataclass(frozen=True)
class StudyFolder:
    """Paths inside results/<study>/."""

    path: Path

    @property
    def manifest(self) -> Path:
        """study.json: the search space, task, model and budget of the study."""
        return self.path / "study.json"

    @property
    def comparison(self) -> Path:
        """The folder that compare.py writes."""
        return self.path / "comparison"

    def trial(self, number: int) -> Path:
        """Return the folder of a trial's record."""
        return self.path / "trials" / str(number)

    def baseline(self, name: str, seed: int) -> Path:
        """Return the folder of a baseline's record."""
        return self.path / "baselines" / name / str(seed)

    def tuning(self, baseline: str, number: int) -> Path:
        """Return the folder of the record of one trial of a baseline's tuning."""
        return self.path / "tuning" / baseline / str(number)

    def replicate(self, first: Path, seed: int) -> Path:
        """Return the folder of a replicate's record; `first` is the folder of the run that it repeats."""
        return self.path / "replicates" / configuration_name(first) / str(seed)

    def fraction(self, trial: int, fraction: float, seed: int) -> Path:
        """Return the folder of the record of a trial's configuration trained on a fraction of the training data."""
        return self.path / "fractions" / f"{trial}-{fraction:g}" / str(seed)

    def refit(self, trial: int, seed: int) -> Path:
        """Return the folder of the record of a trial's configuration trained on train and validation."""
        return self.path / "refit" / str(trial) / str(seed)

    def attempt(self) -> Path:
        """Create a folder for a trainer to write into; `store` makes it the record's folder when the run has ended."""
        folder = self.path / "attempts" / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        return folder

    def clear_attempts(self, keep: Iterable[str] = ()) -> None:
        """Remove the folders of interrupted attempts, except those whose names are in `keep`."""
        for folder in (self.path / "attempts").glob("*"):
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)

    def key(self, folder: Path) -> str:
        """Return a record's folder relative to the study, such as "trials/3"."""
        return folder.relative_to(self.path).as_posix()

    def records(self, skip: Container[str] = ()) -> Iterator[tuple[Path, Record]]:
        """Yield folder and record of the finished runs: baselines, their tuning, trials by number, follow-up runs.

        Folders whose names are not numbers, such as a copy "3-old", are not records.

        Args:
            skip: Keys (see `key`) of records to leave out.
        """
        patterns = ("baselines/*/*", "tuning/*/*", "trials/*", "replicates/*/*", "fractions/*/*", "refit/*/*")
        for pattern in patterns:
            paths = [path for path in self.path.glob(f"{pattern}/result.json") if path.parent.name.isdecimal()]
            for path in sorted(paths, key=lambda path: (path.parent.parent, int(path.parent.name))):
                if self.key(path.parent) not in skip:
                    yield path.parent, read_record(path.parent)


@dataclass(frozen=True)
class Run:
    """One training, such as a trial, a baseline or a replicate.

    Attributes:
        kind: What it is.
        name: Its name in tables.
        config: The configuration to train.
        seed: The seed of initialization, data order and dropout.
        folder: The folder that its record will have.
        number: Number of the trial that it is or repeats, if any.
        notes: Remarks that are stored in the record.
        budget: Budget of its own; None for that of the search space.
        portion: The data to train on.
    """

    kind: Kind
    name: str
    config: TrialConfig
    seed: int
    folder: Path
    number: int | None = None
    notes: tuple[str, ...] = ()
    budget: Budget | None = None
    portion: DataSelection = WHOLE

    @classmethod
    def of(cls, folder: Path, record: Record) -> Self:
        """Return the run that a record in `folder` belongs to."""
        identity = (record.kind, record.name, record.config, record.seed, folder, record.number)
        return cls(*identity, record.notes, record.budget, record.portion)


def is_searched(run: Run | Record) -> bool:
    """Whether a run is a trial of the study or of a baseline's tuning; only the best of these keep their weights."""
    return run.kind == "trial" or (run.kind == "recipe" and run.number is not None)


def without_attempts(records: Iterable[tuple[Path, Record]]) -> list[tuple[Path, Record]]:
    """Leave out trials that were interrupted: their retry is the trial, and its cost contains what it resumed from.

    Records of version 0.2 do not say what was retried; there a trial that failed by an interruption counts as one.
    """
    found = list(records)
    retried = {record.retry_of for _, record in found if record.kind == "trial" and record.retry_of is not None}
    return [
        (path, record)
        for path, record in found
        if not (is_searched(record) and record.state == "fail" and _was_interrupted(record))
        and not (record.kind == "trial" and record.number in retried)
    ]


def _was_interrupted(record: Record) -> bool:
    return (record.reason or "").startswith("interrupted")


def configuration_name(first: Path) -> str:
    """Return the name of the folder of a configuration's replicates.

    Args:
        first: Folder of the run that the replicates repeat.

    Returns:
        A trial's number, a baseline's name, or a name such as "tutorial-tuned-3" for a trial of a baseline's tuning.
    """
    if first.parent.name == "trials":
        return first.name
    return f"{first.parent.name}-tuned-{first.name}" if first.parts[-3] == "tuning" else first.parent.name


def open_study(results: Path, name: str) -> StudyFolder:
    """Return an existing study.

    Raises:
        UserError: There is no such study; the message lists the existing ones.
    """
    folder = StudyFolder(results / checked_name(name, results))
    if not folder.manifest.is_file():
        raise UserError(f"there is no study {name!r} in {results}; {nearest(name, studies(results))}")
    return folder


def checked_name(name: str, results: Path) -> str:
    """Return the name of a study, which is that of its folder in `results`.

    Raises:
        UserError: It would be another folder.
    """
    if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise UserError(f"a study's name is that of a folder in {results}, without a path; {name!r} is none")
    return name


def studies(results: Path) -> list[str]:
    """Return the names of all studies in a results folder."""
    return sorted(path.parent.name for path in results.glob("*/study.json"))


def write_transcripts(path: Path, transcripts: Iterable[Transcript]) -> None:
    """Write transcripts.jsonl atomically."""
    write_text(path, "".join(t.model_dump_json() + "\n" for t in transcripts))


def read_transcripts(path: Path) -> list[Transcript]:
    """Read transcripts.jsonl."""
    # Not splitlines(): it also splits at U+2028 and similar characters, which JSON leaves unescaped in a string.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Transcript.model_validate_json(line) for line in lines if line]


def store(attempt: Path, folder: Path, record: Record) -> None:
    """Turn an attempt into a record: rename its folder, then write result.json, which makes the record valid.

    A folder without result.json comes from a crash between these two steps and is replaced.

    Args:
        attempt: The folder that the trainer wrote.
        folder: The folder that the record gets.
        record: The record.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(attempt, folder)
    write_json(folder / "config.json", record.config.settings())
    write_json(folder / "result.json", record.model_dump(mode="json"))


def has_rungs(checkpoint: Path) -> bool:
    """Whether a trial can be resumed from a checkpoint/ folder."""
    return (checkpoint / "rungs.json").is_file()


def read_rungs(checkpoint: Path) -> list[Rung]:
    """Return the rungs that a checkpoint/ folder contains; empty if there is no complete checkpoint."""
    if not has_rungs(checkpoint):
        return []
    rungs = json.loads((checkpoint / "rungs.json").read_text(encoding="utf-8"))
    return [Rung.model_validate(rung) for rung in rungs]


def is_stored(folder: Path) -> bool:
    """Whether a folder holds the record of a run that ended."""
    return (folder / "result.json").is_file()


def read_record(folder: Path) -> Record:
    """Read result.json."""
    path = folder / "result.json"
    return Record.parse(json.loads(path.read_text(encoding="utf-8")), str(path))


def write_errors(folder: Path, errors: dict[int, tuple[int, ...]]) -> None:
    """Write errors.json: word errors of each utterance at each rung, in the study's order of evaluation."""
    write_json(folder / "errors.json", {str(rung): list(counts) for rung, counts in errors.items()})


def read_errors(folder: Path) -> dict[int, tuple[int, ...]]:
    """Read errors.json; empty if the file is missing."""
    path = folder / "errors.json"
    if not path.is_file():
        return {}
    return {int(rung): tuple(counts) for rung, counts in json.loads(path.read_text(encoding="utf-8")).items()}
