"""Write the captions of the tables."""

import json
from collections import Counter

from harness.compare.leaderboard import Leaderboard
from harness.compare.tables.rows import trial_counts
from harness.orchestration.summary import disagreement

METRICS = {"wer": "normalised WER", "wer_raw": "WER of the raw texts", "cer": "normalised CER"}


def captions(leaderboard: Leaderboard) -> list[str]:
    """Return the paragraphs below the leaderboard."""
    return [
        text
        for text in (
            _data(leaderboard),
            _errors(leaderboard),
            _choice(leaderboard),
            _judging(leaderboard),
            _data_curve(leaderboard),
            *_warnings(leaderboard),
        )
        if text
    ]


def paper_caption(leaderboard: Leaderboard) -> str:
    """Return the caption of the LaTeX table: normalizer, meaning of ±, K, test and family size."""
    return f"{_data(leaderboard)} {_errors(leaderboard)}"


def _data(leaderboard: Leaderboard) -> str:
    test, words = leaderboard.test, int(leaderboard.systems[0].length("wer").sum())
    decodings = sorted({row.decoding for row in leaderboard.rows if row.kind != "external"})
    hours = sum(seconds or 0.0 for seconds in test.seconds)
    length = f", {hours:.0f} s of audio" if hours else ""
    return (
        f"{leaderboard.split.capitalize()}: {len(test.ids)} utterances{length}, {words} words. "
        f"Ranked by {METRICS[leaderboard.judge.metric]}. Normaliser: {leaderboard.scoring.shown}."
        + (f" Decoding: {'; '.join(decodings)}." if decodings else "")
    )


def _errors(leaderboard: Leaderboard) -> str:
    blocks = leaderboard.judge.blocks
    if all(row.ci_high is None for row in leaderboard.rows):
        return f"No inference: K = {blocks.number} {blocks.kind} are fewer than 5, so no interval is printed."
    family = max(c.family for c in leaderboard.comparisons) if leaderboard.comparisons else 0
    text = f"± is half the 95 % jackknife-t interval over K = {blocks.number} {blocks.kind}."
    if not family:
        return text
    tests = "1 comparison" if family == 1 else f"{family} comparisons"
    against = f"Differences, in points, are to {leaderboard.reference}. " if family else ""
    return f"{text} {against}Holm p: jackknife-t, adjusted over the reference's family of {tests}."


def _choice(leaderboard: Leaderboard) -> str:
    counts = sum((Counter(trial_counts(held)) for held in leaderboard.records.values()), Counter[str]())
    trials = ", ".join(f"{number} {state}" for state, number in counts.items())
    parts = []
    if trials:
        parts.append(
            f"Tuned rows were chosen on validation (trials: {trials}); gap: test less validation WER, in points."
        )
    if leaderboard.best and any(row.tied_with_best is not None for row in leaderboard.rows):
        how = "best on validation" if leaderboard.records else "lowest here, and so flattered by chance"
        parts.append(f"Tied: Holm p of .05 or more against {leaderboard.best} ({how}).")
    cost = next((s.record.cost for s in leaderboard.systems if s.record and s.record.cost), None)
    if cost:
        kind = "of the trainer process (no GPU)" if cost.memory_kind == "process_rss" else "reserved on the GPU"
        parts.append(f"Peak memory {kind}.")
    packed = [s.name for s in leaderboard.systems if s.record and s.record.cost and s.record.cost.packed]
    if packed:
        parts.append(
            f"Trained in one pass with other trials: {', '.join(packed)}; training time and memory are shares."
        )
    return " ".join(parts)


def _data_curve(leaderboard: Leaderboard) -> str:
    points = [f"{p.hours:.2g} h {100 * p.rate:.1f} %" for p in leaderboard.data_curve if p.hours]
    if not points:
        return ""
    return f"By hours of training speech, the best trial's settings under the same budget: {', '.join(points)}."


def _judging(leaderboard: Leaderboard) -> str:
    """If rungs were evaluated by loss, say how often loss and WER rank trials differently."""
    parts = []
    for folder in leaderboard.studies:
        space = json.loads(folder.manifest.read_text(encoding="utf-8"))["identity"]["space"]
        trials = [record for _, record in leaderboard.records[folder.path.name] if record.kind == "trial"]
        if space.get("judge") == "loss" and (found := disagreement(trials)):
            parts.append(
                f"Rungs before the last were evaluated by loss, which ranks {found[0]} of {found[1]} pairs of "
                "finished trials otherwise than WER does."
            )
    return " ".join(parts)


def _warnings(leaderboard: Leaderboard) -> list[str]:
    found = []
    if leaderboard.judge.blocks.warning:
        found.append(f"Note: {leaderboard.judge.blocks.warning}.")
    if leaderboard.split == "validation" and leaderboard.records:
        found.append("Note: tuned rows were selected on these very data, which flatters them; test was not read.")
    single = [s.name for s in leaderboard.systems if len(s.runs) == 1 and s.kind in ("recipe", "trial")]
    if single:
        found.append(
            f"Note: {len(single)} trained {'row has' if len(single) == 1 else 'rows have'} one run only, so what is "
            "said holds on this test set only; replicates with fresh seeds would tell more."
        )
    empty = int((leaderboard.systems[0].length("wer") == 0).sum())
    if empty:
        found.append(f"Note: {empty} references are empty; what was inserted there counts.")
    return found
