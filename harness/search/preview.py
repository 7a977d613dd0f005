"""Sample configurations of a search space without training them, for `run_sweep.py --dry-run`."""

import optuna
from optuna.trial import TrialState

from harness.search.finite_space import WithoutRepeats, enumerate_configurations, untried
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
    sampled, remaining = list[TrialConfig](), enumerate_configurations(space)
    for number in range(trials):
        study.sampler = make_sampler(space, seed, number)
        if remaining is not None:
            remaining = untried(remaining, [t.params for t in study.get_trials(deepcopy=False)[-1:]])
            if not remaining:
                break
            study.sampler = WithoutRepeats(study.sampler, remaining, trial_seed(seed, number))
        trial = study.ask()
        sampled.append(suggest_configuration(space, trial))
        study.tell(trial, state=TrialState.FAIL)
    return sampled
