"""Figures and the report's plot: what is drawn, from which numbers, and what is said to be left out."""

import html
import json
import re
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from harness.compare.report import figures
from harness.compare.statistics.groups import GroupRow
from harness.compare.statistics.search_curves import CurvePoint


def board(rates: dict[str, float | None], seconds: list[float | None] | None = None, groups: list | None = None):
    seconds = seconds or [1.0] * len(rates)
    rows = [
        SimpleNamespace(system=name, rate=rate, train_seconds=spent, tied_with_best=False, ci_low=None, ci_high=None)
        for (name, rate), spent in zip(rates.items(), seconds, strict=True)
    ]
    return SimpleNamespace(rows=rows, groups=groups or [], judge=SimpleNamespace(metric="wer"))


def test_the_pareto_figure_fills_the_front_of_its_own_two_axes():
    figure = Figure()
    made = board({"slow": 0.1, "fast": 0.3, "worse": 0.2, "API": 0.05}, [100.0, 1.0, 200.0, None])
    left_out = figures.pareto(figure, made)
    marks = {line.get_label(): line.get_markerfacecolor() for line in figure.axes[0].lines}
    assert set(marks) == {"slow", "fast", "worse"} and marks["worse"] == "white"
    assert marks["slow"] != "white" and marks["fast"] != "white"
    assert left_out == "Without a training time, and not shown: API."


def group(name: str, system: str, rate: float | None, utterances: int = 10) -> GroupRow:
    return GroupRow(grouping="condition", group=name, system=system, utterances=utterances, reference_words=50, rate=rate, ci_low=None, ci_high=None)  # fmt: skip


def test_a_group_without_words_has_no_bar():
    figure = Figure()
    rows = [group("quiet", "a", 0.25), group("silence", "a", None)]
    assert figures.groups(figure, board({"a": 0.25}, groups=rows)) == ""
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths[0] == pytest.approx(25) and widths[1] != widths[1]
    assert [text.get_text() for text in figure.axes[0].texts] == [" no words"]


def test_the_groups_figure_says_which_systems_and_groups_it_leaves_out():
    figure = Figure()
    systems = {f"s{n}": 0.1 for n in range(8)}
    rows = [group(f"g{n:02}", system, 0.1, utterances=100 - n) for n in range(25) for system in systems]
    said = figures.groups(figure, board(systems, groups=rows))
    assert said == "Shown: the 7 best systems of 8 and the 20 largest groups of 25; groups.csv has all."
    assert len(figure.axes[0].patches) == 7 * 20


def test_learning_curves_say_which_trials_they_leave_out():
    points = [
        CurvePoint(study="s", trial=n, state="complete", rung=0, step=1, examples=8, train_seconds=1.0, wer=0.5 + n / 100, loss=1.0) for n in range(70)
    ] + [CurvePoint(study="s", trial=70, state="pruned", rung=0, step=1, examples=8, train_seconds=1.0, wer=None, loss=1.0)]  # fmt: skip
    said = figures.learning(Figure(), points)
    assert said == "The 60 trials with the lowest WER of 70. 1 trials have no WER yet and are not shown."


@pytest.mark.slow
def test_report_and_table_agree_on_the_front(study, run):
    assert run("--study", "made", "--top", 4)[0] == 0
    page = (study.folder / "comparison/report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    points = {point["system"]: point for point in data["points"]}
    rows = json.loads((study.folder / "comparison/leaderboard.json").read_text())
    for row in rows:
        beaten = any(
            other["wer"] <= row["wer"] and other["train_seconds"] <= row["train_seconds"]
            and (other["wer"], other["train_seconds"]) != (row["wer"], row["train_seconds"])
            for other in rows
        )  # fmt: skip
        assert points[row["system"]]["front"]["train_seconds"] is not beaten, row["system"]
    assert "no system has a lower WER in less time" in html.unescape(page)
