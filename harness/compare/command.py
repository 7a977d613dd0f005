"""Run compare.py: make a leaderboard, print it, and write its tables, figures and report."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness import catalog
from harness.command_line import mlflow_uri
from harness.compare.forgetting import with_forgetting
from harness.compare.leaderboard import Leaderboard, make_leaderboard
from harness.compare.report import figures
from harness.compare.report import page as report
from harness.compare.report.captions import captions, paper_caption
from harness.compare.report.examples import Example, examples
from harness.compare.report.reproducibility import reproducibility
from harness.compare.statistics import search_curves as curves
from harness.compare.statistics.comparisons import Comparison
from harness.compare.statistics.data_curve import DataPoint
from harness.compare.statistics.groups import GroupRow
from harness.compare.tables import columns, latex
from harness.compare.tables import formats as tables
from harness.compare.tables.escape import visible
from harness.compare.tables.rows import Row
from harness.records.files import write_text
from harness.spec.published import Figure, Published


def compare(options: Namespace) -> int:
    """Decode what is missing, score and compare, print the leaderboard and write all files."""
    columns.chosen(options.columns, options.metric or "wer")  # an unknown name is told before an hour of decoding
    console = Console(stderr=options.format == "json")
    with console.status("reading") as status:
        leaderboard = make_leaderboard(options, lambda text: status.update(visible(text)))
        if options.forgetting:
            leaderboard = with_forgetting(leaderboard, options, lambda text: status.update(visible(text)))
    published = published_figures(leaderboard, options.published)
    write_tables(leaderboard, options.columns, published)
    tables.write_rows(leaderboard.folder, "examples", examples(leaderboard, options.examples), Example)
    if options.no_figures:
        remove_pictures(leaderboard.folder)
    else:
        with console.status("drawing"):
            write_pictures(leaderboard, published)
    mirror(leaderboard, mlflow_uri(options.mlflow_uri))
    if options.format == "json":
        rows = {"systems": leaderboard.rows, "comparisons": leaderboard.comparisons}
        listed = {name: [row.model_dump() for row in held] for name, held in rows.items()}
        sys.stdout.write(json.dumps(listed, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return 0
    print_leaderboard(leaderboard, options, console)
    if published:
        print_published(published, console)
    return 0


def print_leaderboard(leaderboard: Leaderboard, options: Namespace, console: Console) -> None:
    """Print the leaderboard, with the short columns unless --full is given."""
    preset = "full" if options.full else options.columns
    shown = columns.chosen(preset, leaderboard.judge.metric)
    if options.forgetting:
        shown += [columns.BY_NAME[name] for name in ("second", "forgotten") if columns.BY_NAME[name] not in shown]
    if options.full:
        shown = columns.filled(shown, leaderboard.rows)
    console.print(tables.terminal_table(leaderboard.rows, shown))
    for text in captions(leaderboard):
        console.print(Text(visible(text)), style="dim")
    for row in leaderboard.rows:
        if row.notes:
            console.print(Text(visible(f"{row.system}: {row.notes}")), style="dim")
    report = "tables" if options.no_figures else "report.html, tables and figures"
    console.print(Text(f"written to {leaderboard.folder}: {report}"))


def print_published(published: Sequence[Figure], console: Console) -> None:
    """Print the figures of published work."""
    console.print(Text("published figures, not run here:"), style="bold")
    for figure in published:
        shown = f"{figure.system}: {figure.text} on {figure.data}, {figure.split} ({figure.source}); {figure.differs}"
        console.print(Text(visible(shown)), style="dim")


def published_figures(leaderboard: Leaderboard, which: str) -> tuple[Figure, ...]:
    """Return the published figures to show: of the leaderboard's language (if it has a study), all, or none."""
    if which == "none" or (which == "same" and not leaderboard.studies):
        return ()
    figures = Published.load(catalog.PUBLISHED).figures
    return figures if which == "all" else tuple(f for f in figures if f.language == leaderboard.scoring.language)


def write_tables(leaderboard: Leaderboard, preset: str, published: Sequence[Figure]) -> None:
    """Write all tables; equal inputs give equal bytes."""
    folder, rows = leaderboard.folder, leaderboard.rows
    full = columns.filled(columns.chosen("full", leaderboard.judge.metric), rows)
    write_text(folder / "leaderboard.csv", tables.comma_separated(rows, Row))
    write_text(folder / "leaderboard.json", tables.as_json(rows))
    write_text(folder / "leaderboard.md", tables.markdown(rows, full, captions(leaderboard)))
    paper = columns.filled(columns.chosen("paper" if preset == "short" else preset, leaderboard.judge.metric), rows)
    write_text(folder / "leaderboard.tex", latex.tabular(rows, paper, paper_caption(leaderboard)))
    tables.write_rows(folder, "groups", leaderboard.groups, GroupRow)
    tables.write_rows(folder, "significance", leaderboard.comparisons, Comparison)
    tables.write_rows(folder, "published", published, Figure)
    points = [point for name, held in leaderboard.records.items() for point in curves.learning_curves(name, held)]
    tables.write_rows(folder, "curves", points, curves.CurvePoint)
    tables.write_rows(folder, "data_curve", leaderboard.data_curve, DataPoint)
    write_text(folder / "leaderboard.html", report.leaderboard_page(leaderboard))
    if leaderboard.studies:
        write_text(folder / "REPRODUCIBILITY.md", reproducibility(leaderboard))


def write_pictures(leaderboard: Leaderboard, published: Sequence[Figure]) -> None:
    """Write what takes longer: the budget curve and importances, the figures and the report."""
    points, budget, importances = [], [], []
    for folder in leaderboard.studies:
        name, held = folder.path.name, leaderboard.records[folder.path.name]
        manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
        points += curves.learning_curves(name, held)
        space = manifest["identity"]["space"]
        budget += curves.budget_curve(name, *curves.random_draws(held, space["sampler"]))
        importances += curves.importances(name, held, space["sampled"])
    tables.write_rows(leaderboard.folder, "budget", budget, curves.BudgetPoint)
    tables.write_rows(leaderboard.folder, "importances", importances, curves.Importance)
    pictures = figures.draw_all(leaderboard, points, budget, importances)
    write_text(
        leaderboard.folder / "report.html", report.report_page(leaderboard, pictures, published, lead(leaderboard))
    )


def remove_pictures(folder: Path) -> None:
    """Remove the report and the figures of an earlier comparison, which the new tables no longer match."""
    for pattern in ("report.html", "budget.*", "importances.*", "figures/*.*"):
        for path in folder.glob(pattern):
            path.unlink()


def lead(leaderboard: Leaderboard) -> str:
    """Return the result in one or two sentences."""
    first = leaderboard.rows[0]
    metric = leaderboard.judge.metric.upper().replace("_", " ")
    text = f"{first.system} has the lowest {metric} on {leaderboard.split}: {columns.percent(first.rate)} %."
    tied = [row.system for row in leaderboard.rows if row.tied_with_best and row.system != leaderboard.best]
    if first.tied_with_best is None:
        return f"{text} Too few blocks for inference: which systems really differ is not known."
    others = (
        f"Tied with {leaderboard.best}, Holm p of .05 or more: {', '.join(tied)}."
        if tied
        else f"Nothing is tied with {leaderboard.best}."
    )
    return f"{text} {others}"


def mirror(leaderboard: Leaderboard, uri: str | None) -> None:
    """Log the comparison's files to the parent run of each study's MLflow experiment, if it has one."""
    for folder in leaderboard.studies:
        if uri or (folder.path / "mlflow.db").is_file():
            from harness.records.mlflow_comparison import log_comparison

            metrics = {f"test_{leaderboard.judge.metric}/{row.system}": row.rate for row in leaderboard.rows}
            log_comparison(folder, leaderboard.folder, metrics if leaderboard.split == "test" else {}, uri)
