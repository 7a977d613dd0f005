"""Rank systems on the same test set, with intervals and tests: a study's runs, and transcripts from elsewhere."""

import argparse
import sys
from pathlib import Path

from harness.errors import reported

EXAMPLES = """examples:
  compare.py --study demo
  compare.py --study demo --against tutorial --columns cost
  compare.py --study demo --add "some API=api.jsonl"
  compare.py --reference ref.trn --add A=a.trn --add B=b.trn --format json
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--study", nargs="+", metavar="NAME", help="studies that run_sweep.py has run, on the same test"
    )
    options.add_argument(
        "--reference", type=Path, metavar="FILE", help="without a study: what was said (jsonl, csv, trn)"
    )
    options.add_argument(
        "--add", action="append", default=[], metavar="NAME=FILE", help="transcripts of another system; may be repeated"
    )
    options.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="NAME",
        help="compare with these only (default: every baseline, and the best on validation)",
    )
    options.add_argument(
        "--metric",
        choices=("wer", "wer_raw", "cer"),
        help="rank and test by this (default: wer; cer for unspaced scripts)",
    )
    options.add_argument(
        "--split", choices=("test", "validation", "test_long"), default="test", help="validation leaves test untouched"
    )
    options.add_argument(
        "--long-form",
        choices=("sequential", "chunked", "pauses"),
        default="sequential",
        help="how test_long is decoded: Whisper's own way, in overlapping windows, or cut at pauses",
    )
    options.add_argument(
        "--examples", type=int, default=10, metavar="N", help="clips in the table of examples (default: 10)"
    )
    options.add_argument(
        "--forgetting",
        metavar="TASK",
        help="a second task, as in run_sweep.py --task: its test WER before and after tuning, as columns",
    )
    options.add_argument(
        "--top", type=positive, default=1, metavar="K", help="take the K best trials on validation (default: 1)"
    )
    options.add_argument(
        "--columns", default="short", metavar="LIST", help="short, full, paper, cost, or names with commas"
    )
    options.add_argument("--full", action="store_true", help="print all columns")
    options.add_argument(
        "--format", choices=("table", "json"), default="table", help="json: one object on standard output"
    )
    options.add_argument("--language", metavar="CODE", help="of the texts, such as sv (default: the task's)")
    options.add_argument(
        "--normalizer", metavar="NAME", help="english, basic, unmarked, legacy or none (default: the task's)"
    )
    options.add_argument(
        "--published",
        choices=("same", "all", "none"),
        default="same",
        help="figures from papers: same language, all, none",
    )
    options.add_argument("--no-figures", action="store_true", help="tables only")
    options.add_argument("--output", type=Path, metavar="FOLDER", help="default: comparison/ in the study's folder")
    options.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    options.add_argument("--task", metavar="NAME|FOLDER|FILE", help="where the study's speech is now, if it was moved")
    options.add_argument(
        "--cache-dir", type=Path, metavar="FOLDER", help="prepared features (default: the user's cache)"
    )
    return options


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Parse, then call the harness."""
    options = parser().parse_args(arguments)

    def command() -> int:
        from harness.compare.command import compare

        return compare(options)

    return reported(command)


if __name__ == "__main__":
    sys.exit(main())
