"""Records and batches as tests want them."""

from harness.data.batches import Batch, make_batch
from harness.model.encoder_cache import LogMelInputs
from harness.model.trial_settings import window_frames
from harness.spec.budget import Budget
from harness.spec.result import Record, Rung, Scores
from harness.spec.trial import TrialConfig


def record(number: int = 0, **fields) -> Record:
    values = dict(
        kind="trial",
        name=f"trial {number}",
        number=number,
        seed=1,
        state="fail",
        config=TrialConfig(method="full"),
        budget=Budget(examples=10),
        started="2026-01-01T00:00:00+00:00",
        ended="2026-01-01T00:01:00+00:00",
        environment={},
        data={},
    )
    return Record(**values | fields)


def rung(index: int, wer: float) -> Rung:
    scores = Scores(
        wer=wer, wer_raw=wer, cer=0, insertions=0, deletions=0, substitutions=wer, utterances=1, reference_words=1,
        normalizer="none",
    )  # fmt: skip
    return Rung(
        index=index,
        step=index + 1,
        examples=index + 1,
        train_loss=1.0,
        loss=1.0,
        scores=scores,
        train_seconds=0,
        evaluation_seconds=0,
    )


def batch_of(context, rows, labels=None) -> Batch:
    """A batch of some rows of a trainer context, with their own labels or others."""
    features = LogMelInputs(context.speech, window_frames(context.base)).take(rows)
    return make_batch(features, labels or [context.labels[row] for row in rows], context.pad_token)
