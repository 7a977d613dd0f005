r"""The leaderboard for a paper: booktabs, siunitx columns; needs \usepackage{booktabs,siunitx} and [T1]{fontenc}."""

from collections.abc import Sequence

from harness.compare.statistics.tests import ALPHA
from harness.compare.tables.columns import MINUS, Column, signed
from harness.compare.tables.escape import latex
from harness.compare.tables.rows import Row

RATES = ("wer", "wer_raw", "cer")
HEAD = r"""% \usepackage[T1]{fontenc} \usepackage{textcomp,booktabs,siunitx}
% Best value of the ranking metric in bold, second underlined; a dagger marks Holm p < .05 against the reference.
"""


def tabular(rows: Sequence[Row], columns: Sequence[Column], caption: str) -> str:
    """Return a table environment with numbers in S columns and text in braces."""
    spec = "".join(_column(column, rows) for column in columns)
    lines = [
        HEAD + r"\begin{table*}",
        r"\centering\small",
        rf"\caption{{{latex(caption)} Bold: best; underlined: second; $\dagger$: Holm $p < .05$.}}",
        rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        r"\toprule",
        " & ".join(cell for column in columns for cell in _heading(column, rows)) + r" \\",
        r"\midrule",
        *(" & ".join(cell for column in columns for cell in _cells(column, row, rows)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _is_number(column: Column, rows: Sequence[Row]) -> bool:
    return column.name in RATES or all(_parsed(column.cell(row)) for row in rows)


def _parsed(cell: str) -> bool:
    try:
        float(_number(cell) or "0")
    except ValueError:
        return False
    return True


def _number(cell: str) -> str:
    return cell.replace(",", "").replace(MINUS, "-").replace("\N{NO-BREAK SPACE}", "")


def _with_interval(column: Column, rows: Sequence[Row]) -> bool:
    return column.name == rows[0].metric and any(row.ci_high is not None for row in rows)


def _column(column: Column, rows: Sequence[Row]) -> str:
    if column.left or not _is_number(column, rows):
        return "l"
    numbers = [_number(column.cell(row).partition(" ±")[0]) for row in rows]
    before = max(len(n.partition(".")[0]) for n in numbers)
    after = max(len(n.partition(".")[2]) for n in numbers)
    own = f"S[table-format={max(1, before)}.{after},detect-all,mode=text]"
    if _with_interval(column, rows):
        return own + r"@{\,}l"
    return own


def _heading(column: Column, rows: Sequence[Row]) -> list[str]:
    own = "{" + latex(column.heading) + "}"
    return [own, r"{$\pm$}"] if _with_interval(column, rows) else [own]


def _cells(column: Column, row: Row, rows: Sequence[Row]) -> list[str]:
    shown = column.cell(row)
    if column.name == "difference" and row.difference is not None:
        dagger = r"$^{\dagger}$" if row.p_holm is not None and row.p_holm < ALPHA else ""
        interval = (
            f" [${_math(row.difference_low)}$, ${_math(row.difference_high)}$]"
            if row.difference_low is not None
            else ""
        )
        return [f"${_math(row.difference)}${dagger}{interval}"]
    if not _is_number(column, rows) or column.left:
        return [_text(shown)]
    number, _, half = shown.partition(" ±")
    number = _number(number)
    if column.name == row.metric:
        place = sorted(rows, key=lambda r: r.rate).index(row)
        number = rf"\bfseries {number}" if place == 0 else rf"{{\underline{{{number}}}}}" if place == 1 else number
    return [number, half] if _with_interval(column, rows) else [number]


def _math(value: float | None) -> str:
    return signed(value).replace(MINUS, "-")


def _text(shown: str) -> str:
    return latex(shown)
