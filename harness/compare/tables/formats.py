"""Format tables as Markdown, CSV and JSON, and for a terminal."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from harness.compare.tables import escape
from harness.compare.tables.columns import Column
from harness.compare.tables.rows import Row
from harness.records.files import write_text
from harness.spec.base import Spec


def terminal_table(rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """Return the leaderboard for a terminal; headings are wrapped before numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for column in columns:
        table.add_column(
            Text(column.heading),
            justify="left" if column.left else "right",
            no_wrap=column.name in ("rank", "wer", "wer_raw", "cer"),
            overflow="fold",
        )
    for row in rows:
        cells = [Text(escape.visible(column.cell(row))) for column in columns]
        table.add_row(*cells, style="bold" if row.kind == "trial" else "")
    return table


def markdown(rows: Sequence[Row], columns: Sequence[Column], captions: Sequence[str]) -> str:
    """Return a Markdown table with captions."""
    lines = ["| " + " | ".join(escape.markdown(column.heading) for column in columns) + " |"]
    lines.append("|" + "|".join("---" if column.left else "---:" for column in columns) + "|")
    lines += ["| " + " | ".join(escape.markdown(column.cell(row)) for column in columns) + " |" for row in rows]
    notes = [f"- {escape.markdown(row.system)}: {escape.markdown(row.notes)}" for row in rows if row.notes]
    texts = [escape.markdown(text) for text in captions]
    return "\n\n".join(["\n".join(lines), *texts, *(["\n".join(notes)] if notes else [])]) + "\n"


def plain_markdown(rows: Sequence[Spec]) -> str:
    """Return rows as a Markdown table of all fields."""
    if not rows:
        return "(none)\n"
    fields = list(type(rows[0]).model_fields)
    lines = ["| " + " | ".join(fields) + " |", "|" + "---|" * len(fields)]
    for row in rows:
        lines.append("| " + " | ".join(escape.markdown(_cell(getattr(row, field))) for field in fields) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def comma_separated(rows: Sequence[Spec], kind: type[Spec]) -> str:
    """Return all fields as CSV, unrounded; text that a spreadsheet would run is escaped."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(kind.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows({field: escape.csv_cell(value) for field, value in row.model_dump().items()} for row in rows)
    return text.getvalue()


def as_json(rows: Sequence[Spec]) -> str:
    """Return all fields as JSON; text is not changed."""
    return json.dumps([row.model_dump() for row in rows], indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_rows(folder: Path, name: str, rows: Sequence[Spec], kind: type[Spec]) -> None:
    """Write name.csv, name.json and name.md with all fields."""
    write_text(folder / f"{name}.csv", comma_separated(rows, kind))
    write_text(folder / f"{name}.json", as_json(rows))
    write_text(folder / f"{name}.md", plain_markdown(rows))
