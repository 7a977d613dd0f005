"""Make a leaderboard: collect the systems, score them, compare them."""

import functools
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.compare.scoring import counts, external
from harness.compare.scoring.decoding import DecodedSplit, TestDecoder
from harness.compare.scoring.systems import Candidate, Metric, Records, Run, System, best_on_validation, candidates
from harness.compare.scoring.test_set import TestSet
from harness.compare.statistics import tests as statistics
from harness.compare.statistics.comparisons import Comparison, PairwiseTests
from harness.compare.statistics.data_curve import DataPoint, data_curve
from harness.compare.statistics.groups import GroupRow, group_rows, worst_groups
from harness.compare.tables.rows import Row, leaderboard_rows
from harness.errors import UserError, nearest
from harness.evaluation.normalizers import default_name, normalizer
from harness.evaluation.text_units import UNSPACED
from harness.plan import CACHE_DIR
from harness.records.study_folder import StudyFolder, open_study, read_transcripts
from harness.spec.result import Record, Transcript

LONG = "test_long"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Scoring:
    """Settings of scoring: language, normalizer, and the folder of cached counts."""

    language: str
    normalizer: str
    kept_in: Path

    @property
    def shown(self) -> str:
        """Name and version of the normalizer."""
        return normalizer(self.normalizer, self.language)[1]

    def run(self, test: TestSet, hypotheses: tuple[str, ...], seed: int | None) -> Run:
        """Count the errors of one decoding."""
        return Run(seed, hypotheses, self._counts(test, hypotheses, self.normalizer))

    def unmarked_wer(self, test: TestSet, system: System) -> float:
        """Return the WER without vowel marks, which is reported for Arabic too."""
        found = [self._counts(test, run.hypotheses, "unmarked").words for run in system.runs]
        return float(sum(words.errors.sum() for words in found) / sum(words.reference.sum() for words in found))

    def _counts(self, test: TestSet, hypotheses: tuple[str, ...], name: str) -> counts.Counts:
        shown = normalizer(name, self.language)[1]
        normalize = _remembered(name, self.language)
        return counts.cached_counts(self.kept_in, test.references, hypotheses, normalize, shown, self.language)


@functools.cache
def _remembered(name: str, language: str) -> Callable[[str], str]:
    """Return the normalizer with a cache, because every system has the same references."""
    return functools.lru_cache(maxsize=200_000)(normalizer(name, language)[0])


@dataclass(frozen=True)
class Leaderboard:
    """The result of a comparison: systems, rows, comparisons and groups."""

    title: str
    split: str
    folder: Path
    studies: tuple[StudyFolder, ...]
    records: dict[str, Records]
    task: str | None
    test: TestSet
    scoring: Scoring
    systems: tuple[System, ...]
    judge: PairwiseTests
    comparisons: tuple[Comparison, ...]
    rows: tuple[Row, ...]
    groups: tuple[GroupRow, ...]
    reference: str | None
    best: str | None
    data_curve: tuple[DataPoint, ...] = ()


def make_leaderboard(options: Namespace, say: Progress) -> Leaderboard:
    """Collect the systems, score them and compare them."""
    if options.study and options.reference:
        raise UserError("--reference compares transcripts without a study; with --study the references are the study's")
    if not options.study and not options.reference:
        raise UserError("give --study NAME, or --reference FILE with --add NAME=FILE to compare transcripts alone")
    folders = tuple(open_study(options.results, name) for name in options.study or ())
    title = " + ".join(options.study) if options.study else options.reference.stem
    home = "+".join(options.study) if options.study else f"{options.reference.stem}-transcripts"
    target = options.output or options.results / home / "comparison"
    with ExitStack() as stack:
        decoders = [
            stack.enter_context(TestDecoder(folder, options.task, options.cache_dir or CACHE_DIR)) for folder in folders
        ]
        records = {folder.path.name: list(folder.records()) for folder in folders}
        scoring = _scoring(options, decoders, _languages(records), target)
        test, systems = _from_studies(options, decoders, folders, records, scoring, say)
    if options.reference:
        test = TestSet.from_transcripts(external.read_references(options.reference), str(options.reference))
    if test is None:
        raise UserError("nothing to compare")
    systems += _added(options, test, scoring, systems)
    if not systems:
        raise UserError("no system to score; name transcripts with --add NAME=FILE")
    task = decoders[0].task_name if decoders else None
    return _judged(options, title, target, folders, records, task, test, scoring, systems)


def _languages(records: dict[str, Records]) -> set[str]:
    """Return the languages of the data, from the records."""
    return {language for runs in records.values() for _, r in runs for language in r.data.get("languages", ())}


def _scoring(options: Namespace, decoders: list[TestDecoder], languages: set[str], target: Path) -> Scoring:
    """Return the scoring: the normalizer of the language, or one for no language in particular if there are several."""
    tasks = [decoder.task for decoder in decoders]
    languages = languages or {task["language"] for task in tasks if task["language"]}
    language = options.language or (languages.pop() if len(languages) == 1 else "mul")
    names = {task["normalizer"] or default_name(language) for task in tasks} or {default_name(language)}
    if len(names) > 1 and not options.normalizer:
        raise UserError(
            f"the studies have different normalisers ({', '.join(sorted(names))}); choose one with --normalizer"
        )
    return Scoring(language, options.normalizer or names.pop(), target / "counts")


def _from_studies(
    options: Namespace,
    decoders: list[TestDecoder],
    folders: Sequence[StudyFolder],
    records: dict[str, Records],
    scoring: Scoring,
    say: Progress,
) -> tuple[TestSet | None, list[System]]:
    chosen = [
        c for folder in folders for c in candidates(folder, records[folder.path.name], options.top, options.split)
    ]
    _same_data(chosen, options.split)
    test: TestSet | None = None
    systems = []
    for candidate in chosen:
        decoder = decoders[list(folders).index(candidate.study)]
        name = candidate.name if len(folders) == 1 else f"{candidate.study.path.name}/{candidate.name}"
        runs: list[Run] = []
        about: dict[str, Any] = {}
        for path, record in candidate.runs:
            say(f"{options.split}: {name}, seed {record.seed}")
            decoded = _decoded(decoder, path, record, options)
            about = about or decoded.metadata
            source = f"{name}, seed {record.seed}"
            test = test or TestSet.from_transcripts(decoded.transcripts, source)
            runs.append(scoring.run(test, test.ordered_hypotheses(_texts(decoded.transcripts), source), record.seed))
        record = candidate.record
        study = candidate.study.path.name
        systems.append(
            System(
                name,
                "trial" if record.kind == "replicate" else record.kind,
                tuple(runs),
                record,
                study,
                rtfx=about.get("rtfx"),
                decoding=about.get("decoding"),
                latency_seconds=about.get("latency_seconds"),
                tuning=candidate.tuning,
                failed_seeds=candidate.failed_seeds,
                notes=candidate.notes,
            )
        )
    return test, systems


def _decoded(decoder: TestDecoder, path: Path, record: Record, options: Namespace) -> DecodedSplit:
    if options.split == "validation":  # what every run left behind anyway: test stays untouched
        return DecodedSplit(read_transcripts(path / "transcripts.jsonl"), {})
    long_form = options.long_form if options.split == LONG else None
    return decoder.decode(path, record, options.split, long_form)


def _texts(transcripts: list[Transcript]) -> dict[str, tuple[str | None, str]]:
    return {t.id: (t.reference, t.hypothesis) for t in transcripts}


def _same_data(chosen: list[Candidate], split: str) -> None:
    """Raise a UserError if the studies have different recordings or texts."""
    held = {record.data.get(split): c for c in chosen for _, record in c.runs}
    if len(held) > 1:
        (one, a), (two, b) = list(held.items())[:2]
        raise UserError(
            f"the {split} sets differ: {a.study.path.name}/{a.name} has {one}, {b.study.path.name}/{b.name} has {two}; "
            "only systems evaluated on the same data can be compared"
        )


def _added(options: Namespace, test: TestSet, scoring: Scoring, systems: list[System]) -> list[System]:
    """Return the systems of --add."""
    names = [system.name for system in systems]
    found = []
    for given in options.add:
        name, path = external.parse_added_system(given)
        if name in names:
            raise UserError(f"there are two systems of the name {name!r}; give the one of {path} another")
        names.append(name)
        hypotheses = test.ordered_hypotheses(external.read_hypotheses(path), str(path))
        found.append(System(name, "external", (scoring.run(test, hypotheses, None),)))
    return found


def _judged(
    options: Namespace,
    title: str,
    target: Path,
    folders: tuple[StudyFolder, ...],
    records: dict[str, Records],
    task: str | None,
    test: TestSet,
    scoring: Scoring,
    systems: list[System],
) -> Leaderboard:
    default: Metric = "cer" if scoring.language in UNSPACED else "wer"
    metric: Metric = options.metric or default
    if not options.output:
        target /= subfolder(options.split, options.long_form, metric, default)
    if not systems[0].length(metric).sum():
        raise UserError(f"{test.source}: no word is left of the references to score against; see --normalizer")
    parts = [system for system in systems if system.is_part]
    systems = [system for system in systems if not system.is_part]
    long = options.split == LONG
    judge = PairwiseTests(metric, statistics.recordings(len(test.ids)) if long else statistics.blocks(test.speakers))
    best = best_on_validation(systems)
    references = _references(options.against, systems, best)
    if references:
        compared = [c for reference in references for c in judge.family(systems, reference)]
    else:
        compared = judge.pairs(systems)
    lowest = min(systems, key=lambda s: (s.errors(metric).sum(), s.name))
    base = _base(options.against, references, systems, lowest)
    groups = group_rows(systems, test, judge)
    rows = leaderboard_rows(
        systems,
        test,
        judge,
        compared,
        reference=base,
        best=best.name if best else lowest.name,
        normalizer=scoring.shown,
        worst=worst_groups(groups),
        unmarked={s.name: scoring.unmarked_wer(test, s) for s in systems} if scoring.language == "ar" else {},
    )
    return Leaderboard(
        title=title,
        split=options.split,
        folder=target,
        studies=folders,
        records=records,
        task=task,
        test=test,
        scoring=scoring,
        systems=tuple(systems),
        judge=judge,
        comparisons=tuple(compared),
        rows=tuple(rows),
        groups=tuple(groups),
        reference=base,
        best=best.name if best else lowest.name,
        data_curve=tuple(data_curve(systems, parts, judge)),
    )


def subfolder(split: str, long_form: str, metric: Metric, default: Metric) -> str:
    """Return where a leaderboard goes below comparison/, so that no split or metric overwrites another.

    Test by the language's default metric is in comparison/ itself; others are in folders such as validation, cer,
    validation_cer and long_sequential.
    """
    name = {"test": "", LONG: f"long_{long_form}"}.get(split, split)
    return "_".join(part for part in (name, "" if metric == default else metric) if part)


def _references(against: list[str], systems: list[System], best: System | None) -> list[System]:
    """Return the references: those of --against, else every baseline and the system that is best on validation."""
    by_name = {system.name: system for system in systems}
    for name in against:
        if name not in by_name:
            raise UserError(f"--against {name!r} is not on the board; {nearest(name, by_name)}")
    if against:
        return [by_name[name] for name in against]
    baselines = [system for system in systems if system.kind in ("zero_shot", "recipe")]
    return baselines + ([best] if best and best not in baselines else [])


def _base(against: list[str], references: list[System], systems: list[System], lowest: System) -> str:
    """Return what differences are relative to: --against, else the zero-shot model, else the first reference."""
    if against:
        return against[0]
    zero_shot = [system for system in references if system.kind == "zero_shot"]
    return (zero_shot or references or [lowest])[0].name
