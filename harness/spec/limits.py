"""Define the objectives of a study, and limits on what a trial may cost."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from harness.spec.base import Spec

Objective = Literal["wer", "vram", "train_time", "trainable"]
OBJECTIVES: tuple[Objective, ...] = ("wer", "vram", "train_time", "trainable")

_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30, "b": 1}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_COUNTS = {"k": 1e3, "m": 1e6, "b": 1e9}


def _with_unit(units: dict[str, float], example: str) -> BeforeValidator:
    """Return a validator that reads a number with a unit, such as 16GB."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"\s*([\d.]+)\s*([a-zA-Z]*)\s*", value)
        try:
            if match is None:
                raise ValueError
            return float(match[1]) * (units[match[2].lower()] if match[2] else 1)
        except (ValueError, KeyError):
            raise ValueError(f"{example}; units: {', '.join(units)}") from None

    return BeforeValidator(read)


Bytes = Annotated[float, _with_unit(_BYTES, "memory is written like 16GB"), Field(gt=0)]
Seconds = Annotated[float, _with_unit(_SECONDS, "a time is written like 2h or 90min"), Field(gt=0)]
Count = Annotated[float, _with_unit(_COUNTS, "a count is written like 10M"), Field(gt=0)]


class Limits(Spec):
    """Constraints on trials: one that violates a limit is never the best, and the sampler avoids its region."""

    vram: Bytes | None = Field(None, description="peak memory of a trial, such as 16GB")
    train_time: Seconds | None = Field(None, description="training time of a complete trial, such as 2h")
    trainable: Count | None = Field(None, description="trainable parameters, such as 10M; known before training")

    def as_dict(self) -> dict[str, float]:
        """Return the limits that are set, by name."""
        return {name: value for name, value in self.model_dump().items() if value is not None}
