"""Draw the documentation's images of the demo: its leaderboard, and error against training time.

python -m tools.docs_images --results results     (after make demo)

Reads <results>/<study>/comparison/leaderboard.json and writes docs/images/leaderboard.svg and wer_cost.svg.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from harness.catalog import ROOT
from harness.compare.report.figures import COLOURS, GREY, STYLE
from harness.compare.tables.columns import MINUS

TARGET = ROOT / "docs" / "images"
Row = dict[str, Any]


def points(value: float, sign: str = "") -> str:
    """A fraction in points, with a typographic minus."""
    return f"{100 * value:{sign}.1f}".replace("-", MINUS)


def leaderboard(figure: Figure, rows: list[Row]) -> None:
    """Rates with their intervals, and beside each the figures of the table."""
    axes, table = figure.subplots(1, 2, sharey=True, width_ratios=(5, 4))
    table.axis("off")
    for place, row in enumerate(rows):
        low, high = 100 * row["ci_low"], 100 * row["ci_high"]
        axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=2)
        filled = COLOURS[0] if row["tied_with_best"] else "white"
        axes.plot(100 * row["wer"], place, "o", color=COLOURS[0], markerfacecolor=filled, markersize=7)
        if row["difference"] is None:
            difference = "reference"
        else:
            interval = f"[{points(row['difference_low'], '+')}, {points(row['difference_high'], '+')}]"
            difference = f"{points(row['difference'], '+')} {interval}"
        cells = (f"{points(row['wer'])} ±{points(row['ci_high'] - row['wer'])}", difference)
        for x, text in zip((0.26, 1), cells, strict=True):
            table.text(x, place, text, ha="right", va="center")
    for x, text in ((0.26, "WER %"), (1, f"difference to {rows[0]['reference']}")):
        table.text(x, -0.7, text, ha="right", va="center", color=GREY)
    axes.set_yticks(range(len(rows)), [row["system"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -1)
    axes.set_xlim(0, max(100, *(105 * row["ci_high"] for row in rows)))
    axes.set_xlabel("test WER % with 95 % interval; filled: tied")


def wer_cost(figure: Figure, rows: list[Row]) -> None:
    """Rate against training time, the number of trainable parameters beside each system."""
    axes = figure.subplots()
    for place, row in enumerate(rows):
        colour, seconds, rate = COLOURS[place % len(COLOURS)], row["train_seconds"], 100 * row["wer"]
        half = 100 * (row["ci_high"] - row["wer"])
        axes.errorbar(seconds, rate, half, color=colour, marker="o", markersize=7, capsize=3, linestyle="none")
        label = f"{row['system']}\n{row['trainable_parameters'] / 1e6:.2g} M trainable"
        axes.annotate(label, (seconds, rate), xytext=(9, 0), textcoords="offset points", va="center", color=colour)
    longest = max(row["train_seconds"] for row in rows)
    axes.set_xlim(-0.04 * longest, 1.3 * longest)
    axes.set_ylim(0, max(100, *(105 * row["ci_high"] for row in rows)))
    axes.set_xlabel("training time, seconds")
    axes.set_ylabel("test WER %")


def main() -> None:
    """Read the leaderboard, draw both images."""
    options = argparse.ArgumentParser(prog="python -m tools.docs_images", description=__doc__)
    options.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    options.add_argument("--study", default="demo", metavar="NAME", help="default: demo")
    chosen = options.parse_args()
    rows = json.loads((chosen.results / chosen.study / "comparison" / "leaderboard.json").read_text(encoding="utf-8"))
    TARGET.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({**STYLE, "font.size": 10}):  # type: ignore[arg-type]
        for name, draw, size in (("leaderboard", leaderboard, (8.6, 2.4)), ("wer_cost", wer_cost, (6.4, 3.4))):
            figure = Figure(figsize=size, layout="constrained")
            draw(figure, rows)
            figure.savefig(TARGET / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
