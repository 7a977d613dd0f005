"""python -m harness.transcribe: transcribe recordings of any length with the best model of a study."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.command_line import Parser, add_language, add_results, add_run_options, number, run
from harness.errors import UserError

if TYPE_CHECKING:
    from harness.evaluation.long_form import Segment

DESCRIPTION = "Transcribe recordings with the best model of a study, as text, subtitles or JSON."
EXAMPLES = (
    "python -m harness.transcribe interview.wav --study demo",
    "python -m harness.transcribe *.mp3 --study demo --format srt --output srt",
    "python -m harness.transcribe call.flac --study demo --vanilla",
)


def parser() -> Parser:
    """The command line."""
    options = Parser("python -m harness.transcribe", "FILE ... --study NAME [options]", DESCRIPTION, EXAMPLES)
    speech = options.add_argument_group("recordings")
    speech.add_argument("files", nargs="+", type=Path, metavar="FILE", help="wav, flac, ogg, opus or mp3 of any length")
    add_language(speech)
    speech.add_argument(
        "--segment-seconds",
        type=number,
        metavar="S",
        help="longest segment, cut at a pause (default: the model's window)",
    )
    add_run_options(options, zero_shot=True)
    output = options.add_argument_group("output")
    output.add_argument(
        "--format",
        nargs="+",
        choices=tuple(WRITERS),
        default=[],
        metavar="FORMAT",
        help="also write files: txt, srt or json",
    )
    output.add_argument(
        "--output", type=Path, default=Path(), metavar="FOLDER", help="where to write files (default: this folder)"
    )
    add_results(output)
    return options


def transcribe(options: argparse.Namespace) -> int:
    """Transcribe each file, print its text, and write the requested formats."""
    targets = outputs(options.files, options.output, options.format)
    if options.segment_seconds is not None and options.segment_seconds < 1:
        raise UserError(f"--segment-seconds: expected at least 1 s, got {options.segment_seconds:g}")
    from transformers.utils import logging as transformers_logging

    from harness.data.audio import UndecodableError, decode
    from harness.evaluation.long_form import transcribe_segments
    from harness.publish.best_run import find_best_run, load_best_run_or_base, open_base
    from harness.records.files import write_text

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    best_run = find_best_run(options.results, options.study, options.trial, options.baseline, options.refit)
    base = open_base(best_run, full=options.vanilla)
    with load_best_run_or_base(base, None if options.vanilla else best_run) as model:
        for file in options.files:
            try:
                clip = decode(file)
            except (UndecodableError, OSError) as error:
                raise UserError(f"cannot read {file}: {error}") from None
            language = options.language or best_run.language
            try:
                found = transcribe_segments(model, base, clip, language, best_run.speech_task, options.segment_seconds)
            except ValueError as error:
                raise UserError(f"{file}: {error}") from None
            print(f"{file}: {text(found)}" if len(options.files) > 1 else text(found), flush=True)
            for name in options.format:
                write_text(targets[file, name], WRITERS[name](found))
    return 0


def outputs(files: Sequence[Path], folder: Path, formats: Sequence[str]) -> dict[tuple[Path, str], Path]:
    """The output file of each recording and format.

    Raises:
        UserError: if two output files would be the same.
    """
    targets = {(file, name): folder / f"{file.stem}.{name}" for file in files for name in formats}
    if len(set(targets.values())) < len(targets):
        raise UserError("two files have the same name, and so would their transcripts; run the command once for each")
    return targets


def text(segments: "Sequence[Segment]") -> str:
    """The whole transcript on one line."""
    return " ".join(segment.text for segment in segments if segment.text)


def lines(segments: "Sequence[Segment]") -> str:
    """One line per segment."""
    return "".join(f"{segment.text}\n" for segment in segments if segment.text)


def subtitles(segments: "Sequence[Segment]") -> str:
    """SubRip: number, times, text."""
    spoken = [segment for segment in segments if segment.text]
    return "\n".join(
        f"{number}\n{stamp(segment.start)} --> {stamp(segment.end)}\n{segment.text}\n"
        for number, segment in enumerate(spoken, start=1)
    )


def stamp(seconds: float) -> str:
    """Hours, minutes, seconds and milliseconds as SubRip writes them: 01:02:03,456."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"


def as_json(segments: "Sequence[Segment]") -> str:
    """The whole text, and each segment with its times in seconds."""
    value: dict[str, Any] = {"text": text(segments), "segments": [asdict(segment) for segment in segments]}
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


WRITERS: "dict[str, Callable[[Sequence[Segment]], str]]" = {"txt": lines, "srt": subtitles, "json": as_json}


def main(arguments: list[str] | None = None) -> int:
    """Parse, then transcribe."""
    return run(parser(), transcribe, arguments)


if __name__ == "__main__":
    sys.exit(main())
