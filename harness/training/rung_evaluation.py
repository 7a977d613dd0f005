"""How a trial is judged at a rung: what is decoded, in which order, and when to break off."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from accelerate import Accelerator
from torch import nn

from harness.data.batches import chunks
from harness.evaluation.decoding import DecodedUtterance, decode_with_loss, transcript
from harness.hardware.meter import Clock
from harness.model.encoder_cache import EncoderStates
from harness.spec.messages import Partial
from harness.spec.result import Transcript
from harness.spec.rung_evaluation import RungEvaluation
from harness.spec.trial import TrialConfig
from harness.training.context import TrainerContext, decoding_of, errors_of


@dataclass
class RungResult:
    """What was found at a rung, the loss a mean over label tokens; `lost` where the supervisor broke it off."""

    rows: list[int]
    transcripts: list[Transcript] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    loss: float = math.nan
    lost: bool = False


def rung_rows(rows: Sequence[int], judging: RungEvaluation, last: bool) -> list[int]:
    """The utterances of a rung in the order of evaluation: shuffled once for the study, all of them at the last."""
    order: list[int] = np.random.default_rng(judging.seed).permutation(np.asarray(rows)).tolist()
    return order if last else order[: judging.rung_utterances]


def evaluate_rung(
    model: nn.Module,
    context: TrainerContext,
    config: TrialConfig,
    accelerator: Accelerator,
    judging: RungEvaluation,
    index: int,
    found: RungResult,
    clock: Clock,
    encoder_states: EncoderStates | None,
    texts: bool,
) -> Generator[Partial, bool | None, None]:
    """Evaluate the rows of `found`; decoding them goes chunk by chunk where the supervisor may break off.

    The clock stands still while it is asked.
    """
    heard, transcripts = dict[int, DecodedUtterance](), dict[int, Transcript]()
    rows, decoding, speech = found.rows, decoding_of(context, config), context.speech
    for chunk in chunks(rows, (texts and judging.chunk) or len(rows)):
        new = decode_with_loss(
            model, context.base, speech, chunk, decoding, accelerator, encoder_states, context.labels, texts
        )
        heard |= new
        if texts:
            said = [transcript(speech, row, new[row]) for row in chunk]
            transcripts |= zip(chunk, said, strict=True)
            found.errors += errors_of(context, said)
        if len(heard) < len(rows):
            clock.stop()
            found.lost = not (yield Partial(index=index, errors=tuple(found.errors)))
            clock.start()
        if found.lost:
            break
    found.rows = sorted(heard)
    found.transcripts = [transcripts[row] for row in sorted(transcripts)]
    # Summed exactly, whatever the order: a loss does not depend on how the rows were cut into chunks.
    tokens = sum(len(context.labels[row]) - 1 for row in found.rows)
    found.loss = math.fsum(heard[row].loss or 0.0 for row in found.rows) / tokens
