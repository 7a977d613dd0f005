"""What compare.py does."""

import json
import sys
from argparse import Namespace
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from harness import catalog
from harness.compare.board import Board, make_board
from harness.compare.forgetting import with_forgetting
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
from harness.compare.tables.leaderboard import Row
from harness.records.files import write_text
from harness.spec.published import Figure, Published


def compare(options: Namespace) -> int:
    """Decode what was not yet, score, compare; print the board and write all its files."""
    columns.chosen(options.columns, options.metric or "wer")  # an unknown name is told before an hour of decoding
    console = Console(stderr=options.format == "json")
    with console.status("reading") as status:
        board = make_board(options, lambda text: status.update(visible(text)))
        if options.forgetting:
            board = with_forgetting(board, options, lambda text: status.update(visible(text)))
    published = published_figures(board, options.published)
    write_tables(board, options.columns, published)
    tables.write_rows(board.folder, "examples", examples(board, options.examples), Example)
    if not options.no_figures:
        with console.status("drawing"):
            write_pictures(board, published)
    mirror(board)
    if options.format == "json":
        rows = {"systems": board.rows, "comparisons": board.comparisons}
        listed = {name: [row.model_dump() for row in held] for name, held in rows.items()}
        sys.stdout.write(json.dumps(listed, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return 0
    print_board(board, options, console)
    if published:
        print_published(published, console)
    return 0


def print_board(board: Board, options: Namespace, console: Console) -> None:
    """The table for people, short unless asked for all."""
    preset = "full" if options.full else options.columns
    shown = columns.chosen(preset, board.judge.metric)
    if options.forgetting:
        shown += [columns.BY_NAME[name] for name in ("second", "forgotten") if columns.BY_NAME[name] not in shown]
    if options.full:
        shown = columns.filled(shown, board.rows)
    console.print(tables.terminal_table(board.rows, shown))
    for text in captions(board):
        console.print(Text(visible(text)), style="dim")
    for row in board.rows:
        if row.notes:
            console.print(Text(visible(f"{row.system}: {row.notes}")), style="dim")
    report = "tables" if options.no_figures else "report.html, tables and figures"
    console.print(Text(f"written to {board.folder}: {report}"))


def print_published(published: Sequence[Figure], console: Console) -> None:
    """Figures from elsewhere, apart."""
    console.print(Text("published figures, not run here:"), style="bold")
    for figure in published:
        shown = f"{figure.system}: {figure.shown} on {figure.data}, {figure.split} ({figure.source}); {figure.differs}"
        console.print(Text(visible(shown)), style="dim")


def published_figures(board: Board, which: str) -> tuple[Figure, ...]:
    """Those of the board's language, all, or none; transcripts without a study are shown none unless asked."""
    if which == "none" or (which == "same" and not board.studies):
        return ()
    figures = Published.load(catalog.PUBLISHED).figures
    return figures if which == "all" else tuple(f for f in figures if f.language == board.scoring.language)


def write_tables(board: Board, preset: str, published: Sequence[Figure]) -> None:
    """All tables, and the same bytes for the same inputs."""
    folder, rows = board.folder, board.rows
    full = columns.filled(columns.chosen("full", board.judge.metric), rows)
    write_text(folder / "leaderboard.csv", tables.comma_separated(rows, Row))
    write_text(folder / "leaderboard.json", tables.as_json(rows))
    write_text(folder / "leaderboard.md", tables.markdown(rows, full, captions(board)))
    paper = columns.filled(columns.chosen("paper" if preset == "short" else preset, board.judge.metric), rows)
    write_text(folder / "leaderboard.tex", latex.tabular(rows, paper, paper_caption(board)))
    tables.write_rows(folder, "groups", board.groups, GroupRow)
    tables.write_rows(folder, "significance", board.comparisons, Comparison)
    tables.write_rows(folder, "published", published, Figure)
    points = [point for name, held in board.records.items() for point in curves.learning_curves(name, held)]
    tables.write_rows(folder, "curves", points, curves.CurvePoint)
    tables.write_rows(folder, "data_curve", board.data_curve, DataPoint)
    write_text(folder / "leaderboard.html", report.leaderboard_page(board))
    if board.studies:
        write_text(folder / "REPRODUCIBILITY.md", reproducibility(board))


def write_pictures(board: Board, published: Sequence[Figure]) -> None:
    """What takes longer: the search's curves and importances, figures, and the report that shows them."""
    points, budget, importances = [], [], []
    for folder in board.studies:
        name, held = folder.path.name, board.records[folder.path.name]
        manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
        points += curves.learning_curves(name, held)
        space = manifest["identity"]["space"]
        budget += curves.budget_curve(name, curves.random_values(held, space["sampler"]))
        importances += curves.importances(name, held, space["sampled"])
    tables.write_rows(board.folder, "budget", budget, curves.BudgetPoint)
    tables.write_rows(board.folder, "importances", importances, curves.Importance)
    pictures = figures.draw_all(board, points, budget, importances)
    write_text(board.folder / "report.html", report.report_page(board, pictures, published, lead(board)))


def lead(board: Board) -> str:
    """The finding in one or two sentences."""
    first = board.rows[0]
    metric = board.judge.metric.upper().replace("_", " ")
    text = f"{first.system} has the lowest {metric} on {board.split}: {columns.percent(first.rate)} %."
    tied = [row.system for row in board.rows if row.tied_with_best and row.system != board.best]
    if first.tied_with_best is None:
        return f"{text} Too few blocks for inference: which systems really differ is not known."
    others = (
        f"Tied with {board.best}, Holm p of .05 or more: {', '.join(tied)}."
        if tied
        else f"Nothing is tied with {board.best}."
    )
    return f"{text} {others}"


def mirror(board: Board) -> None:
    """Log the comparison's files to the parent run of each study's MLflow experiment, if it has one."""
    for folder in board.studies:
        if (folder.path / "mlflow.db").is_file():
            from harness.records.mlflow_mirror import log_comparison

            metrics = {f"test_{board.judge.metric}/{row.system}": row.rate for row in board.rows}
            log_comparison(folder, board.folder, metrics if board.split == "test" else {})
