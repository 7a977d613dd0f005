"""How a trial is judged at a rung: what is decoded, in which order, and when to break off."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from accelerate import Accelerator
from torch import nn

from harness.bench import Bench, decoding_of, errors_of
from harness.data.batches import chunks
from harness.evaluate import transcribe
from harness.meter import Clock
from harness.spec.judging import Judging
from harness.spec.messages import Partial
from harness.spec.result import Transcript
from harness.spec.trial import TrialConfig


@dataclass
class Evaluated:
    """What was decoded at a rung, and whether the supervisor broke it off because the trial had lost."""

    rows: list[int]
    transcripts: list[Transcript] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    lost: bool = False


def rung_rows(rows: Sequence[int], judging: Judging, last: bool) -> list[int]:
    """The utterances of a rung in the order of evaluation: shuffled once for the study, all of them at the last."""
    order: list[int] = np.random.default_rng(judging.seed).permutation(np.asarray(rows)).tolist()
    return order if last else order[: judging.rung_utterances]


def decode(
    model: nn.Module,
    bench: Bench,
    config: TrialConfig,
    accelerator: Accelerator,
    judging: Judging,
    index: int,
    found: Evaluated,
    clock: Clock,
) -> Generator[Partial, bool | None, None]:
    """Decode the rows of `found`, chunk by chunk where the supervisor may break off; the clock stands still then."""
    decoded: dict[int, Transcript] = {}
    rows, decoding = found.rows, decoding_of(bench, config)
    for chunk in chunks(rows, judging.chunk or len(rows)):
        new = transcribe(model, bench.base, bench.speech, chunk, decoding, accelerator)
        decoded |= zip(chunk, new, strict=True)
        found.errors += errors_of(bench, new)
        if len(decoded) < len(rows):
            clock.stop()
            found.lost = not (yield Partial(index=index, errors=tuple(found.errors)))
            clock.start()
        if found.lost:
            found.rows = rows[: len(decoded)]
            break
    found.transcripts = [decoded[row] for row in sorted(decoded)]
