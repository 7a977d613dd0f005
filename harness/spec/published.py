"""Define published results, which are listed separately and never ranked with those of a study."""

from typing import Literal

from pydantic import Field

from harness.spec.base import Spec


class Figure(Spec):
    """One published number and how it was measured."""

    system: str
    model: str
    data: str = Field(description="the corpus, in words")
    split: str
    language: str = Field(description="Whisper's code, such as sv")
    metric: Literal[
        "wer", "loss", "trainable_parameters", "total_parameters", "checkpoint_megabytes", "vram_gigabytes", "hours"
    ] = "wer"
    value: float = Field(ge=0, description="the number; a fraction if the metric is a rate")
    normalizer: str = Field("not stated", description="text normalization, if the source states it")
    source: str = Field(description="the document and the place in it")
    differs: str = Field(description="why the number is not comparable to a row of the leaderboard")

    @property
    def text(self) -> str:
        """The number with its metric; a rate as a percentage."""
        if self.metric == "wer":
            return f"WER {100 * self.value:.2f} %"
        return f"{self.metric.replace('_', ' ')} {self.value:,.10g}"


class Published(Spec):
    """baselines/published.yaml."""

    figures: tuple[Figure, ...]
