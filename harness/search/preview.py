"""What a space would draw, before anything is trained."""

import optuna
from optuna.trial import TrialState

from harness.search.finite_space import WithoutRepeats, configurations, untried
from harness.search.samplers import fresh_seed, make_sampler
from harness.search.sampling import configuration
from harness.spec.space import SearchSpace
from harness.spec.trial import TrialConfig


def draw(space: SearchSpace, trials: int, seed: int) -> list[TrialConfig]:
    """Configurations as a fresh study would draw them, without results to learn from."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * len(space.objectives))
    drawn, known = list[TrialConfig](), configurations(space)
    for number in range(trials):
        study.sampler = make_sampler(space, seed, number)
        if known is not None:
            known = untried(known, [t.params for t in study.get_trials(deepcopy=False)[-1:]])
            if not known:
                break
            study.sampler = WithoutRepeats(study.sampler, known, fresh_seed(seed, number))
        trial = study.ask()
        drawn.append(configuration(space, trial))
        study.tell(trial, state=TrialState.FAIL)
    return drawn
