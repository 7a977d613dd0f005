"""results/ on disk: the truth about every run. Files appear whole or not at all."""

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
    """results/<study>/ and the places in it; nothing stored there names a path outside, so it can be moved."""

    path: Path

    @property
    def manifest(self) -> Path:
        """What the study is: space, task, model, budget."""
        return self.path / "study.json"

    @property
    def comparison(self) -> Path:
        """Where compare.py writes."""
        return self.path / "comparison"

    def trial(self, number: int) -> Path:
        """The folder of a trial's record."""
        return self.path / "trials" / str(number)

    def baseline(self, name: str, seed: int) -> Path:
        """The folder of a baseline's record."""
        return self.path / "baselines" / name / str(seed)

    def tuning(self, baseline: str, number: int) -> Path:
        """The folder of the record of a trial of a baseline's own search."""
        return self.path / "tuning" / baseline / str(number)

    def replicate(self, first: Path, seed: int) -> Path:
        """The folder of the record of a run with another seed; `first` is that of the run it repeats."""
        return self.path / "replicates" / again_name(first) / str(seed)

    def fraction(self, trial: int, fraction: float, seed: int) -> Path:
        """The folder of the record of a trial's settings on a part of the training speech."""
        return self.path / "fractions" / f"{trial}-{fraction:g}" / str(seed)

    def refit(self, trial: int, seed: int) -> Path:
        """The folder of the record of a trial's settings on train and validation."""
        return self.path / "refit" / str(trial) / str(seed)

    def attempt(self) -> Path:
        """A fresh folder for a trainer to write into; it becomes a record's folder when the run has ended."""
        folder = self.path / "attempts" / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        return folder

    def clear_attempts(self, spare: Iterable[str] = ()) -> None:
        """Remove what interrupted runs left behind, but for the attempts named."""
        for folder in (self.path / "attempts").glob("*"):
            if folder.name not in spare:
                shutil.rmtree(folder, ignore_errors=True)

    def key(self, folder: Path) -> str:
        """A record's folder as it is named in the study: trials/3."""
        return folder.relative_to(self.path).as_posix()

    def records(self, known: Container[str] = ()) -> Iterator[tuple[Path, Record]]:
        """All finished runs but those known by their key: baselines, trials by number, then what followed them."""
        places = ("baselines/*/*", "tuning/*/*", "trials/*", "replicates/*/*", "fractions/*/*", "refit/*/*")
        for place in places:
            found = self.path.glob(f"{place}/result.json")
            for path in sorted(found, key=lambda path: (path.parent.parent, int(path.parent.name))):
                if self.key(path.parent) not in known:
                    yield path.parent, read_record(path.parent)


@dataclass(frozen=True)
class Run:
    """One thing to train: a trial, a baseline or a replicate, and the folder that its record will have."""

    kind: Kind
    name: str
    config: TrialConfig
    seed: int
    folder: Path
    number: int | None = None
    notes: tuple[str, ...] = ()
    budget: Budget | None = None  # unset: the space's; a recipe may have evaluations of its own
    portion: DataSelection = WHOLE

    @classmethod
    def of(cls, folder: Path, record: Record) -> Self:
        """The run that left a record."""
        who = (record.kind, record.name, record.config, record.seed, folder, record.number)
        return cls(*who, record.notes, record.budget, record.portion)


def is_searched(run: Run | Record) -> bool:
    """Whether a run is one of a search's, which keeps the weights of its best alone."""
    return run.kind == "trial" or (run.kind == "recipe" and run.number is not None)


def again_name(first: Path) -> str:
    """What a run that is run again is called: a trial's number, a baseline's name, or tutorial-tuned-3."""
    if first.parent.name == "trials":
        return first.name
    return f"{first.parent.name}-tuned-{first.name}" if first.parts[-3] == "tuning" else first.parent.name


def open_study(results: Path, name: str) -> StudyFolder:
    """An existing study, or an error that names those there are."""
    folder = StudyFolder(results / name)
    if not folder.manifest.is_file():
        raise UserError(f"there is no study {name!r} in {results}; {nearest(name, studies(results))}")
    return folder


def studies(results: Path) -> list[str]:
    """The names of all studies in a results folder."""
    return sorted(path.parent.name for path in results.glob("*/study.json"))


def write_transcripts(path: Path, transcripts: Iterable[Transcript]) -> None:
    """Write transcripts.jsonl as `write_text` does."""
    write_text(path, "".join(t.model_dump_json() + "\n" for t in transcripts))


def read_transcripts(path: Path) -> list[Transcript]:
    """Read transcripts.jsonl."""
    # Not splitlines(): it also cuts at U+2028 and its like, which JSON leaves unescaped inside a string.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Transcript.model_validate_json(line) for line in lines if line]


def store(attempt: Path, folder: Path, record: Record) -> None:
    """Turn an attempt into a record: rename its folder, then write result.json, which makes it count.

    A folder without result.json is what a crash between the two left; it is replaced.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(attempt, folder)
    write_json(folder / "config.json", record.config.settings())
    write_json(folder / "result.json", record.model_dump(mode="json"))


def has_rungs(checkpoint: Path) -> bool:
    """Whether a checkpoint/ folder is one that a trial can go on from."""
    return (checkpoint / "rungs.json").is_file()


def read_rungs(checkpoint: Path) -> list[Rung]:
    """The rungs that a checkpoint/ folder was written after; none where there is no whole one."""
    if not has_rungs(checkpoint):
        return []
    rungs = json.loads((checkpoint / "rungs.json").read_text(encoding="utf-8"))
    return [Rung.model_validate(rung) for rung in rungs]


def is_stored(folder: Path) -> bool:
    """Whether a run has ended and its record counts."""
    return (folder / "result.json").is_file()


def read_record(folder: Path) -> Record:
    """Read result.json."""
    path = folder / "result.json"
    return Record.parse(json.loads(path.read_text(encoding="utf-8")), str(path))


def write_errors(folder: Path, errors: dict[int, tuple[int, ...]]) -> None:
    """Write errors.json: word errors of each utterance at each rung, in the study's order of evaluation."""
    write_json(folder / "errors.json", {str(rung): list(counts) for rung, counts in errors.items()})


def read_errors(folder: Path) -> dict[int, tuple[int, ...]]:
    """Read errors.json; empty where there is none."""
    path = folder / "errors.json"
    if not path.is_file():
        return {}
    return {int(rung): tuple(counts) for rung, counts in json.loads(path.read_text(encoding="utf-8")).items()}
