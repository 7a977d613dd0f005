"""Shared parts of the command lines: short usage errors, argument types, and options that several commands have."""

import argparse
import difflib
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from harness.errors import EXIT_USER_ERROR, UserError, run_command

WIDTH = 78
HELP_COLUMN = 27
HIGHEST_PORT = 65535
Value = TypeVar("Value", int, float, tuple[float, ...])


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help with one column for options and one for descriptions, and `NAME ...` for an option with several values."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP_COLUMN)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == argparse.ONE_OR_MORE:
            return f"{action.metavar or default_metavar} ..."
        if action.nargs == argparse.ZERO_OR_MORE:
            return f"[{action.metavar or default_metavar} ...]"
        return super()._format_args(action, default_metavar)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one usage line and one message, and whose help ends with examples."""

    def __init__(self, prog: str, synopsis: str, description: str, examples: Sequence[str]) -> None:
        """`synopsis` is the usage line after the program's name, such as `--study NAME [options]`."""
        super().__init__(
            prog=prog,
            usage=f"%(prog)s {synopsis}",
            description=textwrap.fill(description, WIDTH, break_on_hyphens=False),
            epilog="\n  ".join(("examples:", *examples)),
            formatter_class=_Formatter,
        )
        self._synopsis = synopsis

    def error(self, message: str) -> NoReturn:
        """Print the usage line and the message, and exit with code 2."""
        said = re.sub(r"\bargument (?=-)", "", message)
        if (unknown := re.match(r"unrecognized arguments: (-\S+)", message)) and (near := self._nearest(unknown[1])):
            said = f"{said}; did you mean {near}?"
        self.exit(EXIT_USER_ERROR, f"usage: {self.prog} {self._synopsis}; see --help\nerror: {said}\n")

    def _nearest(self, given: str) -> str | None:
        close = difflib.get_close_matches(given.partition("=")[0], self._option_string_actions, n=1)
        return close[0] if close else None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        names = [str(choice) for choice in action.choices]
        close = difflib.get_close_matches(str(value), names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise argparse.ArgumentError(action, f"expected one of {', '.join(names)}, got {str(value)!r}{hint}")


def run(parser: Parser, command: Callable[[argparse.Namespace], int], arguments: Sequence[str] | None) -> int:
    """Parse the arguments, run the command, and return its exit code."""
    options = parser.parse_args(arguments)
    return run_command(lambda: command(options))


def whole(text: str) -> int:
    """A whole number."""
    return _value(text, int, lambda value: True, "a whole number")


def count(text: str) -> int:
    """A whole number of 0 or more."""
    return _value(text, int, lambda value: value >= 0, "a whole number of 0 or more")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    return _value(text, int, lambda value: value >= 1, "a whole number of 1 or more")


def number(text: str) -> float:
    """A number of 0 or more."""
    return _value(text, float, lambda value: value >= 0, "a number of 0 or more")


def port(text: str) -> int:
    """A TCP port."""
    return _value(text, int, lambda value: 0 <= value <= HIGHEST_PORT, f"a port from 0 to {HIGHEST_PORT}")


def fractions(text: str) -> tuple[float, ...]:
    """Fractions of the data, each above 0 and at most 1, in ascending order."""
    expected = "fractions above 0 and at most 1, such as 0.1,0.3,1"
    return _value(
        text,
        lambda given: tuple(sorted({float(part) for part in given.split(",")})),
        lambda values: all(0 < value <= 1 for value in values),
        expected,
    )


def number_or(*words: str) -> Callable[[str], str]:
    """A type that takes one of the words, or a whole number of 1 or more, as text."""

    def parsed(text: str) -> str:
        expected = f"{', '.join(words)} or a whole number of 1 or more"
        return text if text in words else str(_value(text, int, lambda value: value >= 1, expected))

    return parsed


def setting(text: str) -> tuple[str, str]:
    """KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, value


def _value(text: str, convert: Callable[[str], Value], valid: Callable[[Value], bool], expected: str) -> Value:
    with suppress(ValueError):
        value = convert(text)
        if valid(value):
            return value
    raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")


def add_run_options(options: argparse.ArgumentParser, zero_shot: bool = False) -> None:
    """Add the options that choose a run of a study: --study, and one of --trial, --baseline and --refit.

    `zero_shot` adds --vanilla, the base model.
    """
    group = options.add_argument_group("model", "default: the run with the lowest validation WER")
    group.add_argument("--study", required=True, metavar="NAME", help="a study of run_sweep.py (required)")
    run = group.add_mutually_exclusive_group()
    run.add_argument("--trial", type=count, metavar="N", help="use this trial")
    run.add_argument("--baseline", metavar="NAME", help="use this baseline")
    run.add_argument("--refit", action="store_true", help="use the refit of run_sweep.py --refit")
    if zero_shot:
        run.add_argument("--vanilla", action="store_true", help="use the base model without fine-tuning")


def add_language(group: argparse._ActionsContainer) -> None:
    """Add the language of the recordings."""
    group.add_argument("--language", metavar="CODE", help="spoken language, such as sv (default: the study's)")


def add_results(group: argparse._ActionsContainer) -> None:
    """Add the folder of all studies."""
    group.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="FOLDER",
        help="folder of all studies (default: results)",
    )


def add_cache(group: argparse._ActionsContainer) -> None:
    """Add the folder of prepared data."""
    group.add_argument(
        "--cache-dir", type=Path, metavar="FOLDER", help="folder of prepared data (default: the user's cache)"
    )


def add_mlflow_uri(group: argparse._ActionsContainer) -> None:
    """Add the MLflow server."""
    group.add_argument(
        "--mlflow-uri", metavar="URL", help="MLflow server (default: $MLFLOW_TRACKING_URI, or a file in the study)"
    )


def mlflow_uri(given: str | None) -> str | None:
    """Return the address of the MLflow server; None for the file in the study.

    Raises:
        UserError: The address contains a password, which every process list would show.
    """
    address = given or os.environ.get("MLFLOW_TRACKING_URI") or None
    if address and urlsplit(address).password:
        raise UserError(
            "the MLflow URL holds a password; remove it, and set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD instead"
        )
    return address


def add_moved_data(options: argparse.ArgumentParser) -> None:
    """Add where to find the data of an existing study."""
    group = options.add_argument_group("data")
    group.add_argument("--task", metavar="NAME|FOLDER|FILE", help="location of the study's data, if it has moved")
    add_cache(group)
