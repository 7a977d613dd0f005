"""Score the published weights and the untouched model on test, for the model card."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.compare.scoring.counts import count_errors
from harness.compare.scoring.decoding import DecodedSplit, read_decoded
from harness.compare.scoring.systems import Run, System
from harness.compare.scoring.test_set import TestSet
from harness.compare.statistics.comparisons import PairwiseTests
from harness.compare.statistics.tests import Interval, blocks
from harness.compare.tables.rows import described
from harness.evaluation.normalizers import default_name, normalizer
from harness.publish.best_run import BestRun
from harness.records.study_folder import configuration_name
from harness.spec.result import Record

UNTOUCHED = "untouched model"


@dataclass(frozen=True)
class CardScores:
    """Scores of one system on test, as fractions.

    Attributes:
        system: Name in the card.
        wer: Normalized WER with its interval.
        cer: Normalized CER with its interval.
        difference: WER minus the untouched model's; None for that model itself, or if it was not decoded.
        normalizer: Name and version of the normalizer.
        decoding: How the transcripts were decoded.
    """

    system: str
    wer: Interval
    cer: Interval
    difference: Interval | None
    normalizer: str
    decoding: str


def card_scores(best_run: BestRun) -> list[CardScores]:
    """Return the scores of these weights and of the untouched model; empty if compare.py has not decoded test.

    They are computed from the transcripts beside the records. A leaderboard would not do: its rows may be of another
    split or metric, relative to another reference, or the mean of replicates.
    """
    decoded = {name: splits for name, runs in _runs(best_run).items() if (splits := _decoded(runs))}
    if not decoded:
        return []
    language = best_run.language or "mul"
    task = best_run.manifest["identity"]["task"]
    normalize, version = normalizer(task["normalizer"] or default_name(language), language)
    test = TestSet.from_transcripts(next(iter(decoded.values()))[0][1].transcripts, "test.jsonl")

    def system(name: str, splits: list[tuple[Record, DecodedSplit]]) -> System:
        runs = []
        for record, split in splits:
            texts = test.ordered_hypotheses({t.id: (t.reference, t.hypothesis) for t in split.transcripts}, name)
            runs.append(Run(record.seed, texts, count_errors(test.references, texts, normalize, language)))
        return System(name, splits[0][0].kind, tuple(runs), decoding=splits[0][1].metadata.get("decoding"))

    systems = [system(name, splits) for name, splits in decoded.items()]
    base = next((s for s in systems if s.name == UNTOUCHED), None)
    tests = partial(PairwiseTests, blocks=blocks(test.speakers))
    return [
        CardScores(
            s.name,
            tests("wer").interval(s),
            tests("cer").interval(s),
            tests("wer").difference(s, base) if base and s is not base else None,
            version,
            described(s.decoding),
        )
        for s in systems
    ]


def _runs(best_run: BestRun) -> dict[str, list[tuple[Path, Record]]]:
    """Return the runs of each row: these weights, or if only replicates of them were decoded, those."""
    stored = list(best_run.study.records())
    rows = {f"{best_run.record.name}, these weights": [(best_run.path, best_run.record)]}
    if not read_decoded(best_run.path, "test"):
        repeated = [
            (path, record)
            for path, record in stored
            if record.kind == "replicate" and record.state == "complete" and record.portion.whole
            if path.parent.name == configuration_name(best_run.path)
        ]
        rows = {f"mean of {len(repeated)} runs of this configuration with other seeds": repeated}
    return rows | {UNTOUCHED: [run for run in stored if run[1].kind == "zero_shot"][:1]}


def _decoded(runs: list[tuple[Path, Record]]) -> list[tuple[Record, DecodedSplit]]:
    """Return the decoded test of each run; empty unless all have it."""
    splits = [(record, read_decoded(path, "test")) for path, record in runs]
    return [(record, split) for record, split in splits if split] if all(split for _, split in splits) else []
