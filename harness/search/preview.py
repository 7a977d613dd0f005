"""Sample configurations of a search space without training them, for `run_sweep.py --dry-run`."""

import optuna
from optuna.trial import TrialState

from harness.search.finite_space import Key, WithoutRepeats, finite_space, settings_key
from harness.search.samplers import make_sampler, trial_seed
from harness.search.sampling import suggest_configuration
from harness.spec.space import SearchSpace
from harness.spec.trial import TrialConfig


def sample_configurations(space: SearchSpace, trials: int, seed: int) -> list[TrialConfig]:
    """Return the configurations that a new study would sample if it learned nothing from results.

    A finite space may yield fewer than `trials`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * len(space.objectives))
    sampled, finite, tried = list[TrialConfig](), finite_space(space), set[Key]()
    for number in range(trials):
        study.sampler = make_sampler(space, seed, number)
        if finite is not None:
            if not finite.has_untried(tried):
                break
            study.sampler = WithoutRepeats(study.sampler, finite, tried, trial_seed(seed, number))
        trial = study.ask()
        sampled.append(suggest_configuration(space, trial))
        tried.add(settings_key(trial.params))
        study.tell(trial, state=TrialState.FAIL)
    return sampled
