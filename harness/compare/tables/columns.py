"""Define the columns of printed leaderboards, and the presets of --columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.compare.tables.rows import Row
from harness.errors import UserError, nearest

MINUS = "\N{MINUS SIGN}"


def percent(value: float | None, digits: int = 1) -> str:
    """Format a fraction as a percentage, without the sign %."""
    return "" if value is None else f"{100 * value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None) -> str:
    """Format a difference of fractions in percentage points with its sign; what rounds to 0 has none."""
    if value is None:
        return ""
    shown = f"{100 * value:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown.replace("-", MINUS)


def whole(value: float | None) -> str:
    """Format a number without decimals, with thousands separators."""
    return "" if value is None else f"{value:,.0f}"


def millions(value: float | None, digits: int = 1) -> str:
    """Format bytes as MB (10^6)."""
    return "" if value is None else f"{value / 1e6:,.{digits}f}"


def probability(value: float | None) -> str:
    """Format a p value: three decimals, or "<.001"."""
    if value is None:
        return ""
    return "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def _thousand(value: float | None) -> float | None:
    return None if value is None else 1000 * value


def yes(value: bool | None) -> str:
    """Format a boolean as a mark, or nothing."""
    return "" if value is None else "yes" if value else "no"


def kind(value: str) -> str:
    """Format the kind of a system."""
    return {"zero_shot": "zero-shot", "trial": "tuned"}.get(value, value)


def rate_with_interval(row: Row, field: str) -> str:
    """Format a rate, with ± half its interval if it is the ranking metric."""
    shown = percent(getattr(row, field))
    if field == row.metric and row.ci_high is not None:
        shown += f" ±{percent(row.ci_high - row.rate)}"
    return shown


def difference(row: Row) -> str:
    """Format the difference to the reference in points, with its interval."""
    if row.difference is None:
        return "reference" if row.system == row.reference else ""
    if row.difference_low is None:
        return signed(row.difference)
    return f"{signed(row.difference)} [{signed(row.difference_low)}, {signed(row.difference_high)}]"


@dataclass(frozen=True)
class Column:
    """A column: its name for --columns, its heading, the text of a cell, and its meaning."""

    name: str
    heading: str
    cell: Callable[[Row], str]
    means: str
    left: bool = False


COLUMNS = [
    Column("rank", "#", lambda r: str(r.rank), "place by the ranking metric"),
    Column("system", "system", lambda r: r.system, "its name", left=True),
    Column("kind", "kind", lambda r: kind(r.kind), "zero-shot, recipe, tuned, external", left=True),
    Column(
        "seeds",
        "seeds",
        lambda r: str(r.seeds) + (f" ({r.failed_seeds} failed)" if r.failed_seeds else ""),
        "runs that the row averages",
    ),
    Column("wer", "WER %", lambda r: rate_with_interval(r, "wer"), "normalised WER, ± half its 95 % interval"),
    Column("seed_sd", "seed SD", lambda r: percent(r.seed_sd, 2), "standard deviation over seeds, in points"),
    Column("wer_raw", "raw %", lambda r: rate_with_interval(r, "wer_raw"), "WER of the texts as they are"),
    Column("cer", "CER %", lambda r: rate_with_interval(r, "cer"), "normalised character error rate"),
    Column("wer_unmarked", "unmarked %", lambda r: percent(r.wer_unmarked), "WER without tashkeel (Arabic)"),
    Column("wer_macro", "macro %", lambda r: percent(r.wer_macro), "mean of the datasets' WERs"),
    Column("ins", "ins %", lambda r: percent(r.insertions), "inserted words"),
    Column("del", "del %", lambda r: percent(r.deletions), "deleted words"),
    Column("sub", "sub %", lambda r: percent(r.substitutions), "substituted words"),
    Column("ser", "SER %", lambda r: percent(r.sentence_error_rate), "utterances with an error"),
    Column("mer", "MER %", lambda r: percent(r.mer), "match error rate"),
    Column("wil", "WIL %", lambda r: percent(r.wil), "word information lost"),
    Column("loops", "loop %", lambda r: percent(r.loop_rate), "utterances that repeat a phrase of five words"),
    Column("over_100", ">100 %", lambda r: percent(r.over_100_rate), "utterances with more errors than words"),
    Column("silence", "ins/h silence", lambda r: whole(r.insertions_per_silent_hour), "words per hour of silence"),
    Column("werr", "WERR %", lambda r: percent(r.werr), "relative reduction against the reference"),
    Column("difference", "difference", difference, "points against the reference, with its 95 % interval"),
    Column("p_holm", "Holm p", lambda r: probability(r.p_holm), "jackknife-t p, adjusted over the family"),
    Column("mapsswe_p", "MAPSSWE p", lambda r: probability(r.mapsswe_p), "NIST's matched-pairs test, not adjusted"),
    Column("claim", "claim", lambda r: r.verdict or "", "what may be said against the reference", left=True),
    Column("tied", "tied", lambda r: yes(r.tied_with_best), "tied with the best on validation: Holm p of .05 or more"),
    Column("validation", "val. %", lambda r: percent(r.wer_validation), "WER on validation, by which runs are chosen"),
    Column("second", "2nd task %", lambda r: percent(r.wer_second), "WER on the task of --forgetting"),
    Column("forgotten", "forgotten", lambda r: signed(r.forgotten), "its difference to the untouched model's, points"),
    Column("gap", "gap", lambda r: signed(r.gap), "this split less validation: the winner's curse"),
    Column(
        "worst",
        "worst group",
        lambda r: f"{r.worst_group} {percent(r.worst_group_rate)}" if r.worst_group else "",
        "the group with the highest rate",
        left=True,
    ),
    Column("trainable", "trainable", lambda r: whole(r.trainable_parameters), "parameters that were trained"),
    Column("adapter", "adapter MB", lambda r: millions(r.adapter_bytes), "what is stored"),
    Column("memory", "peak MB", lambda r: millions(r.peak_memory_bytes, 0), "peak memory of the run"),
    Column("train", "train s", lambda r: whole(r.train_seconds), "training, without evaluation"),
    Column("matmul", "matmul %", lambda r: percent(r.matmul_share), "training's share of the machine's matmul rate"),
    Column("tuning", "tuning s", lambda r: whole(r.tuning_seconds), "all trials of its search"),
    Column("trials", "trials", lambda r: whole(r.tuning_trials), "trials of its search"),
    Column("rtfx", "RTFx", lambda r: whole(r.rtfx), "audio seconds per second"),
    Column("latency", "latency ms", lambda r: whole(_thousand(r.latency_seconds)), "one clip alone, on average"),
    Column("steps", "steps", lambda r: whole(r.steps), "optimizer steps"),
    Column("pareto", "Pareto", lambda r: yes(r.pareto), "nothing beats it in error, memory, time and parameters"),
    Column("normalizer", "normaliser", lambda r: r.normalizer, "of the texts before scoring", left=True),
    Column("decoding", "decoding", lambda r: r.decoding, "how transcripts were made", left=True),
    Column("commit", "commit", lambda r: (r.commit or "")[:8], "of the program that trained it", left=True),
]
BY_NAME = {column.name: column for column in COLUMNS}

_COST = "rank system wer trainable adapter memory train matmul tuning trials rtfx latency pareto"
_PAPER = "system seeds wer seed_sd cer difference p_holm"
PRESETS = {
    "short": ["rank", "system", "kind", "wer", "difference", "p_holm", "tied"],
    "full": [column.name for column in COLUMNS],
    "paper": _PAPER.split(),
    "cost": _COST.split(),
}


def chosen(given: str, metric: str) -> list[Column]:
    """Return the columns of a preset or of comma-separated names; the ranking metric is always included.

    Raises:
        UserError: an unknown name.
    """
    names = PRESETS.get(given) or [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in BY_NAME:
            raise UserError(
                f"unknown column {name!r} in --columns; presets: {', '.join(PRESETS)}; {nearest(name, BY_NAME)}"
            )
    if metric not in names:
        place = names.index("wer") if "wer" in names else len(names)
        names = [*names[:place], metric, *names[place:]]
    return [BY_NAME[name] for name in names]


def filled(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """Remove the columns that are empty in every row."""
    return [column for column in columns if any(column.cell(row) for row in rows)]
