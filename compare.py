"""Rank a study's runs and other systems on the same test set, with confidence intervals and significance tests."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from harness.command_line import Parser, add_mlflow_uri, add_moved_data, add_results, count, positive, run

EXAMPLES = (
    "python compare.py --study demo",
    "python compare.py --study demo --against tutorial --columns cost",
    'python compare.py --study demo --add "some API=api.jsonl"',
    "python compare.py --reference ref.trn --add A=a.trn --add B=b.trn --full",
)


def parser() -> Parser:
    """The command line."""
    options = Parser("compare.py", "--study NAME [options]", __doc__, EXAMPLES)
    add_systems(options)
    add_scoring(options)
    add_moved_data(options)
    add_output(options)
    return options


def add_systems(options: ArgumentParser) -> None:
    """What is ranked."""
    group = options.add_argument_group("systems")
    group.add_argument("--study", nargs="+", metavar="NAME", help="studies of run_sweep.py with the same test set")
    group.add_argument("--top", type=positive, default=1, metavar="K", help="include the best K trials (default: 1)")
    group.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="add transcripts of another system (repeatable)",
    )
    group.add_argument("--reference", type=Path, metavar="FILE", help="correct transcripts, if there is no --study")
    group.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="NAME",
        help="test against these systems only (default: all baselines and the best on validation)",
    )
    group.add_argument(
        "--published",
        choices=("same", "all", "none"),
        default="same",
        metavar="WHICH",
        help="published figures: same language (same, default), all or none",
    )


def add_scoring(options: ArgumentParser) -> None:
    """How transcripts are decoded and scored."""
    group = options.add_argument_group("scoring")
    group.add_argument(
        "--metric",
        choices=("wer", "wer_raw", "cer"),
        metavar="NAME",
        help="wer, wer_raw or cer (default: wer; cer for scripts without spaces)",
    )
    group.add_argument(
        "--split",
        choices=("test", "validation", "test_long"),
        default="test",
        metavar="NAME",
        help="test (default), validation or test_long",
    )
    group.add_argument(
        "--long-form",
        choices=("sequential", "chunked", "pauses"),
        default="sequential",
        metavar="METHOD",
        help="decode test_long by: sequential (default, Whisper's own), chunked (overlapping windows), pauses",
    )
    group.add_argument("--language", metavar="CODE", help="language of the texts (default: the task's)")
    group.add_argument(
        "--normalizer",
        metavar="NAME",
        help="english, basic, unmarked, legacy or none (default: the task's)",
    )
    group.add_argument(
        "--forgetting", metavar="TASK", help="also measure the WER on a second task before and after fine-tuning"
    )


def add_output(options: ArgumentParser) -> None:
    """What is printed and written."""
    group = options.add_argument_group("output")
    group.add_argument(
        "--columns", default="short", metavar="LIST", help="short (default), full, paper, cost, or column names"
    )
    group.add_argument("--full", action="store_true", help="print all columns")
    group.add_argument(
        "--format",
        choices=("table", "json"),
        default="table",
        metavar="FORMAT",
        help="table (default), or json on standard output",
    )
    group.add_argument(
        "--examples", type=count, default=10, metavar="N", help="utterances in the table of examples (default: 10)"
    )
    group.add_argument("--no-figures", action="store_true", help="write tables only")
    group.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to write (default: comparison/ in the study)"
    )
    add_results(group)
    add_mlflow_uri(group)


def compare(options: Namespace) -> int:
    """Import the comparison only when it runs, so that --help is fast."""
    from harness.compare.command import compare

    return compare(options)


def main(arguments: list[str] | None = None) -> int:
    """Parse, then call the harness."""
    return run(parser(), compare, arguments)


if __name__ == "__main__":
    sys.exit(main())
