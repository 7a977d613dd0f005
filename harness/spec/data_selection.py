"""Which speech a run trains on."""

from pydantic import Field

from harness.spec.base import Spec


class DataSelection(Spec):
    """All of train, unless it says otherwise: a part of it, or validation too."""

    fraction: float = Field(1.0, gt=0, le=1, description="of train's utterances; a smaller part lies within a larger")
    seed: int = Field(1, description="of what belongs to a part: one for all runs of a study")
    with_validation: bool = Field(False, description="train on validation too, which leaves nothing to evaluate on")

    @property
    def whole(self) -> bool:
        """Whether the run trains on train, as trials do."""
        return self.fraction == 1.0 and not self.with_validation


WHOLE = DataSelection()
