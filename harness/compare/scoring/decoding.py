"""Transcripts of a split, decoded once for each run by a trainer that is started only if something is missing."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from harness import catalog
from harness.errors import UserError
from harness.orchestration.trainer_launch import Trainer
from harness.plan import CACHE_DIR
from harness.records.files import write_json
from harness.records.study_folder import StudyFolder, read_transcripts
from harness.spec.messages import Algorithm, Failed, Open, Refused, Transcribe, Transcribed, TranscribeLong
from harness.spec.result import Record, Transcript


@dataclass(frozen=True)
class Decoded:
    """A run's transcripts of a split and what was measured while they were made."""

    transcripts: list[Transcript]
    about: dict[str, Any]


def decode_run(
    trainer: Trainer, path: Path, record: Record, split: str, transcripts: Path, long_form: Algorithm | None = None
) -> Transcribed:
    """Have a trainer decode a split of its task with a run's stored weights.

    Raises:
        UserError: if the weights were not kept, or decoding failed.
    """
    weights = path / "weights"
    if record.config.method != "none" and not weights.is_dir():
        raise UserError(
            f"{record.name} (seed {record.seed}) has neither transcripts of {split} nor weights to decode it with; "
            "a study keeps the weights of its best trials, baselines and replicates"
        )
    what = {
        "config": record.config,
        "weights": None if record.config.method == "none" else str(weights.resolve()),
        "split": split,
        "output": str(transcripts.resolve()),
    }
    trainer.send(
        TranscribeLong.model_validate({**what, "algorithm": long_form})
        if long_form
        else Transcribe.model_validate(what)
    )
    answer = trainer.receive()
    if isinstance(answer, Refused):
        raise UserError(answer.message)
    if not isinstance(answer, Transcribed):
        reason = answer.reason if isinstance(answer, Failed) else repr(answer)
        raise UserError(f"{record.name} could not be decoded: {reason}; see {trainer.log}")
    return answer


class TestDecoder:
    """The decodings of one study's runs; every access to them is written down."""

    __test__ = False  # no test case, whatever pytest makes of its name

    def __init__(self, folder: StudyFolder, task: str | None = None, cache_dir: Path = CACHE_DIR) -> None:
        self._folder, self._cache_dir = folder, cache_dir
        self._manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
        self._task_given = task or self._manifest["task"]
        self._trainer: Trainer | None = None

    @property
    def task(self) -> dict[str, Any]:
        """The task's settings, as the study has them."""
        task: dict[str, Any] = self._manifest["identity"]["task"]
        return task

    @property
    def given(self) -> str:
        """The task as it was named."""
        return str(self._task_given)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._trainer is not None:
            self._trainer.close()

    def decoded(self, path: Path, record: Record, split: str, long_form: Algorithm | None = None) -> Decoded:
        """A run's transcripts, from the files beside its record or decoded now.

        `long_form` says how recordings longer than the model's window are decoded; None where there are none.
        """
        stem = f"{split}-{long_form}" if long_form else split
        transcripts, about = path / f"{stem}.jsonl", path / f"{stem}.json"
        log = "test_readings.jsonl"
        if not about.is_file():
            self._decode(path, record, split, transcripts, about, long_form)
            log = "test_access.jsonl"
        stored = json.loads(about.read_text(encoding="utf-8"))
        self._log_access(log, record, split, stored)
        return Decoded(read_transcripts(transcripts), stored)

    def _decode(
        self, path: Path, record: Record, split: str, transcripts: Path, about: Path, long_form: Algorithm | None
    ) -> None:
        trainer = self._opened(record, None if long_form else split)
        answer = decode_run(trainer, path, record, split, transcripts, long_form)
        known = answer.model_dump(mode="json", exclude={"type"})
        write_json(about, {**known, "data": answer.data or record.data.get(split)})

    def _opened(self, record: Record, split: str | None) -> Trainer:
        if self._trainer is None:
            task = catalog.task(self._task_given)
            order = Open(
                model=self._manifest["identity"]["model"],
                task=task,
                cache_dir=str(self._cache_dir),
                seed=self._manifest["seed"],
            )
            self._trainer = Trainer(order, self._folder.path / "trainer.log").come_up()
        if split is None:  # no part of the data report; systems are held against each other's references
            return self._trainer
        held = self._trainer.ready.data["splits"][split]["hash"]
        if held != record.data[split]:
            raise UserError(
                f"the {split} split of {self._task_given!r} is not the one that {record.name} was set up with "
                f"({held} against {record.data[split]}); name the right speech with --task"
            )
        return self._trainer

    def _log_access(self, log: str, record: Record, split: str, stored: dict[str, Any]) -> None:
        """Every access is written down: when, which system, which data, how decoded.

        Decodings stand in test_access.jsonl, later readings of what was decoded in test_readings.jsonl.
        """
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "system": record.name,
            "seed": record.seed,
            "split": split,
            "data": stored.get("data"),
            "decoding": stored["decoding"],
        }
        with (self._folder.path / log).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
