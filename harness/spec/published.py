"""Figures that others published: shown apart, never ranked with what was run here."""

from typing import Literal

from pydantic import Field

from harness.spec.base import Spec


class Figure(Spec):
    """One published number and what must be known of it."""

    system: str
    model: str
    data: str = Field(description="the corpus, in words")
    split: str
    language: str = Field(description="Whisper's code, such as sv")
    metric: Literal[
        "wer", "loss", "trainable_parameters", "total_parameters", "checkpoint_megabytes", "vram_gigabytes", "hours"
    ] = "wer"
    value: float = Field(ge=0, description="a fraction where the metric is a rate")
    normalizer: str = Field("not stated", description="as far as the source says")
    source: str = Field(description="the document, and where in it")
    differs: str = Field(description="why the number does not compare with a row of the board")

    @property
    def shown(self) -> str:
        """The number with its metric; a rate as a percentage."""
        if self.metric == "wer":
            return f"WER {100 * self.value:.2f} %"
        return f"{self.metric.replace('_', ' ')} {self.value:,.10g}"


class Published(Spec):
    """baselines/published.yaml."""

    figures: tuple[Figure, ...]
