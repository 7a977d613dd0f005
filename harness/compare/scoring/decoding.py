"""Decode a split with a run's stored weights, once per run, in a trainer process that starts only if needed."""

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
class DecodedSplit:
    """Transcripts of a split by one run.

    Attributes:
        transcripts: One entry for each utterance.
        metadata: What the trainer reported on decoding: `rtfx`, `latency_seconds`, `decoding` and the data's hash.
    """

    transcripts: list[Transcript]
    metadata: dict[str, Any]

    @classmethod
    def read(cls, transcripts: Path, metadata: Path) -> Self:
        """Read the two files of a decoded split."""
        return cls(read_transcripts(transcripts), json.loads(metadata.read_text(encoding="utf-8")))


def read_decoded(path: Path, split: str) -> DecodedSplit | None:
    """Return the stored transcripts of a run's split; None if it has not been decoded.

    Args:
        path: Folder of the run.
        split: Name of the split.
    """
    transcripts, metadata = path / f"{split}.jsonl", path / f"{split}.json"
    return DecodedSplit.read(transcripts, metadata) if metadata.is_file() else None


def decode_run(
    trainer: Trainer, path: Path, record: Record, split: str, transcripts: Path, long_form: Algorithm | None = None
) -> Transcribed:
    """Let a trainer decode a split of its task with a run's stored weights.

    Args:
        trainer: Trainer process with the task's data.
        path: Folder of the run.
        record: Record of the run.
        split: Name of the split.
        transcripts: File that the trainer writes.
        long_form: How recordings longer than the model's window are decoded; None if there are none.

    Raises:
        UserError: The run's weights are not stored, or decoding failed.
    """
    weights = path / "weights"
    if record.config.method != "none" and not weights.is_dir():
        raise UserError(
            f"{record.name} (seed {record.seed}) has neither transcripts of {split} nor weights to decode it with; "
            "a study keeps the weights of its best trials, baselines and replicates"
        )
    request = {
        "config": record.config,
        "weights": None if record.config.method == "none" else str(weights.resolve()),
        "split": split,
        "output": str(transcripts.resolve()),
    }
    trainer.send(
        TranscribeLong.model_validate({**request, "algorithm": long_form})
        if long_form
        else Transcribe.model_validate(request)
    )
    answer = trainer.receive()
    if isinstance(answer, Refused):
        raise UserError(answer.message)
    if not isinstance(answer, Transcribed):
        reason = answer.reason if isinstance(answer, Failed) else repr(answer)
        raise UserError(f"{record.name} could not be decoded: {reason}; see {trainer.log}")
    return answer


class TestDecoder:
    """Decode a split with the runs of one study, and log every access to it.

    The transcripts are stored beside each record and reused. A trainer process starts with the first run that has
    none; use the decoder as a context manager to close it.
    """

    __test__ = False  # pytest would collect it for its name

    def __init__(self, folder: StudyFolder, task: str | None = None, cache_dir: Path = CACHE_DIR) -> None:
        self._folder, self._cache_dir = folder, cache_dir
        self._manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
        self._task_name = task or self._manifest["task"]
        self._trainer: Trainer | None = None

    @property
    def task(self) -> dict[str, Any]:
        """Settings of the task, from the study's manifest."""
        task: dict[str, Any] = self._manifest["identity"]["task"]
        return task

    @property
    def task_name(self) -> str:
        """Name or path of the task: the one given, else the study's."""
        return str(self._task_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._trainer is not None:
            self._trainer.close()

    def decode(self, path: Path, record: Record, split: str, long_form: Algorithm | None = None) -> DecodedSplit:
        """Return a run's transcripts, from the files beside its record or decoded now.

        Args:
            path: Folder of the run.
            record: Record of the run.
            split: Name of the split.
            long_form: How recordings longer than the model's window are decoded; None if there are none.
        """
        stem = f"{split}-{long_form}" if long_form else split
        transcripts, metadata = path / f"{stem}.jsonl", path / f"{stem}.json"
        log = "test_readings.jsonl"
        if not metadata.is_file():
            self._decode(path, record, split, long_form, transcripts, metadata)
            log = "test_access.jsonl"
        decoded = DecodedSplit.read(transcripts, metadata)
        self._log_access(log, record, split, decoded.metadata)
        return decoded

    def _decode(
        self, path: Path, record: Record, split: str, long_form: Algorithm | None, transcripts: Path, metadata: Path
    ) -> None:
        trainer = self._started(record, None if long_form else split)
        answer = decode_run(trainer, path, record, split, transcripts, long_form)
        fields = answer.model_dump(mode="json", exclude={"type"})
        write_json(metadata, {**fields, "data": answer.data or record.data.get(split)})

    def _started(self, record: Record, split: str | None) -> Trainer:
        """Return the trainer process; it must have the data that the run was set up with."""
        if self._trainer is None:
            task = catalog.task(self._task_name)
            order = Open(
                model=self._manifest["identity"]["model"],
                task=task,
                cache_dir=str(self._cache_dir),
                seed=self._manifest["seed"],
            )
            self._trainer = Trainer(order, self._folder.path / "trainer.log").come_up()
        if split is None:  # not in the data report; TestSet compares the systems' references instead
            return self._trainer
        data_hash = self._trainer.ready.data["splits"][split]["hash"]
        if data_hash != record.data[split]:
            raise UserError(
                f"the {split} split of task {self._task_name!r} has the hash {data_hash}, but {record.name} was set up "
                f"with {record.data[split]}; give the task of the study with --task"
            )
        return self._trainer

    def _log_access(self, log: str, record: Record, split: str, stored: dict[str, Any]) -> None:
        """Append the access to a log: time, system, seed, split, hash of the data, and decoding.

        Decoding is logged in test_access.jsonl, reading stored transcripts in test_readings.jsonl.
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
