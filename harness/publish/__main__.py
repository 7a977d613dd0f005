"""python -m harness.publish: the best model of a study as adapter, merged, for openai-whisper and CTranslate2."""

import argparse
import sys
from pathlib import Path

from harness.errors import reported
from harness.publish import FORMS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m harness.publish", description=__doc__)
    options.add_argument("--study", required=True, metavar="NAME", help="a study that run_sweep.py has run")
    which = options.add_mutually_exclusive_group()
    which.add_argument("--trial", type=int, metavar="N", help="this trial (default: the best on validation)")
    which.add_argument("--baseline", metavar="NAME", help="a recipe instead of a trial")
    which.add_argument("--refit", action="store_true", help="the best trial as run_sweep.py --refit trained it again")
    options.add_argument(
        "--to", nargs="+", choices=FORMS, metavar="FORM", help=f"{', '.join(FORMS)} (default: all that apply)"
    )
    options.add_argument("--output", type=Path, metavar="FOLDER", help="default: published/ in the study's folder")
    options.add_argument(
        "--sample", type=int, default=16, metavar="N", help="validation clips that each form decodes again (default 16)"
    )
    options.add_argument(
        "--push-to-hub", metavar="REPO", help="upload adapter, or merged, with its card to this hub repository"
    )
    options.add_argument("--public", action="store_true", help="with --push-to-hub: a new repository is not private")
    options.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results")
    options.add_argument("--task", metavar="NAME|FOLDER|FILE", help="where the study's speech is now, if it was moved")
    options.add_argument(
        "--cache-dir", type=Path, metavar="FOLDER", help="prepared features (default: the user's cache)"
    )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Parse, then call the package."""
    options = parser().parse_args(arguments)

    def command() -> int:
        from harness.publish.command import publish

        return publish(options)

    return reported(command)


if __name__ == "__main__":
    sys.exit(main())
