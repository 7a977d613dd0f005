"""Define how a trial is evaluated at its rungs on validation."""

from typing import Literal

from pydantic import Field

from harness.spec.base import Spec

RungMetric = Literal["wer", "loss"]


class RungEvaluation(Spec):
    """Evaluation of a rung. At the last rung, the whole validation split is always decoded."""

    judge: RungMetric = Field(
        "wer", description="before the last rung: decode for the WER, or only compute the teacher-forced loss"
    )
    rung_utterances: int | None = Field(
        None, ge=1, description="number of utterances evaluated before the last rung, the same at each; unset: all"
    )
    chunk: int | None = Field(None, ge=1, description="send a Partial after every so many utterances")
    seed: int = Field(1, description="seed of the order of evaluation, the same for the whole study")
