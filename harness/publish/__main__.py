"""Export the best model of a study as adapter, merged model, and for openai-whisper and CTranslate2."""

import sys
from argparse import Namespace
from pathlib import Path

from harness.command_line import Parser, add_moved_data, add_results, add_run_options, count, run
from harness.publish import FORMS

EXAMPLES = (
    "python -m harness.publish --study demo",
    "python -m harness.publish --study demo --refit --to merged ctranslate2",
    "python -m harness.publish --study demo --to adapter --push-to-hub me/whisper",
)


def parser() -> Parser:
    """The command line."""
    options = Parser("python -m harness.publish", "--study NAME [options]", __doc__, EXAMPLES)
    add_run_options(options)
    add_moved_data(options)
    output = options.add_argument_group("output")
    output.add_argument(
        "--to",
        nargs="+",
        choices=FORMS,
        metavar="FORM",
        help=f"{', '.join(FORMS)} (default: all that apply)",
    )
    output.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to write (default: published/ in the study)"
    )
    output.add_argument(
        "--sample",
        type=count,
        default=16,
        metavar="N",
        help="validation utterances to verify each form with (default: 16)",
    )
    add_results(output)
    hub = options.add_argument_group("Hugging Face Hub")
    hub.add_argument("--push-to-hub", metavar="REPO", help="upload the adapter or merged model, with its card")
    hub.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    return options


def publish(options: Namespace) -> int:
    """Import the package only when it runs, so that --help is fast."""
    from harness.publish.command import publish

    return publish(options)


def main(arguments: list[str] | None = None) -> int:
    """Parse, then call the package."""
    return run(parser(), publish, arguments)


if __name__ == "__main__":
    sys.exit(main())
