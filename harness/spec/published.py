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
    metric: Literal["wer"] = "wer"
    value: float = Field(ge=0, description="a fraction")
    normalizer: str = Field("not stated", description="as far as the source says")
    source: str = Field(description="the document, and where in it")
    differs: str = Field(description="why the number does not compare with a row of the board")

    @property
    def shown(self) -> str:
        """The number, as a percentage with the metric."""
        return f"{self.metric.upper()} {100 * self.value:.2f} %"


class Published(Spec):
    """baselines/published.yaml."""

    figures: tuple[Figure, ...]
