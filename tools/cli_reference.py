"""Write docs/reference/cli.md: every command and option, from the argparse parsers themselves.

python -m tools.cli_reference
"""

import argparse
from collections.abc import Callable
from unittest import mock

import compare
import run_sweep
from harness import app, cache, transcribe
from harness.catalog import ROOT
from harness.plan import CACHE_DIR
from harness.publish import __main__ as publish

TARGET = ROOT / "docs" / "reference" / "cli.md"
INTRODUCTION = """# Command lines

This page lists every command and option; `--help` prints the same. `python -m tools.cli_reference` writes the page from
the parsers, and a test keeps it up to date.

A command exits with 0 on success and with another code after an error. It explains a mistake in its options or files
without a traceback.
"""


class _Found(Exception):
    """Carries the parser out of a command's main()."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parser_of(main: Callable[[list[str]], int]) -> argparse.ArgumentParser:
    """The parser that a command's main() builds, where the module has no function for it."""

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Found(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main([])
        except _Found as found:
            return found.parser
    raise RuntimeError("main() parsed no arguments")


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Each command as it is typed after `python`, and its parser."""
    return {
        "run_sweep.py": run_sweep.parser(),
        "compare.py": compare.parser(),
        "-m harness.publish": publish.parser(),
        "-m harness.transcribe": transcribe.parser(),
        "-m harness.app": app.parser(),
        "-m harness.cache": cache.parser() if hasattr(cache, "parser") else parser_of(cache.main),
    }


def values(action: argparse.Action) -> str:
    """What follows an option, as --help writes it: NAME, NAME [NAME ...]."""
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        one = str(action.metavar)
    else:
        one = "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    return {"+": f"{one} [{one} ...]", "*": f"[{one} ...]"}.get(str(action.nargs), one)


def option(action: argparse.Action) -> str:
    """One option as a line of a list: how it is written, and what it does."""
    written = f"{action.option_strings[-1]} {values(action)}" if action.option_strings else values(action)
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return f"- `{written.strip()}`" + (f": {text}" if text else "") + (" (required)" if action.required else "")


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, parser in parsers().items():
        parts.append(f"\n## `python {name}`\n\n{parser.description}\n")
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
            if not actions:
                continue
            usual = group.title in ("options", "optional arguments", "positional arguments")
            if not usual:
                about = f"{group.description[0].upper()}{group.description[1:]}.\n\n" if group.description else ""
                parts.append(f"\n### {(group.title or '').capitalize()}\n\n{about}")
            else:
                parts.append("\n")
            parts.append("\n".join(option(action) for action in actions) + "\n")
    return "".join(parts).replace(str(CACHE_DIR), "the user's cache folder")


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
