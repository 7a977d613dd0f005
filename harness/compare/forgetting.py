"""Measure forgetting: decode the test split of a second task with the base model and the best systems."""

import hashlib
import json
import tempfile
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import catalog
from harness.compare.leaderboard import Leaderboard
from harness.compare.scoring.decoding import decode_run
from harness.compare.tables.rows import Row
from harness.errors import UserError
from harness.evaluation.metrics import score
from harness.orchestration.trainer_launch import Trainer
from harness.plan import CACHE_DIR
from harness.records.files import write_json
from harness.records.study_folder import read_transcripts
from harness.spec.messages import Open
from harness.spec.result import Record
from harness.spec.task import Task

SPLIT = "test"


def with_forgetting(leaderboard: Leaderboard, options: Namespace, say: Callable[[str], None]) -> Leaderboard:
    """Return the leaderboard with the WER on a second task, and its difference to the base model, in points.

    Decoded are zero-shot systems, trials, and the best on validation; the transcripts are kept beside each record.

    Raises:
        UserError: if there is no study, or no untouched model to compare with.
    """
    if not leaderboard.studies:
        raise UserError("--forgetting decodes with a study's weights; name it with --study")
    task = catalog.task(options.forgetting)
    found: dict[str, float] = {}
    untouched: dict[str | None, float] = {}
    reports: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        trainers: dict[str, Trainer] = {}
        for system in leaderboard.systems:
            record = system.record
            chosen = system.kind in ("zero_shot", "trial") or system.name == leaderboard.best
            if record is None or system.study is None or not chosen:
                continue
            (path,) = [place for place, held in leaderboard.records[system.study] if held is record]

            def opened(study: str = system.study) -> Trainer:
                if study not in trainers:
                    trainers[study] = stack.enter_context(_trainer(leaderboard, study, options))
                return trainers[study]

            say(f"{task.name}: {system.name}")
            if system.study not in reports:
                reports[system.study] = data_report(_open_order(leaderboard, system.study, options))
            found[system.name] = _wer(path, record, task, reports[system.study], opened)
            if system.kind == "zero_shot":
                untouched[system.study] = found[system.name]
    if not untouched:
        raise UserError("--forgetting needs the untouched model: run the baseline vanilla")
    rows = tuple(_filled(row, task.name, found.get(row.system), untouched) for row in leaderboard.rows)
    return replace(leaderboard, rows=rows)


def _filled(row: Row, task: str, wer: float | None, untouched: dict[str | None, float]) -> Row:
    before = untouched.get(row.study)
    lost = None if wer is None or before is None or row.kind == "zero_shot" else wer - before
    return row.model_copy(update={"second_task": task, "wer_second": wer, "forgotten": lost})


def data_report(order: Open) -> dict[str, Any]:
    """Return the data report of the second task, without loading the model's weights."""
    with tempfile.TemporaryDirectory() as folder:
        prepare_only = order.model_copy(update={"prepare_only": True})
        with Trainer(prepare_only, Path(folder) / "trainer.log").come_up() as trainer:
            return trainer.ready.data


def _trainer(leaderboard: Leaderboard, study: str, options: Namespace) -> Trainer:
    (folder,) = [place for place in leaderboard.studies if place.path.name == study]
    return Trainer(_open_order(leaderboard, study, options), folder.path / "trainer.log").come_up()


def _open_order(leaderboard: Leaderboard, study: str, options: Namespace) -> Open:
    (folder,) = [place for place in leaderboard.studies if place.path.name == study]
    manifest: dict[str, Any] = json.loads(folder.manifest.read_text(encoding="utf-8"))
    return Open(
        model=manifest["identity"]["model"],
        task=catalog.task(options.forgetting),
        cache_dir=str(options.cache_dir or CACHE_DIR),
        seed=manifest["seed"],
    )


def _wer(path: Path, record: Record, task: Task, report: dict[str, Any], opened: Callable[[], Trainer]) -> float:
    """Decode and score the second task; stored transcripts are reused for the same recordings, texts and task.

    Other tasks have the same name: that of the last folder of their path.
    """
    languages, digest = report["languages"], report["splits"][SPLIT]["hash"]
    settings = json.dumps([digest, languages, task.task], sort_keys=True)
    stem = f"second-{task.name}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    transcripts, about = path / f"{stem}.jsonl", path / f"{stem}.json"
    if not about.is_file():
        answer = decode_run(opened(), path, record, SPLIT, transcripts)
        write_json(about, {"decoding": answer.decoding, "languages": languages, "data": digest})
    return score(read_transcripts(transcripts), languages[0] if len(languages) == 1 else "mul", task.normalizer).wer
