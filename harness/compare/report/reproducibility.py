"""Write REPRODUCIBILITY.md, the answers to a reviewer's checklist, from the records."""

import json
from collections import Counter
from typing import Any

from harness.compare.leaderboard import Leaderboard
from harness.compare.report.captions import captions
from harness.compare.scoring.systems import Records
from harness.compare.tables.escape import markdown
from harness.orchestration.time_accounting import time_spent, time_table
from harness.records.study_folder import StudyFolder
from harness.records.tuned_baselines import tuned_baselines
from harness.search.baseline_tuning import SEARCH_DESCRIPTION


def reproducibility(leaderboard: Leaderboard) -> str:
    """Return the document; it names what the records lack."""
    parts = [
        f"# Reproducibility: {markdown(leaderboard.title)}\n",
        "Written by compare.py from the records of the runs.\n",
    ]
    for folder in leaderboard.studies:
        parts += _study(folder, leaderboard.records[folder.path.name])
    parts += ["## Best configurations\n", _configurations(leaderboard)]
    parts += ["## Error bars and tests\n", *(markdown(text) + "\n" for text in captions(leaderboard))]
    external = [system.name for system in leaderboard.systems if system.kind == "external"]
    if external:
        names = ", ".join(map(markdown, external))
        parts.append(f"Transcripts from elsewhere, of which nothing but the texts is known: {names}.\n")
    return "\n".join(parts)


def _study(folder: StudyFolder, records: Records) -> list[str]:
    manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
    identity = manifest["identity"]
    space = identity["space"]
    parts = [f"## Study {markdown(manifest['study'])}\n"]
    parts.append(
        f"- model: {markdown(identity['model'])}; task: {markdown(identity['task']['name'])}; seed {manifest['seed']}"
    )
    parts.append(
        f"- sampler: {_settings(space['sampler'])}; pruner: {_settings(space.get('pruner') or {'name': 'none'})}"
    )
    budget = identity["budget"]
    parts.append(f"- budget of a trial: {_settings(budget)}")
    parts.append("- selection criterion: the lowest normalised WER on validation at the last rung\n")
    parts += ["| setting | distribution |", "|---|---|"]
    parts += [f"| {markdown(name)} | {markdown(_distribution(d))} |" for name, d in space["sampled"].items()]
    fixed = {name: value for name, value in space["fixed"].items() if value is not None}
    parts += [f"| {markdown(name)} | fixed: {markdown(str(value))} |" for name, value in fixed.items()]
    if searches := tuned_baselines(records):
        names = ", ".join(markdown(f"{held.baseline} ({held.trials} trials)") for held in searches)
        parts.append(f"\nBaselines with a search of their own, {SEARCH_DESCRIPTION}: {names}")
    parts += ["", *_compute(records), *_time(folder), *_environments(records), *_data(folder, records)]
    return parts


def _settings(held: dict[str, Any]) -> str:
    return markdown(", ".join(f"{key} {value}" for key, value in held.items() if value is not None))


def _distribution(held: dict[str, Any]) -> str:
    if held.get("choices") is not None:
        return "one of " + ", ".join(_choice(value) for value in held["choices"])
    shape = "log-uniform" if held.get("log") else "uniform"
    step = f" in steps of {held['step']:g}" if held.get("step") else ""
    return f"{shape} from {held['low']:g} to {held['high']:g}{step}"


def _choice(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _compute(records: Records) -> list[str]:
    kinds = Counter((record.kind, record.state) for _, record in records)
    lines = ["Runs, all of them:\n", "| kind | state | runs |", "|---|---|---:|"]
    lines += [f"| {kind} | {state} | {number} |" for (kind, state), number in sorted(kinds.items())]
    costs = [record.cost for _, record in records if record.cost]
    train, evaluation = sum(c.train_seconds for c in costs), sum(c.evaluation_seconds for c in costs)
    evaluations = sum(len(record.rungs) for _, record in records)
    lines.append(f"\n- {evaluations} evaluations on validation")
    if costs:
        one, evaluated = train / len(costs), evaluation / len(costs)
        lines.append(f"- compute of one run, on average: {one:.0f} s training, {evaluated:.0f} s evaluation")
    lines.append(f"- compute in total: {train:.0f} s training, {evaluation:.0f} s evaluation")
    seeds = ", ".join(map(str, sorted({record.seed for _, record in records})))
    return [*lines, f"- seeds: {seeds}\n"]


def _time(folder: StudyFolder) -> list[str]:
    """Return the wall time of the search by phase."""
    if not (rows := time_table(time_spent(folder))):
        return []
    wall = time_spent(folder)["wall"]
    lines = [f"Wall time of all trainers of the search, {wall:,.0f} s:\n", "| phase | share | what |", "|---|---:|---|"]
    return [*lines, *(f"| {phase} | {share} | {means} |" for phase, share, means in rows), ""]


def _environments(records: Records) -> list[str]:
    """Return every different environment once."""
    found: dict[str, dict[str, Any]] = {}
    for _, record in records:
        found.setdefault(json.dumps(record.environment, sort_keys=True), record.environment)
    lines = []
    for held in found.values():
        name, threads = held.get("device_name", "not known"), held.get("threads", "not known")
        hardware = f"{held.get('device', 'not known')} ({name}, threads: {threads})"
        packages = ", ".join(f"{name} {number}" for name, number in (held.get("packages") or {}).items())
        dirty = {"True": "with uncommitted changes", "False": "clean"}.get(str(held.get("dirty")), "state not known")
        lines.append(f"- hardware: {markdown(hardware)}")
        lines.append(f"- software: Python {held.get('python', 'not known')}, {markdown(packages)}")
        lines.append(f"- commit: {held.get('commit') or 'not known'}, {dirty}")
    return [*lines, ""]


def _data(folder: StudyFolder, records: Records) -> list[str]:
    hashes = {split: value for _, record in records for split, value in record.data.items()}
    lines = [
        "- data: " + ", ".join(f"{markdown(split)} {markdown(str(value))}" for split, value in sorted(hashes.items()))
    ]
    path = folder.path / "data_report.json"
    if path.is_file():
        report = json.loads(path.read_text(encoding="utf-8"))
        for split, held in report.get("splits", {}).items():
            lines.append(f"- {markdown(split)}: {_settings(held)}")
        excluded = ", ".join(f"{number} {reason}" for reason, number in report.get("excluded", {}).items())
        lines.append(f"- excluded: {markdown(excluded) or 'nothing'}")
    return [*lines, ""]


def _configurations(leaderboard: Leaderboard) -> str:
    lines = []
    for row in leaderboard.rows:
        system = next(s for s in leaderboard.systems if s.name == row.system)
        if system.record is not None:
            settings = json.dumps(system.record.config.settings(), ensure_ascii=False)
            seeds = ", ".join(str(run.seed) for run in system.runs)
            lines.append(f"- {markdown(row.system)} (scored seeds: {seeds}): `{settings}`")
    return "\n".join(lines) + "\n"
