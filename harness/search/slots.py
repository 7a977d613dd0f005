"""Number the trials of a study as if none had been interrupted: a retry has the slot of the trial before it."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial


def trial_slots(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Return the slot of each trial by its number. What follows from the slot is the same after a kill and a retry.

    Args:
        trials: All trials of the study, in the order of their numbers.
    """
    slots: dict[int, int] = {}
    taken = 0
    for trial in trials:
        earlier = trial.user_attrs.get("retry_of")
        slots[trial.number] = taken if earlier is None else slots[earlier]
        taken += earlier is None
    return slots
