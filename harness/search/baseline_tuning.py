"""Baselines at the same tuning budget: each trained one gets a small search of its own, around its own settings."""

from dataclasses import replace

import numpy as np

from harness.plan import Plan
from harness.records.study_folder import Run
from harness.spec.trial import TrialConfig

FACTOR = 10.0  # the learning rate is searched from a tenth of the recipe's to ten times it, in logarithm
WARMUP = 0.3  # and warm-up from none to this share of the schedule
AROUND = (
    f"learning rate log-uniform from 1/{FACTOR:g} of the recipe's to {FACTOR:g} times it, "
    f"warm-up uniform from 0 to {WARMUP:g} of the steps (scrambled Halton sequence), the recipe's own settings first"
)


def tuning(plan: Plan, baselines: list[Run]) -> list[Run]:
    """The runs of `--tune-baselines N`: the recipe's own run is the first of the N, so these are N - 1.

    A scrambled Halton sequence, seeded by study and baseline: each run follows from its number alone, so that workers
    need not wait for each other, and neither a kill nor a larger N changes what was drawn.
    """
    trained = [run for run in baselines if run.kind == "recipe"] if plan.search_options.tune_baselines > 1 else []
    return [one for run in trained for one in _around(plan, run)]


def _around(plan: Plan, run: Run) -> list[Run]:
    from scipy.stats import qmc  # 60 MB and most of a second, for --tune-baselines alone

    generator = np.random.default_rng([plan.seed, *run.name.encode()])
    points = qmc.Halton(2, rng=generator).random(plan.search_options.tune_baselines - 1)
    # Whatever is said of the recipe's warm-up is not true of these.
    notes = tuple(note for note in run.notes if not note.startswith("warm-up"))
    return [
        replace(
            run,
            name=f"{run.name}, tuning {number}",
            config=_drawn(run.config, *point),
            folder=plan.folder.tuning(run.name, number),
            number=number,
            notes=notes,
        )
        for number, point in enumerate(points.tolist(), start=1)
    ]


def _drawn(own: TrialConfig, rate: float, warmup: float) -> TrialConfig:
    """The recipe with learning rate and warm-up from a point of the unit square."""
    learning_rate = float(f"{own.learning_rate * FACTOR ** (2 * rate - 1):.4g}")
    ratio = round(WARMUP * warmup, 3)
    return own.model_copy(update={"learning_rate": learning_rate, "warmup_steps": None, "warmup_ratio": ratio})
