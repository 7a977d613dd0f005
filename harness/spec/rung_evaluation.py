"""How a trial is judged at its rungs on validation."""

from typing import Literal

from pydantic import Field

from harness.spec.base import Spec

RungMetric = Literal["wer", "loss"]


class RungEvaluation(Spec):
    """What a trainer evaluates at a rung. The last rung is always decoded, and on the whole validation split."""

    judge: RungMetric = Field(
        "wer", description="before the last rung: decode for WER, or the teacher-forced loss alone"
    )
    rung_utterances: int | None = Field(
        None, ge=1, description="utterances evaluated before the last rung, the same at each; unset: all"
    )
    chunk: int | None = Field(None, ge=1, description="tell the supervisor errors after so many utterances")
    seed: int = Field(1, description="of the order in which utterances are evaluated: one for the whole study")
