"""Define which data a run trains on."""

from pydantic import Field

from harness.spec.base import Spec


class DataSelection(Spec):
    """The training data of a run; by default all of train."""

    fraction: float = Field(1.0, gt=0, le=1, description="fraction of train; a smaller one is a subset of a larger one")
    seed: int = Field(1, description="seed of the fraction's choice, the same for all runs of a study")
    with_validation: bool = Field(False, description="train on validation too, which leaves nothing to evaluate on")

    @property
    def whole(self) -> bool:
        """Whether the run trains on all of train and nothing else."""
        return self.fraction == 1.0 and not self.with_validation


WHOLE = DataSelection()
