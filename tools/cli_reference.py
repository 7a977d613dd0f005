"""Write docs/reference/cli.md: every command and option, from the argparse parsers themselves.

python -m tools.cli_reference
"""

import argparse
import re

import compare
import run_sweep
from harness import app, cache, transcribe
from harness.catalog import ROOT
from harness.publish import __main__ as publish

TARGET = ROOT / "docs" / "reference" / "cli.md"
INTRODUCTION = """# Command lines

This page lists every command and option; `--help` prints the same. `python -m tools.cli_reference` writes the page from
the parsers, and a test keeps it up to date.

A command exits with 0 on success and with another code after an error. It explains a mistake in its options or files
without a traceback.
"""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Each command as it is typed after `python`, and its parser."""
    return {
        "run_sweep.py": run_sweep.parser(),
        "compare.py": compare.parser(),
        "-m harness.publish": publish.parser(),
        "-m harness.transcribe": transcribe.parser(),
        "-m harness.app": app.parser(),
        "-m harness.cache": cache.parser(),
    }


def values(action: argparse.Action) -> str:
    """What follows an option, as --help writes it: NAME, or NAME ... for several."""
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        one = str(action.metavar)
    else:
        one = "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    return {"+": f"{one} ...", "*": f"[{one} ...]"}.get(str(action.nargs), one)


def option(action: argparse.Action) -> str:
    """One option as a line of a list: how it is written, and what it does."""
    written = f"{action.option_strings[-1]} {values(action)}" if action.option_strings else values(action)
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    if action.required and action.option_strings and "(required)" not in text:
        text += " (required)"
    return f"- `{written.strip()}`" + (f": {text}" if text else "")


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, parser in parsers().items():
        parts.append(f"\n## `python {name}`\n\n{' '.join((parser.description or '').split())}\n")
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
            if not actions:
                continue
            if group.title not in ("options", "positional arguments"):
                about = re.sub(r"(?<!\S)--[a-z-]+", r"`\g<0>`", group.description or "")
                title = group.title or ""
                parts.append(f"\n### {title[:1].upper()}{title[1:]}\n")
                if about:
                    parts.append(f"\n{about[0].upper()}{about[1:]}{'' if about.endswith('.') else '.'}\n")
            parts.append("\n" + "\n".join(option(action) for action in actions) + "\n")
        _, _, examples = (parser.epilog or "").partition("examples:")
        if examples:
            lines = "\n".join(line.strip() for line in examples.strip().splitlines())
            parts.append(f"\nExamples:\n\n```bash\n{lines}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
