"""Tune baselines: give each trained baseline a small search of its own (`--tune-baselines N`)."""

from dataclasses import replace

import numpy as np

from harness.plan import Plan
from harness.records.study_folder import Run
from harness.spec.trial import TrialConfig

LEARNING_RATE_FACTOR = 10.0  # the learning rate is drawn from 1/10 of the recipe's to 10 times it, log-uniformly
MAX_WARMUP_RATIO = 0.3  # warm-up is drawn from 0 to this share of the steps
SEARCH_DESCRIPTION = (
    f"learning rate log-uniform from 1/{LEARNING_RATE_FACTOR:g} of the recipe's to {LEARNING_RATE_FACTOR:g} times it, "
    f"warm-up uniform from 0 to {MAX_WARMUP_RATIO:g} of the steps (scrambled Halton sequence), the recipe's own "
    "settings first"
)


def tuning_runs(plan: Plan, baselines: list[Run]) -> list[Run]:
    """Return the N - 1 additional runs of each trained baseline; the recipe's own run is the first of the N.

    The configurations come from a scrambled Halton sequence, seeded by study and baseline. Each follows from its
    number alone: workers need not wait for each other, and neither a kill nor a larger N changes what was drawn.
    """
    if plan.search_options.tune_baselines <= 1:
        return []
    return [run for baseline in baselines if baseline.kind == "recipe" for run in _runs_of_baseline(plan, baseline)]


def _runs_of_baseline(plan: Plan, baseline: Run) -> list[Run]:
    from scipy.stats import qmc  # 60 MB and most of a second, needed only for --tune-baselines

    generator = np.random.default_rng([plan.seed, *baseline.name.encode()])
    points = qmc.Halton(2, rng=generator).random(plan.search_options.tune_baselines - 1)
    # Notes on the recipe's warm-up do not apply to other warm-ups.
    notes = tuple(note for note in baseline.notes if not note.startswith("warm-up"))
    return [
        replace(
            baseline,
            name=f"{baseline.name}, tuning {number}",
            config=_config_at(baseline.config, *point),
            folder=plan.folder.tuning(baseline.name, number),
            number=number,
            notes=notes,
        )
        for number, point in enumerate(points.tolist(), start=1)
    ]


def _config_at(recipe: TrialConfig, rate: float, warmup: float) -> TrialConfig:
    """Return the recipe with learning rate and warm-up at a point of the unit square."""
    learning_rate = float(f"{recipe.learning_rate * LEARNING_RATE_FACTOR ** (2 * rate - 1):.4g}")
    ratio = round(MAX_WARMUP_RATIO * warmup, 3)
    return recipe.model_copy(update={"learning_rate": learning_rate, "warmup_steps": None, "warmup_ratio": ratio})
