"""Draw figures as PDF, SVG and PNG for a column of a paper: 3.4 inches wide, 8 point, colour-blind safe."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.compare.leaderboard import Leaderboard
from harness.compare.report.page import Picture
from harness.compare.scoring.systems import Records
from harness.compare.statistics.search_curves import BudgetPoint, CurvePoint, Importance
from harness.compare.tables.escape import visible
from harness.compare.tables.rows import cost_front

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito (2008): told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#8C959F"
COLUMN = 3.4
STYLE = {
    "font.size": 8,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "svg.hashsalt": "whisper-sweep",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "savefig.dpi": 200,
}
NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
LONGEST_NAME = 28
MAX_LINES = 60  # trials in one figure
MAX_GROUPS = 20
Draw = Callable[["Figure"], str]  # draws, and returns a sentence on what it left out, if anything


def short(name: str) -> str:
    """Shorten a name to fit beside an axis."""
    text = visible(name)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def draw_all(
    leaderboard: Leaderboard,
    curves: Sequence[CurvePoint],
    budget: Sequence[BudgetPoint],
    importances: Sequence[Importance],
) -> list[Picture]:
    """Draw every figure that has data, and write each to figures/ in three formats."""
    rate, kind = _rate(leaderboard).removesuffix(" %"), leaderboard.groups[0].grouping if leaderboard.groups else ""
    parts = len({row.group for row in leaderboard.groups if row.grouping == kind})
    method = importances[0].method if importances else ""
    decoded = any(point.wer is not None for point in curves)
    timed = sum(row.train_seconds is not None for row in leaderboard.rows) > 1
    wanted: list[tuple[bool, str, str, Draw, float]] = [
        (True, "ranking", f"{rate} with 95 % intervals; filled: tied with the best",
         lambda f: ranking(f, leaderboard), 0.22 * len(leaderboard.rows) + 0.8),
        (timed, "pareto", f"{rate} against training time; filled: no system has a lower {rate} in less time",
         lambda f: pareto(f, leaderboard), 2.2 + 0.12 * len(leaderboard.rows) / 2),
        (decoded, "learning_curves", "Validation WER of each trial; dashed: pruned",
         lambda f: learning(f, curves), 2.4),
        (bool(curves), "parallel_coordinates", "Sampled settings and validation WER of each trial",
         lambda f: parallel(f, leaderboard), 2.6),
        (bool(importances), "importances", f"Importance of settings for validation WER ({method})",
         lambda f: bars(f, importances), 0.2 * len(importances) + 0.9),
        (bool(budget), "budget", "Expected best validation WER of n random trials, 80 % band; "
         "trials without a final result count as the worst",
         lambda f: expected(f, budget), 2.4),
        (bool(leaderboard.data_curve), "data_curve", f"{rate} of the best settings by hours of speech, 95 % intervals",
         lambda f: hours(f, leaderboard), 2.4),
        (parts > 0, "groups", f"{rate} by {kind}",
         lambda f: groups(f, leaderboard),
         min(9.0, 0.13 * min(parts, MAX_GROUPS) * (min(len(leaderboard.rows), len(COLOURS)) + 1) + 1.0)),
    ]  # fmt: skip
    found = [(name, caption, draw, height) for there, name, caption, draw, height in wanted if there]
    return [_drawn(leaderboard.folder / "figures", *each) for each in found]


def _drawn(folder: Path, name: str, caption: str, draw: Draw, height: float) -> Picture:
    import matplotlib
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(COLUMN, height), layout="constrained")
        left_out = draw(figure)
        for ending, metadata in NO_DATE.items():
            content = io.BytesIO()
            figure.savefig(content, format=ending, metadata=metadata)
            (folder / f"{name}.{ending}").write_bytes(content.getvalue())
    caption = f"{caption}. {left_out}" if left_out else caption
    return Picture(name, caption, (folder / f"{name}.svg").read_bytes())


def ranking(figure: "Figure", leaderboard: Leaderboard) -> str:
    """Draw systems by rate with intervals; a bar joins those tied with the best, as in a critical-difference plot."""
    axes, rows = figure.subplots(), leaderboard.rows
    for place, row in enumerate(rows):
        low, high = (row.ci_low, row.ci_high) if row.ci_low is not None and row.ci_high is not None else (row.rate,) * 2
        axes.plot([100 * low, 100 * high], [place, place], color=COLOURS[0])
        filled = COLOURS[0] if row.tied_with_best else "white"
        axes.plot(100 * row.rate, place, "o", color=COLOURS[0], markerfacecolor=filled, markersize=5)
    axes.set_yticks(range(len(rows)), [short(row.system) for row in rows])
    axes.invert_yaxis()
    tied = [place for place, row in enumerate(rows) if row.tied_with_best]
    if len(tied) > 1:
        edge = axes.get_xlim()[1]
        axes.plot([edge, edge], [min(tied) - 0.2, max(tied) + 0.2], color="black", linewidth=2.5, clip_on=False)
    axes.set_xlabel(_rate(leaderboard))
    return ""


def _rate(leaderboard: Leaderboard) -> str:
    return f"{leaderboard.judge.metric.upper().replace('_', ' ')} %"


def pareto(figure: "Figure", leaderboard: Leaderboard) -> str:
    """Draw rate against training time, with the Pareto front of these two."""
    axes, front = figure.subplots(), cost_front(leaderboard.rows, "train_seconds")
    for place, (row, on_front) in enumerate(zip(leaderboard.rows, front, strict=True)):
        if row.train_seconds is None:
            continue
        colour = COLOURS[place % len(COLOURS)]
        filled = colour if on_front else "white"
        marker = "os^Dv"[place % 5]
        axes.plot(row.train_seconds, 100 * row.rate, marker, color=colour, markerfacecolor=filled, linestyle="none",
                  label=short(row.system))  # fmt: skip
    axes.set_xlabel("training, seconds")
    axes.set_ylabel(_rate(leaderboard))
    axes.margins(0.1)
    figure.legend(loc="outside upper center", ncols=2, fontsize=7, handletextpad=0.2, columnspacing=0.8)
    missing = [row.system for row in leaderboard.rows if row.train_seconds is None]
    return f"Without a training time, and not shown: {', '.join(missing)}." if missing else ""


def learning(figure: "Figure", curves: Sequence[CurvePoint]) -> str:
    """Draw validation WER over examples: pruned trials dashed, the best in bold."""
    axes = figure.subplots()
    by_trial: dict[tuple[str, int], list[tuple[CurvePoint, float]]] = {}
    for point in curves:
        if point.wer is not None:  # a rung evaluated by loss alone has none
            by_trial.setdefault((point.study, point.trial), []).append((point, 100 * point.wer))
    ended = [points for points in by_trial.values() if points[-1][0].state == "complete"]
    best = min(ended or list(by_trial.values()), key=lambda points: points[-1][1])
    chosen = sorted(by_trial.values(), key=lambda points: points[-1][1])[:MAX_LINES]
    for points in chosen:
        pruned = points[-1][0].state != "complete"
        style = {"color": GREY, "linestyle": "--" if pruned else "-", "alpha": 0.8, "linewidth": 0.9}
        if points is best:
            style = {"color": COLOURS[0], "linewidth": 2.0, "zorder": 5}
        x, y = [point.examples for point, _ in points], [wer for _, wer in points]
        axes.plot(x, y, marker="x" if pruned else "o", markersize=3, **style)  # type: ignore[arg-type]
    point, wer = best[-1]
    axes.annotate(f"trial {point.trial}", (point.examples, wer), xytext=(-4, -8),
                  textcoords="offset points", ha="right", color=COLOURS[0])  # fmt: skip
    axes.margins(y=0.15)
    axes.set_xlabel("examples seen")
    axes.set_ylabel("validation WER %")
    without = len({(point.study, point.trial) for point in curves}) - len(by_trial)
    return " ".join(
        [*_best_only(len(by_trial)), *([f"{without} trials have no WER yet and are not shown."] if without else [])]
    )


def _best_only(trials: int) -> list[str]:
    return [f"The {MAX_LINES} trials with the lowest WER of {trials}."] if trials > MAX_LINES else []


def _sampled(leaderboard: Leaderboard) -> tuple[list[str], list[tuple[dict[str, object], float]]]:
    """Return the settings that differ between trials, and settings and WER of each evaluated trial."""
    held: Records = [item for records in leaderboard.records.values() for item in records if item[1].kind == "trial"]
    found = [(record.config.settings(), record.scores.wer) for _, record in held if record.scores]
    names = sorted({name for settings, _ in found for name in settings})
    return [n for n in names if len({str(settings.get(n)) for settings, _ in found}) > 1], found


def parallel(figure: "Figure", leaderboard: Leaderboard) -> str:
    """Draw each trial as a line through its settings; darker lines have lower WER."""
    names, trials = _sampled(leaderboard)
    axes = figure.subplots()
    if not names:
        axes.text(0.5, 0.5, "no setting differs", ha="center")
        return ""
    places = [_places([settings.get(name) for settings, _ in trials]) for name in names]
    rates = _places([100 * rate for _, rate in trials])
    order = sorted(range(len(trials)), key=lambda t: -trials[t][1])[-MAX_LINES:]
    for rank, trial in enumerate(order):
        share = (rank + 1) / len(order)
        heights = [*(axis[0][trial] for axis in places), rates[0][trial]]
        axes.plot(range(len(heights)), heights, color=COLOURS[0], alpha=0.15 + 0.75 * share**2, linewidth=0.6 + share)
    for place, axis in enumerate([*places, rates]):
        axes.axvline(place, color="black", linewidth=0.6)
        for text, height, anchor in ((axis[1], -0.02, "top"), (axis[2], 1.02, "bottom")):
            axes.text(place, height, text, ha="center", va=anchor, fontsize=5.5)
    labels = [name.replace("_", "\n") for name in names]
    axes.set_xticks(range(len(names) + 1), [*labels, "WER %"], fontsize=6)
    axes.tick_params(axis="x", pad=14, length=0)
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_ylim(-0.1, 1.1)
    return " ".join(_best_only(len(trials)))


def _places(values: list[object]) -> tuple[list[float], str, str]:
    """Return heights from 0 to 1 and the labels of both ends; numbers over a wide range are on a log scale."""
    import math

    numbers = [float(v) if isinstance(v, int | float) and not isinstance(v, bool) else None for v in values]
    known = [n for n in numbers if n is not None]
    if len(known) < len(values):
        kinds = sorted({str(v) for v in values}, key=lambda text: (len(text), text))
        step = max(1, len(kinds) - 1)
        return [kinds.index(str(v)) / step for v in values], f"{len(kinds)} sets", ""
    low, high = min(known), max(known)
    log = low > 0 and high / low >= 10
    scale: Callable[[float], float] = math.log if log else float
    width = (scale(high) - scale(low)) or 1.0
    return [(scale(n) - scale(low)) / width for n in known], f"{low:.3g}", f"{high:.3g}"


def bars(figure: "Figure", importances: Sequence[Importance]) -> str:
    """Draw importances, the highest on top."""
    axes = figure.subplots()
    axes.barh(range(len(importances)), [i.importance for i in importances], color=COLOURS[0], height=0.65)
    axes.set_yticks(range(len(importances)), [short(i.setting) for i in importances])
    axes.invert_yaxis()
    axes.set_xlabel(f"share of the variation, {importances[0].trials} trials")
    return ""


def expected(figure: "Figure", budget: Sequence[BudgetPoint]) -> str:
    """Draw the budget curve of each study."""
    axes = figure.subplots()
    for place, study in enumerate(dict.fromkeys(point.study for point in budget)):
        points = [point for point in budget if point.study == study]
        counts = [point.trials for point in points]
        axes.plot(counts, [100 * p.expected_best for p in points], color=COLOURS[place % 7], label=short(study))
        banded = [p for p in points if p.band_low is not None and p.band_high is not None]
        lows, highs = [100 * (p.band_low or 0) for p in banded], [100 * (p.band_high or 0) for p in banded]
        axes.fill_between([p.trials for p in banded], lows, highs, color=COLOURS[place % 7], alpha=0.15, linewidth=0)
    axes.set_xlabel("random trials")
    axes.set_ylabel("best validation WER %")
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    axes.legend()
    return ""


def hours(figure: "Figure", leaderboard: Leaderboard) -> str:
    """Draw rate over hours of training speech, on a logarithmic axis labelled with the hours."""
    axes = figure.subplots()
    axes.set_xscale("log")
    for place, study in enumerate(dict.fromkeys(point.study for point in leaderboard.data_curve)):
        points = [p for p in leaderboard.data_curve if p.study == study and p.hours]
        x, y = [p.hours or 0.0 for p in points], [100 * p.rate for p in points]
        known = [p for p in points if p.ci_low is not None and p.ci_high is not None]
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(x, y, "o-", color=colour, markersize=4, label=short(study))
        for p in known:
            axes.plot(
                [p.hours or 0.0] * 2, [100 * (p.ci_low or 0), 100 * (p.ci_high or 0)], color=colour, linewidth=0.8
            )
    ticks = sorted({p.hours for p in leaderboard.data_curve if p.hours})
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.minorticks_off()
    axes.margins(0.1)
    axes.set_xlabel("hours of training speech")
    axes.set_ylabel(_rate(leaderboard))
    if len(leaderboard.studies) > 1:
        axes.legend()
    unknown = sum(not p.hours for p in leaderboard.data_curve)
    return f"{unknown} points of unknown hours are not shown." if unknown else ""


def groups(figure: "Figure", leaderboard: Leaderboard) -> str:
    """Draw rates by group under the first grouping, with a bar for each system, for the largest groups."""
    axes = figure.subplots()
    kind = leaderboard.groups[0].grouping
    held = {(row.group, row.system): row for row in leaderboard.groups if row.grouping == kind}
    sizes = {row.group: row.utterances for row in held.values()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:MAX_GROUPS]
    names = [name for name in sizes if name in largest]
    systems = [row.system for row in leaderboard.rows][: len(COLOURS)]
    height = 0.8 / len(systems)
    for place, system in enumerate(systems):
        heights = [index - 0.4 + height * (place + 0.5) for index in range(len(names))]
        rates = [held[name, system].rate for name in names]
        values = [float("nan") if rate is None else 100 * rate for rate in rates]
        axes.barh(heights, values, height=height, color=COLOURS[place], label=short(system))
        for at, rate in zip(heights, rates, strict=True):
            if rate is None:
                axes.text(0, at, " no words", fontsize=5, va="center", color=COLOURS[place])
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel(_rate(leaderboard))
    figure.legend(loc="outside upper center", ncols=2, fontsize=7, handlelength=1.0, columnspacing=0.8)
    parts = [(len(systems), len(leaderboard.rows), "best systems"), (len(names), len(sizes), "largest groups")]
    cut = [f"the {shown} {what} of {total}" for shown, total, what in parts if shown < total]
    return f"Shown: {' and '.join(cut)}; groups.csv has all." if cut else ""
