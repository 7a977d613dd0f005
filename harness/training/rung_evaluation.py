"""Evaluate a trial at a rung: decode validation utterances in chunks, until the supervisor stops it."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.data.batches import chunks
from harness.evaluation.decoding import Decoder, make_transcript
from harness.evaluation.generation import DecodedUtterance
from harness.hardware.clock import Clock
from harness.spec.messages import Partial
from harness.spec.result import Transcript
from harness.spec.rung_evaluation import RungEvaluation
from harness.training.context import TrainerContext, utterance_errors


@dataclass
class RungResult:
    """Result of evaluating a rung; `evaluate_rung` fills it.

    Attributes:
        rows: The utterances to evaluate, afterwards those that were evaluated, sorted.
        transcripts: Their transcripts, sorted by row; empty if no texts were decoded.
        errors: Word errors of each utterance, in the order of evaluation.
        loss: Teacher-forced loss, the mean over label tokens.
        stopped: Whether the supervisor stopped the evaluation before its end.
    """

    rows: list[int]
    transcripts: list[Transcript] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    loss: float = math.nan
    stopped: bool = False


def rung_rows(rows: Sequence[int], judging: RungEvaluation, last: bool) -> list[int]:
    """Return the utterances of a rung in the order of evaluation: one shuffle for the study, all at the last rung."""
    order: list[int] = np.random.default_rng(judging.seed).permutation(np.asarray(rows)).tolist()
    return order if last else order[: judging.rung_utterances]


def evaluate_rung(
    decoder: Decoder,
    context: TrainerContext,
    judging: RungEvaluation,
    index: int,
    result: RungResult,
    clock: Clock,
    texts: bool,
) -> Generator[Partial, bool | None, None]:
    """Evaluate the rows of `result` and fill it.

    Texts are decoded in chunks of `judging.chunk` utterances. After each chunk but the last it yields a Partial, and
    is sent whether to continue. The clock stops while it waits for the answer.

    Args:
        decoder: Decodes with the trial's model.
        context: For labels and scoring.
        judging: The study's settings for evaluating rungs.
        index: The rung.
        result: Has the rows to evaluate; is filled.
        clock: The running clock of the evaluation.
        texts: Whether to decode texts, or to compute the loss alone.
    """
    decoded, transcripts = dict[int, DecodedUtterance](), dict[int, Transcript]()
    rows = result.rows
    for chunk in chunks(rows, (texts and judging.chunk) or len(rows)):
        new = decoder.decode(chunk, context.labels, texts)
        decoded |= new
        if texts:
            of_chunk = [make_transcript(context.speech, row, new[row]) for row in chunk]
            transcripts |= zip(chunk, of_chunk, strict=True)
            result.errors += utterance_errors(context, of_chunk)
        if len(decoded) < len(rows):
            clock.stop()
            result.stopped = not (yield Partial(index=index, errors=tuple(result.errors)))
            clock.start()
        if result.stopped:
            break
    result.rows = sorted(decoded)
    result.transcripts = [transcripts[row] for row in sorted(transcripts)]
    # Summed exactly, in any order: the loss must not depend on the chunks.
    tokens = sum(len(context.labels[row]) - 1 for row in result.rows)
    result.loss = math.fsum(decoded[row].loss or 0.0 for row in result.rows) / tokens
