"""Make leaderboard.html and report.html, self-contained pages that need no network."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from harness import catalog
from harness.compare.leaderboard import Leaderboard
from harness.compare.report.captions import captions
from harness.compare.statistics.data_curve import FRACTION_FIELDS, DataPoint
from harness.compare.tables import columns
from harness.compare.tables.columns import percent, probability, signed
from harness.compare.tables.escape import visible
from harness.compare.tables.rows import Row, cost_front
from harness.errors import UserError
from harness.orchestration.time_accounting import time_spent, time_table
from harness.spec.published import Figure
from harness.spec.task import FolderSource

# By suffix: systems without mime.types know few of them.
AUDIO_TYPES = {
    ".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".oga": "audio/ogg", ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
}  # fmt: skip
DIFFERENCE = ["system", "reference", "difference [95 %]", "p", "Holm p", "P(better)", "seeds", "MAPSSWE p", "claim"]
MOST_TEXT = 4_000_000  # characters of transcripts in the report
MOST_AUDIO = 6_000_000  # bytes of recordings in the report
COSTS = {
    "train_seconds": "training seconds",
    "peak_memory_bytes": "peak memory, bytes",
    "trainable_parameters": "trainable parameters",
    "adapter_bytes": "stored bytes",
    "rtfx": "RTFx (more is better)",
}


@dataclass(frozen=True)
class Picture:
    """A figure in the report."""

    name: str
    caption: str
    svg: bytes


def _environment() -> Environment:
    found = Environment(loader=PackageLoader("harness.compare.report"), autoescape=True, trim_blocks=True)
    found.filters["visible"] = lambda value: visible(str(value))
    return found


def _asset(name: str) -> Markup:
    text = (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 - our own file, not data


def leaderboard_page(leaderboard: Leaderboard) -> str:
    """Return the page with the table alone."""
    shown = columns.filled(columns.chosen("full", leaderboard.judge.metric), leaderboard.rows)
    page = _environment().get_template("leaderboard.html.j2")
    return page.render(
        title=visible(leaderboard.title),
        style=_asset("style.css"),
        columns=shown,
        rows=leaderboard.rows,
        captions=captions(leaderboard),
    )


def report_page(leaderboard: Leaderboard, pictures: Sequence[Picture], published: Sequence[Figure], lead: str) -> str:
    """Return the report: table, Pareto plot, differences, figures, groups, transcripts with audio."""
    shown = columns.filled(columns.chosen("full", leaderboard.judge.metric), leaderboard.rows)
    short = {column.name for column in columns.chosen("short", leaderboard.judge.metric)} | {"claim", "seeds", "pareto"}
    utterances, left_out = _utterances(leaderboard)
    costs = [(f, label) for f, label in COSTS.items() if any(getattr(r, f) is not None for r in leaderboard.rows)]
    data = {
        "short": [column.name in short for column in shown],
        "metric": leaderboard.judge.metric.upper().replace("_", " "),
        "points": _points(leaderboard.rows, [field for field, _ in costs]),
        "systems": [row.system for row in leaderboard.rows],
        "utterances": utterances,
    }
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=visible(leaderboard.title),
            lead=lead,
            style=_asset("style.css"),
            script=_asset("report.js"),
            columns=shown,
            rows=leaderboard.rows,
            captions=captions(leaderboard),
            notes=[(row.system, row.notes) for row in leaderboard.rows if row.notes],
            costs=costs,
            significance_fields=DIFFERENCE,
            significance=[_difference(c) for c in leaderboard.comparisons],
            hour_fields=FRACTION_FIELDS,
            hours=[_hours(point) for point in leaderboard.data_curve],
            figures=[(p.name, p.caption, base64.b64encode(p.svg).decode()) for p in pictures],
            group_fields=["grouping", "group", "utterances", *(row.system for row in leaderboard.rows)],
            groups=_groups(leaderboard),
            time_fields=["study", "phase", "share", "what it is"],
            time=[(f.path.name, *row) for f in leaderboard.studies for row in time_table(time_spent(f))],
            published_fields=["system", "figure", "data", "source", "what differs"],
            published=[(f.system, f.text, f"{f.data}, {f.split}", f.source, f.differs) for f in published],
            data=data,
            left_out=left_out,
        )
    )


def _points(rows: Sequence[Row], costs: list[str]) -> list[dict[str, Any]]:
    """Return the points of the interactive plot: rate, costs, and whether it is on the Pareto front of each cost."""
    fronts = {field: cost_front(rows, field) for field in costs}
    return [
        {
            "system": row.system,
            "rate": row.rate,
            "low": row.ci_low,
            "high": row.ci_high,
            **{field: getattr(row, field) for field in costs},
            "front": {field: front[place] for field, front in fronts.items()},
        }
        for place, row in enumerate(rows)
    ]


def _difference(c: Any) -> list[str]:
    interval = "" if c.ci_low is None else f" [{signed(c.ci_low)}, {signed(c.ci_high)}]"
    seeds = "" if c.seed_low is None else f"{signed(c.seed_difference)} [{signed(c.seed_low)}, {signed(c.seed_high)}]"
    better = percent(c.probability_of_improvement, 0)
    chance = f"{better} %" if better else ""
    tests = (probability(c.p), probability(c.p_holm), chance, seeds, probability(c.mapsswe_p))
    return [c.system, c.reference, signed(c.difference) + interval, *tests, c.verdict]


def _hours(p: DataPoint) -> list[str]:
    interval = "" if p.ci_low is None else f"{percent(p.ci_low)} to {percent(p.ci_high)}"
    length = "" if p.hours is None else f"{p.hours:.3g}"
    part = f"{100 * p.fraction:g} %"
    return [p.system, part, length, str(p.seeds), percent(p.rate), interval, percent(p.wer_validation)]


def _groups(leaderboard: Leaderboard) -> list[list[str]]:
    """Return a line for each group, with a column for each system."""
    held: dict[tuple[str, str], dict[str, Any]] = {}
    for row in leaderboard.groups:
        held.setdefault((row.grouping, row.group), {})[row.system] = row
    lines = []
    for (kind, name), found in held.items():
        some = next(iter(found.values()))
        lines.append([kind, name, str(some.utterances), *(percent(found[row.system].rate) for row in leaderboard.rows)])
    return lines


def _utterances(leaderboard: Leaderboard) -> tuple[list[dict[str, Any]], int]:
    """Return the utterances to browse, those on which systems differ most first, and how many are left out."""
    systems = {system.name: system.runs[0] for system in leaderboard.systems}
    runs = [systems[row.system] for row in leaderboard.rows]
    errors = np.array([run.counts.words.errors for run in runs])
    order = np.argsort(-(errors.max(axis=0) - errors.min(axis=0)), kind="stable")
    audio, size = _Audio(leaderboard), 0
    found: list[dict[str, Any]] = []
    for row in (int(place) for place in order):
        texts = [run.hypotheses[row] for run in runs]
        size += len(leaderboard.test.references[row]) + sum(map(len, texts))
        if size > MOST_TEXT and found:
            break
        about = (leaderboard.test.speakers[row], leaderboard.test.conditions[row])
        found.append(
            {
                "id": leaderboard.test.ids[row],
                "about": " · ".join(name for name in about if name),
                "reference": leaderboard.test.references[row],
                "hypotheses": texts,
                "errors": errors[:, row].tolist(),
                "audio": audio.embedded(leaderboard.test.ids[row]),
            }
        )
    return found, len(leaderboard.test.ids) - len(found)


class _Audio:
    """Embed recordings as data URLs, up to a total size."""

    def __init__(self, leaderboard: Leaderboard) -> None:
        self._left, self._folder = MOST_AUDIO, None
        if leaderboard.task is not None:
            try:
                sources = catalog.task(leaderboard.task).sources
                if len(sources) == 1 and isinstance(sources[0], FolderSource):  # ids are then files of its folder
                    self._folder = sources[0].folder.resolve()
            except UserError:  # the speech is not here: transcripts need no audio
                self._folder = None

    def embedded(self, name: str) -> str | None:
        if self._folder is None:
            return None
        path = (self._folder / name).resolve()
        kind = AUDIO_TYPES.get(path.suffix.lower())
        if not path.is_relative_to(self._folder) or kind is None or not path.is_file():
            return None
        content = path.read_bytes()
        self._left -= len(content)
        if self._left < 0:
            return None
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"
