"""python -m harness.app: a local page that transcribes with a study's best model beside the base model."""

import argparse
import difflib
import html
import os
import sys
from pathlib import Path
from typing import Any

from harness.command_line import Parser, add_language, add_results, add_run_options, port, run
from harness.errors import UserError

DESCRIPTION = "Serve a local page that transcribes with the best model of a study beside the base model."
EXAMPLES = ("python -m harness.app --study demo", "python -m harness.app --study demo --refit --port 8000")
STYLE = """
.transcript {font-size: 1.15rem; line-height: 1.7; min-height: 3.4rem; margin-top: 1.6rem; overflow-wrap: anywhere}
.transcript ins {background: #c9ecd2; color: #0c3b1a; text-decoration: none; border-radius: 3px; padding: 0 2px}
.transcript del {background: #f6d3cf; color: #5b130b; text-decoration: none; border-radius: 3px; padding: 0 2px}
.transcript .nothing {opacity: .6}
footer {display: none !important}
"""


def parser() -> Parser:
    """The command line."""
    options = Parser("python -m harness.app", "--study NAME [options]", DESCRIPTION, EXAMPLES)
    add_run_options(options)
    page = options.add_argument_group("page")
    add_language(page)
    page.add_argument("--port", type=port, default=7860, metavar="N", help="port to listen on (default: 7860)")
    page.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on, without a password (default: 127.0.0.1, this machine only)",
    )
    add_results(page)
    return options


def marked(mine: str, other: str, tag: str) -> str:
    """HTML of a transcript, escaped, with the words that the other transcript lacks inside `tag`."""
    words, others = mine.split(), other.split()
    parts = []
    for kind, first, last, *_ in difflib.SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        said = html.escape(" ".join(words[first:last]))
        if said:
            parts.append(said if kind == "equal" else f"<{tag}>{said}</{tag}>")
    return f'<p class="transcript">{" ".join(parts) or "<span class=nothing>(no speech)</span>"}</p>'


def serve(options: argparse.Namespace) -> int:
    """Load both models, and serve the page until interrupted."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs gradio: pip install 'whisper-sweep[app]'") from None
    from transformers.utils import logging as transformers_logging

    from harness.data.audio import UndecodableError, decode
    from harness.evaluation.long_form import transcribe_segments
    from harness.publish.best_run import find_best_run, load_best_run_or_base, open_base
    from harness.transcribe import text

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    best_run = find_best_run(options.results, options.study, options.trial, options.baseline, options.refit)
    untouched, base = open_base(best_run, full=True), open_base(best_run)
    language = options.language or best_run.language

    with load_best_run_or_base(base, best_run) as best:

        def transcribe(path: str | None) -> tuple[str, str]:
            if path is None:
                raise gradio.Error("Upload or record speech first.")
            try:
                clip = decode(Path(path))
            except (UndecodableError, OSError):
                raise gradio.Error("This file cannot be decoded. Use wav, flac, ogg, opus or mp3.") from None
            heard = [
                text(transcribe_segments(model, of, clip, language, best_run.speech_task))
                for model, of in ((best, base), (untouched.model, untouched))
            ]
            return marked(heard[0], heard[1], "ins"), marked(heard[1], heard[0], "del")

        launch(gradio, page(gradio, best_run.record.name, best_run.model, transcribe), options)
    return 0


def page(gradio: Any, name: str, base: str, transcribe: Any) -> Any:
    """The page: one recording, two transcripts."""
    with gradio.Blocks(title=f"{name} and {base}", analytics_enabled=False) as blocks:
        gradio.Markdown(
            "## Fine-tuned model and base model\n"
            "Words in only one of the transcripts are marked. Nothing leaves this machine."
        )
        audio = gradio.Audio(sources=["upload", "microphone"], type="filepath", label="Recording", buttons=[])
        button = gradio.Button("Transcribe", variant="primary", elem_id="transcribe")
        with gradio.Row():
            with gradio.Column(min_width=280):
                tuned = gradio.HTML(label=f"Fine-tuned: {name}", show_label=True, container=True, elem_id="tuned")
            with gradio.Column(min_width=280):
                plain = gradio.HTML(label=f"Base model: {base}", show_label=True, container=True, elem_id="untouched")
        button.click(transcribe, audio, [tuned, plain], api_name=False)
    return blocks


def launch(gradio: Any, blocks: Any, options: argparse.Namespace) -> None:
    """Serve the page, by default on this machine only; fonts are the browser's own, so nothing is downloaded."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    blocks.queue(default_concurrency_limit=1)  # one resident model, one recording at a time
    print(f"http://{options.host}:{options.port}", flush=True)
    blocks.launch(
        server_name=options.host,
        server_port=options.port,
        share=False,
        quiet=True,
        css=STYLE,
        theme=gradio.themes.Default(**fonts),
        footer_links=[],
    )


def main(arguments: list[str] | None = None) -> int:
    """Parse, then serve."""
    return run(parser(), serve, arguments)


if __name__ == "__main__":
    sys.exit(main())
